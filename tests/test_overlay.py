"""The overlay: every pixel where it belongs, every colour what it says."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from patchad.core.image import Heatmap, Radiograph, Source
from patchad.engine.marks import Mark
from patchad.errors import ImageError
from patchad.export import overlay as module
from patchad.export.layer import (
    LONG_SIDE,
    OUTLINE,
    blend,
    display_shape,
    film_grey,
    layer,
    levels,
    palette,
)
from patchad.export.overlay import overlay, write_overlay

CYAN = (0, 255, 255)


def film(pixels: np.ndarray, spacing: tuple[float, float] | None = None) -> Radiograph:
    return Radiograph(pixels.astype(np.float32), spacing, Source("film.dcm", "0" * 64))


def heat(values: np.ndarray) -> Heatmap:
    return Heatmap(values.astype(np.float32), "RMSE")


def mark(row: int, col: int, mask: np.ndarray) -> Mark:
    return Mark(1, 1.0, 0.5, 1.0, row, col, mask, np.empty((0, 2)), np.nan)


def box(row: int, col: int, height: int, width: int) -> Mark:
    return mark(row, col, np.ones((height, width), bool))


def draw(
    radiograph: Radiograph,
    heatmap: Heatmap,
    marks: Sequence[Mark] = (),
    labels: Sequence[str] = (),
) -> np.ndarray:
    return overlay(
        radiograph,
        heatmap,
        display_range=(1.0, 2.0),
        threshold=1.5,
        marks=marks,
        labels=labels,
        caption=["film.dcm"],
    )


# A film of 600 pixels a side is drawn pixel for pixel.
GREY = film(np.full((600, 600), 0.4))
SILENT = heat(np.full((600, 600), np.nan))


def test_the_colour_scale_ends_where_the_card_says() -> None:
    values = np.array([-5.0, 1.0, 1.5, 2.0, 9.0, np.nan, 0.999], np.float32)
    assert levels(values, (1.0, 2.0)).tolist() == [0, 0, 127, 254, 254, 0, 0]
    colours = palette()
    assert colours.shape == (256, 4)
    assert colours[0, 3] == 0  # transparent
    assert colours[254].tolist() == [240, 249, 33, 153]  # the end of plasma, at 60 %
    assert tuple(colours[OUTLINE]) == (*CYAN, 255)
    assert np.all(np.diff(colours[:255, 3].astype(int)) >= 0)


def test_no_colour_of_the_scale_passes_for_film() -> None:
    rgb = palette()[1:255, :3].astype(int)
    assert np.all(rgb.max(axis=1) - rgb.min(axis=1) > 100)


def test_a_range_that_does_not_rise_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must rise, got 2 … 2"):
        levels(np.zeros(1, np.float32), (2.0, 2.0))


def test_blending_by_hand() -> None:
    grey = np.array([[100, 100, 0]], np.uint8)
    index = np.array([[0, 254, OUTLINE]], np.uint8)
    # 0.4 × 100 + 0.6 × (240, 249, 33) = (184, 189.4, 59.8)
    assert blend(grey, index).tolist() == [[[100, 100, 100], [184, 189, 60], [0, 255, 255]]]


def test_film_shows_through_where_nothing_was_scored_or_the_score_is_low() -> None:
    values = np.full((600, 600), np.nan)
    values[:300] = 1.0  # the low end: a normal film looks calm
    picture = draw(GREY, heat(values))
    assert np.all(picture[:600, :600] == 102)  # 0.4 × 255


def test_brighter_stays_brighter() -> None:
    ramp = np.tile(np.linspace(0, 1, 600), (600, 1))
    picture = draw(film(ramp), SILENT)[:600, :600]
    assert picture[0, 0].tolist() == [0, 0, 0]
    assert picture[0, 599].tolist() == [255, 255, 255]


def test_heatmap_is_neither_mirrored_nor_displaced() -> None:
    values = np.full((600, 600), np.nan)
    values[40:50, 500:530] = 2.0
    picture = draw(GREY, heat(values))[:600, :600]
    coloured = np.any(picture != 102, axis=2)
    expected = np.zeros((600, 600), bool)
    expected[40:50, 500:530] = True
    np.testing.assert_array_equal(coloured, expected)


def test_a_box_is_outlined_on_exactly_its_own_edge_pixels() -> None:
    picture = draw(GREY, SILENT, [box(10, 30, 10, 40)])[:600, :600]
    expected = np.zeros((600, 600), bool)
    expected[10:20, 30:70] = True
    expected[11:19, 31:69] = False
    np.testing.assert_array_equal(np.all(picture == CYAN, axis=2), expected)
    assert np.all(picture[~expected] == 102)


def test_each_mark_is_outlined_and_labelled() -> None:
    bent = np.ones((100, 150), bool)
    bent[50:, :50] = False
    marks = [mark(100, 100, bent), box(300, 300, 100, 100)]
    picture = draw(GREY, SILENT, marks, ["1: 1 in 9", "2: 1 in 2"])[:600, :600]
    cyan = np.all(picture == CYAN, axis=2)
    assert cyan[100, 100:250].all()
    assert cyan[149, 100:150].all()  # the lower edge of the upper left part
    assert cyan[150:200, 150].all()
    assert not cyan[101:149, 101:249].any()
    assert cyan[300:400, 300].all()
    # A label stands over its mark: dark, and written on.
    for row, col in ((100, 100), (300, 300)):
        label = picture[row - 21 : row - 3, col : col + 60]
        assert np.all(label == 16, axis=2).any()
        assert np.all(label == CYAN, axis=2).any()
    assert np.all(picture[404:] == 102)


def test_a_mark_too_small_for_an_edge_is_outlined_around() -> None:
    cyan = np.all(draw(GREY, SILENT, [box(50, 60, 2, 3)])[:600, :600] == CYAN, axis=2)
    expected = np.zeros((600, 600), bool)
    expected[47:55, 57:66] = True
    expected[48:54, 58:65] = False
    np.testing.assert_array_equal(cyan, expected)


def test_an_edge_around_a_mark_in_a_corner_stays_on_the_film() -> None:
    cyan = np.all(draw(GREY, SILENT, [box(0, 598, 1, 2)])[:600, :600] == CYAN, axis=2)
    rows, cols = np.nonzero(cyan)
    assert (rows.max(), cols.min()) == (3, 595)


def test_the_first_mark_lies_on_top_and_its_label_is_kept() -> None:
    marks = [box(200, 200, 100, 100), box(180, 200, 100, 100)]
    both = draw(GREY, SILENT, marks, ["1: 1 in 9", "2: 1 in 2"])
    first = draw(GREY, SILENT, marks[:1], ["1: 1 in 9"])
    np.testing.assert_array_equal(both[179:197, 200:280], first[179:197, 200:280])


def test_a_box_at_the_border_is_closed() -> None:
    picture = draw(GREY, SILENT, [box(472, 472, 128, 128)])[:600, :600]
    cyan = np.all(picture == CYAN, axis=2)
    assert cyan[599, 472:].all()
    assert cyan[472:, 599].all()


def test_large_films_are_scaled_with_their_boxes() -> None:
    values = np.full((4096, 3072), np.nan, np.float32)
    values[1000:1200, 2000:2400] = 2.0
    picture = draw(film(np.full((4096, 3072), 0.4)), heat(values), [box(0, 0, 400, 200)])
    shown = picture[:2048, :1536]
    assert picture.shape[0] > 2048
    assert picture.shape[1] > 1536
    coloured = np.all(shown == [185, 190, 61], axis=2)  # 0.4 × 102 + 0.6 × (240, 249, 33)
    rows, cols = np.nonzero(coloured)
    assert (rows.min(), rows.max(), cols.min(), cols.max()) == (500, 599, 1000, 1199)
    assert coloured.sum() == 100 * 200
    cyan = np.all(shown == CYAN, axis=2)
    rows, cols = np.nonzero(cyan)
    assert (rows.min(), rows.max(), cols.min(), cols.max()) == (0, 199, 0, 99)


def test_nan_does_not_bleed_when_scaling() -> None:
    values = np.full((4096, 4096), np.nan, np.float32)
    values[:, :2048] = 2.0
    index = layer(film(np.zeros((4096, 4096))), heat(values), (1000, 1000),
                  display_range=(1.0, 2.0), marks=())  # fmt: skip
    assert np.all(index[:, :500] == 254)
    assert np.all(index[:, 500:] == 0)


@pytest.mark.parametrize(
    ("shape", "spacing", "expected"),
    [
        ((1024, 1024), None, (1024, 1024)),
        ((4000, 3000), (0.07, 0.07), (2048, 1536)),
        ((1000, 800), (0.2, 0.1), (2000, 800)),  # twice as far from row to row
        ((1000, 800), (0.1, 0.2), (1000, 1600)),
        ((3000, 3000), (0.1, 0.05), (2048, 1024)),
        ((64, 32), None, (512, 256)),  # tiny ones by a whole number
        ((300, 200), None, (300, 200)),
        ((1, 1), None, (512, 512)),
        ((10000, 1), None, (2048, 1)),
    ],
)
def test_display_shape(
    shape: tuple[int, int], spacing: tuple[float, float] | None, expected: tuple[int, int]
) -> None:
    assert display_shape(shape, spacing) == expected


@given(
    st.tuples(st.integers(1, 6000), st.integers(1, 6000)),
    st.tuples(st.floats(0.02, 1), st.floats(0.02, 1)),
)
def test_any_film_fits(shape: tuple[int, int], spacing: tuple[float, float]) -> None:
    rows, cols = display_shape(shape, spacing)
    assert 1 <= min(rows, cols) <= max(rows, cols) <= LONG_SIDE
    true = shape[0] * spacing[0] / (shape[1] * spacing[1])
    assert (rows - 1) / (cols + 1) <= true * 1.001
    assert (rows + 1) / max(cols - 1, 1e-9) >= true * 0.999


def test_tiny_films_are_enlarged_pixel_for_pixel() -> None:
    values = np.full((64, 32), np.nan)
    values[3, 5] = 2.0
    picture = draw(film(np.full((64, 32), 0.4)), heat(values))[:512, :256]
    coloured = np.any(picture != 102, axis=2)
    expected = np.zeros((512, 256), bool)
    expected[24:32, 40:48] = True
    np.testing.assert_array_equal(coloured, expected)


def test_a_heatmap_of_another_size_is_refused() -> None:
    with pytest.raises(ImageError, match=r"\(5, 6\) pixels .*\(600, 600\)"):
        draw(GREY, heat(np.zeros((5, 6))))


def test_the_bar_carries_the_scale_and_the_threshold() -> None:
    picture = draw(GREY, SILENT)
    bar = picture[:600, 600:]
    cyan_rows = np.flatnonzero(np.all(bar == CYAN, axis=2).sum(axis=1) > 20)
    yellow = np.flatnonzero(np.any(np.all(bar == [246, 251, 122], axis=2), axis=1))  # over white
    white = np.flatnonzero(np.any(np.all(bar == 255, axis=2), axis=1))
    top, bottom = yellow.min(), white.max()
    assert top < bottom  # high scores above
    assert cyan_rows.mean() == pytest.approx((top + bottom) / 2, abs=2)  # 1.5 of 1 … 2


def test_a_map_on_another_scale_than_marks_has_no_threshold() -> None:
    bar = module._colour_bar(module._Ink.of_height(600), 600, "s.d.", (1.0, 2.0), None)
    assert not np.all(np.asarray(bar) == CYAN, axis=2).any()


@pytest.mark.parametrize(("threshold", "end"), [(9.0, 0), (-3.0, -1)])
def test_a_threshold_beyond_the_range_is_marked_at_its_end(threshold: float, end: int) -> None:
    bar = np.asarray(
        module._colour_bar(module._Ink.of_height(600), 600, "RMSE", (1.0, 2.0), threshold)
    )
    marks = np.flatnonzero(np.all(bar == CYAN, axis=2).sum(axis=1) > 20)
    inside = np.asarray(
        module._colour_bar(module._Ink.of_height(600), 600, "RMSE", (1.0, 2.0), (2.0, 1.0)[end])
    )
    expected = np.flatnonzero(np.all(inside == CYAN, axis=2).sum(axis=1) > 20)
    assert abs(int(marks[0]) - int(expected[0])) <= 1


@pytest.mark.parametrize("shape", [(1, 1), (1, 3000), (3000, 1), (40, 900), (900, 40)])
def test_odd_shapes_keep_their_text(shape: tuple[int, int]) -> None:
    picture = overlay(
        film(np.zeros(shape)),
        heat(np.ones(shape)),
        display_range=(1.0, 2.0),
        threshold=1.5,
        marks=[box(0, 0, *shape)],
        labels=["1: 1 in 9"],
        caption=["a" * 300],
    )
    # A margin all round the text: nothing touches the right or the lower edge.
    assert np.all(picture[-2:] == 16)
    assert np.all(picture[-100:, -4:] == 16)


def test_written_as_drawn(tmp_path: Path) -> None:
    ramp = film(np.tile(np.linspace(0, 1, 600), (600, 1)))
    write_overlay(tmp_path / "overlays" / "a.png", draw(ramp, SILENT))
    with Image.open(tmp_path / "overlays" / "a.png") as image:
        assert image.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(image), draw(ramp, SILENT))
    np.testing.assert_array_equal(film_grey(ramp, (600, 600))[0, [0, -1]], [0, 255])
