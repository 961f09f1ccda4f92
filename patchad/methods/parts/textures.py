"""Textures to blend into pictures, in place of the photographs that DRAEM takes.

V. Zavrtanik, M. Kristan, D. Skočaj, ICCV 2021, take textures of a data set of photographs (DTD).
Here they are parts of other pictures of the training set, or noise with the spectrum of tissue.
"""

from collections.abc import Callable

import numpy as np

from patchad.core.arrays import Floats
from patchad.lesions.noise import power_law_field
from patchad.methods.parts.perlin import turned
from patchad.prepare.resize import resize

_CHANGES = 3  # of a texture, as in DRAEM
_NOISE = 0.5  # chance of noise in place of a picture (chosen)
_SLOPES = (2.0, 4.0)  # of the noise's power; tissue has about 3
_DEVIATION = 0.2  # of the noise, around 0.5
_ZOOM = (0.25, 1.0)  # share of the picture's side that becomes the whole (chosen)
_TURN = 45.0  # degrees


def texture(rng: np.random.Generator, pictures: Floats, own: int) -> Floats:
    """A texture for picture number ``own`` of ``pictures`` (N, S, S): (S, S) float32 in [0, 1].

    Three changes of tone or direction are made to it, as in DRAEM; those of colour and sharpness
    are left out.
    """
    count, side = len(pictures), pictures.shape[-1]
    if count == 1 or rng.random() < _NOISE:
        slope = rng.uniform(*_SLOPES)
        noise = power_law_field(rng, (side, side), (1.0, 1.0), slope=slope, longest_mm=side)
        made: Floats = np.clip(0.5 + _DEVIATION * noise, 0, 1)
    else:
        made = _part(rng, pictures[(own + int(rng.integers(1, count))) % count])
    for number in rng.choice(len(CHANGES), _CHANGES, replace=False):
        made = CHANGES[number](rng, made)
    return made.astype(np.float32)


def _part(rng: np.random.Generator, picture: Floats) -> Floats:
    """A square of a picture, enlarged to the whole, mirrored and turned by right angles."""
    side = len(picture)
    cut = max(1, round(side * rng.uniform(*_ZOOM)))
    row, col = rng.integers(0, side - cut + 1, 2)
    part = resize(picture[row : row + cut, col : col + cut], (side, side))
    part = part if rng.random() < 0.5 else part.T
    return np.rot90(part, int(rng.integers(4)))


def _gamma(rng: np.random.Generator, picture: Floats) -> Floats:
    raised: Floats = picture ** rng.uniform(0.5, 2.0)
    return raised


def _brightness(rng: np.random.Generator, picture: Floats) -> Floats:
    scaled = picture * rng.uniform(0.8, 1.2) + rng.uniform(-30, 30) / 255
    found: Floats = np.clip(scaled, 0, 1)
    return found


def _solarised(rng: np.random.Generator, picture: Floats) -> Floats:
    if rng.random() < 0.5:
        return picture
    return np.where(picture >= rng.uniform(32, 128) / 255, 1 - picture, picture)


def _posterised(rng: np.random.Generator, picture: Floats) -> Floats:
    steps = 2 ** int(rng.integers(1, 9))
    found: Floats = np.minimum(np.floor(picture * steps), steps - 1) / steps
    return found


def _inverted(rng: np.random.Generator, picture: Floats) -> Floats:
    found: Floats = 1 - picture
    return found


def _stretched(rng: np.random.Generator, picture: Floats) -> Floats:
    cutoff = rng.uniform(0, 20)
    low, high = np.percentile(picture, (cutoff, 100 - cutoff))
    found: Floats = np.clip((picture - low) / max(high - low, 1e-6), 0, 1)
    return found


def _equalised(rng: np.random.Generator, picture: Floats) -> Floats:
    """Each value's rank among the picture's."""
    ranks = np.searchsorted(np.sort(picture, None), picture, "right") / picture.size
    return ranks.astype(np.float32)


def _turned(rng: np.random.Generator, picture: Floats) -> Floats:
    return turned(rng, picture, _TURN)


# (rng, a picture in [0, 1]) → the same, changed
CHANGES: tuple[Callable[[np.random.Generator, Floats], Floats], ...] = (
    _gamma,
    _brightness,
    _solarised,
    _posterised,
    _inverted,
    _stretched,
    _equalised,
    _turned,
)
