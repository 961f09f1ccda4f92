"""Whole films held once, from which patches are cut on the device."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from patchad.core.arrays import integral
from patchad.errors import RequestError, TrainingError


@dataclass(frozen=True, eq=False)
class PatchBank:
    """Whole prepared images, held once, and where patches may be drawn in them.

    ``pixels`` (P,) int16: all images behind one another, row by row, [0, 1] mapped to the whole
    range (``torch.uint16`` can't be indexed on every device). ``starts`` (K,) int64: the position
    in ``pixels`` of each corner (a patch's top-left pixel); ``widths`` (K,) int64: the row length
    of its image. ``shapes`` are the images' (H, W).
    """

    size: int
    pixels: Tensor
    starts: Tensor
    widths: Tensor
    shapes: tuple[tuple[int, int], ...]

    @classmethod
    def of(
        cls,
        images: Iterable[tuple[NDArray[np.float32], NDArray[np.int64]]],
        size: int,
    ) -> "PatchBank":
        """Take in each image's pixels (H, W) float32 in [0, 1] and corners (K, 2) int (row, col).

        An image smaller than a patch has its edge repeated below and to the right, as
        :meth:`patchad.core.grid.PatchGrid.cut` does. Images without corners are left out.

        Raises:
            RequestError: there is no corner at all.
        """
        parts: list[Tensor] = []
        starts: list[NDArray[np.int64]] = []
        widths: list[NDArray[np.int64]] = []
        shapes: list[tuple[int, int]] = []
        end = 0
        for pixels, corners in images:
            if len(corners) == 0:
                continue
            last = np.maximum(np.subtract(pixels.shape, size), 0)
            if corners.min() < 0 or (corners > last).any():
                raise ValueError(
                    f"corners must lie in (0, 0)..{tuple(last.tolist())} for an image "
                    f"of {pixels.shape} and patches of {size}"
                )
            short = [max(size - length, 0) for length in pixels.shape]
            whole = np.pad(pixels, [(0, n) for n in short], mode="edge")
            parts.append(_to_int16(whole))
            starts.append(end + corners[:, 0].astype(np.int64) * whole.shape[1] + corners[:, 1])
            widths.append(np.full(len(corners), whole.shape[1], np.int64))
            shapes.append(whole.shape)
            end += whole.size
        if not parts:
            raise RequestError(
                "no training image holds a patch with enough foreground: lower "
                "min_foreground, or look at the foreground with `patchad inspect`"
            )
        flat = torch.empty(end, dtype=torch.int16)
        while parts:  # from the end, letting go of each: the images are never in memory twice
            part = parts.pop()
            flat[end - part.numel() : end] = part
            end -= part.numel()
        return cls(
            size,
            flat,
            torch.from_numpy(np.concatenate(starts)),
            torch.from_numpy(np.concatenate(widths)),
            tuple(shapes),
        )

    def to(self, device: torch.device) -> "PatchBank":
        """The bank on a device; on the CPU, where it is made, itself.

        Raises:
            TrainingError: the device has too little memory for the films.
        """
        if device == self.pixels.device:
            return self
        try:
            return PatchBank(
                self.size,
                self.pixels.to(device),
                self.starts.to(device),
                self.widths.to(device),
                self.shapes,
            )
        except torch.OutOfMemoryError:
            raise TrainingError(
                f"{device} has too little memory for the training films "
                f"({self.pixels.numel() * 2 / 2**30:.1f} GiB): train with --device cpu, raise "
                "preprocessing.spacing_mm, or give fewer films"
            ) from None

    def image(self, number: int) -> NDArray[np.float32]:
        """An image of a bank on the CPU, to 16 bits: (H, W) float32 in [0, 1]."""
        areas = [rows * cols for rows, cols in self.shapes[: number + 1]]
        end = sum(areas)
        flat = self.pixels[end - areas[-1] : end].numpy().astype(np.float32)
        return ((flat + np.float32(32768)) / np.float32(65535)).reshape(self.shapes[number])

    def __len__(self) -> int:
        """The number of corners."""
        return len(self.starts)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw corners uniformly, with replacement: (count,) int64 on the CPU, for :meth:`cut`.

        The same generator draws the same patches for every device.
        """
        return torch.randint(len(self), (count,), generator=generator)

    def cut(self, which: Tensor) -> Tensor:
        """The patches at corners ``which`` (n,) int64: (n, 1, S, S) float32 in [0, 1]."""
        if self.pixels.device.type == "cpu":
            patches = self._copied(which)
        else:
            patches = self._gathered(which.to(self.pixels.device, non_blocking=True))
        return patches[:, None].float().add_(32768).div_(65535)

    def _gathered(self, which: Tensor) -> Tensor:
        """All at once, by the place of each pixel."""
        side = torch.arange(self.size, device=self.pixels.device)
        rows = side[:, None] * self.widths[which, None, None]  # (n, S, 1)
        places = self.starts[which, None, None] + rows + side  # (n, S, S)
        return self.pixels[places]

    def _copied(self, which: Tensor) -> Tensor:
        """One after another: on a CPU several times as fast, since lines are copied whole."""
        patches = torch.empty(len(which), self.size, self.size, dtype=self.pixels.dtype)
        places = zip(self.starts[which].tolist(), self.widths[which].tolist(), strict=True)
        for patch, (start, width) in zip(patches, places, strict=True):
            patch.copy_(self.pixels.as_strided((self.size, self.size), (width, 1), start))
        return patches


def foreground_corners(
    mask: NDArray[np.bool_],
    size: int,
    min_foreground: float,
    *,
    limit: int,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Random places for patches with enough foreground, anywhere in the image, all distinct.

    Args:
        mask: (H, W) bool, the foreground.
        size: side of a patch.
        min_foreground: smallest share of foreground, in [0, 1], among the patch's pixels that lie
            in the image: as :func:`patchad.core.patches.means` counts them.
        limit: how many to return at most; all where there are fewer.
        rng: what chooses.

    Returns:
        (K, 2) int64 top-left pixels (row, col), in reading order; K = 0 where nothing qualifies.
    """
    total = integral(torch.from_numpy(mask.copy())).numpy()  # masks may be read-only
    height, width = (min(size, length) for length in mask.shape)
    inside = total[height:, width:] - total[:-height, width:]
    inside += total[:-height, :-width] - total[height:, :-width]
    share = (inside / (height * width)).astype(np.float32)
    fit = np.flatnonzero(share >= min_foreground)
    if len(fit) > limit:
        fit = np.sort(rng.choice(fit, limit, replace=False, shuffle=False))
    return np.stack(np.unravel_index(fit, share.shape), axis=-1).astype(np.int64)


def _to_int16(pixels: NDArray[np.float32]) -> Tensor:
    steps = np.rint(pixels * np.float32(65535)) - np.float32(32768)
    return torch.from_numpy(steps.astype(np.int16).ravel())
