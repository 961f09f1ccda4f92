"""The overall look of a film: a few measures to recognise one of the wrong kind.

All are taken on a small copy, so that they are cheap and hardly depend on the resolution.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from patchad.core.arrays import Floats
from patchad.prepare.foreground import BodyPart
from patchad.prepare.resize import resize

Scale = Literal["known", "assumed", "unknown"]

SIDE = 128  # pixels of the longer side of the copy
LAYOUT = 12  # cells per side of the layouts
_SCALES = (1.0, 2.0, 4.0, 8.0)  # pixels of the copy: Gaussians for the bands of structure
_LEAST = 1e-3  # of brightness; smaller spreads are raised to this
_STEPS = 64  # grey levels, for the entropy
_RIM = 4  # pixels of the copy at the foreground's edge, which show the outline, not tissue
_AIR = 0.02  # least share of air in the image for its brightness to be measured


@dataclass(frozen=True, eq=False)
class Look:
    """The overall look of a prepared film.

    ``body_part`` is that of the preprocessing. ``measures`` by name, NaN where undefined: shares in
    [0, 1], brightness as read, natural logarithms of ratios. ``picture`` (12, 12) float32 is the
    foreground's brightness by place, scaled to mean 0 and deviation 1; ``outline`` (12, 12) float32
    is the share of foreground. In both, breasts have the end with more foreground at the left.
    ``pixels`` is the longer side of the image as stored; ``pixel_mm`` the larger side of its
    pixels, known or assumed, NaN if unknown.
    """

    body_part: BodyPart
    measures: Mapping[str, float]
    picture: Floats
    outline: Floats
    pixels: int
    pixel_mm: float = math.nan

    def __post_init__(self) -> None:
        self.picture.flags.writeable = self.outline.flags.writeable = False


def look_at(
    pixels: Floats,
    mask: NDArray[np.bool_],
    body_part: BodyPart,
    step: tuple[float, float] = (1.0, 1.0),
    scale: Scale = "unknown",
) -> Look:
    """Measure an upright film.

    Args:
        pixels: (H, W) float32 in [0, 1], as read, before normalisation.
        mask: (H, W) bool, the foreground, not empty.
        body_part: breast or chest; a chest's foreground is a field, so it has fewer measures.
        step: (height, width) of a pixel, in mm unless ``scale`` is unknown.
        scale: whether the pixel spacing is known, assumed or unknown.
    """
    extent = [n * s for n, s in zip(pixels.shape, step, strict=True)]
    rows, cols = (max(8, round(length * SIDE / max(extent))) for length in extent)
    small = _shrink(pixels, (rows, cols))
    share = _shrink(mask, (rows, cols))
    inside = share >= min(0.5, float(share.max()))
    rows_in, cols_in = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    box = inside[rows_in[0] : rows_in[-1] + 1, cols_in[0] : cols_in[-1] + 1]
    near, far = (float(box[:, end].mean()) for end in (_end(box, 1), _end(box, 1, last=True)))
    if body_part == "breast" and far > near:
        small, inside, box, near, far = small[:, ::-1], inside[:, ::-1], box[:, ::-1], far, near
    values = small[inside]
    low, middle, high = (float(v) for v in np.percentile(values, (5, 50, 95)))
    spread = max(high - low, _LEAST)
    counts = np.histogram(values, _STEPS, (low, low + spread))[0] / len(values)
    structure = _structure((small - middle) / spread, inside)
    measures = {
        "area": float(inside.mean()),
        "aspect": math.log(box.shape[0] / box.shape[1]),
        "image_aspect": math.log(extent[0] / extent[1]),
        "median": middle,
        "spread": high - low,
        "skew": (high + low - 2 * middle) / spread,
        "entropy": -float(sum(c * math.log(c) for c in counts if c > 0)),
        **{f"structure_{n}": value for n, value in enumerate(structure)},
        "slope": structure[0] - structure[-1],
        "height": math.nan,
    }
    if scale == "known":
        measures["height"] = math.log(box.shape[0] * extent[0] / rows)
    if body_part == "breast":
        border = max(2, SIDE // 64)
        sides = sorted((inside[:, :border].mean(), inside[:, -border:].mean()))
        air = small[~inside]
        measures |= {
            "fill": float(box.mean()),
            "wall_end": near,
            "free_end": far,
            "top_end": float(box[_end(box, 0)].mean()),
            "bottom_end": float(box[_end(box, 0, last=True)].mean()),
            "wall_border": float(sides[1]),
            "free_border": float(sides[0]),
            "top_border": float(inside[:border].mean()),
            "bottom_border": float(inside[-border:].mean()),
            "over_air": middle - float(np.median(air))
            if len(air) > _AIR * small.size
            else math.nan,
        }
    picture = _shrink(np.where(inside, small, small.min()), (LAYOUT, LAYOUT))
    return Look(
        body_part,
        measures,
        (picture - picture.mean()) / max(float(picture.std()), _LEAST),
        _shrink(inside, (LAYOUT, LAYOUT)),
        max(pixels.shape),
        math.nan if scale == "unknown" else max(step),
    )


def _structure(values: Floats, inside: NDArray[np.bool_]) -> list[float]:
    """Logarithms of the contrast in bands of growing size, away from the foreground's edge."""
    core = ndimage.binary_erosion(inside, iterations=_RIM)
    core = core if core.sum() >= 64 else inside
    weight = inside.astype(np.float32)
    before, found = np.where(inside, values, np.float32(0)), []
    for sigma in _SCALES:
        total = ndimage.gaussian_filter(np.where(inside, values, np.float32(0)), sigma)
        smooth = total / np.maximum(ndimage.gaussian_filter(weight, sigma), _LEAST)
        found.append(math.log(float(np.std((before - smooth)[core])) + 1e-4))
        before = smooth
    return found


def _shrink(values: NDArray[np.generic], shape: tuple[int, int]) -> Floats:
    """``values`` at ``shape``, float32, from at most about 16 of them per pixel, for speed."""
    skip = max(1, min(n // (4 * m) for n, m in zip(values.shape, shape, strict=True)))
    return resize(values[::skip, ::skip].astype(np.float32), shape)


def _end(box: NDArray[np.bool_], axis: int, *, last: bool = False) -> slice:
    """The first or last 20th of a box."""
    width = max(1, box.shape[axis] // 20)
    return slice(-width, None) if last else slice(width)
