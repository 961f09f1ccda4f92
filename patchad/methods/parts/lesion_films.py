"""Films in cells of 0.8 mm, as a network sees them, with lesions drawn into negatives.

What :mod:`patchad.methods.synthetic.synthetic_lesions` is trained on. Arrays are (row, col) in
cells.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from patchad.lesions.recipes import TRAINING_MASSES, draw
from patchad.lesions.shapes import Lesion, insert
from patchad.prepare.filters import Floats, Mask
from patchad.prepare.preprocess import Prepared
from patchad.prepare.resize import resize

CELL_MM = 0.8
CROP = 64  # cells a side
CHANNELS = 4
Range = tuple[float, float]

_NEAR, _FAR = 6.0, 12.0  # cells: standard deviations of the Gaussians that are the surroundings
_FINE = 0.7  # cells: of the Gaussian before the gradient
_QUIET, _FLAT = 0.008, 6e-4  # what deviation and gradient are told from; pixels are in [0, 1]
_LEVEL = 0.1  # that the last channel is divided by
_MARGIN = 8  # cells kept around the tissue
_LESIONS, _APART = 6, 30  # a film at most; cells between their middles at least
_JITTER = 28  # cells that a lesion may lie off the middle of its crop
# Lesions count alike, whatever their size: each as so many cells; but no cell less or more than
_COUNTED, _WEIGHTS = 150.0, (0.3, 4.0)
_LEAST_CONTRAST = 0.03  # pixel value: added to the local deviation, which fat has next to none of


@dataclass(frozen=True, eq=False)
class Film:
    """The part of an image with tissue, in cells: (h, w) arrays.

    ``pixels`` float32 in [0, 1]; ``tissue`` bool; ``nearest`` (2, h, w) int16, where each cell's
    nearest tissue is; ``dense`` (n,) int32, flat places of the tissue from fat to dense. ``corner``
    (row, col) is where the part lies in the whole image of ``shape`` cells.
    """

    pixels: Floats
    tissue: Mask
    nearest: NDArray[np.int16]
    dense: NDArray[np.int32]
    corner: tuple[int, int]
    shape: tuple[int, int]

    @classmethod
    def of(cls, image: Prepared) -> "Film":
        """Of a prepared image.

        Raises:
            ImageError: nobody said its pixel spacing.
        """
        rows, cols = (
            max(1, round(n * s / CELL_MM))
            for n, s in zip(image.pixels.shape, image.known_spacing, strict=True)
        )
        share = resize(image.tissue.astype(np.float32), (rows, cols))
        tissue = share >= min(0.5, float(share.max()))
        lines = [np.flatnonzero(tissue.any(axis)) for axis in (1, 0)]
        part = tuple(slice(max(int(at[0]) - _MARGIN, 0), int(at[-1]) + 1 + _MARGIN) for at in lines)
        tissue = tissue[part]
        pixels = resize(image.pixels, (rows, cols))[part]
        nearest = ndimage.distance_transform_edt(
            ~tissue, return_distances=False, return_indices=True
        ).astype(np.int16)
        density = _surroundings(pixels[nearest[0], nearest[1]], _NEAR)
        places = np.flatnonzero(tissue)
        dense = places[np.argsort(density.ravel()[places], kind="stable")].astype(np.int32)
        return cls(pixels, tissue, nearest, dense, (part[0].start, part[1].start), (rows, cols))

    def filled(self, pixels: Floats) -> Floats:
        """``pixels`` (h, w), with the nearest tissue's value in the air."""
        found: Floats = pixels[self.nearest[0], self.nearest[1]]
        return found

    def whole(self, values: Floats) -> Floats:
        """``values`` (h, w) of the tissue in the frame of the image's cells, NaN elsewhere."""
        frame = np.full(self.shape, np.nan, np.float32)
        (top, left), (rows, cols) = self.corner, values.shape
        frame[top : top + rows, left : left + cols] = np.where(self.tissue, values, np.nan)
        return frame


@dataclass(frozen=True, eq=False)
class Planted:
    """A film with lesions, at least as large as a crop.

    ``channels`` (4, h, w) float32; ``lesion`` (h, w) bool; ``weight`` (h, w) float32 is how much a
    cell counts: 0 in the air, 1 in the tissue, in a small lesion more, in a large one less.
    ``centres`` (L, 2) int64 are the lesions' middles (row, col), ``dense`` as in :class:`Film`, for
    ``width`` cells a row.
    """

    channels: Floats
    lesion: Mask
    weight: Floats
    centres: NDArray[np.int64]
    dense: NDArray[np.int32]
    width: int


def channels(filled: Floats) -> Floats:
    """What the network sees of a film without air (h, w) in [0, 1]: (4, h, w) float32.

    With G a Gaussian mean of so many cells: (x - G₆) / (s₆ + 0.008), s₆ the deviation from it;
    2 ∂x / n and 2 ∂y / n (columns, rows), n the gradient's length + 6e-4; (x - G₁₂) / 0.1.
    Adding to all pixels changes nothing; contrast changes the last in proportion, and the others
    only by the constants that stand beside it.
    """
    above = filled - _surroundings(filled, _NEAR)
    smooth = ndimage.gaussian_filter(filled, _FINE, mode="nearest")
    down, right = (
        np.gradient(smooth, axis=k) if smooth.shape[k] > 1 else 0 * smooth for k in (0, 1)
    )
    length = np.hypot(down, right) + np.float32(_FLAT)
    level = (filled - _surroundings(filled, _FAR)) / np.float32(_LEVEL)
    relative = above / (_deviation(above, _NEAR) + np.float32(_QUIET))
    return np.stack([relative, 2 * right / length, 2 * down / length, level]).astype(np.float32)


def plant(rng: np.random.Generator, film: Film, radius_mm: Range, contrast: Range) -> Planted:
    """Draw lesions into a film: up to six, apart from each other, oftener where it is dense."""
    pixels, lesions = film.pixels, np.zeros(film.tissue.shape, bool)
    weight = film.tissue.astype(np.float32)
    filled = film.filled(pixels)
    around = _deviation(filled - _surroundings(filled, _FAR), _FAR)
    centres: list[tuple[int, int]] = []
    for _ in range(_LESIONS):
        # A cell's chance grows in proportion to its rank.
        cell = film.dense[int(len(film.dense) * np.sqrt(rng.random()))]
        row, col = divmod(int(cell), film.tissue.shape[1])
        if any((row - r) ** 2 + (col - c) ** 2 < _APART**2 for r, c in centres):
            continue
        amplitude = _log_uniform(rng, contrast) * (float(around[row, col]) + _LEAST_CONTRAST)
        lesion = draw_lesion(rng, radius_mm)
        pixels, region = insert(pixels, film.tissue, lesion, (row, col), amplitude=amplitude)
        top, left = int(region.y), int(region.x)
        place = np.s_[top : top + int(region.height), left : left + int(region.width)]
        assert region.mask is not None  # of an inserted lesion
        lesions[place] |= region.mask
        weight[place][region.mask] = np.clip(_COUNTED / region.mask.sum(), *_WEIGHTS)
        centres.append((row, col))
    seen = channels(film.filled(pixels))
    height, width = film.tissue.shape
    short = [(0, max(CROP - height, 0)), (0, max(CROP - width, 0))]
    return Planted(
        np.pad(seen, [(0, 0), *short], mode="edge"),
        np.pad(lesions, short),
        np.pad(weight, short),
        np.array(centres, np.int64),
        film.dense,
        width,
    )


def draw_lesion(rng: np.random.Generator, radius_mm: Range) -> Lesion:
    """A mass, or for two in five a spiculated one, with texture for three in ten."""
    diameter = 2 * _log_uniform(rng, radius_mm)
    recipe = TRAINING_MASSES.pick(rng)
    return draw(rng, recipe, (CELL_MM, CELL_MM), diameter_mm=diameter).lesion


def cut_crops(
    rng: np.random.Generator, pool: Sequence[Planted], count: int
) -> tuple[Floats, Floats, Floats]:
    """Crops from anywhere in the films of ``pool``, the first half of them around a lesion.

    Half of them are mirrored, each way. Returns channels (N, 4, 64, 64), and whether a cell lies
    in a lesion and how much it counts, (N, 64, 64) float32 each.
    """
    seen, lesions, weights = [], [], []
    for number in range(count):
        film = pool[int(rng.integers(len(pool)))]
        if number < count / 2:
            middle = film.centres[int(rng.integers(len(film.centres)))]
            middle = middle + rng.integers(-_JITTER, _JITTER + 1, 2)
        else:
            middle = np.array(divmod(int(rng.choice(film.dense)), film.width))
        top, left = np.clip(middle - CROP // 2, 0, np.subtract(film.lesion.shape, CROP))
        place = np.s_[..., top : top + CROP, left : left + CROP]
        axes = tuple(axis for axis in (-2, -1) if rng.random() < 0.5)
        seen.append(mirrored(film.channels[place], axes))
        lesions.append(np.flip(film.lesion[place], axes))
        weights.append(np.flip(film.weight[place], axes))
    return np.stack(seen), np.stack(lesions).astype(np.float32), np.stack(weights)


def mirrored(seen: Floats, axes: tuple[int, ...]) -> Floats:
    """The channels (…, 4, h, w) of the film mirrored along ``axes`` (-2: upside down)."""
    signs = np.ones((CHANNELS, 1, 1), np.float32)
    signs[1], signs[2] = (-1 if axis in axes else 1 for axis in (-1, -2))
    turned: Floats = np.flip(seen, axes) * signs
    return turned


def _surroundings(values: Floats, sigma: float) -> Floats:
    """A wide Gaussian mean, of ``sigma`` cells, taken on a copy of half the size."""
    half = ((values.shape[0] + 1) // 2, (values.shape[1] + 1) // 2)
    smooth = ndimage.gaussian_filter(resize(values, half), sigma / 2, mode="nearest", truncate=3.0)
    return resize(smooth, (values.shape[0], values.shape[1]))


def _deviation(above: Floats, sigma: float) -> Floats:
    """The local standard deviation of what is ``above`` its surroundings."""
    deviation: Floats = np.sqrt(np.maximum(_surroundings(above**2, sigma), 0))
    return deviation


def _log_uniform(rng: np.random.Generator, ends: Range) -> float:
    return float(np.exp(rng.uniform(*np.log(ends))))
