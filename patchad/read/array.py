"""Radiographs from arrays in memory."""

import numpy as np
from numpy.typing import NDArray

from patchad.core.image import Radiograph, Source
from patchad.errors import ImageError, RequestError
from patchad.read.raster import pixels_digest

NAME = "array"  # in place of a path


def radiograph_of(
    array: NDArray[np.generic],
    *,
    spacing_mm: tuple[float, float] | None = None,
    bits: int | None = None,
) -> Radiograph:
    """A radiograph of an array; the array is copied.

    Args:
        array: (H, W), brighter = denser. Of floats: in [0, 1]. Of unsigned integers: in
            [0, 2^bits - 1].
        spacing_mm: distance of pixel centres (row, col) in millimetres; None if unknown.
        bits: how many bits the values of unsigned integers have; 8 for uint8. Required for
            others, since 10, 12 and 14 bits are all stored as uint16.

    Raises:
        ImageError: the array is of another kind or shape, or a value is out of range.
        RequestError: ``bits`` or ``spacing_mm`` is invalid.
    """
    if spacing_mm is not None and not all(0 < value < float("inf") for value in spacing_mm):
        raise RequestError(f"spacing must be positive millimetres (row, col), got {spacing_mm}")
    if array.ndim != 2 or not array.size:
        raise ImageError(
            f"an array must have two axes, (rows, columns), got shape {array.shape}: take one "
            "image, and one channel of it"
        )
    if array.dtype.kind == "f":
        if bits is not None:
            raise RequestError("bits is for arrays of unsigned integers; floats lie in [0, 1]")
        top = 1.0
    elif array.dtype.kind == "u":
        top = float(2 ** _depth(array.dtype, bits) - 1)
    else:
        raise ImageError(
            f"an array must be of floats in [0, 1] or of unsigned integers, got {array.dtype}: "
            "convert it"
        )
    low, high = float(array.min()), float(array.max())
    if not (low >= 0 and high <= top):  # nor NaN
        raise ImageError(
            f"the values of an array of {array.dtype} must lie in [0, {top:g}], got "
            f"[{low:g}, {high:g}]: scale them, or give bits if they have more"
        )
    scaled = (array.astype(np.float64) / top).astype(np.float32)
    pixels = np.ascontiguousarray(scaled)
    return Radiograph(pixels, spacing_mm, Source(NAME, pixels_digest(pixels)))


def _depth(dtype: np.dtype[np.generic], bits: int | None) -> int:
    most = 8 * dtype.itemsize
    if bits is None and most == 8:
        return 8
    if bits is None:
        raise RequestError(
            f"an array of {dtype} needs bits, how many bits its values have: 10, 12, 14 or 16 "
            "of most detectors"
        )
    if not 1 <= bits <= most:
        raise RequestError(f"bits lies in 1..{most} for {dtype}, got {bits}")
    return bits
