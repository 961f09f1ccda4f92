"""Synthetic findings of the lungs, made from a seed: reticular patterns and basal effusions.

They complete :func:`patchad.lesions.shapes.opacity` (consolidations and nodules) and follow the
same rules. Arrays are (row, col), ``spacing_mm`` is (row, col).
"""

import numpy as np
from scipy import ndimage

from patchad.errors import RequestError
from patchad.lesions.noise import power_law_field
from patchad.lesions.shapes import Lesion, opacity


def reticular_pattern(
    rng: np.random.Generator, *, diameter_mm: float, spacing_mm: tuple[float, float]
) -> Lesion:
    """A network of fine lines, as in interstitial disease, over an area of ``diameter_mm``.

    The lines are where a band-pass field is near 0: closed meshes of 4-10 mm. The area has the
    irregular border of a consolidation, and the lines fade towards it.
    """
    area = opacity(rng, diameter_mm=diameter_mm, spacing_mm=spacing_mm)
    sigma = [rng.uniform(4, 10) / 4 / s for s in spacing_mm]
    field = ndimage.gaussian_laplace(rng.standard_normal(area.added.shape), sigma, mode="wrap")
    net = np.exp(-0.5 * (field / (0.35 * field.std())) ** 2)
    added = net * np.sqrt(area.added)
    return Lesion(
        (added / added.max()).astype(np.float32), area.mask.copy(), kind="reticular pattern"
    )


def effusion(
    rng: np.random.Generator,
    *,
    width_mm: float,
    height_mm: float,
    spacing_mm: tuple[float, float],
) -> Lesion:
    """Fluid at the base of a lung: dense below a curved upper border, the meniscus.

    The fluid fills the lower half of the array, so place the middle pixel on the diaphragm. Its
    border lies ``height_mm`` above that in the middle, and higher towards the sides, on one of them
    more. ``width_mm`` is the whole width.

    Raises:
        RequestError: a length isn't above 0.
    """
    if not (width_mm > 0 and height_mm > 0 and min(spacing_mm) > 0):
        raise RequestError(
            "an effusion needs a width, a height and a pixel spacing above 0 mm, got "
            f"{width_mm}, {height_mm} and {spacing_mm}"
        )
    reach = (2.2 * height_mm, width_mm / 2)
    half = [int(np.ceil(length / s)) for length, s in zip(reach, spacing_mm, strict=True)]
    y, x = (np.arange(-n, n + 1) * s for n, s in zip(half, spacing_mm, strict=True))
    u = x / (width_mm / 2)  # -1 to 1
    waves = power_law_field(rng, (1, len(x)), spacing_mm, slope=3.0, longest_mm=width_mm)[0]
    rise = 1 + rng.uniform(0.2, 0.8) * u**2 + rng.uniform(-0.3, 0.3) * u + 0.05 * waves
    softness = height_mm * rng.uniform(0.08, 0.3)
    below = (y[:, None] + height_mm * rise) / softness
    added = 1 / (1 + np.exp(-np.clip(below, -40, 40)))
    added = added * np.clip(4 * (1 - np.abs(u)), 0, 1)
    return Lesion((added / added.max()).astype(np.float32), added > 0.5, kind="effusion")
