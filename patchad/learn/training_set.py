"""What methods are fitted to: prepared negative images, held once, and where patches lie."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from patchad.core.grid import PatchGrid
from patchad.core.image import Foreground
from patchad.errors import RequestError
from patchad.model.detector import ModelCard
from patchad.prepare.preprocess import Prepared


@dataclass(frozen=True, eq=False)
class PatchBank:
    """Whole prepared images, held once on the device, and where patches may be drawn in them.

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
        device: torch.device,
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
        flat = torch.empty(end, dtype=torch.int16, device=device)
        while parts:  # from the end, letting go of each: the images are never in memory twice
            part = parts.pop()
            flat[end - part.numel() : end] = part.to(device)
            end -= part.numel()
        return cls(
            size,
            flat,
            torch.from_numpy(np.concatenate(starts)).to(device),
            torch.from_numpy(np.concatenate(widths)).to(device),
            tuple(shapes),
        )

    def image(self, number: int) -> NDArray[np.float32]:
        """An image as it was taken in, to 16 bits: (H, W) float32 in [0, 1]."""
        areas = [rows * cols for rows, cols in self.shapes[: number + 1]]
        end = sum(areas)
        flat = self.pixels[end - areas[-1] : end].cpu().numpy().astype(np.float32)
        return ((flat + np.float32(32768)) / np.float32(65535)).reshape(self.shapes[number])

    def __len__(self) -> int:
        """The number of corners."""
        return len(self.starts)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw patches at corners taken uniformly, with replacement.

        Returns (count, 1, S, S) float32 in [0, 1] on the device. The same generator on the CPU
        draws the same patches for every device.
        """
        drawn = torch.randint(len(self), (count,), generator=generator, device=generator.device)
        return self._cut(drawn.to(self.pixels.device))

    def _cut(self, which: Tensor) -> Tensor:
        side = torch.arange(self.size, device=self.pixels.device)
        rows = side[:, None] * self.widths[which, None, None]  # (count, S, 1)
        places = self.starts[which, None, None] + rows + side  # (count, S, S)
        return self.pixels[places][:, None].float().add_(32768).div_(65535)


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """What a method is fitted to.

    ``bank`` has the images and where patches may be drawn, for methods that see patches;
    ``patches`` is how many tile the foreground without overlap. ``masks`` are the foregrounds of
    the bank's images, for methods that see whole images: they take :meth:`film`.
    """

    bank: PatchBank
    patches: int
    masks: tuple["PackedMask", ...] = ()

    def __len__(self) -> int:
        """The number of whole images."""
        return len(self.masks)

    def film(self, number: int) -> Prepared:
        """A training image as it was prepared, to 16 bits."""
        packed = self.masks[number]
        rows, cols = packed.shape
        return Prepared(
            np.ascontiguousarray(self.bank.image(number)[:rows, :cols]),
            packed.foreground,
            packed.brightness,
            packed.spacing_mm,
        )

    def films(self, card: ModelCard) -> Iterator[tuple[Prepared, PatchGrid, NDArray[np.bool_]]]:
        """Each whole image, its patches as they are screened, and which of those are scored."""
        for number in range(len(self)):
            image = self.film(number)
            mask = image.foreground.mask
            grid = PatchGrid((mask.shape[0], mask.shape[1]), card.patch_size, card.stride)
            yield image, grid, grid.means(mask) >= card.min_foreground


@dataclass(frozen=True, eq=False)
class PackedMask:
    """The foreground of an image at a bit a pixel, with what else is known of the image."""

    shape: tuple[int, int]
    bits: NDArray[np.uint8]
    brightness: float
    spacing_mm: tuple[float, float] | None

    @classmethod
    def of(cls, image: Prepared) -> "PackedMask":
        """Of an image as prepared."""
        mask = image.foreground.mask
        shape = (mask.shape[0], mask.shape[1])
        return cls(shape, np.packbits(mask), image.brightness, image.spacing_mm)

    @property
    def foreground(self) -> Foreground:
        """The mask alone; how it was found is not kept."""
        area = self.shape[0] * self.shape[1]
        flat = np.unpackbits(self.bits, count=area).astype(bool)
        return Foreground(flat.reshape(self.shape), "", math.nan)


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
            in the image: the rule of :meth:`patchad.core.grid.PatchGrid.fractions`.
        limit: how many to return at most; all where there are fewer.
        rng: what chooses.

    Returns:
        (K, 2) int64 top-left pixels (row, col), in reading order; K = 0 where nothing qualifies.
    """
    total = np.zeros((mask.shape[0] + 1, mask.shape[1] + 1), np.int64)
    total[1:, 1:] = mask.cumsum(0, dtype=np.int64).cumsum(1)
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
