import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchad.prepare.look import LAYOUT, look_at
from patchad.prepare.resize import resize

ROWS, COLS = np.mgrid[:128, :100]
BREAST = np.hypot((ROWS - 64) / 60, COLS / 80) < 1  # a half disc at the left side
TISSUE = np.where(BREAST, 0.3 + 0.4 * ROWS / 128, 0.05).astype(np.float32)


def test_measures_of_a_half_disc():
    look = look_at(TISSUE, BREAST, "breast", (0.5, 0.5), "known")
    found = look.measures
    assert found["area"] == pytest.approx(BREAST.mean(), abs=0.005)
    assert found["fill"] == pytest.approx(math.pi / 4, abs=0.02)
    assert found["aspect"] == pytest.approx(math.log(119 / 80), abs=0.02)
    assert found["image_aspect"] == pytest.approx(math.log(1.28))
    assert found["height"] == pytest.approx(math.log(59.5), abs=0.02)  # 119 rows of 0.5 mm
    assert (found["median"], found["spread"]) == pytest.approx((0.5, 0.3), abs=0.01)
    assert found["over_air"] == pytest.approx(found["median"] - 0.05, abs=0.01)
    assert found["wall_end"] > 0.95
    assert found["free_end"] < 0.4
    assert found["wall_border"] == pytest.approx(119 / 128, abs=0.02)
    assert found["free_border"] == found["top_border"] == found["bottom_border"] == 0
    assert (look.pixels, look.pixel_mm) == (128, 0.5)


def test_a_ramp_has_evenly_spread_greys_and_its_layout():
    ramp = np.tile(np.linspace(0, 1, 128, dtype=np.float32), (128, 1))
    look = look_at(ramp, np.ones((128, 128), bool), "chest")
    assert look.measures["entropy"] == pytest.approx(math.log(58), abs=0.25)
    assert look.measures["skew"] == pytest.approx(0, abs=0.01)
    expected = np.tile(np.arange(LAYOUT) - (LAYOUT - 1) / 2, (LAYOUT, 1))
    np.testing.assert_allclose(look.picture, expected / expected.std(), atol=0.06)
    np.testing.assert_array_equal(look.outline, np.ones((LAYOUT, LAYOUT)))
    assert "wall_end" not in look.measures
    assert math.isnan(look.pixel_mm)


def test_structure_is_told_by_its_size():
    rng = np.random.default_rng(0)
    mask = np.ones((128, 128), bool)
    fine = rng.random((128, 128), np.float32)
    coarse = resize(rng.random((8, 8), np.float32), (128, 128))
    slopes = [look_at(p, mask, "chest").measures["slope"] for p in (fine, coarse)]
    assert slopes[0] > 1 > -1 > slopes[1]


@pytest.mark.parametrize("part", ["breast", "chest"])
def test_a_mirrored_breast_looks_the_same_and_a_mirrored_chest_does_not(part):
    one = look_at(TISSUE + 0.1 * BREAST * (COLS > 40), BREAST, part)
    pixels = np.ascontiguousarray((TISSUE + 0.1 * BREAST * (COLS > 40))[:, ::-1])
    other = look_at(pixels, np.ascontiguousarray(BREAST[:, ::-1]), part)
    same = np.allclose(one.picture, other.picture, atol=1e-4)
    assert same == (part == "breast")
    assert one.measures == pytest.approx(other.measures, nan_ok=True, abs=1e-4)


@settings(max_examples=20)
@given(scale=st.integers(1, 8), aspect=st.sampled_from([1, 2]))
def test_looks_hardly_depend_on_the_resolution(scale, aspect):
    one = look_at(TISSUE, BREAST, "breast").measures
    pixels = TISSUE.repeat(scale, 0).repeat(aspect * scale, 1)
    mask = BREAST.repeat(scale, 0).repeat(aspect * scale, 1)
    other = look_at(pixels, mask, "breast", (float(aspect), 1.0)).measures
    of_structure = {"slope", *(name for name in one if name.startswith("structure"))}  # none here
    for name in set(one) - of_structure - {"height"}:
        assert other[name] == pytest.approx(one[name], abs=0.06), name


def test_an_assumed_spacing_tells_no_height():
    assumed = look_at(TISSUE, BREAST, "breast", (0.5, 0.5), "assumed")
    assert math.isnan(assumed.measures["height"])
    assert assumed.pixel_mm == 0.5


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (5, 7)])
def test_odd_shapes_have_finite_measures(shape):
    pixels = np.linspace(0, 1, math.prod(shape), dtype=np.float32).reshape(shape)
    found = look_at(pixels, np.ones(shape, bool), "breast").measures
    unknown = {name for name, value in found.items() if not math.isfinite(value)}
    assert unknown == {"height", "over_air"}
