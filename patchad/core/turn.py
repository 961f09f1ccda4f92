"""The eight orientations of a picture: quarter turns and mirror images.

Pure geometry: axes are (row, col), origin at the top-left pixel.
"""

from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

_T = TypeVar("_T", bound=np.generic)
_A = TypeVar("_A")


@dataclass(frozen=True)
class Turn:
    """Rows and columns are exchanged if ``transposed``; then rows, columns or both are reversed."""

    transposed: bool = False
    rows: bool = False
    cols: bool = False

    def picture(self, values: NDArray[_T]) -> NDArray[_T]:
        """``values`` (H, W) turned: (H, W), or (W, H) if transposed; contiguous."""
        turned = values.T if self.transposed else values
        step = (slice(None, None, -1 if flip else 1) for flip in (self.rows, self.cols))
        return np.ascontiguousarray(turned[tuple(step)])

    def pair(self, pair: tuple[_A, _A]) -> tuple[_A, _A]:
        """A shape, spacing or other pair (row, col) as the turned picture has it."""
        return (pair[1], pair[0]) if self.transposed else pair

    def boxes(self, boxes: NDArray[Any], shape: tuple[int, int]) -> NDArray[Any]:
        """Boxes (N, 4) (row, col, height, width) of a picture of ``shape``, in the turned one."""
        row, col, height, width = boxes.T
        if self.transposed:
            row, col, height, width = col, row, width, height
        rows, cols = self.pair(shape)
        row = rows - row - height if self.rows else row
        col = cols - col - width if self.cols else col
        return np.stack([row, col, height, width], axis=1)

    def then(self, other: "Turn") -> "Turn":
        """This turn, and ``other`` after it."""
        rows, cols = other.pair((self.rows, self.cols))
        return Turn(self.transposed != other.transposed, rows != other.rows, cols != other.cols)

    @property
    def inverse(self) -> "Turn":
        """The turn that undoes this one."""
        return Turn(self.transposed, *self.pair((self.rows, self.cols)))

    @property
    def name(self) -> str:
        """Its name in tables and messages; empty if nothing is turned."""
        return _NAMES[self]

    @classmethod
    def named(cls, name: str) -> "Turn":
        """The turn of a :attr:`name`; a ValueError for any other text."""
        for turn, known in _NAMES.items():
            if known == name:
                return turn
        raise ValueError(f"{name!r} is no turn: {', '.join(filter(None, _NAMES.values()))}")


AS_STORED = Turn()
MIRRORED = Turn(cols=True)  # left and right exchanged
# Turned to the left by so many right angles, as numpy.rot90 does.
QUARTERS = (AS_STORED, Turn(True, True, False), Turn(False, True, True), Turn(True, False, True))
_WORDS = ("", "turned left by 90°", "turned by 180°", "turned right by 90°")
_NAMES = dict(zip(QUARTERS, _WORDS, strict=True)) | {
    MIRRORED.then(turn): " and ".join(filter(None, ("mirrored", word)))
    for turn, word in zip(QUARTERS, _WORDS, strict=True)
}
