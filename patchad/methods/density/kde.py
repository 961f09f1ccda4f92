"""How rare a whole film's code is: a kernel density of the codes of an autoencoder's negatives.

The second member of ``jahan2022`` alone, on the autoencoder of ``ae``: kernels as in E. Parzen,
Ann. Math. Statist. 33, 1962, https://doi.org/10.1214/aoms/1177704472. Published tables name such a
row without its network or bandwidth. Chosen: the network and training of ``ae``, with its 16
dimensions; Gaussian kernels at the codes of the training negatives; the bandwidth under which codes
left out are likeliest.

An image's score is the negative logarithm of its code's density. A density has no map of its own:
chosen is the size of that score's gradient at each pixel, the pixels whose change would move the
film most. It is grainy, and a spot may not show in it: the image score is the method.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from patchad.core.grid import PatchGrid, batches
from patchad.learn.checkpoint import epoch_generator
from patchad.learn.run import Run
from patchad.learn.training_set import TrainingSet
from patchad.methods.parts.autoencoding import fit_autoencoder
from patchad.methods.parts.backbone import Backbone, check_side
from patchad.methods.parts.kernel_density import KernelDensity
from patchad.methods.parts.variational import input_gradient
from patchad.methods.parts.whole_film import POOLING, respond, signed, square, squares
from patchad.model.method import Gives, Method, Needs, Setting
from patchad.model.options import Betas, Channels, Count, Positive
from patchad.model.scoring import Response
from patchad.prepare.film import Film

NAME = "kde"

_AT_ONCE = 256  # films whose codes are taken together


@dataclass(frozen=True)
class Config:
    """How to train.

    ``kernels``: how many negatives' codes are kept at most. The others as in
    :class:`patchad.methods.reconstruction.ae.Config`.
    """

    side: Count = 64
    channels: Channels = (16, 32, 64, 64)
    hidden: Count = 2048
    code: Count = 16
    kernels: Count = 4096
    epochs: Count = 250
    batch_size: Count = 64
    learning_rate: Positive = 5e-4
    betas: Betas = (0.5, 0.999)
    restarts: Count = 3


class CodeDensity(nn.Module):
    """The autoencoder, and the density of its codes."""

    unit = "gradient of the code's negative log density"
    pooling = POOLING

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.side = config.side
        self.network = Backbone(config.side, config.code, config.channels, config.hidden)
        self.density = KernelDensity(config.kernels, config.code)

    def forward(self, film: Film, grid: PatchGrid) -> Response:
        """See :class:`Response`; the image score is that of :meth:`rarity`."""
        pictures = signed(square(film, self.side))
        gradient = input_gradient(self.rarity, pictures).abs()
        return respond(gradient[0, 0], film, grid, image=self.rarity(pictures)[0])

    def rarity(self, pictures: Tensor) -> Tensor:
        """Minus the log density of the codes of pictures (N, 1, S, S) in [-1, 1], in nats: (N,)."""
        found: Tensor = -self.density(self.network.encoder(pictures))
        return found

    def loss(self, pictures: Tensor, _: Tensor) -> Tensor:
        """Mean squared error of pictures (N, 1, S, S) in [-1, 1]."""
        redrawn: Tensor = self.network(pictures)
        return (redrawn.float() - pictures).square().mean()


def build(config: Config, setting: Setting) -> CodeDensity:
    """The network before training.

    Raises:
        RequestError: a side that the network cannot halve as often as it has channels.
    """
    check_side(config.side, NAME, len(config.channels))
    return CodeDensity(config)


def learn(module: CodeDensity, config: Config, data: TrainingSet, run: Run) -> None:
    """Train the network on the negatives' squares, then take their codes.

    Raises:
        GivenUp: the network is dead, redraws no better than means, or gives all films one code.
        TrainingError: fewer than two films.
    """
    pictures = signed(squares(data, run, config.side))
    fit_autoencoder(run, module.network, pictures, config, NAME, loss=module.loss)
    encoder = module.network.encoder
    with torch.inference_mode():
        codes = torch.cat([encoder(pictures[part]) for part in batches(len(pictures), _AT_ONCE)])
    module.density.learn(codes, run, epoch_generator(run.seed, 0))


METHOD = Method(
    name=NAME,
    family="density",
    paper="Parzen, On estimation of a probability density function and mode, Ann. Math. Statist. "
    "1962, doi 10.1214/aoms/1177704472; of codes as in Jahan and Hasan, 2022",
    needs=Needs(
        "negative films, some dozens at least; no labels of lesions",
        body_parts=("chest", "breast"),
    ),
    gives=Gives(
        "image",
        "an image score, how rare the code of the film is; for a map, how much each pixel of the "
        "film, resized to a square, would change that",
        map=True,
        image=True,
    ),
    config=Config,
    build=build,
    learn=learn,
)
