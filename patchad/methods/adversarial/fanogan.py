"""A GAN of negative patches and a fast encoder into it; the score is what they fail to redraw.

T. Schlegl, P. Seeböck, S. M. Waldstein, G. Langs, U. Schmidt-Erfurth: f-AnoGAN: fast unsupervised
anomaly detection with generative adversarial networks. Medical Image Analysis 54:30-44, 2019.
https://doi.org/10.1016/j.media.2019.01.010. With the authors' code,
https://github.com/tSchlegl/f-AnoGAN.

As published: patches of 64 × 64 in [-1, 1], mirrored with p = 0.5; residual networks of width
d = 64; z ~ N(0, I) of 128; a Wasserstein GAN with gradient penalty 10, five critic steps for one of
the generator, Adam with 1e-4 and β 0, 0.9, batches of 64. Then the encoder alone, the GAN frozen
in eval mode, by RMSprop with 5e-5 for 50,000 steps. Its loss is

* ``ziz``: the mean of (z - E(G(z)))²;
* ``izi``: the mean of (x - G(E(x)))²;
* ``izi_f``: that, and κ times the mean of (f(x) - f(G(E(x))))², f the critic's last features.

The score is A_R + κ A_D for ``izi_f``, both as in its loss but of one patch; A_R alone for the
others. The distance between codes is logged by the authors, and is no score.

Chosen: the paper trains the GAN for 7 epochs of a set whose size isn't known here; 20,000 steps of
the generator are 7 epochs of about 900,000 patches. RMSprop's decay 0.9 and ε 1e-10 are
TensorFlow's, which the code uses. The encoder ends in tanh, as the paper says (a version of the
code has none): codes lie within ± 1 while z is normal.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from patchad.learn.loop import Step, equal_epochs, train
from patchad.learn.patch_bank import PatchBank
from patchad.learn.run import Run
from patchad.learn.training_set import TrainingSet
from patchad.methods.parts.adversarial import frozen
from patchad.methods.parts.collapse import is_dead, probing
from patchad.methods.parts.patch_gan import (
    EPOCH,
    cut_mirrored,
    draw_mirrored,
    fit_wgan,
    judge_redrawing,
    probe,
)
from patchad.methods.parts.residual_networks import Critic, Encoder, Generator, check_patch_size
from patchad.methods.parts.whole_film import signed
from patchad.model.method import Gives, Method, Needs, Setting
from patchad.model.options import Betas, Count, Positive, Weight

NAME = "fanogan"

Encoding = Literal["izi_f", "izi", "ziz"]


@dataclass(frozen=True)
class Config:
    """How to train; the defaults are the paper's, ``steps`` is chosen.

    ``encoder``: its loss. ``width`` is d, ``code`` the length of z. ``steps`` are the generator's,
    ``critic_steps`` the critic's before each of them, ``penalty`` the weight of the gradient
    penalty. ``kappa`` weighs the critic's features in ``izi_f``, in the loss and in the score.
    """

    encoder: Encoding = "izi_f"
    width: Count = 64
    code: Count = 128
    steps: Count = 20_000
    critic_steps: Count = 5
    penalty: Weight = 10.0
    batch_size: Count = 64
    learning_rate: Positive = 1e-4
    betas: Betas = (0.0, 0.9)
    encoder_steps: Count = 50_000
    encoder_learning_rate: Positive = 5e-5
    kappa: Weight = 1.0
    restarts: Count = 3


class FastAnoGan(nn.Module):
    """Generator, critic and encoder: patches (N, 1, S, S) in [0, 1] → scores (N,)."""

    pooling = ""

    def __init__(self, config: Config, size: int) -> None:
        super().__init__()
        self.generator = Generator(size, config.width, config.code)
        self.critic = Critic(size, config.width)
        self.encoder = Encoder(size, config.width, config.code)
        self.kappa = config.kappa if config.encoder == "izi_f" else 0.0
        self.unit = "squared error of intensity [-1, 1]" + (
            f" + {self.kappa:g} × that of the critic's features" if self.kappa else ""
        )

    def forward(self, patches: Tensor) -> Tensor:
        """A_R + κ A_D of each patch."""
        return self.errors(signed(patches))

    def redraw(self, patches: Tensor) -> Tensor:
        """G(E(x)) of patches in [-1, 1]."""
        found: Tensor = self.generator(self.encoder(patches))
        return found

    def errors(self, patches: Tensor) -> Tensor:
        """Mean squared error of each patch in [-1, 1], and κ × that of its features: (N,)."""
        redrawn = self.redraw(patches)
        found = squared(patches, redrawn)
        if self.kappa:
            features = self.critic.down
            found = found + self.kappa * squared(features(patches), features(redrawn))
        return found


def squared(one: Tensor, other: Tensor) -> Tensor:
    """The mean squared difference of each sample: (N, …) → (N,) float32."""
    return (one.float() - other.float()).square().flatten(1).mean(1)


def build(config: Config, setting: Setting) -> FastAnoGan:
    """The networks before training.

    Raises:
        RequestError: a patch size that isn't a power of two from 16.
    """
    check_patch_size(setting.patch_size, NAME)
    return FastAnoGan(config, setting.patch_size)


def learn(module: FastAnoGan, config: Config, data: TrainingSet, run: Run) -> None:
    """Train the GAN, then the encoder, each with its own checkpoint.

    Raises:
        GivenUp: the GAN collapsed, or the encoder is dead or redraws one picture.
    """
    bank = data.bank.to(run.device)
    fit_wgan(run, module.generator, module.critic, bank, config, config.code)
    with frozen(module.generator, module.critic):
        _fit_encoder(module, config, bank, run.member("encoder"))


def _fit_encoder(module: FastAnoGan, config: Config, bank: PatchBank, run: Run) -> None:
    size, encoder = config.batch_size, module.encoder
    weights = next(encoder.parameters())
    pictures = probe(bank, run)

    def draw(step: Step) -> Tensor:
        if config.encoder == "ziz":
            return torch.randn(size, config.code, generator=step.generator)
        return draw_mirrored(bank, size, step.generator)

    def losses(drawn: Tensor, step: Step) -> Iterator[tuple[str, Tensor]]:
        if config.encoder == "ziz":
            codes = drawn.to(run.device, non_blocking=True)
            yield "rmsprop", squared(encoder(module.generator(codes)), codes).mean()
        else:
            yield "rmsprop", module.errors(cut_mirrored(bank, drawn)).mean()

    def health(epoch: int) -> str:
        with probing(encoder):
            dead = is_dead(module.redraw, weights, pictures)
        return f"dead after epoch {epoch}: it encodes every patch alike" if dead else ""

    epochs, steps = equal_epochs(config.encoder_steps, EPOCH)
    optimiser = torch.optim.RMSprop(
        encoder.parameters(), config.encoder_learning_rate, alpha=0.9, eps=1e-10
    )
    train(
        run,
        {"encoder": encoder},
        {"rmsprop": optimiser},
        epochs=epochs,
        steps=steps,
        draw=draw,
        losses=losses,
        health=health,
    )
    judge_redrawing(run, module.redraw, pictures, config.encoder_steps)


METHOD = Method(
    name=NAME,
    family="adversarial",
    paper="Schlegl et al., f-AnoGAN: fast unsupervised anomaly detection with generative "
    "adversarial networks, Medical Image Analysis 54, 2019, doi 10.1016/j.media.2019.01.010",
    needs=Needs("negative images, of two patients at least; no labels of lesions"),
    gives=Gives(
        "patch",
        "a score a patch (the error of a GAN's reconstruction, in pixels and in the critic's "
        "features), stitched into a heatmap",
    ),
    config=Config,
    build=build,
    learn=learn,
    setting={"patch_size": 64, "stride": 32},
    quick={
        "width": 8,
        "batch_size": 16,
        "steps": 100,
        "critic_steps": 2,
        "encoder_steps": 200,
        "encoder_learning_rate": 5e-4,
    },
)
