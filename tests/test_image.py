import dataclasses

import numpy as np
import pytest

from patchad.core.grid import PatchGrid
from patchad.core.image import (
    Foreground,
    Heatmap,
    PatchScores,
    Radiograph,
    Region,
    Screening,
    Source,
)

SOURCE = Source("film.dcm", digest="0" * 64)
NAN = float("nan")


def radiograph(pixels, spacing_mm=(0.2, 0.1)):
    return Radiograph(np.asarray(pixels, np.float32), spacing_mm, SOURCE)


def scores(values, foreground):
    grid = PatchGrid((2, 2 * len(values)), size=2, stride=2)
    return PatchScores(grid, np.array(values, np.float32), np.array(foreground, np.float32))


def test_a_radiograph_knows_its_shape_and_cannot_be_changed():
    film = radiograph(np.zeros((3, 5)))
    assert film.shape == (3, 5)
    with pytest.raises(ValueError, match="read-only"):
        film.pixels[0, 0] = 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        film.spacing_mm = None


def test_nouns_with_arrays_are_told_apart_by_identity():
    assert radiograph([[0]]) != radiograph([[0]])
    film = radiograph([[0]])
    assert len({film, film}) == 1


@pytest.mark.parametrize(
    ("pixels", "found"),
    [([[0, 1.5]], r"\[0, 1\.5\]"), ([[-0.25, 1]], r"\[-0\.25, 1\]"), ([[0, NAN]], "nan")],
)
def test_pixels_outside_0_to_1_are_refused(pixels, found):
    with pytest.raises(ValueError, match=found):
        radiograph(pixels)


def test_an_image_without_pixels_is_refused():
    with pytest.raises(ValueError, match=r"\(0, 4\)"):
        radiograph(np.zeros((0, 4)))


@pytest.mark.parametrize("spacing_mm", [(0, 0.1), (0.1, -1), (NAN, 0.1), (0.1, float("inf"))])
def test_a_spacing_that_is_no_length_is_refused(spacing_mm):
    with pytest.raises(ValueError, match="positive millimetres"):
        radiograph([[0]], spacing_mm)


def test_a_spacing_may_be_unknown():
    assert radiograph([[0]], None).spacing_mm is None


@pytest.mark.parametrize(
    ("array", "found"),
    [
        (np.zeros((2, 2)), "float64"),
        (np.zeros((2, 2), np.uint16), "uint16"),
        (np.zeros((1, 2, 2), np.float32), r"\(1, 2, 2\)"),
    ],
)
def test_arrays_of_another_kind_are_refused(array, found):
    with pytest.raises(TypeError, match=rf"pixels must have 2 axes of float32.*{found}"):
        Radiograph(array, None, SOURCE)
    with pytest.raises(TypeError, match=rf"values must have 2 axes of float32.*{found}"):
        Heatmap(array, "RMSE")
    with pytest.raises(TypeError, match=rf"mask must have 2 axes of bool.*{found}"):
        Foreground(array, "otsu", 0.1)


def test_a_region_is_a_box_with_or_without_its_outline():
    mask = np.array([[True, False, True], [True, True, True]])
    region = Region(10, 20, width=3, height=2, kind="mass", mask=mask)
    assert region.mask.sum() == 5
    assert not region.mask.flags.writeable
    assert Region(0.5, 0, 1.5, 2).mask is None


@pytest.mark.parametrize(("width", "height"), [(0, 1), (1, -1), (NAN, 1)])
def test_a_region_without_a_size_is_refused(width, height):
    with pytest.raises(ValueError, match="positive size"):
        Region(0, 0, width, height)


def test_an_outline_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"\(3, 2\) is not 2 × 3"):
        Region(0, 0, width=3, height=2, mask=np.ones((3, 2), bool))


def test_patches_without_a_score_are_known():
    found = scores([0.5, NAN, 0.25], [1, 0, 0.75])
    assert found.scored.tolist() == [True, False, True]
    assert not found.values.flags.writeable
    assert not found.foreground.flags.writeable


def test_there_is_a_score_and_a_foreground_for_each_patch():
    grid = PatchGrid((2, 6), size=2, stride=2)
    three, two = np.zeros(3, np.float32), np.zeros(2, np.float32)
    with pytest.raises(ValueError, match="values: 2 values for 3 patches"):
        PatchScores(grid, two, three)
    with pytest.raises(ValueError, match="foreground: 2 values for 3 patches"):
        PatchScores(grid, three, two)


def test_boxes_of_a_screening_are_in_pixels_of_the_source():
    screening = Screening(
        source=SOURCE,
        scores=scores([1, 2], [1, 1]),  # scored at 2 × 4 pixels
        heatmap=Heatmap(np.zeros((4, 40), np.float32), "RMSE"),  # read at 4 × 40
        score=2.0,
        percentile=50.0,
        flagged=False,
        patch_percentiles=np.zeros(2, np.float32),
        baselines={},
    )
    assert screening.boxes.tolist() == [[0, 0, 4, 20], [0, 20, 4, 20]]
