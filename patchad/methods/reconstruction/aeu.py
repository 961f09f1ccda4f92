"""An autoencoder that also says how uncertain each pixel is, and discounts errors by that.

Y. Mao, F.-F. Xue, R. Wang, J. Zhang, W.-S. Zheng, H. Liu: Abnormality detection in chest X-ray
images using uncertainty prediction autoencoders. MICCAI 2020, LNCS 12266:529-538.
https://doi.org/10.1007/978-3-030-59725-2_51

As published: squares of 64 × 64 in [-1, 1]; the network gives a mean μ and s = log σ² for each
pixel; the loss is the mean of e^(-s) (x - μ)² + s, the score e^(-s) (x - μ)². Adam with 5e-4 and
β 0.5, 0.999; batches of 64, 250 epochs, no augmentation.

Other than published, s is kept within ± 10: where a background is constant the loss has no lower
bound. The card says where more than 1 % of foreground pixels end there.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from patchad.core.grid import PatchGrid
from patchad.learn.run import Run
from patchad.learn.training_set import TrainingSet
from patchad.methods.parts.autoencoding import fit_autoencoder
from patchad.methods.parts.backbone import Backbone, check_side
from patchad.methods.parts.collapse import PROBED
from patchad.methods.parts.whole_film import (
    POOLING,
    Over,
    foregrounds,
    respond,
    signed,
    square,
    squares,
)
from patchad.model.method import Gives, Method, Needs, Setting
from patchad.model.options import Betas, Channels, Count, Positive
from patchad.model.scoring import Response
from patchad.prepare.film import Film

NAME = "aeu"

CLAMP = 10.0  # of s
_AT_CLAMP = 0.01  # share of foreground pixels there, from which on the card notes it


@dataclass(frozen=True)
class Config:
    """How to train; the defaults are the paper's.

    All as in :class:`patchad.methods.reconstruction.ae.Config`.
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


class UncertainAutoencoder(nn.Module):
    """The network; :meth:`maps` is the squared error of each pixel over its variance."""

    unit = "squared error over the predicted variance"
    pooling = POOLING

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.side, self.over = config.side, config.over
        self.network = Backbone(config.side, config.code, config.channels, config.hidden, 2)

    def forward(self, film: Film, grid: PatchGrid) -> Response:
        """See :class:`Response`; the image score is the mean of the map."""
        return respond(self.maps(square(film, self.side))[0], film, grid, self.over)

    def predict(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures in [-1, 1] → (μ, s), both (N, 1, S, S) float32."""
        mean, s = self.network(pictures).float().chunk(2, dim=1)
        return mean, s.clamp(-CLAMP, CLAMP)

    def redraw(self, pictures: Tensor) -> Tensor:
        """The reconstructions μ of pictures (N, 1, S, S) in [-1, 1]."""
        return self.predict(pictures)[0]

    def loss(self, pictures: Tensor, _: Tensor) -> Tensor:
        """The mean of :func:`discounted` errors and of s."""
        mean, s = self.predict(pictures)
        return discounted(pictures - mean, s).mean() + s.mean()

    def maps(self, squares: Tensor) -> Tensor:
        """Squares (N, 1, S, S) in [0, 1] → (N, S, S) discounted errors."""
        pictures = signed(squares)
        mean, s = self.predict(pictures)
        return discounted(pictures - mean, s)[:, 0]


def discounted(errors: Tensor, s: Tensor) -> Tensor:
    """e^(-s) · error², element by element."""
    return (-s).exp() * errors.square()


def build(config: Config, setting: Setting) -> UncertainAutoencoder:
    """The network before training.

    Raises:
        RequestError: a side that the network cannot halve as often as it has channels.
    """
    check_side(config.side, NAME, len(config.channels))
    return UncertainAutoencoder(config)


def learn(module: UncertainAutoencoder, config: Config, data: TrainingSet, run: Run) -> None:
    """Train the network on the negatives' squares.

    Raises:
        GivenUp: the network is dead, or redraws no better than means.
    """
    pictures = signed(squares(data, run, config.side))
    fit_to(module, config, pictures, run)
    note_certainty(module, pictures, data, run)


def fit_to(
    module: UncertainAutoencoder, config: Config, pictures: Tensor, run: Run, name: str = NAME
) -> None:
    """As :func:`learn`, of squares (N, 1, S, S) in [-1, 1] on the device.

    ``name`` is the method's whose options they are, for remedies.
    """
    fit_autoencoder(
        run, module.network, pictures, config, name, loss=module.loss, redraw=module.redraw
    )


def note_certainty(
    module: UncertainAutoencoder, pictures: Tensor, data: TrainingSet, run: Run
) -> None:
    """Note where s is at its bound in more than 1 % of the foreground of ``pictures`` of data."""
    inside = foregrounds(data, run, module.side, PROBED) >= 0.5
    with torch.inference_mode():
        _, s = module.predict(pictures[:PROBED])
    share = float((s.abs() >= CLAMP)[inside].float().mean())
    if share > _AT_CLAMP:
        run.note(
            f"{share:.0%} of foreground pixels are as certain as is allowed (s at ± {CLAMP:g}): "
            "their scores are extreme where a film differs at all."
        )


METHOD = Method(
    name=NAME,
    family="reconstruction",
    paper="Mao et al., Abnormality detection in chest X-ray images using uncertainty prediction "
    "autoencoders, MICCAI 2020, doi 10.1007/978-3-030-59725-2_51",
    needs=Needs(
        "negative films, some dozens at least; no labels of lesions",
        body_parts=("chest", "breast"),
    ),
    gives=Gives(
        "image",
        "the squared error of a reconstruction over its predicted variance, at each pixel of the "
        "film resized to a square; an image score, its mean",
        map=True,
        image=True,
    ),
    config=Config,
    build=build,
    learn=learn,
)
