"""Which lesions a self-test draws, and where in a film they find room."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.filters import threshold_otsu

from patchad.core.image import Radiograph
from patchad.lesions import shapes as synthesis
from patchad.lesions.shapes import Lesion
from patchad.prepare.filters import masked_gaussian, sigma_pixels
from patchad.prepare.foreground import BodyPart

_LATTICE = 512  # places for lesions along the image's longer side
_LEAST_LUNG = 0.04  # of the field; where less is found it is taken for something else


class Draw(Protocol):
    """A generator of lesions; see :mod:`patchad.lesions.shapes`."""

    def __call__(
        self, rng: np.random.Generator, *, diameter_mm: float, spacing_mm: tuple[float, float]
    ) -> Lesion:
        """Draw one."""


@dataclass(frozen=True)
class Kind:
    """A kind of lesion and the sizes it is tested in; its generator says what they measure."""

    name: str
    draw: Draw
    diameters_mm: tuple[float, ...]


KINDS: Mapping[BodyPart, tuple[Kind, ...]] = {
    "breast": (
        Kind("mass", synthesis.mass, (4, 8, 16)),
        Kind("spiculated mass", synthesis.spiculated_mass, (4, 8, 16)),
        Kind("architectural distortion", synthesis.architectural_distortion, (16, 32)),
        Kind("calcifications", synthesis.calcification_cluster, (4, 8)),
    ),
    "chest": (
        Kind("nodule", partial(synthesis.opacity, form="nodule"), (8, 15, 30)),
        Kind("consolidation", partial(synthesis.opacity, form="consolidation"), (30, 60)),
    ),
}


@dataclass(frozen=True)
class Wanted:
    """A lesion to draw."""

    kind: Kind
    diameter_mm: float
    contrast: float


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
    """Where lesions may be centred: in the breast, or in what looks like lung."""
    step = max(1, max(mask.shape) // _LATTICE)
    coarse, mm = mask[::step, ::step], (spacing[0] * step, spacing[1] * step)
    depth = ndimage.distance_transform_edt(np.pad(coarse, 1), sampling=mm)[1:-1, 1:-1]
    inner = coarse if body_part == "breast" else _lungs(radiograph.film[::step, ::step], coarse, mm)
    rows, cols = np.nonzero(inner)
    return Places(rows * step, cols * step, depth[rows, cols])


def _lungs(
    pixels: NDArray[np.float32], mask: NDArray[np.bool_], mm: tuple[float, float]
) -> NDArray[np.bool_]:
    """What of the middle of a chest film is dark as lungs are, else the whole field.

    Dark for its surroundings (Gaussians of 4 and 50 mm) by Otsu's threshold, in two large parts at
    most, away from the outer eighths of the field: no outline to measure by, but lesions lie mostly
    in the lungs.
    """
    rows, cols = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    middle = np.zeros_like(mask)
    (top, bottom), (left, right) = ((n[0], n[-1] + 1) for n in (rows, cols))
    dy, dx = (bottom - top) // 8, (right - left) // 8
    middle[top + dy : bottom - dy, left + dx : right - dx] = True
    middle &= mask
    near, wide = (masked_gaussian(pixels, mask, sigma_pixels(s, mm)) for s in (4, 50))
    relief = near - wide
    threshold = threshold_otsu(relief[middle])  # type: ignore[no-untyped-call]
    labels, count = ndimage.label(middle & (relief < threshold))
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    sizes[0] = 0
    lungs: NDArray[np.bool_] = np.isin(labels, np.argsort(sizes)[-2:]) & (sizes[labels] > 0)
    return lungs if lungs.sum() >= _LEAST_LUNG * mask.sum() else mask


def packed(
    rng: np.random.Generator, wanted: list[Wanted], places: Places, apart: tuple[float, float]
) -> Iterator[list[tuple[Wanted, tuple[int, int]]]]:
    """As many lesions as find room at once, with their centres (row, col), until all were drawn.

    A lesion lies a radius or more from the skin and the border; what fits nowhere is left out.
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
