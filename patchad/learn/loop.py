"""Training in small functions: patches drawn on the device, epochs, checkpoints that resume.

Everything random comes from one seed: epoch e of a training draws its patches with a generator
made from (seed, e) alone, so a training that was killed and resumed from its last whole epoch ends
with the weights of one that ran through, bit for bit on a CPU with the same number of threads.
"""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from patchad.core.grid import batches
from patchad.errors import ModelError, RequestError, TrainingError
from patchad.files.whole import write_whole
from patchad.learn.training_set import PatchBank

Loss = Callable[[nn.Module, Tensor], Tensor]  # of a batch (N, 1, S, S): its mean, a scalar


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train, with Adam."""

    epochs: int
    patches_per_epoch: int
    batch_size: int
    learning_rate: float
    betas: tuple[float, float]

    @property
    def steps(self) -> int:
        """How many times the weights change."""
        return self.epochs * math.ceil(self.patches_per_epoch / self.batch_size)


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A training after ``epoch`` whole epochs: one safetensors file, with JSON in its header.

    ``digest`` names the configuration, data and seed that were asked for; ``attempt`` counts the
    restarts so far, and ``notes`` say why. ``loss`` is the epoch's mean.
    """

    digest: str
    attempt: int
    notes: tuple[str, ...]
    epoch: int
    loss: float
    network: dict[str, Tensor]
    optimiser: dict[str, Tensor]

    def write(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        said = {
            name: getattr(self, name) for name in ("digest", "attempt", "notes", "epoch", "loss")
        }
        parts = {"network": self.network, "optimiser": self.optimiser}
        tensors = {
            f"{part}/{name}": tensor.cpu().contiguous()
            for part, named in parts.items()
            for name, tensor in named.items()
        }
        write_whole(path, save_tensors(tensors, metadata={"training": json.dumps(said)}))

    @classmethod
    def read(cls, path: Path, digest: str) -> "Checkpoint | None":
        """Read the file; None where there is none.

        Raises:
            ModelError: it is no checkpoint.
            RequestError: it belongs to another training than ``digest`` names.
        """
        if not path.exists():
            return None
        try:
            content = path.read_bytes()  # safe_open takes no path that is not UTF-8
            header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
            said = json.loads(header["__metadata__"]["training"])
            tensors = load_tensors(content)
            parts: dict[str, dict[str, Tensor]] = {"network": {}, "optimiser": {}}
            for name, tensor in tensors.items():
                part, _, rest = name.partition("/")
                parts[part][rest] = tensor
            checkpoint = cls(
                said["digest"],
                said["attempt"],
                tuple(said["notes"]),
                said["epoch"],
                said["loss"],
                **parts,
            )
        except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
            raise ModelError(
                f"{path} is not a checkpoint of a training ({error}): delete it and "
                "train from the start"
            ) from None
        if checkpoint.digest != digest:
            raise RequestError(
                f"{path} was written by a training with another configuration, data or seed: "
                "resume with those, or start anew with --overwrite"
            )
        return checkpoint


def epoch_generator(seed: int, epoch: int) -> torch.Generator:
    """The CPU generator of an epoch; epoch 0, before training, is for initialising and probing."""
    state = np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))


def train_epochs(
    network: nn.Module,
    bank: PatchBank,
    *,
    loss: Loss,
    schedule: Schedule,
    seed: int,
    checkpoint: Path | None = None,
    digest: str = "",
    attempt: int = 0,
    notes: tuple[str, ...] = (),
) -> Iterator[tuple[int, float]]:
    """Train ``network`` in place, epoch by epoch, on patches drawn from ``bank``.

    Where ``checkpoint`` exists and is of this ``attempt``, the training goes on from there; it is
    written anew after each epoch, so that whatever stops the process, KeyboardInterrupt included,
    costs at most one epoch.

    Args:
        network: on the device of the bank.
        bank: where patches come from.
        loss: of a batch, its mean over the patches.
        schedule: epochs, batches and Adam's settings.
        seed: decides which patches are drawn.
        checkpoint: the file to resume from and write to.
        digest: names this training; a checkpoint of another is refused.
        attempt: which try this is; a checkpoint of an earlier one is ignored.
        notes: stored in the checkpoint.

    Yields:
        (epochs done, that epoch's mean loss); after resuming, first the epoch that was restored,
        so that whoever watches the training sees it again.

    Raises:
        TrainingError: the loss is no longer a number.
    """
    network.train()
    optimiser = torch.optim.Adam(network.parameters(), schedule.learning_rate, schedule.betas)
    done = 0
    state = Checkpoint.read(checkpoint, digest) if checkpoint else None
    if state is not None and state.attempt == attempt:
        done = state.epoch
        network.load_state_dict(state.network)
        load_optimiser(optimiser, state.optimiser)
        yield done, state.loss
    for epoch in range(done + 1, schedule.epochs + 1):
        mean = _run_epoch(network, optimiser, bank, loss, schedule, epoch_generator(seed, epoch))
        if not math.isfinite(mean):
            raise TrainingError(
                f"the loss became {mean} in epoch {epoch}: lower the learning rate "
                f"({schedule.learning_rate:g})"
            )
        if checkpoint:
            Checkpoint(
                digest,
                attempt,
                notes,
                epoch,
                mean,
                network.state_dict(),
                optimiser_tensors(optimiser),
            ).write(checkpoint)
        yield epoch, mean


def _run_epoch(
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    bank: PatchBank,
    loss: Loss,
    schedule: Schedule,
    generator: torch.Generator,
) -> float:
    device = bank.pixels.device
    total = torch.zeros((), device=device)  # summed there: reading it each step would stall a GPU
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
        for part in batches(schedule.patches_per_epoch, schedule.batch_size):
            count = part.stop - part.start
            patches = bank.draw(count, generator)
            # bfloat16 has float32's range, so gradients need no scaling
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                mean = loss(network, patches)
            optimiser.zero_grad()
            mean.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            total += mean.detach() * count
    return float(total) / schedule.patches_per_epoch


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Adam's state by "place/name", e.g. ``3/exp_avg``: place counts the network's parameters."""
    state = optimiser.state_dict()["state"]
    return {f"{place}/{name}": t for place, named in state.items() for name, t in named.items()}


def load_optimiser(optimiser: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put back what :func:`optimiser_tensors` took."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        place, name = key.split("/")
        state.setdefault(int(place), {})[name] = tensor
    optimiser.load_state_dict({**optimiser.state_dict(), "state": state})
