import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchad.prepare.filters import gaussian, masked_gaussian, sigma_pixels, tissue


def test_tissue_is_a_millimetre_from_air_and_reaches_the_chest_wall() -> None:
    mask = np.zeros((60, 50), bool)
    mask[10:50, :30] = True  # touches the left edge, as a breast does
    kept = tissue(mask, (0.5, 0.5))
    # Of pixels of 0.5 mm the first whose centre lies more than 1 mm from air is the third.
    assert np.flatnonzero(kept[:, 0])[[0, -1]].tolist() == [12, 47]
    assert np.flatnonzero(kept[30])[[0, -1]].tolist() == [0, 27]


def test_tissue_leaves_thin_strands_out_but_never_everything() -> None:
    mask = np.zeros((80, 80), bool)
    mask[20:60, 20:60] = True
    mask[38:41, 60:] = True  # 3 pixels of 1 mm: thinner than the opening's 4 mm
    assert not tissue(mask, (1.0, 1.0))[:, 63:].any()  # but where it springs from the breast
    strand = np.zeros((80, 80), bool)
    strand[40] = True
    np.testing.assert_array_equal(tissue(strand, (1.0, 1.0)), strand)


@given(st.floats(0.5, 60), st.floats(-3, 3))
def test_a_constant_stays_one_whatever_lies_outside(sigma: float, value: float) -> None:
    mask = np.zeros((40, 50), bool)
    mask[5:30, 10:45] = True
    pixels = np.where(mask, np.float32(value), np.float32(99))
    smooth = masked_gaussian(pixels, mask, (sigma, sigma))
    np.testing.assert_allclose(smooth[mask], value, atol=2e-4)


def test_gaussian_has_its_width() -> None:
    point = np.zeros((257, 257), np.float32)
    point[128, 128] = 1
    for sigma in (4.0, 24.0):  # the second is taken on a copy
        row = gaussian(point, (sigma, sigma))[128].astype(np.float64)
        x = np.arange(257) - 128
        assert np.sqrt((row * x**2).sum() / row.sum()) == pytest.approx(sigma, rel=0.05)


def test_sigma_is_in_pixels_of_each_axis() -> None:
    assert sigma_pixels(0.4, (0.2, 0.1)) == pytest.approx((2.0, 4.0))
