"""Clusters of bright specks, weighed by what synthetic clusters do to negative images.

:mod:`patchad.methods.parts.microcalcifications` finds specks and counts them. What is ordinary for
the place (distance to air, row, column, density) is regressed on negatives and subtracted. The
weights of the features are then learnt without a real lesion: windows of training negatives into
which synthetic clusters were drawn, against windows as they were.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from patchad.core.arrays import Floats, Mask
from patchad.core.grid import PatchGrid
from patchad.core.host import to_host
from patchad.core.image import Region
from patchad.core.patches import means
from patchad.errors import RequestError, TrainingError
from patchad.learn.run import Run
from patchad.learn.training_set import TrainingSet
from patchad.lesions.recipes import TRAINING_CLUSTERS, TRAINING_CLUSTERS_MM, apply, draw
from patchad.methods.parts.microcalcifications import (
    COVARIATES,
    FEATURES,
    Candidates,
    find_candidates,
    place,
)
from patchad.model.method import Gives, Method, Needs, Setting
from patchad.model.scoring import Response
from patchad.prepare.film import Film, tissue
from patchad.prepare.preprocess import Prepared
from patchad.prepare.resize import resize_tensor

NAME = "calcification"
Array = NDArray[np.float64]
Pair = tuple[Array, Array]

_CELLS_A_FILM = 2000  # that the map's ordinary values are regressed on
_LIMIT = 20.0  # of a feature, in deviations: no single one decides


@dataclass(frozen=True)
class Config:
    """How to train.

    ``clusters``: synthetic clusters drawn into each training image, where there is room.
    ``c``: the inverse strength of the logistic regression's ridge, as scikit-learn's C.
    """

    clusters: int = 5
    c: float = 0.01

    def __post_init__(self) -> None:
        if self.clusters < 1:
            raise RequestError(f"{NAME}.clusters must be at least 1, got {self.clusters}")
        if not 0 < self.c < math.inf:
            raise RequestError(f"{NAME}.c must be positive, got {self.c}")


# Every covariate with itself and those after it.
_FIRST, _SECOND = (list(map(int, side)) for side in np.triu_indices(len(COVARIATES)))


class Ordinary(nn.Module):
    """What a feature is like on negatives, given its place: mean and deviation.

    Quadratic in four covariates. ``centre`` and ``width`` (4,) standardise them, ``mean`` and
    ``log_variance`` (15, F) are the coefficients for F features; float32 each.
    """

    centre: Tensor
    width: Tensor
    mean: Tensor
    log_variance: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        covariates, terms = len(COVARIATES), 1 + len(COVARIATES) + len(_FIRST)
        self.register_buffer("centre", torch.zeros(covariates))
        self.register_buffer("width", torch.ones(covariates))
        self.register_buffer("mean", torch.zeros(terms, features))
        self.register_buffer("log_variance", torch.zeros(terms, features))

    def learn(self, values: Array, places: Array) -> None:
        """Regress ``values`` (N, F), and the log of their squared residuals, on ``places`` (N, 4).

        The variance is brought to the residuals' own: the mean of a log lies below the log of the
        mean.
        """
        self.centre.copy_(torch.from_numpy(places.mean(0)))
        self.width.copy_(torch.from_numpy(places.std(0) + 1e-9))
        centre, width = (part.cpu().double() for part in (self.centre, self.width))
        terms = _terms(torch.from_numpy(places), centre, width).numpy()
        normal = terms.T @ terms + 1e-5 * len(terms) * np.eye(terms.shape[1])
        mean = np.linalg.solve(normal, terms.T @ values)
        squares = (values - terms @ mean) ** 2
        log_variance = np.linalg.solve(normal, terms.T @ np.log(squares + 1e-6))
        log_variance[0] += np.log((squares * np.exp(-terms @ log_variance)).mean(0) + 1e-12)
        self.mean.copy_(torch.from_numpy(mean))
        self.log_variance.copy_(torch.from_numpy(log_variance))

    def forward(self, values: Tensor, places: Tensor) -> Tensor:
        """How many deviations ``values`` (…, F) lie above what is ordinary at ``places`` (…, 4)."""
        terms = _terms(places, self.centre, self.width)
        z = (values - terms @ self.mean) * torch.exp(-terms @ self.log_variance / 2)
        return z.clamp(-_LIMIT, _LIMIT)


class Calcification(nn.Module):
    """A detector of specks: a film → their density as a map, and the log odds of patches.

    ``coefficients`` (4,) and ``intercept`` () weigh the features of a patch; float32.
    """

    unit = "log odds of synthetic calcifications"
    pooling = (
        "logistic regression of four features of the specks in the patch, each relative to what is "
        "ordinary at its place; the map is the density of specks, relative in the same way"
    )
    coefficients: Tensor
    intercept: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.patch = Ordinary(len(FEATURES))
        self.cell = Ordinary(1)
        self.register_buffer("coefficients", torch.zeros(len(FEATURES)))
        self.register_buffer("intercept", torch.zeros(()))

    def forward(self, film: Film, grid: PatchGrid) -> Response:
        """The density of specks as a map in deviations of negatives, and the log odds of patches.

        Raises:
            ImageError: the pixel spacing is unknown.
        """
        candidates = find_candidates(film)
        scores = self.patch(*candidates.windows(grid)) @ self.coefficients + self.intercept
        density: Tensor = self.cell(candidates.narrow[..., None], candidates.places)[..., 0]
        # Beyond the tissue, zeros are what is ordinary, and the mask leaves them out.
        density = density.where(candidates.share > 0, 0)
        rows, cols = density.shape
        picture = resize_tensor(density, (rows * candidates.side[0], cols * candidates.side[1]))
        picture = picture[: film.shape[0], : film.shape[1]]
        return Response(picture.where(film.tissue, torch.nan), scores)


def build(config: Config, setting: Setting) -> Calcification:
    """The detector before training."""
    return Calcification()


def learn(module: Calcification, config: Config, data: TrainingSet, run: Run) -> None:
    """Learn what is ordinary on negatives, and the weights from synthetic clusters in them.

    The seed decides the clusters, and which cells the map's ordinary values are taken from. It
    takes a second a film.

    Raises:
        ImageError: a training image has no pixel spacing.
        TrainingError: no image has room for a cluster.
    """
    # Only training needs it, and it takes a second to import.
    from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]

    plain: list[Pair] = []
    drawn: list[Pair] = []
    spots: list[Pair] = []
    size = run.setting.patch_size
    for number in range(len(data)):
        image = data.film(number)
        film = Film.of(image, run.device, METHOD.needs.before)
        rng = np.random.default_rng([run.seed, number])
        grid = PatchGrid(film.shape, size, (size + 1) // 2)
        candidates = find_candidates(film)
        inside, deviation, foreground = to_host(
            film.tissue, candidates.deviation, means(grid, film.mask)
        )
        kept = foreground >= run.setting.min_foreground
        plain.append(_rows(_of_patches(candidates, grid), kept))
        spots.append(_some_cells(candidates, rng))
        changed, regions = draw_clusters(image, Ground(inside, deviation), config.clusters, rng)
        holds = kept & np.any([_holds(grid, region) for region in regions], axis=0)
        if regions and holds.any():
            pixels = torch.from_numpy(np.array(changed.pixels)).to(run.device)
            found = find_candidates(replace(film, pixels=pixels, made={}))
            drawn.append(_rows(_of_patches(found, grid), holds))
        run.tell(NAME, number + 1, len(data))
    if not drawn:
        raise TrainingError(
            f"no synthetic cluster of up to {TRAINING_CLUSTERS_MM.high:g} mm found room in the "
            "training images: check their pixel spacing, or lower min_foreground"
        )
    module.patch.learn(*_stacked(plain))
    module.cell.learn(*_stacked(spots))
    negative, positive = (_above(module.patch, *_stacked(rows)) for rows in (plain, drawn))
    labels = np.repeat([0, 1], [len(negative), len(positive)])
    regression = LogisticRegression(C=config.c, class_weight="balanced")
    regression.fit(np.vstack([negative, positive]), labels)
    module.coefficients.copy_(torch.from_numpy(regression.coef_[0]))
    module.intercept.copy_(torch.from_numpy(regression.intercept_)[0])


@dataclass(frozen=True, eq=False)
class Ground:
    """What clusters are drawn on, on the CPU: (H, W) arrays.

    ``tissue`` bool; ``deviation`` float32 is that of the filter's response: see
    :class:`Candidates`.
    """

    tissue: Mask
    deviation: Floats


def draw_clusters(
    film: Prepared, ground: Ground, count: int, rng: np.random.Generator
) -> tuple[Prepared, list[Region]]:
    """Draw up to ``count`` clusters that don't overlap into an image; also where they are.

    ``ground`` is what was found of the image as it was.
    """
    if film.spacing_mm is None:
        return film, []
    pixels = film.pixels
    regions: list[Region] = []
    free = ground.tissue.copy()
    places = np.argwhere(ground.tissue)
    if not len(places):
        return film, []
    for _ in range(20 * count):
        if len(regions) == count:
            break
        row, col = (int(n) for n in places[rng.integers(len(places))])
        drawn = draw(rng, TRAINING_CLUSTERS, film.spacing_mm)
        half = [n // 2 for n in drawn.lesion.mask.shape]
        box = np.s_[
            max(row - half[0], 0) : row + half[0] + 1, max(col - half[1], 0) : col + half[1] + 1
        ]
        if free[box].sum() < 0.9 * drawn.lesion.mask.size:
            continue
        around = float(ground.deviation[row, col])
        pixels, region = apply(pixels, ground.tissue, drawn, (row, col), deviation=around)
        regions.append(region)
        free[box] = False
    return replace(film, pixels=pixels), regions


def _holds(grid: PatchGrid, region: Region) -> Mask:
    """Which patches hold at least half of a region's box: (N,) bool."""
    first = np.maximum(grid.corners, (region.y, region.x))
    last = np.minimum(grid.corners + grid.size, (region.y + region.height, region.x + region.width))
    shared = np.clip(last - first, 0, None).prod(1)
    holds: Mask = shared >= region.width * region.height / 2
    return holds


def _terms(places: Tensor, centre: Tensor, width: Tensor) -> Tensor:
    """1, the covariates ``places`` (…, 4) and their products: (…, 15)."""
    z = ((places - centre) / width).clamp(-3, 3)
    return torch.cat([torch.ones_like(z[..., :1]), z, z[..., _FIRST] * z[..., _SECOND]], -1)


def _of_patches(candidates: Candidates, grid: PatchGrid) -> Pair:
    """The features (N, 4) and places (N, 4) of a grid's patches."""
    values, places = to_host(*candidates.windows(grid))
    return values.astype(np.float64), places.astype(np.float64)


def _some_cells(candidates: Candidates, rng: np.random.Generator) -> Pair:
    """The narrow density (K, 1) and place (K, 4) of some cells of tissue."""
    share, narrow, places = to_host(candidates.share, candidates.narrow, candidates.places)
    of = np.flatnonzero(share > 0)
    some = rng.choice(of, min(len(of), _CELLS_A_FILM), replace=False)
    found = narrow.reshape(-1, 1)[some], places.reshape(-1, len(COVARIATES))[some]
    return found[0].astype(np.float64), found[1].astype(np.float64)


def _above(ordinary: Ordinary, values: Array, places: Array) -> Array:
    """As films are screened: in float32, on the device of ``ordinary``."""
    given = (torch.from_numpy(part).to(ordinary.centre) for part in (values, places))
    (above,) = to_host(ordinary(*given))
    return above.astype(np.float64)


def _rows(both: Pair, which: Mask) -> Pair:
    return both[0][which], both[1][which]


def _stacked(parts: list[Pair]) -> Pair:
    return np.vstack([p[0] for p in parts]), np.vstack([p[1] for p in parts])


METHOD = Method(
    name=NAME,
    family="filters",
    paper="density of bright specks, weighed against synthetic clusters; filters after Marr & "
    "Hildreth, Theory of edge detection, Proc. R. Soc. Lond. B 1980, doi 10.1098/rspb.1980.0020",
    needs=Needs(
        "negative mammograms of known pixel spacing; no labels of lesions",
        body_parts=("breast",),
        spacing=True,
        before=(tissue, place),
    ),
    gives=Gives(
        "image",
        "a score a patch, and a map of where specks gather; blind to anything that is no speck",
        map=True,
    ),
    config=Config,
    build=build,
    learn=learn,
)
