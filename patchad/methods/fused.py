"""Several detectors as one: the weighted sum of their scores in standard deviations of negatives.

Fusion by sums of standardised scores: A. Jain, K. Nandakumar, A. Ross, Pattern Recognition
38:2270-2285, 2005, https://doi.org/10.1016/j.patcog.2005.01.012.

A dense or noisy film has higher maxima than another, lesion or not. So what negatives of its kind
have for their maximum is taken off all scores of a film (``film_offset``): a ridge regression on
what is seen of the film as a whole, learnt on negatives alone.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import Ridge  # type: ignore[import-untyped]
from torch import Tensor

from patchad.core.grid import PatchGrid, stitch
from patchad.errors import ModelError, RequestError
from patchad.learn.training_set import TrainingSet
from patchad.methods import METHODS, About, module_of
from patchad.methods.parts.pooling import smooth_patches
from patchad.methods.parts.scale import Standard
from patchad.model.detector import Detector, ImageDetector, ModelCard, Response, Scored, score
from patchad.model.options import parse
from patchad.prepare.filters import masked_gaussian, sigma_pixels
from patchad.prepare.preprocess import Prepared
from patchad.progress import Progress, silent

METHOD = "fused"
UNIT = "weighted sum of standard deviations from the median of negatives"

ABOUT = About(
    name=METHOD,
    paper="Jain, Nandakumar & Ross, Score normalization in multimodal biometric systems, Pattern "
    "Recognition 2005, doi 10.1016/j.patcog.2005.01.012",
    needs="what its members need; the configurations mammography and chest name them",
    gives="the weighted sum of its members' maps and patch scores; less what a "
    "film of this density and noise has as its maximum",
)

_COARSE_MM = (0.4, 2.0)  # Gaussians of the two high-passes that tell noise and texture
_SCALES = ("patches", "maps", "images", "covariates")
_SAMPLED = 97  # every so many pixels of a map are looked at for its scale
_PENALTY = 1.0  # of the ridge, a film: on mini-MIAS the weaker one that left-out films would choose
# was worse


@dataclass(frozen=True)
class Member:
    """A detector's ``weight`` and its own table of ``options``."""

    weight: float = 1.0
    options: Any = field(default_factory=dict)


@dataclass(frozen=True)
class Config:
    """Which detectors, and what is done with the sum of their patch scores.

    ``smoothing`` averages a patch with its neighbours: a Gaussian's standard deviation, as a share
    of the patch's side; 0 doesn't. ``film_offset`` takes the film's offset off all scores.
    """

    members: Mapping[str, Member]
    smoothing: float = 0.0
    film_offset: bool = True

    def __post_init__(self) -> None:
        if not self.members:
            raise RequestError(f"{METHOD}.members names no detector: give one at least")
        if not 0 <= self.smoothing <= 1:
            raise RequestError(
                f"{METHOD}.smoothing is a share of a patch in [0, 1], got {self.smoothing}"
            )
        resolved = {}
        for name, member in self.members.items():
            if name == METHOD or name not in METHODS:
                others = ", ".join(known for known in METHODS if known != METHOD)
                raise RequestError(f"{METHOD}.members.{name}: no such detector; take of {others}")
            if not 0 < member.weight < math.inf:
                raise RequestError(
                    f"{METHOD}.members.{name}.weight must be positive, got {member.weight}"
                )
            options = member.options
            if isinstance(options, Mapping):
                prefix = f"{METHOD}.members.{name}.options."
                options = parse(module_of(name).Config, options, prefix)
            resolved[name] = Member(member.weight, options)
        object.__setattr__(self, "members", resolved)

    @property
    def weights(self) -> NDArray[np.float32]:
        """The members' weights, (K,) float32."""
        return np.array([member.weight for member in self.members.values()], np.float32)


@dataclass(frozen=True, eq=False)
class Fused:
    """Fitted members with their scales: a :class:`patchad.model.detector.ImageDetector`.

    ``scales`` has those of the K members' ``patches`` (scores), ``maps`` (values) and ``images``
    (own scores), and that of the film's ``covariates``, whose ``slopes`` (C,) the ridge found (all
    0 without an offset).
    """

    card: ModelCard
    config: Config
    members: tuple[Detector, ...]
    scales: Mapping[str, Standard]
    slopes: NDArray[np.float64]

    def respond(self, image: Prepared, grid: PatchGrid) -> Response:
        """The members' weighted sums, less the film's offset."""
        found = [score(member, image, grid) for member in self.members]
        weights = self.config.weights
        offset = np.float32(0)
        if self.slopes.any():
            offset = np.float32(self.scales["covariates"](_covariates(image, found)) @ self.slopes)
        maps = np.stack([_map(one, self.card, image) for one in found], -1)
        return Response(
            self.scales["maps"](maps) @ weights - offset,
            np.nan_to_num(_summed(_patch_scores(found), grid, self.scales["patches"], self.config))
            - offset,
            float(self.scales["images"](_image_scores(found)) @ weights),
        )

    def tensors(self) -> dict[str, Tensor]:
        """The members' tensors as ``member/tensor``, and the fusion's own as ``fused/tensor``."""
        parts = {METHOD: {"slopes": torch.from_numpy(self.slopes)}}
        for name, scale in self.scales.items():
            parts[METHOD] |= scale.tensors(name)
        for name, member in zip(self.config.members, self.members, strict=True):
            parts[name] = member.tensors()
        return {f"{part}/{name}": t for part, named in parts.items() for name, t in named.items()}


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
    """Fit each member, then learn their scales and the film's offset from the same negatives.

    Args:
        config: members, weights and whether there is an offset.
        data: negatives.
        card: a draft, without calibration.
        seed: each member's.
        device: each member's.
        checkpoint: a member's checkpoint lies in its folder, under the member's name.
        progress: told of each member's steps, and of the films scored.

    Raises:
        PatchadError: as the members'.
    """
    members = []
    for name, member in config.members.items():
        own_file = checkpoint and checkpoint.with_name(f"{name}-{checkpoint.name}")
        fitted: Detector = module_of(name).fit(
            member.options,
            data,
            card=_member_card(card, name, member),
            seed=seed,
            device=device,
            checkpoint=own_file,
            progress=progress,
        )
        members.append(fitted)
    patches: list[tuple[NDArray[np.float32], PatchGrid]] = []
    maps: list[NDArray[np.float32]] = []
    images: list[NDArray[np.float64]] = []
    covariates: list[NDArray[np.float64]] = []
    for number, (image, grid, _) in enumerate(data.films(card), start=1):
        found = [score(member, image, grid) for member in members]
        patches.append((_patch_scores(found), grid))
        dense = np.stack([_map(one, card, image) for one in found], -1)
        maps.append(dense[np.isfinite(dense).all(-1)][::_SAMPLED])
        images.append(_image_scores(found))
        covariates.append(_covariates(image, found) if config.film_offset else np.zeros(1))
        progress(METHOD, number, len(data), math.nan)
    scale = Standard.of(np.concatenate([values for values, _ in patches]))
    seen = Standard.of(np.array(covariates))
    slopes = np.zeros(len(seen.centre))
    own = np.array(images)
    if config.film_offset:
        maxima = [np.nanmax(_summed(values, on, scale, config)) for values, on in patches]
        ridge = Ridge(alpha=_PENALTY * len(maxima)).fit(seen(np.array(covariates)), maxima)
        slopes = ridge.coef_.astype(np.float64)
    pooling = "; ".join(
        f"{weight:g} × {member.card.method} ({_pooling(member.card)})"
        for weight, member in zip(config.weights, members, strict=True)
    )
    return Fused(
        replace(
            card,
            config={**card.config, METHOD: asdict(config)},
            score_unit=UNIT,
            patch_pooling=f"Sum of {pooling}",
        ),
        config,
        tuple(members),
        {
            "patches": scale,
            "maps": Standard.of(np.concatenate(maps)),
            "images": Standard.of(own) if np.isfinite(own).all() else Standard.none(len(members)),
            "covariates": seen,
        },
        slopes,
    )


def restore(card: ModelCard, tensors: dict[str, Tensor], device: torch.device) -> ImageDetector:
    """The detector that was saved as ``card`` and ``tensors``.

    Raises:
        ModelError: they are not of this method, or a member's are not of its.
    """
    parts: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        owner, _, name = key.partition("/")
        parts.setdefault(owner, {})[name] = tensor
    try:
        config = parse(Config, card.config.get(METHOD), "")
        own = parts[METHOD]
        members: list[Detector] = [
            module_of(name).restore(_member_card(card, name, member), parts.get(name, {}), device)
            for name, member in config.members.items()
        ]
        scales = {name: Standard.restored(own, name) for name in _SCALES}
        slopes = own["slopes"].double().cpu().numpy()
    except (RequestError, KeyError) as error:
        raise ModelError(
            f"the model is not one of {METHOD} that this patchad can read: {error}; train anew"
        ) from None
    return Fused(card, config, tuple(members), scales, slopes)


def _member_card(card: ModelCard, name: str, member: Member) -> ModelCard:
    """The fusion's card as a member's own: its method and options."""
    return replace(card, method=name, config={**card.config, name: asdict(member.options)})


def _pooling(card: ModelCard) -> str:
    return card.patch_pooling.rstrip(".") or card.score_unit


def _patch_scores(found: Sequence[Scored]) -> NDArray[np.float32]:
    """(N, K) float32, NaN where a patch was not scored."""
    return np.stack([one.scores.values for one in found], -1)


def _summed(
    values: NDArray[np.float32], grid: PatchGrid, scale: Standard, config: Config
) -> NDArray[np.float32]:
    """The weighted sum of patch scores (N, K), smoothed: (N,) float32, NaN kept."""
    summed: NDArray[np.float32] = scale(values) @ config.weights
    if not config.smoothing:
        return summed
    return smooth_patches(summed, grid, config.smoothing * grid.size)


def _image_scores(found: Sequence[Scored]) -> NDArray[np.float64]:
    """The members' own image scores: (K,) float64, NaN where there is none."""
    return np.array([one.image for one in found])


def _map(one: Scored, card: ModelCard, image: Prepared) -> NDArray[np.float32]:
    """A member's dense map, or its patch scores stitched: (H', W') float32."""
    if one.map is not None:
        return one.map
    mask = image.foreground.mask
    return stitch(one.scores.grid, one.scores.values, weighting=card.weighting, mask=mask)


def _covariates(image: Prepared, found: Sequence[Scored]) -> NDArray[np.float64]:
    """What is seen of a film as a whole: (5 + K,) float64.

    Log area (pixels), mean and deviation of the density, log deviation of what two Gaussians leave
    (noise; texture), and the median of each member's patch scores.
    """
    spacing, tissue = image.known_spacing, image.tissue
    inside = image.pixels[tissue]
    rest = [
        (image.pixels - masked_gaussian(image.pixels, tissue, sigma_pixels(mm, spacing)))[tissue]
        for mm in _COARSE_MM
    ]
    return np.array(
        [
            math.log(inside.size),
            inside.mean(),
            inside.std(),
            *(math.log(part.std() + 1e-6) for part in rest),
            *np.nanmedian(_patch_scores(found), axis=0),
        ],
        np.float64,
    )
