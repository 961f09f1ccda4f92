"""The plain autoencoder of whole films that published tables have as their baseline.

Architecture and training as in Y. Cai, H. Chen, X. Yang, Y. Zhou, K.-T. Cheng: Dual-distribution
discrepancy for anomaly detection in chest X-rays. MICCAI 2022, LNCS 13433:584-593,
https://arxiv.org/abs/2206.03935 (their released code, where text and code differ).

As published: squares of 64 × 64 in [-1, 1]; a code of 16; squared error; Adam with 5e-4 and
β 0.5, 0.999; batches of 64, 250 epochs, no augmentation. A pixel's score is its squared error, an
image's the mean over the square.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from patchad.core.grid import PatchGrid
from patchad.learn.run import Run
from patchad.learn.training_set import TrainingSet
from patchad.methods.parts.autoencoding import fit_autoencoder
from patchad.methods.parts.backbone import Backbone, check_side
from patchad.methods.parts.whole_film import POOLING, Over, respond, signed, square, squares
from patchad.model.method import Gives, Method, Needs, Setting
from patchad.model.options import Betas, Channels, Count, Positive
from patchad.model.scoring import Response
from patchad.prepare.film import Film

NAME = "ae"


@dataclass(frozen=True)
class Config:
    """How to train; the defaults are the paper's.

    ``side`` of the square in pixels; ``channels`` of the convolutions, ``hidden`` units and the
    length of the ``code``. ``over``: which pixels make the image score, ``square`` or
    ``foreground``. ``restarts``: how many seeds are tried before training is given up.
    """

    side: Count = 64
    channels: Channels = (16, 32, 64, 64)
    hidden: Count = 2048
    code: Count = 16
    epochs: Count = 250
    batch_size: Count = 64
    learning_rate: Positive = 5e-4
    betas: Betas = (0.5, 0.999)
    over: Over = "square"
    restarts: Count = 3


class Autoencoder(nn.Module):
    """The network; :meth:`maps` is the squared error of each pixel."""

    unit = "squared error of intensity [-1, 1]"
    pooling = POOLING

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.side, self.over = config.side, config.over
        self.network = Backbone(config.side, config.code, config.channels, config.hidden)

    def forward(self, film: Film, grid: PatchGrid) -> Response:
        """See :class:`Response`; the image score is the mean of the map."""
        return respond(self.maps(square(film, self.side))[0], film, grid, self.over)

    def loss(self, pictures: Tensor, _: Tensor) -> Tensor:
        """Mean squared error of pictures (N, 1, S, S) in [-1, 1]."""
        redrawn: Tensor = self.network(pictures)
        return (redrawn.float() - pictures).square().mean()

    def maps(self, squares: Tensor) -> Tensor:
        """Squares (N, 1, S, S) in [0, 1] → (N, S, S) squared errors."""
        pictures = signed(squares)
        redrawn: Tensor = self.network(pictures)
        return (pictures - redrawn).square()[:, 0]


def build(config: Config, setting: Setting) -> Autoencoder:
    """The network before training.

    Raises:
        RequestError: a side that the network cannot halve as often as it has channels.
    """
    check_side(config.side, NAME, len(config.channels))
    return Autoencoder(config)


def learn(module: Autoencoder, config: Config, data: TrainingSet, run: Run) -> None:
    """Train the network on the negatives' squares.

    Raises:
        GivenUp: the network is dead, or redraws no better than means.
    """
    fit_to(module, config, signed(squares(data, run, config.side)), run)


def fit_to(
    module: Autoencoder, config: Config, pictures: Tensor, run: Run, name: str = NAME
) -> None:
    """As :func:`learn`, of squares (N, 1, S, S) in [-1, 1] on the device.

    ``name`` is the method's whose options they are, for remedies.
    """
    fit_autoencoder(run, module.network, pictures, config, name, loss=module.loss)


METHOD = Method(
    name=NAME,
    family="reconstruction",
    paper="the autoencoder of Cai et al., Dual-distribution discrepancy for anomaly detection in "
    "chest X-rays, MICCAI 2022, arXiv 2206.03935",
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
)
