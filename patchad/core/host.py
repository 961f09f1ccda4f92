"""Transfers from the device to the host."""

from typing import Any

from numpy.typing import NDArray
from torch import Tensor


def to_host(*tensors: Tensor) -> tuple[NDArray[Any], ...]:
    """The contents of ``tensors`` as arrays of the same shapes; floats become float32.

    Waits for the device, so call it once per image, with all of its tensors. Tensors on the CPU
    are not copied unless their dtype changes.
    """
    plain = (t.detach().float() if t.is_floating_point() else t.detach() for t in tensors)
    return tuple(tensor.cpu().numpy() for tensor in plain)
