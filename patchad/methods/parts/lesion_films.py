"""Films in cells of 0.8 mm, as a network sees them, with lesions drawn into negatives.

What :mod:`patchad.methods.synthetic.synthetic_lesions` is trained on. Arrays are (row, col) in
cells.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from patchad.core.arrays import Floats, Mask
from patchad.lesions.recipes import TRAINING_MASSES, draw
from patchad.lesions.shapes import Lesion, insert
from patchad.methods.parts.cells import CELL_MM, cell_shape, cells
from patchad.prepare.preprocess import Prepared
from patchad.prepare.resize import resize, resize_tensor
from patchad.prepare.smoothing import gaussian

CROP = 64  # cells a side
CHANNELS = 4
Range = tuple[float, float]

_NEAR, _FAR = 6.0, 12.0  # cells: standard deviations of the Gaussians that are the surroundings
_FINE = 0.7  # cells: of the Gaussian before the gradient
_QUIET, _FLAT = (
    0.008,
    6e-4,
)  # added to deviation and gradient, so that neither is 0; pixels are in [0, 1]
_LEVEL = 0.1  # that the last channel is divided by
_LESIONS, _APART = 6, 30  # a film at most; cells between their middles at least
_JITTER = 28  # cells that a lesion may lie off the middle of its crop
# Lesions of all sizes weigh the same: as this many cells; but no cell less or more than
_COUNTED, _WEIGHTS = 150.0, (0.3, 4.0)
_LEAST_CONTRAST = 0.03  # pixel value: added to the local deviation, which fat has next to none of


@dataclass(frozen=True, eq=False)
class Canvas:
    """The part of a film with tissue, in cells, on the CPU: (h, w) arrays.

    ``pixels`` float32 in [0, 1]; ``tissue`` bool; ``nearest`` (2, h, w) int16, where each cell's
    nearest tissue is; ``dense`` (n,) int32, flat places of the tissue from fat to dense.
    """

    pixels: Floats
    tissue: Mask
    nearest: NDArray[np.int16]
    dense: NDArray[np.int32]

    @classmethod
    def of(cls, image: Prepared) -> "Canvas":
        """Of a prepared image.

        Raises:
            ImageError: its pixel spacing is unknown.
        """
        shape = (image.pixels.shape[0], image.pixels.shape[1])
        part = cells(image)
        whole = resize(image.pixels, cell_shape(shape, image.known_spacing))
        pixels = whole[np.ix_(part["rows"], part["cols"])]
        tissue, nearest = part["tissue"], part["nearest"].astype(np.int16)
        filled = torch.from_numpy(pixels[nearest[0], nearest[1]])
        density = _surroundings(filled, _NEAR).numpy()
        places = np.flatnonzero(tissue)
        dense = places[np.argsort(density.ravel()[places], kind="stable")].astype(np.int32)
        return cls(pixels, tissue, nearest, dense)

    def filled(self, pixels: Floats) -> Tensor:
        """``pixels`` (h, w), with the nearest tissue's value in the air."""
        return torch.from_numpy(pixels[self.nearest[0], self.nearest[1]])


@dataclass(frozen=True, eq=False)
class Planted:
    """A film with lesions, at least as large as a crop.

    ``channels`` (4, h, w) float32; ``lesion`` (h, w) bool; ``weight`` (h, w) float32 is how much a
    cell counts: 0 in the air, 1 in the tissue, in a small lesion more, in a large one less.
    ``centres`` (L, 2) int64 are the lesions' middles (row, col), ``dense`` as in :class:`Canvas`,
    for ``width`` cells a row. All is on the CPU.
    """

    channels: Tensor
    lesion: Mask
    weight: Floats
    centres: NDArray[np.int64]
    dense: NDArray[np.int32]
    width: int


def channels(filled: Tensor) -> Tensor:
    """What the network sees of a film without air (h, w) in [0, 1]: (4, h, w) float32.

    With G a Gaussian mean of so many cells: (x - G₆) / (s₆ + 0.008), s₆ the deviation from it;
    2 ∂x / n and 2 ∂y / n (columns, rows), n the gradient's length + 6e-4; (x - G₁₂) / 0.1.
    Adding to all pixels changes nothing; contrast changes the last in proportion, and the others
    only by the constants that are added.
    """
    above = filled - _surroundings(filled, _NEAR)
    fine = gaussian(filled, (_FINE, _FINE), border="nearest", truncate=4.0)
    down, right = torch.gradient(fine)
    length = torch.hypot(down, right) + _FLAT
    level = (filled - _surroundings(filled, _FAR)) / _LEVEL
    relative = above / (_deviation(above, _NEAR) + _QUIET)
    return torch.stack([relative, 2 * right / length, 2 * down / length, level])


def plant(rng: np.random.Generator, film: Canvas, radius_mm: Range, contrast: Range) -> Planted:
    """Draw lesions into a film: up to six, away from each other, more often in dense tissue."""
    pixels, lesions = film.pixels, np.zeros(film.tissue.shape, bool)
    weight = film.tissue.astype(np.float32)
    filled = film.filled(pixels)
    above = filled - _surroundings(filled, _FAR)
    around = _deviation(above, _FAR).numpy()
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
        pad(seen, (*short[1], *short[0]), mode="replicate"),
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
) -> tuple[Tensor, Tensor, Tensor]:
    """Crops from anywhere in the films of ``pool``, the first half of them around a lesion.

    Half of them are mirrored, each way. Returns channels (N, 4, 64, 64), and whether a cell lies
    in a lesion and how much it counts, (N, 64, 64); float32 each, on the CPU.
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
        place = np.s_[..., int(top) : int(top) + CROP, int(left) : int(left) + CROP]
        axes = tuple(axis for axis in (-2, -1) if rng.random() < 0.5)
        seen.append(mirrored(film.channels[place], axes))
        lesions.append(np.flip(film.lesion[place], axes))
        weights.append(np.flip(film.weight[place], axes))
    both = np.stack(lesions).astype(np.float32), np.stack(weights)
    return torch.stack(seen), torch.from_numpy(both[0]), torch.from_numpy(both[1])


def mirrored(seen: Tensor, axes: tuple[int, ...]) -> Tensor:
    """The channels (…, 4, h, w) of the film mirrored along ``axes`` (-2: upside down)."""
    signs = [1.0, -1.0 if -1 in axes else 1.0, -1.0 if -2 in axes else 1.0, 1.0]
    return seen.flip(axes) * seen.new_tensor(signs)[:, None, None]


def _surroundings(values: Tensor, sigma: float) -> Tensor:
    """A wide Gaussian mean, of ``sigma`` cells, taken on a copy of half the size.

    The exact one repeats the film's outermost line alone beyond its edge, this one the mean of
    two; with it, fewer films of mini-MIAS were ranked right by their highest patch (image AUROC
    0.60 and 0.61 instead of 0.68 and 0.64, two seeds).
    """
    rows, cols = values.shape
    small = resize_tensor(values, ((rows + 1) // 2, (cols + 1) // 2))
    smooth = gaussian(small, (sigma / 2, sigma / 2), border="nearest")
    return resize_tensor(smooth, (rows, cols))


def _deviation(above: Tensor, sigma: float) -> Tensor:
    """The local standard deviation of what is ``above`` its surroundings."""
    variance = _surroundings(above.square(), sigma)
    return variance.clamp_min(0).sqrt()


def _log_uniform(rng: np.random.Generator, ends: Range) -> float:
    return float(np.exp(rng.uniform(*np.log(ends))))
