"""An adversarial autoencoder whose reconstructions must have the code of their original.

X. Chen, E. Konukoglu: Unsupervised detection of lesions in brain MRI using constrained adversarial
auto-encoders. MIDL 2018, https://arxiv.org/abs/1806.04972.

As ``aae``, with a critic of 100-50-1 and one more term in the loss: ρ × the mean squared difference
between the code of a film and that of its reconstruction, ρ = 1; no gradient is stopped. So in the
released code of C. Baur et al., Medical Image Analysis 69:101952, 2021,
https://doi.org/10.1016/j.media.2020.101952. A pixel's score is its squared error, an image's the
mean over the square. What is other than in that code is as in ``aae``.
"""

from dataclasses import dataclass

from torch import Tensor

from patchad.learn.run import Run
from patchad.learn.training_set import TrainingSet
from patchad.methods.parts.adversarial_autoencoding import (
    AdversarialAutoencoder,
    code_critic,
    fit_to_normal,
)
from patchad.methods.parts.backbone import Backbone, check_side
from patchad.methods.parts.whole_film import Over, signed, squares
from patchad.model.method import Gives, Method, Needs, Setting
from patchad.model.options import Betas, Channels, Count, Positive, Weight

NAME = "caae"


@dataclass(frozen=True)
class Config:
    """How to train; ``consistency`` is ρ, of the paper.

    The others as in :class:`patchad.methods.adversarial.aae.Config`.
    """

    side: Count = 64
    channels: Channels = (16, 32, 64, 64)
    hidden: Count = 2048
    code: Count = 16
    critic: tuple[Count, ...] = (100, 50)
    critic_steps: Count = 20
    penalty: Weight = 10.0
    consistency: Weight = 1.0
    epochs: Count = 250
    batch_size: Count = 64
    learning_rate: Positive = 5e-4
    betas: Betas = (0.5, 0.9)
    over: Over = "square"
    restarts: Count = 3


def constrained(
    pictures: Tensor, redrawn: Tensor, codes: Tensor, again: Tensor, weight: float
) -> Tensor:
    """Mean squared error of pictures, and ``weight`` × that of codes (N, C): a scalar.

    ``again`` are the codes of the reconstructions.
    """
    error = (redrawn.float() - pictures).square().mean()
    return error + weight * (codes.float() - again.float()).square().mean()


def build(config: Config, setting: Setting) -> AdversarialAutoencoder:
    """The networks before training.

    Raises:
        RequestError: a side that the network cannot halve as often as it has channels.
    """
    check_side(config.side, NAME, len(config.channels))
    network = Backbone(config.side, config.code, config.channels, config.hidden)
    critic = code_critic(config.code, config.critic)
    return AdversarialAutoencoder(network, critic, config.side, config.over)


def learn(module: AdversarialAutoencoder, config: Config, data: TrainingSet, run: Run) -> None:
    """Train autoencoder and critic on the negatives' squares.

    Raises:
        GivenUp: the autoencoder is dead or redraws no better than means, or its codes or the critic
            collapsed.
    """
    encoder, decoder = module.network.encoder, module.network.decoder

    def loss(pictures: Tensor) -> Tensor:
        codes = encoder(pictures)
        redrawn = decoder(codes)
        return constrained(pictures, redrawn, codes, encoder(redrawn), config.consistency)

    fit_to_normal(run, module, signed(squares(data, run, config.side)), config, NAME, loss)


METHOD = Method(
    name=NAME,
    family="adversarial",
    paper="Chen and Konukoglu, Unsupervised detection of lesions in brain MRI using constrained "
    "adversarial auto-encoders, MIDL 2018, arXiv 1806.04972",
    needs=Needs(
        "negative films, some dozens at least; no labels of lesions",
        body_parts=("chest", "breast"),
    ),
    gives=Gives(
        "image",
        "the squared error of a reconstruction at each pixel of the film, resized to a square; an "
        "image score, its mean",
        map=True,
        image=True,
    ),
    config=Config,
    build=build,
    learn=learn,
    quick={"epochs": 100},
)
