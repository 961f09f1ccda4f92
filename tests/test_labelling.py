import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchad.core.image import Region
from patchad.engine.marks import find_marks
from patchad.errors import RequestError
from patchad.evaluation.labelling import (
    NEGATIVE,
    NOT_COUNTED,
    POSITIVE,
    hits,
    inside_image,
    label_patches,
    overlap,
    region_pixels,
)


def boxes(*rows):
    return np.array(rows, np.float64).reshape(-1, 4)  # row, col, height, width


# Patches of 10 × 10 at (0, 0), (0, 10) and (10, 0), (row, col).
THREE = boxes((0, 0, 10, 10), (0, 10, 10, 10), (10, 0, 10, 10))


@pytest.mark.parametrize(
    ("region", "expected"),
    [
        # within one patch
        (Region(x=2, y=2, width=4, height=4), [POSITIVE, NEGATIVE, NEGATIVE]),
        # 8 wide, 4 and 4 in the first two: each covers just half of it
        (Region(x=6, y=2, width=8, height=4), [POSITIVE, POSITIVE, NEGATIVE]),
        # 5 and 3: the second covers less than half and isn't counted
        (Region(x=5, y=2, width=8, height=4), [POSITIVE, NOT_COUNTED, NEGATIVE]),
        # a large region: covers half of the second patch (x 0-15), a tenth of the third
        (Region(x=0, y=0, width=15, height=11), [POSITIVE, POSITIVE, NOT_COUNTED]),
        # a hair less than half of the second patch, and less than half of the region
        (Region(x=0, y=0, width=14.9, height=10), [POSITIVE, NOT_COUNTED, NEGATIVE]),
        # touching the edge of the first is not touching
        (Region(x=10, y=0, width=5, height=5), [NEGATIVE, POSITIVE, NEGATIVE]),
        # x is the column, y the row
        (Region(x=2, y=12, width=4, height=4), [NEGATIVE, NEGATIVE, POSITIVE]),
    ],
)
def test_the_rule_for_boxes(region, expected):
    assert label_patches(THREE, [region]).label.tolist() == expected


def test_an_outline_counts_its_own_area():
    mask = np.zeros((10, 20), bool)
    mask[:, 17:] = True  # the lesion lies at columns 17 to 20, though its box begins at 0
    mask[0, 0] = True
    labels = label_patches(THREE, [Region(0, 0, 20, 10, mask=mask)])
    assert labels.label.tolist() == [NOT_COUNTED, POSITIVE, NEGATIVE]


def test_a_patch_may_be_positive_for_one_region_and_touch_another():
    regions = [Region(1, 1, 2, 2), Region(8, 1, 10, 2), Region(12, 5, 2, 2)]
    labels = label_patches(THREE, regions)
    assert labels.label.tolist() == [POSITIVE, POSITIVE, NEGATIVE]
    assert labels.of.tolist() == [
        [True, False, False],
        [False, True, True],
        [False, False, False],
    ]


def test_no_regions_leave_all_negative():
    labels = label_patches(THREE, [])
    assert labels.label.tolist() == [NEGATIVE] * 3
    assert labels.of.shape == (3, 0)


@given(
    st.tuples(*[st.floats(-5, 25)] * 2, *[st.floats(0.5, 15)] * 2),
    st.integers(0, 2**32 - 1),
)
def test_overlap_with_an_outline_is_the_sum_over_its_pixels(box, seed):
    mask = np.random.default_rng(seed).random((7, 9)) < 0.5
    region = Region(x=4, y=3, width=9, height=7, mask=mask)
    row, col, height, width = box
    rows = np.clip(
        np.minimum(np.arange(3, 10) + 1, row + height) - np.maximum(np.arange(3, 10), row), 0, 1
    )
    cols = np.clip(
        np.minimum(np.arange(4, 13) + 1, col + width) - np.maximum(np.arange(4, 13), col), 0, 1
    )
    assert overlap(region, boxes(box))[0] == pytest.approx(rows @ mask @ cols, abs=1e-9)
    full = Region(4, 3, 9, 7, mask=np.ones((7, 9), bool))
    plain = Region(4, 3, 9, 7)
    assert overlap(full, boxes(box)) == pytest.approx(overlap(plain, boxes(box)), abs=1e-9)


def test_regions_are_cut_to_their_image():
    inside = inside_image(Region(x=-2, y=5, width=10, height=10, kind="mass"), (12, 20), "a.png")
    assert (inside.x, inside.y, inside.width, inside.height) == (0, 5, 8, 7)
    assert inside.kind == "mass"


@pytest.mark.parametrize(
    "region",
    [Region(20, 0, 5, 5), Region(0, 12, 5, 5), Region(18, 0, 4, 4, mask=np.ones((4, 4), bool))],
)
def test_a_region_outside_its_image_is_refused(region):
    with pytest.raises(RequestError, match=r"20 columns × 12 rows of a\.png"):
        inside_image(region, (12, 20), "a.png")


def test_region_pixels_are_those_whose_centre_lies_inside():
    mask = np.array([[True, False], [False, True]])
    pixels = region_pixels([Region(0.5, 1.4, 2, 1.2), Region(3, 0, 2, 2, mask=mask)], (3, 5))
    assert pixels.astype(int).tolist() == [[0, 0, 0, 1, 0], [1, 1, 0, 0, 1], [1, 1, 0, 0, 0]]


def test_marks_silence_the_patches_whose_centre_they_hold():
    row = boxes(*((0, col, 4, 4) for col in (0, 2, 4, 5, 9)), (8, 8, 4, 4))
    scores = np.array([1.0, 3.0, 2.5, 2.0, 2.0, np.nan])
    # The second silences its neighbours, the centre of the third lying on its edge; the fourth
    # overlaps it, but keeps its centre; the last has no score.
    assert find_marks(row, scores).tolist() == [1, 3, 4]


@given(st.integers(1, 8), st.integers(0, 2**32 - 1))
def test_every_patch_has_its_centre_in_a_mark_no_lower(stride, seed):
    corners = np.stack(np.meshgrid(np.arange(0, 20, stride), np.arange(0, 20, stride)), -1)
    places = np.hstack([corners.reshape(-1, 2), np.full((corners.size // 2, 2), 8)]).astype(float)
    scores = np.random.default_rng(seed).integers(0, 9, len(places)).astype(float)
    marks = find_marks(places, scores)
    near = (np.abs(places[:, None, :2] - places[marks, :2]) <= 4).all(-1)
    assert (near & (scores[marks] >= scores[:, None])).any(1).all()
    assert near[marks].sum() == len(marks)  # no mark's centre lies in another


def test_patches_side_by_side_and_equal_all_mark():
    assert find_marks(THREE, np.ones(3)).tolist() == [0, 1, 2]


def test_a_mark_hits_by_its_centre_or_by_being_positive():
    ring = np.ones((3, 3), bool)
    ring[1, 1] = False
    regions = [Region(4.9, 4.9, 6, 6), Region(12, 2, 2, 2), Region(4, 14, 3, 3, mask=ring)]
    found = hits(boxes((0, 0, 10, 10), (0, 10, 10, 10), (14, 4, 3, 3), (10, 0, 11, 11)), regions)
    # The third patch has its centre in the hole of the ring, but covers all of it.
    assert found.tolist() == [
        [True, False, False],
        [False, True, False],
        [False, False, True],
        [False, False, True],
    ]


def test_a_mark_in_the_hole_of_an_outline_misses():
    ring = np.ones((9, 9), bool)
    ring[1:-1, 1:-1] = False
    assert hits(boxes((3, 3, 3, 3)), [Region(0, 0, 9, 9, mask=ring)]).tolist() == [[False]]
    assert hits(boxes((3, 3, 3, 3)), [Region(0, 0, 9, 9)]).tolist() == [[True]]
