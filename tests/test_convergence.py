import numpy as np
import pytest

from patchad.core.grid import PatchGrid
from patchad.core.image import Foreground
from patchad.errors import ImageError, RequestError
from patchad.methods.filters.convergence import Config, convergence_maps, pool_maps
from patchad.prepare.filters import Floats
from patchad.prepare.preprocess import Prepared

RINGS = ((0.6, 4.0), (0.6, 6.4), (1.2, 9.6))


def film(pixels: Floats, mask=None, spacing: float | None = 0.4) -> Prepared:
    whole = np.ones(pixels.shape, bool) if mask is None else mask
    known = None if spacing is None else (spacing, spacing)
    return Prepared(pixels.astype(np.float32), Foreground(whole, "", 0.0), 0.5, known)


def blob(shape=(200, 240), centre=(90, 130), sigma=14.0) -> Floats:
    y, x = np.mgrid[: shape[0], : shape[1]]
    distance = (y - centre[0]) ** 2 + (x - centre[1]) ** 2
    return (0.3 + 0.4 * np.exp(-distance / (2 * sigma**2))).astype(np.float32)


def test_a_blob_converges_at_its_centre() -> None:
    maps = convergence_maps(film(blob()), RINGS)
    assert maps.shape == (100, 120, 3)  # cells of 0.8 mm
    for k in range(3):
        peak = np.unravel_index(np.nanargmax(maps[..., k]), maps.shape[:2])
        # pixel 90 is the middle of cell 45.25 − 0.5
        assert np.abs(np.subtract(peak, (44.75, 64.75))).max() <= 1
        # Every gradient points at the centre, so every sector is 1, up to the cells' width.
        assert maps[..., k].max() == pytest.approx(1, abs=0.06)


def test_brightness_and_contrast_do_not_matter() -> None:
    noise = np.random.default_rng(0).normal(0, 0.01, (200, 240))
    pixels = (blob() + noise).astype(np.float32)
    first = convergence_maps(film(pixels), RINGS)
    second = convergence_maps(film(0.6 * pixels + 0.2), RINGS)
    np.testing.assert_allclose(first, second, atol=0.05)  # where it is nearly flat


def test_a_ramp_converges_nowhere() -> None:
    ramp = np.tile(np.linspace(0, 1, 240, dtype=np.float32), (200, 1))
    inside = convergence_maps(film(ramp), RINGS)[10:-10, 10:-10]
    np.testing.assert_allclose(inside, 0, atol=0.02)


def test_a_skin_line_converges_nowhere() -> None:
    y, x = np.mgrid[:300, :200]
    breast = (y - 150) ** 2 + (x + 20) ** 2 < 130**2
    flat = np.where(breast, np.float32(0.6), np.float32(0))
    maps = convergence_maps(film(flat, breast), RINGS)
    assert np.nanmax(np.abs(maps)) < 0.02


def test_a_vessel_is_no_mass() -> None:
    y, _ = np.mgrid[:200, :240]
    vessel = (0.3 + 0.4 * np.exp(-((y - 100) ** 2) / 50)).astype(np.float32)
    maps = convergence_maps(film(vessel), RINGS)[15:-15, 15:-15]
    # Along the vessel nothing converges: the middle sectors are between that and what does across.
    assert maps.max() < 0.7
    assert convergence_maps(film(blob()), RINGS).max(axis=(0, 1)).min() > 0.9


def test_pools_are_maxima_over_the_patch() -> None:
    maps = np.zeros((8, 8, 2), np.float32)
    maps[0, 0, 0], maps[3, 3, 1] = 4, 5
    assert pool_maps(maps, PatchGrid((8, 8), 4, 4)).tolist() == [[4, 5], [0, 0], [0, 0], [0, 0]]


def test_lengths_are_in_millimetres() -> None:
    fine = convergence_maps(film(blob((400, 480), (180, 260), 28), spacing=0.2), RINGS)
    coarse = convergence_maps(film(blob()), RINGS)
    assert fine.shape == coarse.shape
    assert np.abs(fine - coarse).max() < 0.1


def test_without_spacing_it_says_so() -> None:
    with pytest.raises(ImageError, match="spacing-mm"):
        convergence_maps(film(blob(), spacing=None), RINGS)


def test_a_ring_that_is_none_is_refused() -> None:
    with pytest.raises(RequestError, match="rings_mm"):
        Config(rings_mm=((3.0, 2.0),))
