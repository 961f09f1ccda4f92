"""Names for kinds of arrays, and sums over boxes of a picture.

Axes are (row, col). The functions take torch tensors and stay on the tensor's device; torch itself
is imported only when one of them is called, so that importing the names alone doesn't load it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]
Curve = tuple[NDArray[np.float64], NDArray[np.float64]]  # x and y of its points, (V,) each


def wide(device: torch.device) -> torch.dtype:
    """The widest float of ``device``, in which long sums are taken: float64, float32 on MPS."""
    import torch

    return torch.float32 if device.type == "mps" else torch.float64


def integral(values: Tensor) -> Tensor:
    """The integral image: sums of all values above and to the left.

    Args:
        values: (H, W), any dtype; for a mask, its true pixels are counted.

    Returns:
        (H + 1, W + 1) float64 (float32 on MPS): ``[r, c]`` is the sum of ``values[:r, :c]``.
    """
    dtype = wide(values.device)
    rows, cols = values.shape
    total = values.new_zeros((rows + 1, cols + 1), dtype=dtype)
    total[1:, 1:] = values.cumsum(1, dtype=dtype).cumsum(0)
    return total


def box_sums(table: Tensor, edges: Tensor) -> Tensor:
    """The sum of each box, from the :func:`integral` of a picture.

    Args:
        table: (H + 1, W + 1).
        edges: (N, 4) int64 rows of top, left, bottom, right; bottom and right are exclusive.

    Returns:
        (N,) of the dtype of ``table``.
    """
    top, left, bottom, right = edges.unbind(1)
    return table[bottom, right] - table[top, right] - table[bottom, left] + table[top, left]


def banded(edges: NDArray[np.int64]) -> tuple[list[int], NDArray[np.int64]]:
    """Cut a picture into bands of rows, so that each box is made of whole bands.

    The patches of an image share few edges, so that it has few bands: a sum over a band can be
    taken once for all patches on it.

    Args:
        edges: (N, 4) rows of top, left, bottom, right.

    Returns:
        The rows where bands begin and end, ascending; and the edges (N, 4) with top and bottom
        counted in bands.
    """
    cuts = np.unique(edges[:, [0, 2]])
    lines = edges.copy()
    lines[:, [0, 2]] = np.searchsorted(cuts, edges[:, [0, 2]])
    return [int(cut) for cut in cuts], lines


def band_sums(values: Tensor, cuts: Sequence[int]) -> Tensor:
    """The sum down each column of the bands between ``cuts`` of ``values`` (H, W).

    Returns (len(cuts) - 1, W) float64 (float32 on MPS).
    """
    import torch

    dtype = wide(values.device)
    return torch.stack([values[a:b].sum(0, dtype=dtype) for a, b in pairwise(cuts)])
