"""Which device the work runs on."""

import torch

from patchad.errors import RequestError


def choose_device(name: str) -> torch.device:
    """The device of that name; ``auto`` takes CUDA, then MPS, then the CPU.

    Raises:
        RequestError: it is not there.
    """
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        return torch.device(next(kind for kind, there in available.items() if there))
    kind = name.partition(":")[0]
    if not available.get(kind, False):
        there = ", ".join(kind for kind, here in available.items() if here)
        raise RequestError(f"--device {name} is not to be had here: take auto, {there}")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except RuntimeError as error:
        raise RequestError(f"--device {name} cannot be used: {error}") from None
    return device
