"""An autoencoder of negative patches whose reconstructions must also deceive a critic.

A row of the table of T. Schlegl et al., f-AnoGAN: fast unsupervised anomaly detection with
generative adversarial networks, Medical Image Analysis 54:30-44, 2019.
https://doi.org/10.1016/j.media.2019.01.010.

The encoder and the generator of :mod:`patchad.methods.adversarial.fanogan` are trained together by
the mean of (x - G(E(x)))². What is at hand of the paper doesn't describe the adversarial part;
chosen: f-AnoGAN's Wasserstein critic with gradient penalty, on reconstructions in place of
generated patches, and ``adversarial_weight`` · -D(G(E(x))) in the autoencoder's loss. The score is
the squared error of a patch, its mean over the pixels.

``adversarial_weight = 0`` leaves the critic out: that is the row "AE" of the same table.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from patchad.learn.checkpoint import epoch_generator
from patchad.learn.loop import Step
from patchad.learn.run import Run
from patchad.learn.training_set import TrainingSet
from patchad.methods.parts.adversarial import collapsed, critic_loss, frozen
from patchad.methods.parts.collapse import is_dead, judge, probing
from patchad.methods.parts.patch_gan import cut_mirrored, draw_mirrored, probe, train_watched
from patchad.methods.parts.residual_networks import Critic, Encoder, Generator, check_patch_size
from patchad.methods.parts.whole_film import signed
from patchad.model.method import Gives, Method, Needs, Setting
from patchad.model.options import Betas, Count, Positive, Weight

NAME = "advae"


@dataclass(frozen=True)
class Config:
    """How to train; as in :class:`patchad.methods.adversarial.fanogan.Config` where it has these.

    ``adversarial_weight`` is chosen: a critic's gradient has a norm of about 1 a patch, and that of
    the squared error is r / 32 for an RMSE of r at 64 × 64; so 1e-3 weighs both alike at 0.03, and
    is slight before. 0 is the plain autoencoder. ``steps`` are the autoencoder's.
    """

    width: Count = 64
    code: Count = 128
    adversarial_weight: Weight = 1e-3
    steps: Count = 20_000
    critic_steps: Count = 5
    penalty: Weight = 10.0
    batch_size: Count = 64
    learning_rate: Positive = 1e-4
    betas: Betas = (0.0, 0.9)
    restarts: Count = 3


class Autoencoder(nn.Module):
    """Encoder and generator: (N, 1, S, S) in [-1, 1] → their reconstructions."""

    def __init__(self, config: Config, size: int) -> None:
        super().__init__()
        self.encoder = Encoder(size, config.width, config.code)
        self.generator = Generator(size, config.width, config.code)

    def forward(self, patches: Tensor) -> Tensor:
        """G(E(x))."""
        found: Tensor = self.generator(self.encoder(patches))
        return found


class AdversarialAutoencoder(nn.Module):
    """Patches (N, 1, S, S) in [0, 1] → the mean squared error of each one's reconstruction (N,).

    The critic is kept beside the autoencoder for its checkpoints; no score needs it.
    """

    unit = "squared error of intensity [-1, 1]"
    pooling = ""

    def __init__(self, config: Config, size: int) -> None:
        super().__init__()
        self.network = Autoencoder(config, size)
        self.critic = Critic(size, config.width) if config.adversarial_weight else None

    def forward(self, patches: Tensor) -> Tensor:
        """The score of each patch."""
        patches = signed(patches)
        redrawn: Tensor = self.network(patches)
        return (redrawn.float() - patches).square().mean((1, 2, 3))


def build(config: Config, setting: Setting) -> AdversarialAutoencoder:
    """The networks before training.

    Raises:
        RequestError: a patch size that isn't a power of two from 16.
    """
    check_patch_size(setting.patch_size, NAME)
    return AdversarialAutoencoder(config, setting.patch_size)


def learn(module: AdversarialAutoencoder, config: Config, data: TrainingSet, run: Run) -> None:
    """Train the autoencoder against its critic.

    Raises:
        GivenUp: it is dead, redraws no better than means, or its critic ran away.
    """
    bank, network, critic = data.bank.to(run.device), module.network, module.critic
    size, turns = config.batch_size, config.critic_steps if critic else 0
    first = next(network.parameters())
    pictures = probe(bank, run)
    share = torch.rand(len(pictures), generator=epoch_generator(run.seed, 0)).to(run.device)

    def draw(step: Step) -> tuple[Tensor, Tensor]:
        drawn = draw_mirrored(bank, (turns + 1) * size, step.generator)
        return drawn, torch.rand(turns, size, generator=step.generator)

    def losses(drawn: tuple[Tensor, Tensor], step: Step) -> Iterator[tuple[str, Tensor]]:
        *real, patches = torch.split(cut_mirrored(bank, drawn[0]), size)
        shares = drawn[1].to(run.device, non_blocking=True)
        if critic is None:
            yield "autoencoder", (network(patches).float() - patches).square().mean()
            return
        for turn in range(turns):
            with torch.no_grad():
                fake = network(real[turn])
            yield "critic", critic_loss(critic, real[turn], fake, shares[turn], config.penalty)
        with frozen(critic):
            redrawn = network(patches)
            error = (redrawn.float() - patches).square().mean()
            yield "autoencoder", error - config.adversarial_weight * critic(redrawn).float().mean()

    def sign() -> str:
        with probing(module):
            if is_dead(network, first, pictures):
                return "it redraws every patch as the same picture"
            if critic is None:
                return ""
            with torch.no_grad():
                redrawn = network(pictures)
            return collapsed(pictures, redrawn, critic, share)

    networks: dict[str, nn.Module] = {"autoencoder": network}
    if critic is not None:
        networks["critic"] = critic
    adam = {
        name: torch.optim.Adam(one.parameters(), config.learning_rate, config.betas)
        for name, one in networks.items()
    }
    train_watched(run, networks, adam, config.steps, draw=draw, losses=losses, sign=sign)
    longer = f"raise {NAME}.steps or {NAME}.learning_rate"
    judge(run, network, pictures, config.steps, longer, longer)


METHOD = Method(
    name=NAME,
    family="adversarial",
    paper="the adversarial autoencoder in Schlegl et al., f-AnoGAN: fast unsupervised anomaly "
    "detection with generative adversarial networks, Medical Image Analysis 54, 2019, "
    "doi 10.1016/j.media.2019.01.010",
    needs=Needs("negative images, of two patients at least; no labels of lesions"),
    gives=Gives(
        "patch",
        "a score a patch (the error of an autoencoder whose reconstructions deceive a critic), "
        "stitched into a heatmap",
    ),
    config=Config,
    build=build,
    learn=learn,
    setting={"patch_size": 64, "stride": 32},
    quick={
        "width": 8,
        "batch_size": 16,
        "steps": 250,
        "critic_steps": 1,
        "learning_rate": 5e-4,
    },
)
