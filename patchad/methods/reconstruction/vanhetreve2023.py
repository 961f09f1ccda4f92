"""A small autoencoder of 28 × 28 pictures; an image is anomalous if its error is unusual.

S. van het Reve: anomaly detection in medical images with a convolutional autoencoder. 40th Twente
Student Conference on IT, 2023 (a student's paper, without a DOI).

As published: 28 × 28 in [0, 1]; convolutions, max pooling and upsampling; binary cross-entropy;
Adam, batches of 60, 25 epochs. An image is flagged where its error leaves the mean ± 2 standard
deviations of the training errors, on either side. So its score is |error - mean| / deviation, and
the paper's threshold 2; about 5 % of normal images are beyond it by construction.

Chosen, where the paper is silent: the layers, after the tutorial of Keras that it seems to follow
(https://blog.keras.io/building-autoencoders-in-keras.html), with weights drawn as Keras draws them;
a learning rate of 1e-3. The map is each pixel's cross-entropy. That is high at middle grey even
where the reconstruction is right, and low at white and black: a bright lesion can lower it. The
quick training takes more epochs than the paper's, for as many steps on a hundred films.

For the tables of the paper its images are as small as that. A whole film has lost any small lesion
at 28 × 28.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from patchad.core.grid import PatchGrid, batches
from patchad.learn.run import Run
from patchad.learn.training_set import TrainingSet
from patchad.methods.parts.autoencoding import fit_autoencoder
from patchad.methods.parts.whole_film import POOLING, respond, square, squares
from patchad.model.method import Gives, Method, Needs, Setting
from patchad.model.options import Betas, Count, Positive
from patchad.model.scoring import Response
from patchad.prepare.film import Film

NAME = "vanhetreve2023"

SIDE = 28  # the network has no other
_AT_ONCE = 1024  # pictures that are scored together after training


@dataclass(frozen=True)
class Config:
    """How to train; the defaults are the paper's, but for the learning rate, which it lacks.

    ``restarts``: how many seeds are tried before training is given up.
    """

    epochs: Count = 25
    batch_size: Count = 60
    learning_rate: Positive = 1e-3
    betas: Betas = (0.9, 0.999)
    restarts: Count = 3


class Network(nn.Module):
    """The autoencoder: (N, 1, 28, 28) in [0, 1] → the logits of its reconstruction."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *_convolution(1, 16),
            nn.MaxPool2d(2),  # 14 × 14 × 16
            *_convolution(16, 8),
            nn.MaxPool2d(2),  # 7 × 7 × 8
            *_convolution(8, 8),
            nn.MaxPool2d(2, ceil_mode=True),  # 4 × 4 × 8, the code
            *_convolution(8, 8),
            nn.Upsample(scale_factor=2),
            *_convolution(8, 8),
            nn.Upsample(scale_factor=2),  # 16 × 16 × 8
            *_convolution(8, 16, padding=0),
            nn.Upsample(scale_factor=2),  # 28 × 28 × 16
            nn.Conv2d(16, 1, 3, padding=1),
        )
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d):
                nn.init.xavier_uniform_(layer.weight)
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)

    def forward(self, pictures: Tensor) -> Tensor:
        """Logits (N, 1, 28, 28) float32."""
        found: Tensor = self.layers(pictures).float()
        return found


class VanHetReve2023(nn.Module):
    """The network; ``mean`` and ``deviation`` are those of the training errors."""

    unit = "cross-entropy of intensity [0, 1]"
    pooling = POOLING
    mean: Tensor
    deviation: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.network = Network()
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("deviation", torch.ones(()))

    def forward(self, film: Film, grid: PatchGrid) -> Response:
        """See :class:`Response`; the image score is how unusual the mean of the map is."""
        values = self.maps(square(film, SIDE))
        score = unusual(values.mean((1, 2)), self.mean, self.deviation)
        return respond(values[0], film, grid, image=score[0])

    def redraw(self, pictures: Tensor) -> Tensor:
        """The reconstructions of pictures (N, 1, 28, 28) in [0, 1]."""
        found: Tensor = self.network(pictures)
        return found.sigmoid()

    def loss(self, pictures: Tensor, _: Tensor) -> Tensor:
        """Mean binary cross-entropy of pictures (N, 1, 28, 28) in [0, 1]."""
        return F.binary_cross_entropy_with_logits(self.network(pictures), pictures)

    def maps(self, pictures: Tensor) -> Tensor:
        """Squares (N, 1, 28, 28) in [0, 1] → (N, 28, 28) cross-entropies in nats."""
        logits = self.network(pictures)
        return F.binary_cross_entropy_with_logits(logits, pictures, reduction="none")[:, 0]


def unusual(errors: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """How many deviations errors (N,) are away from the mean, to either side."""
    return (errors - mean).abs() / deviation


def build(config: Config, setting: Setting) -> VanHetReve2023:
    """The network before training."""
    return VanHetReve2023()


def learn(module: VanHetReve2023, config: Config, data: TrainingSet, run: Run) -> None:
    """Train the network on the negatives' squares, then take their errors.

    Raises:
        GivenUp: the network is dead, or redraws no better than means.
    """
    pictures = squares(data, run, SIDE)
    fit_autoencoder(
        run, module.network, pictures, config, NAME, loss=module.loss, redraw=module.redraw
    )
    with torch.inference_mode():
        each = batches(len(pictures), _AT_ONCE)
        errors = torch.cat([module.maps(pictures[part]).mean((1, 2)) for part in each])
    errors = errors.cpu().double()  # not every device has float64
    module.mean.copy_(errors.mean())
    module.deviation.copy_(errors.std(correction=0).clamp_min(1e-12))  # of one film it is 0


def _convolution(before: int, after: int, padding: int = 1) -> tuple[nn.Module, nn.Module]:
    return nn.Conv2d(before, after, 3, padding=padding), nn.ReLU()


METHOD = Method(
    name=NAME,
    family="reconstruction",
    paper="van het Reve, 40th Twente Student Conference on IT, 2023",
    needs=Needs(
        "negative images, some hundreds at least; no labels of lesions",
        body_parts=("chest", "breast"),
    ),
    gives=Gives(
        "image",
        "the cross-entropy of a reconstruction at each pixel of the image, resized to 28 × 28; an "
        "image score, how far its mean is from that of training images, to either side",
        map=True,
        image=True,
    ),
    config=Config,
    build=build,
    learn=learn,
    quick={"epochs": 500},
)
