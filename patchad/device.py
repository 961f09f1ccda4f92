"""Which device the work runs on."""

import ctypes
import sys

import torch

from patchad.errors import RequestError


def choose_device(name: str) -> torch.device:
    """The device of that name; ``auto`` takes CUDA, then MPS, then the CPU.

    Raises:
        RequestError: it is not available.
    """
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        name = next(kind for kind, there in available.items() if there)
    kind = name.partition(":")[0]
    if not available.get(kind, False):
        there = ", ".join(kind for kind, here in available.items() if here)
        raise RequestError(f"--device {name} is not available on this machine: take auto, {there}")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except RuntimeError as error:
        raise RequestError(f"--device {name} cannot be used: {error}") from None
    if kind == "cpu":
        _keep_freed_memory()
    return device


def _keep_freed_memory() -> None:
    """Let glibc keep large blocks for the next step instead of giving them back to the system.

    Allocating them again, page by page, was half of the CPU time of a training step. On other
    systems this does nothing.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:  # musl lacks it
            mmap_threshold, trim_threshold = -3, -1  # as in malloc.h
            mallopt(mmap_threshold, 2**30)
            mallopt(trim_threshold, 2**31 - 1)
