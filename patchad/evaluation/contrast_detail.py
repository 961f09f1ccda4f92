"""How small and how faint a lesion can be and still be found: the figures of a self-test.

The idea is that of contrast-detail phantoms (Cohen et al., "The use of contrast-detail-dose
evaluation of image quality in a computed tomographic scanner", J. Comput. Assist. Tomogr. 3:189,
1979), with lesions of known size and contrast in real negatives instead of discs in plastic.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression
from scipy.stats import binomtest

from patchad.core.image import Region
from patchad.engine.marks import find_marks
from patchad.evaluation.labelling import hits


@dataclass(frozen=True)
class Tried:
    """One lesion that was drawn into a negative image, and its result.

    ``diameter_mm`` and ``contrast`` (in standard deviations of the tissue around it) are as drawn.
    ``mark`` is the highest mark that hits it, ``place`` the patch whose centre is nearest to it,
    mark or not; ``mark_without`` and ``place_without`` are those of the same region in the
    untouched image. In the unit of the scores, -inf if there is none.
    """

    kind: str
    diameter_mm: float
    contrast: float
    mark: float
    mark_without: float
    place: float
    place_without: float


@dataclass(frozen=True)
class Level:
    """The results of the ``n`` lesions of one kind, size and contrast; shares in [0, 1].

    ``ci95`` is Wilson's interval of ``found``. ``by_chance``: places that are also
    marked in the untouched image. ``outranks_twin``: lesions whose place (the nearest patch) scores
    higher than without them; ties count half.
    """

    kind: str
    diameter_mm: float
    contrast: float
    n: int
    found: float
    ci95: tuple[float, float]
    by_chance: float
    outranks_twin: float


def marks_and_places(
    boxes: NDArray[np.float64], scores: NDArray[np.float32], regions: Sequence[Region]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The highest mark that hits each region, and the patch nearest to it: two (R,) float64.

    ``boxes`` (N, 4) and ``scores`` (N,), NaN = not scored, are of all patches of an image; -inf
    if nothing hits, or if that patch was not scored. Marks and hits are those of FROC
    (:func:`patchad.engine.marks.find_marks`).
    """
    values = np.where(np.isnan(scores), -np.inf, scores).astype(np.float64)
    marks = find_marks(boxes, scores.astype(np.float64))
    hit = hits(boxes[marks], regions)
    best = np.where(hit, values[marks, None], -np.inf).max(0, initial=-np.inf)
    middles = np.array([(r.y + r.height / 2, r.x + r.width / 2) for r in regions]).reshape(-1, 2)
    away = boxes[:, None, :2] + boxes[:, None, 2:] / 2 - middles
    return best, values[np.square(away).sum(2).argmin(0)]


def mark_threshold(marks: Sequence[NDArray[np.float64]], rate: float) -> float:
    """The lowest score that no more than ``rate`` marks an image exceed, on average.

    ``marks`` holds the scores of the marks of each untouched image, (M,) each; exceeding is
    strict. If all images together have no more marks than allowed, it is the lowest mark.
    """
    values = np.sort(np.concatenate(marks))
    allowed = min(int(rate * len(marks)), len(values) - 1)
    return float(values[len(values) - 1 - allowed])


def levels_of(tried: Sequence[Tried], threshold: float) -> list[Level]:
    """The figures of each kind, size and contrast, kinds in their order of appearance."""
    order = {kind: number for number, kind in enumerate(dict.fromkeys(t.kind for t in tried))}
    cells: dict[tuple[str, float, float], list[Tried]] = {}
    for one in tried:
        cells.setdefault((one.kind, one.diameter_mm, one.contrast), []).append(one)
    levels = []
    for kind, diameter, contrast in sorted(cells, key=lambda c: (order[c[0]], *c[1:])):
        cell = cells[kind, diameter, contrast]
        n, found = len(cell), sum(one.mark > threshold for one in cell)
        interval = binomtest(found, n).proportion_ci(method="wilson")
        higher = [
            0.5 if one.place == one.place_without else float(one.place > one.place_without)
            for one in cell
        ]
        levels.append(
            Level(
                kind,
                diameter,
                contrast,
                n,
                found / n,
                (float(interval.low), float(interval.high)),
                sum(one.mark_without > threshold for one in cell) / n,
                sum(higher) / n,
            )
        )
    return levels


def half_found(levels: Sequence[Level]) -> float:
    """The contrast at which half of the lesions of one kind and size are found.

    Linear in the logarithm of the contrast, along the rising curve that fits the shares best
    (isotonic regression, weighted by n). The lowest contrast if half are found there already;
    NaN if half are never found. ``levels`` rise in contrast, all above 0.
    """
    weights = np.array([level.n for level in levels], np.float64)
    rising = isotonic_regression([level.found for level in levels], weights=weights).x
    above = np.flatnonzero(rising >= 0.5 - 1e-12)
    if not len(above):
        return math.nan
    at = int(above[0])
    if at == 0:
        return levels[0].contrast
    ends = np.log([levels[at - 1].contrast, levels[at].contrast])
    return float(np.exp(np.interp(0.5, rising[at - 1 : at + 1], ends)))
