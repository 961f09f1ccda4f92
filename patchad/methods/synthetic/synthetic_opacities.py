"""What tells synthetic findings in negative lungs from the untouched lungs.

In the spirit of foreign patch interpolation and its relatives (J. Tan, B. Hou, J. Batten, H. Qiu,
B. Kainz: Detecting outliers with foreign patch interpolation. MELBA 2022:013), with findings drawn
as radiologists describe them: consolidations, nodules, reticular patterns and basal effusions are
planted in registered negatives (:mod:`patchad.methods.parts.chest_frame`), and a logistic
regression on the cells of :mod:`patchad.methods.density.position_gaussian` learns where they are.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]
from torch import Tensor, nn

from patchad.core.arrays import Floats, Mask
from patchad.core.grid import PatchGrid
from patchad.errors import RequestError
from patchad.learn.run import Run
from patchad.learn.training_set import TrainingSet
from patchad.lesions.recipes import TRAINING_FINDINGS, draw
from patchad.lesions.shapes import Lesion
from patchad.methods.density.position_gaussian import (
    CELLS,
    FEATURES,
    Places,
    cell_means,
    cells_of,
    describe,
    described,
    film_features,
    respond,
)
from patchad.methods.density.position_gaussian import Config as PlaceConfig
from patchad.methods.parts.chest_frame import POOLING, SIDE, ChestFrame, fit_frame
from patchad.model.method import Gives, Method, Needs, Setting
from patchad.model.scoring import Response
from patchad.prepare.film import Film
from patchad.prepare.smoothing import gaussian

NAME = "synthetic_opacities"

KINDS = tuple(TRAINING_FINDINGS)
_MM = 1.5  # a pixel of the frame: a chest film is some 380 mm wide
_SMOOTH = 1.5  # σ in cells
_SEEN = 0.06  # of the way to 1, from which on a cell is to be found
_OWN = 7  # inputs besides those of the features


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
            raise RequestError(f"{NAME}.copies must be at least 1, got {self.copies}")
        if not 0 < self.penalty < math.inf:
            raise RequestError(f"{NAME}.penalty must be positive, got {self.penalty}")


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


class SyntheticOpacities(nn.Module):
    """The regression on cells, in the frame of the template.

    ``weights`` (K,) and ``bias`` are those of a cell's :func:`inputs`; ``lowest`` is the lowest
    logit of the training negatives near the lungs.
    """

    unit = "logit of a synthetic finding"
    pooling = POOLING
    weights: Tensor
    bias: Tensor
    lowest: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.registration = ChestFrame()
        self.places = Places()
        self.register_buffer("weights", torch.zeros(3 * FEATURES + _OWN))
        self.register_buffer("bias", torch.zeros(()))
        self.register_buffer("lowest", torch.zeros(()))

    def forward(self, film: Film, grid: PatchGrid) -> Response:
        """See :class:`Response`; the image score is the spread near the lungs.

        Their mean would tell films apart by exposure and view: what indicates a finding is that
        parts of the lungs are unlike others.
        """
        features = film_features(film, self.registration)
        cells = inputs(self.places, features) @ self.weights + self.bias
        return respond(self.registration, cells, film, grid, self.lowest, _spread)


def build(config: Config, setting: Setting) -> SyntheticOpacities:
    """The module before it is fitted."""
    return SyntheticOpacities()


def learn(module: SyntheticOpacities, config: Config, data: TrainingSet, run: Run) -> None:
    """Fit the template, the Gaussians and the regression.

    Raises:
        TrainingError: no lungs found in the mean of the negatives.
    """
    fitted, places = fit_frame(data, run), module.places
    frame = fitted.frame
    module.registration.load_state_dict(frame.state_dict())
    features = described(fitted, run)
    place_config = PlaceConfig()
    places.fit(features.cpu().numpy(), place_config.smooth_cells, place_config.ridge)
    near = cells_of(frame.near)
    clean = torch.cat([inputs(places, one)[near] for one in features])
    lungs = frame.lungs.cpu().numpy()
    rng = np.random.default_rng(run.seed)
    changed = []
    total = config.copies * len(features)
    for number in range(total):
        which = number % len(features)
        pixels = fitted.films[which % len(fitted.films)].pixels.cpu().numpy()
        if which >= len(fitted.films):
            pixels = np.ascontiguousarray(pixels[:, ::-1])
        kind = KINDS[int(rng.integers(len(KINDS)))]
        planted, share = (
            torch.from_numpy(array).to(run.device) for array in plant(rng, pixels, lungs, kind)
        )
        seen = cell_means(share)[near] >= _SEEN
        changed.append(inputs(places, describe(planted, frame.lungs))[near][seen])
        run.tell("findings", number + 1, total)
    positive, negative = torch.cat(changed).cpu().numpy(), clean.cpu().numpy()
    regression = LogisticRegression(C=config.penalty, class_weight="balanced", max_iter=300)
    regression.fit(
        np.concatenate([positive, negative]), np.repeat([1, 0], [len(positive), len(negative)])
    )
    module.weights.copy_(torch.from_numpy(regression.coef_[0]))
    module.bias.copy_(torch.from_numpy(regression.intercept_)[0])
    module.lowest.copy_((clean @ module.weights + module.bias).min())


def inputs(places: Places, features: Tensor) -> Tensor:
    """What the regression sees of features (32, 32, F): (32, 32, K).

    Each feature's z-score, its smoothed value and that value's difference to the other side; the
    Mahalanobis distance, smoothed as well, and the place.
    """
    z = places.z(features)
    distance = places.distance(z)
    both = torch.cat([z.permute(2, 0, 1), distance[None]])
    smooth = gaussian(both, (_SMOOTH, _SMOOTH), border="nearest", truncate=4.0).permute(1, 2, 0)
    smooth, wide = smooth[..., :-1], smooth[..., -1]
    ticks = torch.linspace(-1, 1, CELLS, device=z.device)
    row, side = ticks[:, None].expand(CELLS, CELLS), ticks.abs().expand(CELLS, CELLS)
    own = [distance, wide, row, side, row**2, side**2, row * side]
    return torch.cat([z, smooth, smooth - smooth.flip(1), torch.stack(own, -1)], -1)


def _spread(values: Tensor) -> Tensor:
    return values.std(correction=0)


METHOD = Method(
    name=NAME,
    family="synthetic",
    paper="after Tan et al., Detecting outliers with foreign patch interpolation, MELBA 2022:013; "
    "the findings and features are patchad's own",
    needs=Needs(
        "negative frontal chest films, some dozens at least; no labels of findings",
        body_parts=("chest",),
    ),
    gives=Gives(
        "image",
        "a logit at each of 32 × 32 places of the registered chest; an image score, its "
        "standard deviation over the lungs",
        map=True,
        image=True,
    ),
    config=Config,
    build=build,
    learn=learn,
)
