"""Clusters of bright specks, weighed by what synthetic clusters do to negative images.

:mod:`patchad.methods.parts.specks` finds specks and counts them. What is ordinary for the place
(distance to air, row, column, density) is regressed on negatives and taken off. The weights of the
features are then learnt without a real lesion: windows of training negatives into which synthetic
clusters were drawn, against windows as they were.
"""

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from patchad.core.grid import PatchGrid
from patchad.core.image import Region
from patchad.errors import ModelError, RequestError, TrainingError
from patchad.learn.training_set import TrainingSet
from patchad.lesions.recipes import TRAINING_CLUSTERS, TRAINING_CLUSTERS_MM, apply, draw
from patchad.methods import About
from patchad.methods.parts.specks import FEATURES, Array, Cells, find_specks
from patchad.model.card import ModelCard
from patchad.model.detector import ImageDetector
from patchad.model.scoring import Response
from patchad.prepare.filters import Mask
from patchad.prepare.preprocess import Prepared
from patchad.prepare.resize import resize
from patchad.progress import Progress, silent

METHOD = "calcification"
SCORE_UNIT = "log odds of synthetic calcifications"
PATCH_POOLING = (
    "logistic regression of four features of the specks in the patch, each relative to what is "
    "ordinary at its place; the map is the density of specks, relative likewise"
)

ABOUT = About(
    name=METHOD,
    paper="density of bright specks, weighed against synthetic clusters; filters after Marr & "
    "Hildreth, Theory of edge detection, Proc. R. Soc. Lond. B 1980, doi 10.1098/rspb.1980.0020",
    needs="negative mammograms of known pixel spacing; no labels of lesions",
    gives="a score a patch, and a map of where specks gather; blind to anything that is no speck",
)

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
            raise RequestError(f"{METHOD}.clusters must be at least 1, got {self.clusters}")
        if not 0 < self.c < math.inf:
            raise RequestError(f"{METHOD}.c must be positive, got {self.c}")


_CONFIG = TypeAdapter(Config)


@dataclass(frozen=True, eq=False)
class Ordinary:
    """What a feature is like on negatives, given its place: mean and deviation.

    Quadratic in four covariates. ``centre`` and ``width`` (4,) standardise them, ``mean`` and
    ``log_variance`` (15, F) are the coefficients for F features.
    """

    centre: Array
    width: Array
    mean: Array
    log_variance: Array

    @classmethod
    def of(cls, values: Array, places: Array) -> "Ordinary":
        """Regress ``values`` (N, F), and the log of their squared residuals, on ``places`` (N, 4).

        The variance is brought to the residuals' own: the mean of a log lies below the log of the
        mean.
        """
        start = cls(places.mean(0), places.std(0) + 1e-9, np.zeros(0), np.zeros(0))
        terms = start._terms(places)
        normal = terms.T @ terms + 1e-5 * len(terms) * np.eye(terms.shape[1])
        mean = np.linalg.solve(normal, terms.T @ values).astype(np.float64)
        squares = (values - terms @ mean) ** 2
        logs = np.log(squares + 1e-6)
        log_variance = np.linalg.solve(normal, terms.T @ logs).astype(np.float64)
        log_variance[0] += np.log((squares * np.exp(-terms @ log_variance)).mean(0) + 1e-12)
        return replace(start, mean=mean, log_variance=log_variance)

    def __call__(self, values: Array, places: Array) -> Array:
        """How many deviations ``values`` (N, F) lie above what is ordinary at ``places`` (N, 4)."""
        terms = self._terms(places)
        z = (values - terms @ self.mean) * np.exp(-terms @ self.log_variance / 2)
        limited: Array = np.clip(z, -_LIMIT, _LIMIT)
        return limited

    def _terms(self, places: Array) -> Array:
        """1, the covariates and their products: (N, 15)."""
        z = np.clip((places - self.centre) / self.width, -3, 3)
        i, j = np.triu_indices(z.shape[1])
        return np.hstack([np.ones((len(z), 1)), z, z[:, i] * z[:, j]])


@dataclass(frozen=True, eq=False)
class Calcification:
    """A trained detector of specks: a :class:`patchad.model.detector.ImageDetector`.

    ``coefficients`` (4,) and ``intercept`` weigh the features of a patch.
    """

    card: ModelCard
    patch: Ordinary
    cell: Ordinary
    coefficients: Array
    intercept: float

    def respond(self, image: Prepared, grid: PatchGrid) -> Response:
        """The density of specks as a map in deviations of negatives, and the log odds of patches.

        Raises:
            ImageError: nobody said the image's pixel spacing.
        """
        cells = find_specks(image)
        values, places = cells.windows(grid)
        scores = self.patch(values, places) @ self.coefficients + self.intercept
        inside = cells.share.ravel() > 0
        density = np.zeros(inside.shape, np.float32)
        found = self.cell(cells.narrow.reshape(-1, 1)[inside], cells.places()[inside])
        density[inside] = found[:, 0]
        # Beyond the tissue, zeros are what is ordinary, and the mask leaves them out.
        rows, cols = cells.share.shape
        picture = resize(density.reshape(rows, cols), (rows * cells.side[0], cols * cells.side[1]))
        picture = picture[: image.pixels.shape[0], : image.pixels.shape[1]]
        response = np.where(cells.tissue, picture, np.float32(np.nan))
        return Response(response, scores.astype(np.float32))

    def tensors(self) -> dict[str, Tensor]:
        """What was learnt, by name."""
        arrays = {f"patch.{name}": value for name, value in vars(self.patch).items()}
        arrays |= {f"cell.{name}": value for name, value in vars(self.cell).items()}
        arrays |= {"coefficients": self.coefficients, "intercept": np.array([self.intercept])}
        return {name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in arrays.items()}


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
    """Learn what is ordinary on negatives, and the weights from synthetic clusters in them.

    Args:
        config: this method's own table.
        data: the negative images.
        card: a draft, without calibration.
        seed: decides the clusters, and which cells the map's ordinary values are taken from.
        device: not used: this is numpy on the CPU.
        checkpoint: not used: training takes a second an image.
        progress: told of each image.

    Raises:
        ImageError: nobody said an image's pixel spacing.
        TrainingError: no image has room for a cluster.
    """
    # Only training needs it, and it takes a second to import.
    from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]

    plain: list[tuple[Array, Array]] = []
    drawn: list[tuple[Array, Array]] = []
    spots: list[tuple[Array, Array]] = []
    for number in range(len(data)):
        film = data.film(number)
        rng = np.random.default_rng([seed, number])
        grid = PatchGrid(film.foreground.mask.shape, card.patch_size, (card.patch_size + 1) // 2)
        kept = grid.means(film.foreground.mask) >= card.min_foreground
        cells = find_specks(film)
        plain.append(_rows(cells.windows(grid), kept))
        spots.append(_some_cells(cells, rng))
        changed, regions = draw_clusters(film, cells, config.clusters, rng)
        holds = kept & np.any([_holds(grid, region) for region in regions], axis=0)
        if regions and holds.any():
            drawn.append(_rows(find_specks(changed).windows(grid), holds))
        progress("learning calcifications", number + 1, len(data), math.nan)
    if not drawn:
        raise TrainingError(
            f"no synthetic cluster of up to {TRAINING_CLUSTERS_MM.high:g} mm found room in the "
            "training images: check their pixel spacing, or lower min_foreground"
        )
    patch = Ordinary.of(*_stacked(plain))
    negative, positive = patch(*_stacked(plain)), patch(*_stacked(drawn))
    labels = np.repeat([0, 1], [len(negative), len(positive)])
    regression = LogisticRegression(C=config.c, class_weight="balanced")
    regression.fit(np.vstack([negative, positive]), labels)
    return Calcification(
        replace(
            card,
            config={**card.config, METHOD: asdict(config)},
            score_unit=SCORE_UNIT,
            patch_pooling=PATCH_POOLING,
            seed=seed,
        ),
        patch,
        Ordinary.of(*_stacked(spots)),
        regression.coef_[0],
        float(regression.intercept_[0]),
    )


def restore(card: ModelCard, tensors: dict[str, Tensor], device: torch.device) -> ImageDetector:
    """The detector that was saved as ``card`` and ``tensors``.

    Raises:
        ModelError: they are not of this method.
    """
    arrays = {name: t.cpu().numpy() for name, t in tensors.items()}
    try:
        _CONFIG.validate_python(card.config.get(METHOD))
        patch, cell = (
            Ordinary(*(arrays[f"{of}.{n}"] for n in Ordinary.__annotations__))
            for of in ("patch", "cell")
        )
        if arrays["coefficients"].shape != (len(FEATURES),):
            raise ValueError(f"it has coefficients of shape {arrays['coefficients'].shape}")
        return Calcification(
            card, patch, cell, arrays["coefficients"], float(arrays["intercept"][0])
        )
    except (ValidationError, KeyError, ValueError) as error:
        raise ModelError(
            f"the model is not one of {METHOD} that this patchad can read: {error}; train anew"
        ) from None


def draw_clusters(
    film: Prepared, cells: Cells, count: int, rng: np.random.Generator
) -> tuple[Prepared, list[Region]]:
    """Draw up to ``count`` clusters that don't overlap into an image; also where they are.

    ``cells`` are those of the image as it was.
    """
    if film.spacing_mm is None:
        return film, []
    pixels = film.pixels
    regions: list[Region] = []
    free = cells.tissue.copy()
    places = np.argwhere(cells.tissue)
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
        around = float(cells.deviation[row, col])
        pixels, region = apply(pixels, cells.tissue, drawn, (row, col), deviation=around)
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


def _some_cells(cells: Cells, rng: np.random.Generator) -> tuple[Array, Array]:
    """The narrow density (K, 1) and place (K, 4) of some cells of tissue."""
    of = np.flatnonzero(cells.share.ravel() > 0)
    some = rng.choice(of, min(len(of), _CELLS_A_FILM), replace=False)
    return cells.narrow.reshape(-1, 1)[some], cells.places()[some]


def _rows(both: tuple[Array, Array], which: Mask) -> tuple[Array, Array]:
    return both[0][which], both[1][which]


def _stacked(parts: list[tuple[Array, Array]]) -> tuple[Array, Array]:
    return np.vstack([p[0] for p in parts]), np.vstack([p[1] for p in parts])
