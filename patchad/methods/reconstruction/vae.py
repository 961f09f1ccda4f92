"""A variational autoencoder of whole films: the code is a Gaussian, held near a standard one.

D. P. Kingma, M. Welling: Auto-encoding variational Bayes. ICLR 2014,
https://arxiv.org/abs/1312.6114.

For whole films as published comparisons have it, with the autoencoder of ``ae`` so that rows
compare: squared error + β × the divergence of the code from N(0, 1). β = 0.005 on the mean over the
16 dimensions is that of the code of MedIAnomaly (https://arxiv.org/abs/2404.04518). Optimiser,
batches and epochs are those of ``ae``.

A pixel's score is its squared error, an image's the mean over the square. ``score = gradient``
multiplies it by the size of the divergence's gradient at the pixel: D. Zimmerer et al.,
Unsupervised anomaly localization using variational auto-encoders, MICCAI 2019,
https://arxiv.org/abs/1907.02796.

Other than MedIAnomaly's code, films are redrawn from the mean of their code when they are scored,
not from a sample: a film has one score.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from patchad.core.grid import PatchGrid
from patchad.learn.run import Run
from patchad.learn.training_set import TrainingSet
from patchad.methods.parts.autoencoding import fit_autoencoder
from patchad.methods.parts.backbone import check_side
from patchad.methods.parts.collapse import PROBED
from patchad.methods.parts.variational import (
    Variational,
    divergence,
    input_gradient,
    note_collapse,
    sample,
)
from patchad.methods.parts.whole_film import POOLING, Over, respond, signed, square, squares
from patchad.model.method import Gives, Method, Needs, Setting
from patchad.model.options import Betas, Channels, Count, Positive, Weight
from patchad.model.scoring import Response
from patchad.prepare.film import Film

NAME = "vae"

Score = Literal["error", "gradient"]
UNITS: dict[Score, str] = {
    "error": "squared error of intensity [-1, 1]",
    "gradient": "squared error of intensity [-1, 1] × gradient of the divergence",
}


@dataclass(frozen=True)
class Config:
    """How to train and score.

    ``divergence`` is β. The others as in :class:`patchad.methods.reconstruction.ae.Config`.
    """

    side: Count = 64
    channels: Channels = (16, 32, 64, 64)
    hidden: Count = 2048
    code: Count = 16
    divergence: Weight = 0.005
    score: Score = "error"
    epochs: Count = 250
    batch_size: Count = 64
    learning_rate: Positive = 5e-4
    betas: Betas = (0.5, 0.999)
    over: Over = "square"
    restarts: Count = 3


class VariationalAutoencoder(nn.Module):
    """The network; :meth:`maps` is the score of each pixel."""

    pooling = POOLING

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.side, self.over, self.score = config.side, config.over, config.score
        self.weight, self.unit = config.divergence, UNITS[config.score]
        self.network = Variational(config.side, config.code, config.channels, config.hidden)

    def forward(self, film: Film, grid: PatchGrid) -> Response:
        """See :class:`Response`; the image score is the mean of the map."""
        return respond(self.maps(square(film, self.side))[0], film, grid, self.over)

    def loss(self, pictures: Tensor, noise: Tensor) -> Tensor:
        """Mean squared error of pictures (N, 1, S, S) in [-1, 1], redrawn from a sampled code.

        And β × the mean divergence; ``noise`` is (N, C).
        """
        code = self.network.encode(pictures)
        redrawn = self.network.decode(sample(*code, noise))
        return (redrawn - pictures).square().mean() + self.weight * divergence(*code).mean()

    def maps(self, squares: Tensor) -> Tensor:
        """Squares (N, 1, S, S) in [0, 1] → (N, S, S) scores."""
        pictures = signed(squares)
        redrawn: Tensor = self.network(pictures)
        errors = (pictures - redrawn).square()
        if self.score == "gradient":
            errors = errors * input_gradient(self.divergences, pictures).abs()
        return errors[:, 0]

    def divergences(self, pictures: Tensor) -> Tensor:
        """The divergence of each picture's code, in nats a dimension: (N,)."""
        return divergence(*self.network.encode(pictures)).mean(1)


def build(config: Config, setting: Setting) -> VariationalAutoencoder:
    """The network before training.

    Raises:
        RequestError: a side that the network cannot halve as often as it has channels.
    """
    check_side(config.side, NAME, len(config.channels))
    return VariationalAutoencoder(config)


def learn(module: VariationalAutoencoder, config: Config, data: TrainingSet, run: Run) -> None:
    """Train the network on the negatives' squares.

    Raises:
        GivenUp: the network is dead, or redraws no better than means.
    """
    fit_to(module, config, signed(squares(data, run, config.side)), run)


def fit_to(module: VariationalAutoencoder, config: Config, pictures: Tensor, run: Run) -> None:
    """As :func:`learn`, of squares (N, 1, S, S) in [-1, 1] on the device."""

    def noise(count: int, generator: torch.Generator) -> Tensor:
        return torch.randn(count, config.code, generator=generator)

    fit_autoencoder(run, module.network, pictures, config, NAME, loss=module.loss, chance=noise)
    with torch.inference_mode():
        note_collapse(run, *module.network.encode(pictures[:PROBED]))


METHOD = Method(
    name=NAME,
    family="reconstruction",
    paper="Kingma and Welling, Auto-encoding variational Bayes, ICLR 2014, arXiv 1312.6114",
    needs=Needs(
        "negative films, some dozens at least; no labels of lesions",
        body_parts=("chest", "breast"),
    ),
    gives=Gives(
        "image",
        "the squared error of a reconstruction (by option times the gradient of the code's "
        "divergence) at each pixel of the film, resized to a square; an image score, its mean",
        map=True,
        image=True,
    ),
    config=Config,
    build=build,
    learn=learn,
)
