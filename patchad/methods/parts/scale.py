"""Numbers as negatives have them: 0 is a negative's median, 1 its standard deviation."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from patchad.errors import TrainingError

_LEAST = 1e-6  # of the spread: a constant stays a constant


class NegativeScale(nn.Module):
    """The median ``centre`` and standard deviation ``spread`` of K features: (K,) float32 each.

    Until :meth:`learn` it leaves features as they are.
    """

    centre: Tensor
    spread: Tensor

    def __init__(self, count: int) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(count))
        self.register_buffer("spread", torch.ones(count))

    def learn(self, samples: NDArray[np.floating[Any]]) -> None:
        """Learn from ``samples`` (n, K) of negatives; NaN is left out.

        Raises:
            TrainingError: there is none.
        """
        if not len(samples):
            raise TrainingError(
                "no patch of the training images holds enough foreground to be scored: lower "
                "min_foreground or the stride"
            )
        samples = samples.astype(np.float64)
        self.centre.copy_(torch.from_numpy(np.nanmedian(samples, axis=0)))
        spread = np.maximum(np.nanstd(samples, axis=0), _LEAST)
        self.spread.copy_(torch.from_numpy(spread))

    def forward(self, values: Tensor) -> Tensor:
        """``values`` (…, K) in standard deviations from the median: (…, K) float32."""
        return (values - self.centre) / self.spread
