"""Perlin noise, and the irregular regions that it gives where it is high.

K. Perlin: An image synthesizer. SIGGRAPH 1985, https://doi.org/10.1145/325165.325247. Regions as in
V. Zavrtanik, M. Kristan, D. Skočaj: DRAEM, ICCV 2021, https://arxiv.org/abs/2108.07610.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import rotate

from patchad.core.arrays import Floats, Mask

_CELL = 8  # pixels: the least side of a cell; DRAEM has up to 2^5 cells along 256 pixels
_MOST = 5  # exponent of the number of cells along a side, at most
_HIGH, _TURN = 0.5, 90.0  # above which the noise is a region; degrees it is turned by, each way


def perlin(rng: np.random.Generator, side: int, cells: tuple[int, int]) -> Floats:
    """Noise with a gradient at each corner of ``cells`` (down, across): (side, side) float32.

    Within about ± 1, 0 at the corners; a cell's pixel (0, 0) is its corner.
    """
    angles = rng.uniform(0, 2 * np.pi, (cells[0] + 1, cells[1] + 1))
    slopes = np.stack([np.sin(angles), np.cos(angles)], -1)
    places = [np.arange(side) * count / side for count in cells]
    corners = [place.astype(np.int64) for place in places]
    down, across = (place - corner for place, corner in zip(places, corners, strict=True))

    def ramp(row: int, col: int) -> NDArray[np.float64]:
        slope = slopes[np.ix_(corners[0] + row, corners[1] + col)]
        return slope[..., 0] * (down - row)[:, None] + slope[..., 1] * (across - col)

    rows, cols = (share**3 * (share * (share * 6 - 15) + 10) for share in (down, across))
    left = ramp(0, 0) + (ramp(1, 0) - ramp(0, 0)) * rows[:, None]
    right = ramp(0, 1) + (ramp(1, 1) - ramp(0, 1)) * rows[:, None]
    noise: Floats = (np.sqrt(2) * (left + (right - left) * cols)).astype(np.float32)
    return noise


def perlin_region(rng: np.random.Generator, side: int) -> Mask:
    """Where turned noise is above 0.5: (side, side) bool, sometimes empty.

    Its cells are 2^0 to 2^5 along each side, drawn apart, but no smaller than 8 pixels, as they are
    in pictures of 256 (chosen for smaller ones).
    """
    most = max(min(_MOST, (side // _CELL).bit_length() - 1), 0)
    down, across = (int(exponent) for exponent in rng.integers(0, most + 1, 2))
    noise = perlin(rng, side, (2**down, 2**across))
    region: Mask = turned(rng, noise, _TURN) > _HIGH
    return region


def turned(rng: np.random.Generator, picture: Floats, most: float) -> Floats:
    """``picture`` turned by up to ``most`` degrees each way, 0 where it doesn't reach."""
    found: Floats = rotate(picture, rng.uniform(-most, most), reshape=False, order=1)
    return found
