"""Which lesions a self-test draws, and where they fit in a film."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from patchad.core.image import Radiograph
from patchad.lesions.recipes import Graded, Recipe
from patchad.prepare.foreground import BodyPart
from patchad.prepare.lungs import find_dark_lungs

_LATTICE = 512  # candidate positions along the image's longer side


@dataclass(frozen=True)
class Wanted:
    """A lesion to draw."""

    recipe: Recipe
    diameter_mm: float
    contrast: float


def all_wanted(
    kinds: Sequence[Graded], contrasts: Sequence[float], *, at_least: int, images: int
) -> list[Wanted]:
    """What to draw into each of ``images``: every size and contrast ``at_least`` times in all."""
    return [
        Wanted(kind.recipe, float(diameter), float(contrast))
        for kind in kinds
        for diameter in kind.diameters_mm
        for contrast in contrasts
    ] * math.ceil(at_least / images)


@dataclass(frozen=True, eq=False)
class Places:
    """Where lesions may be centred: (K,) rows and columns as read, and mm to the skin or border."""

    rows: NDArray[np.int64]
    cols: NDArray[np.int64]
    depth: NDArray[np.float64]


def find_places(
    radiograph: Radiograph,
    mask: NDArray[np.bool_],
    body_part: BodyPart,
    spacing: tuple[float, float],
) -> Places:
    """Where lesions may be centred: in the breast, or in the approximate lungs."""
    step = max(1, max(mask.shape) // _LATTICE)
    coarse, mm = mask[::step, ::step], (spacing[0] * step, spacing[1] * step)
    depth = ndimage.distance_transform_edt(np.pad(coarse, 1), sampling=mm)[1:-1, 1:-1]
    if body_part == "breast":
        inner = coarse
    else:
        inner = find_dark_lungs(radiograph.film[::step, ::step], coarse, mm)
    rows, cols = np.nonzero(inner)
    return Places(rows * step, cols * step, depth[rows, cols])


def packed(
    rng: np.random.Generator, wanted: list[Wanted], places: Places, apart: tuple[float, float]
) -> Iterator[list[tuple[Wanted, tuple[int, int]]]]:
    """As many lesions as fit at once, with their centres (row, col), until all were drawn.

    A lesion lies a radius or more from the skin and the border; if it fits nowhere it is left out.
    """
    left = [wanted[n] for n in rng.permutation(len(wanted))]
    while left:
        free = np.ones(len(places.rows), bool)
        drawn, later = [], []
        for one in left:
            fit = np.flatnonzero(free & (places.depth >= one.diameter_mm / 2))
            if not len(fit):
                later.append(one)
                continue
            at = int(rng.choice(fit))
            row, col = int(places.rows[at]), int(places.cols[at])
            drawn.append((one, (row, col)))
            away = np.abs(places.rows - row) >= apart[0]
            free &= away | (np.abs(places.cols - col) >= apart[1])
        if not drawn:
            return
        yield drawn
        left = later
