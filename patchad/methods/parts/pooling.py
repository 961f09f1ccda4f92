"""From a dense map to a score a patch.

Maps are (H, W) float32, higher = more anomalous, NaN where they don't speak. They may be coarser
than the image whose patches are asked for: both cover the same extent.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from patchad.core.grid import PatchGrid

Floats = NDArray[np.float32]


def max_pool(values: Floats, grid: PatchGrid, middle: float = 1.0) -> Floats:
    """The highest value in each patch, or in the ``middle`` share of its sides: (N,) float32.

    NaN where the map speaks nowhere in it.
    """
    spoken = np.where(np.isfinite(values), values, -np.inf)
    edges = _edges((values.shape[0], values.shape[1]), grid, middle)
    found = np.array([spoken[top:bottom, left:right].max() for top, left, bottom, right in edges])
    return np.where(np.isfinite(found), found, np.nan).astype(np.float32)


def mean_pool(values: Floats, grid: PatchGrid, middle: float = 1.0) -> Floats:
    """The mean of what speaks in each patch, or in the ``middle`` share of its sides: (N,) float32.

    NaN where the map speaks nowhere in it.
    """
    edges = _edges((values.shape[0], values.shape[1]), grid, middle)
    spoken = np.isfinite(values)
    total = _sums(np.where(spoken, values, 0), edges)
    count = _sums(spoken, edges)
    mean = np.divide(total, count, out=np.full(len(grid), np.nan), where=count > 0)
    pooled: Floats = mean.astype(np.float32)
    return pooled


def smooth_patches(values: Floats, grid: PatchGrid, sigma: float) -> Floats:
    """Patch scores (N,) averaged with their neighbours', by a Gaussian of ``sigma`` pixels.

    NaN patches say nothing, and stay NaN. The last row and column are taken a stride away too.
    """
    rows, cols = (len(np.unique(axis)) for axis in grid.corners.T)
    spoken = np.isfinite(values).reshape(rows, cols)
    known = np.where(spoken, values.reshape(rows, cols), 0)
    total, weight = (
        ndimage.gaussian_filter(part.astype(np.float64), sigma / grid.stride, mode="constant")
        for part in (known, spoken)
    )
    mean = np.divide(total, weight, out=np.full(spoken.shape, np.nan), where=spoken)
    smooth: Floats = mean.ravel().astype(np.float32)
    return smooth


def _edges(shape: tuple[int, int], grid: PatchGrid, middle: float) -> NDArray[np.int64]:
    """Whole cells of a map of ``shape``, one at least: (N, 4) rows of top, left, bottom, right."""
    boxes = grid.boxes(shape)
    margin = boxes[:, 2:] * (1 - middle) / 2
    first = np.rint(boxes[:, :2] + margin).astype(np.int64)
    last = np.rint(boxes[:, :2] + boxes[:, 2:] - margin).astype(np.int64)
    first = np.minimum(first, np.array(shape) - 1)
    return np.hstack([first, np.maximum(last, first + 1)])


def _sums(values: NDArray[np.generic], edges: NDArray[np.int64]) -> NDArray[np.float64]:
    total = np.zeros((values.shape[0] + 1, values.shape[1] + 1))
    total[1:, 1:] = np.cumsum(np.cumsum(values, 0, dtype=np.float64), 1)
    top, left, bottom, right = edges.T
    inside: NDArray[np.float64] = (
        total[bottom, right] - total[top, right] - total[bottom, left] + total[top, left]
    )
    return inside
