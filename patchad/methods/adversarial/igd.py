"""An autoencoder of whole films with a Gaussian of normal codes, smoothed by a mixing critic.

Y. Chen, Y. Tian, G. Pang, G. Carneiro: Deep one-class classification via interpolated Gaussian
descriptor. AAAI 2022, 36:383-392, https://arxiv.org/abs/2101.10043.

As published, in the released code: the loss of encoder and decoder is 0.85 × (1 - multi-scale
structural similarity) + 0.15 × the absolute error, + 1 - e^(-‖z - c‖²/σ), + 0.1 × the squared
answer of a critic to pictures of mixed codes; the mixture of a code has a share α from U(0, 0.5) of
itself, the rest of another's. The critic learns to tell α, and 0 for a reconstruction that is moved
a fifth towards its picture. c is the mean code, pushed 0.1 away from 0, σ the mean squared distance
to it, 1 at least; both are found anew every 10 epochs. Adam with β 0, 0.9 and a rate that falls
from 1e-4 by a polynomial of power 0.9; batches of 16, 256 epochs, codes of 128. The image score is
half the error (structural and absolute), half the Gaussian's. Networks are the residual ones of
that code for small pictures, with 64 channels.

Other than published: the encoder starts from nothing, for theirs was trained on ImageNet and no
weights are downloaded; all of it learns. Squares of 64 × 64 in [-1, 1], one scale of films, as in
published tables of chest films, and three levels of similarity: the third has 16 pixels, a fourth
would be smaller than its window. The decoder ends in tanh, as pictures are bounded. The absolute
error is absolute when films are scored too (in their code for small pictures it isn't, so that dark
and bright errors cancel). Batch norm is in training mode while it trains, also where c and σ are
found (theirs stays in eval mode after the first time, by an accident): where the two modes differ,
c is not the middle of the codes that the loss sees. c is found before σ each time. The critic steps
first, since the last loss is what progress shows. The map, of one scale, is 0.85 × (1 - structural
similarity) + 0.15 × the absolute error at each pixel (chosen).

The loss jumps whenever σ is found anew, until σ stays at 1: with σ the mean squared distance, the
Gaussian's part of the loss is about 0.6 again, however near the codes have come.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from patchad.core.grid import PatchGrid
from patchad.errors import RequestError
from patchad.learn.loop import Step, shuffled, train
from patchad.learn.run import Run
from patchad.learn.training_set import TrainingSet
from patchad.methods.parts.adversarial import collapsed, frozen, given_up_if_lost, spread
from patchad.methods.parts.adversarial_autoencoding import adam, watch
from patchad.methods.parts.collapse import PROBED, judge
from patchad.methods.parts.losses import most_levels, ms_ssim, ssim_map
from patchad.methods.parts.residual_networks import Critic, Encoder, Generator
from patchad.methods.parts.whole_film import POOLING, respond, signed, square, squares
from patchad.model.method import Gives, Method, Needs, Setting
from patchad.model.options import Betas, Count, Positive, Share, Weight
from patchad.model.scoring import Response
from patchad.prepare.film import Film

NAME = "igd"

SPAN = 2.0  # of intensities in [-1, 1]
_PUSHED = 0.1  # of the centre's coordinates from 0; the code's
_NARROWEST = 1.0  # σ; the code's
_MOVED = 0.2  # of a reconstruction towards its picture; the code's
_POWER = 0.9  # of the falling rate; the code's
_ALIKE = 1e-4  # spread of codes: a bound of a collapse, as for other methods with a centre
_FAR = 0.99  # mean of the Gaussian's score from which on it tells films apart no more; chosen


@dataclass(frozen=True)
class Config:
    """How to train; the defaults are the released code's, but for side and levels.

    ``side`` of the square in pixels; ``width`` channels of the first layer, ``code`` the length of
    codes; ``levels`` of the structural similarity, whose weight against the absolute error is
    ``similarity``. ``mixing`` is the weight of the critic's answer in the autoencoder's loss,
    ``gaussian`` the Gaussian's share in the image score. Centre and σ are found anew every
    ``refresh`` epochs. ``restarts``: how many seeds are tried before training is given up.
    """

    side: Count = 64
    width: Count = 64
    code: Count = 128
    levels: Count = 3
    similarity: Share = 0.85
    mixing: Weight = 0.1
    gaussian: Share = 0.5
    refresh: Count = 10
    epochs: Count = 256
    batch_size: Count = 16
    learning_rate: Positive = 1e-4
    betas: Betas = (0.0, 0.9)
    restarts: Count = 3


class Describer(nn.Module):
    """Encoder and decoder, with the Gaussian of normal codes: ``centre`` (C,) and ``sigma``."""

    centre: Tensor
    sigma: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.encoder = Encoder(config.side, config.width, config.code, bounded=False)
        self.decoder = Generator(config.side, config.width, config.code)
        self.register_buffer("centre", torch.zeros(config.code))
        self.register_buffer("sigma", torch.ones(()))

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Reconstructions (N, 1, S, S) and codes (N, C) of pictures in [-1, 1], float32."""
        codes = self.encoder(pictures).float()
        return self.decoder(codes).float(), codes

    def describe(self, pictures: Tensor, batch_size: int) -> None:
        """Find centre and σ of the pictures' codes, in batches and in the mode of the network."""
        with torch.no_grad():
            codes = torch.cat(
                [self.encoder(some).float() for some in torch.split(pictures, batch_size)]
            )
            self.centre.copy_(centre_of(codes))
            self.sigma.copy_(width_of(codes, self.centre))


class InterpolatedGaussian(nn.Module):
    """The networks; :meth:`maps` is the error of each pixel."""

    unit = "structural and absolute error; an image's, with the Gaussian's distance of its code"
    pooling = POOLING

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config, self.side = config, config.side
        self.network = Describer(config)
        self.critic = Critic(config.side, config.width)

    def forward(self, film: Film, grid: PatchGrid) -> Response:
        """See :class:`Response`; the image score is as published."""
        values, scores = self.maps(square(film, self.side))
        return respond(values[0], film, grid, image=scores[0])

    def redraw(self, pictures: Tensor) -> Tensor:
        """The reconstructions of pictures (N, 1, S, S) in [-1, 1]."""
        found: Tensor = self.network(pictures)[0]
        return found

    def mixed(self, pictures: Tensor) -> Tensor:
        """The critic's answers (N, 1) in (0, 1): α."""
        found: Tensor = self.critic(pictures).float().sigmoid()
        return found

    def maps(self, squares: Tensor) -> tuple[Tensor, Tensor]:
        """Squares (N, 1, S, S) in [0, 1] → (N, S, S) errors, and image scores (N,)."""
        pictures, config = signed(squares), self.config
        redrawn, codes = self.network(pictures)
        away = gaussian_distance(codes, self.network.centre, self.network.sigma)
        error = picture_error(pictures, redrawn, config.similarity, config.levels)
        return (
            pixel_error(pictures, redrawn, config.similarity)[:, 0],
            (1 - config.gaussian) * error + config.gaussian * away,
        )


def picture_error(pictures: Tensor, redrawn: Tensor, similarity: float, levels: int) -> Tensor:
    """``similarity`` × (1 - MS-SSIM) + the rest × the mean absolute error over the span: (N,)."""
    structural = 1 - ms_ssim(pictures, redrawn, levels, SPAN)
    absolute = (pictures - redrawn).abs().flatten(1).mean(1) / SPAN
    return similarity * structural + (1 - similarity) * absolute


def pixel_error(pictures: Tensor, redrawn: Tensor, similarity: float) -> Tensor:
    """As :func:`picture_error`, at one scale and each pixel: (N, 1, S, S)."""
    structural = 1 - ssim_map(pictures, redrawn, SPAN)
    return similarity * structural + (1 - similarity) * (pictures - redrawn).abs() / SPAN


def gaussian_distance(codes: Tensor, centre: Tensor, sigma: Tensor) -> Tensor:
    """1 - e^(-‖z - c‖²/σ) of codes (N, C): (N,) in [0, 1)."""
    return 1 - (-(codes - centre).square().sum(1) / sigma).exp()


def centre_of(codes: Tensor) -> Tensor:
    """The mean of codes (N, C), each coordinate 0.1 away from 0 at least: (C,).

    A coordinate of 0 could be met by weights of 0.
    """
    mean = codes.mean(0)
    return torch.where(mean < 0, mean.clamp_max(-_PUSHED), mean.clamp_min(_PUSHED))


def width_of(codes: Tensor, centre: Tensor) -> Tensor:
    """σ: the mean squared distance of codes (N, C) from the centre, 1 at least: a scalar."""
    return (codes - centre).square().sum(1).mean().clamp_min(_NARROWEST)


def mixture(codes: Tensor, shares: Tensor) -> Tensor:
    """Each code (N, C) mixed with that at the same place from the end; ``shares`` (N, 1) of it."""
    return shares * codes + (1 - shares) * codes.flip(0)


def critic_loss(answers: Tensor, shares: Tensor, answers_near: Tensor) -> Tensor:
    """Mean squared errors of the shares told of mixtures, and of 0 near pictures: a scalar."""
    return (answers - shares).square().mean() + answers_near.square().mean()


def build(config: Config, setting: Setting) -> InterpolatedGaussian:
    """The networks before training.

    Raises:
        RequestError: a side that cannot be halved down to 4, or has no room for the levels.
    """
    if config.side < 16 or config.side & (config.side - 1):
        raise RequestError(
            f"{NAME} halves its square down to 4 × 4, so {NAME}.side must be a power of two from "
            f"16; got {config.side}"
        )
    if config.levels > (most := most_levels(config.side)):
        raise RequestError(
            f"squares of {config.side} pixels have room for {most} levels of similarity, not for "
            f"{config.levels}: lower {NAME}.levels or raise {NAME}.side"
        )
    return InterpolatedGaussian(config)


def learn(module: InterpolatedGaussian, config: Config, data: TrainingSet, run: Run) -> None:
    """Train autoencoder and critic on the negatives' squares.

    Raises:
        GivenUp: the autoencoder is dead or redraws no better than means, or all codes are one.
    """
    pictures = signed(squares(data, run, config.side))
    network, critic = module.network, module.critic
    probe = pictures[:PROBED]
    epochs, steps, draw_which = shuffled(len(pictures), config.batch_size, config.epochs)
    total = epochs * steps
    between = config.refresh * (total // config.epochs)

    def draw(step: Step) -> tuple[Tensor, Tensor]:
        which = draw_which(step)
        return which, torch.rand(len(which), 1, generator=step.generator) / 2

    def losses(drawn: tuple[Tensor, ...], step: Step) -> Iterator[tuple[str, Tensor]]:
        if step.number % between == 0:
            network.describe(pictures, config.batch_size)
        which, shares = (part.to(pictures.device, non_blocking=True) for part in drawn)
        batch = pictures[which]
        with torch.no_grad():
            redrawn, codes = network(batch)
            mixed = network.decoder(mixture(codes, shares))
            near = redrawn + _MOVED * (batch - redrawn)
        yield "critic", critic_loss(module.mixed(mixed), shares, module.mixed(near))
        redrawn, codes = network(batch)
        with frozen(critic):
            told = module.mixed(network.decoder(mixture(codes, shares)))
        yield (
            "autoencoder",
            picture_error(batch, redrawn, config.similarity, config.levels).mean()
            + gaussian_distance(codes, network.centre, network.sigma).mean()
            + config.mixing * told.square().mean(),
        )

    def signs() -> str:
        with torch.no_grad():
            redrawn, codes = network(probe)
        if float(spread(codes)) < _ALIKE:
            return f"all films have one code, within {_ALIKE:g}"
        return collapsed(probe, redrawn, critic)

    longer = f"raise {NAME}.epochs or {NAME}.learning_rate"
    optimiser = adam(config)
    with given_up_if_lost(network, critic):
        train(
            run,
            {"network": network, "critic": critic},
            {"critic": optimiser(critic), "autoencoder": optimiser(network)},
            epochs=epochs,
            steps=steps,
            draw=draw,
            losses=losses,
            rate=lambda step: config.learning_rate * (1 - step / total) ** _POWER,
            health=watch([network, critic], module.redraw, probe, steps, signs),
            remedy=f"lower {NAME}.learning_rate",
        )
    with torch.no_grad():
        away = gaussian_distance(network(probe)[1], network.centre, network.sigma)
    if (far := float(away.mean())) > _FAR:
        run.note(
            f"The codes of training films lie far from their Gaussian (mean distance {far:.3f} of "
            "1 at most): its half of the image score hardly tells films apart."
        )
    judge(run, module.redraw, probe, total, longer, longer)


METHOD = Method(
    name=NAME,
    family="adversarial",
    paper="Chen et al., Deep one-class classification via interpolated Gaussian descriptor, AAAI "
    "2022, arXiv 2101.10043",
    needs=Needs(
        "negative films, some dozens at least; no labels of lesions",
        body_parts=("chest", "breast"),
    ),
    gives=Gives(
        "image",
        "the structural and absolute error of a reconstruction at each pixel of the film, resized "
        "to a square; an image score, half that over several scales, half the distance of its code "
        "from normal ones",
        map=True,
        image=True,
    ),
    config=Config,
    build=build,
    learn=learn,
    quick={"width": 8, "epochs": 20, "batch_size": 4, "learning_rate": 1e-3},
)
