"""Numbers as negatives have them: 0 is a negative's median, 1 its standard deviation."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_LEAST = 1e-6  # of the spread: a constant stays a constant


@dataclass(frozen=True, eq=False)
class Standard:
    """The median ``centre`` and standard deviation ``spread`` of K features: (K,) float64 each."""

    centre: NDArray[np.float64]
    spread: NDArray[np.float64]

    @classmethod
    def of(cls, samples: NDArray[np.floating[Any]]) -> "Standard":
        """Learn from ``samples`` (n, K) of negatives; NaN is left out."""
        samples = samples.astype(np.float64)
        spread = np.nanstd(samples, axis=0)
        return cls(np.nanmedian(samples, axis=0), np.maximum(spread, _LEAST))

    @classmethod
    def none(cls, count: int) -> "Standard":
        """Leaves ``count`` features as they are."""
        return cls(np.zeros(count), np.ones(count))

    def __call__(self, values: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """``values`` (…, K) in standard deviations from the median: (…, K) float32."""
        return ((values - self.centre) / self.spread).astype(np.float32)

    def tensors(self, name: str) -> dict[str, Tensor]:
        """Both parts as ``name.centre`` and ``name.spread``, for a model folder."""
        return {
            f"{name}.centre": torch.from_numpy(self.centre),
            f"{name}.spread": torch.from_numpy(self.spread),
        }

    @classmethod
    def restored(cls, tensors: Mapping[str, Tensor], name: str) -> "Standard":
        """From what :meth:`tensors` gave; KeyError where it is missing."""
        centre, spread = (tensors[f"{name}.{part}"].cpu() for part in ("centre", "spread"))
        return cls(centre.double().numpy(), spread.double().numpy())
