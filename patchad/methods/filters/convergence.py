"""Where gradients converge there may be a mass: nothing is trained but the scale of negatives.

H. Kobatake, S. Hashimoto: Convergence index filter for vector fields. IEEE Trans. Image Processing
8(8):1029-1038, 1999, https://doi.org/10.1109/83.777083; H. Kobatake, M. Murakami, H. Takeo,
S. Nawano: Computerized detection of malignant tumors on digital mammograms. IEEE Trans. Medical
Imaging 18(5):369-378, 1999, https://doi.org/10.1109/42.774164.

The filter asks how well the gradients around a place point to it, whatever their strength: so
brightness and contrast don't matter. Here a ring around a place has twelve sectors, and the map is
the mean of the two middle ones after sorting: a mass may be open to some sides, and at a vessel or
an edge gradients converge from two sides only. Three rings look for masses of several sizes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from scipy import fft, ndimage
from torch import Tensor

from patchad.core.grid import PatchGrid
from patchad.errors import ModelError, RequestError
from patchad.learn.training_set import TrainingSet
from patchad.methods import About
from patchad.methods.parts.pooling import max_pool
from patchad.methods.parts.scale import Standard
from patchad.model.card import ModelCard
from patchad.model.detector import ImageDetector
from patchad.model.scoring import Response
from patchad.prepare.filters import Floats, Mask, masked_gaussian, sigma_pixels
from patchad.prepare.preprocess import Prepared
from patchad.prepare.resize import resize
from patchad.progress import Progress, silent

METHOD = "convergence"

ABOUT = About(
    name=METHOD,
    paper="Kobatake & Hashimoto, Convergence index filter for vector fields, IEEE Trans. Image "
    "Processing 1999, doi 10.1109/83.777083",
    needs="negative images with pixel spacing, of two patients at least; no labels of lesions",
    gives="a map of how gradients converge (masses), and its maxima a patch",
)
POOLING = "Mean over the rings of the maximum in the patch, in standard deviations of negatives."

UNIT = "standard deviations from the median of negatives"
Pair = tuple[float, float]

_CELL_MM = 0.8  # of the grid on which gradients are taken
_SMOOTH_MM = 0.4  # before
_FLAT = 2e-4  # gradient a cell, in [0, 1], at which a direction counts half
_SECTORS = 12


@dataclass(frozen=True)
class Config:
    """``rings_mm``: the rings around a place in which gradients are asked, inner and outer radius.

    On mini-MIAS any one outer radius of 5.6 to 7.6 mm did alike, and three rings better than one.
    """

    rings_mm: tuple[Pair, ...] = ((0.6, 4.0), (0.6, 6.4), (1.2, 9.6))

    def __post_init__(self) -> None:
        if not self.rings_mm:
            raise RequestError(f"{METHOD}.rings_mm names no ring: give one at least")
        for inner, outer in self.rings_mm:
            if not 0 <= inner < outer <= 50 or outer < 2 * _CELL_MM:
                raise RequestError(
                    f"{METHOD}.rings_mm: a ring rises from 0 or more to {2 * _CELL_MM} to 50 mm, "
                    f"got {(inner, outer)}"
                )


@dataclass(frozen=True, eq=False)
class Convergence:
    """The filter with the scale of negatives: a :class:`patchad.model.detector.ImageDetector`.

    ``maps`` is the scale of the rings' values, ``pools`` that of their maxima in patches.
    """

    card: ModelCard
    config: Config
    maps: Standard
    pools: Standard

    def respond(self, image: Prepared, grid: PatchGrid) -> Response:
        """The rings' mean, in standard deviations of negatives, and so pooled."""
        maps = convergence_maps(image, self.config.rings_mm)
        cells = self.maps(maps).mean(-1)
        shape = (image.pixels.shape[0], image.pixels.shape[1])
        dense = resize(np.where(np.isnan(cells), np.nanmin(cells), cells), shape)
        return Response(
            np.where(image.tissue, dense, np.float32(np.nan)),
            np.nan_to_num(self.pools(pool_maps(maps, grid)).mean(-1)),
        )

    def tensors(self) -> dict[str, Tensor]:
        """The scales of maps and pools."""
        return {**self.maps.tensors("maps"), **self.pools.tensors("pools")}


def fit(
    config: Config,
    data: TrainingSet,
    *,
    card: ModelCard,
    seed: int,
    device: torch.device,
    checkpoint: Path | None = None,
    progress: Progress = silent,
) -> ImageDetector:
    """Learn the scale of each ring's values, and of their maxima, from negatives.

    ``seed``, ``device`` and ``checkpoint`` play no part: nothing is random, and it takes a fraction
    of a second an image, on the CPU.

    Raises:
        ImageError: a training image has no pixel spacing.
    """
    maps, pools = [], []
    for number, (image, grid, keep) in enumerate(data.films(card), start=1):
        found = convergence_maps(image, config.rings_mm)
        maps.append(found.reshape(-1, found.shape[-1]))
        pools.append(pool_maps(found, grid)[keep])
        progress(METHOD, number, len(data), math.nan)
    return Convergence(
        replace(card, score_unit=UNIT, patch_pooling=POOLING),
        config,
        Standard.of(np.concatenate(maps)),
        Standard.of(np.concatenate(pools)),
    )


def restore(card: ModelCard, tensors: dict[str, Tensor], device: torch.device) -> ImageDetector:
    """The detector that was saved as ``card`` and ``tensors``.

    Raises:
        ModelError: they are not of this method.
    """
    try:
        config = TypeAdapter(Config).validate_python(card.config.get(METHOD))
        maps, pools = (Standard.restored(tensors, name) for name in ("maps", "pools"))
    except (ValidationError, KeyError) as error:
        raise ModelError(
            f"the model is not one of {METHOD} that this patchad can read: {error}; train anew"
        ) from None
    return Convergence(card, config, maps, pools)


def convergence_maps(image: Prepared, rings_mm: Sequence[Pair]) -> Floats:
    """The median of the sectors of each ring: (h, w, rings) float32 in [-1, 1].

    1: all gradients point here; 0: they point anywhere; NaN outside the tissue. A cell is about
    0.8 mm wide.
    """
    directions, mask, cell_mm = _directions(image)
    half = _SECTORS // 2
    medians = []
    for ring in rings_mm:
        sectors = _sectors(directions, cell_mm, ring)
        # Each with its neighbours, so that a direction isn't lost between two.
        ranked = np.sort((sectors + np.roll(sectors, 1, 0) + np.roll(sectors, -1, 0)) / 3, 0)
        medians.append((ranked[half - 1] + ranked[half]) / 2)
    maps: Floats = np.stack(medians, -1).astype(np.float32)
    maps[~mask] = np.nan
    return maps


def pool_maps(maps: Floats, grid: PatchGrid) -> Floats:
    """The maximum of each ring's map (h, w, rings) in each patch: (N, rings)."""
    return np.stack([max_pool(maps[..., k], grid) for k in range(maps.shape[-1])], -1)


def _directions(image: Prepared) -> tuple[Floats, Mask, tuple[float, float]]:
    """The unit gradients (2, h, w) of the tissue, 0 elsewhere; the tissue; mm a cell (row, col)."""
    spacing, tissue = image.known_spacing, image.tissue
    smooth = masked_gaussian(image.pixels, tissue, sigma_pixels(_SMOOTH_MM, spacing))
    rows, cols = (
        max(2, round(n * s / _CELL_MM)) for n, s in zip(tissue.shape, spacing, strict=True)
    )
    share = resize(tissue.astype(np.float32), (rows, cols))
    mask = share >= 0.5
    if not mask.any():
        mask = share >= share.max()
    cells = resize(np.where(tissue, smooth, np.float32(0)), (rows, cols)) / np.maximum(share, 1e-6)
    # The nearest tissue goes on outside, so that its border makes no gradient.
    nearest = ndimage.distance_transform_edt(~mask, return_distances=False, return_indices=True)
    gradient = np.stack(np.gradient(cells[tuple(nearest)]))
    directions = gradient / (np.hypot(*gradient) + _FLAT) * mask
    cell_mm = (spacing[0] * tissue.shape[0] / rows, spacing[1] * tissue.shape[1] / cols)
    return directions.astype(np.float32), mask, cell_mm


def _sectors(directions: Floats, cell_mm: Pair, ring_mm: Pair) -> Floats:
    """How well unit vectors (2, h, w) point here, a sector of the ring each: (12, h, w)."""
    shape = (directions.shape[1], directions.shape[2])
    rounded = (round(cell_mm[0], 3), round(cell_mm[1], 3))
    spectra, reach, size = _kernels(shape, rounded, ring_mm)
    field = fft.rfft2(directions, size)
    summed = fft.irfft2((field * spectra).sum(1), size)
    return summed[:, reach[0] : reach[0] + shape[0], reach[1] : reach[1] + shape[1]]


@lru_cache(maxsize=6)
def _kernels(
    shape: tuple[int, int], cell_mm: Pair, ring_mm: Pair
) -> tuple[NDArray[np.complex64], tuple[int, int], tuple[int, int]]:
    """Spectra (12, 2, …) of the sectors' kernels, their reach in cells, the size they are taken at.

    A kernel holds, at the offset of a neighbour, the unit vector from there to the middle, divided
    by the number of the sector's cells.
    """
    inner, outer = ring_mm
    reach = (math.ceil(outer / cell_mm[0]), math.ceil(outer / cell_mm[1]))
    rows, cols = (np.arange(-n, n + 1) * step for n, step in zip(reach, cell_mm, strict=True))
    y, x = rows[:, None], cols[None]
    distance = np.hypot(y, x)
    sector = np.floor(np.arctan2(y, x) % (2 * np.pi) / (2 * np.pi) * _SECTORS) % _SECTORS
    ring = (distance >= max(inner, 1e-6)) & (distance <= outer)
    size = (
        fft.next_fast_len(shape[0] + 2 * reach[0], real=True),
        fft.next_fast_len(shape[1] + 2 * reach[1], real=True),
    )
    kernels = np.zeros((_SECTORS, 2, *ring.shape), np.float32)
    for k in range(_SECTORS):
        cells = ring & (sector == k)
        kernels[k, 0][cells] = (-y / np.maximum(distance, 1e-6))[cells] / max(cells.sum(), 1)
        kernels[k, 1][cells] = (-x / np.maximum(distance, 1e-6))[cells] / max(cells.sum(), 1)
    # Turned over, since a correlation is meant.
    spectra = fft.rfft2(kernels[..., ::-1, ::-1], size).astype(np.complex64)
    return spectra, reach, size
