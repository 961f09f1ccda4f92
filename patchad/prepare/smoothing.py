"""Gaussian smoothing on the device: of whole films, and of the pixels of a mask.

Films are smoothed by Fourier transforms: a wide Gaussian costs as much as a narrow one, and several
of one film share its transform. Tensors are (..., row, col), floating and finite; lengths are in
pixels, (row, col). Results have the device and dtype of the input.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from scipy.fft import next_fast_len
from torch import Tensor

Border = Literal["zero", "nearest"]

_LEAST = 1e-15  # pixels; a smaller sigma changes nothing, as in scipy
_UNREACHED = 1e-6  # of the mask's weight


@dataclass(frozen=True)
class Spectrum:
    """The Fourier transform of a film, for smoothing it by any number of Gaussians.

    Attributes:
        transform: (..., L, M // 2 + 1) complex, of the film minus its level, padded to (L, M).
        level: (..., 1, 1) the film's mean, subtracted so that small differences keep their digits.
        shape: (H, W) of the film.
        reach: how far, in pixels, a kernel may reach on each side.
        padded: (L, M).
        border: values beyond the edge: zeros, or the nearest pixel.
    """

    transform: Tensor
    level: Tensor
    shape: tuple[int, int]
    reach: tuple[int, int]
    padded: tuple[int, int]
    border: Border

    def gaussian(
        self,
        sigma: tuple[float, float],
        order: tuple[int, int] = (0, 0),
        *,
        truncate: float = 3.0,
    ) -> Tensor:
        """The film (..., H, W) convolved with a Gaussian, or with a derivative of it.

        The kernel is sampled and truncated as in scipy.ndimage.gaussian_filter, so that the
        result is the same.

        Args:
            sigma: standard deviations (row, col).
            order: of the derivative, 0 to 2, (row, col).
            truncate: where the kernel ends, in standard deviations.

        Raises:
            ValueError: the kernel is wider than ``reach``, or there is no such derivative.
        """
        film, constant = [], []
        for axis in (0, 1):
            radius = reach(sigma[axis], truncate)
            if radius > self.reach[axis]:
                raise ValueError(
                    f"a Gaussian of {sigma[axis]:g} pixels reaches {radius} pixels, this spectrum "
                    f"is padded by {self.reach[axis]}: give spectrum_of the reach of the widest"
                )
            before = self.reach[axis] if self.border == "nearest" else 0
            of_film, of_one = _responses(
                float(sigma[axis]),
                order[axis],
                radius,
                (before, self.shape[axis], self.padded[axis]),
                self.level.dtype,
                self.level.device,
            )
            film.append(of_film)
            constant.append(of_one)
        rows, cols = film[0][:, None], film[1][: self.transform.shape[-1]]
        top, left = self.reach if self.border == "nearest" else (0, 0)
        lines = torch.fft.ifft(self.transform * (rows * cols), dim=-2)
        lines = lines[..., top : top + self.shape[0], :]
        smooth = torch.fft.irfft(lines, n=self.padded[1], dim=-1)
        smooth = smooth[..., left : left + self.shape[1]]
        return torch.addcmul(smooth, self.level * constant[0][:, None], constant[1])


def spectrum_of(values: Tensor, reach: tuple[int, int], *, border: Border) -> Spectrum:
    """Transform a film, or a batch of them, once for all Gaussians.

    Args:
        values: (..., H, W).
        reach: pixels (row, col) that the widest kernel reaches: :func:`reach` of its sigma.
        border: values beyond the edge: ``zero``, or the ``nearest`` pixel.
    """
    shape = (values.shape[-2], values.shape[-1])
    level = values.mean((-2, -1), keepdim=True)
    film = values - level
    if border == "nearest":
        for axis, length in zip((-2, -1), shape, strict=True):
            line = torch.arange(-reach[axis], length + reach[axis], device=values.device)
            film = film.index_select(axis, line.clamp(0, length - 1))
        padded = (_length(film.shape[-2]), _length(film.shape[-1]))
    else:  # both ends of the circle share the padding
        padded = (_length(shape[0] + reach[0]), _length(shape[1] + reach[1]))
    lines = torch.fft.rfft(film, n=padded[1], dim=-1)
    return Spectrum(torch.fft.fft(lines, n=padded[0], dim=-2), level, shape, reach, padded, border)


def reach(sigma: float, truncate: float = 3.0) -> int:
    """How many pixels the kernel of a Gaussian reaches on each side."""
    return int(truncate * sigma + 0.5) if sigma > _LEAST else 0


def gaussian(
    values: Tensor,
    sigma: tuple[float, float],
    *,
    order: tuple[int, int] = (0, 0),
    border: Border = "zero",
    truncate: float = 3.0,
) -> Tensor:
    """``values`` (..., H, W) smoothed once: :meth:`Spectrum.gaussian` for a single Gaussian."""
    widest = (reach(sigma[0], truncate), reach(sigma[1], truncate))
    spectrum = spectrum_of(values, widest, border=border)
    return spectrum.gaussian(sigma, order, truncate=truncate)


def masked_gaussians(
    values: Tensor, mask: Tensor, sigmas: Sequence[tuple[float, float]]
) -> list[Tensor]:
    """G(a·m) / G(m): Gaussian means of the pixels of a mask alone, one for each of ``sigmas``.

    Normalised convolution: Knutsson & Westin, CVPR 1993. Far from the mask this is a quotient of
    small numbers, of which a Fourier transform keeps few digits in float32. So the convolutions
    are matrix products here, which keep all of them.

    Args:
        values: (H, W) float; those outside the mask are ignored.
        mask: (H, W) bool.
        sigmas: standard deviations (row, col).

    Returns:
        (H, W) of the dtype of ``values`` for each sigma, 0 beyond reach of the mask.
    """
    mean = values.where(mask, 0).sum() / mask.sum()
    both = torch.stack([(values - mean).where(mask, 0), mask.to(values.dtype)])
    smoothed = []
    for sigma in sigmas:
        total, weight = _blurred(_blurred(both, sigma[0], -2), sigma[1], -1)
        part = total.div_(weight).add_(mean)
        smoothed.append(part.where(weight > _UNREACHED, 0))
    return smoothed


def _blurred(values: Tensor, sigma: float, axis: Literal[-2, -1]) -> Tensor:
    """A Gaussian along one ``axis`` of ``values`` (B, H, W), with zeros beyond the edge.

    Each block of lines is the product of a band matrix and the lines that its kernels reach.
    """
    radius, length = reach(sigma), values.shape[axis]
    band = _band(float(sigma), radius, values.dtype, values.device)
    smooth = torch.empty_like(values)
    for begin in range(0, length, len(band)):
        end = min(begin + len(band), length)
        low, high = max(begin - radius, 0), min(end + radius, length)
        part = band[: end - begin, low - begin + radius : high - begin + radius]
        lines = values.narrow(axis, low, high - low)
        block = part @ lines if axis == -2 else lines @ part.T
        smooth.narrow(axis, begin, end - begin).copy_(block)
    return smooth


@lru_cache(maxsize=64)
def _band(sigma: float, radius: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A matrix with the kernel in each row, shifted by one pixel a row: (n, n + 2 · radius)."""
    count = min(max(radius, 64), 256)
    with torch.inference_mode(False):
        kernel = torch.nn.functional.pad(_kernel(sigma, 0, radius), (count - 1, count - 1))
        band = kernel.unfold(0, count + 2 * radius, 1).flip(0)
        return band.to(dtype).to(device)


@lru_cache(maxsize=256)
def _responses(
    sigma: float,
    order: int,
    radius: int,
    side: tuple[int, int, int],
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """The response of one side of a Gaussian to each frequency, and to a film of ones.

    ``side`` is the film's start in the padded line, its length, and the length of the line. Returns
    (padded,), real for even orders and complex for odd ones, and (length,).
    """
    before, length, padded = side
    narrow = torch.complex64 if dtype == torch.float32 else torch.complex128
    with torch.inference_mode(False):  # cached for later callers in any mode
        kernel = torch.zeros(padded, dtype=torch.float64)
        places = torch.arange(-radius, radius + 1)
        kernel.index_add_(0, places % padded, _kernel(sigma, order, radius))
        response = torch.fft.fft(kernel)
        one = torch.zeros(padded, dtype=torch.float64)
        one[: length + 2 * before] = 1
        of_one = torch.fft.ifft(torch.fft.fft(one) * response).real[before : before + length]
        of_film = response.to(narrow) if order % 2 else response.real.to(dtype)
        return of_film.to(device), of_one.to(dtype).to(device)


def _kernel(sigma: float, order: int, radius: int) -> Tensor:
    """The sampled Gaussian of sum 1, times the polynomial of its derivative: float64."""
    if sigma <= _LEAST:
        return torch.ones(1, dtype=torch.float64)
    x = torch.arange(-radius, radius + 1, dtype=torch.float64)
    bell = torch.exp(-0.5 / sigma**2 * x**2)
    bell /= bell.sum()
    match order:
        case 0:
            return bell
        case 1:
            return -x / sigma**2 * bell
        case 2:
            return (x**2 - sigma**2) / sigma**4 * bell
        case _:
            raise ValueError(f"a Gaussian's derivative is of order 0, 1 or 2, not {order!r}")


def _length(least: int) -> int:
    """A length of at least ``least`` with a fast transform."""
    length = int(next_fast_len(least, real=True))
    # Lines a multiple of 4 KiB apart evict each other from the cache.
    while length > 512 and length % 512 == 0:
        length = int(next_fast_len(length + 1, real=True))
    return length
