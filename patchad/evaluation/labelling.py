"""Labels of patches, marks and pixels from the lesions' regions.

Geometry on numpy arrays. Boxes are (N, 4) float64 rows of (row, col, height, width) as in
:meth:`patchad.core.grid.PatchGrid.boxes`, in pixel edges of the image as stored.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from patchad.core.image import Region
from patchad.errors import RequestError

POSITIVE, NEGATIVE, NOT_COUNTED = 1, 0, -1

_SLACK = 1e-9  # of an area: tolerance for a half that rounding made slightly smaller


@dataclass(frozen=True, eq=False)
class PatchLabels:
    """``label`` (N,) int8: POSITIVE, NEGATIVE or NOT_COUNTED; ``of`` (N, R) bool: positive for.

    Columns of ``of`` are the regions, in their order.
    """

    label: NDArray[np.int8]
    of: NDArray[np.bool_]


def label_patches(boxes: NDArray[np.float64], regions: Sequence[Region]) -> PatchLabels:
    """Label the patches of one image by its regions.

    A patch is positive for a region if it covers at least half of the region, or the region
    covers at least half of it; negative if it touches none; else it is not counted. Touching
    means sharing area; sharing only an edge doesn't count.
    """
    areas = boxes[:, 2] * boxes[:, 3]
    shared = [overlap(region, boxes) for region in regions]
    of = np.zeros((len(boxes), len(regions)), bool)
    touched = np.zeros(len(boxes), bool)
    for column, (region, area) in enumerate(zip(regions, shared, strict=True)):
        half = np.minimum(area_of(region), areas) / 2
        of[:, column] = (area >= half * (1 - _SLACK)) & (area > 0)
        touched |= area > _SLACK * half
    label = np.where(of.any(1), POSITIVE, np.where(touched, NOT_COUNTED, NEGATIVE))
    return PatchLabels(label.astype(np.int8), of)


def overlap(region: Region, boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """The area in pixels that ``region`` shares with each box: (N,) float64, exact for outlines."""
    top, left = boxes[:, 0] - region.y, boxes[:, 1] - region.x
    bottom, right = top + boxes[:, 2], left + boxes[:, 3]
    rows = np.clip([top, bottom], 0, region.height)
    cols = np.clip([left, right], 0, region.width)
    if region.mask is None:
        area: NDArray[np.float64] = (rows[1] - rows[0]) * (cols[1] - cols[0])
        return area
    total = np.zeros((region.mask.shape[0] + 1, region.mask.shape[1] + 1))
    total[1:, 1:] = region.mask.cumsum(0).cumsum(1)
    up_to = [[_between(total, row, col) for col in cols] for row in rows]
    return up_to[1][1] - up_to[0][1] - up_to[1][0] + up_to[0][0]


def area_of(region: Region) -> float:
    """The area of a region in pixels."""
    return region.width * region.height if region.mask is None else float(region.mask.sum())


def inside_image(region: Region, shape: tuple[int, int], name: str) -> Region:
    """The part of a region that lies in its image of ``shape`` (rows, columns).

    Raises:
        RequestError: all of it, or a part of an outline, is outside.
    """
    top, left = max(region.y, 0.0), max(region.x, 0.0)
    bottom = min(region.y + region.height, shape[0])
    right = min(region.x + region.width, shape[1])
    if (top, left, bottom - top, right - left) == (
        region.y, region.x, region.height, region.width,
    ):  # fmt: skip
        return region
    if region.mask is not None or bottom <= top or right <= left:
        raise RequestError(
            f"a region must lie in its image: x {region.x:g}, y {region.y:g}, width "
            f"{region.width:g}, height {region.height:g} against {shape[1]} columns × {shape[0]} "
            f"rows of {name}; regions are in pixels of the image as stored, y down from the top"
        )
    return replace(region, x=left, y=top, width=right - left, height=bottom - top)


def region_pixels(regions: Sequence[Region], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """The pixels of an image of ``shape`` whose centre lies in a region: (H, W) bool."""
    pixels = np.zeros(shape, bool)
    for region in regions:
        top, left = (max(int(np.ceil(edge - 0.5)), 0) for edge in (region.y, region.x))
        bottom = max(int(np.ceil(region.y + region.height - 0.5)), 0)
        right = max(int(np.ceil(region.x + region.width - 0.5)), 0)
        place = pixels[top:bottom, left:right]
        place |= True if region.mask is None else region.mask[: place.shape[0], : place.shape[1]]
    return pixels


def hits(boxes: NDArray[np.float64], regions: Sequence[Region]) -> NDArray[np.bool_]:
    """Which boxes hit which region: (N, R) bool.

    A box hits a region if its centre lies in it, or if it is positive for it.
    """
    return label_patches(boxes, regions).of | centred_in(boxes, regions)


def mark_hits(
    boxes: NDArray[np.float64], centres: NDArray[np.float64], regions: Sequence[Region]
) -> NDArray[np.bool_]:
    """Which drawn marks hit which region: (N, R) bool; ``centres`` (N, 2) are (row, col).

    As :func:`hits`, with a mark's own centre in place of its box's.
    """
    points = np.hstack([centres, np.zeros_like(centres)])
    return label_patches(boxes, regions).of | centred_in(points, regions)


def centred_in(boxes: NDArray[np.float64], regions: Sequence[Region]) -> NDArray[np.bool_]:
    """Which boxes have their centre in which region: (N, R) bool."""
    rows, cols = boxes[:, 0] + boxes[:, 2] / 2, boxes[:, 1] + boxes[:, 3] / 2
    inside = np.zeros((len(boxes), len(regions)), bool)
    for column, region in enumerate(regions):
        row, col = rows - region.y, cols - region.x
        within = (row >= 0) & (row < region.height) & (col >= 0) & (col < region.width)
        if region.mask is not None:
            at = np.flatnonzero(within)
            within[at] = region.mask[row[at].astype(int), col[at].astype(int)]
        inside[:, column] = within
    return inside


def _between(
    total: NDArray[np.float64], row: NDArray[np.float64], col: NDArray[np.float64]
) -> NDArray[np.float64]:
    """A running total (H + 1, W + 1) at fractional edges: bilinear is exact for constant pixels."""
    r = np.minimum(row.astype(int), total.shape[0] - 2)
    c = np.minimum(col.astype(int), total.shape[1] - 2)
    dr, dc = row - r, col - c
    upper = total[r, c] * (1 - dc) + total[r, c + 1] * dc
    lower = total[r + 1, c] * (1 - dc) + total[r + 1, c + 1] * dc
    value: NDArray[np.float64] = upper * (1 - dr) + lower * dr
    return value
