"""Pseudo anomalies: parts of one picture planted in another, with the label of each pixel.

Foreign patches as in FPI, PII and NSA, cut-paste and scars as in CutPaste; each function cites its
paper. All work on NumPy arrays on the CPU, (row, col) float32, and draw from the generator given.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from skimage.filters import rank
from skimage.morphology import disk, footprint_rectangle

from patchad.core.arrays import Floats, Mask
from patchad.methods.parts.poisson import clone
from patchad.prepare.resize import resize

Blend = Literal["mixed", "swap"]
Label = Literal["logistic", "binary"]

CHANGED = 1e-3  # of a standardised pixel, from which FPI and PII count it as changed
_STEPS = 255.0  # NSA measures changes in 8-bit steps
_TRIES = 200  # of a place for a patch of NSA, as its code has it
_SIDE = 224  # of the pictures that NSA filters its labels at


class Planted(NamedTuple):
    """A picture with a pseudo anomaly, and its label: (S, S) float32 both, labels in [0, 1]."""

    pixels: Floats
    label: Floats


class Picture(NamedTuple):
    """A picture (S, S) float32 in [0, 1], and which of its pixels show the object (S, S) bool."""

    pixels: Floats
    shown: Mask


def numpy_rng(generator: torch.Generator) -> np.random.Generator:
    """A NumPy generator seeded by the next number of a step's generator."""
    return np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))


def others(
    rng: np.random.Generator, which: NDArray[np.int64], count: int, *, same: bool
) -> NDArray[np.int64]:
    """For each picture of ``which`` (n,) one of ``count`` sources: (n,) int64.

    Where the sources are the ``same`` pictures, another one.
    """
    if not same:
        return rng.integers(count, size=len(which))
    found: NDArray[np.int64] = (which + rng.integers(1, count, size=len(which))) % count
    return found


def interpolate(rng: np.random.Generator, target: Floats, source: Floats) -> Planted:
    """A square of the target mixed with the same square of the source, evenly.

    FPI (J. Tan et al., MELBA 2022:013, https://arxiv.org/abs/2011.04197): (1 - α) target +
    α source, α ~ U(0.05, 0.95). The label is α where the pictures differ, else 0.
    """
    place, alpha = _square(rng, len(target)), rng.uniform(0.05, 0.95)
    planted = target.copy()
    planted[place] += np.float32(alpha) * (source[place] - target[place])
    differs = np.zeros(target.shape, bool)
    differs[place] = np.abs(source[place] - target[place]) > CHANGED
    return Planted(planted, alpha_label(differs, alpha))


def interpolate_gradients(rng: np.random.Generator, target: Floats, source: Floats) -> Planted:
    """A square of the target in which its gradients are mixed with the source's, without a seam.

    PII (J. Tan et al., MICCAI 2021, https://arxiv.org/abs/2107.02622): each pair of neighbours has
    the larger in size of (1 - α) × the target's difference and α × the source's, and Poisson's
    equation is solved for the square. The label is α where that changed the target, else 0.
    """
    rows, cols = _square(rng, len(target), margin=1)
    alpha = rng.uniform(0.05, 0.95)
    around = np.s_[rows.start - 1 : rows.stop + 1, cols.start - 1 : cols.stop + 1]
    mixed = clone(target[around], source[around], 1 - alpha, alpha)
    planted = target.copy()
    planted[rows, cols] = np.clip(mixed, target.min(), target.max())
    return Planted(planted, alpha_label(np.abs(planted - target) > CHANGED, alpha))


@dataclass(frozen=True)
class Natural:
    """How NSA plants patches; the defaults are those of its released code for chest films.

    Lengths are shares of the picture's side. A half-width is ``least_width`` + a draw from
    Gamma(``shape``, ``scale``), within ``bounds``, for rows and columns apart; the cut patch is
    resized by N(1, 0.5) clipped to ``resize``, its whole width within ``bounds`` too, as the code
    has it. ``object`` is the least share of the patch that shows the object, ``overlap`` the least
    share of that which falls on the target's object. Up to ``patches``: one, and each further one
    by the toss of a coin. ``mixed`` blends by Poisson's equation with the larger of both gradients,
    ``swap`` replaces. The label is a ``logistic`` function of the change, with ``slope`` and
    ``middle`` in 8-bit steps, or ``binary``.
    """

    shape: float = 2.0
    scale: float = 0.03
    least_width: float = 0.05
    bounds: tuple[float, float] = (0.03, 0.4)
    resize: tuple[float, float] = (0.7, 1.3)
    object: float = 0.7
    overlap: float = 0.7
    patches: int = 3
    blend: Blend = "mixed"
    label: Label = "logistic"
    slope: float = 0.5
    middle: float = 4.0


def natural(rng: np.random.Generator, target: Picture, source: Picture, recipe: Natural) -> Planted:
    """Patches of the source planted elsewhere in the target, so that they look natural.

    NSA (H. M. Schlüter et al., ECCV 2022, https://arxiv.org/abs/2109.15222). Where no place for a
    patch is found in 200 tries, there is one patch less.
    """
    planted, mask = target.pixels.copy(), np.zeros(target.pixels.shape, bool)
    for number in range(recipe.patches):
        if number and rng.random() < 0.5:
            continue
        patch = _cut(rng, source, recipe)
        place = _place(rng, target, patch, recipe) if patch else None
        if patch is None or place is None:
            continue
        within = patch.shown | target.shown[place]
        here = planted[place]
        if recipe.blend == "swap":
            here[within] = patch.pixels[within]
        else:
            here[1:-1, 1:-1] = np.clip(clone(here, patch.pixels, 1, 1), 0, 1)
        mask[place] |= within
    return Planted(planted, _graded(planted, target.pixels, mask, recipe))


def cut_paste(rng: np.random.Generator, target: Floats, source: Floats) -> Floats:
    """The target with a rectangle of the source pasted elsewhere.

    CutPaste (C.-L. Li et al., CVPR 2021, https://arxiv.org/abs/2104.04015): 2 to 15 % of the area,
    sides in a ratio of 0.3 to 3.3, uniform in its logarithm, brightness and contrast changed by up
    to a tenth. The paper's source is the target.
    """
    side = len(target)
    area, ratio = rng.uniform(0.02, 0.15) * side**2, math.exp(rng.uniform(*np.log((0.3, 1 / 0.3))))
    height, width = (
        min(max(round(math.sqrt(area * factor)), 1), side) for factor in (ratio, 1 / ratio)
    )
    patch = jittered(rng, source[_anywhere(rng, side, height, width)])
    planted = target.copy()
    planted[_anywhere(rng, side, height, width)] = patch
    return planted


def scar(rng: np.random.Generator, target: Floats, source: Floats) -> Floats:
    """The target with a thin, turned strip of the source pasted elsewhere.

    CutPaste's scar: 2 to 16 pixels wide and 10 to 25 long in pictures of 256, here in proportion;
    turned by up to 45°; brightness and contrast changed by up to a tenth.
    """
    side = len(target)
    width, height = (
        min(max(round(rng.uniform(*ends) * side / 256), least), side)
        for ends, least in (((2, 16), 1), ((10, 25), 2))
    )
    strip = jittered(rng, source[_anywhere(rng, side, height, width)])
    angle = rng.uniform(-45, 45)
    # A border of nothing, so that the strip's own edge stays where it is.
    solid = ndimage.rotate(np.pad(np.ones_like(strip), 1), angle, order=1, mode="constant")
    turned = ndimage.rotate(np.pad(strip, 1, mode="edge"), angle, order=1, mode="nearest")
    turned, inside = turned[:side, :side], solid[:side, :side] >= 0.5
    planted = target.copy()
    here = planted[_anywhere(rng, side, *turned.shape)]
    here[inside] = turned[inside]
    return planted


def jittered(rng: np.random.Generator, patch: Floats, most: float = 0.1) -> Floats:
    """A patch with its brightness and its contrast changed by up to ``most``, within [0, 1]."""
    bright, contrast = rng.uniform(1 - most, 1 + most, 2).astype(np.float32)
    patch = patch * bright
    mean = patch.mean(dtype=np.float64).astype(np.float32)
    changed: Floats = np.clip((patch - mean) * contrast + mean, 0, 1)
    return changed


def alpha_label(changed: Mask, alpha: float) -> Floats:
    """α where a pixel has changed, else 0."""
    return changed.astype(np.float32) * np.float32(alpha)


def logistic_label(steps: Floats, changed: Mask, slope: float, middle: float) -> Floats:
    """1 / (1 + e^(-slope (Δ - middle))) of the change Δ in 8-bit ``steps``; 0 where unchanged."""
    grade = 1 / (1 + np.exp(-slope * (steps.astype(np.float32) - middle)))
    label: Floats = (grade * changed).astype(np.float32)
    return label


def median(steps: Floats, radius: int) -> Floats:
    """The median of whole 8-bit steps (S, S) within a disc around each pixel."""
    found = rank.median(_bytes(steps), disk(radius))  # type: ignore[no-untyped-call]
    return np.asarray(found, np.float32)


def majority(mask: Mask, radius: int) -> Mask:
    """Whether most pixels of the square of 2 ``radius`` + 1 around are true."""
    side = 2 * radius + 1
    square = footprint_rectangle((side, side))  # type: ignore[no-untyped-call]
    found = rank.median(_bytes(mask), square)  # type: ignore[no-untyped-call]
    return np.asarray(found, bool)


def _graded(planted: Floats, untouched: Floats, mask: Mask, recipe: Natural) -> Floats:
    """The label of what was planted in ``mask``; filters see the part around it alone."""
    label = np.zeros(mask.shape, np.float32)
    if not mask.any():
        return label
    fine, coarse = (_radius(pixels, len(mask)) for pixels in (2, 5))
    near = tuple(
        slice(max(int(line[0]) - fine - coarse, 0), int(line[-1]) + 1 + fine + coarse)
        for line in (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    )
    steps = np.abs(planted[near] - untouched[near]) * _STEPS * mask[near]
    changed = majority(steps > 1, fine)
    if recipe.label == "binary":
        label[near] = changed
    else:
        smooth = median(steps * changed, coarse)
        label[near] = logistic_label(smooth, changed, recipe.slope, recipe.middle)
    return label


def _bytes(values: Floats | Mask) -> NDArray[np.uint8]:
    found: NDArray[np.uint8] = np.rint(np.minimum(values, _STEPS)).astype(np.uint8)
    return found


def _radius(pixels: int, side: int) -> int:
    """A filter's radius for pictures of ``side``, from that at NSA's own."""
    return max(1, round(pixels * side / _SIDE))


def _square(rng: np.random.Generator, side: int, margin: int = 0) -> tuple[slice, slice]:
    """Where FPI and PII plant: half-widths of 0.05 to 0.2, the middle in the middle 80 %."""
    half = int(rng.integers(round(0.05 * side), max(round(0.2 * side), round(0.05 * side) + 1)))
    first, end = round(0.1 * side), round(0.9 * side)
    middle = rng.integers(first, end, 2)
    rows, cols = (
        slice(max(int(m) - half, margin), min(int(m) + max(half, 1), side - margin)) for m in middle
    )
    return rows, cols


def _anywhere(rng: np.random.Generator, side: int, height: int, width: int) -> tuple[slice, slice]:
    top, left = (int(rng.integers(side - length + 1)) for length in (height, width))
    return slice(top, top + height), slice(left, left + width)


def _cut(rng: np.random.Generator, source: Picture, recipe: Natural) -> Picture | None:
    """A patch of the source, resized; None where it has no place with enough of the object."""
    side = len(source.pixels)
    least, most = (round(bound * side) for bound in recipe.bounds)
    drawn = (recipe.least_width + rng.gamma(recipe.shape, recipe.scale, 2)) * side
    halves = np.clip(drawn, max(least, 1), most).astype(int)
    for _ in range(_TRIES):
        middles = rng.integers(least, side - least, 2)
        place = tuple(
            slice(max(int(m - h), 0), min(int(m + h), side))
            for m, h in zip(middles, halves, strict=True)
        )
        shown = source.shown[place]
        if shown.mean() > recipe.object:
            break
    else:
        return None
    factor = float(np.clip(rng.normal(1, 0.5), *recipe.resize))
    if recipe.resize != (1.0, 1.0):
        height, width = shown.shape
        tall = float(np.clip(factor * height, least, most))
        wide = int(np.clip(int(tall / height * width), least, most))
        shape = (max(int(np.clip(wide / width * height, least, most)), 3), max(wide, 3))
        pixels = resize(source.pixels[place], shape)
        return Picture(pixels, resize(shown.astype(np.float32), shape) >= 0.5)
    return Picture(source.pixels[place], shown)


def _place(
    rng: np.random.Generator, target: Picture, patch: Picture, recipe: Natural
) -> tuple[slice, slice] | None:
    """Where the patch goes; None where no place has enough of the target's object under it."""
    area = patch.shown.sum()
    if area <= recipe.object * patch.shown.size:
        return None
    for _ in range(_TRIES):
        place = _anywhere(rng, len(target.pixels), *patch.pixels.shape)
        if (target.shown[place] & patch.shown).sum() > recipe.overlap * area:
            return place
    return None
