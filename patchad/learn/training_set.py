"""What methods are fitted to: prepared films, held once, and where patches lie in them."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from patchad.core.grid import PatchGrid
from patchad.core.image import Foreground
from patchad.core.patches import means
from patchad.learn.patch_bank import PatchBank
from patchad.learn.run import Run
from patchad.prepare.film import Before, Film
from patchad.prepare.preprocess import Prepared


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """What a method is fitted to.

    ``bank`` has the negative films, on the CPU, and where patches may be drawn in them; a method
    that draws patches moves it to its device. ``patches`` is how many tile the foreground without
    overlap. ``masks`` are the foregrounds of the bank's films, for methods that see whole films:
    they take :meth:`film` or :meth:`films`, one after another. ``unlabelled`` are films of which
    nothing is known (``split = unlabelled`` in the manifest), None where there are none.
    """

    bank: PatchBank
    patches: int
    masks: tuple["PackedMask", ...] = ()
    unlabelled: "TrainingSet | None" = None

    def __len__(self) -> int:
        """The number of whole films."""
        return len(self.masks)

    def film(self, number: int) -> Prepared:
        """A training film as it was prepared, to 16 bits, on the CPU."""
        packed = self.masks[number]
        rows, cols = packed.shape
        return Prepared(
            np.ascontiguousarray(self.bank.image(number)[:rows, :cols]),
            packed.foreground,
            packed.brightness,
            packed.spacing_mm,
        )

    def films(
        self, run: Run, before: Sequence[Before] = ()
    ) -> Iterator[tuple[Film, PatchGrid, Tensor]]:
        """Each film on the run's device, its patches as screened, and which are scored (N,) bool.

        ``before`` is what the method's ``needs.before`` names.
        """
        for number in range(len(self)):
            film = Film.of(self.film(number), run.device, before)
            grid = run.setting.grid(film.shape)
            yield film, grid, means(grid, film.mask).float() >= run.setting.min_foreground


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
