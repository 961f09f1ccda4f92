"""An autoencoder of two levels whose codes come from learnt sets, so that it can redraw no others.

A. Razavi, A. van den Oord, O. Vinyals: Generating diverse high-fidelity images with VQ-VAE-2.
NeurIPS 2019, https://arxiv.org/abs/1906.00446. As a detector it is a row in J. Tan, B. Hou, T. Day,
J. Simpson, D. Rueckert, B. Kainz: Detecting outliers with Poisson image interpolation. MICCAI 2021,
https://arxiv.org/abs/2107.02622.

As in the public implementation: squares of 256 × 256 in [-1, 1]; codes at a quarter of the side,
and at an eighth; 128 channels, two residual blocks of 32; 512 codes of 64 at each level, moving
averages of 0.99; squared error + 0.25 × the distance from the codes; Adam with 3e-4; batches of
128; 560 epochs.

How Tan et al. scored it is not known here: a pixel's score is its squared error, an image's the
mean over the square. Other than published, codes start at vectors of the first step, and those
that are hardly in use start again from vectors of each step: without that, 2 to 8 of 512 were in
use after 150 steps on chest films.
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
from patchad.methods.parts.quantiser import Quantiser, perplexity
from patchad.methods.parts.whole_film import POOLING, Over, respond, signed, square, squares
from patchad.model.method import Gives, Method, Needs, Setting
from patchad.model.options import Betas, Count, Positive, Share, Weight
from patchad.model.scoring import Response
from patchad.prepare.film import Film

NAME = "vqvae2"

_HALVINGS = 3
_FEWEST = 4  # perplexity of the codes, below which the card notes it


@dataclass(frozen=True)
class Config:
    """How to train; the defaults are those of the public implementation.

    ``side`` of the square in pixels. ``channels`` of the convolutions; ``blocks`` residual blocks
    of ``block_channels``. ``codes`` of each level and their ``length``; ``decay`` of their moving
    averages; ``commitment`` is β, the weight of the distance from the codes. ``over``: which
    pixels make the image score. ``restarts``: how many seeds are tried.
    """

    side: Count = 256
    channels: Count = 128
    blocks: Count = 2
    block_channels: Count = 32
    codes: Count = 512
    length: Count = 64
    decay: Share = 0.99
    commitment: Weight = 0.25
    epochs: Count = 560
    batch_size: Count = 128
    learning_rate: Positive = 3e-4
    betas: Betas = (0.9, 0.999)
    over: Over = "square"
    restarts: Count = 3


class Residual(nn.Module):
    """(N, C, H, W) → the same shape, plus what a 3 × 3 and a 1 × 1 convolution add."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.added = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(channels, inner, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(inner, channels, 1),
        )

    def forward(self, values: Tensor) -> Tensor:
        """The sum."""
        added: Tensor = self.added(values)
        return values + added


class Network(nn.Module):
    """Squares (N, 1, S, S) → their reconstructions, and how far vectors are from their codes."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        wide, length = config.channels, config.length
        half = max(wide // 2, 1)
        self.count = config.codes
        self.below = nn.Sequential(  # S / 4
            nn.Conv2d(1, half, 4, 2, 1),
            nn.ReLU(),
            nn.Conv2d(half, wide, 4, 2, 1),
            nn.ReLU(),
            nn.Conv2d(wide, wide, 3, padding=1),
            *_blocks(config),
        )
        self.above = nn.Sequential(  # S / 8
            nn.Conv2d(wide, half, 4, 2, 1),
            nn.ReLU(),
            nn.Conv2d(half, wide, 3, padding=1),
            *_blocks(config),
            nn.Conv2d(wide, length, 1),
        )
        self.coarse = Quantiser(config.codes, length, config.decay)
        self.down = nn.Sequential(
            nn.Conv2d(length, wide, 3, padding=1),
            *_blocks(config),
            nn.ConvTranspose2d(wide, length, 4, 2, 1),
        )
        self.join = nn.Conv2d(length + wide, length, 1)
        self.fine = Quantiser(config.codes, length, config.decay)
        self.enlarge = nn.ConvTranspose2d(length, length, 4, 2, 1)
        self.decoder = nn.Sequential(
            nn.Conv2d(2 * length, wide, 3, padding=1),
            *_blocks(config),
            nn.ConvTranspose2d(wide, half, 4, 2, 1),
            nn.ReLU(),
            nn.ConvTranspose2d(half, 1, 4, 2, 1),
        )

    def forward(self, pictures: Tensor, chance: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The reconstructions (N, 1, S, S), and the distances of both levels, a scalar.

        ``chance`` (2, codes) in training: see :class:`Quantiser`.
        """
        shares = (None, None) if chance is None else chance
        below = self.below(pictures)
        coarse, first = self.coarse(self.above(below), shares[0])
        fine, second = self.fine(self.join(torch.cat([self.down(coarse), below], 1)), shares[1])
        redrawn: Tensor = self.decoder(torch.cat([self.enlarge(coarse), fine], 1))
        return redrawn, first + second

    def chosen(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """The numbers of the codes: (N, S/8, S/8) and (N, S/4, S/4) int64."""
        below = self.below(pictures)
        above = self.above(below)
        joined = torch.cat([self.down(self.coarse(above)[0]), below], 1)
        return self.coarse.nearest(above), self.fine.nearest(self.join(joined))


class QuantisedAutoencoder(nn.Module):
    """The network; :meth:`maps` is the squared error of each pixel."""

    unit = "squared error of intensity [-1, 1]"
    pooling = POOLING

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.side, self.over, self.commitment = config.side, config.over, config.commitment
        self.network = Network(config)

    def forward(self, film: Film, grid: PatchGrid) -> Response:
        """See :class:`Response`; the image score is the mean of the map."""
        return respond(self.maps(square(film, self.side))[0], film, grid, self.over)

    def loss(self, pictures: Tensor, chance: Tensor) -> Tensor:
        """Mean squared error of pictures (N, 1, S, S) in [-1, 1], and β × the distances."""
        redrawn, apart = self.network(pictures, chance)
        error: Tensor = (redrawn.float() - pictures).square().mean() + self.commitment * apart
        return error

    def redraw(self, pictures: Tensor) -> Tensor:
        """The reconstructions of pictures (N, 1, S, S) in [-1, 1]."""
        found: Tensor = self.network(pictures)[0]
        return found

    def maps(self, squares: Tensor) -> Tensor:
        """Squares (N, 1, S, S) in [0, 1] → (N, S, S) squared errors."""
        pictures = signed(squares)
        return (pictures - self.redraw(pictures)).square()[:, 0]


def build(config: Config, setting: Setting) -> QuantisedAutoencoder:
    """The network before training.

    Raises:
        RequestError: a side that the network cannot halve three times.
    """
    check_side(config.side, NAME, _HALVINGS)
    return QuantisedAutoencoder(config)


def learn(module: QuantisedAutoencoder, config: Config, data: TrainingSet, run: Run) -> None:
    """Train the network on the negatives' squares.

    Raises:
        GivenUp: the network is dead, or redraws no better than means.
    """
    pictures = signed(squares(data, run, config.side))

    def chance(count: int, generator: torch.Generator) -> Tensor:
        return torch.rand(2, config.codes, generator=generator)

    fit_autoencoder(
        run,
        module.network,
        pictures,
        config,
        NAME,
        loss=module.loss,
        redraw=module.redraw,
        chance=chance,
    )
    with torch.inference_mode():
        levels = module.network.eval().chosen(pictures[:PROBED])
    for level, which in zip(("coarse", "fine"), levels, strict=True):
        used = float(perplexity(which, config.codes))
        if used < min(_FEWEST, config.codes):
            run.note(
                f"Of the {config.codes} codes of the {level} level hardly any are in use "
                f"(perplexity {used:.1f})."
            )


def _blocks(config: Config) -> list[nn.Module]:
    """The residual blocks, and the unit after them."""
    blocks = (Residual(config.channels, config.block_channels) for _ in range(config.blocks))
    return [*blocks, nn.ReLU()]


METHOD = Method(
    name=NAME,
    family="reconstruction",
    paper="Razavi et al., Generating diverse high-fidelity images with VQ-VAE-2, NeurIPS 2019, "
    "arXiv 1906.00446",
    needs=Needs(
        "negative films, some dozens at least; no labels of lesions",
        body_parts=("chest", "breast"),
    ),
    gives=Gives(
        "image",
        "the squared error of a reconstruction from learnt codes, at each pixel of the film "
        "resized to a square; an image score, its mean",
        map=True,
        image=True,
    ),
    config=Config,
    build=build,
    learn=learn,
    quick={"side": 64, "epochs": 24, "batch_size": 8, "learning_rate": 1e-3},
)
