"""A prepared image on the device, with shared intermediate results computed once."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from patchad.prepare.preprocess import Prepared, require_spacing
from patchad.prepare.smoothing import masked_gaussians

T = TypeVar("T")
# Arrays by name, computed from a prepared image by libraries that only run on the CPU.
Before = Callable[[Prepared], Mapping[str, NDArray[Any]]]


def tissue(image: Prepared) -> Mapping[str, NDArray[np.bool_]]:
    """``tissue`` (H, W) bool: the foreground without its rim."""
    return {"tissue": image.tissue}


@dataclass(frozen=True, eq=False)
class Film:
    """A prepared image as methods see it: tensors on one device, in the prepared frame (row, col).

    ``pixels`` (H, W) float32 in [0, 1]; ``mask`` (H, W) bool is the foreground; ``spacing_mm``
    (row, col) is the distance of pixel centres, None if unknown.
    """

    pixels: Tensor
    mask: Tensor
    spacing_mm: tuple[float, float] | None
    before: Mapping[Before, Mapping[str, Tensor]] = field(default_factory=dict)
    made: dict[Hashable, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, image: Prepared, device: torch.device, before: Sequence[Before] = ()) -> "Film":
        """Move a prepared image to the device, with the arrays computed ``before`` on the CPU.

        Raises:
            ImageError: one of ``before`` needs the pixel spacing, and it is unknown.
        """
        return cls(
            _moved(image.pixels, device),
            _moved(image.foreground.mask, device),
            image.spacing_mm,
            {one: {k: _moved(v, device) for k, v in one(image).items()} for one in before},
        )

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return self.pixels.shape[0], self.pixels.shape[1]

    @property
    def known_spacing(self) -> tuple[float, float]:
        """``spacing_mm``; an ImageError if it is unknown."""
        return require_spacing(self.spacing_mm, "by a method that measures in mm")

    @property
    def tissue(self) -> Tensor:
        """The foreground without its rim, (H, W) bool; for methods that need it ``before``."""
        return self.given(tissue)["tissue"]

    def given(self, before: Before) -> Mapping[str, Tensor]:
        """The result of ``before``, on the device; a method lists it in its ``needs.before``."""
        return self.before[before]

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """The result of ``make``, called once per film: members of a fusion share it."""
        if key not in self.made:
            self.made[key] = make()
        found: T = self.made[key]
        return found

    def smooth(self, sigma_mm: float) -> Tensor:
        """The Gaussian mean of the tissue's pixels alone, (H, W) float32, 0 beyond its reach.

        Raises:
            ImageError: the pixel spacing is unknown.
        """
        row, col = self.known_spacing
        sigma = (sigma_mm / row, sigma_mm / col)

        def mean() -> Tensor:
            return masked_gaussians(self.pixels, self.tissue, [sigma])[0]

        return self.once(("smooth", sigma_mm), mean)


def _moved(array: NDArray[Any], device: torch.device) -> Tensor:
    return torch.from_numpy(np.array(array, order="C")).to(
        device
    )  # a copy: prepared arrays are read-only
