"""A prepared image on the device, with what several methods need of it computed once."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from patchad.prepare.preprocess import Prepared, require_spacing
from patchad.prepare.smoothing import Spectrum, spectrum_of

T = TypeVar("T")
# Of a prepared image, arrays by name: what a library of the CPU has to compute.
Before = Callable[[Prepared], Mapping[str, NDArray[Any]]]

_LEAST = 1e-6  # weight of a Gaussian below which nothing is known
_REACH_MM = 6.0  # of the Gaussians that share one transform: three deviations of the widest, 2 mm


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
        """Bring a prepared image to the device, with what is computed ``before`` on the CPU.

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
        """``spacing_mm``; an ImageError where it is unknown."""
        return require_spacing(self.spacing_mm, "by a method that measures in mm")

    @property
    def tissue(self) -> Tensor:
        """The foreground without its rim, (H, W) bool; for methods that need it ``before``."""
        return self.given(tissue)["tissue"]

    def given(self, before: Before) -> Mapping[str, Tensor]:
        """What was computed before, on the device; a method names it in its ``needs.before``."""
        return self.before[before]

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """What ``make`` returns, made once a film: members of a fusion share it."""
        if key not in self.made:
            self.made[key] = make()
        found: T = self.made[key]
        return found

    def smooth(self, sigma_mm: float) -> Tensor:
        """The Gaussian mean of the tissue's pixels alone, (H, W) float32, 0 beyond its reach.

        Normalised convolution: Knutsson & Westin, CVPR 1993. The film's transform is shared, so
        ``sigma_mm`` is at most 2.

        Raises:
            ImageError: the pixel spacing is unknown.
        """
        row, col = self.known_spacing
        sigma = (sigma_mm / row, sigma_mm / col)

        def mean() -> Tensor:
            pixels, inside, middle = self.once("spectra", self._spectra)
            weight = inside.gaussian(sigma)
            found = pixels.gaussian(sigma) / weight.clamp_min(_LEAST) + middle
            return torch.where(weight > _LEAST, found, 0)

        return self.once(("smooth", sigma_mm), mean)

    def _spectra(self) -> tuple[Spectrum, Spectrum, Tensor]:
        """The transforms of the tissue's pixels, less their mean, and of the tissue; that mean."""
        row, col = self.known_spacing
        reach = (int(_REACH_MM / row) + 2, int(_REACH_MM / col) + 2)
        weight = self.tissue.float()
        # Less the mean, so that float32 keeps the digits of small differences.
        middle = (self.pixels * weight).sum() / weight.sum().clamp_min(1)
        centred = (self.pixels - middle) * weight
        return (
            spectrum_of(centred, reach, border="zero"),
            spectrum_of(weight, reach, border="zero"),
            middle,
        )


def _moved(array: NDArray[Any], device: torch.device) -> Tensor:
    return torch.from_numpy(np.array(array)).to(device)  # a copy: prepared arrays are read-only
