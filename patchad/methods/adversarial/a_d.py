"""The critic of a GAN of negative patches; the score is how unreal it finds a patch.

A row of the table of T. Schlegl et al., f-AnoGAN: fast unsupervised anomaly detection with
generative adversarial networks, Medical Image Analysis 54:30-44, 2019.
https://doi.org/10.1016/j.media.2019.01.010.

The GAN is that of :mod:`patchad.methods.adversarial.fanogan`, without an encoder. The score of a
patch is -D(x), the critic's output (not the error of its features, which f-AnoGAN calls A_D too).
A critic learns what its generator makes, not what a lesion is: nothing promises that a lesion
scores higher, and the paper's figure for it is the lowest of its table.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from patchad.learn.run import Run
from patchad.learn.training_set import TrainingSet
from patchad.methods.parts.patch_gan import fit_wgan
from patchad.methods.parts.residual_networks import Critic, Generator, check_patch_size
from patchad.methods.parts.whole_film import signed
from patchad.model.method import Gives, Method, Needs, Setting
from patchad.model.options import Betas, Count, Positive, Weight

NAME = "a_d"


@dataclass(frozen=True)
class Config:
    """How to train; all as in :class:`patchad.methods.adversarial.fanogan.Config`."""

    width: Count = 64
    code: Count = 128
    steps: Count = 20_000
    critic_steps: Count = 5
    penalty: Weight = 10.0
    batch_size: Count = 64
    learning_rate: Positive = 1e-4
    betas: Betas = (0.0, 0.9)
    restarts: Count = 3


class CriticAlone(nn.Module):
    """The critic, with the generator it learnt from: patches (N, 1, S, S) → scores (N,)."""

    unit = "the critic's value, turned"
    pooling = ""

    def __init__(self, config: Config, size: int) -> None:
        super().__init__()
        self.generator = Generator(size, config.width, config.code)
        self.critic = Critic(size, config.width)

    def forward(self, patches: Tensor) -> Tensor:
        """-D(x) of patches in [0, 1]."""
        values: Tensor = self.critic(signed(patches))
        return -values[:, 0].float()


def build(config: Config, setting: Setting) -> CriticAlone:
    """The networks before training.

    Raises:
        RequestError: a patch size that isn't a power of two from 16.
    """
    check_patch_size(setting.patch_size, NAME)
    return CriticAlone(config, setting.patch_size)


def learn(module: CriticAlone, config: Config, data: TrainingSet, run: Run) -> None:
    """Train the GAN.

    Raises:
        GivenUp: it collapsed.
    """
    bank = data.bank.to(run.device)
    fit_wgan(run, module.generator, module.critic, bank, config, config.code)


METHOD = Method(
    name=NAME,
    family="adversarial",
    paper="the critic's score in Schlegl et al., f-AnoGAN: fast unsupervised anomaly detection "
    "with generative adversarial networks, Medical Image Analysis 54, 2019, "
    "doi 10.1016/j.media.2019.01.010",
    needs=Needs("negative images, of two patients at least; no labels of lesions"),
    gives=Gives(
        "patch",
        "a score a patch (how unreal a GAN's critic finds it), stitched into a heatmap",
    ),
    config=Config,
    build=build,
    learn=learn,
    setting={"patch_size": 64, "stride": 32},
    quick={"width": 8, "batch_size": 16, "steps": 150, "critic_steps": 2},
)
