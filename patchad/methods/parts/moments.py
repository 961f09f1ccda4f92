"""Mean and standard deviation of what is computed film by film."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Moments(nn.Module):
    """``mean`` and ``deviation`` (K,) float32 of K quantities; 0 and 1 until :meth:`learn`."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, count: int, least: float) -> None:
        super().__init__()
        self.least = least
        self.register_buffer("mean", torch.zeros(count))
        self.register_buffer("deviation", torch.ones(count))

    def learn(self, pictures: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Learn from the (mean, variance) (K,) of pictures with equally many pixels.

        Deviations below ``least`` count as that, so that a constant stays one.
        """
        means, variances = (torch.stack(parts) for parts in zip(*pictures, strict=True))
        variance = variances.mean(0) + means.var(0, unbiased=False)
        self.mean.copy_(means.mean(0))
        self.deviation.copy_(variance.sqrt().clamp_min(self.least))

    def forward(self, values: Tensor) -> Tensor:
        """Values (N, K, H, W) in deviations from the mean."""
        return (values - self.mean[:, None, None]) / self.deviation[:, None, None]


def moments_of(values: Tensor) -> tuple[Tensor, Tensor]:
    """The mean and variance over the pixels of ``values`` (K, H, W): (K,) each."""
    variance, mean = torch.var_mean(values, (1, 2), correction=0)
    return mean, variance
