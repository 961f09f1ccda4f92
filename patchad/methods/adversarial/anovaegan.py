"""A variational autoencoder of whole films whose decoder must also deceive a critic of pictures.

C. Baur, B. Wiestler, S. Albarqouni, N. Navab: Deep autoencoding models for unsupervised anomaly
segmentation in brain MR images. BrainLes 2018, LNCS 11383:161-169,
https://doi.org/10.1007/978-3-030-11723-8_16.

As in the code released with their comparative study (Medical Image Analysis 69:101952, 2021): the
sum of absolute errors + the divergence of codes from N(0, I), for encoder and decoder; for the
decoder alone, in a step of its own, minus the critic of its reconstructions; a critic with the
Wasserstein loss and a gradient penalty of 10, 5 steps for one of the others; layer norm in decoder
and critic; Adam with 1e-4 and β 0.5, 0.9. A pixel's score is its absolute error where the code is
the mean, an image's the mean over the square.

Other than in that code: the autoencoder that published detectors of chest films share, with its
squares of 64 × 64 in [-1, 1], code of 16, batches and epochs, so that its rows compare with those
of ``vae`` (chosen; theirs sees 128 × 128 in [0, 1], with a code of 128 and a stop by validation).
The critic is that encoder with one output. The penalty's norm is over all pixels of a picture;
theirs is over rows alone. Layer norm is over channels, rows and columns, with a gain a channel.
No dropout.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from patchad.core.grid import PatchGrid
from patchad.learn.checkpoint import epoch_generator
from patchad.learn.loop import Step, shuffled, train
from patchad.learn.run import Run
from patchad.learn.training_set import TrainingSet
from patchad.methods.parts.adversarial import collapsed, critic_loss, frozen, given_up_if_lost
from patchad.methods.parts.adversarial_autoencoding import adam, watch
from patchad.methods.parts.backbone import Encoder, check_side
from patchad.methods.parts.collapse import PROBED, judge
from patchad.methods.parts.variational import Variational, divergence, note_collapse, sample
from patchad.methods.parts.whole_film import POOLING, Over, respond, signed, square, squares
from patchad.model.method import Gives, Method, Needs, Setting
from patchad.model.options import Betas, Channels, Count, Positive, Weight
from patchad.model.scoring import Response
from patchad.prepare.film import Film

NAME = "anovaegan"


@dataclass(frozen=True)
class Config:
    """How to train; rate, β, critic and weights as in the code of Baur et al., the rest as ``ae``.

    ``critic_steps`` for one of the others, ``penalty`` the weight of the gradient penalty,
    ``divergence`` that of the codes' divergence. The others as in
    :class:`patchad.methods.reconstruction.ae.Config`.
    """

    side: Count = 64
    channels: Channels = (16, 32, 64, 64)
    hidden: Count = 2048
    code: Count = 16
    critic_steps: Count = 5
    penalty: Weight = 10.0
    divergence: Weight = 1.0
    epochs: Count = 250
    batch_size: Count = 64
    learning_rate: Positive = 1e-4
    betas: Betas = (0.5, 0.9)
    over: Over = "square"
    restarts: Count = 3


class AnoVaeGan(nn.Module):
    """The networks; :meth:`maps` is the absolute error of each pixel."""

    unit = "absolute error of intensity [-1, 1]"
    pooling = POOLING

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.side, self.over = config.side, config.over
        self.network = Variational(config.side, config.code, config.channels, config.hidden)
        self.critic = Encoder(config.side, 1, config.channels, config.hidden)
        norm_by_layer(self.network.decoder)
        norm_by_layer(self.critic)

    def forward(self, film: Film, grid: PatchGrid) -> Response:
        """See :class:`Response`; the image score is the mean of the map."""
        return respond(self.maps(square(film, self.side))[0], film, grid, self.over)

    def maps(self, squares: Tensor) -> Tensor:
        """Squares (N, 1, S, S) in [0, 1] → (N, S, S) absolute errors."""
        pictures = signed(squares)
        redrawn: Tensor = self.network(pictures)
        return (pictures - redrawn).abs()[:, 0]


def norm_by_layer(network: nn.Module) -> None:
    """Replace the network's batch norms, at any depth, by layer norms."""
    for name, part in network.named_children():
        if isinstance(part, nn.BatchNorm2d):
            setattr(network, name, nn.GroupNorm(1, part.num_features))
        elif isinstance(part, nn.BatchNorm1d):
            setattr(network, name, nn.LayerNorm(part.num_features))
        else:
            norm_by_layer(part)


def variational_loss(
    pictures: Tensor, redrawn: Tensor, mean: Tensor, log_variance: Tensor, weight: float
) -> Tensor:
    """The mean over pictures of the sum of absolute errors + ``weight`` × that of divergences."""
    error = (redrawn - pictures).abs().flatten(1).sum(1)
    return (error + weight * divergence(mean, log_variance).sum(1)).mean()


def build(config: Config, setting: Setting) -> AnoVaeGan:
    """The networks before training.

    Raises:
        RequestError: a side that the network cannot halve as often as it has channels.
    """
    check_side(config.side, NAME, len(config.channels))
    return AnoVaeGan(config)


def learn(module: AnoVaeGan, config: Config, data: TrainingSet, run: Run) -> None:
    """Train autoencoder and critic on the negatives' squares.

    The order in the circle is that of the released code; the autoencoder comes last, for its loss
    is what progress shows.

    Raises:
        GivenUp: the autoencoder is dead or redraws no better than means, or the critic collapsed.
    """
    pictures = signed(squares(data, run, config.side))
    network, critic = module.network, module.critic
    probe = pictures[:PROBED]
    shares = torch.rand(len(probe), generator=epoch_generator(run.seed, 0)).to(pictures.device)
    epochs, steps, draw_which = shuffled(len(pictures), config.batch_size, config.epochs)

    def draw(step: Step) -> tuple[Tensor, Tensor, Tensor]:
        which = draw_which(step)
        noise = (config.critic_steps + 2, len(which), config.code)
        return (
            which,
            torch.randn(noise, generator=step.generator),
            torch.rand(config.critic_steps, len(which), generator=step.generator),
        )

    def losses(drawn: tuple[Tensor, ...], step: Step) -> Iterator[tuple[str, Tensor]]:
        which, noises, between = (part.to(pictures.device, non_blocking=True) for part in drawn)
        batch = pictures[which]
        with torch.no_grad():
            gaussian = network.encode(batch)
        with frozen(critic):
            redrawn = network.decode(sample(*gaussian, noises[0]))
            deceived = -critic(redrawn).float().mean()
        yield "decoder", deceived
        for noise, share in zip(noises[2:], between, strict=True):
            with torch.no_grad():
                fake = network.decode(sample(*gaussian, noise))
            yield "critic", critic_loss(critic, batch, fake, share, config.penalty)
        mean, log_variance = network.encode(batch)
        redrawn = network.decode(sample(mean, log_variance, noises[1]))
        yield (
            "autoencoder",
            variational_loss(batch, redrawn, mean, log_variance, config.divergence),
        )

    def signs() -> str:
        with torch.no_grad():
            redrawn = network(probe)
        return collapsed(probe, redrawn, critic, shares)

    longer = f"raise {NAME}.epochs or {NAME}.learning_rate"
    optimiser = adam(config)
    with given_up_if_lost(network, critic):
        train(
            run,
            {"network": network, "critic": critic},
            {
                "decoder": optimiser(network.decoder),
                "critic": optimiser(critic),
                "autoencoder": optimiser(network),
            },
            epochs=epochs,
            steps=steps,
            draw=draw,
            losses=losses,
            health=watch([network, critic], network, probe, steps, signs),
            remedy=f"lower {NAME}.learning_rate",
        )
    with torch.no_grad():
        note_collapse(run, *network.encode(probe))
    judge(run, network, probe, epochs * steps, longer, longer)


METHOD = Method(
    name=NAME,
    family="adversarial",
    paper="Baur et al., Deep autoencoding models for unsupervised anomaly segmentation in brain MR "
    "images, BrainLes 2018, doi 10.1007/978-3-030-11723-8_16",
    needs=Needs(
        "negative films, some dozens at least; no labels of lesions",
        body_parts=("chest", "breast"),
    ),
    gives=Gives(
        "image",
        "the absolute error of a reconstruction at each pixel of the film, resized to a square; an "
        "image score, its mean",
        map=True,
        image=True,
    ),
    config=Config,
    build=build,
    learn=learn,
    quick={"epochs": 40, "learning_rate": 5e-4},
)
