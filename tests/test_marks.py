"""Marks: which patches they are, what is outlined of them, and where that lies."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skimage.draw import polygon2mask

from patchad.core.grid import PatchGrid
from patchad.core.image import PatchScores
from patchad.core.turn import AS_STORED, MIRRORED
from patchad.engine.marks import Mark, find_marks, marks_of
from patchad.errors import RequestError
from patchad.export.geojson import write_geojson
from patchad.export.verdict import label_of, marks_in_words, rarity_in_words
from patchad.model.calibration import Calibration, MarkCalibration, Shares
from patchad.model.rarity import Rarity
from patchad.store.marks_table import COLUMNS, read_marks, write_marks

SIZE, STRIDE, SHAPE = 32, 16, (160, 128)
UNKNOWN = (math.nan, math.nan)
PATCHES = Calibration(
    pooling="max",
    top_k=1,
    patch_shares=Shares((0.0, 1.0), (0.0, 1.0), (0.0, 1.0)),
    patient_scores=(0.5,),
    patch_threshold=1.0,
    image_threshold=1.5,
    display_range=(1.0, 5.0),
    images=6,
    patients=6,
    patches=40,
    marks=MarkCalibration(
        threshold=1.0,
        per_film=1.0,
        dense=False,
        decides=True,
        stride=STRIDE,
        rarity=Rarity((1.25, 1.75), (1.0, 0.5, 0.0625), (2.0, 1.0, 0.25), 15, 6),
    ),
)
DENSE = replace(PATCHES, marks=replace(PATCHES.marks, dense=True))


def scores(named: dict[tuple[int, int], float], grid: PatchGrid | None = None) -> PatchScores:
    """0.5 for all patches but those named by their corner (row, col)."""
    grid = grid or PatchGrid(SHAPE, SIZE, STRIDE)
    values = np.full(len(grid), 0.5, np.float32)
    for corner, score in named.items():
        values[(grid.corners == corner).all(1)] = score
    return PatchScores(grid, values, np.ones(len(grid), np.float32))


def found(
    named: dict[tuple[int, int], float],
    calibration: Calibration = PATCHES,
    dense: np.ndarray | None = None,
    *,
    shape: tuple[int, int] = SHAPE,
    spacing: tuple[float, float] = UNKNOWN,
    flagged: bool = False,
) -> tuple[Mark, ...]:
    return marks_of(scores(named), calibration, shape, spacing, dense, flagged=flagged)


def pixels(mark: Mark, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    whole = np.zeros(shape, bool)
    height, width = mark.mask.shape
    whole[mark.row : mark.row + height, mark.col : mark.col + width] = mark.mask
    return whole


def bump(row: float, col: float, height: float, radius: float) -> np.ndarray:
    """A map that falls in a straight line from ``height`` to 0 at ``radius``."""
    rows, cols = np.indices(SHAPE)
    away = np.hypot(rows - row, cols - col)
    return np.maximum(height * (1 - away / radius), 0).astype(np.float32)


def test_a_mark_is_the_highest_patch_around() -> None:
    first, second = found({(32, 48): 2.0, (48, 64): 1.25, (112, 96): 1.5}, spacing=(0.5, 0.2))
    assert (first.number, first.score, first.rarity, first.upper) == (1, 2.0, 0.0625, 0.25)
    assert (second.number, second.score, second.rarity, second.upper) == (2, 1.5, 0.5, 1.0)
    assert first.box == (48, 32, 32, 32)  # the patch of 1.25 has its centre on its edge
    assert first.mask.all()
    assert first.area_mm2 == pytest.approx(32 * 32 * 0.1)
    assert second.box == (96, 112, 32, 32)
    assert second.centre == (112, 128)
    assert len(first.outline) == 9  # eight points: four corners, cut


def test_marks_are_those_of_free_response_analysis() -> None:
    rng = np.random.default_rng(0)
    grid = PatchGrid(SHAPE, SIZE, STRIDE)
    values = rng.normal(1, 1, len(grid)).astype(np.float32)
    image = PatchScores(grid, values, np.ones(len(grid), np.float32))
    marks = marks_of(image, PATCHES, SHAPE, UNKNOWN, None, flagged=False)
    expected = [n for n in find_marks(grid.boxes(), values) if values[n] > 1.0]
    assert [mark.score for mark in marks] == values[expected].tolist()
    np.testing.assert_array_equal([mark.box[1::-1] for mark in marks], grid.corners[expected])


def test_the_threshold_itself_is_not_over_it_and_unscored_patches_are_no_marks() -> None:
    assert found({(32, 32): 1.0, (64, 64): math.nan}) == ()


def test_a_flagged_image_is_marked_down_to_the_image_threshold() -> None:
    strict = replace(PATCHES, marks=replace(PATCHES.marks, threshold=3.0))
    named = {(32, 32): 2.0, (96, 64): 1.75}
    assert found(named, strict) == ()
    assert [mark.score for mark in found(named, strict, flagged=True)] == [2.0, 1.75]
    assert [mark.score for mark in found({**named, (0, 0): 4.0}, strict, flagged=True)] == [4.0]
    own = replace(strict, marks=replace(strict.marks, decides=False))
    assert found(named, own, flagged=True) == ()  # its score isn't a mark's


def test_rarity_is_not_known_at_another_stride() -> None:
    grid = PatchGrid(SHAPE, SIZE, 32)
    (mark,) = marks_of(scores({(32, 32): 2.0}, grid), PATCHES, SHAPE, UNKNOWN, None, flagged=False)
    assert mark.score == 2.0
    assert math.isnan(mark.rarity)
    assert math.isnan(mark.upper)
    assert label_of(mark, PATCHES) == "1: not known"
    assert "stride is not the model's" in marks_in_words(1, PATCHES, calibrated=False)


def test_a_map_is_outlined_around_its_peak() -> None:
    dense = bump(63, 63, 9.0, 20)
    dense[60, 90] = 99.0  # in another patch
    (mark,) = found({(48, 48): 2.0}, DENSE, dense)
    # Down to halfway between 9 and the 1 where colours begin, within the patch.
    np.testing.assert_array_equal(pixels(mark), (dense >= 5) & (dense <= 9))
    assert mark.centre == (63.5, 63.5)


def test_the_outline_ends_with_the_patch() -> None:
    (mark,) = found({(48, 48): 2.0}, DENSE, bump(63, 50, 9.0, 20))
    assert mark.box[0] == 48
    assert pixels(mark)[63, 48:56].all()


def test_marks_share_no_pixel() -> None:
    dense = bump(56, 56, 9.0, 40)
    first, second = found({(32, 32): 2.0, (32, 56 - 8): 1.0, (56 - 8, 64): 1.5}, DENSE, dense)
    assert not (pixels(first) & pixels(second)).any()
    assert (pixels(first) | pixels(second))[50:62, 50:62].all()
    assert pixels(first)[50, 50]
    assert pixels(second)[62, 68]


def test_of_a_flat_map_the_patch_is_outlined() -> None:
    for dense in (np.full(SHAPE, 0.5, np.float32), np.full(SHAPE, np.nan, np.float32)):
        (mark,) = found({(48, 64): 2.0}, DENSE, dense)
        assert mark.box == (64, 48, 32, 32)


@given(
    st.tuples(st.integers(1, 300), st.integers(1, 300)),
    st.tuples(st.integers(1, 120), st.integers(1, 120)),
    st.integers(2, 40),
    st.integers(1, 40),
    st.integers(0, 2**32),
    st.booleans(),
    st.booleans(),
)
def test_any_image_has_sound_marks(
    shape: tuple[int, int],
    prepared: tuple[int, int],
    size: int,
    stride: int,
    seed: int,
    dense: bool,
    mirrored: bool,
) -> None:
    rng = np.random.default_rng(seed)
    grid = PatchGrid(prepared, size, min(stride, size), MIRRORED if mirrored else AS_STORED)
    values = rng.integers(0, 4, len(grid)).astype(np.float32)
    values[rng.random(len(grid)) < 0.2] = np.nan
    picture = rng.normal(1, 2, shape).astype(np.float32)
    picture[rng.random(shape) < 0.2] = np.nan
    calibration = replace(PATCHES, marks=replace(PATCHES.marks, threshold=2.0, dense=dense))
    image = PatchScores(grid, values, np.ones(len(grid), np.float32))
    marks = marks_of(image, calibration, shape, (0.5, 0.5), picture, flagged=False)
    assert bool(marks) == bool((values > 2).any())
    assert [mark.number for mark in marks] == list(range(1, len(marks) + 1))
    ranked = [mark.score for mark in marks]
    assert ranked == sorted(ranked, reverse=True)
    for mark in marks:
        x, y, width, height = mark.box
        assert 0 <= x < x + width <= shape[1]
        assert 0 <= y < y + height <= shape[0]
        assert mark.mask[[0, -1]].any(1).all()  # the box is no larger than the mask
        assert mark.mask[:, [0, -1]].any(0).all()
        np.testing.assert_array_equal(mark.outline[0], mark.outline[-1])
        low, high = mark.outline.min(0), mark.outline.max(0)
        np.testing.assert_allclose([*low, *high], [x, y, x + width, y + height])
        assert mark.area_mm2 == mark.mask.sum() / 4


def test_the_outline_encloses_the_mask() -> None:
    (mark,) = found({(48, 48): 2.0}, DENSE, bump(63, 60, 9.0, 20))
    filled = polygon2mask(SHAPE, mark.outline[:, ::-1] - 0.5)
    assert np.count_nonzero(filled ^ pixels(mark)) <= 8  # half a pixel a corner


def test_a_mirrored_grid_gives_the_mirror_image() -> None:
    named = {(32, 48): 2.0, (48, 64): 1.25, (112, 96): 1.5}
    dense = bump(50, 65, 9.0, 20) + bump(125, 110, 4.0, 9)
    for calibration in (PATCHES, DENSE):
        plain = found(named, calibration, dense)
        turned = marks_of(
            scores(named).turned(MIRRORED),
            calibration,
            SHAPE,
            UNKNOWN,
            np.ascontiguousarray(dense[:, ::-1]),
            flagged=False,
        )
        for one, other in zip(plain, turned, strict=True):
            assert one.score == other.score
            np.testing.assert_array_equal(pixels(one), pixels(other)[:, ::-1])


def test_the_table_of_marks(tmp_path: Path) -> None:
    marks = found({(32, 48): 2.0, (112, 96): 1.5}, spacing=(0.5, 0.5))
    bare = found({(0, 0): 1.5})
    write_marks(tmp_path, {"007": marks, "none": (), "b": bare})
    table = read_marks(tmp_path)
    assert table["image_id"].tolist() == ["007", "007", "b"]
    assert table["number"].tolist() == [1, 2, 1]
    first = table.iloc[0]
    assert tuple(first[["x", "y", "width", "height"]]) == (48, 32, 32, 32)
    assert tuple(first[["centre_x", "centre_y", "area_mm2"]]) == (64, 48, 256)
    assert tuple(first[["score", "rarity", "rarity_upper"]]) == (2.0, 0.0625, 0.25)
    assert math.isnan(table["area_mm2"][2])
    write_marks(tmp_path, {"a": ()})
    assert (tmp_path / "marks.csv").read_text() == ",".join(COLUMNS) + "\n"
    assert len(read_marks(tmp_path)) == 0


@pytest.mark.parametrize("content", ["", "image_id,number\na,1\n", "x" * 20])
def test_a_table_that_is_none_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "marks.csv").write_text(content)
    with pytest.raises(RequestError, match=r"cannot be read as the marks .* screen again"):
        read_marks(tmp_path)


def test_geojson(tmp_path: Path) -> None:
    marks = found({(32, 48): 2.0, (112, 96): 1.5})
    write_geojson(tmp_path / "a.geojson", "a", marks, PATCHES)
    content = json.loads((tmp_path / "a.geojson").read_text("utf-8"))
    assert content["type"] == "FeatureCollection"
    assert "pixels of the image as stored" in content["coordinates_are"]
    first, second = content["features"]
    (ring,) = first["geometry"]["coordinates"]
    assert (first["type"], first["geometry"]["type"]) == ("Feature", "Polygon")
    assert ring[0] == ring[-1]
    x, y = np.array(ring).T
    assert (x.min(), x.max(), y.min(), y.max()) == (48, 80, 32, 64)
    assert (x[:-1] * y[1:] - x[1:] * y[:-1]).sum() / 2 == pytest.approx(32 * 32, abs=2)
    assert first["properties"]["rarity"] == 0.0625
    assert first["properties"]["area_mm2"] is None
    assert "fewer than 1 of 15 normal films" in first["properties"]["words"]
    assert second["id"] == "a/2"
    write_geojson(tmp_path / "b.geojson", "b", (), PATCHES)
    assert json.loads((tmp_path / "b.geojson").read_text())["features"] == []


def test_words() -> None:
    first, second = found({(32, 48): 2.0, (112, 96): 1.5})
    assert (label_of(first, PATCHES), label_of(second, PATCHES)) == ("1: <1 in 15", "2: 1 in 2")
    assert rarity_in_words(first, PATCHES) == (
        "a mark this strong is seen in fewer than 1 of 15 normal films (at most 1 in 4, 95 % bound)"
    )
    own = replace(PATCHES, marks=replace(PATCHES.marks, decides=False))
    assert marks_in_words(10, own) == (
        "10 marks, a normal film has 1; its score has a scale of its own: marks don't decide "
        "whether it is flagged"
    )
    assert marks_in_words(0, PATCHES).startswith("no marks, a normal film has 1; its strongest")
