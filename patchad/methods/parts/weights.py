"""Weights that a user gives by path: safetensors alone, since a pickle may run code."""

from collections.abc import Mapping
from pathlib import Path

import safetensors
import torch
from safetensors.torch import load
from torch import Tensor, nn

from patchad.errors import RequestError
from patchad.files.whole import shown

_NAMED = 3  # tensors that an error lists


def read_weights(path: str, option: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file; ``option`` is the name of what has the path.

    Raises:
        RequestError: it cannot be read, or is of another format, such as a pickle of torch.
    """
    file = Path(path)
    try:
        if file.exists() and not file.is_file():  # a pipe or a device would be read for ever
            raise RequestError(f"{option}: {path} is not a file: give a safetensors file")
        return load(file.read_bytes())
    except OSError as error:
        raise RequestError(f"{option}: {path} cannot be read ({error.strerror})") from None
    except (safetensors.SafetensorError, KeyError, ValueError) as error:  # KeyError: a new dtype
        raise RequestError(
            f"{option}: {shown(path)} is not a safetensors file that can be read ({error}); "
            "weights that torch saved are pickles, which may run code: convert them by "
            "safetensors.torch.save_file(torch.load(FILE, weights_only=True), NEW_FILE)"
        ) from None


def fault_of(name: str, given: Tensor) -> str:
    """Why a tensor of a file can't be weights; empty for nothing."""
    if given.is_complex() or given.dtype == torch.bool:
        return f"{name} is of {str(given.dtype).removeprefix('torch.')}"
    return "" if bool(given.float().isfinite().all()) else f"{name} has NaN or infinity"


def put_weights(module: nn.Module, given: Mapping[str, Tensor], option: str) -> None:
    """Copy ``given`` tensors into ``module``; names that it doesn't have are left out.

    Counts of batches, which older files lack, are not asked for.

    Raises:
        RequestError: a tensor is missing, of another shape, or doesn't hold numbers.
    """
    faults, wanted = [], module.state_dict()
    for name, own in wanted.items():
        if name not in given:
            if not name.endswith("num_batches_tracked"):
                faults.append(f"{name} is missing")
        elif given[name].shape != own.shape:
            shapes = tuple(given[name].shape), tuple(own.shape)
            faults.append(f"{name} is {shapes[0]} instead of {shapes[1]}")
        elif fault := fault_of(name, given[name]):
            faults.append(fault)
    if faults:
        more = f" and {len(faults) - _NAMED} more" if len(faults) > _NAMED else ""
        raise RequestError(
            f"{option}: the file does not hold the weights of this network "
            f"({'; '.join(faults[:_NAMED])}{more})"
        )
    for name, own in wanted.items():
        if name in given:
            own.copy_(given[name])
