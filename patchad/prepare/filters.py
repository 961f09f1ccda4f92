"""Smoothing of tissue that ignores the air around it.

Arrays are (row, col); lengths are in pixels, (row, col), unless their name says mm.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from patchad.core.arrays import Floats, Mask
from patchad.prepare.resize import resize

_WIDEST = 16.0  # pixels; a wider Gaussian is applied to a copy reduced until it is this wide
_OPENING_MM = 2.0  # radius; thinner strands, such as the rim of a scan, aren't tissue
_RIM_MM = 1.0  # the skin and its blur


def tissue(mask: Mask, spacing_mm: tuple[float, float]) -> Mask:
    """The foreground ``mask`` (H, W), opened, and without its outermost millimetre.

    The foreground is assumed to continue beyond the image's edge, so that nothing is cut off at
    the chest wall. All of ``mask`` if nothing would be left.
    """
    margin = [int(np.ceil(2 * _OPENING_MM / s)) for s in spacing_mm]
    framed = np.pad(mask, [(n, n) for n in margin], mode="edge")
    core = _depth(framed, spacing_mm) > _OPENING_MM
    opened = _depth(~core, spacing_mm) <= _OPENING_MM
    kept = _depth(opened, spacing_mm) > _RIM_MM
    inside = kept[margin[0] : -margin[0], margin[1] : -margin[1]] & mask
    return inside if inside.any() else mask


def gaussian(values: Floats, sigma: tuple[float, float], *, truncate: float = 3.0) -> Floats:
    """A Gaussian of standard deviation ``sigma`` of ``values`` (H, W), with zeros beyond the edge.

    A wide one is applied to a smaller copy, where it costs as much as a narrow one.
    """
    shape = (values.shape[0], values.shape[1])
    steps = [max(1.0, s / _WIDEST) for s in sigma]
    small = (max(1, round(shape[0] / steps[0])), max(1, round(shape[1] / steps[1])))
    width = [s * n / whole for s, n, whole in zip(sigma, small, shape, strict=True)]
    smooth = ndimage.gaussian_filter(
        resize(values, small), width, mode="constant", truncate=truncate
    )
    return resize(smooth, shape)


def masked_gaussian(values: Floats, mask: Mask, sigma: tuple[float, float]) -> Floats:
    """G(a·m) / G(m): the Gaussian mean of the pixels of ``mask`` alone (H, W), 0 beyond reach.

    Normalised convolution: Knutsson & Westin, CVPR 1993.
    """
    weight = gaussian(mask.astype(np.float32), sigma)
    total = gaussian(np.where(mask, values, np.float32(0)), sigma)
    return np.divide(total, weight, out=np.zeros_like(total), where=weight > 1e-6)


def sigma_pixels(sigma_mm: float, spacing_mm: tuple[float, float]) -> tuple[float, float]:
    """A length in mm as (row, col) pixels."""
    return sigma_mm / spacing_mm[0], sigma_mm / spacing_mm[1]


def _depth(mask: Mask, spacing_mm: tuple[float, float]) -> NDArray[np.float64]:
    """Millimetres from each pixel of ``mask`` to the nearest pixel outside it."""
    distance: NDArray[np.float64] = ndimage.distance_transform_edt(mask, sampling=spacing_mm)
    return distance
