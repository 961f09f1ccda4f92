"""The way from the device to the host."""

from typing import Any

from numpy.typing import NDArray
from torch import Tensor


def to_host(*tensors: Tensor) -> tuple[NDArray[Any], ...]:
    """What ``tensors`` hold, as arrays of the same shapes: floats as float32, the rest as it is.

    It waits for the device. Call it once an image, with all that the image gave. What is on the
    CPU already is not copied if its dtype can stay.
    """
    plain = (t.detach().float() if t.is_floating_point() else t.detach() for t in tensors)
    return tuple(tensor.cpu().numpy() for tensor in plain)
