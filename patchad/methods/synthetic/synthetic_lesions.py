"""A small UNet that learnt to outline lesions drawn into negatives; no real lesion is ever shown.

Learning from anomalies drawn into normal images: C. Li, K. Sohn, J. Yoon, T. Pfister: CutPaste,
CVPR 2021; J. Tan, B. Hou, J. Batten, H. Qiu, B. Kainz: Detecting Outliers with Foreign Patch
Interpolation, MELBA 2022. The network: O. Ronneberger, P. Fischer, T. Brox: U-Net, MICCAI 2015.

Masses and spiculated masses of 2.5-20 mm radius are drawn into films at cells of 0.8 mm
(:mod:`patchad.methods.parts.lesion_films`), oftener where the breast is dense, with a contrast
relative to what is around. The network predicts, for each cell, whether it lies in one. It looks at
channels that hardly depend on the film's brightness and contrast.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from patchad.core.grid import PatchGrid
from patchad.core.host import to_host
from patchad.errors import RequestError
from patchad.learn.loop import Step, cosine, equal_epochs, train
from patchad.learn.run import Run
from patchad.learn.training_set import TrainingSet
from patchad.methods.parts.cells import Cells, cells, enlarged, lowest
from patchad.methods.parts.lesion_films import (
    CHANNELS,
    Canvas,
    Planted,
    channels,
    cut_crops,
    mirrored,
    plant,
)
from patchad.methods.parts.pooling import max_pool, mean_pool
from patchad.methods.parts.scale import NegativeScale
from patchad.model.method import Gives, Method, Needs, Setting
from patchad.model.scoring import Response
from patchad.prepare.film import Film, tissue

NAME = "synthetic_lesions"

_WIDTHS = (12, 24, 32, 32)
_SHRINKS = 2 ** (len(_WIDTHS) - 1)
_DICE = 0.3  # weight relative to the cross-entropy
_POOL, _RENEWED = 32, 2  # films that crops are cut from, and how many of them a step replaces
_MOST_FILMS = 2000  # that lesions are drawn into; of more, as many are chosen at random
_SAMPLED = 17  # every so many logits of a film are looked at for their scale
_EPOCH = 100  # steps at most
_PLANTING, _CUTTING, _CHOOSING = 1, 2, 3  # streams of random numbers
_MIRRORS: tuple[tuple[int, ...], ...] = ((), (-2,), (-1,), (-2, -1))
_WEIGHTS = (0.5, 0.25, 0.25)  # of the three pools


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
            raise RequestError(f"{NAME}.steps must be at least 1, got {self.steps}")
        if self.batch_size < 2:
            raise RequestError(f"{NAME}.batch_size must be at least 2, got {self.batch_size}")
        if not 0 < self.learning_rate < math.inf:
            raise RequestError(f"{NAME}.learning_rate must be positive, got {self.learning_rate}")
        if not 1 <= self.radius_mm[0] <= self.radius_mm[1] <= 40:
            raise RequestError(
                f"{NAME}.radius_mm rises within 1..40, since a crop has 51 mm, got {self.radius_mm}"
            )
        if not 0 < self.contrast[0] <= self.contrast[1] < math.inf:
            raise RequestError(f"{NAME}.contrast rises from above 0, got {self.contrast}")


class SyntheticLesions(nn.Module):
    """The network with the scale of negatives: a film → logits and their pools.

    ``maps`` is the scale of the logits, ``pools`` that of the three pooled ones.
    """

    unit = "standard deviations from the median of negatives"
    pooling = (
        "Mean of three, each in standard deviations of negative patches: the logit's maximum over "
        "the patch (counted twice) and its means over the middle half and quarter of the sides, of "
        "the tissue alone. Means over the middle place a lesion best where the stride is a quarter "
        "of the patch or less."
    )

    def __init__(self) -> None:
        super().__init__()
        self.network = UNet()
        self.maps = NegativeScale(1)
        self.pools = NegativeScale(len(_WEIGHTS))

    def forward(self, film: Film, grid: PatchGrid) -> Response:
        """The logits and their pools, both in standard deviations of negatives.

        Raises:
            ImageError: the pixel spacing is unknown.
        """
        logits = self.logits(film)
        dense = enlarged(self.maps(logits[..., None])[..., 0], film.shape)
        pooled = self.pools(pool_logits(logits, grid))
        return Response(dense.where(film.tissue, torch.nan), pooled @ pooled.new_tensor(_WEIGHTS))

    def logits(self, film: Film) -> Tensor:
        """The network's logits, a cell each (about 0.8 mm): (h, w) float32, NaN outside the tissue.

        They are the mean over the film and its three mirror images.
        """
        part = Cells.of(film)
        seen = channels(part.filled(part.means(film.pixels)))
        rows, cols = part.tissue.shape
        seen = functional.pad(seen, (0, -cols % _SHRINKS, 0, -rows % _SHRINKS), mode="replicate")
        batch = torch.stack([mirrored(seen, axes) for axes in _MIRRORS])
        answers = self.network(_laid_out(batch, batch.device))[:, 0].float()
        back = [one.flip(axes) for one, axes in zip(answers, _MIRRORS, strict=True)]
        return part.whole(torch.stack(back).mean(0)[:rows, :cols])


def build(config: Config, setting: Setting) -> SyntheticLesions:
    """The network before training, and no scale yet."""
    return SyntheticLesions()


def learn(module: SyntheticLesions, config: Config, data: TrainingSet, run: Run) -> None:
    """Train the network on lesions drawn into negatives, then learn the scale of negatives.

    Step s draws with a generator made from (seed, s) alone, and so does each planted film.

    Raises:
        ImageError: a training image has no pixel spacing.
        RequestError: a checkpoint of another training.
        TrainingError: the loss is no longer a number.
    """
    chosen = np.arange(len(data))
    if len(data) > _MOST_FILMS:
        rng = np.random.default_rng([run.seed, _CHOOSING])
        chosen = np.sort(rng.choice(len(data), _MOST_FILMS, replace=False))
    films = [Canvas.of(data.film(int(number))) for number in chosen]
    network, pool = module.network, dict[int, Planted]()

    def draw(step: Step) -> tuple[Tensor, Tensor, Tensor]:
        first = step.number * _RENEWED
        for gone in [number for number in pool if number < first]:
            del pool[gone]
        for number in range(first, first + _POOL):
            if number not in pool:
                pool[number] = _planted(films, config, run.seed, number)
        rng = np.random.default_rng([run.seed, _CUTTING, step.number])
        return cut_crops(rng, list(pool.values()), config.batch_size)

    def losses(batch: tuple[Tensor, Tensor, Tensor], step: Step) -> Iterator[tuple[str, Tensor]]:
        seen, lesion, weight = batch
        logits = network(_laid_out(seen, run.device))[:, 0].float()
        yield "adamw", outline_loss(logits, lesion.to(run.device), weight.to(run.device))

    epochs, steps = equal_epochs(config.steps, _EPOCH)
    train(
        run,
        {"network": network},
        {"adamw": torch.optim.AdamW(network.parameters(), config.learning_rate)},
        epochs=epochs,
        steps=steps,
        draw=draw,
        losses=losses,
        rate=cosine(config.learning_rate, config.steps),
    )
    maps, pools = [], []
    with torch.inference_mode():
        for number, (film, grid, keep) in enumerate(data.films(run, METHOD.needs.before), start=1):
            logits = module.logits(film)
            known = logits[logits.isfinite()][::_SAMPLED, None]
            values, pooled = to_host(known, pool_logits(logits, grid)[keep])
            maps.append(values)
            pools.append(pooled)
            run.tell("scale of negatives", number, len(data))
    module.maps.learn(np.concatenate(maps))
    module.pools.learn(np.concatenate(pools))


def pool_logits(logits: Tensor, grid: PatchGrid) -> Tensor:
    """Maximum over each patch, means over its middle half and quarter: (N, 3) float32.

    Of the tissue's ``logits`` (h, w); the lowest of the film where there is no tissue.
    """
    pools = [max_pool(logits, grid), mean_pool(logits, grid, 0.5), mean_pool(logits, grid, 0.25)]
    found = torch.stack(pools, -1)
    return found.where(found.isfinite(), lowest(logits))


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
        for up, skipped in zip(reversed(self.up), levels[-2::-1], strict=True):
            seen = up(torch.cat([functional.interpolate(seen, scale_factor=2.0), skipped], 1))
        logits: Tensor = self.last(seen)
        return logits


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


def _planted(films: list[Canvas], config: Config, seed: int, number: int) -> Planted:
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


def _laid_out(batch: Tensor, device: torch.device) -> Tensor:
    """On the device, as convolutions are fastest."""
    return batch.to(device, memory_format=torch.channels_last)


METHOD = Method(
    name=NAME,
    family="synthetic",
    paper="after Li et al., CutPaste, CVPR 2021, and Tan et al., Detecting Outliers with Foreign "
    "Patch Interpolation, MELBA 2022; UNet: Ronneberger et al., MICCAI 2015",
    needs=Needs(
        "negative images with pixel spacing, of two patients at least; no labels of lesions",
        body_parts=("breast",),
        spacing=True,
        before=(tissue, cells),
    ),
    gives=Gives(
        "image",
        "a map of what looks like the masses that were drawn into negatives (logits), pooled into "
        "a score a patch",
        map=True,
    ),
    config=Config,
    build=build,
    learn=learn,
)
