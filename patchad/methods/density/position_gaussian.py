"""A Gaussian of filter-bank features at every place of the registered chest, from negatives.

The idea of PaDiM with filters instead of a pretrained network:
T. Defard, A. Setkov, A. Loesch, R. Audigier: PaDiM: a patch distribution modeling framework for
anomaly detection and localization. ICPR Workshops 2021. https://doi.org/10.1007/978-3-030-68799-1_35

A film is brought into the frame of a template (:mod:`patchad.methods.parts.chest_frame`) and
described on 32 × 32 cells by the log energies of derivatives and band passes at several scales.
Each cell has the mean and the covariance of the negatives there; the score is the Mahalanobis
distance.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from patchad.core.grid import PatchGrid
from patchad.errors import ModelError, RequestError
from patchad.learn.training_set import TrainingSet
from patchad.methods import About
from patchad.methods.parts.chest_frame import (
    SIDE,
    Registered,
    Registration,
    fit_registration,
    pool_patches,
)
from patchad.model.card import ModelCard
from patchad.model.detector import ImageDetector
from patchad.model.scoring import Response
from patchad.prepare.preprocess import Prepared
from patchad.progress import Progress, silent

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]

METHOD = "position_gaussian"
SCORE_UNIT = "Mahalanobis distance"
PATCH_POOLING = (
    "mean of the map over the patch's pixels near the lungs; with less than a tenth of them, the "
    "lowest value of the training negatives"
)

ABOUT = About(
    name=METHOD,
    paper="after Defard et al., PaDiM: a patch distribution modeling framework for anomaly "
    "detection and localization, ICPR Workshops 2021, doi 10.1007/978-3-030-68799-1_35",
    needs="negative frontal chest films, some dozens at least; no labels of findings",
    gives="a Mahalanobis distance at each of 32 × 32 places of the registered chest; an image "
    "score, its mean over the lungs",
)

CELLS = 32  # a side of the template's frame
NEAR = 2  # cells around the lungs that still count
_SIGMAS = (1.0, 2.0, 4.0, 8.0)  # pixels of the template's frame, of the first derivatives
_BEND = 3.0  # of the second derivatives
_BANDS = (1.0, 2.0, 4.0, 8.0, 16.0)  # of Gaussians; the differences of neighbours are the bands
FEATURES = 4 * len(_SIGMAS) + 3 + len(_BANDS) - 1 + 2
_NOISE = 1e-5  # added to energies before the logarithm: a tenth of an 8-bit grey level, squared


@dataclass(frozen=True)
class Config:
    """How to fit.

    ``smooth_cells`` is the σ over which neighbouring cells share their covariance, in cells;
    ``ridge`` is added to the diagonal of the covariance of standardised features.
    """

    smooth_cells: float = 1.5
    ridge: float = 0.05

    def __post_init__(self) -> None:
        for name in ("smooth_cells", "ridge"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise RequestError(f"{METHOD}.{name} must be positive, got {value}")


@dataclass(frozen=True, eq=False)
class PlaceModel:
    """Mean (32, 32, F), deviation (32, 32, F) and whitening (32, 32, F, F) of features, float32."""

    mean: Floats
    deviation: Floats
    whitening: Floats

    def z(self, features: Floats) -> Floats:
        """Features (32, 32, F) in deviations from the cell's mean."""
        z: Floats = np.clip((features - self.mean) / self.deviation, -8, 8).astype(np.float32)
        return z

    def distance(self, z: Floats) -> Floats:
        """Mahalanobis distance (32, 32) of :meth:`z`, over √F: about 1 among negatives."""
        white = np.einsum("rcij,rcj->rci", self.whitening, z)
        distance: Floats = np.sqrt(np.square(white).mean(-1)).astype(np.float32)
        return distance

    def tensors(self) -> dict[str, Tensor]:
        """By name."""
        return {
            f"places.{k}": torch.from_numpy(np.ascontiguousarray(v)) for k, v in vars(self).items()
        }

    @classmethod
    def of(cls, tensors: dict[str, Tensor]) -> "PlaceModel":
        """Of :meth:`tensors`.

        Raises:
            ModelError: they aren't there.
        """
        try:
            parts = [tensors[f"places.{name}"] for name in ("mean", "deviation", "whitening")]
        except KeyError as error:
            raise ModelError(f"the model lacks {error}: train anew") from None
        return cls(*(part.cpu().float().numpy() for part in parts))


@dataclass(frozen=True, eq=False)
class PositionGaussian:
    """A fitted model: a :class:`patchad.model.detector.ImageDetector`."""

    card: ModelCard
    registration: Registration
    places: PlaceModel
    lowest: float  # cell of the training negatives

    def respond(self, image: Prepared, grid: PatchGrid) -> Response:
        """See :class:`Response`; the image score is the mean near the lungs."""
        film = self.registration.register(image)
        cells = self.places.distance(self.places.z(describe(film.pixels, self.registration.lungs)))
        near = self.registration.near_lungs(NEAR)
        return respond(film, cells, near, image, grid, self.lowest)

    def tensors(self) -> dict[str, Tensor]:
        """Template, lungs, means, deviations, whitening."""
        return {
            **self.registration.tensors(),
            **self.places.tensors(),
            "lowest": torch.tensor(self.lowest),
        }


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
    """Fit the template and the Gaussians; ``seed``, ``device`` and ``checkpoint`` have no part.

    Raises:
        TrainingError: no lungs are to be seen in the mean of the negatives.
    """
    registration, films = fit_registration(data)
    progress("registration", 1, 1, math.nan)
    features = described(films, registration, progress)
    places = fit_places(features, config.smooth_cells, config.ridge)
    near = cells_of(registration.near_lungs(NEAR))
    lowest = min(float(places.distance(places.z(one))[near].min()) for one in features)
    used = replace(
        card,
        config={**card.config, METHOD: asdict(config)},
        score_unit=SCORE_UNIT,
        patch_pooling=PATCH_POOLING,
        seed=seed,
    )
    return PositionGaussian(used, registration, places, lowest)


def restore(card: ModelCard, tensors: dict[str, Tensor], device: torch.device) -> ImageDetector:
    """The detector that was saved as ``card`` and ``tensors``.

    Raises:
        ModelError: they are not of this method.
    """
    registration, places = Registration.of(tensors), PlaceModel.of(tensors)
    return PositionGaussian(card, registration, places, float(tensors["lowest"]))


def described(
    films: Sequence[Registered], registration: Registration, progress: Progress
) -> Floats:
    """Features of registered films, then of their mirror images: (2 N, 32, 32, F) float32."""
    features = np.empty((2 * len(films), CELLS, CELLS, FEATURES), np.float32)
    for number, film in enumerate(films):
        features[number] = describe(film.pixels, registration.lungs)
        mirrored = np.ascontiguousarray(film.pixels[:, ::-1])
        features[len(films) + number] = describe(mirrored, registration.lungs)
        progress("features", number + 1, len(films), math.nan)
    return features


def describe(pixels: Floats, lungs: Mask) -> Floats:
    """Features of a registered film (256, 256) on cells: (32, 32, F) float32.

    Log energies of first derivatives in four directions, of second derivatives and of bands, less
    their mean over the lungs (so that a film's contrast and noise don't count); the brightness of
    the cell, and the difference to its surroundings.
    """
    energies = []
    for sigma in _SIGMAS:
        down, right = (_derivative(pixels, sigma, order) for order in ((1, 0), (0, 1)))
        energies += [down, right, (down + right) / math.sqrt(2), (down - right) / math.sqrt(2)]
    energies += [_derivative(pixels, _BEND, order) for order in ((2, 0), (0, 2), (1, 1))]
    smooth = [_derivative(pixels, sigma, (0, 0)) for sigma in _BANDS]
    energies += [fine - wide for fine, wide in pairwise(smooth)]
    logs = np.log(cell_means(np.square(np.stack(energies))) + np.float32(_NOISE))
    logs -= logs[:, cells_of(lungs)].mean(1)[:, None, None]
    levels = cell_means(np.stack([pixels, smooth[-2] - smooth[-1]]))
    return np.ascontiguousarray(np.concatenate([logs, levels]).transpose(1, 2, 0))


def fit_places(features: Floats, smooth_cells: float, ridge: float) -> PlaceModel:
    """Mean and covariance by cell of features (N, 32, 32, F); neighbours share covariances."""
    mean = features.mean(0, dtype=np.float64).astype(np.float32)
    deviation = np.maximum(features.std(0, dtype=np.float64), 1e-3).astype(np.float32)
    z = np.clip((features - mean) / deviation, -8, 8)
    covariance = np.einsum("nrci,nrcj->rcij", z, z, optimize=True).astype(np.float64) / len(z)
    covariance = ndimage.gaussian_filter(covariance, (smooth_cells, smooth_cells, 0, 0))
    covariance += ridge * np.eye(features.shape[-1])
    whitening = np.linalg.inv(np.linalg.cholesky(covariance))
    return PlaceModel(mean, deviation, whitening.astype(np.float32))


def respond(
    film: Registered,
    cells: Floats,
    near: Mask,
    image: Prepared,
    grid: PatchGrid,
    lowest: float,
    pool: Callable[[Floats], np.float32] = np.mean,
) -> Response:
    """The response of scores on a registered film's ``cells`` (32, 32), ``near`` the lungs.

    The image score is what ``pool`` makes of the cells near the lungs that lie in the film's
    foreground; ``lowest`` where there are none.
    """
    counted = cells_of(near & film.inside)
    score = float(pool(cells[counted])) if counted.any() else lowest
    area = film.to_film(near.astype(np.float32), grid.shape) >= 0.5
    values = np.where(
        area & image.foreground.mask, film.to_film(cells, grid.shape), np.float32(np.nan)
    )
    return Response(values, pool_patches(values, grid, lowest), score)


def cells_of(mask: Mask) -> Mask:
    """The cells of which half lies in ``mask`` (256, 256): (32, 32) bool."""
    return np.asarray(cell_means(mask[None].astype(np.float32))[0] >= 0.5, np.bool_)


def cell_means(maps: Floats) -> Floats:
    """The means of ``maps`` (N, 256, 256) over the pixels of each cell: (N, 32, 32)."""
    side = SIDE // CELLS
    means: Floats = maps.reshape(len(maps), CELLS, side, CELLS, side).mean((2, 4))
    return means


def _derivative(pixels: Floats, sigma: float, order: tuple[int, int]) -> Floats:
    """The Gaussian derivative in scale-normalised units, so that scales have like energies."""
    slope: Floats = ndimage.gaussian_filter(pixels, sigma, order, mode="nearest", truncate=3.0)
    return slope * np.float32(sigma ** sum(order))
