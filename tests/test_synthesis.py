"""Lesions: their sizes in millimetres, their brightness, and how they are inserted."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from patchad.errors import RequestError
from patchad.lesions import shapes as synthesis
from patchad.lesions.noise import power_law_field
from patchad.lesions.shapes import Lesion, insert, local_deviation

FINE = (0.1, 0.1)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("spacing", [(0.1, 0.1), (0.2, 0.1), (0.25, 0.4)])
@pytest.mark.parametrize("profile", ["disc", "gaussian", "dome"])
def test_a_mass_without_lobes_has_the_area_of_its_diameter(spacing, profile):
    lesion = synthesis.mass(rng(), diameter_mm=10, spacing_mm=spacing, profile=profile, lobes=0)
    area = lesion.mask.sum() * spacing[0] * spacing[1]
    assert area == pytest.approx(np.pi * 5**2, rel=0.03)
    assert lesion.added.max() == 1
    assert lesion.kind == "mass"


def test_the_profiles_are_what_they_say():
    gaussian, disc, dome = (
        synthesis.mass(rng(3), diameter_mm=12, spacing_mm=FINE, profile=p)
        for p in ("gaussian", "disc", "dome")
    )
    for half in (gaussian, disc):  # half as bright at the outline
        assert half.added[half.mask].min() == pytest.approx(0.5, abs=0.02)
        assert half.added[~half.mask].max() == pytest.approx(0.5, abs=0.02)
    assert (dome.added[~dome.mask] == 0).all()
    middle = tuple(n // 2 for n in dome.added.shape)
    assert dome.added[middle] == 1
    # √(1 - t²) over an ellipse: the mean is 2/3 of the height.
    assert dome.added[dome.mask].mean() == pytest.approx(2 / 3, abs=0.02)


@pytest.mark.parametrize(
    "make",
    [
        synthesis.mass,
        synthesis.spiculated_mass,
        synthesis.architectural_distortion,
        synthesis.calcification_cluster,
        synthesis.opacity,
    ],
)
def test_a_seed_gives_one_lesion_within_its_array(make):
    for seed in range(8):
        one, same = (make(rng(seed), diameter_mm=9, spacing_mm=(0.2, 0.2)) for _ in range(2))
        assert np.array_equal(one.added, same.added)
        assert np.array_equal(one.mask, same.mask)
        assert one.added.dtype == np.float32
        assert one.added.min() >= 0
        assert one.added.max() == 1
        edge = np.concatenate([one.added[[0, -1]].ravel(), one.added[:, [0, -1]].ravel()])
        assert edge.max() < 0.05
        other = make(rng(seed + 100), diameter_mm=9, spacing_mm=(0.2, 0.2))
        assert one.added.shape != other.added.shape or not np.array_equal(one.added, other.added)


def test_a_size_of_nothing_is_refused():
    with pytest.raises(RequestError, match=r"above 0 mm, got 0"):
        synthesis.mass(rng(), diameter_mm=0, spacing_mm=FINE)
    with pytest.raises(RequestError, match=r"count = 0"):
        synthesis.calcification_cluster(rng(), diameter_mm=5, spacing_mm=FINE, count=0)


def test_spicules_reach_beyond_the_core():
    for seed in range(5):
        lesion = synthesis.spiculated_mass(rng(seed), diameter_mm=10, spacing_mm=FINE)
        y, x = np.indices(lesion.mask.shape)
        away = 0.1 * np.hypot(y - lesion.mask.shape[0] // 2, x - lesion.mask.shape[1] // 2)
        assert away[lesion.mask].max() > 1.35 * 5
        # Beyond the core, only a part of each circle is spicule.
        ring = lesion.mask[(away > 7.5) & (away < 8)]
        assert ring.mean() < 0.5


def test_a_distortion_has_spicules_and_no_core():
    for seed in range(5):
        lesion = synthesis.architectural_distortion(rng(seed), diameter_mm=20, spacing_mm=FINE)
        y, x = np.indices(lesion.mask.shape)
        away = 0.1 * np.hypot(y - lesion.mask.shape[0] // 2, x - lesion.mask.shape[1] // 2)
        assert lesion.added[away < 1].max() < 0.1
        assert lesion.mask[away < 4].all()
        assert 7 < away[lesion.mask].max() < 1.15 * 10
        # Spicules are lines: on a circle around the middle, most is dark and some is bright.
        ring = lesion.added[(away > 6.5) & (away < 7)]
        assert (ring > 0.3).mean() < 0.5
        assert ring.max() > 0.5
        runs = ndimage.label((lesion.added > 0.3) & (away > 6))[1]
        assert runs >= 8  # apart from one another
        assert lesion.kind == "architectural distortion"


def test_as_many_spicules_as_asked_for():
    lesion = synthesis.spiculated_mass(rng(2), diameter_mm=12, spacing_mm=FINE, spicules=(6, 6))
    y, x = np.indices(lesion.added.shape)
    away = 0.1 * np.hypot(y - lesion.mask.shape[0] // 2, x - lesion.mask.shape[1] // 2)
    ring = lesion.mask & (away > 8.4) & (away < 9)
    assert ndimage.label(ring, np.ones((3, 3)))[1] == 6


def test_texture_keeps_outline_and_peak():
    smooth = synthesis.mass(rng(0), diameter_mm=12, spacing_mm=FINE, profile="disc")
    rough = synthesis.textured(rng(1), smooth, spacing_mm=FINE, strength=0.4)
    np.testing.assert_array_equal(rough.mask, smooth.mask)
    assert (rough.added.max(), rough.kind) == (1, "mass")
    core = smooth.added > 0.99
    assert smooth.added[core].std() < 0.01
    assert rough.added[core].std() / rough.added[core].mean() == pytest.approx(0.4, abs=0.15)
    same = synthesis.textured(rng(1), smooth, spacing_mm=FINE, strength=0.0)
    np.testing.assert_allclose(same.added, smooth.added, atol=1e-6)


@pytest.mark.parametrize("count", [1, 4, 12])
def test_a_cluster_holds_its_specks_in_its_hull(count):
    lesion = synthesis.calcification_cluster(
        rng(1), diameter_mm=20, spacing_mm=(0.05, 0.05), count=count
    )
    specks = lesion.added > 0.15
    number = ndimage.label(specks)[1]
    assert 1 <= number <= count
    assert number >= count - 3  # a faint one, or two that touch
    assert lesion.mask[specks].all()
    # With so fine a pixel, no speck is wider than some 0.6 mm times its full width at 15 %.
    assert specks.sum() * 0.05**2 < count * np.pi * (0.6) ** 2


def test_opacities_are_one_piece_and_named_by_form():
    nodule = synthesis.opacity(rng(), diameter_mm=20, spacing_mm=(0.4, 0.4), form="nodule")
    assert nodule.kind == "nodule"
    for seed in range(5):
        lesion = synthesis.opacity(rng(seed), diameter_mm=50, spacing_mm=(0.4, 0.4))
        assert lesion.kind == "consolidation"
        assert ndimage.label(lesion.mask)[1] == 1
        area = lesion.mask.sum() * 0.4**2
        assert 0.4 < area / (np.pi * 25**2) < 2


@pytest.mark.parametrize("slope", [2.0, 3.0])
def test_the_field_has_the_power_law_it_was_asked_for(slope):
    field = power_law_field(rng(), (512, 512), (0.2, 0.2), slope=slope, longest_mm=500)
    assert float(field.mean()) == pytest.approx(0, abs=1e-5)
    assert float(field.std()) == pytest.approx(1, abs=1e-5)
    power = np.abs(np.fft.fft2(field)) ** 2
    f = np.hypot(*np.meshgrid(np.fft.fftfreq(512, 0.2), np.fft.fftfreq(512, 0.2)))
    band = (f > 0.05) & (f < 2)
    fitted = np.polyfit(np.log(f[band]), np.log(power[band]), 1)[0]
    assert fitted == pytest.approx(-slope, abs=0.1)


def square(side: int = 3) -> Lesion:
    added = np.ones((side, side), np.float32)
    return Lesion(added, np.ones((side, side), bool), "square")


def test_insert_adds_clips_and_marks():
    pixels = np.full((6, 8), 0.25, np.float32)
    pixels[2, 3] = 0.9
    everywhere = np.ones((6, 8), bool)
    result, region = insert(pixels, everywhere, square(), (2, 4), amplitude=0.5)
    expected = pixels.copy()
    expected[1:4, 3:6] = 0.75
    expected[2, 3] = 1
    np.testing.assert_array_equal(result, expected)
    assert (region.x, region.y, region.width, region.height) == (3, 1, 3, 3)
    assert region.kind == "square"
    assert pixels[1, 4] == 0.25  # the image given is left alone


def test_insert_stays_in_the_image_and_the_foreground():
    pixels, foreground = np.zeros((6, 8), np.float32), np.ones((6, 8), bool)
    _, region = insert(pixels, foreground, square(), (0, 7), amplitude=0.5)
    assert (region.x, region.y, region.width, region.height) == (6, 0, 2, 2)
    foreground[1] = False
    result, region = insert(pixels, foreground, square(), (0, 7), amplitude=0.5)
    assert result.sum() == 1.0  # two pixels of 0.5
    assert (region.x, region.y, region.width, region.height) == (6, 0, 2, 1)
    foreground[:, 6] = False
    foreground[:, 5] = True
    result, region = insert(pixels, foreground, square(), (3, 6), amplitude=0.5)
    np.testing.assert_array_equal(region.mask, [[1, 0, 1]] * 3)
    assert result[3, 6] == 0


@pytest.mark.parametrize("centre", [(-5, 3), (3, 30), (100, 100), (3, -2)])
def test_insert_refuses_a_place_outside(centre):
    pixels, foreground = np.zeros((6, 8), np.float32), np.ones((6, 8), bool)
    with pytest.raises(RequestError, match="outside the foreground"):
        insert(pixels, foreground, square(), centre, amplitude=0.5)


@given(st.integers(0, 19), st.integers(0, 14), st.integers(0, 3))
def test_insert_marks_what_it_changed(row, col, seed):
    pixels, everywhere = np.zeros((20, 15), np.float32), np.ones((20, 15), bool)
    lesion = synthesis.mass(rng(seed), diameter_mm=9, spacing_mm=(1.0, 1.0))
    result, region = insert(pixels, everywhere, lesion, (row, col), amplitude=0.5)
    assert result.max() == 0.5
    place = np.s_[
        int(region.y) : int(region.y + region.height), int(region.x) : int(region.x + region.width)
    ]
    assert ((result[place] > 0) <= region.mask).all()
    result[place] = 0
    assert result.max() == 0


def test_local_deviation_counts_the_foreground_alone():
    pixels = np.zeros((9, 9), np.float32)
    pixels[:, 4:] = 1
    foreground = np.ones((9, 9), bool)
    foreground[:, 4] = False
    found = local_deviation(pixels, foreground, (4, 4), radius_mm=0.4, spacing_mm=(0.2, 0.2))
    assert found == 0.5  # two columns of 0, two of 1
    nothing = np.zeros((9, 9), bool)
    assert np.isnan(local_deviation(pixels, nothing, (4, 4), radius_mm=1, spacing_mm=(1, 1)))
