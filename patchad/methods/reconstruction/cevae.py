"""A variational autoencoder that also redraws films with a hidden square; scored by gradients.

D. Zimmerer, S. A. A. Kohl, J. Petersen, F. Isensee, K. H. Maier-Hein: Context-encoding variational
autoencoder for unsupervised anomaly detection. https://arxiv.org/abs/1812.05941.

As published: the loss is that of a variational autoencoder plus the error of a second
reconstruction, from the mean code of the film with squares hidden, to the whole film. A pixel's
score is the size of its error times that of the loss's gradient there.

Chosen: the network, its training, β and the hidden square are those of ``vae`` and ``ceae``, so
that rows compare; errors are squared in the loss. The gradient is that of the summed squared error
and of the divergence as the loss weighs them, times the number of pixels. An image's score is the
mean over the square; the paper sums over slices of a volume. Other than Baur's code
(https://doi.org/10.1016/j.media.2020.101952), the second target is the whole film, not the masked
one, and each film has its own mask.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from patchad.core.grid import PatchGrid
from patchad.learn.run import Run
from patchad.learn.training_set import TrainingSet
from patchad.methods.parts.autoencoding import fit_autoencoder
from patchad.methods.parts.backbone import check_side
from patchad.methods.parts.collapse import PROBED
from patchad.methods.parts.hidden_squares import draw_squares, hide
from patchad.methods.parts.variational import (
    Variational,
    divergence,
    input_gradient,
    note_collapse,
    sample,
)
from patchad.methods.parts.whole_film import POOLING, Over, respond, signed, square, squares
from patchad.model.method import Gives, Method, Needs, Setting
from patchad.model.options import Betas, Channels, Count, Positive, Share, Weight
from patchad.model.scoring import Response
from patchad.prepare.film import Film

NAME = "cevae"


@dataclass(frozen=True)
class Config:
    """How to train.

    ``divergence`` is β, ``context`` the weight of the second reconstruction; ``hidden_area`` and
    ``squares`` as in :class:`patchad.methods.reconstruction.ceae.Config`. The others as in
    :class:`patchad.methods.reconstruction.ae.Config`.
    """

    side: Count = 64
    channels: Channels = (16, 32, 64, 64)
    hidden: Count = 2048
    code: Count = 16
    divergence: Weight = 0.005
    context: Weight = 1.0
    hidden_area: Share = 0.024
    squares: Count = 1
    epochs: Count = 250
    batch_size: Count = 64
    learning_rate: Positive = 5e-4
    betas: Betas = (0.5, 0.999)
    over: Over = "square"
    restarts: Count = 3


class ContextVariational(nn.Module):
    """The network; :meth:`maps` is the score of each pixel."""

    unit = "error of intensity [-1, 1] × gradient of the loss"
    pooling = POOLING

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.side, self.over = config.side, config.over
        self.code, self.area = config.code, config.hidden_area
        self.weight, self.context = config.divergence, config.context
        self.network = Variational(config.side, config.code, config.channels, config.hidden)

    def forward(self, film: Film, grid: PatchGrid) -> Response:
        """See :class:`Response`; the image score is the mean of the map."""
        return respond(self.maps(square(film, self.side))[0], film, grid, self.over)

    def loss(self, pictures: Tensor, chance: Tensor) -> Tensor:
        """The loss of pictures (N, 1, S, S) in [-1, 1].

        ``chance`` (N, C + …) is the noise of the codes, then that of :func:`draw_squares`.
        """
        network = self.network
        noise, places = chance[:, : self.code], chance[:, self.code :]
        code = network.encode(pictures)
        redrawn = network.decode(sample(*code, noise))
        completed: Tensor = network(hide(pictures, places, self.area))
        own = (redrawn - pictures).square().mean() + self.weight * divergence(*code).mean()
        return own + self.context * (completed - pictures).square().mean()

    def maps(self, squares: Tensor) -> Tensor:
        """Squares (N, 1, S, S) in [0, 1] → (N, S, S) scores."""
        pictures = signed(squares)
        redrawn: Tensor = self.network(pictures)
        errors = (pictures - redrawn).abs()
        return (errors * input_gradient(self.surprise, pictures).abs())[:, 0]

    def surprise(self, pictures: Tensor) -> Tensor:
        """The loss of each picture with nothing drawn or hidden, times its pixels: (N,)."""
        mean, log_variance = self.network.encode(pictures)
        errors = (self.network.decode(mean) - pictures).square().mean((1, 2, 3))
        each = errors + self.weight * divergence(mean, log_variance).mean(1)
        return each * self.side**2


def build(config: Config, setting: Setting) -> ContextVariational:
    """The network before training.

    Raises:
        RequestError: a side that the network cannot halve as often as it has channels.
    """
    check_side(config.side, NAME, len(config.channels))
    return ContextVariational(config)


def learn(module: ContextVariational, config: Config, data: TrainingSet, run: Run) -> None:
    """Train the network on the negatives' squares.

    Raises:
        GivenUp: the network is dead, or redraws no better than means.
    """
    fit_to(module, config, signed(squares(data, run, config.side)), run)


def fit_to(module: ContextVariational, config: Config, pictures: Tensor, run: Run) -> None:
    """As :func:`learn`, of squares (N, 1, S, S) in [-1, 1] on the device."""

    def chance(count: int, generator: torch.Generator) -> Tensor:
        noise = torch.randn(count, config.code, generator=generator)
        return torch.cat([noise, draw_squares(count, config.squares, generator)], 1)

    fit_autoencoder(run, module.network, pictures, config, NAME, loss=module.loss, chance=chance)
    with torch.inference_mode():
        note_collapse(run, *module.network.encode(pictures[:PROBED]))


METHOD = Method(
    name=NAME,
    family="reconstruction",
    paper="Zimmerer et al., Context-encoding variational autoencoder for unsupervised anomaly "
    "detection, 2018, arXiv 1812.05941",
    needs=Needs(
        "negative films, some dozens at least; no labels of lesions",
        body_parts=("chest", "breast"),
    ),
    gives=Gives(
        "image",
        "the error of a reconstruction times the gradient of the loss at each pixel of the film, "
        "resized to a square; an image score, its mean",
        map=True,
        image=True,
    ),
    config=Config,
    build=build,
    learn=learn,
)
