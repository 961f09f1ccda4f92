import warnings
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchad.core.image import Radiograph, Source
from patchad.engine.stored import resampled
from patchad.errors import ImageError, RequestError
from patchad.prepare.preprocess import MOST_PIXELS, Preprocessing, prepare


def film(pixels, spacing=(0.2, 0.2)):
    return Radiograph(np.array(pixels, np.float32), spacing, Source("drawn", ""))


def half_disc(shape=(120, 100), tissue=0.5):
    row, col = np.mgrid[: shape[0], : shape[1]]
    inside = np.hypot((row - shape[0] / 2) / shape[0], col / shape[1]) < 0.42
    values = np.zeros(shape)
    values[inside] = np.broadcast_to(tissue, shape)[inside]
    return values


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"body_part": "knee"}, "breast, chest or other, not 'knee'"),
        ({"intensity": "log"}, "not 'log'"),
        ({"percentiles": (99.0, 1.0)}, r"\(99.0, 1.0\)"),
        ({"percentiles": (0.0, 101.0)}, "within 0..100"),
        ({"local_radius_mm": 0.0}, "got 0.0"),
        ({"local_radius_mm": float("nan")}, "got nan"),
        ({"spacing_mm": -0.1}, "got -0.1"),
    ],
)
def test_a_wrong_request_is_named(wrong, message):
    with pytest.raises(RequestError, match=message):
        Preprocessing(**wrong)


def test_voi_keeps_the_pixels_and_brightness_is_the_median_of_the_foreground():
    pixels = half_disc(tissue=0.25)
    done = prepare(film(pixels), Preprocessing())
    np.testing.assert_array_equal(done.pixels, pixels.astype(np.float32))
    assert done.foreground.mask.shape == pixels.shape
    assert done.brightness == 0.25


@pytest.mark.parametrize("intensity", ["percentiles", "local"])
def test_brightness_is_measured_before_normalisation(intensity):
    done = prepare(film(half_disc(tissue=0.25)), Preprocessing(intensity=intensity))
    assert done.brightness == 0.25


def test_percentiles_of_the_foreground_become_0_and_1():
    ramp = np.tile(np.linspace(0.3, 0.9, 100), (120, 1))
    pixels = half_disc(tissue=ramp)
    wanted = Preprocessing(intensity="percentiles", percentiles=(10.0, 90.0))
    done = prepare(film(pixels), wanted)
    low, high = np.percentile(pixels[done.foreground.mask], (10, 90))
    expected = np.clip((pixels - low) / (high - low), 0, 1)
    np.testing.assert_allclose(done.pixels, expected, atol=1e-6)
    assert (done.pixels.min(), done.pixels.max()) == (0, 1)


def test_percentiles_and_local_make_a_flat_foreground_grey_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for intensity in ("percentiles", "local"):
            done = prepare(film(half_disc()), Preprocessing(intensity=intensity))
            inside = done.pixels[done.foreground.mask]
            np.testing.assert_allclose(inside, 0.5, atol=1e-6)


@pytest.mark.parametrize("radius_mm", [1.0, 6.4, 400.0])
def test_air_does_not_pull_at_the_local_mean(radius_mm):
    # Tissue of two values in a fine chequerboard: its local mean is 0.5, its deviation 0.1, up to
    # the very skin line, however dark the air beside it is.
    row, col = np.mgrid[:400, :300]
    board = 0.5 + 0.1 * (2 * ((row + col) % 2) - 1)
    done = prepare(
        film(half_disc((400, 300), board)),
        Preprocessing(intensity="local", local_radius_mm=radius_mm),
    )
    mask = done.foreground.mask
    expected = 0.5 + (2 * ((row + col) % 2) - 1) / 10
    np.testing.assert_allclose(done.pixels[mask], expected[mask], atol=0.012)
    assert (done.pixels[~mask] == 0.5).all()


def test_local_scores_are_tenths_of_a_deviation():
    # A dot of height h in a wide field: far wider than the dot, the window sees the field alone.
    rng = np.random.default_rng(0)
    tissue = 0.5 + 0.05 * rng.standard_normal((400, 300))
    tissue[200, 80] = 0.5 + 0.15
    done = prepare(film(half_disc((400, 300), tissue)), Preprocessing(intensity="local"))
    assert done.pixels[200, 80] == pytest.approx(0.5 + 3 / 10, abs=0.03)
    inside = done.pixels[done.foreground.mask]
    assert inside.mean() == pytest.approx(0.5, abs=0.01)
    assert inside.std() == pytest.approx(0.1, abs=0.01)


def test_a_local_radius_is_in_millimetres():
    tissue = np.tile(np.linspace(0.3, 0.9, 300), (400, 1))
    pixels = half_disc((400, 300), tissue)
    wide, narrow = (
        prepare(film(pixels, (s, s)), Preprocessing(intensity="local", local_radius_mm=r)).pixels
        for s, r in ((0.2, 8.0), (0.1, 4.0))
    )
    np.testing.assert_allclose(wide, narrow, atol=1e-6)


def test_resampling_needs_a_spacing_and_says_where_to_give_it():
    for wanted in (Preprocessing(spacing_mm=0.4), Preprocessing(intensity="local")):
        with pytest.raises(ImageError, match=r"spacing_mm column.*--spacing-mm"):
            prepare(film(half_disc(), None), wanted)
    prepare(film(half_disc(), None), Preprocessing(intensity="percentiles"))


def test_resampling_to_far_too_many_pixels_is_refused():
    with pytest.raises(ImageError, match=str(MOST_PIXELS)):
        prepare(film(half_disc(), (50.0, 50.0)), Preprocessing(spacing_mm=0.1))


@settings(max_examples=30)
@given(
    spacing=st.tuples(st.floats(0.1, 0.4), st.floats(0.1, 0.4)),
    target=st.floats(0.1, 0.5),
)
def test_resampling_keeps_extent_positions_and_means(spacing, target):
    # Two smooth spots 8 pixels wide on grey tissue that fills the field of a chest image.
    row, col = np.mgrid[:120, :100]
    spots = np.zeros((120, 100))
    for r, c in ((40, 30), (80, 70)):
        spots += np.exp(-((row - r) ** 2 + (col - c) ** 2) / 128)
    pixels = 0.3 + 0.5 * spots
    pixels[58:62, 88:92] = 0  # black, or the grey around the spots would be taken for margins
    done = prepare(film(pixels, spacing), Preprocessing(body_part="chest", spacing_mm=target))
    H, W = done.pixels.shape
    assert (round(120 * spacing[0] / target), round(100 * spacing[1] / target)) == (H, W)
    assert done.pixels.mean() == pytest.approx(pixels.mean(), abs=0.01)
    # The spots' centres, in millimetres from the image's corner, stay within half a pixel.
    for r, c in ((40, 30), (80, 70)):
        lines, columns = (np.arange(H) + 0.5) * target, (np.arange(W) + 0.5) * target
        y, x = (r + 0.5) * spacing[0], (c + 0.5) * spacing[1]
        near = np.ix_(np.abs(lines - y) < 16 * spacing[0], np.abs(columns - x) < 16 * spacing[1])
        weight = np.clip(done.pixels[near] - 0.31, 0, None)
        assert (weight.sum(1) @ lines[near[0][:, 0]]) / weight.sum() == pytest.approx(
            y, abs=target / 2
        )
        assert (weight.sum(0) @ columns[near[1][0]]) / weight.sum() == pytest.approx(
            x, abs=target / 2
        )


def test_oblong_pixels_become_square():
    pixels = half_disc((200, 100))
    done = prepare(film(pixels, (0.1, 0.2)), Preprocessing(spacing_mm=0.2))
    assert done.pixels.shape == (100, 100)
    assert done.foreground.mask.shape == (100, 100)
    assert done.foreground.mask.mean() == pytest.approx((pixels > 0).mean(), abs=0.03)


def test_the_prepared_image_is_read_only():
    done = prepare(film(half_disc()), Preprocessing(intensity="percentiles"))
    with pytest.raises(ValueError, match="read-only"):
        done.pixels[0, 0] = 0


def test_a_heatmap_of_the_same_shape_stays_as_it_is():
    values = np.array([[1, np.nan], [3, 4]], np.float32)
    np.testing.assert_array_equal(resampled(values, (2, 2)), values)


def test_a_heatmap_is_linear_between_centres():
    out = resampled(np.array([[0.0, 4.0]], np.float32), (1, 4))
    np.testing.assert_allclose(out, [[0, 1, 3, 4]])


def test_nan_stays_where_the_nearest_value_is_nan_and_pulls_at_nothing():
    values = np.array([[2, np.nan], [2, np.nan]], np.float32)
    out = resampled(values, (4, 4))
    np.testing.assert_allclose(out[:, :2], 2)
    assert np.isnan(out[:, 2:]).all()


shapes = st.tuples(st.integers(1, 50), st.integers(1, 50))


@given(old=shapes, new=shapes, value=st.floats(-100, 100, width=32), seed=st.integers(0, 9))
@settings(max_examples=80)
def test_constants_come_back_as_constants_and_nan_where_they_were(old, new, value, seed):
    values = np.full(old, value, np.float32)
    values[np.random.default_rng(seed).random(old) < 0.3] = np.nan
    out = resampled(values, new)
    row, col = (
        np.floor((np.arange(n) + 0.5) * o / n).astype(int) for n, o in zip(new, old, strict=True)
    )
    expected = values[np.ix_(row, col)]
    if old == new:
        expected = values
    np.testing.assert_array_equal(np.isnan(out), np.isnan(expected))
    np.testing.assert_allclose(out[np.isfinite(out)], value, rtol=1e-5, atol=1e-5)


@given(
    shape=st.tuples(st.integers(30, 60), st.integers(30, 60)),
    factor=st.floats(0.5, 2),
)
@settings(max_examples=50)
def test_a_ramp_survives_the_round_trip(shape, factor):
    row = (np.arange(shape[0], dtype=np.float32) + 0.5)[:, None] * np.ones(shape[1], np.float32)
    there = tuple(max(1, round(n * factor)) for n in shape)
    back = resampled(resampled(row, there), shape)
    # A ramp's value is its position: within half a pixel away from the repeated edge.
    assert np.abs(back - row)[2:-2].max() <= 0.5


def test_a_lesion_keeps_its_place_through_preparation_and_back():
    pixels = half_disc((300, 240), 0.4)
    pixels[150:153, 60:63] = 0.9
    source = film(pixels)
    done = prepare(source, Preprocessing(spacing_mm=0.3))
    back = resampled(done.pixels, source.shape)
    peak = np.maximum(back - 0.4, 0) * (np.hypot(*(np.mgrid[:300, :240] - [[[151]], [[61]]])) < 9)
    rows, cols = np.mgrid[:300, :240]
    assert (peak * rows).sum() / peak.sum() == pytest.approx(151, abs=0.5)
    assert (peak * cols).sum() / peak.sum() == pytest.approx(61, abs=0.5)


def test_padding_beside_a_straight_cut_is_covered_and_round_sides_keep_their_air() -> None:
    rows, cols = np.ogrid[:200, :200]
    breast = (((rows - 100) / 80) ** 2 + ((cols - 40) / 110) ** 2 < 1) & (cols >= 40)
    image = np.where(breast, 0.5 + rows / 1000, 0.02).astype(np.float32)
    image[:, :40] = 0.0  # a black bar beside the chest wall
    found = prepare(film(image), Preprocessing())
    wall = np.flatnonzero(found.foreground.mask.any(0))[0]
    assert 40 <= wall <= 44
    # The bar now holds the chest wall's own pixels, row by row; nothing else has changed.
    np.testing.assert_array_equal(found.pixels[:, :wall], image[:, wall : wall + 1].repeat(wall, 1))
    np.testing.assert_array_equal(found.pixels[:, wall:], image[:, wall:])


def test_pixels_without_spacing_become_square_by_their_aspect() -> None:
    oblong = Radiograph(
        half_disc((100, 200)).astype(np.float32), None, Source("drawn", "", pixel_aspect=2.0)
    )
    done = prepare(oblong, Preprocessing())
    assert done.pixels.shape == (200, 200)
    assert done.spacing_mm is None
    assert done.look.measures["image_aspect"] == 0
    assert resampled(done.pixels, oblong.shape).shape == (100, 200)
    given = replace(oblong, spacing_mm=(0.2, 0.2))  # what is known goes first
    assert prepare(given, Preprocessing()).pixels.shape == (100, 200)


def test_an_assumed_side_is_the_longer_one_in_mm() -> None:
    wanted = Preprocessing(assumed_side_mm=200)
    flat = np.zeros((300, 400), np.float32)
    assert wanted.assumed(Radiograph(flat, None, Source("", ""))) == (0.5, 0.5)
    tall = Radiograph(flat, None, Source("", "", pixel_aspect=2.0))
    assert wanted.assumed(tall) == pytest.approx((2 / 3, 1 / 3))  # 600 : 400
    assert wanted.assumed(Radiograph(flat, (0.1, 0.1), Source("", ""))) is None
    assert Preprocessing().assumed(Radiograph(flat, None, Source("", ""))) is None
    for rows in (199, 200):
        tiny = Radiograph(np.zeros((rows, 10), np.float32), None, Source("", ""))
        if rows == 200:
            assert wanted.assumed(tiny) == (1.0, 1.0)
        else:
            with pytest.raises(ImageError, match=r"199 × 10 pixels.* at least 200 along it"):
                wanted.assumed(tiny)
