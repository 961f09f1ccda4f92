"""Codes of negatives drawn to one point; the score is how far a patch's code lies from it.

L. Ruff, R. A. Vandermeulen, N. Görnitz, L. Deecke, S. A. Siddiqui, A. Binder, E. Müller, M. Kloft:
Deep one-class classification. ICML 2018, PMLR 80:4393-4402,
https://proceedings.mlr.press/v80/ruff18a.html (and their code, where the text is silent).

As published, with the network they have for CIFAR-10: convolutions of 5 × 5 with 32, 64 and 128
channels, without bias; batch norm without scale and shift, leaky ReLU, maxima over 2 × 2; a dense
layer to a code of 128, without bias. An autoencoder is trained first (350 epochs, Adam with 1e-4, a
tenth of it from 250), and its encoder kept; the centre is the mean code of negatives, with numbers
nearer to 0 than 0.1 put at ±0.1, so that no zero weights reach it. Then 150 epochs, a tenth of the
rate from 50, decay 5e-7, batches of 200. Hard: the mean squared distance. Soft: radius² plus the
mean excess over it / ν, ν = 0.1; from epoch 10 on the radius is the (1 - ν)-quantile of a batch's
distances. Patches are normalised each: less their mean, over their mean deviation; then to [0, 1]
by the extremes of negatives.

Other than published: patches of 64, cut from films, for which the decoder's first picture of 4 × 4
is enlarged by repetition; an epoch sees as many patches as tile the negatives' foreground.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from patchad.core.grid import batches
from patchad.errors import RequestError
from patchad.learn.checkpoint import epoch_generator
from patchad.learn.loop import Step, train
from patchad.learn.run import Run
from patchad.learn.training_set import TrainingSet
from patchad.methods.parts.collapse import PROBED, probing
from patchad.model.method import Gives, Method, Needs, Setting
from patchad.model.options import Count, Positive, Share, Weight

NAME = "deep_svdd"

_LEAST_CODE = 0.1  # of a number of the centre
_LEAST_SPREAD = 1e-4  # of codes, below which they have collapsed: chosen
_FLAT = 1e-6  # of a patch's mean deviation: a constant stays one
_START = 4  # side of the decoder's first picture
_SLOPE = 0.01  # of leaky ReLU: PyTorch's, which their code leaves
_EPSILON = 1e-4  # of batch norm, as their code has it
_TENTH = 0.1  # of the learning rate, after the milestone


@dataclass(frozen=True)
class Config:
    """How to train; the defaults are the paper's and their code's.

    ``boundary``: hard or soft; ``nu``: the share of negatives that a soft one may leave outside,
    once ``warm_up`` epochs are over. ``pretraining``: epochs of the autoencoder. After epoch
    ``milestone`` of each training the rate is a tenth. ``patches_per_epoch``: None takes as many as
    tile the training foreground. ``restarts``: how many seeds are tried before giving up.
    """

    boundary: Literal["hard", "soft"] = "hard"
    nu: Share = 0.1
    warm_up: Count = 10
    channels: tuple[Count, Count, Count] = (32, 64, 128)
    code: Count = 128
    pretraining: Count = 350
    pretraining_milestone: Count = 250
    epochs: Count = 150
    milestone: Count = 50
    batch_size: Count = 200
    learning_rate: Positive = 1e-4
    decay: Weight = 5e-7
    patches_per_epoch: Count | None = None
    restarts: Count = 3


class Encoder(nn.Module):
    """Patches (N, 1, S, S) → codes (N, ``code``)."""

    def __init__(self, side: int, channels: tuple[int, ...], code: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            nn.Conv2d(a, b, 5, padding=2, bias=False)
            for a, b in zip((1, *channels), channels, strict=False)
        )
        self.norms = nn.ModuleList(_norm(count) for count in channels)
        self.dense = nn.Linear(channels[-1] * (side >> len(channels)) ** 2, code, bias=False)

    def forward(self, patches: Tensor) -> Tensor:
        """The codes."""
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            patches = F.max_pool2d(F.leaky_relu(norm(convolution(patches)), _SLOPE), 2)
        codes: Tensor = self.dense(patches.flatten(1))
        return codes


class Decoder(nn.Module):
    """Codes (N, ``code``) → patches (N, 1, S, S) in [0, 1]; for the pretraining alone."""

    def __init__(self, side: int, channels: tuple[int, ...], code: int) -> None:
        super().__init__()
        self.side = side >> len(channels)
        down = channels[::-1]
        self.norm = nn.BatchNorm1d(code, _EPSILON, affine=False)
        self.convolutions = nn.ModuleList(
            nn.ConvTranspose2d(a, b, 5, padding=2, bias=False)
            for a, b in zip((code // _START**2, *down), down, strict=False)
        )
        self.norms = nn.ModuleList(_norm(count) for count in down)
        self.last = nn.ConvTranspose2d(down[-1], 1, 5, padding=2, bias=False)

    def forward(self, codes: Tensor) -> Tensor:
        """The patches."""
        found = self.norm(codes).unflatten(1, (-1, _START, _START))
        found = F.interpolate(F.leaky_relu(found, _SLOPE), size=(self.side, self.side))
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            found = F.interpolate(F.leaky_relu(norm(convolution(found)), _SLOPE), scale_factor=2.0)
        return torch.sigmoid(self.last(found))


class DeepSvdd(nn.Module):
    """The encoder; ``centre`` (code,) of its codes, the soft ``radius``, a scalar, and the scale.

    ``low`` and ``high`` are the extremes of negatives' normalised pixels, scalars.
    """

    unit = "squared distance of the code from the centre"
    pooling = ""
    centre: Tensor
    radius: Tensor
    low: Tensor
    high: Tensor

    def __init__(self, config: Config, side: int) -> None:
        super().__init__()
        self.soft = config.boundary == "soft"
        if self.soft:
            self.unit = "squared distance of the code from the centre, less the squared radius"
        self.encoder = Encoder(side, config.channels, config.code)
        self.register_buffer("centre", torch.zeros(config.code))
        self.register_buffer("radius", torch.zeros(()))
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.ones(()))

    def forward(self, patches: Tensor) -> Tensor:
        """The score of patches (N, 1, S, S) in [0, 1]: (N,)."""
        away = self.away(self.scaled(patches))
        return away - self.radius.square() if self.soft else away

    def scaled(self, patches: Tensor) -> Tensor:
        """What the encoder sees of patches: normalised each, negatives in [0, 1]."""
        return (normalise(patches) - self.low) / (self.high - self.low)

    def away(self, scaled: Tensor) -> Tensor:
        """Squared distances from the centre: (N,) float32."""
        codes: Tensor = self.encoder(scaled)
        return (codes.float() - self.centre).square().sum(1)


def build(config: Config, setting: Setting) -> DeepSvdd:
    """The encoder before training.

    Raises:
        RequestError: patches that cannot be halved three times, a code that makes no picture of
            4 × 4, a soft boundary that leaves nothing outside, or a share outside a hard one.
    """
    side, halved = setting.patch_size, 2 ** len(config.channels)
    if side % halved:
        raise RequestError(
            f"{NAME} halves a patch {len(config.channels)} times, so patch_size must be a multiple "
            f"of {halved}; got {side} (64 is packaged)"
        )
    if config.code % _START**2:
        raise RequestError(
            f"{NAME}.code must be a multiple of {_START**2}, of which its decoder makes pictures "
            f"of {_START} × {_START}; got {config.code}"
        )
    if config.nu == 0:
        raise RequestError(f"{NAME}.nu must be more than 0, got 0: 0.1 is the paper's")
    if config.boundary == "hard" and config.nu != Config.nu:
        raise RequestError(
            f'{NAME}.nu is for a soft boundary: leave it out, or set {NAME}.boundary to "soft"'
        )
    return DeepSvdd(config, side)


def learn(module: DeepSvdd, config: Config, data: TrainingSet, run: Run) -> None:
    """Pretrain the encoder in an autoencoder, set the centre, then draw codes towards it.

    Raises:
        GivenUp: all patches have the same code.
    """
    bank = data.bank.to(run.device)
    patches = config.patches_per_epoch or max(1, data.patches)
    # A batch of one would stop batch norm.
    size = min(config.batch_size, patches)
    steps = patches // size + (patches % size > 1)
    start = epoch_generator(run.seed, 0)
    seen = bank.draw(max(patches, PROBED), start)
    _learn_extremes(module, (bank.cut(seen[part]) for part in batches(len(seen), size)))
    probe = module.scaled(bank.cut(seen[:PROBED]))

    def draw(step: Step) -> Tensor:
        return bank.draw(min(size, patches - step.index * size), step.generator)

    def health(epoch: int) -> str:
        with probing(module), torch.inference_mode():
            codes = module.encoder(probe).float()
        if codes.std(0, correction=0).square().mean().sqrt() >= _LEAST_SPREAD:
            return ""
        return f"after epoch {epoch} all patches have the same code"

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**31, (), generator=start)))
        decoder = Decoder(bank.size, config.channels, config.code).to(run.device)

    def redrawn(drawn: Tensor, step: Step) -> Iterator[tuple[str, Tensor]]:
        scaled = module.scaled(bank.cut(drawn))
        found: Tensor = decoder(module.encoder(scaled))
        yield "adam", (found.float() - scaled).square().sum((1, 2, 3)).mean()

    train(
        run.member("autoencoder"),
        {"encoder": module.encoder, "decoder": decoder},
        {"adam": _adam([module.encoder, decoder], config)},
        epochs=config.pretraining,
        steps=steps,
        draw=draw,
        losses=redrawn,
        rate=_falling(config.learning_rate, config.pretraining_milestone * steps),
        health=health,
    )
    module.eval()
    with torch.inference_mode():
        parts = [
            module.encoder(module.scaled(bank.cut(seen[part]))).float()
            for part in batches(len(seen), size)
        ]
    module.centre.copy_(away_from_zero(torch.cat(parts).mean(0)))

    def drawn_in(drawn: Tensor, step: Step) -> Iterator[tuple[str, Tensor]]:
        away = module.away(module.scaled(bank.cut(drawn)))
        if not module.soft:
            yield "adam", away.mean()
            return
        yield "adam", soft_loss(away, module.radius, config.nu)
        if step.epoch > config.warm_up:
            module.radius.copy_(quantile_radius(away.detach(), config.nu))

    train(
        run.member("svdd"),
        {"svdd": module},
        {"adam": _adam([module.encoder], config)},
        epochs=config.epochs,
        steps=steps,
        draw=draw,
        losses=drawn_in,
        rate=_falling(config.learning_rate, config.milestone * steps),
        health=health,
    )
    if module.soft and config.epochs <= config.warm_up:
        run.note(
            f"The radius is still 0, since {NAME}.epochs {config.epochs} is not more than "
            f"{NAME}.warm_up {config.warm_up}: scores are squared distances."
        )


def normalise(patches: Tensor) -> Tensor:
    """Each patch less its mean, over its mean absolute deviation: (N, 1, S, S) → the same."""
    apart = patches - patches.mean((1, 2, 3), keepdim=True)
    return apart / apart.abs().mean((1, 2, 3), keepdim=True).clamp_min(_FLAT)


def away_from_zero(centre: Tensor) -> Tensor:
    """A centre (K,) whose numbers nearer to 0 than 0.1 are put at 0.1 with their sign."""
    least = torch.full_like(centre, _LEAST_CODE).copysign(centre)
    return torch.where(centre.abs() < _LEAST_CODE, least, centre)


def soft_loss(away: Tensor, radius: Tensor, nu: float) -> Tensor:
    """R² + mean max(0, d - R²) / ν of squared distances (N,): a scalar."""
    return radius.square() + (away - radius.square()).relu().mean() / nu


def quantile_radius(away: Tensor, nu: float) -> Tensor:
    """The (1 - ν)-quantile of distances, given squared (N,): a scalar."""
    return away.sqrt().quantile(1 - nu)


def _learn_extremes(module: DeepSvdd, parts: Iterator[Tensor]) -> None:
    extremes = [normalise(part).aminmax() for part in parts]
    module.low.copy_(torch.stack([one.min for one in extremes]).min())
    high = torch.stack([one.max for one in extremes]).max()
    module.high.copy_(torch.maximum(high, module.low + _FLAT))


def _adam(networks: list[nn.Module], config: Config) -> torch.optim.Adam:
    parameters = [parameter for network in networks for parameter in network.parameters()]
    return torch.optim.Adam(parameters, config.learning_rate, weight_decay=config.decay)


def _falling(rate: float, milestone: int) -> Callable[[int], float]:
    return lambda step: rate if step < milestone else rate * _TENTH


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, _EPSILON, affine=False)


METHOD = Method(
    name=NAME,
    family="density",
    paper="Ruff et al., Deep one-class classification, ICML 2018, PMLR 80:4393-4402",
    needs=Needs("negative images, of two patients at least; no labels of lesions"),
    gives=Gives(
        "patch",
        "a score a patch (the squared distance of its code from the centre of negatives), "
        "stitched into a heatmap",
    ),
    config=Config,
    build=build,
    learn=learn,
    setting={"patch_size": 64, "stride": 32},
    quick={
        "pretraining": 4,
        "pretraining_milestone": 3,
        "epochs": 4,
        "milestone": 3,
        "warm_up": 2,
        "learning_rate": 1e-3,
        "patches_per_epoch": 2000,
        "batch_size": 50,
    },
)
