"""Where the lungs are: the two largest parts of a chest film darker than their surroundings.

There are two criteria. A mean of registered films (:mod:`patchad.methods.parts.chest_frame`) is
smooth and shows the whole chest, but has no scale in mm: there the lungs are valleys between the
sides and the middle of each row. A single film may be cropped at any side and is noisy, but its
spacing is known: there the lungs are darker than their wide surroundings. Arrays are (row, col).
"""

import numpy as np
from scipy import ndimage
from skimage.filters import threshold_otsu

from patchad.core.arrays import Floats, Mask
from patchad.errors import TrainingError
from patchad.prepare.filters import masked_gaussian, sigma_pixels

_MARGIN = 0.1  # share of each side of a mean film that is left out of its threshold
_LEAST_LUNG = 0.02  # share of a mean film; a smaller part is no lung
_LEAST_LUNGS = 0.04  # share of a single film's field, both together; less is something else
_NEAR_MM, _WIDE_MM = 4, 50  # standard deviations of the Gaussians whose difference is the relief


def find_lungs(template: Floats) -> Mask:
    """The lungs of a mean of registered films (H, W): (H, W) bool.

    A pixel's depth is how far it lies below the lower of two maxima, those of its row to its left
    and to its right: the air around the body is dark, but has depth 0. The lungs are deeper than
    half of Otsu's threshold (Otsu, IEEE Trans. SMC 9:62, 1979) of the depths in the central 80 %.

    Raises:
        TrainingError: no lungs found.
    """
    left = np.maximum.accumulate(template, axis=1)
    right = np.maximum.accumulate(template[:, ::-1], axis=1)[:, ::-1]
    depth = np.minimum(left, right) - template
    down, across = (round(_MARGIN * n) for n in template.shape)
    depths = depth[down:-down, across:-across]
    deep = np.zeros(template.shape, np.bool_)
    if depths.max() > 1e-3:
        deep = depth > threshold_otsu(depths) / 2  # type: ignore[no-untyped-call]
    opened = np.asarray(ndimage.binary_opening(deep, iterations=2), np.bool_)
    lungs = _two_largest(opened, _LEAST_LUNG * template.size)
    if not lungs.any():
        raise TrainingError(
            "no lungs found in the mean of the negatives: give frontal chest films, dense parts "
            "bright (check the photometric interpretation)"
        )
    return np.asarray(ndimage.binary_fill_holes(lungs), np.bool_)


def find_dark_lungs(pixels: Floats, mask: Mask, spacing_mm: tuple[float, float]) -> Mask:
    """The two largest dark parts in the middle of a film (H, W), else all of ``mask``: (H, W) bool.

    Darker than the surroundings (Gaussians of 4 and 50 mm) by Otsu's threshold, without the outer
    eighths of the field ``mask`` (H, W) bool. ``spacing_mm`` is (row, col). Not an outline to
    measure, but lesions placed in it lie mostly in the lungs.
    """
    rows, cols = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    middle = np.zeros_like(mask)
    (top, bottom), (left, right) = ((n[0], n[-1] + 1) for n in (rows, cols))
    dy, dx = (bottom - top) // 8, (right - left) // 8
    middle[top + dy : bottom - dy, left + dx : right - dx] = True
    middle &= mask
    near, wide = (
        masked_gaussian(pixels, mask, sigma_pixels(s, spacing_mm)) for s in (_NEAR_MM, _WIDE_MM)
    )
    relief = near - wide
    threshold = threshold_otsu(relief[middle])  # type: ignore[no-untyped-call]
    lungs = _two_largest(middle & (relief < threshold), 1)
    return lungs if lungs.sum() >= _LEAST_LUNGS * mask.sum() else mask


def _two_largest(parts: Mask, least: float) -> Mask:
    """The two largest connected parts, those that have ``least`` pixels."""
    labels, count = ndimage.label(parts)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    sizes[0] = 0
    kept = [n for n in np.argsort(sizes)[-2:] if sizes[n] >= max(least, 1)]
    return np.asarray(np.isin(labels, kept), np.bool_)
