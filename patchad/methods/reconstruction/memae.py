"""An autoencoder whose codes are mixtures of learnt prototypes, so that it can redraw no others.

D. Gong, L. Liu, V. Le, B. Saha, M. R. Mansour, S. Venkatesh, A. van den Hengel: Memorizing
normality to detect anomaly: memory-augmented deep autoencoder for unsupervised anomaly detection.
ICCV 2019, https://arxiv.org/abs/1904.02639.

For whole films as in Cai et al. (DDAD, MICCAI 2022, https://arxiv.org/abs/2206.03935): their shared
autoencoder, 25 prototypes of the code, no shrinkage; squared error + 2e-4 × the entropy of the
weights. (The paper of 2019 has 2,000 prototypes and a shrinkage of 0.0025, for video.)
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from patchad.core.grid import PatchGrid
from patchad.learn.run import GivenUp, Run
from patchad.learn.training_set import TrainingSet
from patchad.methods.parts.autoencoding import fit_autoencoder
from patchad.methods.parts.backbone import Decoder, Encoder, check_side
from patchad.methods.parts.collapse import PROBED
from patchad.methods.parts.memory import Memory, entropy
from patchad.methods.parts.whole_film import POOLING, Over, respond, signed, square, squares
from patchad.model.method import Gives, Method, Needs, Setting
from patchad.model.options import Betas, Channels, Count, Positive, Share, Weight
from patchad.model.scoring import Response
from patchad.prepare.film import Film

NAME = "memae"

_FEWEST, _EVEN = 2, 0.98  # used slots; share of the greatest entropy: bounds of a collapse
_JUDGED_AFTER = 1000  # steps: a shorter training whose memory does little is only noted


@dataclass(frozen=True)
class Config:
    """How to train; the defaults are those of DDAD's code.

    ``slots`` of the memory, ``shrink`` is λ, ``entropy`` the weight of that loss. The others as in
    :class:`patchad.methods.reconstruction.ae.Config`.
    """

    side: Count = 64
    channels: Channels = (16, 32, 64, 64)
    hidden: Count = 2048
    code: Count = 16
    slots: Count = 25
    shrink: Share = 0.0
    entropy: Weight = 2e-4
    epochs: Count = 250
    batch_size: Count = 64
    learning_rate: Positive = 5e-4
    betas: Betas = (0.5, 0.999)
    over: Over = "square"
    restarts: Count = 3


class Network(nn.Module):
    """Encoder, memory, decoder: (N, 1, S, S) → the same shape, and the memory's weights."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        shape = config.side, config.code, config.channels, config.hidden
        self.encoder, self.decoder = Encoder(*shape), Decoder(*shape)
        self.memory = Memory(config.slots, config.code, config.shrink)

    def forward(self, squares: Tensor) -> tuple[Tensor, Tensor]:
        """The reconstructions, and the weights (N, slots)."""
        codes, weights = self.memory(self.encoder(squares))
        redrawn: Tensor = self.decoder(codes)
        return redrawn, weights


class MemoryAutoencoder(nn.Module):
    """The network; :meth:`maps` is the squared error of each pixel."""

    unit = "squared error of intensity [-1, 1]"
    pooling = POOLING

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.side, self.over, self.entropy = config.side, config.over, config.entropy
        self.network = Network(config)

    def forward(self, film: Film, grid: PatchGrid) -> Response:
        """See :class:`Response`; the image score is the mean of the map."""
        return respond(self.maps(square(film, self.side))[0], film, grid, self.over)

    def loss(self, pictures: Tensor, _: Tensor) -> Tensor:
        """Mean squared error of pictures (N, 1, S, S) in [-1, 1], and the entropy of weights."""
        redrawn, weights = self.network(pictures)
        error: Tensor = (redrawn.float() - pictures).square().mean()
        return error + self.entropy * entropy(weights)

    def redraw(self, pictures: Tensor) -> Tensor:
        """The reconstructions of pictures (N, 1, S, S) in [-1, 1]."""
        found: Tensor = self.network(pictures)[0]
        return found

    def maps(self, squares: Tensor) -> Tensor:
        """Squares (N, 1, S, S) in [0, 1] → (N, S, S) squared errors."""
        pictures = signed(squares)
        return (pictures - self.redraw(pictures)).square()[:, 0]


def build(config: Config, setting: Setting) -> MemoryAutoencoder:
    """The network before training.

    Raises:
        RequestError: a side that the network cannot halve as often as it has channels.
    """
    check_side(config.side, NAME, len(config.channels))
    return MemoryAutoencoder(config)


def learn(module: MemoryAutoencoder, config: Config, data: TrainingSet, run: Run) -> None:
    """Train the network on the negatives' squares.

    Raises:
        GivenUp: the network is dead, redraws no better than means, or doesn't use its memory.
    """
    fit_to(module, config, signed(squares(data, run, config.side)), run)


def fit_to(
    module: MemoryAutoencoder, config: Config, pictures: Tensor, run: Run, name: str = NAME
) -> None:
    """As :func:`learn`, of squares (N, 1, S, S) in [-1, 1] on the device.

    ``name`` is the method's whose options they are, for remedies.
    """
    steps = fit_autoencoder(
        run, module.network, pictures, config, name, loss=module.loss, redraw=module.redraw
    )
    with torch.inference_mode():
        _, weights = module.network.eval()(pictures[:PROBED])
    if not (fault := idle(weights)):
        return
    if steps >= _JUDGED_AFTER:
        raise GivenUp(f"the memory does little: {fault}", f"lower {name}.slots or {name}.entropy")
    run.note(f"Undertrained, after only {steps} steps: the memory does little: {fault}.")


def idle(weights: Tensor) -> str:
    """What is wrong with the weights (N, slots) of several pictures; empty for nothing."""
    slots = weights.shape[1]
    used = len(set(weights.argmax(1).tolist()))
    if len(weights) > 1 and used < min(_FEWEST, slots):
        return f"all of {len(weights)} films have the same nearest prototype"
    most = math.log(slots) if slots > 1 else math.inf
    if float(entropy(weights)) > _EVEN * most:
        return f"all {slots} prototypes weigh nearly the same, whatever the film"
    return ""


METHOD = Method(
    name=NAME,
    family="reconstruction",
    paper="Gong et al., Memorizing normality to detect anomaly: memory-augmented deep autoencoder, "
    "ICCV 2019, arXiv 1904.02639",
    needs=Needs(
        "negative films, some dozens at least; no labels of lesions",
        body_parts=("chest", "breast"),
    ),
    gives=Gives(
        "image",
        "the squared error of a reconstruction from learnt prototypes, at each pixel of the film "
        "resized to a square; an image score, its mean",
        map=True,
        image=True,
    ),
    config=Config,
    build=build,
    learn=learn,
)
