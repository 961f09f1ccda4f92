"""From a dense map to a score a patch, on the device.

Maps are (H, W) floats, (row, col), higher = more anomalous, NaN where undefined. They may be
coarser than the image whose patches are scored: both cover the same extent.
"""

from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from patchad.core.arrays import banded, box_sums, integral, wide
from patchad.core.grid import PatchGrid
from patchad.prepare.smoothing import gaussian


def max_pool(values: Tensor, grid: PatchGrid, middle: float = 1.0) -> Tensor:
    """The highest value in each patch, or in the ``middle`` share of its sides: (N,) float32.

    NaN where the map is defined nowhere in it.
    """
    edges = _cells((values.shape[0], values.shape[1]), grid, middle)
    lines = edges.reshape(*_lines(grid), 4)
    down = _highest(values, lines[:, 0, 0], lines[:, 0, 2])
    found = _highest(down.T.contiguous(), lines[0, :, 1], lines[0, :, 3]).T.flatten()
    return found.where(found.isfinite(), torch.nan).to(torch.float32)


def mean_pool(values: Tensor, grid: PatchGrid, middle: float = 1.0) -> Tensor:
    """The mean of what is defined in each patch, or in the ``middle`` share of its sides.

    Returns (N,) float32; NaN where the map is defined nowhere in it.
    """
    edges = _cells((values.shape[0], values.shape[1]), grid, middle)
    cuts, lines = banded(edges)
    dtype = wide(values.device)
    totals, counts = [], []
    for begin, end in pairwise(cuts):
        band = values[begin:end]
        totals.append(band.nan_to_num(0, 0, 0).sum(0, dtype=dtype))
        counts.append(band.isfinite().sum(0, dtype=dtype))
    boxes = torch.from_numpy(lines).to(values.device)
    total, count = (box_sums(integral(torch.stack(part)), boxes) for part in (totals, counts))
    return (total / count).where(count > 0, torch.nan).to(torch.float32)


def smooth_patches(values: Tensor, grid: PatchGrid, sigma: float) -> Tensor:
    """Patch scores (N,) averaged with their neighbours', by a Gaussian of ``sigma`` pixels.

    Returns (N,) float32. NaN patches are ignored, and stay NaN. The last row and column
    are treated as one stride away too.
    """
    lines = values.reshape(_lines(grid)).to(wide(values.device))
    known = lines.isfinite()
    both = torch.stack([lines.where(known, 0), known.to(lines)])
    step = sigma / grid.stride
    total, weight = gaussian(both, (step, step), truncate=4.0)
    smooth: Tensor = (total / weight).where(known, torch.nan).to(torch.float32).flatten()
    return smooth


def _highest(values: Tensor, begins: NDArray[np.int64], ends: NDArray[np.int64]) -> Tensor:
    """The maximum down each column of ``values`` (H, W) over each span of rows: (n, W).

    What isn't finite counts as minus infinity.
    """
    least, cuts = -torch.inf, np.unique(np.concatenate([begins, ends]))
    bands = torch.stack(
        [
            values[begin:end].nan_to_num(least, least, least).amax(0)
            for begin, end in pairwise(int(cut) for cut in cuts)
        ]
    )
    first, end = np.searchsorted(cuts, begins), np.searchsorted(cuts, ends)
    # Spans of fewer bands than the others' repeat their last one.
    places = first[:, None] + np.arange((end - first).max())
    places = np.minimum(places, end[:, None] - 1)
    return bands[torch.from_numpy(places).to(values.device)].amax(1)


def _lines(grid: PatchGrid) -> tuple[int, int]:
    """How many rows and columns of patches there are."""
    rows, cols = (len(np.unique(axis)) for axis in grid.corners.T)
    return rows, cols


def _cells(shape: tuple[int, int], grid: PatchGrid, middle: float) -> NDArray[np.int64]:
    """Whole cells of a map of ``shape``, one at least: (N, 4) rows of top, left, bottom, right."""
    boxes = grid.boxes(shape)
    margin = boxes[:, 2:] * (1 - middle) / 2
    first = np.rint(boxes[:, :2] + margin).astype(np.int64)
    last = np.rint(boxes[:, :2] + boxes[:, 2:] - margin).astype(np.int64)
    first = np.minimum(first, np.array(shape) - 1)
    return np.hstack([first, np.maximum(last, first + 1)])
