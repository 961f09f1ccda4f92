"""A film in cells of 0.8 mm, which is enough for masses; the air has a part in nothing.

Only the part of the film with tissue is kept. Arrays are (row, col) in cells.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from patchad.prepare.film import Film
from patchad.prepare.preprocess import Prepared
from patchad.prepare.resize import resize, resize_tensor

CELL_MM = 0.8
_MARGIN = 8  # cells kept around the tissue
_LEAST = 1e-6  # share of a cell


def cells(image: Prepared) -> Mapping[str, NDArray[Any]]:
    """Where the tissue of an image is, in cells: for a method's ``needs.before``.

    ``share`` (h, w) float32 is what of a cell is tissue, ``tissue`` (h, w) bool where that is half
    or more, ``nearest`` (2, h, w) int64 the place of the nearest cell of tissue. ``rows`` (h,) and
    ``cols`` (w,) int64 are the part's lines in the whole image of :func:`cell_shape`.

    Raises:
        ImageError: the pixel spacing is unknown.
    """
    shape = (image.pixels.shape[0], image.pixels.shape[1])
    share = resize(image.tissue.astype(np.float32), cell_shape(shape, image.known_spacing))
    tissue = share >= min(0.5, float(share.max()))
    rows, cols = (
        np.arange(max(int(at[0]) - _MARGIN, 0), min(int(at[-1]) + 1 + _MARGIN, length))
        for at, length in zip(
            (np.flatnonzero(tissue.any(axis)) for axis in (1, 0)), share.shape, strict=True
        )
    )
    part = np.ix_(rows, cols)
    nearest = ndimage.distance_transform_edt(
        ~tissue[part], return_distances=False, return_indices=True
    )
    return {
        "share": share[part],
        "tissue": tissue[part],
        "nearest": nearest.astype(np.int64),
        "rows": rows,
        "cols": cols,
    }


def cell_shape(shape: tuple[int, int], spacing_mm: tuple[float, float]) -> tuple[int, int]:
    """The cells (rows, columns) of an image of ``shape`` pixels: two a side at least."""
    rows, cols = (max(2, round(n * s / CELL_MM)) for n, s in zip(shape, spacing_mm, strict=True))
    return rows, cols


@dataclass(frozen=True, eq=False)
class Cells:
    """The part of a film with tissue, on the film's device; see :func:`cells`.

    ``shape`` (rows, columns) is that of the whole film in cells, and ``size_mm`` a cell's exact
    height and width.
    """

    share: Tensor
    tissue: Tensor
    nearest: Tensor
    rows: Tensor
    cols: Tensor
    shape: tuple[int, int]
    size_mm: tuple[float, float]

    @classmethod
    def of(cls, film: Film) -> "Cells":
        """Of a film for which :func:`cells` was computed before."""
        spacing, pixels = film.known_spacing, film.shape
        shape = cell_shape(pixels, spacing)
        size = (spacing[0] * pixels[0] / shape[0], spacing[1] * pixels[1] / shape[1])
        return cls(**film.given(cells), shape=shape, size_mm=size)

    def means(self, pixels: Tensor) -> Tensor:
        """The mean of ``pixels`` (H, W) over each cell: (h, w)."""
        return resize_tensor(pixels, self.shape)[self.rows[:, None], self.cols]

    def tissue_means(self, pixels: Tensor, tissue: Tensor) -> Tensor:
        """The mean over each cell's pixels of ``tissue`` (H, W) bool: (h, w)."""
        return self.means(pixels.where(tissue, 0)) / self.share.clamp_min(_LEAST)

    def filled(self, values: Tensor) -> Tensor:
        """``values`` (h, w), with the nearest tissue's value in the air."""
        return values[self.nearest[0], self.nearest[1]]

    def whole(self, values: Tensor) -> Tensor:
        """``values`` (…, h, w) of the tissue in the frame of the film's cells, NaN elsewhere."""
        frame = values.new_full((*values.shape[:-2], *self.shape), torch.nan)
        frame[..., self.rows[:, None], self.cols] = values.where(self.tissue, torch.nan)
        return frame


def enlarged(values: Tensor, shape: tuple[int, int]) -> Tensor:
    """A map of cells (h, w) at the ``shape`` of the film, its lowest value where it is NaN."""
    return resize_tensor(values.where(values.isfinite(), lowest(values)), shape)


def lowest(values: Tensor) -> Tensor:
    """The lowest of the numbers among ``values``, a scalar on their device."""
    return values.nan_to_num(torch.inf).amin()
