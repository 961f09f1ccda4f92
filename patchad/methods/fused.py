"""Several detectors as one: the weighted sum of their scores in standard deviations of negatives.

Fusion by sums of standardised scores: A. Jain, K. Nandakumar, A. Ross, Pattern Recognition
38:2270-2285, 2005, https://doi.org/10.1016/j.patcog.2005.01.012.

A dense or noisy film has higher maxima than another, lesion or not. So what negatives of its kind
have for their maximum is subtracted from all scores of a film (``film_offset``): a ridge regression
on covariates of the whole film, learnt on negatives alone.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from patchad.core.grid import PatchGrid
from patchad.core.host import to_host
from patchad.errors import RequestError
from patchad.learn.fitting import fit
from patchad.learn.run import Run
from patchad.learn.training_set import TrainingSet
from patchad.methods import METHODS, method_of
from patchad.methods.parts.pooling import smooth_patches
from patchad.methods.parts.scale import NegativeScale
from patchad.model.method import Gives, Method, Needs, Setting
from patchad.model.options import parse
from patchad.model.scoring import Answer, Response, score
from patchad.prepare.film import Film, tissue

NAME = "fused"
UNIT = "weighted sum of standard deviations from the median of negatives"

_COARSE_MM = (0.4, 2.0)  # Gaussians of the two high-passes that tell noise and texture
_SAMPLED = 97  # every so many pixels of a map are looked at for its scale
_PENALTY = 1.0  # of the ridge, a film: on mini-MIAS the weaker one that left-out films would choose
# was worse


@dataclass(frozen=True)
class Member:
    """A detector's ``weight`` and its own table of ``options``; ``method`` is its name if empty."""

    method: str = ""
    weight: float = 1.0
    options: Any = field(default_factory=dict)


@dataclass(frozen=True)
class Config:
    """Which detectors, by names of their own, and what is done with the sum of their patch scores.

    ``smoothing`` averages a patch with its neighbours: a Gaussian's standard deviation, as a share
    of the patch's side; 0 doesn't. ``film_offset`` subtracts the film's offset from all scores.
    """

    members: Mapping[str, Member]
    smoothing: float = 0.0
    film_offset: bool = True

    def __post_init__(self) -> None:
        if not self.members:
            raise RequestError(f"{NAME}.members names no detector: give one at least")
        if not 0 <= self.smoothing <= 1:
            raise RequestError(
                f"{NAME}.smoothing is a share of a patch in [0, 1], got {self.smoothing}"
            )
        if len({name.casefold() for name in self.members}) < len(self.members):
            raise RequestError(
                f"{NAME}.members: names differ by more than upper and lower case, since they name "
                f"files; got {', '.join(self.members)}"
            )
        resolved = {}
        for name, member in self.members.items():
            where = f"{NAME}.members.{name}"
            if not re.fullmatch(r"\w[\w-]{0,63}", name):
                raise RequestError(
                    f"{where}: a member's name has up to 64 letters, digits, _ and -"
                )
            method = member.method or name
            if method == NAME or method not in METHODS:
                others = ", ".join(known for known in METHODS if known != NAME)
                raise RequestError(f"{where}: there is no method {method!r}; take one of {others}")
            if not 0 < member.weight < math.inf:
                raise RequestError(f"{where}.weight must be positive, got {member.weight}")
            options = member.options
            if isinstance(options, Mapping):
                options = parse(method_of(method).config, options, f"{where}.options.")
            resolved[name] = Member(method, member.weight, options)
        object.__setattr__(self, "members", resolved)


class Fused(nn.Module):
    """The members, the scales of their scores, and the film's offset.

    ``patches``, ``maps`` and ``images`` are the scales of the K members' patch scores, map values
    and own image scores; ``covariates`` that of the whole film's covariates, whose ``slopes``
    (5 + K,) the ridge found (all 0 without an offset).
    """

    unit = UNIT
    weights: Tensor
    slopes: Tensor

    def __init__(self, config: Config, setting: Setting) -> None:
        super().__init__()
        self.config, self.setting = config, setting
        self.methods = [method_of(member.method) for member in config.members.values()]
        self.members = nn.ModuleList(
            method.build(member.options, setting)
            for method, member in zip(self.methods, config.members.values(), strict=True)
        )
        count = len(self.members)
        weights = torch.tensor([member.weight for member in config.members.values()])
        self.register_buffer("weights", weights, persistent=False)  # the configuration has them
        self.register_buffer("slopes", torch.zeros(len(_WHOLE) + count))
        self.patches, self.maps, self.images = (NegativeScale(count) for _ in range(3))
        self.covariates = NegativeScale(len(_WHOLE) + count)

    @property
    def pooling(self) -> str:
        """How a patch score is made from those of the members."""
        parts = [
            f"{member.weight:g} × {name} ({str(module.pooling or module.unit).rstrip('.')})"
            for (name, member), module in zip(
                self.config.members.items(), self.members, strict=True
            )
        ]
        return f"Sum of {'; '.join(parts)}"

    def forward(self, film: Film, grid: PatchGrid) -> Response:
        """The members' weighted sums, minus the film's offset."""
        found = self.answers(film, grid)
        patches = self.summed(torch.stack([one.values for one in found], -1), grid)
        maps = torch.stack([one.dense(film, self.setting) for one in found], -1)
        dense = self.maps(maps) @ self.weights
        if self.config.film_offset:
            offset = self.covariates(self.seen(film, found)) @ self.slopes
            patches, dense = patches - offset, dense - offset
        own = [one.image for one in found]
        images = [one for one in own if one is not None]
        whole = None
        if len(images) == len(own):
            whole = self.images(torch.stack(images).float()) @ self.weights
        return Response(dense, patches, whole)

    def answers(self, film: Film, grid: PatchGrid) -> list[Answer]:
        """The answer of each member for a film."""
        return [
            score(method, module, self.setting, film, grid)
            for method, module in zip(self.methods, self.members, strict=True)
        ]

    def summed(self, values: Tensor, grid: PatchGrid) -> Tensor:
        """The weighted sum of patch scores (N, K), smoothed: (N,) float32, NaN kept."""
        summed: Tensor = self.patches(values) @ self.weights
        if not self.config.smoothing:
            return summed
        return smooth_patches(summed, grid, self.config.smoothing * grid.size)

    def seen(self, film: Film, found: Sequence[Answer]) -> Tensor:
        """Covariates of the whole film, then each member's median patch score: (5 + K,).

        Log area (pixels), mean and deviation of the density, log deviation of what two Gaussians
        leave (noise; texture).
        """
        tissue = film.tissue
        inside = film.pixels[tissue]
        rest = [(film.pixels - film.smooth(mm))[tissue].std(correction=0) for mm in _COARSE_MM]
        medians = [one.values.nanquantile(0.5) for one in found]
        area = tissue.sum().float().log()
        logs = [(one + 1e-6).log() for one in rest]
        return torch.stack([area, inside.mean(), inside.std(correction=0), *logs, *medians])


_WHOLE = ("log area", "mean", "deviation", "log noise", "log texture")


def build(config: Config, setting: Setting) -> Fused:
    """The members before training."""
    return Fused(config, setting)


def learn(module: Fused, config: Config, data: TrainingSet, run: Run) -> None:
    """Fit each member, then learn their scales and the film's offset from the same negatives.

    Raises:
        PatchadError: as the members'.
    """
    for number, (name, member) in enumerate(config.members.items()):
        fitted = fit(module.methods[number], member.options, data, run.member(name))
        module.members[number] = fitted.module
    patches: list[tuple[NDArray[np.float32], PatchGrid]] = []
    maps: list[NDArray[np.float32]] = []
    images: list[NDArray[np.float32]] = []
    covariates: list[NDArray[np.float32]] = []
    before = narrow(METHOD.needs, config).before
    for number, (film, grid, scored) in enumerate(data.films(run, before), start=1):
        run.tell("scale", number, len(data))
        if not scored.any():  # its breast lies between the patches: it has no score
            continue
        with torch.inference_mode():
            found = module.answers(film, grid)
            values = torch.stack([one.values for one in found], -1)
            dense = torch.stack([one.dense(film, run.setting) for one in found], -1)
            dense = dense[dense.isfinite().all(-1)][::_SAMPLED]
            own = [one.image if one.image is not None else values.new_tensor(math.nan)
                   for one in found]  # fmt: skip
            seen = module.seen(film, found) if config.film_offset else values.new_zeros(0)
        on_host = to_host(values, dense, torch.stack(own).float(), seen)
        patches.append((on_host[0], grid))
        for kept, one in zip((maps, images, covariates), on_host[1:], strict=True):
            kept.append(one)
    none = np.empty((0, len(module.members)), np.float32)
    module.patches.learn(np.concatenate([none, *(values for values, _ in patches)]))
    module.maps.learn(np.concatenate(maps))
    if np.isfinite(images).all():
        module.images.learn(np.array(images))
    if config.film_offset:
        module.covariates.learn(np.array(covariates))
        _learn_offset(module, patches, np.array(covariates))


def _learn_offset(
    module: Fused,
    patches: Sequence[tuple[NDArray[np.float32], PatchGrid]],
    covariates: NDArray[np.float32],
) -> None:
    """Regress the films' highest sums on their covariates."""
    from sklearn.linear_model import Ridge  # type: ignore[import-untyped]  # slow; for training

    device = module.slopes.device
    with torch.inference_mode():
        highest = [
            module.summed(torch.from_numpy(values).to(device), grid).nan_to_num(-math.inf).max()
            for values, grid in patches
        ]
        seen = module.covariates(torch.from_numpy(covariates).to(device))
        maxima, inputs = to_host(torch.stack(highest), seen)
    ridge = Ridge(alpha=_PENALTY * len(maxima)).fit(inputs, maxima)
    module.slopes.copy_(torch.from_numpy(ridge.coef_.astype(np.float32)))


def narrow(needs: Needs, config: Config) -> Needs:
    """What the members of a configuration need together."""
    of = [method_of(member.method).needs_with(member.options) for member in config.members.values()]
    before = [one for own in of for one in own.before] + [tissue] * config.film_offset
    return replace(
        needs,
        body_parts=tuple(
            part for part in needs.body_parts if all(part in own.body_parts for own in of)
        ),
        unlabelled=any(own.unlabelled for own in of),
        spacing=config.film_offset or any(own.spacing for own in of),
        before=tuple(dict.fromkeys(before)),
    )


METHOD = Method(
    name=NAME,
    family="fusion",
    paper="Jain, Nandakumar & Ross, Score normalization in multimodal biometric systems, Pattern "
    "Recognition 2005, doi 10.1016/j.patcog.2005.01.012",
    needs=Needs("what its members need; the configurations mammography and chest name them"),
    gives=Gives(
        "image",
        "the weighted sum of its members' maps and patch scores; less what a "
        "film of this density and noise has as its maximum",
        map=True,
        image=True,
    ),
    config=Config,
    build=build,
    learn=learn,
    narrow=narrow,
)
