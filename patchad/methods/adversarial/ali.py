"""An encoder and a generator that learnt against one critic of pairs; the score is the error.

V. Dumoulin, I. Belghazi, B. Poole, O. Mastropietro, A. Lamb, M. Arjovsky, A. Courville:
Adversarially learned inference. ICLR 2017, https://arxiv.org/abs/1606.00704. As a row of the table
of Schlegl et al., f-AnoGAN, Medical Image Analysis 54:30-44, 2019,
https://doi.org/10.1016/j.media.2019.01.010.

As published: a discriminator sees pairs of a patch and a code, (x, z) with z ~ q(z|x), a normal
whose mean and standard deviation the encoder gives, and (G(z), z) with z ~ N(0, I). Losses are
softplus(-D) of its own kind and softplus(D) of the other; Adam with 1e-4 and β 0.5. Encoder and
generator share a step, in which both kinds change sides.

Chosen, since f-AnoGAN's table doesn't say: its residual networks at 64 × 64 (the encoder without
tanh, since q is no bounded law), 20,000 steps, and the squared error of G at the mean of q(z|x) as
the score, its mean over pixels. The discriminator joins the critic's features with two dense layers
of the code, as ALI's joins two branches; it has no dropout. log σ is kept within ± 4.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from patchad.learn.checkpoint import epoch_generator
from patchad.learn.loop import Step
from patchad.learn.run import Run
from patchad.learn.training_set import TrainingSet
from patchad.methods.parts.adversarial import collapsed, frozen
from patchad.methods.parts.collapse import PROBED, probing
from patchad.methods.parts.patch_gan import (
    cut_mirrored,
    draw_mirrored,
    judge_redrawing,
    probe,
    train_watched,
)
from patchad.methods.parts.residual_networks import (
    Down,
    Encoder,
    Generator,
    check_patch_size,
    layer_norm,
)
from patchad.methods.parts.whole_film import signed
from patchad.model.method import Gives, Method, Needs, Setting
from patchad.model.options import Betas, Count, Positive

NAME = "ali"

_BOUND = 4.0  # of log σ
_SLOPE = 0.1  # of leaky units, ALI's is 0.02 to 0.1


@dataclass(frozen=True)
class Config:
    """How to train; ``width`` and ``code`` are f-AnoGAN's, ``steps`` and ``hidden`` are chosen.

    ``hidden``: units of the discriminator's two layers of codes, and of what joins both branches.
    """

    width: Count = 64
    code: Count = 128
    hidden: Count = 512
    steps: Count = 20_000
    batch_size: Count = 64
    learning_rate: Positive = 1e-4
    betas: Betas = (0.5, 0.999)
    restarts: Count = 3


class Pairs(nn.Module):
    """The inference and generating halves: pairs of a patch and a code from either side."""

    def __init__(self, config: Config, size: int) -> None:
        super().__init__()
        self.encoder = Encoder(size, config.width, 2 * config.code, bounded=False)
        self.generator = Generator(size, config.width, config.code)

    def infer(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log σ of q(z|x): both (N, ``code``) float32."""
        mean, log_sigma = self.encoder(patches).float().chunk(2, dim=1)
        return mean, log_sigma.clamp(-_BOUND, _BOUND)

    def draw(self, patches: Tensor, noise: Tensor) -> Tensor:
        """Codes of q(z|x) from standard normal ``noise`` (N, ``code``)."""
        mean, log_sigma = self.infer(patches)
        return mean + noise * log_sigma.exp()

    def redraw(self, patches: Tensor) -> Tensor:
        """G at the mean of q(z|x), of patches in [-1, 1]."""
        found: Tensor = self.generator(self.infer(patches)[0])
        return found


class Discriminator(nn.Module):
    """Patches (N, 1, S, S) and codes (N, ``code``) → logits (N, 1): high for encoded pairs."""

    def __init__(self, config: Config, size: int) -> None:
        super().__init__()
        hidden = config.hidden
        self.down = Down(size, config.width, layer_norm)
        self.codes = nn.Sequential(*_dense(config.code, hidden), *_dense(hidden, hidden))
        features = self.down.features + hidden
        self.joint = nn.Sequential(*_dense(features, hidden), nn.Linear(hidden, 1))

    def forward(self, patches: Tensor, codes: Tensor) -> Tensor:
        """The logit of each pair."""
        found: Tensor = self.joint(torch.cat([self.down(patches), self.codes(codes)], 1))
        return found


def _dense(inputs: int, outputs: int) -> tuple[nn.Module, nn.Module]:
    return nn.Linear(inputs, outputs), nn.LeakyReLU(_SLOPE)


class LearnedInference(nn.Module):
    """Patches (N, 1, S, S) in [0, 1] → the mean squared error of each one's reconstruction (N,)."""

    unit = "squared error of intensity [-1, 1]"
    pooling = ""

    def __init__(self, config: Config, size: int) -> None:
        super().__init__()
        self.pairs = Pairs(config, size)
        self.discriminator = Discriminator(config, size)

    def forward(self, patches: Tensor) -> Tensor:
        """The score of each patch."""
        patches = signed(patches)
        return (self.pairs.redraw(patches).float() - patches).square().mean((1, 2, 3))


def told_apart(encoded: Tensor, generated: Tensor) -> Tensor:
    """The discriminator's loss from the logits of both kinds of pairs: a scalar.

    With the kinds exchanged it is that of encoder and generator.
    """
    return F.softplus(-encoded.float()).mean() + F.softplus(generated.float()).mean()


def build(config: Config, setting: Setting) -> LearnedInference:
    """The networks before training.

    Raises:
        RequestError: a patch size that isn't a power of two from 16.
    """
    check_patch_size(setting.patch_size, NAME)
    return LearnedInference(config, setting.patch_size)


def learn(module: LearnedInference, config: Config, data: TrainingSet, run: Run) -> None:
    """Train both sides, a step each in turn.

    Raises:
        GivenUp: the generator collapsed, or all patches are redrawn as one.
    """
    bank = data.bank.to(run.device)
    pairs, discriminator, size = module.pairs, module.discriminator, config.batch_size
    pictures = probe(bank, run)
    noise = torch.randn(PROBED, config.code, generator=epoch_generator(run.seed, 0)).to(run.device)

    def draw(step: Step) -> tuple[Tensor, Tensor]:
        return (
            draw_mirrored(bank, size, step.generator),
            torch.randn(2, size, config.code, generator=step.generator),
        )

    def losses(drawn: tuple[Tensor, Tensor], step: Step) -> Iterator[tuple[str, Tensor]]:
        patches = cut_mirrored(bank, drawn[0])
        around, codes = drawn[1].to(run.device, non_blocking=True)
        with torch.no_grad():
            encoded, generated = pairs.draw(patches, around), pairs.generator(codes)
        yield (
            "discriminator",
            told_apart(discriminator(patches, encoded), discriminator(generated, codes)),
        )
        with frozen(discriminator):
            encoded, generated = pairs.draw(patches, around), pairs.generator(codes)
            yield (
                "pairs",
                told_apart(discriminator(generated, codes), discriminator(patches, encoded)),
            )

    def critic(patches: Tensor) -> Tensor:
        found: Tensor = discriminator(patches, pairs.infer(patches)[0])
        return found

    def sign() -> str:
        with probing(module):
            with torch.no_grad():
                generated = pairs.generator(noise)
            return collapsed(pictures, generated, critic)

    networks: dict[str, nn.Module] = {"pairs": pairs, "discriminator": discriminator}
    adam = {
        name: torch.optim.Adam(one.parameters(), config.learning_rate, config.betas)
        for name, one in networks.items()
    }
    train_watched(run, networks, adam, config.steps, draw=draw, losses=losses, sign=sign)
    judge_redrawing(run, pairs.redraw, pictures, config.steps)


METHOD = Method(
    name=NAME,
    family="adversarial",
    paper="Dumoulin et al., Adversarially learned inference, ICLR 2017, arXiv 1606.00704, as in "
    "Schlegl et al., f-AnoGAN, Medical Image Analysis 54, 2019, doi 10.1016/j.media.2019.01.010",
    needs=Needs("negative images, of two patients at least; no labels of lesions"),
    gives=Gives(
        "patch",
        "a score a patch (the error of its reconstruction by adversarially learned inference), "
        "stitched into a heatmap",
    ),
    config=Config,
    build=build,
    learn=learn,
    setting={"patch_size": 64, "stride": 32},
    quick={"width": 8, "batch_size": 16, "steps": 250},
)
