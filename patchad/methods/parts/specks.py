"""Bright specks of a mammogram, counted by cells: what a cluster of microcalcifications is made of.

A difference of Gaussians finds specks (Marr & Hildreth, Proc. R. Soc. Lond. B 207:187, 1980); it is
divided by its own local deviation, so that brightness, contrast and grain drop out. Then only peaks
count, each up to a limit: dust or a single coarse calcification is one peak however bright, a
cluster is many. Arrays are (row, col).
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from patchad.core.grid import PatchGrid
from patchad.errors import ImageError
from patchad.prepare.filters import Floats, Mask, masked_gaussian, sigma_pixels, tissue
from patchad.prepare.preprocess import Prepared

Array = NDArray[np.float64]

FEATURES = ("wide density", "narrow density", "third peak", "high peaks")
_SPECK_MM, _AROUND_MM = 0.1, 0.3  # standard deviations of the two Gaussians
_GRAIN_MM = 1.6  # standard deviation of the window in which the response's deviation is taken
_FLOOR = 3e-4  # added to that deviation, so that where nothing varies nothing stands out
_APART_MM = 0.4  # a peak is the highest within this distance along rows and columns
_PEAK, _HIGH, _MOST = 2.0, 4.0, 4.0  # in deviations: counts from; is high from; counts up to
_WIDE_MM, _NARROW_MM = 3.2, 1.6  # standard deviations of the windows in which peaks are counted
_DENSITY_MM = 6.4  # standard deviation of the mean that stands for the tissue's density
_CELL_MM = 0.8


@dataclass(frozen=True, eq=False)
class Cells:
    """An image's specks, by cells of ``side`` (row, col) pixels, about 0.8 mm: arrays (h, w).

    ``peak``: its highest peak in deviations, 0 without one. ``high``: its number of high peaks.
    ``wide`` and ``narrow``: log of 1 + the weight of peaks in the windows around it. ``share``: of
    its pixels that are tissue. ``distance`` to air in mm, ``density`` the mean around it, ``row``
    and ``col`` relative in the tissue's box, the column from the chest wall, are its place.
    ``tissue`` (H, W) bool and ``deviation`` (H, W), of the response, are those of the image.
    """

    side: tuple[int, int]
    peak: Array
    high: Array
    wide: Array
    narrow: Array
    share: Array
    distance: Array
    density: Array
    row: Array
    col: Array
    tissue: Mask
    deviation: Floats

    def places(self) -> Array:
        """The covariates of all cells: (h · w, 4)."""
        four = (self.distance, self.row, self.col, self.density)
        return np.stack([a.ravel() for a in four], axis=1)

    def windows(self, grid: PatchGrid) -> tuple[Array, Array]:
        """The features (N, 4) in the order of FEATURES, and places (N, 4), of a grid's patches.

        A patch has the cells whose middle lies in it. Its place is the mean over their tissue.
        """
        four = self.places().reshape(*self.share.shape, 4)
        values, places = np.zeros((len(grid), len(FEATURES))), np.zeros((len(grid), 4))
        for number, corner in enumerate(grid.corners):
            first, last = (
                np.ceil(edge / self.side - 0.5).astype(int) for edge in (corner, corner + grid.size)
            )
            box = np.s_[first[0] : last[0], first[1] : last[1]]
            third = np.partition(np.append(self.peak[box].ravel(), np.zeros(3)), -3)[-3]
            values[number] = (
                self.wide[box].max(),
                self.narrow[box].max(),
                math.log(third + 1),
                math.log(self.high[box].sum() + 1),
            )
            weight = self.share[box].ravel() + 1e-6
            places[number] = weight @ four[box].reshape(-1, 4) / weight.sum()
        return values, places


def find_specks(image: Prepared) -> Cells:
    """Find the specks of an image.

    Raises:
        ImageError: nobody said its pixel spacing.
    """
    spacing = image.spacing_mm
    if spacing is None:
        raise ImageError(
            "specks are measured in millimetres, and the image's pixel spacing is unknown: give a "
            "spacing_mm column in the manifest, or --spacing-mm"
        )
    inside = tissue(image.foreground.mask, spacing)
    response, deviation = _contrast(image, inside, spacing)
    apart = tuple(2 * max(1, round(_APART_MM / s)) + 1 for s in spacing)
    peaks = inside & (response > 0) & (response >= ndimage.maximum_filter(response, apart))
    height = np.where(peaks, response, np.float32(0))

    side = (max(1, round(_CELL_MM / spacing[0])), max(1, round(_CELL_MM / spacing[1])))
    area = side[0] * side[1]
    weight = _by_cells(np.clip(height - _PEAK, 0, _MOST), side).sum((1, 3))
    widths = [
        [mm / (n * s) for n, s in zip(side, spacing, strict=True)]
        for mm in (_WIDE_MM, _NARROW_MM, _DENSITY_MM)
    ]
    wide, narrow = (
        # With a Gaussian of height 1: that gives a weight of peaks, whatever the cells' size.
        np.log1p(2 * np.pi * w[0] * w[1] * ndimage.gaussian_filter(weight, w, mode="constant"))
        for w in widths[:2]
    )
    share = _by_cells(inside.astype(np.float32), side).sum((1, 3)) / area
    light = _by_cells(np.where(inside, image.pixels, np.float32(0)), side).sum((1, 3)) / area
    around = [ndimage.gaussian_filter(a, widths[2], mode="constant") for a in (light, share)]
    row, col = np.indices(share.shape, np.float64)
    (top, left), (bottom, right) = (end(np.argwhere(share > 0), axis=0) for end in (np.min, np.max))
    col = (col - left) / max(right - left, 1)
    if share[:, : share.shape[1] // 2].sum() < share[:, (share.shape[1] + 1) // 2 :].sum():
        col = 1 - col  # the wider part of a breast is its base
    framed = np.pad(share >= 0.5, 1, mode="edge")  # beyond the image's edge tissue goes on
    cell_mm = [n * s for n, s in zip(side, spacing, strict=True)]
    return Cells(
        side=side,
        peak=_by_cells(height, side).max((1, 3)),
        high=_by_cells((height > _HIGH).astype(np.float32), side).sum((1, 3)),
        wide=wide,
        narrow=narrow,
        share=share,
        distance=ndimage.distance_transform_edt(framed, sampling=cell_mm)[1:-1, 1:-1],
        density=around[0] / np.maximum(around[1], 1e-6),
        row=(row - top) / max(bottom - top, 1),
        col=col,
        tissue=inside,
        deviation=deviation,
    )


def _contrast(image: Prepared, inside: Mask, spacing: tuple[float, float]) -> tuple[Floats, Floats]:
    """The difference of Gaussians over its local deviation, 0 outside; and that deviation."""
    fine, coarse = (
        masked_gaussian(image.pixels, inside, sigma_pixels(mm, spacing))
        for mm in (_SPECK_MM, _AROUND_MM)
    )
    difference = np.where(inside, fine - coarse, np.float32(0))
    variance = masked_gaussian(difference**2, inside, sigma_pixels(_GRAIN_MM, spacing))
    deviation: Floats = (np.sqrt(np.maximum(variance, 0)) + _FLOOR).astype(np.float32)
    return np.divide(difference, deviation, dtype=np.float32), deviation


def _by_cells(values: Floats, side: tuple[int, int]) -> Array:
    """Cut (H, W) into cells, zeros beyond the edge: (h, side, w, side) float64."""
    cells = [-(-n // s) for n, s in zip(values.shape, side, strict=True)]
    whole = np.zeros((cells[0] * side[0], cells[1] * side[1]))
    whole[: values.shape[0], : values.shape[1]] = values
    return whole.reshape(cells[0], side[0], cells[1], side[1])
