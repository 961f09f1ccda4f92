"""What tells synthetic findings in negative lungs from the untouched lungs.

In the spirit of foreign patch interpolation and its relatives (J. Tan, B. Hou, J. Batten, H. Qiu,
B. Kainz: Detecting outliers with foreign patch interpolation. MELBA 2022:013), with findings drawn
as radiologists describe them: consolidations, nodules, reticular patterns and basal effusions are
planted in registered negatives (:mod:`patchad.methods.parts.chest_frame`), and a logistic
regression on the cells of :mod:`patchad.methods.density.position_gaussian` learns where they are.
"""

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]
from torch import Tensor

from patchad.core.grid import PatchGrid
from patchad.errors import ModelError, RequestError
from patchad.learn.training_set import TrainingSet
from patchad.lesions.recipes import TRAINING_FINDINGS, draw
from patchad.lesions.shapes import Lesion
from patchad.methods import About
from patchad.methods.density.position_gaussian import (
    CELLS,
    NEAR,
    PATCH_POOLING,
    PlaceModel,
    cell_means,
    cells_of,
    describe,
    described,
    fit_places,
    respond,
)
from patchad.methods.density.position_gaussian import Config as PlaceConfig
from patchad.methods.parts.chest_frame import SIDE, Registration, fit_registration
from patchad.model.card import ModelCard
from patchad.model.detector import ImageDetector
from patchad.model.scoring import Response
from patchad.prepare.preprocess import Prepared
from patchad.progress import Progress, silent

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]

METHOD = "synthetic_opacities"
SCORE_UNIT = "logit of a synthetic finding"

ABOUT = About(
    name=METHOD,
    paper="after Tan et al., Detecting outliers with foreign patch interpolation, MELBA 2022:013; "
    "the findings and features are patchad's own",
    needs="negative frontal chest films, some dozens at least; no labels of findings",
    gives="a logit at each of 32 × 32 places of the registered chest; an image score, its "
    "standard deviation over the lungs",
)

KINDS = tuple(TRAINING_FINDINGS)
_MM = 1.5  # a pixel of the frame: a chest film is some 380 mm wide
_SMOOTH = 1.5  # σ in cells
_SEEN = 0.06  # of the way to 1, from which on a cell is to be found


@dataclass(frozen=True)
class Config:
    """How to train.

    ``copies`` is how many times each negative, and its mirror image, gets findings;
    ``penalty`` is scikit-learn's C of the logistic regression.
    """

    copies: int = 2
    penalty: float = 0.003

    def __post_init__(self) -> None:
        if self.copies < 1:
            raise RequestError(f"{METHOD}.copies must be at least 1, got {self.copies}")
        if not 0 < self.penalty < math.inf:
            raise RequestError(f"{METHOD}.penalty must be positive, got {self.penalty}")


def plant(
    rng: np.random.Generator, pixels: Floats, lungs: Mask, kind: str
) -> tuple[Floats, Floats]:
    """Draw a finding of ``kind`` into a registered film (256, 256).

    It brightens towards 1, which is about the brightness of the mediastinum: what is dense already
    hardly changes. Returns the film and, (256, 256) float32 in [0, 1], how much of that way.
    """
    rows, cols = np.nonzero(lungs)
    chosen = int(rng.integers(len(rows)))
    row, col = int(rows[chosen]), int(cols[chosen])
    if kind not in TRAINING_FINDINGS:
        raise ValueError(f"there is no finding {kind!r}")
    width = None
    if kind == "effusion":
        labels, _ = ndimage.label(lungs)
        rows, cols = np.nonzero(labels == labels[row, col])
        row, col = int(rows.max()), round(cols.mean())
        width = float((cols.max() - cols.min()) * _MM)
    drawn = draw(rng, TRAINING_FINDINGS[kind], (_MM, _MM), lung_mm=width)
    share = np.float32(drawn.contrast) * canvas(drawn.lesion, (row, col))
    return pixels + share * np.maximum(1 - pixels, 0), share


def canvas(lesion: Lesion, centre: tuple[int, int]) -> Floats:
    """A lesion's brightness in the template's frame (256, 256), its middle pixel at ``centre``."""
    whole = np.zeros((SIDE, SIDE), np.float32)
    h, w = lesion.added.shape
    top, left = centre[0] - h // 2, centre[1] - w // 2
    target = whole[max(top, 0) : max(top + h, 0), max(left, 0) : max(left + w, 0)]
    part = lesion.added[max(-top, 0) :, max(-left, 0) :]
    target[:] = part[: target.shape[0], : target.shape[1]]
    return whole


@dataclass(frozen=True, eq=False)
class SyntheticOpacities:
    """A fitted model: a :class:`patchad.model.detector.ImageDetector`."""

    card: ModelCard
    registration: Registration
    places: PlaceModel
    weights: Floats  # (K,) of the cells' inputs
    bias: float
    lowest: float  # cell of the training negatives

    def respond(self, image: Prepared, grid: PatchGrid) -> Response:
        """See :class:`Response`; the image score is the spread near the lungs.

        Their mean would tell films apart by exposure and view: what speaks for a finding is that
        parts of the lungs are unlike others.
        """
        film = self.registration.register(image)
        cells = self.logits(describe(film.pixels, self.registration.lungs))
        near = self.registration.near_lungs(NEAR)
        return respond(film, cells, near, image, grid, self.lowest, np.std)

    def logits(self, features: Floats) -> Floats:
        """Of features (32, 32, F): (32, 32)."""
        logits: Floats = inputs(self.places, features) @ self.weights + np.float32(self.bias)
        return logits

    def tensors(self) -> dict[str, Tensor]:
        """Template, lungs, means, deviations, whitening, weights."""
        return {
            **self.registration.tensors(),
            **self.places.tensors(),
            "weights": torch.from_numpy(self.weights.copy()),
            "bias": torch.tensor(self.bias),
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
    """Fit the template, the Gaussians and the regression; ``device``, ``checkpoint`` have no part.

    Raises:
        TrainingError: no lungs are to be seen in the mean of the negatives.
    """
    registration, films = fit_registration(data)
    progress("registration", 1, 1, math.nan)
    near = cells_of(registration.near_lungs(NEAR))
    features = described(films, registration, progress)
    place_config = PlaceConfig()
    places = fit_places(features, place_config.smooth_cells, place_config.ridge)
    clean = np.stack([inputs(places, one)[near] for one in features])
    rng = np.random.default_rng(seed)
    changed, marked = [], []
    total = config.copies * len(features)
    for number in range(total):
        which = number % len(features)
        pixels = films[which % len(films)].pixels
        if which >= len(films):
            pixels = np.ascontiguousarray(pixels[:, ::-1])
        kind = KINDS[int(rng.integers(len(KINDS)))]
        planted, share = plant(rng, pixels, registration.lungs, kind)
        found = cell_means(share[None])[0][near]
        added = inputs(places, describe(planted, registration.lungs))[near]
        chosen = found >= _SEEN
        changed.append(added[chosen])
        marked.append(int(chosen.sum()))
        progress("findings", number + 1, total, math.nan)
    positive, negative = np.concatenate(changed), clean.reshape(-1, clean.shape[-1])
    regression = LogisticRegression(C=config.penalty, class_weight="balanced", max_iter=300)
    regression.fit(
        np.concatenate([positive, negative]), np.repeat([1, 0], [len(positive), len(negative)])
    )
    weights = regression.coef_[0].astype(np.float32)
    bias = float(regression.intercept_[0])
    lowest = float((negative @ weights).min()) + bias
    used = replace(
        card,
        config={**card.config, METHOD: asdict(config)},
        score_unit=SCORE_UNIT,
        patch_pooling=PATCH_POOLING,
        seed=seed,
    )
    return SyntheticOpacities(used, registration, places, weights, bias, lowest)


def restore(card: ModelCard, tensors: dict[str, Tensor], device: torch.device) -> ImageDetector:
    """The detector that was saved as ``card`` and ``tensors``.

    Raises:
        ModelError: they are not of this method.
    """
    registration, places = Registration.of(tensors), PlaceModel.of(tensors)
    try:
        weights = tensors["weights"].cpu().float().numpy()
        bias, lowest = float(tensors["bias"]), float(tensors["lowest"])
    except KeyError as error:
        raise ModelError(f"the model lacks {error}: train anew") from None
    return SyntheticOpacities(card, registration, places, weights, bias, lowest)


def inputs(places: PlaceModel, features: Floats) -> Floats:
    """What the regression sees of features (32, 32, F): (32, 32, K).

    Each feature's z-score, its smoothed value and that value's difference to the other side; the
    Mahalanobis distance, smoothed as well, and the place.
    """
    z = places.z(features)
    smooth = ndimage.gaussian_filter(z, (_SMOOTH, _SMOOTH, 0), mode="nearest")
    distance = places.distance(z)
    wide = ndimage.gaussian_filter(distance, _SMOOTH, mode="nearest")
    row, col = np.meshgrid(*(np.linspace(-1, 1, CELLS, dtype=np.float32),) * 2, indexing="ij")
    side = np.abs(col)
    own = np.stack([distance, wide, row, side, row**2, side**2, row * side], axis=-1)
    return np.concatenate([z, smooth, smooth - smooth[:, ::-1], own], axis=-1)
