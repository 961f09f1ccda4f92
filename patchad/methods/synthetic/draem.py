"""Two networks that learn from foreign textures: one takes them off a film, one outlines them.

V. Zavrtanik, M. Kristan, D. Skočaj: DRAEM - A discriminatively trained reconstruction embedding for
surface anomaly detection. ICCV 2021, 8330-8339, https://arxiv.org/abs/2108.07610, and its code.

As published: squares of 256 × 256; in half of them textures are blended in, with a share of up to
0.8 left of the picture, where turned Perlin noise is above 0.5; 3 of 10 pictures are turned by up
to 90° each way. U-nets of width 128, without skips, and 64; loss: squared error + (1 - SSIM) of the
redrawn picture + focal loss (γ 2) of the outline; Adam with 1e-4, × 0.2 at 80 % and again at 90 %
of 700 epochs; batches of 8. A pixel's score is its probability to be anomalous, an image's the
highest mean of 21 × 21 pixels.

Other than published: no photographs are at hand, so textures are parts of other negatives or noise
(:mod:`patchad.methods.parts.textures`); windows of SSIM are reflected beyond the edge, not filled
with zeros; for another side, the 21 pixels change in proportion.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from patchad.core.arrays import Floats
from patchad.core.grid import PatchGrid
from patchad.learn.checkpoint import epoch_generator
from patchad.learn.loop import Step, shuffled, train
from patchad.learn.run import Run
from patchad.learn.training_set import TrainingSet
from patchad.methods.parts.backbone import check_side
from patchad.methods.parts.collapse import probing
from patchad.methods.parts.draem_networks import SHRINKS, Outline, Redraw
from patchad.methods.parts.losses import focal_loss, ssim_loss
from patchad.methods.parts.perlin import perlin_region, turned
from patchad.methods.parts.textures import texture
from patchad.methods.parts.twins import PROBED, constant, judge_twins
from patchad.methods.parts.whole_film import POOLING, respond, square, squares
from patchad.model.method import Gives, Method, Needs, Setting
from patchad.model.options import Count, Positive, Share
from patchad.model.scoring import Response
from patchad.prepare.film import Film

NAME = "draem"

_WINDOW, _OF = 21, 256  # pixels of the mean whose highest is the image score, and of the side
_TURN = 90.0  # degrees
_FALL, _FALLS_AT = 0.2, (0.8, 0.9)  # of the learning rate; shares of the training
_TRIES = 20  # of a texture that isn't empty, for the pictures that training is judged by


@dataclass(frozen=True)
class Config:
    """How to train; the defaults are those of the code.

    ``side`` of the square in pixels; ``redraw_width`` and ``outline_width`` of the networks.
    ``planted``: share of pictures with a texture, ``kept``: share of the picture that is left under
    it at most, ``turned``: share of pictures that are turned. ``restarts``: how many seeds are
    tried before training is given up.
    """

    side: Count = 256
    redraw_width: Count = 128
    outline_width: Count = 64
    planted: Share = 0.5
    kept: Share = 0.8
    turned: Share = 0.3
    epochs: Count = 700
    batch_size: Count = 8
    learning_rate: Positive = 1e-4
    restarts: Count = 3


class Draem(nn.Module):
    """The networks; :meth:`maps` is the probability of each pixel to be anomalous."""

    unit = "probability of a foreign texture"
    pooling = POOLING

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.side = config.side
        self.redraw = Redraw(config.redraw_width)
        self.outline = Outline(config.outline_width)

    def forward(self, film: Film, grid: PatchGrid) -> Response:
        """See :class:`Response`; the image score is the highest local mean of the map."""
        values = self.maps(square(film, self.side))
        return respond(values[0], film, grid, image=highest_mean(values, window(self.side))[0])

    def answers(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures (N, 1, S, S) in [0, 1] → redrawn, and logits (N, 2, S, S); float32 both."""
        redrawn: Tensor = self.redraw(pictures)
        logits: Tensor = self.outline(torch.cat([redrawn, pictures], 1))
        return redrawn.float(), logits.float()

    def maps(self, squares: Tensor) -> Tensor:
        """Squares (N, 1, S, S) in [0, 1] → (N, S, S) probabilities."""
        return self.answers(squares)[1].softmax(1)[:, 1]


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pictures with a texture and without: (N, 1, S, S) float32; where it is (N, S, S) int64."""

    planted: Tensor
    clean: Tensor
    where: Tensor


def build(config: Config, setting: Setting) -> Draem:
    """The networks before training.

    Raises:
        RequestError: a side that the networks cannot halve five times.
    """
    check_side(config.side, NAME, SHRINKS.bit_length() - 1)
    return Draem(config)


def learn(module: Draem, config: Config, data: TrainingSet, run: Run) -> None:
    """Train both networks together on the negatives' squares.

    Raises:
        GivenUp: the networks answer one number to everything, or don't find what was planted.
    """
    films = squares(data, run, config.side)[:, 0].cpu().numpy()
    epochs, steps, draw_which = shuffled(len(films), config.batch_size, config.epochs)
    total = epochs * steps

    def draw(step: Step) -> tuple[Tensor, Tensor, Tensor]:
        seed = int(torch.randint(2**62, (), generator=step.generator))
        pairs = plant(np.random.default_rng(seed), films, draw_which(step).numpy(), config)
        return pairs.planted, pairs.clean, pairs.where

    def losses(drawn: tuple[Tensor, Tensor, Tensor], step: Step) -> Iterator[tuple[str, Tensor]]:
        planted, clean, where = (part.to(run.device, non_blocking=True) for part in drawn)
        redrawn, logits = module.answers(planted)
        error = (redrawn - clean).square().mean() + ssim_loss(redrawn, clean)
        yield "adam", error + focal_loss(logits, where)

    probe = _twins(films, config, run.seed)

    def scored(pictures: Tensor) -> Tensor:
        with probing(module), torch.inference_mode():
            parts = torch.split(pictures, config.batch_size)
            return torch.cat([module.maps(part.to(run.device)) for part in parts])

    train(
        run,
        {"networks": module},
        {"adam": torch.optim.Adam(module.parameters(), config.learning_rate)},
        epochs=epochs,
        steps=steps,
        draw=draw,
        losses=losses,
        rate=falling(config.learning_rate, total),
        health=lambda epoch: constant(scored(probe.planted), epoch * steps),
    )
    where = probe.where.to(run.device)
    means = [
        (scored(part) * where).sum((1, 2)) / where.sum((1, 2))
        for part in (probe.planted, probe.clean)
    ]
    judge_twins(run, means[0], means[1], total, f"raise {NAME}.epochs")


def plant(
    rng: np.random.Generator, films: Floats, which: NDArray[np.int64], config: Config
) -> Pairs:
    """Training pictures of films ``which`` (n,) of ``films`` (N, S, S) in [0, 1], on the CPU."""
    made = []
    for number in which:
        clean = films[number]
        if rng.random() < config.turned:
            clean = turned(rng, clean, _TURN)
        region = perlin_region(rng, len(clean))
        if rng.random() >= config.planted:
            region[:] = False
        planted = clean
        if region.any():
            kept = np.float32(rng.uniform(0, config.kept))
            foreign = texture(rng, films, int(number))
            planted = np.where(region, (1 - kept) * foreign + kept * clean, clean)
        made.append((planted, clean, region))
    planted, clean, where = (torch.from_numpy(np.stack(part)) for part in zip(*made, strict=True))
    return Pairs(planted[:, None], clean[:, None], where.long())


def _twins(films: Floats, config: Config, seed: int) -> Pairs:
    """The first films, each with a texture if one is found that isn't empty."""
    state = epoch_generator(seed, 0).initial_seed()
    rng = np.random.default_rng(state)
    always = Config(side=config.side, planted=1.0, kept=config.kept, turned=0.0)
    found = []
    for number in range(min(len(films), PROBED)):
        for _ in range(_TRIES):
            pair = plant(rng, films, np.array([number]), always)
            if pair.where.any():
                found.append(pair)
                break
    return Pairs(*(torch.cat([getattr(pair, key) for pair in found]) for key in vars(found[0])))


def window(side: int) -> int:
    """The side of the mean for the image score, odd: 21 of 256 pixels."""
    return 2 * round((_WINDOW * side / _OF - 1) / 2) + 1


def highest_mean(maps: Tensor, size: int) -> Tensor:
    """The highest mean of ``size`` × ``size`` pixels of maps (N, S, S), 0 beyond them: (N,)."""
    return avg_pool2d(maps[:, None], size, 1, size // 2).amax((1, 2, 3))


def falling(rate: float, steps: int) -> Callable[[int], float]:
    """A learning rate that falls to a fifth at 80 % of ``steps``, and again at 90 %."""
    return lambda step: rate * _FALL ** sum(step >= share * steps for share in _FALLS_AT)


METHOD = Method(
    name=NAME,
    family="synthetic",
    paper="Zavrtanik et al., DRAEM - A discriminatively trained reconstruction embedding for "
    "surface anomaly detection, ICCV 2021, arXiv 2108.07610",
    needs=Needs(
        "negative films, some dozens at least; no labels of lesions",
        body_parts=("chest", "breast"),
    ),
    gives=Gives(
        "image",
        "the probability of a foreign texture at each pixel of the film, resized to a square; an "
        "image score, its highest local mean",
        map=True,
        image=True,
    ),
    config=Config,
    build=build,
    learn=learn,
    quick={
        "side": 64,
        "redraw_width": 16,
        "outline_width": 8,
        "epochs": 40,
        "learning_rate": 1e-3,
    },
)
