"""A small UNet that learnt to outline lesions drawn into negatives; no real lesion is ever shown.

Learning from anomalies drawn into normal images: C. Li, K. Sohn, J. Yoon, T. Pfister: CutPaste,
CVPR 2021; J. Tan, B. Hou, J. Batten, H. Qiu, B. Kainz: Detecting Outliers with Foreign Patch
Interpolation, MELBA 2022. The network: O. Ronneberger, P. Fischer, T. Brox: U-Net, MICCAI 2015.

Masses and spiculated masses of 2.5-20 mm radius are drawn into films at cells of 0.8 mm
(:mod:`patchad.methods.parts.lesion_films`), oftener where the breast is dense, with a contrast
relative to what is around. The network is asked, at each cell, whether it lies in one. It looks at
channels that hardly depend on the film's brightness and contrast.
"""

import hashlib
import json
import math
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn
from torch.nn import functional

from patchad.core.grid import PatchGrid
from patchad.errors import ModelError, RequestError, TrainingError
from patchad.learn.checkpoint import Checkpoint, epoch_generator
from patchad.learn.loop import load_optimiser, optimiser_tensors
from patchad.learn.training_set import TrainingSet
from patchad.methods import About
from patchad.methods.parts.lesion_films import (
    CHANNELS,
    Film,
    Planted,
    channels,
    cut_crops,
    mirrored,
    plant,
)
from patchad.methods.parts.pooling import max_pool, mean_pool
from patchad.methods.parts.scale import Standard
from patchad.model.card import ModelCard, card_as_dict
from patchad.model.detector import ImageDetector
from patchad.model.scoring import Response
from patchad.prepare.filters import Floats
from patchad.prepare.preprocess import Prepared
from patchad.prepare.resize import resize
from patchad.progress import Progress, silent

METHOD = "synthetic_lesions"

ABOUT = About(
    name=METHOD,
    paper="after Li et al., CutPaste, CVPR 2021, and Tan et al., Detecting Outliers with Foreign "
    "Patch Interpolation, MELBA 2022; UNet: Ronneberger et al., MICCAI 2015",
    needs="negative images with pixel spacing, of two patients at least; no labels of lesions",
    gives="a map of what looks like the masses that were drawn into negatives (logits), pooled "
    "into a score a patch",
)
POOLING = (
    "Mean of three, each in standard deviations of negative patches: the logit's maximum over the "
    "patch (counted twice) and its means over the middle half and quarter of the sides, of the "
    "tissue alone. Means over the middle place a lesion best where the stride is a quarter of the "
    "patch or less."
)
UNIT = "standard deviations from the median of negatives"

_WIDTHS = (12, 24, 32, 32)
_SHRINKS = 2 ** (len(_WIDTHS) - 1)
_DICE = 0.3  # weight beside the cross-entropy
_POOL, _RENEWED = 32, 2  # films that crops are cut from, and how many of them a step replaces
_MOST_FILMS = 2000  # that lesions are drawn into; of more, as many are chosen at random
_SAMPLED = 17  # every so many logits of a film are looked at for their scale
_EVERY = 100  # steps between checkpoints
_PLANTING, _CUTTING, _CHOOSING = 1, 2, 3  # streams of random numbers
_MIRRORS: tuple[tuple[int, ...], ...] = ((), (-2,), (-1,), (-2, -1))
_WEIGHTS = np.array([0.5, 0.25, 0.25], np.float32)  # of the three pools


@dataclass(frozen=True)
class Config:
    """How to train.

    ``batch_size``: crops of 51 mm a step; half of them hold a lesion. ``radius_mm`` of the lesions,
    least and most, log-uniform between. ``contrast``: what a lesion adds at its brightest, least
    and most, log-uniform, in standard deviations of what is around it (Gaussian, σ 9.6 mm).
    """

    steps: int = 500
    batch_size: int = 16
    learning_rate: float = 3e-3
    radius_mm: tuple[float, float] = (2.5, 20.0)
    contrast: tuple[float, float] = (0.9, 4.5)

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise RequestError(f"{METHOD}.steps must be at least 1, got {self.steps}")
        if self.batch_size < 2:
            raise RequestError(f"{METHOD}.batch_size must be at least 2, got {self.batch_size}")
        if not 0 < self.learning_rate < math.inf:
            raise RequestError(f"{METHOD}.learning_rate must be positive, got {self.learning_rate}")
        if not 1 <= self.radius_mm[0] <= self.radius_mm[1] <= 40:
            raise RequestError(
                f"{METHOD}.radius_mm rises within 1..40, since a crop has 51 mm, got "
                f"{self.radius_mm}"
            )
        if not 0 < self.contrast[0] <= self.contrast[1] < math.inf:
            raise RequestError(f"{METHOD}.contrast rises from above 0, got {self.contrast}")


@dataclass(frozen=True, eq=False)
class SyntheticLesions:
    """The trained network with the scale of negatives: an :class:`ImageDetector`.

    ``maps`` is the scale of the logits, ``pools`` that of the three pooled ones.
    """

    card: ModelCard
    network: nn.Module
    maps: Standard
    pools: Standard

    def respond(self, image: Prepared, grid: PatchGrid) -> Response:
        """The logits and their pools, both in standard deviations of negatives."""
        cells = self.logits(image)
        dense = resize(np.where(np.isnan(cells), np.nanmin(cells), cells), grid.shape)
        return Response(
            np.where(image.tissue, self.maps(dense[..., None])[..., 0], np.float32(np.nan)),
            self.pools(pool_logits(cells, grid)) @ _WEIGHTS,
        )

    def logits(self, image: Prepared) -> Floats:
        """The network's logits, a cell each (about 0.8 mm): (h, w) float32, NaN outside the tissue.

        They are the mean over the film and its three mirror images.
        """
        film = Film.of(image)
        seen = channels(film.filled(film.pixels))
        rows, cols = film.tissue.shape
        seen = np.pad(seen, [(0, 0), (0, -rows % _SHRINKS), (0, -cols % _SHRINKS)], mode="edge")
        batch = np.stack([mirrored(seen, axes) for axes in _MIRRORS])
        with torch.inference_mode():
            answers = self.network(_to(batch, _device_of(self.network)))[:, 0].float().cpu().numpy()
        back = [np.flip(one, axes) for one, axes in zip(answers, _MIRRORS, strict=True)]
        return film.whole(np.mean(back, 0)[:rows, :cols])

    def tensors(self) -> dict[str, Tensor]:
        """The network's weights, and the scales of map and pools."""
        weights = {f"network.{name}": t for name, t in self.network.state_dict().items()}
        return {**weights, **self.maps.tensors("maps"), **self.pools.tensors("pools")}


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
    """Train the network on lesions drawn into negatives, then learn the scale of negatives.

    Args:
        config: this method's own table.
        data: negatives.
        card: a draft, without calibration.
        seed: decides weights, lesions and crops.
        device: where the network is trained and answers; lesions are drawn on the CPU.
        checkpoint: a file, written every 100 steps; resumed from where it exists. It stays.
        progress: told of the steps and their loss, and of the films scored.

    Raises:
        ImageError: a training image has no pixel spacing.
        RequestError: a checkpoint of another training.
        TrainingError: the loss is no longer a number.
    """
    chosen = np.arange(len(data))
    if len(data) > _MOST_FILMS:
        rng = np.random.default_rng([seed, _CHOOSING])
        chosen = np.sort(rng.choice(len(data), _MOST_FILMS, replace=False))
    films = [Film.of(data.film(int(number))) for number in chosen]
    network = build_network(seed).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    asked = [
        METHOD,
        asdict(config),
        seed,
        len(data),
        card_as_dict(replace(card, notes=(), versions={})),
    ]
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
    _train(network, films, config, seed, checkpoint, digest, progress)
    detector = SyntheticLesions(
        replace(
            card,
            config={**card.config, METHOD: asdict(config)},
            score_unit=UNIT,
            patch_pooling=POOLING,
        ),
        network.eval().requires_grad_(False),
        Standard.none(1),
        Standard.none(len(_WEIGHTS)),
    )
    maps, pools = [], []
    for number, (image, grid, keep) in enumerate(data.films(card), start=1):
        cells = detector.logits(image)
        maps.append(cells[np.isfinite(cells)][::_SAMPLED, None])
        pools.append(pool_logits(cells, grid)[keep])
        progress(f"{METHOD}: scale", number, len(data), math.nan)
    return replace(
        detector, maps=Standard.of(np.concatenate(maps)), pools=Standard.of(np.concatenate(pools))
    )


def restore(card: ModelCard, tensors: dict[str, Tensor], device: torch.device) -> ImageDetector:
    """The detector that was saved as ``card`` and ``tensors``.

    Raises:
        ModelError: they are not of this method.
    """
    network = build_network(0)
    start = "network."
    try:
        TypeAdapter(Config).validate_python(card.config.get(METHOD))
        network.load_state_dict(
            {k.removeprefix(start): t for k, t in tensors.items() if k.startswith(start)}
        )
        maps, pools = (Standard.restored(tensors, name) for name in ("maps", "pools"))
    except (ValidationError, RuntimeError, KeyError) as error:
        raise ModelError(
            f"the model is not one of {METHOD} that this patchad can read: {error}; train anew"
        ) from None
    network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return SyntheticLesions(card, network.eval().requires_grad_(False), maps, pools)


def pool_logits(cells: Floats, grid: PatchGrid) -> Floats:
    """Maximum over each patch, means over its middle half and quarter: (N, 3) float32.

    Of the tissue's logits ``cells`` (h, w); the lowest of the film where there is no tissue.
    """
    pools = [max_pool(cells, grid), mean_pool(cells, grid, 0.5), mean_pool(cells, grid, 0.25)]
    return np.nan_to_num(np.stack(pools, -1), nan=float(np.nanmin(cells)))


class UNet(nn.Module):
    """(N, 4, h, w) → logits (N, 1, h, w), h and w multiples of 8.

    Two convolutions a level, with batch normalisation and leaky ReLU; halved by maxima, doubled by
    repetition.
    """

    def __init__(self) -> None:
        super().__init__()
        inputs = (CHANNELS, *_WIDTHS)
        self.down = nn.ModuleList(map(_level, inputs, _WIDTHS))
        self.up = nn.ModuleList(map(_level, [a + b for a, b in pairwise(_WIDTHS)], _WIDTHS[:-1]))
        self.last = nn.Conv2d(_WIDTHS[0], 1, 1)

    def forward(self, seen: Tensor) -> Tensor:
        """The logits of cells to lie in a lesion."""
        levels: list[Tensor] = []
        for number, down in enumerate(self.down):
            seen = down(functional.max_pool2d(seen, 2) if number else seen)
            levels.append(seen)
        for up, beside in zip(reversed(self.up), levels[-2::-1], strict=True):
            seen = up(torch.cat([functional.interpolate(seen, scale_factor=2.0), beside], 1))
        logits: Tensor = self.last(seen)
        return logits


def build_network(seed: int) -> UNet:
    """The network before training, on the CPU."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(epoch_generator(seed, 0).initial_seed())
        return UNet()


def outline_loss(logits: Tensor, lesion: Tensor, weight: Tensor) -> Tensor:
    """Cross-entropy, a weighted mean over the cells, + 0.3 Dice loss over the batch: a scalar.

    All (N, h, w); ``lesion`` (t) is 0 or 1. Dice loss, each cell by its weight:
    1 - (2 Σpt + 1) / (Σp + Σt + 1).
    """
    each = functional.binary_cross_entropy_with_logits(logits, lesion, reduction="none")
    entropy = (each * weight).sum() / weight.sum().clamp(min=1)
    found, true = torch.sigmoid(logits) * weight, lesion * weight
    dice = 1 - (2 * (found * lesion).sum() + 1) / (found.sum() + true.sum() + 1)
    return entropy + _DICE * dice


def _train(
    network: nn.Module,
    films: list[Film],
    config: Config,
    seed: int,
    checkpoint: Path | None,
    digest: str,
    progress: Progress,
) -> None:
    """Train ``network`` in place.

    Step s draws with a generator made from (seed, s) alone, and so does each planted film, so that
    a training that goes on from its checkpoint ends as one that ran through.
    """
    network.train()
    device = _device_of(network)
    optimiser = torch.optim.AdamW(network.parameters(), config.learning_rate)
    state = Checkpoint.read(checkpoint, digest) if checkpoint else None
    done = 0
    if state is not None:
        done = state.epoch
        network.load_state_dict(state.network)
        load_optimiser(optimiser, state.optimiser)
    pool: dict[int, Planted] = {}
    total = torch.zeros((), device=device)
    for step in range(done, config.steps):
        first = step * _RENEWED
        pool = {
            n: pool.get(n) or _planted(films, config, seed, n) for n in range(first, first + _POOL)
        }
        rng = np.random.default_rng([seed, _CUTTING, step])
        seen, lesion, weight = cut_crops(rng, list(pool.values()), config.batch_size)
        rate = config.learning_rate * 0.5 * (1 + math.cos(math.pi * step / config.steps))
        optimiser.param_groups[0]["lr"] = rate
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
            # bfloat16 has float32's range, so gradients need no scaling
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                logits = network(_to(seen, device))[:, 0]
            loss = outline_loss(
                logits.float(),
                torch.from_numpy(lesion).to(device),
                torch.from_numpy(weight).to(device),
            )
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        total += loss.detach()
        if (step + 1) % _EVERY == 0 or step + 1 == config.steps:
            since = max(done, step - step % _EVERY)
            mean = float(total) / (step + 1 - since)
            total.zero_()
            if not math.isfinite(mean):
                raise TrainingError(
                    f"the loss became {mean} before step {step + 1}: lower the learning rate "
                    f"({config.learning_rate:g})"
                )
            if checkpoint:
                tensors = optimiser_tensors(optimiser)
                Checkpoint(digest, 0, (), step + 1, mean, network.state_dict(), tensors).write(
                    checkpoint
                )
            progress(METHOD, step + 1, config.steps, mean)


def _planted(films: list[Film], config: Config, seed: int, number: int) -> Planted:
    """The planted film of this number in the pool."""
    rng = np.random.default_rng([seed, _PLANTING, number])
    film = films[int(rng.integers(len(films)))]
    return plant(rng, film, config.radius_mm, config.contrast)


def _level(inputs: int, outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for count in (inputs, outputs):
        layers += [
            nn.Conv2d(count, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.LeakyReLU(0.1),
        ]
    return nn.Sequential(*layers)


def _device_of(network: nn.Module) -> torch.device:
    return next(network.parameters()).device


def _to(batch: Floats, device: torch.device) -> Tensor:
    return torch.from_numpy(batch).to(device).contiguous(memory_format=torch.channels_last)
