"""How networks learn to outline pseudo anomalies in whole films, whatever plants them."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from patchad.core.grid import batches
from patchad.errors import TrainingError
from patchad.learn.checkpoint import epoch_generator
from patchad.learn.loop import Step, shuffled, train
from patchad.learn.run import Run
from patchad.learn.training_set import TrainingSet
from patchad.methods.parts.collapse import probing
from patchad.methods.parts.pseudo_anomalies import numpy_rng, others
from patchad.methods.parts.twins import PROBED, constant, judge_twins
from patchad.methods.parts.whole_film import foregrounds, squares
from patchad.model.method import Needs

# Where foreign patches come from. Unlabelled films are never the picture that is planted in, whose
# untouched part counts as normal: a finding in them is never labelled so.
Source = Literal["negatives", "unlabelled"]


class Training(Protocol):
    """What a configuration says of the training."""

    @property
    def epochs(self) -> int:
        """How often each picture is planted in."""
        ...

    @property
    def batch_size(self) -> int:
        """Pictures of a step."""
        ...

    @property
    def source(self) -> Source:
        """Where patches come from."""
        ...


@dataclass(frozen=True, eq=False)
class Films:
    """Films as squares, on the CPU.

    ``pixels`` (N, 1, S, S) float32 in [0, 1]; ``shown`` (N, 1, S, S) float32 is the share of
    foreground.
    """

    pixels: Tensor
    shown: Tensor


@dataclass(frozen=True, eq=False)
class Twins:
    """Pictures with and without a pseudo anomaly, and its labels: (N, 1, S, S) float32 each.

    Pictures are in the network's range, labels in [0, 1].
    """

    planted: Tensor
    untouched: Tensor
    labels: Tensor


# Which films are planted in (n,), and from which source films (n,): their twins, on the CPU.
Make = Callable[[NDArray[np.int64], NDArray[np.int64], np.random.Generator], Twins]


def needs_source(needs: Needs, config: Training) -> Needs:
    """The needs with a configuration: unlabelled films where patches come from them."""
    return replace(needs, unlabelled=config.source == "unlabelled")


def source_of(data: TrainingSet, source: Source, name: str, *, own: bool = False) -> TrainingSet:
    """The films that patches come from.

    ``own``: a picture may be its own source, so that one film is enough.

    Raises:
        TrainingError: there is no film to exchange patches with.
    """
    if source == "unlabelled":
        assert data.unlabelled is not None  # the house has refused already
        return data.unlabelled
    if len(data) < 2 and not own:
        raise TrainingError(
            f"{name} exchanges patches between films, so it needs two negatives at least; there "
            f"is {len(data)}: give more films"
        )
    return data


def films_of(data: TrainingSet, run: Run, side: int) -> Films:
    """The films of a set as squares, with their foregrounds."""
    return Films(squares(data, run, side).cpu(), foregrounds(data, run, side).cpu())


def fit_outliner(
    run: Run,
    network: nn.Module,
    make: Make,
    counts: tuple[int, int],
    config: Training,
    optimiser: torch.optim.Optimizer,
    name: str,
    *,
    own: bool = False,
    rate: Callable[[int], Callable[[int], float]] | None = None,
) -> None:
    """Train ``network`` in place by cross-entropy with the labels, each pixel the same.

    Each negative is planted in once a pass, with a source drawn anew.

    Args:
        run: of the method.
        network: pictures (N, 1, S, S) → logits of the same shape; on the run's device.
        make: plants; called in the drawing thread.
        counts: of negatives, and of sources.
        config: epochs, batch size, and where patches come from.
        optimiser: of the network.
        name: the method's, for the names of its options in remedies.
        own: a negative is its own source, where they come from negatives.
        rate: the number of all steps → the learning rate by step.

    Raises:
        GivenUp: the network answers one number to everything, or doesn't find what was planted.
        TrainingError: nothing can be planted that changes a film.
    """
    count, sources = counts
    epochs, steps, draw_which = shuffled(count, config.batch_size, config.epochs)

    def planted(which: NDArray[np.int64], generator: torch.Generator) -> Twins:
        rng = numpy_rng(generator)
        same = config.source == "negatives"
        return make(which, which if own and same else others(rng, which, sources, same=same), rng)

    def draw(step: Step) -> tuple[Tensor, Tensor]:
        twins = planted(draw_which(step).numpy(), step.generator)
        return twins.planted, twins.labels

    def losses(drawn: tuple[Tensor, Tensor], step: Step) -> Iterator[tuple[str, Tensor]]:
        pictures, labels = (part.to(run.device, non_blocking=True) for part in drawn)
        yield "adam", cross_entropy(network(pictures), labels)

    probe = planted(np.arange(min(count, PROBED)), epoch_generator(run.seed, 0))
    if not probe.labels.any():
        raise TrainingError(
            f"no patch that {name} planted changed a film ({len(probe.labels)} tries): the "
            "foregrounds are too small, or all films are alike; look at some with `patchad inspect`"
        )

    def answers(pictures: Tensor) -> Tensor:
        with probing(network), torch.inference_mode():
            parts = [pictures[part] for part in batches(len(pictures), config.batch_size)]
            return torch.cat([network(part.to(run.device)).float().sigmoid() for part in parts])

    train(
        run,
        {"network": network},
        {"adam": optimiser},
        epochs=epochs,
        steps=steps,
        draw=draw,
        losses=losses,
        rate=rate(epochs * steps) if rate else None,
        health=lambda epoch: constant(answers(probe.planted), epoch * steps),
    )
    where = (probe.labels > 0).to(run.device)
    scores = [within(answers(one), where) for one in (probe.planted, probe.untouched)]
    remedy = f"raise {name}.epochs, or lower {name}.learning_rate"
    judge_twins(run, scores[0], scores[1], epochs * steps, remedy)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean binary cross-entropy of logits with labels in [0, 1], of one shape: a scalar."""
    return functional.binary_cross_entropy_with_logits(logits.float(), labels)


def within(values: Tensor, where: Tensor) -> Tensor:
    """The mean of each map (N, 1, S, S) where ``where`` is true; maps without any are left out."""
    area = where.sum((1, 2, 3))
    means = (values * where).sum((1, 2, 3)) / area
    return means[area > 0]


def stacked(parts: Mapping[str, list[NDArray[np.float32]]]) -> Twins:
    """Twins of lists of pictures (S, S) by the names of :class:`Twins`."""
    return Twins(**{key: torch.from_numpy(np.stack(part))[:, None] for key, part in parts.items()})
