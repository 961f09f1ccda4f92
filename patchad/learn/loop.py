"""The one training loop: named networks and optimisers, epochs, checkpoints that resume.

Everything random comes from one seed: epoch e draws with a generator made from (seed, e) alone, so
a training that was killed and resumed from its last whole epoch ends with the weights of one that
ran through, bit for bit on a CPU with the same number of threads.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from patchad.errors import TrainingError
from patchad.learn.checkpoint import Checkpoint, epoch_generator, state_of
from patchad.learn.run import GivenUp, Run

T = TypeVar("T")
_LOOKED_AT = 20.0  # seconds of steps that show the pace
_OF_ONE = "Expected more than 1 value per channel"  # what PyTorch's batch norm says
_EPOCH = 50  # steps at least between checkpoints, where passes over the data are shorter
_LONGEST = 5  # times as many at most, where fewer steps can be had


@dataclass(frozen=True, eq=False)
class Step:
    """One step: ``number`` counts from 0 over the whole training, ``index`` within its epoch.

    ``generator`` is the epoch's, on the CPU: only what draws may use it, since it works ahead.
    """

    number: int
    index: int
    epoch: int
    generator: torch.Generator


def train(
    run: Run,
    networks: Mapping[str, nn.Module],
    optimisers: Mapping[str, Optimizer],
    *,
    epochs: int,
    steps: int,
    draw: Callable[[Step], T],
    losses: Callable[[T, Step], Iterator[tuple[str, Tensor]]],
    rate: Callable[[int], float] | None = None,
    health: Callable[[int], str] | None = None,
    remedy: str = "",
    stage: str = "training",
) -> None:
    """Train ``networks`` in place, epoch by epoch; after each, the checkpoint is rewritten.

    Whatever stops the process, KeyboardInterrupt included, costs at most one epoch. No step waits
    for the device: losses are summed there and read once an epoch.

    Args:
        run: seed, device, checkpoint and whom to tell.
        networks: by name, on the device.
        optimisers: by name; ``losses`` says which one steps when.
        epochs: how many.
        steps: of an epoch.
        draw: makes a step's batch, on the CPU, while the device is busy with the steps before: in
            one other thread, in the order of the steps.
        losses: yields (name of an optimiser, scalar loss) in the order in which they step; each
            optimiser steps before the next loss is computed, so that a critic may take
            several steps before its generator. On CUDA it runs with bfloat16 autocast: what needs
            float32 asks for it.
        rate: the learning rate of all optimisers at a step's number; None leaves it as it is.
        health: asked after each epoch (its number): what is wrong with the networks, empty for
            nothing. A fault gives this try up.
        remedy: what a user can do about such a fault.
        stage: the name of this training in progress reports.

    Raises:
        GivenUp: ``health`` found a fault.
        TrainingError: the loss is no longer a number, the device has too little memory, or batch
            norm was given one example.
        ModelError: the checkpoint cannot be used.
        RequestError: the checkpoint is of another training.
    """
    for network in networks.values():
        network.train()
    if run.attempt:
        stage = f"{stage}, try {run.attempt + 1}"
    done = 0
    state = Checkpoint.read(run.checkpoint, run.request)
    if state and state.attempt == run.attempt and state.epoch and run.checkpoint:
        state.restore(run.checkpoint, networks, optimisers)
        done = state.epoch
        run.tell(stage, done, epochs, state.loss)
    pace = _Pace(run, (epochs - done) * steps)
    for epoch in range(done + 1, epochs + 1):
        try:
            mean = _epoch(run, optimisers, epoch, steps, draw, losses, rate, pace)
        except torch.OutOfMemoryError:
            raise TrainingError(
                f"{run.device} has too little memory for this training: lower the batch_size, or "
                "train with --device cpu"
            ) from None
        except ValueError as error:
            if _OF_ONE not in str(error):
                raise
            raise TrainingError(
                f"{stage} came to a step of one example, and batch norm needs two at least: raise "
                "the batch_size, or give more films"
            ) from None
        if not math.isfinite(mean):
            raise TrainingError(
                f"the loss became {mean} in epoch {epoch} of {stage}: lower the learning rate"
            )
        if health and (fault := health(epoch)):
            raise GivenUp(fault, remedy)
        if run.checkpoint:
            Checkpoint(
                run.request,
                run.attempt,
                tuple(run.notes),
                epoch,
                mean,
                state_of(networks, optimisers),
            ).write(run.checkpoint)
        run.tell(stage, epoch, epochs, mean)
    for network in networks.values():
        network.eval()


def _epoch(
    run: Run,
    optimisers: Mapping[str, Optimizer],
    epoch: int,
    steps: int,
    draw: Callable[[Step], T],
    losses: Callable[[T, Step], Iterator[tuple[str, Tensor]]],
    rate: Callable[[int], float] | None,
    pace: "_Pace",
) -> float:
    """One epoch; the mean over its steps of each step's last loss."""
    generator = epoch_generator(run.seed, epoch)
    plan = [Step((epoch - 1) * steps + k, k, epoch, generator) for k in range(steps)]
    total = torch.zeros((), device=run.device)
    kind = run.device.type
    with (
        _drawn_ahead(plan, draw) as drawn,
        torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True),
    ):
        for step, batch in drawn:
            if rate is not None:
                for optimiser in optimisers.values():
                    for group in optimiser.param_groups:
                        group["lr"] = rate(step.number)
            pending = losses(batch, step)
            last: Tensor | None = None
            while True:
                # bfloat16 has float32's range, so gradients need no scaling
                with torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda"):
                    found = next(pending, None)
                if found is None:
                    break
                name, last = found
                optimisers[name].zero_grad()
                last.backward()  # type: ignore[no-untyped-call]
                optimisers[name].step()
            if last is not None:
                total += last.detach()
            pace.step()
    return float(total) / max(steps, 1)


def shuffled(count: int, batch_size: int, passes: int) -> tuple[int, int, Callable[[Step], Tensor]]:
    """Batches in which each of ``count`` examples comes once a pass, in a new order each time.

    Several short passes make one epoch of the loop, so that checkpoints don't take longer than
    steps. A last batch of one example is left out, since batch norm can't work with it; batches
    of one throughout are as asked for.

    Returns:
        The epochs, the steps of an epoch, and a ``draw`` for :func:`train`: (B,) int64 on the CPU.
    """
    size = min(batch_size, count)
    each = count // size + (count % size > 1)
    together = _together(each, passes)
    order: list[Tensor] = []

    def draw(step: Step) -> Tensor:
        number = step.index % each
        if number == 0:  # steps of an epoch are drawn in their order
            order[:] = [torch.randperm(count, generator=step.generator)]
        return order[0][number * size : (number + 1) * size]

    return passes // together, together * each, draw


def _together(each: int, passes: int) -> int:
    """How many passes of ``each`` steps make an epoch: a divisor of ``passes``.

    As few as give an epoch enough steps; fewer where that would be many times as many, as with a
    prime number of passes: a training that is stopped loses its epoch.
    """
    divisors = [n for n in range(1, passes + 1) if passes % n == 0]
    enough = next((n for n in divisors if n * each >= _EPOCH), passes)
    if enough * each <= _LONGEST * _EPOCH:
        return enough
    return max((n for n in divisors if n < enough), default=enough)


class _Pace:
    """Says once how long the training will take, when its first steps have shown it."""

    def __init__(self, run: Run, steps: int) -> None:
        self.run, self.steps, self.done, self.begun = run, steps, 0, time.monotonic()
        self.told = False

    def step(self) -> None:
        """A step is done; on CUDA perhaps only asked for, which evens out within seconds."""
        self.done += 1
        took = time.monotonic() - self.begun
        if not self.told and took >= _LOOKED_AT:
            self.told = True
            self.run.expect(took / self.done * self.steps * self.run.repeats)


def equal_epochs(steps: int, most: int) -> tuple[int, int]:
    """``steps`` in epochs of one length: (epochs, steps of each), each of ``most`` at most.

    One epoch where equal ones would be shorter than a fifth of that.
    """
    each = math.gcd(steps, most)
    each = each if each * 5 >= most else steps
    return steps // each, each


def cosine(rate: float, steps: int) -> Callable[[int], float]:
    """A learning rate that falls from ``rate`` to 0 over ``steps``, for :func:`train`."""
    return lambda step: rate * (1 + math.cos(math.pi * step / steps)) / 2


@contextmanager
def _drawn_ahead(plan: list[Step], draw: Callable[[Step], T]) -> Iterator[Iterator[tuple[Step, T]]]:
    """Each step with its batch; one is drawn ahead, in a thread of its own."""
    with ThreadPoolExecutor(1, thread_name_prefix="draw") as thread:

        def pairs() -> Iterator[tuple[Step, T]]:
            coming = thread.submit(draw, plan[0]) if plan else None
            for step, following in zip_longest(plan, plan[1:]):
                assert coming is not None
                batch = coming.result()
                coming = thread.submit(draw, following) if following else None
                yield step, batch

        try:
            yield pairs()
        finally:
            thread.shutdown(cancel_futures=True)
