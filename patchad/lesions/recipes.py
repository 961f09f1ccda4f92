"""The table of synthetic lesions for each use: kinds, sizes and contrasts.

Phantoms, the methods that train on synthetic lesions and the self-test each have their part of the
table below. :func:`draw` makes a lesion of a recipe and records what was drawn; :func:`apply` adds
it to an image. Arrays are (row, col), ``spacing_mm`` is (row, col).

A seed must always give the same lesions: changing the order or the number of the random draws
changes every phantom, every trained model and every self-test.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from patchad.core.arrays import Floats
from patchad.core.image import Region
from patchad.lesions.chest import effusion, reticular_pattern
from patchad.lesions.shapes import (
    Lesion,
    Profile,
    architectural_distortion,
    calcification_cluster,
    insert,
    local_deviation,
    mass,
    opacity,
    spiculated_mass,
    textured,
)
from patchad.prepare.foreground import BodyPart

Kind = Literal[
    "mass",
    "spiculated mass",
    "architectural distortion",
    "calcifications",
    "nodule",
    "consolidation",
    "reticular pattern",
    "effusion",
]

AROUND_MM = 12.8  # half the side of the square whose deviation is the unit of contrast


@dataclass(frozen=True)
class Range:
    """A range of numbers, drawn uniformly, or uniformly in their logarithm."""

    low: float
    high: float
    log: bool = False

    def draw(self, rng: np.random.Generator) -> float:
        """Draw a number; takes one number of the generator."""
        if self.log:
            return float(np.exp(rng.uniform(*np.log((self.low, self.high)))))
        return float(rng.uniform(self.low, self.high))


@dataclass(frozen=True)
class Texture:
    """Texture for a ``share`` of the lesions: brightness modulated by a 1/f^``slope`` field."""

    share: float
    strength: Range
    slope: Range


@dataclass(frozen=True)
class Recipe:
    """The distribution of one kind of lesion for one use.

    Attributes:
        kind: the shape, and the name in regions and figures.
        body_part: the body part that has it.
        diameter: in mm, of the outline, of a spiculated mass's core or of a cluster; for an
            effusion the width, in widths of its lung. None: passed to :func:`draw`.
        contrast: added by its brightest pixel, in the unit of the use: deviations of the tissue
            around it, or for registered lungs the share of the way to 1. None: passed to ``draw``.
        contrast_last: the contrast is drawn after the shape, not before.
        height_mm: of an effusion, above the diaphragm.
        profiles: of a mass; one of them is drawn, if there are several.
        spicules: of a spiculated mass, least and most.
        texture: how brightness is modulated.
        least: the amplitude, in pixel values, is clipped to this and twice this.
    """

    kind: Kind
    body_part: BodyPart
    diameter: Range | None = None
    contrast: Range | None = None
    contrast_last: bool = False
    height_mm: Range | None = None
    profiles: tuple[Profile, ...] = ("dome",)
    spicules: tuple[int, int] = (9, 18)
    texture: Texture | None = None
    least: float | None = None


@dataclass(frozen=True)
class OneOf:
    """Two recipes; ``first`` is used for a ``share`` of the lesions."""

    first: Recipe
    share: float
    second: Recipe

    def pick(self, rng: np.random.Generator) -> Recipe:
        """Choose one; takes one number of the generator."""
        return self.first if rng.random() < self.share else self.second


@dataclass(frozen=True)
class Graded:
    """A recipe with the diameters, in mm, that a self-test draws in turn."""

    recipe: Recipe
    diameters_mm: tuple[float, ...]


@dataclass(frozen=True)
class Drawn:
    """The values drawn for a recipe, and the resulting lesion.

    ``diameter_mm`` is in mm for an effusion too; ``height_mm`` is NaN except for an effusion,
    ``contrast`` NaN if neither recipe nor use gives one; ``profile`` is empty except for a mass.
    ``texture`` is (strength, slope), or None without texture.
    """

    recipe: Recipe
    diameter_mm: float
    contrast: float
    height_mm: float
    profile: Profile | Literal[""]
    texture: tuple[float, float] | None
    lesion: Lesion

    def amplitude(self, deviation: float) -> float:
        """The amplitude of the brightest pixel in tissue of this standard deviation.

        Raises:
            ValueError: neither recipe nor use gave a contrast.
        """
        if math.isnan(self.contrast):
            raise ValueError(f"this {self.recipe.kind} has no contrast: give one when drawing it")
        wanted, least = self.contrast * deviation, self.recipe.least
        return wanted if least is None else float(np.clip(wanted, least, 2 * least))

    def record(self) -> dict[str, Any]:
        """The kind and the drawn values, as plain values; those that don't apply are left out."""
        found: dict[str, Any] = {"kind": self.recipe.kind, "diameter_mm": self.diameter_mm}
        found |= {
            name: value
            for name, value in (("contrast", self.contrast), ("height_mm", self.height_mm))
            if not math.isnan(value)
        }
        if self.profile:
            found["profile"] = self.profile
        if self.texture is not None:
            found["texture"] = list(self.texture)
        return found


_PROFILES: tuple[Profile, ...] = ("disc", "gaussian", "dome")

# Phantoms. A study uses the kinds of a body part in this order.
PHANTOMS: Mapping[str, Recipe] = {
    recipe.kind: recipe
    for recipe in (
        Recipe("mass", "breast", Range(8, 16), Range(1.8, 2.6), profiles=_PROFILES, least=0.12),
        Recipe("calcifications", "breast", Range(6, 14), Range(4, 6), least=0.2),
        Recipe("spiculated mass", "breast", Range(7, 12), Range(2, 3), least=0.14),
        Recipe("consolidation", "chest", Range(35, 75), Range(2, 3), least=0.14),
        Recipe("nodule", "chest", Range(12, 28), Range(2, 3), least=0.14),
    )
}

# Films that synthetic_lesions is trained on. Its configuration gives the diameters and contrasts.
_ROUGH = Texture(0.3, strength=Range(0.2, 0.6), slope=Range(1.5, 3))
TRAINING_MASSES = OneOf(
    Recipe("spiculated mass", "breast", spicules=(5, 13), texture=_ROUGH),
    share=0.4,
    second=Recipe("mass", "breast", profiles=_PROFILES, texture=_ROUGH),
)

# Clusters that calcification is trained on. Contrasts in deviations of the filter's response.
TRAINING_CLUSTERS_MM = Range(2, 11)
TRAINING_CLUSTERS = Recipe(
    "calcifications", "breast", TRAINING_CLUSTERS_MM, Range(8, 80, log=True), contrast_last=True
)

# Registered lungs that synthetic_opacities is trained on. It chooses kinds by their order.
TRAINING_FINDINGS: Mapping[str, Recipe] = {
    recipe.kind: recipe
    for recipe in (
        Recipe("consolidation", "chest", Range(25, 110), Range(0.15, 0.7)),
        Recipe("nodule", "chest", Range(8, 35), Range(0.2, 0.7)),
        Recipe("reticular pattern", "chest", Range(50, 160), Range(0.1, 0.4)),
        Recipe("effusion", "chest", Range(1, 1.5), Range(0.3, 0.95), height_mm=Range(8, 70)),
    )
}

# The self-test: each kind, size and contrast, in standard deviations of the tissue around.
SELFTEST_CONTRASTS = (0.5, 1.0, 2.0, 4.0)
SELFTEST: Mapping[BodyPart, tuple[Graded, ...]] = {
    "breast": (
        Graded(Recipe("mass", "breast"), (4, 8, 16)),
        Graded(Recipe("spiculated mass", "breast"), (4, 8, 16)),
        Graded(Recipe("architectural distortion", "breast"), (16, 32)),
        Graded(Recipe("calcifications", "breast"), (4, 8)),
    ),
    "chest": (
        Graded(Recipe("nodule", "chest"), (8, 15, 30)),
        Graded(Recipe("consolidation", "chest"), (30, 60)),
    ),
}


def draw(
    rng: np.random.Generator,
    recipe: Recipe,
    spacing_mm: tuple[float, float],
    *,
    diameter_mm: float | None = None,
    contrast: float | None = None,
    lung_mm: float | None = None,
) -> Drawn:
    """Draw a lesion of a recipe for an image of ``spacing_mm`` (row, col).

    Args:
        rng: source of all randomness. The order is profile, diameter, height, contrast, shape,
            texture; values that are given, fixed or absent take no numbers.
        recipe: what to draw.
        spacing_mm: (row, col) of the image it is for.
        diameter_mm: overrides the recipe's.
        contrast: overrides the recipe's.
        lung_mm: the width of the lung that an effusion lies in.

    Raises:
        RequestError: a size or a spacing isn't above 0.
        ValueError: the recipe has no diameter and none is given, or an effusion no lung.
    """
    profile: Profile | Literal[""] = ""
    if recipe.kind == "mass":
        several = len(recipe.profiles) > 1
        profile = recipe.profiles[int(rng.integers(len(recipe.profiles))) if several else 0]
    if diameter_mm is None:
        diameter_mm = _diameter(rng, recipe, lung_mm)
    height_mm = math.nan if recipe.height_mm is None else recipe.height_mm.draw(rng)
    chosen = math.nan if recipe.contrast_last else _contrast(rng, recipe, contrast)
    lesion = _shape(rng, recipe, diameter_mm, height_mm, profile or "dome", spacing_mm)
    if recipe.contrast_last:
        chosen = _contrast(rng, recipe, contrast)
    texture = None
    if recipe.texture is not None and rng.random() < recipe.texture.share:
        strength, slope = recipe.texture.strength.draw(rng), recipe.texture.slope.draw(rng)
        texture = strength, slope
        lesion = textured(rng, lesion, spacing_mm=spacing_mm, strength=strength, slope=slope)
    return Drawn(recipe, diameter_mm, chosen, height_mm, profile, texture, lesion)


def apply(
    pixels: Floats,
    foreground: NDArray[np.bool_],
    drawn: Drawn,
    centre: tuple[int, int],
    *,
    deviation: float,
) -> tuple[Floats, Region]:
    """Add a drawn lesion to an image: the new image and the region of the lesion.

    Args:
        pixels: (H, W) float32 in [0, 1], not changed.
        foreground: (H, W) bool; nothing is added outside it.
        drawn: what to add.
        centre: (row, col) of the lesion's middle pixel.
        deviation: standard deviation of the tissue at this place, the unit of contrast, in the
            unit of ``pixels``: see :func:`deviation_around`.

    Raises:
        RequestError: no pixel of the lesion lies in the foreground.
    """
    return insert(pixels, foreground, drawn.lesion, centre, amplitude=drawn.amplitude(deviation))


def deviation_around(
    pixels: Floats,
    foreground: NDArray[np.bool_],
    centre: tuple[int, int],
    spacing_mm: tuple[float, float],
) -> float:
    """Standard deviation of the foreground within ± 12.8 mm of ``centre`` (row, col).

    In the unit of ``pixels`` (H, W); NaN if there is no foreground there.
    """
    return local_deviation(pixels, foreground, centre, radius_mm=AROUND_MM, spacing_mm=spacing_mm)


def _diameter(rng: np.random.Generator, recipe: Recipe, lung_mm: float | None) -> float:
    if recipe.diameter is None:
        raise ValueError(f"a {recipe.kind} of this recipe needs a diameter: give diameter_mm")
    if recipe.kind != "effusion":
        return recipe.diameter.draw(rng)
    if lung_mm is None:
        raise ValueError("an effusion needs the width of its lung: give lung_mm")
    return lung_mm * recipe.diameter.draw(rng)


def _contrast(rng: np.random.Generator, recipe: Recipe, given: float | None) -> float:
    if given is not None:
        return given
    return math.nan if recipe.contrast is None else recipe.contrast.draw(rng)


def _shape(
    rng: np.random.Generator,
    recipe: Recipe,
    diameter_mm: float,
    height_mm: float,
    profile: Profile,
    spacing_mm: tuple[float, float],
) -> Lesion:
    match recipe.kind:
        case "mass":
            return mass(rng, diameter_mm=diameter_mm, spacing_mm=spacing_mm, profile=profile)
        case "spiculated mass":
            return spiculated_mass(
                rng, diameter_mm=diameter_mm, spacing_mm=spacing_mm, spicules=recipe.spicules
            )
        case "architectural distortion":
            return architectural_distortion(rng, diameter_mm=diameter_mm, spacing_mm=spacing_mm)
        case "calcifications":
            return calcification_cluster(rng, diameter_mm=diameter_mm, spacing_mm=spacing_mm)
        case "nodule" | "consolidation":
            return opacity(rng, diameter_mm=diameter_mm, spacing_mm=spacing_mm, form=recipe.kind)
        case "reticular pattern":
            return reticular_pattern(rng, diameter_mm=diameter_mm, spacing_mm=spacing_mm)
        case "effusion":
            return effusion(rng, width_mm=diameter_mm, height_mm=height_mm, spacing_mm=spacing_mm)
