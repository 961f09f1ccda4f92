"""A GAN of negative patches, searched anew for each patch; the score is what it cannot match.

T. Schlegl, P. Seeböck, S. M. Waldstein, U. Schmidt-Erfurth, G. Langs: Unsupervised anomaly
detection with generative adversarial networks to guide marker discovery. IPMI 2017, LNCS
10265:146-157. https://doi.org/10.1007/978-3-319-59050-9_12

As published: a DCGAN of patches of 64 × 64; for a patch x, a code z is sought by gradient descent
that makes least (1 - λ) Σ |x - G(z)| + λ Σ |f(x) - f(G(z))|, with λ = 0.1 and f the last features
of the discriminator before its output. That sum, at the last z, is the score.

``generator = "fanogan"`` takes the Wasserstein GAN of f-AnoGAN: its table (Schlegl et al., Medical
Image Analysis 54, 2019, https://doi.org/10.1016/j.media.2019.01.010) has that as a row, the
iterative search. Its code of 128 is normal; DCGAN's of 100 is uniform in ± 1.

Chosen, since the text isn't at hand: 500 iterations of Adam (a figure from memory; public code has
100 at a rate of 1e-3) at 1e-2, since 500 at 1e-3 move a code by half a unit at most; 20,000 steps
of training in batches of 64, with DCGAN's own rate and β. All patches start from one code, drawn
with the seed and kept with the model, so that no patch's score hangs on its neighbours.

A search is as many passes through generator and discriminator as ``iterations``, for each patch:
screening is that much slower than f-AnoGAN's.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from patchad.learn.checkpoint import epoch_generator
from patchad.learn.loop import Step
from patchad.learn.patch_bank import PatchBank
from patchad.learn.run import Run
from patchad.learn.training_set import TrainingSet
from patchad.methods.parts import dcgan
from patchad.methods.parts.adversarial import collapsed, frozen
from patchad.methods.parts.collapse import PROBED, probing
from patchad.methods.parts.patch_gan import (
    cut_mirrored,
    draw_mirrored,
    fit_wgan,
    probe,
    train_watched,
)
from patchad.methods.parts.residual_networks import Critic, Generator, check_patch_size
from patchad.methods.parts.whole_film import signed
from patchad.model.method import Gives, Method, Needs, Setting
from patchad.model.options import Betas, Count, Positive, Share

NAME = "anogan"

Source = Literal["dcgan", "fanogan"]

_TOGETHER = 32  # patches searched for at once
_BETAS, _EPSILON = (0.9, 0.999), 1e-8  # of the search, Adam's own


@dataclass(frozen=True)
class Schedule:
    """How a generator of one kind is trained, and the length of its code."""

    code: int
    learning_rate: float
    betas: tuple[float, float]
    steps: int
    batch_size: int
    critic_steps: int = 5
    penalty: float = 10.0


@dataclass(frozen=True)
class Config:
    """How to train, and how to search.

    ``code``, ``learning_rate`` and ``betas``: None takes what was published with the ``generator``
    (dcgan: 100, 2e-4, 0.5 and 0.999; fanogan: 128, 1e-4, 0 and 0.9). ``iterations`` of Adam on the
    code, at ``rate``; ``feature_weight`` is λ.
    """

    generator: Source = "dcgan"
    width: Count = 64
    code: Count | None = None
    steps: Count = 20_000
    batch_size: Count = 64
    learning_rate: Positive | None = None
    betas: Betas | None = None
    iterations: Count = 500
    rate: Positive = 1e-2
    feature_weight: Share = 0.1
    restarts: Count = 3

    @property
    def schedule(self) -> Schedule:
        """The training, with what is published where the options are None."""
        published = {"dcgan": (100, 2e-4, (0.5, 0.999)), "fanogan": (128, 1e-4, (0.0, 0.9))}
        code, learning_rate, betas = published[self.generator]
        return Schedule(
            self.code or code,
            self.learning_rate or learning_rate,
            self.betas or betas,
            self.steps,
            self.batch_size,
        )


class AnoGan(nn.Module):
    """Generator, discriminator and the ``start`` of searches: patches in [0, 1] → scores (N,)."""

    unit = "sum of absolute differences of intensity [-1, 1] and of features"
    pooling = ""
    start: Tensor

    def __init__(self, config: Config, size: int) -> None:
        super().__init__()
        code = config.schedule.code
        self.generator: nn.Module
        self.discriminator: nn.Module
        if config.generator == "dcgan":
            self.generator = dcgan.Generator(size, config.width, code)
            self.discriminator = dcgan.Discriminator(size, config.width)
            start = torch.rand(1, code) * 2 - 1
        else:
            self.generator = Generator(size, config.width, code)
            self.discriminator = Critic(size, config.width)
            start = torch.randn(1, code)
        self.register_buffer("start", start)
        self.iterations, self.rate = config.iterations, config.rate
        self.feature_weight = config.feature_weight

    def forward(self, patches: Tensor) -> Tensor:
        """The distance of each patch (N, 1, S, S) in [0, 1] from the nearest that was found.

        Always as many patches are searched for together, the last ones repeated if need be: sums
        in another order would lead a search elsewhere.
        """
        short = -len(patches) % _TOGETHER
        whole = torch.cat([patches, patches[-1:].expand(short, -1, -1, -1)])
        found = [self._search(part) for part in torch.split(whole, _TOGETHER)]
        return torch.cat(found)[: len(patches)]

    def _search(self, patches: Tensor) -> Tensor:
        # Scoring is in inference mode, in which nothing has a gradient.
        with torch.inference_mode(mode=False), torch.enable_grad():
            pictures = signed(patches.clone())
            features = self.discriminator.down
            assert isinstance(features, nn.Module)
            with torch.no_grad():
                wanted = features(pictures)

            def distances(codes: Tensor) -> Tensor:
                made = self.generator(codes)
                return distance(pictures, made, wanted, features(made), self.feature_weight)

            start = self.start.clone().expand(len(pictures), -1)
            codes = descend(distances, start, self.iterations, self.rate)
            with torch.no_grad():
                return distances(codes)


def distance(
    picture: Tensor, made: Tensor, features: Tensor, made_features: Tensor, weight: float
) -> Tensor:
    """(1 - λ) Σ |x - G(z)| + λ Σ |f(x) - f(G(z))| of each sample, λ = ``weight``: (N,)."""
    pixels = (picture - made).abs().flatten(1).sum(1)
    return (1 - weight) * pixels + weight * (features - made_features).abs().flatten(1).sum(1)


def descend(
    distances: Callable[[Tensor], Tensor], start: Tensor, iterations: int, rate: float
) -> Tensor:
    """Adam on ``start`` (N, C), each row by the gradient of its own distance: (N, C).

    PyTorch's Adam keeps its step in a tensor and reads it back, which would wait for the device.
    """
    codes, mean, square = start, torch.zeros_like(start), torch.zeros_like(start)
    for number in range(1, iterations + 1):
        codes = codes.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(distances(codes).sum(), codes)
        mean = _BETAS[0] * mean + (1 - _BETAS[0]) * gradient
        square = _BETAS[1] * square + (1 - _BETAS[1]) * gradient.square()
        size = (square / (1 - _BETAS[1] ** number)).sqrt() + _EPSILON
        codes = codes.detach() - rate / (1 - _BETAS[0] ** number) * mean / size
    return codes


def build(config: Config, setting: Setting) -> AnoGan:
    """The networks before training.

    Raises:
        RequestError: a patch size that isn't a power of two from 16.
    """
    check_patch_size(setting.patch_size, NAME)
    return AnoGan(config, setting.patch_size)


def learn(module: AnoGan, config: Config, data: TrainingSet, run: Run) -> None:
    """Train the GAN; nothing of the search is learnt.

    Raises:
        GivenUp: it collapsed.
    """
    bank, schedule = data.bank.to(run.device), config.schedule
    if config.generator == "fanogan":
        fit_wgan(run, module.generator, module.discriminator, bank, schedule, schedule.code)
    else:
        _fit_dcgan(run, module.generator, module.discriminator, bank, schedule)


def _fit_dcgan(
    run: Run, generator: nn.Module, discriminator: nn.Module, bank: PatchBank, schedule: Schedule
) -> None:
    size, code = schedule.batch_size, schedule.code
    pictures = probe(bank, run)
    probed = _uniform(PROBED, code, epoch_generator(run.seed, 0)).to(run.device)

    def draw(step: Step) -> tuple[Tensor, Tensor]:
        drawn = draw_mirrored(bank, size, step.generator)
        return drawn, _uniform(size, code, step.generator)

    def losses(drawn: tuple[Tensor, Tensor], step: Step) -> Iterator[tuple[str, Tensor]]:
        patches, codes = cut_mirrored(bank, drawn[0]), drawn[1].to(run.device, non_blocking=True)
        made = generator(codes)
        # The cross-entropy of real and made patches, from logits.
        real, fake = discriminator(patches).float(), discriminator(made.detach()).float()
        yield "discriminator", F.softplus(-real).mean() + F.softplus(fake).mean()
        with frozen(discriminator):
            yield "generator", F.softplus(-discriminator(made).float()).mean()

    def sign() -> str:
        with probing(generator, discriminator):
            with torch.no_grad():
                made = generator(probed)
            return collapsed(pictures, made, discriminator)

    networks = {"generator": generator, "discriminator": discriminator}
    adam = {
        name: torch.optim.Adam(one.parameters(), schedule.learning_rate, schedule.betas)
        for name, one in networks.items()
    }
    train_watched(run, networks, adam, schedule.steps, draw=draw, losses=losses, sign=sign)


def _uniform(count: int, code: int, generator: torch.Generator) -> Tensor:
    return torch.rand(count, code, generator=generator) * 2 - 1


METHOD = Method(
    name=NAME,
    family="adversarial",
    paper="Schlegl et al., Unsupervised anomaly detection with generative adversarial networks to "
    "guide marker discovery, IPMI 2017, doi 10.1007/978-3-319-59050-9_12",
    needs=Needs("negative images, of two patients at least; no labels of lesions"),
    gives=Gives(
        "patch",
        "a score a patch (the distance to the nearest patch that a GAN was found to make), "
        "stitched into a heatmap",
    ),
    config=Config,
    build=build,
    learn=learn,
    setting={"patch_size": 64, "stride": 32},
    quick={"width": 16, "batch_size": 32, "steps": 600, "iterations": 20, "rate": 0.1},
)
