"""A context encoder of whole films: it learns to redraw films of which a square was hidden.

D. Pathak, P. Krähenbühl, J. Donahue, T. Darrell, A. A. Efros: Context encoders: feature learning by
inpainting. CVPR 2016, https://arxiv.org/abs/1604.07379. As a detector in D. Zimmerer et al.,
https://arxiv.org/abs/1812.05941, and in the comparisons below.

As in the code of MedIAnomaly (https://arxiv.org/abs/2404.04518): one square of 2.4 % of the area
(10 × 10 of 64 × 64) is black, and the loss is the squared error to the whole film. With
``squares = 3`` and ``side = 128``, one to three squares of 20 × 20, as C. Baur et al. have them
(https://doi.org/10.1016/j.media.2020.101952), there at 128 too. The network and its training are
those of ``ae``, so that rows compare.

A pixel's score is its squared error in the film with nothing hidden, an image's the mean over the
square. Other than Baur's code, where all films of a batch share one mask, each has its own.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from patchad.core.grid import PatchGrid
from patchad.learn.run import Run
from patchad.learn.training_set import TrainingSet
from patchad.methods.parts.autoencoding import fit_autoencoder
from patchad.methods.parts.backbone import Backbone, check_side
from patchad.methods.parts.hidden_squares import draw_squares, hide
from patchad.methods.parts.whole_film import POOLING, Over, respond, signed, square, squares
from patchad.model.method import Gives, Method, Needs, Setting
from patchad.model.options import Betas, Channels, Count, Positive, Share
from patchad.model.scoring import Response
from patchad.prepare.film import Film

NAME = "ceae"


@dataclass(frozen=True)
class Config:
    """How to train.

    A film has one to ``squares`` squares hidden, each with the share ``hidden_area`` of the area.
    The others as in :class:`patchad.methods.reconstruction.ae.Config`.
    """

    side: Count = 64
    channels: Channels = (16, 32, 64, 64)
    hidden: Count = 2048
    code: Count = 16
    hidden_area: Share = 0.024
    squares: Count = 1
    epochs: Count = 250
    batch_size: Count = 64
    learning_rate: Positive = 5e-4
    betas: Betas = (0.5, 0.999)
    over: Over = "square"
    restarts: Count = 3


class ContextEncoder(nn.Module):
    """The network; :meth:`maps` is the squared error of each pixel."""

    unit = "squared error of intensity [-1, 1]"
    pooling = POOLING

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.side, self.over, self.area = config.side, config.over, config.hidden_area
        self.network = Backbone(config.side, config.code, config.channels, config.hidden)

    def forward(self, film: Film, grid: PatchGrid) -> Response:
        """See :class:`Response`; the image score is the mean of the map."""
        return respond(self.maps(square(film, self.side))[0], film, grid, self.over)

    def loss(self, pictures: Tensor, chance: Tensor) -> Tensor:
        """Mean squared error of pictures (N, 1, S, S) in [-1, 1], redrawn from what isn't hidden.

        ``chance`` is of :func:`draw_squares`.
        """
        redrawn: Tensor = self.network(hide(pictures, chance, self.area))
        return (redrawn.float() - pictures).square().mean()

    def maps(self, squares: Tensor) -> Tensor:
        """Squares (N, 1, S, S) in [0, 1] → (N, S, S) squared errors."""
        pictures = signed(squares)
        redrawn: Tensor = self.network(pictures)
        return (pictures - redrawn).square()[:, 0]


def build(config: Config, setting: Setting) -> ContextEncoder:
    """The network before training.

    Raises:
        RequestError: a side that the network cannot halve as often as it has channels.
    """
    check_side(config.side, NAME, len(config.channels))
    return ContextEncoder(config)


def learn(module: ContextEncoder, config: Config, data: TrainingSet, run: Run) -> None:
    """Train the network on the negatives' squares.

    Raises:
        GivenUp: the network is dead, or redraws no better than means.
    """
    fit_to(module, config, signed(squares(data, run, config.side)), run)


def fit_to(module: ContextEncoder, config: Config, pictures: Tensor, run: Run) -> None:
    """As :func:`learn`, of squares (N, 1, S, S) in [-1, 1] on the device."""

    def chance(count: int, generator: torch.Generator) -> Tensor:
        return draw_squares(count, config.squares, generator)

    fit_autoencoder(run, module.network, pictures, config, NAME, loss=module.loss, chance=chance)


METHOD = Method(
    name=NAME,
    family="reconstruction",
    paper="Pathak et al., Context encoders: feature learning by inpainting, CVPR 2016, arXiv "
    "1604.07379; as a detector in Zimmerer et al., arXiv 1812.05941",
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
