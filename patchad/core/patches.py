"""Patches on the device: cutting an image, means of patches, and stitching scores.

The geometry is :class:`patchad.core.grid.PatchGrid`'s. Tensors are (row, col), and results are on
the device of the input; nothing waits for the device.
"""

from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from patchad.core.arrays import band_sums, banded, box_sums, integral
from patchad.core.grid import PatchGrid, Weighting, window_profile
from patchad.core.turn import AS_STORED, Turn


def corners(grid: PatchGrid, device: torch.device) -> Tensor:
    """Top-left pixel of each patch: (N, 2) int64 (row, col), in reading order."""
    return torch.tensor(grid.corners, device=device)


def inside(grid: PatchGrid) -> NDArray[np.int64]:
    """The part of each patch inside the image: (N, 4) rows of top, left, bottom, right."""
    boxes = grid.boxes().astype(np.int64)
    return np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]])


def means(grid: PatchGrid, values: Tensor) -> Tensor:
    """The mean of ``values`` (H, W) over each patch's pixels inside the image.

    Returns (N,) float64 (float32 on MPS) in the unit of ``values``; for a mask, the share that is
    true.
    """
    _check(grid, values)
    edges = inside(grid)
    cuts, lines = banded(edges)
    table = integral(band_sums(values, cuts))
    sums = box_sums(table, torch.from_numpy(lines).to(values.device))
    return sums / areas(edges).to(sums)


def areas(edges: NDArray[np.int64]) -> Tensor:
    """Pixels in each box (N, 4) of top, left, bottom, right: (N,) int64, on the CPU."""
    return torch.from_numpy(np.prod(edges[:, 2:] - edges[:, :2], axis=1))


def cut(grid: PatchGrid, pixels: Tensor, which: Tensor) -> Tensor:
    """Copy the patches ``which`` out of ``pixels``.

    Args:
        grid: where the patches lie.
        pixels: (H, W), any dtype.
        which: (n,) int64 indices of patches, on the device of ``pixels``.

    Returns:
        (n, size, size). Where the image is smaller than a patch, its edge is repeated below and
        to the right, or on the other side if the grid is turned that way.
    """
    _check(grid, pixels)
    size = grid.size
    begins = grid.corners.min(0, initial=0)  # below zero where the edge is repeated
    ends = grid.corners.max(0) + size
    for axis, length in enumerate(grid.shape):
        if length < size:
            line = torch.arange(int(begins[axis]), int(ends[axis]), device=pixels.device)
            pixels = pixels.index_select(axis, line.clamp(0, length - 1))
    pixels = pixels.contiguous()
    rows, cols = pixels.shape
    # A view with a patch at every place, line after line; only the patches of ``which`` are copied.
    last = (rows - size) * cols + cols - size
    windows = pixels.as_strided((last + 1, size, size), (1, cols, 1))
    places = (grid.corners - begins) @ np.array([cols, 1])
    return windows.index_select(0, torch.from_numpy(places).to(pixels.device)[which])


def stitch(
    grid: PatchGrid, values: Tensor, *, weighting: Weighting = "gaussian", mask: Tensor | None
) -> Tensor:
    """Stitch one value per patch into a picture: at each pixel the weighted mean of its patches.

    Args:
        grid: where the patches lie.
        values: (N,) scores in the order of ``grid.corners``; NaN patches are left out.
        weighting: the weight of a patch at a pixel, by the pixel's place in the patch.
        mask: (H, W) bool, true where a value is wanted; everywhere if None.

    Returns:
        (H, W) float32 in the unit of ``values``; NaN outside ``mask`` and where no patch has a
        value. A constant stays that constant.
    """
    if values.shape != (len(grid),):
        raise ValueError(
            f"one value per patch is needed: {len(grid)}, got shape {tuple(values.shape)}"
        )
    if grid.turn != AS_STORED:  # stitched as it was scored, so that the last digit is the same
        stored = grid.turned(grid.turn.inverse)
        shape = [len(np.unique(axis)) for axis in grid.corners.T]
        scored = _turned(values.reshape(shape), grid.turn.inverse).flatten()
        wanted = None if mask is None else _turned(mask, grid.turn.inverse)
        return _turned(stitch(stored, scored, weighting=weighting, mask=wanted), grid.turn)
    rows, cols = (np.unique(axis) for axis in grid.corners.T)
    down, across = (
        torch.from_numpy(_profiles(starts, grid.size, length, weighting)).to(values.device)
        for starts, length in zip((rows, cols), grid.shape, strict=True)
    )
    known = values.to(torch.float32)
    finite = known.isfinite()
    # Scores are counted from the lowest, so that float32 rounds a fraction of their range only.
    low = known.where(finite, torch.inf).amin()
    high = known.where(finite, -torch.inf).amax()
    above = (known - low).where(finite, 0).reshape(len(rows), len(cols))
    # The window is a product of two profiles, so patches are summed along rows first, then down.
    totals, weights = above @ across, finite.reshape(above.shape).to(torch.float32) @ across
    picture = totals.new_empty(grid.shape)
    ends = np.minimum(rows + grid.size, grid.shape[0])
    for begin, end in pairwise(int(line) for line in np.unique(np.concatenate([rows, ends]))):
        # Between two edges, the same lines of patches cover every pixel.
        lines = slice(int(np.searchsorted(ends, end)), int(np.searchsorted(rows, begin, "right")))
        share = down[lines, begin:end].T
        part = (share @ totals[lines]).div_(share @ weights[lines])  # 0 / 0 without patches
        part = torch.minimum(part.add_(low), high)
        picture[begin:end] = part if mask is None else part.where(mask[begin:end], torch.nan)
    return picture


def _profiles(
    starts: NDArray[np.int64], size: int, length: int, weighting: Weighting
) -> NDArray[np.float32]:
    """The weight of each line of patches at each pixel of a side: (n, length) float32."""
    profile = window_profile(size, weighting)
    weights = np.zeros((len(starts), length), np.float32)
    for line, start in zip(weights, starts, strict=True):
        line[start : start + size] = profile[: length - start]
    return weights


def _turned(picture: Tensor, turn: Turn) -> Tensor:
    """As :meth:`Turn.picture`."""
    laid = picture.T if turn.transposed else picture
    return laid.flip([axis for axis, flip in enumerate((turn.rows, turn.cols)) if flip])


def _check(grid: PatchGrid, picture: Tensor) -> None:
    if picture.shape != grid.shape:
        raise ValueError(
            f"this grid is for shape {grid.shape}, the image has {tuple(picture.shape)}"
        )
