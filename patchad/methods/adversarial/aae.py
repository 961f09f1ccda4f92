"""An autoencoder of whole films whose codes are held to a normal distribution by a critic.

A. Makhzani, J. Shlens, N. Jaitly, I. Goodfellow, B. Frey: Adversarial autoencoders. 2015,
https://arxiv.org/abs/1511.05644.

As a detector in C. Baur, S. Denner, B. Wiestler, N. Navab, S. Albarqouni: Autoencoders for
unsupervised anomaly segmentation in brain MR images: a comparative study. Medical Image Analysis
69:101952, 2021, https://doi.org/10.1016/j.media.2020.101952. As in their released code: squared
error; a critic of 50-50-1 on codes, trained with the Wasserstein loss and a gradient penalty of 10,
20 steps for one of the encoder; Adam with β 0.5, 0.9 for all. A pixel's score is its squared error,
an image's the mean over the square.

Other than in that code: the autoencoder that published detectors of chest films share, with its
squares of 64 × 64 in [-1, 1], code of 16, rate, batches and epochs, so that its rows compare with
those of ``ae`` (chosen; theirs sees 128 × 128, with a code of 128, a rate of 1e-4 and a stop by
validation). Points of the penalty lie between codes and draws of the prior, as the penalty is
defined; theirs lie beyond. No dropout, and no 20 steps of the autoencoder in the first epochs.
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

NAME = "aae"


@dataclass(frozen=True)
class Config:
    """How to train; the critic and β as in the code of Baur et al., the others as ``ae``'s.

    ``critic`` are the units of its hidden layers, ``critic_steps`` its steps for one of the others,
    ``penalty`` the weight of the gradient penalty. The others as in
    :class:`patchad.methods.reconstruction.ae.Config`.
    """

    side: Count = 64
    channels: Channels = (16, 32, 64, 64)
    hidden: Count = 2048
    code: Count = 16
    critic: tuple[Count, ...] = (50, 50)
    critic_steps: Count = 20
    penalty: Weight = 10.0
    epochs: Count = 250
    batch_size: Count = 64
    learning_rate: Positive = 5e-4
    betas: Betas = (0.5, 0.9)
    over: Over = "square"
    restarts: Count = 3


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

    def loss(pictures: Tensor) -> Tensor:
        redrawn: Tensor = module.network(pictures)
        return (redrawn.float() - pictures).square().mean()

    fit_to_normal(run, module, signed(squares(data, run, config.side)), config, NAME, loss)


METHOD = Method(
    name=NAME,
    family="adversarial",
    paper="Makhzani et al., Adversarial autoencoders, 2015, arXiv 1511.05644; as a detector in "
    "Baur et al., Medical Image Analysis 69:101952, 2021, doi 10.1016/j.media.2020.101952",
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
