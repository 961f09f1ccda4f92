"""Flagged regions: where patches over the threshold lie together, as masks and outlines."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import find_contours

from patchad.image import Screening


@dataclass(frozen=True, eq=False)
class FlaggedRegion:
    """Patches over the threshold that overlap or share an edge, in the frame of the stored image.

    ``row`` and ``col`` are the first of the box that ``mask`` (height, width) bool fills; holes
    belong to the region. ``outline`` (K, 2) float64 (x, y) is its edge, first point = last, in
    pixel edges: an image of W columns reaches from x = 0 to W, and the centre of its first pixel
    is (0.5, 0.5), as in DICOM. ``score`` and ``percentile`` are those of its highest patch.
    """

    row: int
    col: int
    mask: NDArray[np.bool_]
    outline: NDArray[np.float64]
    score: float
    percentile: float
    patches: int


def flagged_regions(screening: Screening, patch_threshold: float) -> tuple[FlaggedRegion, ...]:
    """The regions of an image, the highest score first.

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
        found.append(
            FlaggedRegion(
                row=rows.start,
                col=cols.start,
                mask=mask,
                outline=_outline(mask) + np.array([cols.start, rows.start]),
                score=float(screening.scores.values[top]),
                percentile=float(screening.patch_percentiles[top]),
                patches=len(own),
            )
        )
    return tuple(sorted(found, key=lambda region: -region.score))


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
