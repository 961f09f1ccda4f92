"""An autoencoder of chest films by error and by the rarity of the code: either is enough.

N. Jahan, M. A. M. Hasan: Autoencoder-based unsupervised anomaly detection for Covid-19 screening on
chest X-ray images. 2022 (venue and DOI not known to us).

As published (the figures, where text and figures differ): 128 × 128 in [0, 1]; three blocks of 3 ×
3 convolutions with batch norm, leaky ReLU and pooling, a code of 128, and back; squared error;
Adam with 1e-3, 70 epochs. A film is anomalous if its mean squared error is high or the kernel
density of its code low. A pixel's score is its squared error.

Chosen, where the paper is silent:
* one channel instead of three equal ones (``channels = 3`` has the published network), batches of
  32, leaky ReLU with a slope of 0.3 (Keras), a linear output, PyTorch's initial weights.
* the bandwidth of the density is the one under which codes left out are likeliest.
* one score: the higher of both members' ranks among negatives, so that one threshold is the
  paper's "or". 30 % of the films are kept from training for these ranks, the share that the paper
  has for validation; errors and densities of films that were trained on would rank all others too
  high. Films are drawn, not patients: a training set doesn't tell them apart.
* beyond the highest negative, ranks go on above 1 by the distance in standard deviations, as
  logarithms of an exponential tail do: so that no two ranks tie. Below the lowest likewise.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from patchad.core.grid import PatchGrid, batches
from patchad.errors import RequestError, TrainingError
from patchad.learn.checkpoint import epoch_generator
from patchad.learn.run import Run
from patchad.learn.training_set import TrainingSet
from patchad.methods.parts.autoencoding import fit_autoencoder
from patchad.methods.parts.backbone import check_side
from patchad.methods.parts.kernel_density import KernelDensity
from patchad.methods.parts.whole_film import POOLING, respond, square, squares
from patchad.model.method import Gives, Method, Needs, Setting
from patchad.model.options import Betas, Channels, Count, Positive, Share
from patchad.model.scoring import Response
from patchad.prepare.film import Film

NAME = "jahan2022"

_SLOPE = 0.3  # of Keras's leaky ReLU
_POINTS = 1001  # quantiles that are kept of a distribution
_FEWEST = 2  # films in either part: less has no spread, and batch norm can't work with it
_AT_ONCE = 64  # films that are scored together after training


@dataclass(frozen=True)
class Config:
    """How to train; the defaults are the paper's where it gives them.

    ``side`` of the square in pixels; ``channels`` of the picture; ``filters`` of the convolutions
    and the length of the ``code``. ``held_out``: the share of films kept for the ranks.
    ``kernels``: how many negatives' codes are kept at most (the paper keeps 11,041). ``restarts``:
    how many seeds are tried before training is given up.
    """

    side: Count = 128
    channels: Count = 1
    filters: Channels = (8, 16, 32)
    code: Count = 128
    held_out: Share = 0.3
    kernels: Count = 4096
    epochs: Count = 70
    batch_size: Count = 32
    learning_rate: Positive = 1e-3
    betas: Betas = (0.9, 0.999)
    restarts: Count = 3

    def __post_init__(self) -> None:
        if not 0 < self.held_out < 1:
            raise RequestError(
                f"{NAME}.held_out must lie between 0 and 1, got {self.held_out}: some films are "
                "for training, the others for ranks (the paper's is 0.3)"
            )


class Network(nn.Module):
    """The autoencoder: (N, 1, S, S) in [0, 1] → (N, ``channels``, S, S). Shapes for S = 128."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.channels, filters = config.channels, config.filters
        small = config.side >> len(filters)
        flat = filters[-1] * small**2
        down, up = pairwise((config.channels, *filters)), pairwise((filters[-1], *filters[::-1]))
        self.encoder = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(a, b, 3, padding=1), *_active(b), nn.MaxPool2d(2))
                for a, b in down
            ),
            nn.Flatten(),  # 32 channels of 16 × 16
            nn.Linear(flat, config.code),
        )
        self.decoder = nn.Sequential(
            nn.Linear(config.code, flat),
            nn.LeakyReLU(_SLOPE),
            nn.Unflatten(1, (filters[-1], small, small)),
            *(
                nn.Sequential(
                    nn.ConvTranspose2d(a, b, 3, padding=1), *_active(b), nn.Upsample(scale_factor=2)
                )
                for a, b in up
            ),
            nn.Conv2d(filters[0], config.channels, 3, padding=1),
        )

    def encode(self, pictures: Tensor) -> Tensor:
        """The codes of pictures (N, 1, S, S): (N, C) float32."""
        found: Tensor = self.encoder(pictures.expand(-1, self.channels, -1, -1))
        return found.float()

    def forward(self, pictures: Tensor) -> Tensor:
        """The reconstruction of each picture."""
        found: Tensor = self.decoder(self.encode(pictures))
        return found


class Ranks(nn.Module):
    """The empirical distribution function of a number of negatives, continued beyond them.

    ``quantiles`` (1001,) of the sample, and its standard deviation ``spread``.
    """

    quantiles: Tensor
    spread: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("quantiles", torch.linspace(0, 1, _POINTS))
        self.register_buffer("spread", torch.ones(()))

    def learn(self, sample: Tensor) -> None:
        """Take a sample (n,)."""
        sample = sample.cpu().double()  # not every device has float64
        shares = torch.linspace(0, 1, _POINTS, dtype=sample.dtype)
        self.quantiles.copy_(sample.quantile(shares).float())
        self.spread.copy_(sample.std(correction=0).clamp_min(1e-12))

    def forward(self, values: Tensor) -> Tensor:
        """The rank of each value (N,): from 0 to 1 within the sample, lower and higher beyond."""
        points, last = self.quantiles, _POINTS - 1
        low = (torch.searchsorted(points, values, right=True) - 1).clamp(0, last - 1)
        begin, end = points[low], points[low + 1]
        part = ((values - begin) / (end - begin)).clamp(0, 1)
        within = (low + torch.where(values >= end, 1.0, part)) / last
        beyond = (values - points[-1]).clamp_min(0) - (points[0] - values).clamp_min(0)
        return within + beyond / self.spread


class Jahan2022(nn.Module):
    """The network, the density of its codes, and the ranks of both members."""

    unit = "squared error of intensity [0, 1]"
    pooling = POOLING

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.side = config.side
        self.network = Network(config)
        self.density = KernelDensity(config.kernels, config.code)
        self.of_errors, self.of_rarity = Ranks(), Ranks()

    def forward(self, film: Film, grid: PatchGrid) -> Response:
        """See :class:`Response`; the image score is the higher rank of the two."""
        pictures = square(film, self.side)
        values = self.maps(pictures)
        either = torch.maximum(
            self.of_errors(values.mean((1, 2))), self.of_rarity(self.rarity(pictures))
        )
        return respond(values[0], film, grid, image=either[0])

    def loss(self, pictures: Tensor, _: Tensor) -> Tensor:
        """Mean squared error of pictures (N, 1, S, S) in [0, 1]."""
        redrawn: Tensor = self.network(pictures)
        return (redrawn.float() - pictures).square().mean()

    def maps(self, pictures: Tensor) -> Tensor:
        """Squares (N, 1, S, S) in [0, 1] → (N, S, S) squared errors, the mean over channels."""
        redrawn: Tensor = self.network(pictures)
        return (pictures - redrawn).square().mean(1)

    def rarity(self, pictures: Tensor) -> Tensor:
        """Minus the log density of the codes, in nats: (N,)."""
        found: Tensor = -self.density(self.network.encode(pictures))
        return found


def build(config: Config, setting: Setting) -> Jahan2022:
    """The network before training.

    Raises:
        RequestError: a side that the network cannot halve as often as it has filters.
    """
    check_side(config.side, NAME, len(config.filters))
    return Jahan2022(config)


def learn(module: Jahan2022, config: Config, data: TrainingSet, run: Run) -> None:
    """Train the network on some of the negatives' squares; the others give the ranks.

    Raises:
        GivenUp: the network is dead, redraws no better than means, or gives all films one code.
        TrainingError: too few films for both parts.
    """
    generator = epoch_generator(run.seed, 0)
    trained, others = split(len(data), config.held_out, generator)
    pictures = squares(data, run, config.side)
    own, held = pictures[trained.to(run.device)], pictures[others.to(run.device)]
    fit_autoencoder(run, module.network, own, config, NAME, loss=module.loss)
    with torch.inference_mode():
        codes = torch.cat(
            [module.network.encode(own[part]) for part in batches(len(own), _AT_ONCE)]
        )
        module.density.learn(codes, run, generator)
        parts = [held[part] for part in batches(len(held), _AT_ONCE)]
        module.of_errors.learn(torch.cat([module.maps(part).mean((1, 2)) for part in parts]))
        module.of_rarity.learn(torch.cat([module.rarity(part) for part in parts]))


def split(count: int, share: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Which of ``count`` films are trained on, and which ``share`` is held out: int64 each.

    Raises:
        TrainingError: too few films for both parts.
    """
    held = max(_FEWEST, round(share * count))
    if count - held < _FEWEST:
        raise TrainingError(
            f"{NAME} needs {_FEWEST} films to train on and {_FEWEST} for ranks, got {count} with "
            f"{NAME}.held_out = {share:g}: give more, or another share"
        )
    order = torch.randperm(count, generator=generator)
    return order[held:].sort().values, order[:held].sort().values


def _active(filters: int) -> tuple[nn.Module, nn.Module]:
    return nn.BatchNorm2d(filters), nn.LeakyReLU(_SLOPE)


METHOD = Method(
    name=NAME,
    family="reconstruction",
    paper="Jahan and Hasan, Autoencoder-based unsupervised anomaly detection for Covid-19 "
    "screening on chest X-ray images, 2022",
    needs=Needs(
        "negative films, some dozens at least; no labels of lesions",
        body_parts=("chest", "breast"),
    ),
    gives=Gives(
        "image",
        "the squared error of a reconstruction at each pixel of the film, resized to a square; an "
        "image score, the rank among negatives of that error or of the code's rarity, the higher",
        map=True,
        image=True,
    ),
    config=Config,
    build=build,
    learn=learn,
)
