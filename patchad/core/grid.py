"""Where the patches of an image lie, and how their scores are stitched back into a picture.

Pure geometry on numpy arrays: axes are (row, col), in pixels, origin at the top-left pixel.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from patchad.core.turn import AS_STORED, Turn
from patchad.errors import RequestError

Weighting = Literal["mean", "gaussian", "hann"]


@dataclass(frozen=True)
class PatchGrid:
    """Square patches that cover an image of ``shape`` (rows, columns).

    Neighbours lie ``stride`` pixels apart; the last row and column of patches are shifted inward
    so that they end with the image. Nothing is padded, unless the image is smaller than a patch.
    ``turn`` is how the original picture, on which the grid was laid out, was turned into this one:
    rows or columns are then counted from the other end. In an image smaller than a patch, corners
    may lie above row 0 or left of column 0.
    """

    shape: tuple[int, int]
    size: int = 128
    stride: int = 128
    turn: Turn = AS_STORED

    def __post_init__(self) -> None:
        if min(self.shape) < 1:
            raise ValueError(f"an image needs at least one pixel a side, got shape {self.shape}")
        if not 1 <= self.stride <= self.size:
            raise ValueError(
                f"the stride must lie in 1..{self.size} (the patch size), or pixels between "
                f"patches would never be scored; got {self.stride}"
            )

    @cached_property
    def corners(self) -> NDArray[np.int64]:
        """Top-left pixel of each patch: (N, 2) int64 (row, col), in reading order."""
        rows, cols = (
            length - self.size - starts[::-1] if reverse else starts
            for length, starts, reverse in zip(
                self.shape, self._starts, self._reversed, strict=True
            )
        )
        grid = np.stack(np.meshgrid(rows, cols, indexing="ij"), axis=-1).reshape(-1, 2)
        grid.flags.writeable = False
        return grid

    def __len__(self) -> int:
        return len(self.corners)

    def boxes(self, shape: tuple[int, int] | None = None) -> NDArray[np.float64]:
        """Each patch as (row, col, height, width) in the frame of ``shape``; default: its own.

        Returns (N, 4) float64, in pixel edges: an image of H rows reaches from 0 to H.
        """
        edges = np.hstack([self._begins, self._ends - self._begins]).astype(np.float64)
        if shape is not None:
            edges *= np.tile(np.divide(shape, self.shape), 2)
        return edges

    def turned(self, turn: Turn) -> "PatchGrid":
        """The same patches in the picture turned by ``turn``, in reading order."""
        return replace(self, shape=turn.pair(self.shape), turn=self.turn.then(turn))

    def turn_values(self, values: NDArray[np.float32], turn: Turn) -> NDArray[np.float32]:
        """One value a patch (N,), in the order of the patches of ``turned(turn)``."""
        return turn.picture(values.reshape(*map(len, self._starts))).ravel()

    @cached_property
    def _starts(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The first (row, col) of each line of patches, counted from where the grid begins."""
        rows, cols = (_starts(length, self.size, self.stride) for length in self.shape)
        return rows, cols

    @property
    def _reversed(self) -> tuple[bool, bool]:
        """Whether (rows, cols) are counted from the other end."""
        return self.turn.rows, self.turn.cols

    @cached_property
    def _begins(self) -> NDArray[np.int64]:
        """The first pixel of each patch that lies inside the image: (N, 2) (row, col)."""
        return np.maximum(self.corners, 0)

    @cached_property
    def _ends(self) -> NDArray[np.int64]:
        """One past the last pixel of each patch that lies inside the image: (N, 2) (row, col)."""
        return np.minimum(self.corners + self.size, self.shape)


def window_profile(size: int, weighting: Weighting) -> NDArray[np.float64]:
    """The weights of a patch along one side: (size,) float64, all positive.

    At a pixel of the patch, the weights of its row and its column are multiplied. ``gaussian`` has
    its standard deviation at a quarter of the patch; ``hann`` is sampled at pixel centres, so that
    it doesn't reach zero at the border.
    """
    centres = (np.arange(size) + 0.5) / size
    match weighting:
        case "mean":
            return np.ones(size)
        case "gaussian":
            return np.asarray(np.exp(-0.5 * ((centres - 0.5) / 0.25) ** 2))
        case "hann":
            return np.asarray(np.sin(np.pi * centres) ** 2)
        case _:
            raise ValueError(f"weighting is mean, gaussian or hann, not {weighting!r}")


def check_stride(stride: int, patch_size: int) -> None:
    """Refuse a stride that leaves gaps.

    Raises:
        RequestError: it is larger than a patch, or less than 1.
    """
    if not 1 <= stride <= patch_size:
        raise RequestError(
            f"--stride lies in 1..{patch_size} (the model's patch size), got {stride}"
        )


def batches(count: int, size: int) -> Iterator[slice]:
    """Slices of at most ``size`` that cover ``range(count)``."""
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


def _starts(length: int, size: int, stride: int) -> NDArray[np.int64]:
    last = max(length - size, 0)
    return np.append(np.arange(0, last, stride, dtype=np.int64), last)
