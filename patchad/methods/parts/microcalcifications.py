"""Bright specks of a mammogram, counted by cells: what a cluster of microcalcifications is made of.

A difference of Gaussians finds specks (Marr & Hildreth, Proc. R. Soc. Lond. B 207:187, 1980); it is
divided by its own local deviation, so that brightness, contrast and grain have no effect. Then only
peaks count, each up to a limit: dust or a single coarse calcification is one peak however bright, a
cluster is many. Arrays are (row, col).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.nn.functional import max_pool2d, pad

from patchad.core.grid import PatchGrid
from patchad.prepare.film import Film
from patchad.prepare.preprocess import Prepared
from patchad.prepare.smoothing import gaussian, masked_gaussians, reach, spectrum_of

FEATURES = ("wide density", "narrow density", "third peak", "high peaks")
COVARIATES = ("distance", "row", "col", "density")
Pair = tuple[float, float]

_SPECK_MM, _AROUND_MM = 0.1, 0.3  # standard deviations of the two Gaussians
_GRAIN_MM = 1.6  # standard deviation of the window in which the response's deviation is taken
_FLOOR = 3e-4  # added to that deviation, so that where nothing varies nothing stands out
_APART_MM = 0.4  # a peak is the highest within this distance along rows and columns
_PEAK, _HIGH, _MOST = 2.0, 4.0, 4.0  # in deviations: counts from; is high from; counts up to
_WIDE_MM, _NARROW_MM = 3.2, 1.6  # standard deviations of the windows in which peaks are counted
_DENSITY_MM = 6.4  # standard deviation of the mean that stands for the tissue's density
_CELL_MM = 0.8
_TRUNCATE = 4.0  # where the windows end, in standard deviations
_THIRD = 3
_LEAST = 1e-6  # of a cell's share


def place(image: Prepared) -> Mapping[str, NDArray[np.float32]]:
    """Where each cell of an image lies in its breast: for a method's ``needs.before``.

    Arrays (h, w) float32. ``share``: of its pixels that are tissue. ``distance`` to air in mm;
    ``row`` and ``col`` relative in the tissue's box, the column from the chest wall.

    Raises:
        ImageError: the pixel spacing is unknown.
    """
    spacing = image.known_spacing
    side = cell_side(spacing)
    rows, cols = (-(-n // s) for n, s in zip(image.tissue.shape, side, strict=True))
    whole = np.zeros((rows * side[0], cols * side[1]), np.float32)
    whole[: image.tissue.shape[0], : image.tissue.shape[1]] = image.tissue
    share = whole.reshape(rows, side[0], cols, side[1]).sum((1, 3)) / (side[0] * side[1])
    if not share.any():
        return {name: np.zeros_like(share) for name in ("share", "distance", "row", "col")}
    row, col = np.indices(share.shape, np.float32)
    (top, left), (bottom, right) = (end(np.argwhere(share > 0), axis=0) for end in (np.min, np.max))
    col = (col - left) / max(right - left, 1)
    if share[:, : cols // 2].sum() < share[:, (cols + 1) // 2 :].sum():
        col = 1 - col  # the wider part of a breast is its base
    framed = np.pad(share >= 0.5, 1, mode="edge")  # tissue continues beyond the image's edge
    cell_mm = [n * s for n, s in zip(side, spacing, strict=True)]
    distance = ndimage.distance_transform_edt(framed, sampling=cell_mm)[1:-1, 1:-1]
    return {
        "share": share,
        "distance": distance.astype(np.float32),
        "row": ((row - top) / max(bottom - top, 1)).astype(np.float32),
        "col": col.astype(np.float32),
    }


def cell_side(spacing_mm: Pair) -> tuple[int, int]:
    """The pixels (row, col) of a cell of about 0.8 mm."""
    return max(1, round(_CELL_MM / spacing_mm[0])), max(1, round(_CELL_MM / spacing_mm[1]))


@dataclass(frozen=True, eq=False)
class Candidates:
    """A film's specks, by cells of ``side`` (row, col) pixels: tensors (h, w) float32.

    ``peak``: its highest peak in deviations, 0 without one. ``high``: its number of high peaks.
    ``wide`` and ``narrow``: log of 1 + the weight of peaks in the windows around it. ``share`` as
    in :func:`place`, and ``places`` (h, w, 4) are the cells' COVARIATES: those of :func:`place`,
    and the density, which is the mean of the tissue around. ``deviation`` (H, W), of the response,
    is that of the film.
    """

    side: tuple[int, int]
    peak: Tensor
    high: Tensor
    wide: Tensor
    narrow: Tensor
    share: Tensor
    places: Tensor
    deviation: Tensor

    def windows(self, grid: PatchGrid) -> tuple[Tensor, Tensor]:
        """The features (N, 4) in the order of FEATURES, and places (N, 4), of a grid's patches.

        A patch has the cells whose middle lies in it. Its place is the mean over their tissue.
        """
        lines = [np.unique(corners) for corners in grid.corners.T]
        shape, device = self.share.shape, self.share.device
        ends = [
            [
                np.clip(np.ceil(edge / n - 0.5), 0, length).astype(np.int64)
                for edge in (line, line + grid.size)
            ]
            for line, n, length in zip(lines, self.side, shape, strict=True)
        ]
        rows, cols = (
            torch.from_numpy(_lines(first, last, length)).to(device)
            for (first, last), length in zip(ends, shape, strict=True)
        )
        down, across = (
            torch.from_numpy(_holding(first, last, length)).to(device)
            for (first, last), length in zip(ends, shape, strict=True)
        )
        weight = self.share + _LEAST
        placed = (self.places * weight[..., None]).permute(2, 0, 1)
        sums = down @ torch.cat([torch.stack([self.high, weight]), placed]) @ across.T
        sums = sums.flatten(1)
        values = [
            _highest(self.wide, rows, cols, 1),
            _highest(self.narrow, rows, cols, 1),
            _highest(self.peak, rows, cols, _THIRD).log1p(),
            sums[0].log1p(),
        ]
        return torch.stack(values, -1), (sums[2:] / sums[1]).T


def find_candidates(film: Film) -> Candidates:
    """Find the specks of a film for which :func:`place` and the tissue were found before.

    Raises:
        ImageError: the pixel spacing is unknown.
    """
    spacing, inside = film.known_spacing, film.tissue
    side, cells = cell_side(spacing), film.given(place)
    response, deviation = _contrast(film)
    peaks = inside & (response > 0) & (response >= _highest_around(response, spacing))
    height = response.where(peaks, 0)
    weight = _by_cells((height - _PEAK).clamp(0, _MOST), side).sum((1, 3))
    wide, narrow, dense = (
        (mm / (side[0] * spacing[0]), mm / (side[1] * spacing[1]))
        for mm in (_WIDE_MM, _NARROW_MM, _DENSITY_MM)
    )
    widest = (reach(wide[0], _TRUNCATE), reach(wide[1], _TRUNCATE))
    spectrum = spectrum_of(weight, widest, border="zero")
    # With a Gaussian of height 1: that gives a weight of peaks, whatever the cells' size.
    counted = [
        (2 * math.pi * w[0] * w[1] * spectrum.gaussian(w, truncate=_TRUNCATE)).clamp_min(0).log1p()
        for w in (wide, narrow)
    ]
    light = _by_cells(film.pixels.where(inside, 0), side).mean((1, 3))
    both = torch.stack([light, cells["share"]])
    around = gaussian(both, dense, truncate=_TRUNCATE)
    density = around[0] / around[1].clamp_min(_LEAST)
    return Candidates(
        side=side,
        peak=_by_cells(height, side).amax((1, 3)),
        high=_by_cells((height > _HIGH).float(), side).sum((1, 3)),
        wide=counted[0],
        narrow=counted[1],
        share=cells["share"],
        places=torch.stack([cells["distance"], cells["row"], cells["col"], density], -1),
        deviation=deviation,
    )


def _contrast(film: Film) -> tuple[Tensor, Tensor]:
    """The difference of Gaussians over its local deviation, 0 outside; and that deviation."""
    row, col = film.known_spacing
    difference = (film.smooth(_SPECK_MM) - film.smooth(_AROUND_MM)).where(film.tissue, 0)
    grain = (_GRAIN_MM / row, _GRAIN_MM / col)
    (variance,) = masked_gaussians(difference.square(), film.tissue, [grain])
    deviation = variance.clamp_min(0).sqrt() + _FLOOR
    return difference / deviation, deviation


def _highest_around(values: Tensor, spacing_mm: Pair) -> Tensor:
    """The maximum of ``values`` (H, W) around each pixel, up to 0.4 mm away each way."""
    row, col = (max(1, round(_APART_MM / s)) for s in spacing_mm)
    down = max_pool2d(values[None], (2 * row + 1, 1), 1, (row, 0))
    return max_pool2d(down, (1, 2 * col + 1), 1, (0, col))[0]


def _by_cells(values: Tensor, side: tuple[int, int]) -> Tensor:
    """Cut (H, W) into cells, zeros beyond the edge: (h, side, w, side)."""
    rows, cols = values.shape
    whole = pad(values, (0, -cols % side[1], 0, -rows % side[0]))
    return whole.reshape(whole.shape[0] // side[0], side[0], whole.shape[1] // side[1], side[1])


def _lines(first: NDArray[np.int64], last: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """The lines of cells from ``first`` to ``last`` (n,): (n, most), filled up with ``length``."""
    lines = first[:, None] + np.arange(max(int((last - first).max()), _THIRD))
    return np.where(lines < last[:, None], lines, length)


def _holding(first: NDArray[np.int64], last: NDArray[np.int64], length: int) -> NDArray[np.float32]:
    """1 for each line of cells from ``first`` to ``last`` (n,), 0 for others: (n, length)."""
    lines = np.arange(length)
    return ((lines >= first[:, None]) & (lines < last[:, None])).astype(np.float32)


def _highest(values: Tensor, rows: Tensor, cols: Tensor, rank: int) -> Tensor:
    """The ``rank``-th highest of ``values`` (h, w), not negative, in each window: (R · C,).

    ``rows`` (R, …) and ``cols`` (C, …) are the windows' lines; h and w stand for none. 0 where
    there are fewer.
    """
    framed = pad(values, (0, 1, 0, 1))
    # Whatever is among the highest of a window is among the highest of its column.
    down = framed[rows].topk(rank, 1).values if rank > 1 else framed[rows].amax(1, keepdim=True)
    across = down[:, :, cols].transpose(1, 2).flatten(2)
    found = across.topk(rank, -1).values[..., -1] if rank > 1 else across.amax(-1)
    return found.flatten()
