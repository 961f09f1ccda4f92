"""Vectors replaced by the nearest of a learnt set of codes, which follow the vectors' means.

A. van den Oord, O. Vinyals, K. Kavukcuoglu: Neural discrete representation learning. NeurIPS 2017,
https://arxiv.org/abs/1711.00937; moving averages as in its appendix A.1.

MONAI's ``EMAQuantizer`` isn't used: its counts start at zero, by which it divides codes that are
not in use, so that they run away, and it has no way to bring them back.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

# Of the mean code's count: a code below is restarted, with so much at least (chosen).
_DEAD, _START = 0.1, 0.05
_LEAST = 1e-9  # of a count that is divided by


class Quantiser(nn.Module):
    """(N, D, H, W) → the nearest code at each place.

    ``codes`` (K, D); ``counts`` (K,) and ``sums`` (K, D) are moving averages, over the steps, of
    how many vectors have each code as their nearest, and of the sum of these. They move in training
    mode alone.
    """

    codes: Tensor
    counts: Tensor
    sums: Tensor

    def __init__(self, count: int, length: int, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("codes", torch.randn(count, length))
        self.register_buffer("counts", torch.zeros(count))  # all dead: the first step starts them
        self.register_buffer("sums", torch.zeros(count, length))

    def forward(self, values: Tensor, chance: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The codes (N, D, H, W), and how far the values are from them, a scalar.

        The gradient passes through the codes to the values as if they were equal.

        Args:
            values: (N, D, H, W).
            chance: (K,) in [0, 1), in training: which vectors dead codes start again from.
        """
        with torch.autocast(values.device.type, enabled=False):
            vectors = values.float().movedim(1, -1)
            flat = vectors.detach().reshape(-1, vectors.shape[-1])
            if self.training and chance is not None:
                self._restart(flat, chance)
            which = self._nearest(flat)
            found = self.codes[which].reshape(vectors.shape)
            if self.training:
                self._follow(flat, which)
            apart = (found - vectors).square().mean()
            passed = vectors + (found - vectors).detach()
            return passed.movedim(-1, 1), apart

    def nearest(self, values: Tensor) -> Tensor:
        """The numbers of the nearest codes of values (N, D, H, W): (N, H, W) int64."""
        vectors = values.float().movedim(1, -1)
        return self._nearest(vectors.reshape(-1, vectors.shape[-1])).reshape(vectors.shape[:-1])

    def _nearest(self, flat: Tensor) -> Tensor:
        """Of the vectors (n, D): (n,) int64."""
        # |v - c|², without |v|², which is the same for all codes
        return (self.codes.square().sum(1) - 2 * flat @ self.codes.T).argmin(1)

    def _follow(self, flat: Tensor, which: Tensor) -> None:
        """Move the averages, and the codes to them."""
        count = len(self.codes)
        chosen = one_hot(which, count).to(flat)
        self.counts.lerp_(chosen.sum(0), 1 - self.decay)
        self.sums.lerp_(chosen.T @ flat, 1 - self.decay)
        self.codes.copy_(self.sums / self.counts.clamp_min(_LEAST)[:, None])

    def _restart(self, flat: Tensor, chance: Tensor) -> None:
        """Put codes that are hardly in use on vectors of this step, spread over all of them.

        They do so at each step until they keep enough vectors, as in P. Dhariwal et al., Jukebox,
        https://arxiv.org/abs/2005.00341: their counts start low.
        """
        count = len(self.codes)
        fair = len(flat) / count  # the mean code's count
        strata = torch.arange(count, device=flat.device)
        places = ((strata + chance) * fair).long().clamp_max(len(flat) - 1)
        dead = self.counts < _DEAD * fair
        self.codes.copy_(torch.where(dead[:, None], flat[places], self.codes))
        self.counts.copy_(torch.where(dead, self.counts.clamp_min(_START * fair), self.counts))
        moved = self.codes * self.counts[:, None]
        self.sums.copy_(torch.where(dead[:, None], moved, self.sums))


def perplexity(which: Tensor, count: int) -> Tensor:
    """e^entropy of how often each of ``count`` codes occurs: a scalar from 1 to ``count``."""
    shares = torch.bincount(which.flatten(), minlength=count) / which.numel()
    found: Tensor = torch.special.entr(shares).sum().exp()
    return found
