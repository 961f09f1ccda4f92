"""What variational autoencoders share: a Gaussian of codes, its divergence, and their gradients.

D. P. Kingma, M. Welling: Auto-encoding variational Bayes. ICLR 2014,
https://arxiv.org/abs/1312.6114.

A code is a Gaussian with ``mean`` (N, C) and ``log_variance`` (N, C).
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from patchad.learn.run import Run
from patchad.methods.parts.backbone import Decoder, Encoder

COLLAPSED = 0.01  # nats of a dimension below which it tells nothing of the picture; chosen


class Variational(nn.Module):
    """The shared autoencoder with a Gaussian for its code.

    The encoder's last layer has two outputs a dimension: the mean and the logarithm of the
    variance.
    """

    def __init__(self, side: int, code: int, channels: tuple[int, ...], hidden: int) -> None:
        super().__init__()
        self.encoder = Encoder(side, 2 * code, channels, hidden)
        self.decoder = Decoder(side, code, channels, hidden)

    def encode(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures (N, 1, S, S) in [-1, 1] → the mean and log variance, float32."""
        mean, log_variance = self.encoder(pictures).float().chunk(2, dim=1)
        return mean, log_variance

    def decode(self, codes: Tensor) -> Tensor:
        """Codes (N, C) → pictures (N, 1, S, S), float32."""
        found: Tensor = self.decoder(codes).float()
        return found

    def forward(self, pictures: Tensor) -> Tensor:
        """The reconstructions from the means: nothing is random."""
        return self.decode(self.encode(pictures)[0])


def sample(mean: Tensor, log_variance: Tensor, noise: Tensor) -> Tensor:
    """A code drawn from each Gaussian, by ``noise`` (N, C) from N(0, 1): (N, C)."""
    return mean + (log_variance / 2).exp() * noise


def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Kullback-Leibler divergence of each dimension from N(0, 1), in nats: (N, C)."""
    return (mean.square() + log_variance.exp() - log_variance - 1) / 2


def note_collapse(run: Run, mean: Tensor, log_variance: Tensor) -> None:
    """Note in the card if no dimension of the codes of several pictures tells them apart."""
    each = divergence(mean, log_variance).mean(0)
    if bool((each < COLLAPSED).all()):
        run.note(
            f"The posterior collapsed: the code's divergence is below {COLLAPSED:g} nats in each "
            "of its dimensions, so every film is redrawn as nearly the same picture."
        )


def input_gradient(scalar: Callable[[Tensor], Tensor], pictures: Tensor) -> Tensor:
    """The gradient of each picture's own scalar at its pixels: (N, 1, S, S).

    Args:
        scalar: pictures → (N,), each from its own picture alone (batch norm in eval mode).
        pictures: (N, 1, S, S).

    It works within ``torch.inference_mode``, under which films are scored.
    """
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True),
    ):
        own = pictures.detach().clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(scalar(own).sum(), own)
    return gradient
