"""The marks of an image: where it is most anomalous, how rare that is, and what is outlined.

A mark is a patch whose centre lies in no higher mark, as in free-response analysis (FROC). So
marks and an image score that is pooled from patches share one scale, for every kind of method. If
a method has its own dense map, only the region around the map's peak in the patch is outlined.
(Connected patches and regions of the map were tried as marks; docs/marks.md says why they are
worse.)
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import find_contours

from patchad.core.image import PatchScores, Screening
from patchad.model.calibration import Calibration

_SLACK = 1e-9  # of half a patch: tolerance for a centre that rounding put just beyond an edge


@dataclass(frozen=True, eq=False)
class Mark:
    """One mark, in the frame of the stored image.

    ``number`` counts from 1, the rarest first. ``score`` is that of its patch; a normal film has
    ``rarity`` marks that score at least this, and at most ``upper`` with 95 % confidence,
    both NaN if not calibrated (see :mod:`patchad.model.rarity`). ``row`` and ``col`` are
    the first of the box that ``mask`` (height, width) bool fills; holes belong to the mark.
    ``outline`` (K, 2) float64 (x, y) is its edge, first point = last, in pixel edges: an image of
    W columns reaches from x = 0 to W, and the centre of its first pixel is (0.5, 0.5), as in DICOM.
    ``area_mm2`` is NaN where the pixel spacing is unknown.
    """

    number: int
    score: float
    rarity: float
    upper: float
    row: int
    col: int
    mask: NDArray[np.bool_]
    outline: NDArray[np.float64]
    area_mm2: float

    @property
    def box(self) -> tuple[int, int, int, int]:
        """(x, y, width, height) in pixels of the stored image."""
        height, width = self.mask.shape
        return self.col, self.row, width, height

    @property
    def centre(self) -> tuple[float, float]:
        """(x, y) of its centre of area, in pixel edges."""
        rows, cols = np.nonzero(self.mask)
        return self.col + float(cols.mean()) + 0.5, self.row + float(rows.mean()) + 0.5


def marks(screening: Screening, calibration: Calibration) -> tuple[Mark, ...]:
    """The marks of an image, the rarest first: what every output shows and ``evaluate`` judges."""
    values = screening.heatmap.values
    return marks_of(
        screening.scores,
        calibration,
        (values.shape[0], values.shape[1]),
        screening.heatmap.spacing_mm or (math.nan, math.nan),
        values,
        flagged=screening.flagged,
    )


def marks_of(
    scores: PatchScores,
    calibration: Calibration,
    shape: tuple[int, int],
    spacing_mm: tuple[float, float],
    dense: NDArray[np.float32] | None,
    *,
    flagged: bool,
) -> tuple[Mark, ...]:
    """As :func:`marks`, from its parts: the one place that decides what is outlined.

    An image that is flagged by its strongest mark always has a mark.

    Args:
        scores: of the image's patches.
        calibration: from the card.
        shape: (rows, columns) of the stored image.
        spacing_mm: (row, col), NaN if unknown.
        dense: (H, W) float32, the heatmap; used only if it is the detector's own map.
        flagged: whether the image is flagged.
    """
    how = calibration.marks
    boxes = scores.grid.boxes(shape)
    places = find_marks(boxes, scores.values)
    threshold = how.threshold
    if how.decides and flagged and not (scores.values[places] > threshold).any():
        threshold = calibration.image_threshold
    places = places[scores.values[places] > threshold]
    found = []
    for number, place in enumerate(places.tolist(), start=1):
        score = float(scores.values[place])
        rarity, upper = how.rarity.of(score)
        if scores.grid.stride != how.stride:
            rarity = upper = math.nan
        row, col, end_row, end_col = _pixel_edges(boxes[place], shape)
        mask = np.ones((end_row - row, end_col - col), np.bool_)
        if how.dense and dense is not None:
            around = np.abs(boxes[places, :2] - boxes[place, :2]) < 2 * boxes[place, 2:]
            near = places[around.all(1)]
            this = np.flatnonzero(near == place)
            own = _nearest(boxes[near], (row, col, end_row, end_col)) == this
            values = dense[row:end_row, col:end_col]
            mask = _around_peak(values, own, calibration.display_range[0])
            rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            mask = mask[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]
            row, col = row + int(rows[0]), col + int(cols[0])
        outline = _outline(mask) + np.array([col, row])
        area = float(mask.sum()) * spacing_mm[0] * spacing_mm[1]
        found.append(Mark(number, score, rarity, upper, row, col, mask, outline, area))
    return tuple(found)


def find_marks(boxes: NDArray[np.float64], scores: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
    """The patches that are marks: those whose centre lies in no higher mark, highest first.

    Greedy non-maximum suppression: the highest patch is a mark and suppresses all patches whose
    centre lies in it or on its edge, and so on; of equal scores the first in reading order. So
    every scored patch is a mark or has its centre in one, at any stride. NaN is never a mark.

    Args:
        boxes: (N, 4) of (row, col, height, width), as in :meth:`patchad.core.grid.PatchGrid.boxes`.
        scores: (N,), higher = more anomalous.

    Returns:
        (M,) indices.
    """
    left = np.where(np.isnan(scores), -np.inf, scores)
    half = boxes[:, 2:] / 2
    centres = boxes[:, :2] + half
    found: list[int] = []
    while left.size and left[best := int(left.argmax())] > -np.inf:
        found.append(best)
        away = np.abs(centres - centres[best])
        left[(away <= half[best] * (1 + _SLACK)).all(1)] = -np.inf
    return np.array(found, np.int64)


def _nearest(boxes: NDArray[np.float64], part: tuple[int, int, int, int]) -> NDArray[np.int64]:
    """The box of (K, 4) whose centre is nearest, for each pixel of ``part`` of the image.

    ``part`` is first row, first column, end row, end column; distances are in sides of a box;
    of equal distances the first box counts. Returns (rows, columns) int64.
    """
    row, col, end_row, end_col = part
    lines = (np.arange(row, end_row) + 0.5, np.arange(col, end_col) + 0.5)
    down, aside = (
        np.abs(line - (boxes[:, axis] + boxes[:, 2 + axis] / 2)[:, None]) / boxes[:, 2 + axis, None]
        for axis, line in enumerate(lines)
    )
    nearest: NDArray[np.int64] = np.maximum(down[:, :, None], aside[:, None, :]).argmin(0)
    return nearest


def _around_peak(
    values: NDArray[np.float32], own: NDArray[np.bool_], low: float
) -> NDArray[np.bool_]:
    """The region of a patch to outline, from its part of the map: (h, w) bool.

    It is the region of ``values`` (h, w) around the peak within ``own`` (h, w), down to halfway
    between the peak and ``low``, with holes filled; all of ``own`` if no value is over ``low``.
    """
    known = np.where(own & np.isfinite(values), values, np.float32(-np.inf))
    place = np.unravel_index(np.argmax(known), known.shape)
    peak = float(known[place])
    if peak <= low:
        return own if own.any() else np.ones_like(own)
    regions, _ = ndimage.label(known >= low + (peak - low) / 2)
    filled: NDArray[np.bool_] = ndimage.binary_fill_holes(regions == regions[place])
    return filled


def _pixel_edges(box: NDArray[np.float64], shape: tuple[int, int]) -> tuple[int, int, int, int]:
    """A box (4,) as first row, first column, end row, end column; of one pixel at least."""
    first = np.minimum(np.rint(box[:2]), np.array(shape) - 1).astype(np.int64)
    end = np.clip(np.rint(box[:2] + box[2:]).astype(np.int64), first + 1, shape)
    return int(first[0]), int(first[1]), int(end[0]), int(end[1])


def _outline(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The outer edge of a mask without holes: (K, 2) float64 (x, y) in pixel edges, closed.

    Corners are cut by half a pixel; points on a straight line are left out.
    """
    padded = np.pad(mask, 1).astype(np.float64)
    contours = find_contours(padded, 0.5, fully_connected="high")  # type: ignore[no-untyped-call]
    contour = max(contours, key=len)
    points = contour[:-1, ::-1] - 0.5  # pixel index + 0.5 for the edge, - 1 for the padding
    before, after = points - np.roll(points, 1, 0), np.roll(points, -1, 0) - points
    bends = before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]
    corners: NDArray[np.float64] = points[bends]
    return np.vstack([corners, corners[:1]])
