"""The pixels of a stored picture that are not film: padding, shutters and collimators.

PS3.3 C.7.5.1.1.2 (Pixel Padding Value), C.7.6.11 (Display Shutter), C.8.7.3 (X-Ray Collimator).
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pydicom import Dataset
from pydicom.multival import MultiValue

from patchad.errors import ImageError
from patchad.read.dicom_header import number_of, value_of

# For each: the shape, the edges (left, right, upper, lower), the circle and the polygon.
# fmt: off
_COVERS = {
    "shutter": (
        "ShutterShape",
        ("ShutterLeftVerticalEdge", "ShutterRightVerticalEdge",
         "ShutterUpperHorizontalEdge", "ShutterLowerHorizontalEdge"),
        ("CenterOfCircularShutter", "RadiusOfCircularShutter"),
        "VerticesOfThePolygonalShutter",
    ),
    "collimator": (
        "CollimatorShape",
        ("CollimatorLeftVerticalEdge", "CollimatorRightVerticalEdge",
         "CollimatorUpperHorizontalEdge", "CollimatorLowerHorizontalEdge"),
        ("CenterOfCircularCollimator", "RadiusOfCircularCollimator"),
        "VerticesOfThePolygonalCollimator",
    ),
}
# fmt: on


def outside_of(
    header: Dataset, stored: NDArray[np.int32], bounds: tuple[int, int], notes: list[str]
) -> NDArray[np.bool_] | None:
    """Mask (rows, columns) bool of the pixels that are not film; None if all are.

    Args:
        header: of the file.
        stored: (rows, columns) the stored values.
        bounds: the lowest and highest value that the stored bits allow.
        notes: a note is appended for each element found, used or not.

    Raises:
        ImageError: every pixel is padding.
    """
    outside = _padding(header, stored, bounds, notes)
    if outside.all():
        raise ImageError("every pixel is padding: fetch the file again, or export another image")
    for name in _COVERS:
        try:
            covered = ~_window(header, name, (stored.shape[0], stored.shape[1]))
        except (TypeError, ValueError):
            notes.append(f"{name}: not used, its numbers are missing or damaged")
            continue
        if (covered | outside).all():
            notes.append(f"{name}: not used, it leaves nothing of the image")
        elif covered.any():
            notes.append(f"{name}: {covered.mean():.1%} of the image left out")
            outside |= covered
    return outside if outside.any() else None


def _padding(
    header: Dataset, stored: NDArray[np.int32], bounds: tuple[int, int], notes: list[str]
) -> NDArray[np.bool_]:
    """The pixels from Pixel Padding Value to its range limit."""
    value = number_of(header, "PixelPaddingValue")
    limit = number_of(header, "PixelPaddingRangeLimit", value)
    ends = []
    for end in (value, limit):
        # it is signed if the pixels are, which not every writer respects
        shifts = (0, -(2**16), 2**16)
        ends += [end + s for s in shifts if bounds[0] <= end + s <= bounds[1]][:1]
    if len(ends) < 2:
        if "PixelPaddingValue" in header:
            notes.append("padding: not used, its value is outside of the stored bits")
        return np.zeros(stored.shape, bool)
    found: NDArray[np.bool_] = (stored >= min(ends)) & (stored <= max(ends))
    if found.any():
        notes.append(f"padding: {found.mean():.1%} of the image left out")
    return found


def _window(header: Dataset, name: str, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Mask (rows, columns) bool of the area that a shutter or a collimator leaves open.

    Coordinates are (row, column), the first pixel is 1; several shapes are intersected.
    """
    kind, edges, circle, polygon = _COVERS[name]
    window = np.ones(shape, bool)
    for found in _several(header, kind):
        match str(found).strip().upper():
            case "RECTANGULAR":
                left, right, upper, lower = (_finite(_several(header, e)[0]) for e in edges)
                if right < left or lower < upper:
                    raise ValueError("edges cross")
                rows, columns = np.arange(1, shape[0] + 1), np.arange(1, shape[1] + 1)
                window &= ((rows >= upper) & (rows <= lower))[:, None]
                window &= (columns >= left) & (columns <= right)
            case "CIRCULAR":
                row, column = map(_finite, _several(header, circle[0]))
                radius = _finite(_several(header, circle[1])[0])
                reach = radius**2 - (np.arange(1, shape[0] + 1) - row) ** 2
                half = np.where(reach < 0, -1, np.sqrt(np.maximum(reach, 0)))
                window &= np.abs(np.arange(1, shape[1] + 1) - column) <= half[:, None]
            case "POLYGONAL":
                corners = [_finite(number) - 1 for number in _several(header, polygon)]
                if len(corners) < 6 or len(corners) % 2:
                    raise ValueError("a polygon has at least three corners")
                picture = Image.new("1", (shape[1], shape[0]))
                points = list(zip(corners[1::2], corners[::2], strict=True))
                ImageDraw.Draw(picture).polygon(points, fill=1)
                window &= np.asarray(picture)
            case _:
                raise ValueError("the shape is unknown")
    return window


def _several(header: Dataset, keyword: str) -> list[Any]:
    value = value_of(header, keyword)
    if value is None or value == "":
        if keyword in header or not keyword.endswith("Shape"):
            raise ValueError("empty")
        return []
    return list(value) if isinstance(value, MultiValue | list) else [value]


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number) or abs(number) > 2**20:
        raise ValueError("no place in an image")
    return number
