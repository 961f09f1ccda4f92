"""The trivial patch scores that every method is shown beside.

What doesn't beat them has learnt nothing that the eye's first glance doesn't give.
"""

import numpy as np
from numpy.typing import NDArray

from patchad.core.grid import PatchGrid

BASELINES = ("patch_mean", "patch_std", "gradient_energy")


def baseline_scores(pixels: NDArray[np.float32], grid: PatchGrid) -> dict[str, NDArray[np.float32]]:
    """Mean, standard deviation and mean squared gradient of each patch of ``pixels`` (H, W).

    Returns one (N,) float32 a name of ``BASELINES``, in the unit of the pixels (the gradient
    energy in its square, a pixel step). All patches are given, foreground or not.
    """
    values = pixels.astype(np.float64)
    mean = grid.means(values)
    variance = grid.means(values**2) - mean**2
    energy = sum(
        np.gradient(values, axis=axis) ** 2 if values.shape[axis] > 1 else np.zeros_like(values)
        for axis in (0, 1)
    )
    scores = (mean, np.sqrt(np.maximum(variance, 0)), grid.means(np.asarray(energy)))
    return {name: s.astype(np.float32) for name, s in zip(BASELINES, scores, strict=True)}
