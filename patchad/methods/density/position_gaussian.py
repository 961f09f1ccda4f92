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
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn

from patchad.core.arrays import Floats
from patchad.core.grid import PatchGrid
from patchad.errors import RequestError
from patchad.learn.run import Run
from patchad.learn.training_set import TrainingSet
from patchad.methods.parts.chest_frame import (
    POOLING,
    SIDE,
    ChestFrame,
    FittedFrame,
    fit_frame,
    pool_patches,
    to_film,
)
from patchad.model.method import Gives, Method, Needs, Setting
from patchad.model.scoring import Response
from patchad.prepare.film import Film
from patchad.prepare.smoothing import reach, spectrum_of

NAME = "position_gaussian"

CELLS = 32  # a side of the template's frame
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
                raise RequestError(f"{NAME}.{name} must be positive, got {value}")


class Places(nn.Module):
    """A Gaussian of features at every cell; float32.

    ``mean`` (32, 32, F), ``deviation`` (32, 32, F) and ``whitening`` (32, 32, F, F), the inverse of
    the Cholesky factor of the covariance of standardised features.
    """

    mean: Tensor
    deviation: Tensor
    whitening: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(CELLS, CELLS, FEATURES))
        self.register_buffer("deviation", torch.ones(CELLS, CELLS, FEATURES))
        self.register_buffer("whitening", torch.zeros(CELLS, CELLS, FEATURES, FEATURES))

    def z(self, features: Tensor) -> Tensor:
        """Features (…, 32, 32, F) in deviations from the cell's mean."""
        return ((features - self.mean) / self.deviation).clamp(-8, 8)

    def distance(self, z: Tensor) -> Tensor:
        """Mahalanobis distance (32, 32) of :meth:`z`, over √F: about 1 among negatives."""
        white = (self.whitening @ z[..., None])[..., 0]
        return white.square().mean(-1).sqrt()

    def fit(self, features: Floats, smooth_cells: float, ridge: float) -> None:
        """Take mean and covariance by cell of features (N, 32, 32, F) of negatives.

        Neighbours share their covariances by a Gaussian of ``smooth_cells``.
        """
        mean = features.mean(0, dtype=np.float64).astype(np.float32)
        deviation = np.maximum(features.std(0, dtype=np.float64), 1e-3).astype(np.float32)
        z = np.clip((features - mean) / deviation, -8, 8)
        covariance = np.einsum("nrci,nrcj->rcij", z, z, optimize=True).astype(np.float64) / len(z)
        covariance = ndimage.gaussian_filter(covariance, (smooth_cells, smooth_cells, 0, 0))
        covariance += ridge * np.eye(features.shape[-1])
        whitening = np.linalg.inv(np.linalg.cholesky(covariance)).astype(np.float32)
        self.mean.copy_(torch.from_numpy(mean))
        self.deviation.copy_(torch.from_numpy(deviation))
        self.whitening.copy_(torch.from_numpy(whitening))


class PositionGaussian(nn.Module):
    """The fitted Gaussians in the frame of their template.

    ``lowest`` is that of the cells of the training negatives near the lungs.
    """

    unit = "Mahalanobis distance"
    pooling = POOLING
    lowest: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.registration = ChestFrame()
        self.places = Places()
        self.register_buffer("lowest", torch.zeros(()))

    def forward(self, film: Film, grid: PatchGrid) -> Response:
        """See :class:`Response`; the image score is the mean near the lungs."""
        features = film_features(film, self.registration)
        cells = self.places.distance(self.places.z(features))
        return respond(self.registration, cells, film, grid, self.lowest, torch.mean)


def build(config: Config, setting: Setting) -> PositionGaussian:
    """The module before it is fitted."""
    return PositionGaussian()


def learn(module: PositionGaussian, config: Config, data: TrainingSet, run: Run) -> None:
    """Fit the template and the Gaussians; nothing in it is random.

    Raises:
        TrainingError: no lungs found in the mean of the negatives.
    """
    fitted = fit_frame(data, run)
    module.registration.load_state_dict(fitted.frame.state_dict())
    features = described(fitted, run)
    places, near = module.places, cells_of(fitted.frame.near)
    places.fit(features.cpu().numpy(), config.smooth_cells, config.ridge)
    lowest = [places.distance(places.z(one))[near].min() for one in features]
    module.lowest.copy_(torch.stack(lowest).min())


def described(fitted: FittedFrame, run: Run) -> Tensor:
    """Features of registered films, then of their mirror images: (2 N, 32, 32, F) float32."""
    films, lungs = fitted.films, fitted.frame.lungs
    features = torch.empty(2 * len(films), CELLS, CELLS, FEATURES, device=lungs.device)
    for number, film in enumerate(films):
        features[number] = describe(film.pixels, lungs)
        features[len(films) + number] = describe(film.pixels.flip(1), lungs)
        run.tell("features", number + 1, len(films))
    return features


def film_features(film: Film, frame: ChestFrame) -> Tensor:
    """Features (32, 32, F) of a film in a frame, described once a film."""
    return frame.once(film, "features", lambda: describe(frame.register(film).pixels, frame.lungs))


def describe(pixels: Tensor, lungs: Tensor) -> Tensor:
    """Features of a registered film (256, 256) on cells: (32, 32, F) float32.

    Log energies of first derivatives in four directions, of second derivatives and of bands, less
    their mean over the lungs (so that a film's contrast and noise don't count); the brightness of
    the cell, and the difference to its surroundings.
    """
    widest = reach(_BANDS[-1])
    spectrum = spectrum_of(pixels, (widest, widest), border="nearest")

    def derivative(sigma: float, order: tuple[int, int]) -> Tensor:
        """In scale-normalised units, so that scales have like energies."""
        return spectrum.gaussian((sigma, sigma), order) * sigma ** sum(order)

    energies = []
    for sigma in _SIGMAS:
        down, right = (derivative(sigma, order) for order in ((1, 0), (0, 1)))
        energies += [down, right, (down + right) / math.sqrt(2), (down - right) / math.sqrt(2)]
    energies += [derivative(_BEND, order) for order in ((2, 0), (0, 2), (1, 1))]
    smooth = [derivative(sigma, (0, 0)) for sigma in _BANDS]
    energies += [fine - wide for fine, wide in pairwise(smooth)]
    logs = torch.stack([cell_means(one.square()) for one in energies]).add_(_NOISE).log_()
    logs -= logs[:, cells_of(lungs)].mean(1)[:, None, None]
    levels = torch.stack([cell_means(one) for one in (pixels, smooth[-2] - smooth[-1])])
    return torch.cat([logs, levels]).permute(1, 2, 0).contiguous()


def respond(
    frame: ChestFrame,
    cells: Tensor,
    film: Film,
    grid: PatchGrid,
    lowest: Tensor,
    pool: Callable[[Tensor], Tensor],
) -> Response:
    """The response of scores on a film's ``cells`` (32, 32) in its frame.

    The image score is what ``pool`` makes of the cells near the lungs that lie in the film's
    foreground; ``lowest`` where there are none.
    """
    registered = frame.register(film)
    counted = cells[cells_of(frame.near & registered.inside)]
    score = pool(counted) if counted.numel() else lowest
    values = to_film(cells, registered.affine, film.shape)
    values = values.where(frame.near_lungs(film), torch.nan)
    return Response(values, pool_patches(values, grid, lowest), score)


def cells_of(mask: Tensor) -> Tensor:
    """The cells of which half lies in ``mask`` (256, 256): (32, 32) bool."""
    return cell_means(mask.float()) >= 0.5


def cell_means(maps: Tensor) -> Tensor:
    """The means of ``maps`` (…, 256, 256) over the pixels of each cell: (…, 32, 32)."""
    side = SIDE // CELLS
    return maps.reshape(*maps.shape[:-2], CELLS, side, CELLS, side).mean((-3, -1))


METHOD = Method(
    name=NAME,
    family="density",
    paper="after Defard et al., PaDiM: a patch distribution modeling framework for anomaly "
    "detection and localization, ICPR Workshops 2021, doi 10.1007/978-3-030-68799-1_35",
    needs=Needs(
        "negative frontal chest films, some dozens at least; no labels of findings",
        body_parts=("chest",),
    ),
    gives=Gives(
        "image",
        "a Mahalanobis distance at each of 32 × 32 places of the registered chest; an image "
        "score, its mean over the lungs",
        map=True,
        image=True,
    ),
    config=Config,
    build=build,
    learn=learn,
)
