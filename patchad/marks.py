"""The marks of an image: where it is most anomalous, how rare that is, and what is outlined.

Marks come from the patch scores, which the image score is pooled from: so a mark and its image
speak of one scale, for every kind of method. Where a method has a dense map of its own, the map
says what of those patches is outlined. (Regions of the map itself were tried as marks. On mini-MIAS
their highest one told films with a lesion worse than the highest patch does; see docs/marks.md.)
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from skimage.measure import find_contours

from patchad.calibration import Calibration
from patchad.grid import PatchGrid
from patchad.image import PatchScores, Screening


@dataclass(frozen=True, eq=False)
class Mark:
    """One mark, in the frame of the stored image.

    ``number`` counts from 1, the rarest first. ``score`` is that of its highest patch; a normal
    film has ``rarity`` marks that score at least this, and at most ``upper`` with 95 % confidence,
    both NaN where that is not calibrated (see :mod:`patchad.rarity`). ``row`` and ``col`` are the
    first of the box that ``mask`` (height, width) bool fills; holes belong to the mark.
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
    """As :func:`marks`, from what is stored.

    A flagged image whose flag is decided by its strongest mark always has one.

    Args:
        scores: of the image's patches.
        calibration: from the card.
        shape: (rows, columns) of the stored image.
        spacing_mm: (row, col), NaN if unknown.
        dense: (H, W) float32, the heatmap; looked at only where it is the detector's own map.
        flagged: whether the image is.
    """
    how = calibration.marks
    threshold = how.threshold
    if how.decides and flagged and not (scores.values > threshold).any():
        threshold = calibration.image_threshold
    groups = _groups(scores.values, links_of(scores.grid, dense=how.dense), threshold)
    lands = None
    if groups and how.dense and dense is not None:
        lands = _Lands.of(scores, groups, shape)
    found = []
    for number, group in enumerate(groups, start=1):
        score = float(scores.values[group[0]])
        rarity, upper = how.rarity.of(score)
        if scores.grid.stride != how.stride:
            rarity = upper = math.nan
        if lands is None or dense is None:
            row, col, mask = _union(scores.grid.boxes(shape)[group], shape)
        else:
            low = calibration.display_range[0]
            row, col, mask = lands.shape_of(number, int(group[0]), dense, low)
        outline = _outline(mask) + np.array([col, row])
        area = float(mask.sum()) * spacing_mm[0] * spacing_mm[1]
        found.append(Mark(number, score, rarity, upper, row, col, mask, outline, area))
    return tuple(found)


def links_of(grid: PatchGrid, *, dense: bool) -> NDArray[np.int64]:
    """Which patches of a grid belong together if both are marked: (E, 2) int64 indices.

    Those that overlap or share an edge; or, where a dense map says what of them is outlined, those
    whose middles do, so that what lies further apart than half a patch can be two marks.
    """
    reach = max(grid.stride, grid.size // 2) if dense else grid.size
    rows, cols = (np.unique(axis) for axis in grid.corners.T)
    number = np.arange(len(grid)).reshape(len(rows), len(cols))
    steps = reach // grid.stride + 1  # the last row and column lie closer than the stride
    found = [np.empty((0, 2), np.int64)]
    for down in range(min(steps + 1, len(rows))):
        for right in range(1 - len(cols) if down else 1, len(cols)):
            if abs(right) > steps:
                continue
            one = np.s_[: len(rows) - down, max(-right, 0) : len(cols) - max(right, 0)]
            other = np.s_[down:, max(right, 0) : len(cols) - max(-right, 0)]
            apart = (rows[down:] - rows[: len(rows) - down])[:, None]
            aside = np.abs(cols[other[1]] - cols[one[1]])[None]
            near = (apart <= reach) & (aside <= reach) & (apart + aside < 2 * reach)
            found.append(np.stack([number[one][near], number[other][near]], 1))
    return np.concatenate(found)


def _groups(
    values: NDArray[np.float32], links: NDArray[np.int64], threshold: float
) -> list[NDArray[np.int64]]:
    """The patches of each mark, its highest first; the mark with the highest patch first."""
    over = values > threshold  # NaN isn't
    near = links[over[links].all(1)]
    graph = coo_matrix((np.ones(len(near), np.int8), near.T), (len(values), len(values)))
    _, owner = connected_components(graph, directed=False)
    order = np.flatnonzero(over)
    order = order[np.argsort(-values[order], kind="stable")]
    first = list(dict.fromkeys(owner[order].tolist()))
    return [order[owner[order] == group] for group in first]


@dataclass(frozen=True, eq=False)
class _Lands:
    """Which patch, and so which mark, each pixel of the stored image belongs to: the nearest.

    ``row`` (H,) and ``col`` (W,) int64 say in which line of patches a pixel lies; ``owner``
    (rows, columns of patches) int64 the number of the mark, 0 for none; ``boxes`` (N, 4) int64 are
    the patches as first row, first column, end row, end column.
    """

    row: NDArray[np.int64]
    col: NDArray[np.int64]
    owner: NDArray[np.int64]
    boxes: NDArray[np.int64]

    @classmethod
    def of(
        cls, scores: PatchScores, groups: Sequence[NDArray[np.int64]], shape: tuple[int, int]
    ) -> "_Lands":
        boxes = scores.grid.boxes(shape)
        lines = []
        for axis in (0, 1):
            middles = np.unique(boxes[:, axis] + boxes[:, 2 + axis] / 2)
            pixels = np.arange(shape[axis]) + 0.5
            lines.append(np.searchsorted((middles[1:] + middles[:-1]) / 2, pixels))
        owner = np.zeros(len(boxes), np.int64)
        for number, group in enumerate(groups, start=1):
            owner[group] = number
        table = (len(np.unique(boxes[:, 0])), len(np.unique(boxes[:, 1])))
        # Where no patch was scored, as at the skin, the nearest one that was has the say.
        unscored = ~scores.scored.reshape(table)
        nearest = ndimage.distance_transform_edt(
            unscored, return_distances=False, return_indices=True
        )
        return cls(
            lines[0], lines[1], owner.reshape(table)[tuple(nearest)], _pixel_edges(boxes, shape)
        )

    def shape_of(
        self, number: int, top: int, dense: NDArray[np.float32], low: float
    ) -> tuple[int, int, NDArray[np.bool_]]:
        """First row, first column and mask of a mark whose highest patch is ``top``.

        What of the map lies around its peak in that patch, down to halfway between the peak and
        ``low``, as far as the mark's patches are the nearest. Of a map that is flat there, the
        middle of the patch.
        """
        rows, cols = np.nonzero(self.owner == number)
        own_rows = np.flatnonzero((self.row >= rows.min()) & (self.row <= rows.max()))
        own_cols = np.flatnonzero((self.col >= cols.min()) & (self.col <= cols.max()))
        r0, c0, r1, c1 = self.boxes[top]
        if not (len(own_rows) and len(own_cols)):  # an image of hardly any pixels
            return int(r0), int(c0), np.ones((r1 - r0, c1 - c0), np.bool_)
        row, col = int(own_rows[0]), int(own_cols[0])
        within = np.s_[row : own_rows[-1] + 1, col : own_cols[-1] + 1]
        land = self.owner[np.ix_(self.row[within[0]], self.col[within[1]])] == number
        values = np.where(land, dense[within], np.float32(-np.inf))
        values[~np.isfinite(values)] = -np.inf
        inside = np.zeros(land.shape, np.bool_)
        inside[max(r0 - row, 0) : max(r1 - row, 0), max(c0 - col, 0) : max(c1 - col, 0)] = True
        place = np.unravel_index(np.argmax(np.where(inside, values, -np.inf)), values.shape)
        peak = float(values[place])
        if peak > low:
            regions, _ = ndimage.label(values >= low + (peak - low) / 2)
            mask = ndimage.binary_fill_holes(regions == regions[place])
        else:
            lines = np.divmod(top, self.owner.shape[1])
            mask = (self.row[within[0]] == lines[0])[:, None] & (self.col[within[1]] == lines[1])
            if not mask.any():
                return int(r0), int(c0), np.ones((r1 - r0, c1 - c0), np.bool_)
        return _cropped(row, col, mask)


def _union(
    boxes: NDArray[np.float64], shape: tuple[int, int]
) -> tuple[int, int, NDArray[np.bool_]]:
    """First row, first column and mask of boxes (K, 4) taken together, holes included."""
    edges = _pixel_edges(boxes, shape)
    (row, col), (end_row, end_col) = edges[:, :2].min(0), edges[:, 2:].max(0)
    mask = np.zeros((end_row - row, end_col - col), np.bool_)
    for r0, c0, r1, c1 in edges - np.array([row, col, row, col]):
        mask[r0:r1, c0:c1] = True
    return int(row), int(col), ndimage.binary_fill_holes(mask)


def _cropped(row: int, col: int, mask: NDArray[np.bool_]) -> tuple[int, int, NDArray[np.bool_]]:
    rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    inner = mask[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]
    return row + int(rows[0]), col + int(cols[0]), inner


def _pixel_edges(boxes: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.int64]:
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
    contours = find_contours(padded, 0.5, fully_connected="high")  # type: ignore[no-untyped-call]
    contour = max(contours, key=len)
    points = contour[:-1, ::-1] - 0.5  # pixel index + 0.5 for the edge, - 1 for the padding
    before, after = points - np.roll(points, 1, 0), np.roll(points, -1, 0) - points
    bends = before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]
    corners: NDArray[np.float64] = points[bends]
    return np.vstack([corners, corners[:1]])
