"""How the autoencoders of whole films are trained: one loop, whatever their loss."""

from collections.abc import Callable, Iterator
from typing import Protocol

import torch
from torch import Tensor, nn

from patchad.learn.loop import Step, shuffled, train
from patchad.learn.run import Run
from patchad.methods.parts.collapse import PROBED, Redraw, is_dead, judge, probing


class Training(Protocol):
    """What a configuration says of the training."""

    @property
    def epochs(self) -> int:
        """How often each picture is seen."""
        ...

    @property
    def batch_size(self) -> int:
        """Pictures of a step."""
        ...

    @property
    def learning_rate(self) -> float:
        """Of Adam."""
        ...

    @property
    def betas(self) -> tuple[float, float]:
        """Of Adam."""
        ...


def fit_autoencoder(
    run: Run,
    network: nn.Module,
    pictures: Tensor,
    config: Training,
    name: str,
    *,
    loss: Callable[[Tensor, Tensor], Tensor],
    redraw: Redraw | None = None,
    chance: Callable[[int, torch.Generator], Tensor] | None = None,
    health: Callable[[], str] | None = None,
) -> int:
    """Train ``network`` in place with Adam, by passes over the pictures; returns the steps.

    Args:
        run: of the method.
        network: on the run's device.
        pictures: (N, 1, S, S) float32 on the device, in the network's range.
        config: epochs, batch size, learning rate and β.
        name: the method's, for the names of its options in remedies.
        loss: (batch, chance) → the scalar loss in float32.
        redraw: pictures → their reconstructions; None for ``network`` itself.
        chance: (batch size, generator) → what is random in a step, drawn on the CPU: noise, masks.
        health: asked after each epoch, in eval mode: what else is wrong, empty for nothing.

    Raises:
        GivenUp: the network is dead, or redraws no better than each picture's mean, or ``health``
            found a fault.
    """
    redrawn = redraw or network
    first = next(network.parameters())
    probe = pictures[:PROBED]
    epochs, steps, draw_which = shuffled(len(pictures), config.batch_size, config.epochs)

    def draw(step: Step) -> tuple[Tensor, Tensor]:
        which = draw_which(step)
        return which, chance(len(which), step.generator) if chance else which

    def losses(drawn: tuple[Tensor, Tensor], step: Step) -> Iterator[tuple[str, Tensor]]:
        which, random = (part.to(pictures.device, non_blocking=True) for part in drawn)
        yield "adam", loss(pictures[which], random)

    def check(epoch: int) -> str:
        with probing(network):
            if is_dead(redrawn, first, probe):
                return f"dead after epoch {epoch}: it redraws every film as the same picture"
            return health() if health else ""

    train(
        run,
        {"network": network},
        {"adam": torch.optim.Adam(network.parameters(), config.learning_rate, config.betas)},
        epochs=epochs,
        steps=steps,
        draw=draw,
        losses=losses,
        health=check,
        remedy=f"lower {name}.learning_rate, or give more films",
    )
    longer = f"raise {name}.epochs or {name}.learning_rate"
    judge(run, redrawn, probe, epochs * steps, longer, longer)
    return epochs * steps
