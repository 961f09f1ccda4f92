"""Autoencoders of whole films whose codes a critic holds to a normal distribution, and their loop.

The critic is a small dense network that tells codes from draws of N(0, I), by the Wasserstein loss
with a gradient penalty.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor, nn

from patchad.core.grid import PatchGrid
from patchad.learn.checkpoint import epoch_generator
from patchad.learn.loop import Step, shuffled, train
from patchad.learn.run import Run
from patchad.methods.parts.adversarial import (
    Critic,
    collapsed,
    critic_loss,
    frozen,
    given_up_if_lost,
)
from patchad.methods.parts.autoencoding import Training
from patchad.methods.parts.backbone import Backbone
from patchad.methods.parts.collapse import PROBED, Redraw, is_dead, judge, probing
from patchad.methods.parts.whole_film import POOLING, Over, respond, signed, square
from patchad.model.scoring import Response
from patchad.prepare.film import Film

_SETTLED = 300  # steps before which an adversary's figures mean nothing


class Adversarial(Training, Protocol):
    """What a configuration says of the training."""

    @property
    def code(self) -> int:
        """The length of a code."""
        ...

    @property
    def critic_steps(self) -> int:
        """Of the critic, for one of the autoencoder."""
        ...

    @property
    def penalty(self) -> float:
        """The weight of the gradient penalty."""
        ...


class AdversarialAutoencoder(nn.Module):
    """The shared autoencoder and its codes' critic; :meth:`maps` is each pixel's squared error."""

    unit = "squared error of intensity [-1, 1]"
    pooling = POOLING

    def __init__(self, network: Backbone, critic: nn.Module, side: int, over: Over) -> None:
        super().__init__()
        self.network, self.critic = network, critic
        self.side, self.over = side, over

    def forward(self, film: Film, grid: PatchGrid) -> Response:
        """See :class:`Response`; the image score is the mean of the map."""
        return respond(self.maps(square(film, self.side))[0], film, grid, self.over)

    def maps(self, squares: Tensor) -> Tensor:
        """Squares (N, 1, S, S) in [0, 1] → (N, S, S) squared errors."""
        pictures = signed(squares)
        redrawn: Tensor = self.network(pictures)
        return (pictures - redrawn).square()[:, 0]


def code_critic(code: int, hidden: tuple[int, ...]) -> nn.Module:
    """Codes (N, ``code``) → values (N, 1): dense layers, LeakyReLU with TensorFlow's slope."""
    sizes = (code, *hidden)
    inner = [nn.Sequential(nn.Linear(a, b), nn.LeakyReLU(0.2)) for a, b in pairwise(sizes)]
    return nn.Sequential(*inner, nn.Linear(sizes[-1], 1))


def prior_loss(
    critic: Critic, codes: Tensor, normal: Tensor, share: Tensor, penalty: float
) -> Tensor:
    """The critic's loss, with draws of the prior for real and codes for fake: a scalar."""
    return critic_loss(critic, normal, codes, share, penalty)


def fit_to_normal(
    run: Run,
    module: AdversarialAutoencoder,
    pictures: Tensor,
    config: Adversarial,
    name: str,
    loss: Callable[[Tensor], Tensor],
) -> None:
    """Train the autoencoder with ``loss`` of a batch, and its codes to be normal.

    A step is some of the critic's with one batch, always against new draws; then one of the encoder
    against the critic, then one of the whole autoencoder. (Public code goes through the same circle
    from another place; here the autoencoder comes last, for its loss is what progress shows.)

    Raises:
        GivenUp: the autoencoder is dead or redraws no better than means, or codes or critic
            collapsed.
    """
    network, critic, penalty = module.network, module.critic, config.penalty
    probe = pictures[:PROBED]
    first = epoch_generator(run.seed, 0)
    normal = torch.randn(len(probe), config.code, generator=first).to(pictures.device)
    shares = torch.rand(len(probe), generator=first).to(pictures.device)
    epochs, steps, draw_which = shuffled(len(pictures), config.batch_size, config.epochs)

    def draw(step: Step) -> tuple[Tensor, Tensor, Tensor]:
        which = draw_which(step)
        size = config.critic_steps, len(which)
        return (
            which,
            torch.randn(*size, config.code, generator=step.generator),
            torch.rand(size, generator=step.generator),
        )

    def losses(drawn: tuple[Tensor, ...], step: Step) -> Iterator[tuple[str, Tensor]]:
        which, priors, between = (part.to(pictures.device, non_blocking=True) for part in drawn)
        batch = pictures[which]
        with torch.no_grad():
            codes = network.encoder(batch)
        for prior, share in zip(priors, between, strict=True):
            yield "critic", prior_loss(critic, codes, prior, share, penalty)
        with frozen(critic):
            deceived = -critic(network.encoder(batch)).float().mean()
        yield "encoder", deceived
        yield "autoencoder", loss(batch)

    def signs() -> str:
        with torch.no_grad():
            codes = network.encoder(probe)
        found = collapsed(normal, codes, critic, shares)
        return f"codes against the prior: {found}" if found else ""

    longer = f"raise {name}.epochs or {name}.learning_rate"
    optimiser = adam(config)
    with given_up_if_lost(network, critic):
        train(
            run,
            {"network": network, "critic": critic},
            {
                "critic": optimiser(critic),
                "encoder": optimiser(network.encoder),
                "autoencoder": optimiser(network),
            },
            epochs=epochs,
            steps=steps,
            draw=draw,
            losses=losses,
            health=watch([network, critic], network, probe, steps, signs),
            remedy=f"lower {name}.learning_rate",
        )
    judge(run, network, probe, epochs * steps, longer, longer)


def adam(config: Training) -> Callable[[nn.Module], torch.optim.Optimizer]:
    """Adam with the rate and β of a configuration, for the networks of one training."""
    return lambda network: torch.optim.Adam(
        network.parameters(), config.learning_rate, config.betas
    )


def watch(
    networks: list[nn.Module],
    redraw: Redraw,
    probe: Tensor,
    steps: int,
    signs: Callable[[], str],
) -> Callable[[int], str]:
    """A health check for the loop, with all in eval mode: dead, or ``signs`` of a collapse.

    The first of ``networks`` is the one that ``redraw`` uses. Signs are asked for only after 300
    steps: see :func:`patchad.methods.parts.adversarial.collapsed`.
    """
    weights = next(networks[0].parameters())

    def check(epoch: int) -> str:
        with probing(*networks):
            if is_dead(redraw, weights, probe):
                return f"dead after epoch {epoch}: it redraws every film as the same picture"
            found = signs() if epoch * steps >= _SETTLED else ""
        return f"collapsed after epoch {epoch}: {found}" if found else ""

    return check
