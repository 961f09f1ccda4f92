"""Flagged regions: what lies over the threshold, as masks and outlines."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import find_contours

from patchad.calibration import Calibration, MapCalibration, region_percentile
from patchad.image import Heatmap, PatchScores, Screening


@dataclass(frozen=True, eq=False)
class FlaggedRegion:
    """Patches or pixels over the threshold that lie together, in the frame of the stored image.

    ``row`` and ``col`` are the first of the box that ``mask`` (height, width) bool fills; holes
    belong to the region. ``outline`` (K, 2) float64 (x, y) is its edge, first point = last, in
    pixel edges: an image of W columns reaches from x = 0 to W, and the centre of its first pixel
    is (0.5, 0.5), as in DICOM. ``score`` and ``percentile`` are those of its highest patch or
    pixel; ``area_mm2`` is NaN where the pixel spacing is unknown.
    """

    row: int
    col: int
    mask: NDArray[np.bool_]
    outline: NDArray[np.float64]
    score: float
    percentile: float
    area_mm2: float


def regions_of(screening: Screening, calibration: Calibration) -> tuple[FlaggedRegion, ...]:
    """The regions of an image, the highest score first: of its dense map, else of its patches."""
    if calibration.map is None:
        return flagged_regions(screening, calibration.patch_threshold)
    return map_regions(screening.heatmap, calibration.map)


@dataclass(frozen=True, eq=False)
class Outlined:
    """What a picture outlines: patches, or the pixels of a dense map.

    ``boxes`` (K, 4) float64 (row, col, height, width) in source pixels with their ``scores`` (K,)
    float32: the patches over the threshold, or what bounds the regions whose pixels are ``marked``
    (H, W) bool.
    """

    boxes: NDArray[np.float64]
    scores: NDArray[np.float32]
    marked: NDArray[np.bool_] | None = None
    regions: tuple[tuple[float, float], ...] = ()  # of a dense map: score, area in mm²


def outlined(scores: PatchScores, heatmap: Heatmap, calibration: Calibration) -> Outlined:
    """What is over the threshold, as pictures show it."""
    shape = (heatmap.values.shape[0], heatmap.values.shape[1])
    if calibration.map is None:
        over = scores.values > calibration.patch_threshold
        return Outlined(scores.grid.boxes(shape)[over], scores.values[over])
    regions = map_regions(heatmap, calibration.map)
    boxes = [(region.row, region.col, *region.mask.shape) for region in regions]
    return Outlined(
        np.array(boxes, np.float64).reshape(-1, 4),
        np.array([region.score for region in regions], np.float32),
        heatmap.values > calibration.map.threshold,
        tuple((region.score, region.area_mm2) for region in regions),
    )


def map_regions(heatmap: Heatmap, calibration: MapCalibration) -> tuple[FlaggedRegion, ...]:
    """Connected pixels of a dense map over its threshold, holes included, the highest first."""
    values = heatmap.values
    over = ndimage.binary_fill_holes(values > calibration.threshold)  # NaN isn't
    labels, count = ndimage.label(over)
    found = []
    for number, (rows, cols) in enumerate(ndimage.find_objects(labels, count), start=1):
        mask = labels[rows, cols] == number
        score = float(np.nanmax(values[rows, cols][mask]))
        percentile = region_percentile(calibration, score)
        found.append(_region(heatmap, rows.start, cols.start, mask, score, percentile))
    return tuple(sorted(found, key=lambda region: -region.score))


def flagged_regions(screening: Screening, patch_threshold: float) -> tuple[FlaggedRegion, ...]:
    """Patches over the threshold that overlap or share an edge, the highest score first.

    The patches decide, not the heatmap: its smoothing can sink a patch's score below the threshold.
    """
    over = np.flatnonzero(screening.scores.values > patch_threshold)  # NaN isn't
    union = np.zeros(screening.heatmap.values.shape, np.bool_)
    edges = _pixel_edges(screening.boxes[over], union.shape)
    for r0, c0, r1, c1 in edges:
        union[r0:r1, c0:c1] = True
    labels, count = ndimage.label(ndimage.binary_fill_holes(union))
    owner = labels[edges[:, 0], edges[:, 1]]
    found = []
    for number, (rows, cols) in enumerate(ndimage.find_objects(labels, count), start=1):
        mask = labels[rows, cols] == number
        own = over[owner == number]
        top = own[np.argmax(screening.scores.values[own])]
        score = float(screening.scores.values[top])
        percentile = float(screening.patch_percentiles[top])
        found.append(_region(screening.heatmap, rows.start, cols.start, mask, score, percentile))
    return tuple(sorted(found, key=lambda region: -region.score))


def _region(
    heatmap: Heatmap,
    row: int,
    col: int,
    mask: NDArray[np.bool_],
    score: float,
    percentile: float,
) -> FlaggedRegion:
    spacing = heatmap.spacing_mm or (np.nan, np.nan)
    outline = _outline(mask) + np.array([col, row])
    area = float(mask.sum()) * spacing[0] * spacing[1]
    return FlaggedRegion(row, col, mask, outline, score, percentile, area)


def _pixel_edges(boxes: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Boxes as (first row, first col, end row, end col), (K, 4), each of one pixel at least."""
    edges = np.rint(np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]])).astype(np.int64)
    edges[:, :2] = np.minimum(edges[:, :2], np.array(shape) - 1)
    edges[:, 2:] = np.clip(edges[:, 2:], edges[:, :2] + 1, shape)
    return edges


def _outline(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The outer edge of a mask without holes: (K, 2) float64 (x, y) in pixel edges, closed.

    Corners are cut by half a pixel; points on a straight line are left out.
    """
    padded = np.pad(mask, 1).astype(np.float64)
    (contour,) = find_contours(padded, 0.5)  # type: ignore[no-untyped-call]
    points = contour[:-1, ::-1] - 0.5  # pixel index + 0.5 for the edge, - 1 for the padding
    before, after = points - np.roll(points, 1, 0), np.roll(points, -1, 0) - points
    bends = before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]
    corners: NDArray[np.float64] = points[bends]
    return np.vstack([corners, corners[:1]])
