"""A training as it stood after an epoch: networks and optimisers by name, in one file."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn
from torch.optim import Optimizer

from patchad.errors import ModelError, RequestError
from patchad.files.whole import write_whole


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A training after ``epoch`` whole epochs: one safetensors file, with JSON in its header.

    ``request`` names the configuration, data and seed that were asked for; ``attempt`` counts the
    restarts so far, and ``notes`` say why; ``epoch`` is 0, and there are no tensors, where the next
    try is still to begin. ``loss`` is the epoch's mean. ``tensors`` are those of
    the networks (``network/NAME/…``) and optimisers (``optimiser/NAME/PLACE/…``, where PLACE counts
    its parameters).
    """

    request: str
    attempt: int
    notes: tuple[str, ...]
    epoch: int
    loss: float
    tensors: Mapping[str, Tensor]

    def write(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        names = ("request", "attempt", "notes", "epoch", "loss")
        record = json.dumps({name: getattr(self, name) for name in names})
        tensors = {name: t.detach().cpu().contiguous().clone() for name, t in self.tensors.items()}
        write_whole(path, save_tensors(tensors, metadata={"training": record}))

    @classmethod
    def read(cls, path: Path | None, request: str) -> "Checkpoint | None":
        """Read the file; None where there is none.

        Raises:
            ModelError: it is no checkpoint.
            RequestError: it belongs to another training than ``request`` names.
        """
        if path is None or not path.exists():
            return None
        try:
            content = path.read_bytes()  # safe_open takes no path that is not UTF-8
            header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
            record = json.loads(header["__metadata__"]["training"])
            found = cls(
                record["request"],
                int(record["attempt"]),
                tuple(record["notes"]),
                int(record["epoch"]),
                float(record["loss"]),
                load_tensors(content),
            )
        except (
            *(OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError),
            safetensors.SafetensorError,
        ) as error:
            raise _unusable(path, error) from None
        if found.request != request:
            raise RequestError(
                f"{path} was written by a training with another configuration, data or seed: "
                "resume with those, or start again with --overwrite"
            )
        return found

    def restore(
        self, path: Path, networks: Mapping[str, nn.Module], optimisers: Mapping[str, Optimizer]
    ) -> None:
        """Put the state back into networks and optimisers of the same names.

        Raises:
            ModelError: the file does not hold their tensors.
        """
        try:
            for name, network in networks.items():
                network.load_state_dict(self._part(f"network/{name}/"))
            for name, optimiser in optimisers.items():
                state: dict[int, dict[str, Tensor]] = {}
                for key, tensor in self._part(f"optimiser/{name}/").items():
                    place, _, what = key.partition("/")
                    state.setdefault(int(place), {})[what] = tensor
                optimiser.load_state_dict({**optimiser.state_dict(), "state": state})
        except (RuntimeError, ValueError, KeyError) as error:
            raise _unusable(path, error) from None

    def _part(self, prefix: str) -> dict[str, Tensor]:
        return {k.removeprefix(prefix): t for k, t in self.tensors.items() if k.startswith(prefix)}


def state_of(
    networks: Mapping[str, nn.Module], optimisers: Mapping[str, Optimizer]
) -> dict[str, Tensor]:
    """The tensors of a :class:`Checkpoint`."""
    found = {
        f"network/{name}/{key}": tensor
        for name, network in networks.items()
        for key, tensor in network.state_dict().items()
    }
    for name, optimiser in optimisers.items():
        for place, named in optimiser.state_dict()["state"].items():
            found |= {f"optimiser/{name}/{place}/{key}": t for key, t in named.items()}
    return found


def epoch_generator(seed: int, epoch: int) -> torch.Generator:
    """The CPU generator of an epoch; epoch 0, before training, is for initialising and probing."""
    state = np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))


def _unusable(path: Path, error: Exception) -> ModelError:
    return ModelError(
        f"{path} is not a checkpoint of this training ({error}): delete it and train from the start"
    )
