"""An encoder-decoder-encoder of whole films: anomalous where a redrawn film has another code.

S. Akçay, A. Atapour-Abarghouei, T. P. Breckon: GANomaly: semi-supervised anomaly detection via
adversarial training. ACCV 2018, LNCS 11363:622-637, https://arxiv.org/abs/1805.06725.

As published, in the released code: networks of DCGAN with 64 channels and a code of 100, pictures
in [-1, 1]; the generator's loss is the squared difference of the discriminator's features + 50 ×
the absolute difference of pictures + the squared difference of codes; the discriminator learns by
binary cross-entropy, and starts anew when its loss falls below 1e-5; Adam with 2e-4 and β 0.5,
0.999; batches of 64, 15 epochs. The image score is the mean squared difference of the two codes;
the map, which that paper lacks, is the absolute difference of pictures (chosen).

Other than in public code: batch norm has its learnt statistics when films are scored, and no score
is scaled by the lowest and highest of the films that are judged: what a film scores hangs on that
film alone. The last epoch counts, not the best on test films. Squares are of 64 × 64 of one
channel, as in published tables of chest films. The discriminator steps first, as in their first
release; the paper leaves the order open.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from patchad.core.grid import PatchGrid
from patchad.errors import RequestError
from patchad.learn.checkpoint import epoch_generator
from patchad.learn.loop import Step, shuffled, train
from patchad.learn.run import Run
from patchad.learn.training_set import TrainingSet
from patchad.methods.parts.adversarial import collapsed, frozen, given_up_if_lost
from patchad.methods.parts.adversarial_autoencoding import adam, watch
from patchad.methods.parts.collapse import PROBED, judge
from patchad.methods.parts.whole_film import POOLING, respond, signed, square, squares
from patchad.model.method import Gives, Method, Needs, Setting
from patchad.model.options import Betas, Count, Positive, Weight
from patchad.model.scoring import Response
from patchad.prepare.film import Film

NAME = "ganomaly"

WON = 1e-5  # loss of the discriminator below which it starts anew; the code's
_AFRESH = 1_000_000  # number of the first generator for its new weights, past any epoch
_BASE = 4  # side of the smallest maps
_DEVIATION = 0.02  # of first weights; DCGAN's


@dataclass(frozen=True)
class Config:
    """How to train; the defaults are the released code's.

    ``side`` of the square in pixels; ``width`` channels at the first convolution, ``code`` their
    number at the last. ``features``, ``pixels`` and ``codes`` are the weights of the generator's
    losses. ``restarts``: how many seeds are tried before training is given up.
    """

    side: Count = 64
    width: Count = 64
    code: Count = 100
    features: Weight = 1.0
    pixels: Weight = 50.0
    codes: Weight = 1.0
    epochs: Count = 15
    batch_size: Count = 64
    learning_rate: Positive = 2e-4
    betas: Betas = (0.5, 0.999)
    restarts: Count = 3


class Encoder(nn.Module):
    """(N, 1, S, S) → codes (N, ``code``): halvings down to 4 × 4, and one convolution more."""

    def __init__(self, side: int, width: int, code: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(1, width, 4, 2, 1, bias=False), nn.LeakyReLU(0.2)]
        for _ in range(_halvings(side) - 1):
            layers += [
                nn.Conv2d(width, 2 * width, 4, 2, 1, bias=False),
                nn.BatchNorm2d(2 * width),
                nn.LeakyReLU(0.2),
            ]
            width *= 2
        self.features = nn.Sequential(*layers)
        self.last = nn.Conv2d(width, code, _BASE, bias=False)

    def forward(self, pictures: Tensor) -> Tensor:
        """The code of each picture."""
        found: Tensor = self.last(self.features(pictures)).flatten(1)
        return found


class Decoder(nn.Module):
    """Codes (N, ``code``) → (N, 1, S, S) in [-1, 1], the way back of an encoder's."""

    def __init__(self, side: int, width: int, code: int) -> None:
        super().__init__()
        wide = width * 2 ** (_halvings(side) - 1)
        layers: list[nn.Module] = [nn.ConvTranspose2d(code, wide, _BASE, bias=False)]
        while wide > width:
            layers += [
                nn.BatchNorm2d(wide),
                nn.ReLU(),
                nn.ConvTranspose2d(wide, wide // 2, 4, 2, 1, bias=False),
            ]
            wide //= 2
        self.layers = nn.Sequential(
            *layers,
            nn.BatchNorm2d(wide),
            nn.ReLU(),
            nn.ConvTranspose2d(wide, 1, 4, 2, 1, bias=False),
            nn.Tanh(),
        )

    def forward(self, codes: Tensor) -> Tensor:
        """The picture of each code."""
        found: Tensor = self.layers(codes[:, :, None, None])
        return found


class Generator(nn.Module):
    """Encoder, decoder, encoder: (N, 1, S, S) → reconstructions, their codes and the first ones."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        shape = config.side, config.width, config.code
        self.encoder, self.decoder, self.again = Encoder(*shape), Decoder(*shape), Encoder(*shape)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Reconstructions (N, 1, S, S); codes (N, C) of the pictures, and of reconstructions."""
        codes = self.encoder(pictures)
        redrawn = self.decoder(codes)
        return redrawn, codes, self.again(redrawn)


class Discriminator(nn.Module):
    """An encoder of one output: the logit that a picture is real; it counts its new starts."""

    renewed: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.network = Encoder(config.side, config.width, 1)
        self.register_buffer("renewed", torch.zeros((), dtype=torch.int64))

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (N,) and features (N, …)."""
        features: Tensor = self.network.features(pictures)
        return self.network.last(features).flatten(), features

    def logits(self, pictures: Tensor) -> Tensor:
        """The logits alone: (N,)."""
        return self(pictures)[0]  # type: ignore[no-any-return]

    def renew(self, seed: int) -> None:
        """New first weights, another time others; which they are hangs on seed and count alone."""
        initialise(self.network, epoch_generator(seed, _AFRESH + int(self.renewed)))
        self.renewed += 1


class Ganomaly(nn.Module):
    """The networks; :meth:`maps` is the absolute error of each pixel."""

    unit = "absolute error of intensity [-1, 1]; an image's, squared difference of codes"
    pooling = POOLING

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.side = config.side
        self.generator, self.discriminator = Generator(config), Discriminator(config)

    def forward(self, film: Film, grid: PatchGrid) -> Response:
        """See :class:`Response`; the image score is :func:`difference` of the codes."""
        values, scores = self.maps(square(film, self.side))
        return respond(values[0], film, grid, image=scores[0])

    def redraw(self, pictures: Tensor) -> Tensor:
        """The reconstructions of pictures (N, 1, S, S) in [-1, 1]."""
        found: Tensor = self.generator(pictures)[0]
        return found

    def maps(self, squares: Tensor) -> tuple[Tensor, Tensor]:
        """Squares (N, 1, S, S) in [0, 1] → (N, S, S) absolute errors, and image scores (N,)."""
        pictures = signed(squares)
        redrawn, codes, again = self.generator(pictures)
        return (pictures - redrawn).abs()[:, 0], difference(codes, again)


def difference(codes: Tensor, again: Tensor) -> Tensor:
    """The mean squared difference of codes (N, C), unscaled: (N,)."""
    return (codes.float() - again.float()).square().mean(1)


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Binary cross-entropy of logits (N,): the mean of that of real and of fake ones."""
    return (
        binary_cross_entropy_with_logits(real.float(), torch.ones_like(real.float()))
        + binary_cross_entropy_with_logits(fake.float(), torch.zeros_like(fake.float()))
    ) / 2


def initialise(network: nn.Module, generator: torch.Generator) -> None:
    """DCGAN's first weights: N(0, 0.02²), of batch norm N(1, 0.02²), biases 0.

    ``generator`` is on the CPU, so that every device has the same.
    """
    with torch.no_grad():
        for part in network.modules():
            if isinstance(part, (nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d)):
                mean = 1.0 if isinstance(part, nn.BatchNorm2d) else 0.0
                drawn = torch.randn(part.weight.shape, generator=generator)
                part.weight.copy_(mean + _DEVIATION * drawn)
                if part.bias is not None:
                    part.bias.zero_()


def build(config: Config, setting: Setting) -> Ganomaly:
    """The networks before training.

    Raises:
        RequestError: a side that cannot be halved down to 4.
    """
    if config.side < 2 * _BASE or config.side & (config.side - 1):
        raise RequestError(
            f"{NAME} halves its square down to {_BASE} × {_BASE}, so {NAME}.side must be a power "
            f"of two from {2 * _BASE}; got {config.side}"
        )
    module = Ganomaly(config)
    initialise(module, torch.Generator().manual_seed(torch.initial_seed()))
    return module


def learn(module: Ganomaly, config: Config, data: TrainingSet, run: Run) -> None:
    """Train generator and discriminator on the negatives' squares.

    Raises:
        GivenUp: the generator is dead, draws nearly one picture or redraws no better than means.
    """
    pictures = signed(squares(data, run, config.side))
    generator, discriminator = module.generator, module.discriminator
    probe = pictures[:PROBED]
    epochs, steps, draw_which = shuffled(len(pictures), config.batch_size, config.epochs)

    def losses(which: Tensor, step: Step) -> Iterator[tuple[str, Tensor]]:
        batch = pictures[which.to(pictures.device, non_blocking=True)]
        redrawn, codes, again = generator(batch)
        real, fake = (discriminator.logits(one) for one in (batch, redrawn.detach()))
        told = discriminator_loss(real, fake)
        yield "discriminator", told
        with frozen(discriminator):
            wanted, found = (discriminator(one)[1].float() for one in (batch, redrawn))
        yield (
            "generator",
            config.features * (found - wanted).square().mean()
            + config.pixels * (redrawn.float() - batch).abs().mean()
            + config.codes * difference(codes, again).mean(),
        )
        if bool(told.detach() < WON):  # this waits for the device; the rule needs it
            discriminator.renew(run.seed)

    def signs() -> str:
        return collapsed(probe, module.redraw(probe), discriminator.logits)

    longer = f"raise {NAME}.epochs or {NAME}.learning_rate"
    optimiser = adam(config)
    with given_up_if_lost(generator, discriminator):
        train(
            run,
            {"generator": generator, "discriminator": discriminator},
            {"discriminator": optimiser(discriminator), "generator": optimiser(generator)},
            epochs=epochs,
            steps=steps,
            draw=draw_which,
            losses=losses,
            health=watch([generator, discriminator], module.redraw, probe, steps, signs),
            remedy=f"lower {NAME}.learning_rate",
        )
    if renewed := int(discriminator.renewed):
        run.note(
            f"The discriminator won {renewed} time{'s' * (renewed > 1)} (loss below {WON:g}) and "
            "started anew, as published."
        )
    judge(run, module.redraw, probe, epochs * steps, longer, longer)


def _halvings(side: int) -> int:
    return (side // _BASE).bit_length() - 1


METHOD = Method(
    name=NAME,
    family="adversarial",
    paper="Akçay et al., GANomaly: semi-supervised anomaly detection via adversarial training, "
    "ACCV 2018, arXiv 1805.06725",
    needs=Needs(
        "negative films, some hundreds at least; no labels of lesions",
        body_parts=("chest", "breast"),
    ),
    gives=Gives(
        "image",
        "the absolute error of a reconstruction at each pixel of the film, resized to a square; an "
        "image score, how far the code of the reconstruction is from the film's",
        map=True,
        image=True,
    ),
    config=Config,
    build=build,
    learn=learn,
    quick={"width": 16, "epochs": 100},
)
