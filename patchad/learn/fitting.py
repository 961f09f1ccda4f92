"""Fits a method to negatives: build, learn, and start again with another seed where it must."""

import logging
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import nn

from patchad.errors import RequestError, TrainingError
from patchad.learn.checkpoint import Checkpoint, epoch_generator
from patchad.learn.run import GivenUp, Run, digest
from patchad.learn.training_set import TrainingSet
from patchad.model.method import Method, Setting

SEED_STEP = 1_000_000  # between the seeds of restarts, away from the 0, 1, 2 of a study
_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Fitted:
    """A fitted module, in eval mode and without gradients; the seed of the try that succeeded."""

    module: nn.Module
    seed: int

    @property
    def unit(self) -> str:
        """The unit of its scores."""
        return str(self.module.unit)

    @property
    def pooling(self) -> str:
        """How a patch score is pooled from the map, in words; empty if there is no map."""
        return str(self.module.pooling)


def build(method: Method, config: Any, setting: Setting, seed: int) -> nn.Module:
    """The module before training, on the CPU; ``seed`` decides its weights.

    Raises:
        RequestError: the setting doesn't suit the method.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(epoch_generator(seed, 0).initial_seed())
        return method.build(config, setting)


def fit(method: Method, config: Any, data: TrainingSet, run: Run) -> Fitted:
    """Fit a method to negatives; resumes from ``run.checkpoint``, which stays.

    A try that gives itself up is noted, and training starts again with seed + 1,000,000, then
    + 2,000,000 …, as often as the configuration's ``restarts`` says.

    Raises:
        RequestError: the method needs what the data lacks; a checkpoint of another training.
        TrainingError: no try gave a usable module.
        ImageError: a training image lacks what the method needs.
    """
    require(method, config, data)
    run = replace(run, request=digest([run.request, method.name, asdict(config)]))
    state = Checkpoint.read(run.checkpoint, run.request)
    first, notes = (state.attempt, [*state.notes]) if state else (0, [*run.notes])
    tries: int = getattr(config, "restarts", 1)
    remedies: list[str] = []
    for attempt in range(first, tries):
        own = replace(run, attempt=attempt, seed=run.seed + attempt * SEED_STEP, notes=notes)
        module = build(method, config, run.setting, own.seed).to(run.device)
        try:
            method.learn(module, config, data, own)
        except GivenUp as fault:
            own.note(f"Try {attempt + 1} of {tries}, seed {own.seed}, was given up; {fault}.")
            remedies += [fault.remedy] if fault.remedy not in remedies else []
            if run.checkpoint and attempt + 1 < tries:  # so that it isn't tried again on resuming
                start = Checkpoint(run.request, attempt + 1, tuple(notes), 0, 0.0, {})
                start.write(run.checkpoint)
            continue
        run.notes[:] = notes
        return Fitted(module.eval().requires_grad_(False), own.seed)
    advice = ", or ".join(filter(None, remedies)) or "look at the training films, or give more"
    raise TrainingError(
        f"no try gave a usable network. {' '.join(notes)} {advice[:1].upper()}{advice[1:]}."
    )


def require(method: Method, config: Any, data: TrainingSet) -> None:
    """Refuse data that lack what a method needs.

    Raises:
        RequestError: names what is missing, and the column that gives it.
    """
    needs = method.needs_with(config)
    if needs.unlabelled and data.unlabelled is None:
        raise RequestError(
            f"{method.name} learns from unlabelled films too, and there are none: give a manifest "
            "whose column split has rows of unlabelled"
        )
