import math
from typing import get_args

import numpy as np
import pytest
from builders import cut, means, stitch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from patchad.core.grid import PatchGrid, Weighting, batches, window_profile
from patchad.core.turn import MIRRORED, QUARTERS, Turn

WEIGHTINGS = get_args(Weighting)


@st.composite
def grids(draw, longest=1000, most=400):
    """Grids of every kind, with few enough patches that a naive loop is fast."""
    shape = (draw(st.integers(1, longest)), draw(st.integers(1, longest)))
    size = draw(st.integers(1, 256))
    stride = draw(st.integers(1, size))
    assume(math.prod(length / stride + 2 for length in shape) <= most)
    return PatchGrid(shape, size, stride)


@st.composite
def grids_and_values(draw):
    grid = draw(grids(longest=200, most=150))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return grid, rng.normal(size=len(grid)).astype(np.float32), rng


def naive_stitch(grid, values, weighting):
    """The formula of stitch, pixel by pixel from the definition; patches in reverse order."""
    window = np.outer(*[window_profile(grid.size, weighting)] * 2)
    total, weight = np.zeros(grid.shape), np.zeros(grid.shape)
    for i in reversed(range(len(grid))):
        if np.isnan(values[i]):
            continue
        row, col = grid.corners[i]
        for r in range(row, min(row + grid.size, grid.shape[0])):
            for c in range(col, min(col + grid.size, grid.shape[1])):
                total[r, c] += window[r - row, c - col] * float(values[i])
                weight[r, c] += window[r - row, c - col]
    with np.errstate(invalid="ignore"):
        return total / weight


def test_last_patches_are_shifted_inward():
    grid = PatchGrid((5, 7), size=3, stride=3)
    assert grid.corners.tolist() == [[0, 0], [0, 3], [0, 4], [2, 0], [2, 3], [2, 4]]


def test_a_length_that_fits_gets_no_extra_patch():
    assert PatchGrid((4, 8), size=4, stride=2).corners.tolist() == [[0, 0], [0, 2], [0, 4]]


@given(grids())
def test_every_pixel_is_covered_and_no_patch_leaves_the_image(grid):
    covered = np.zeros(grid.shape, bool)
    for row, col in grid.corners:
        assert row >= 0
        assert col >= 0
        covered[row : row + grid.size, col : col + grid.size] = True
    assert covered.all()
    for axis in (0, 1):
        ends = grid.corners[:, axis] + grid.size
        assert ends.max() == max(grid.shape[axis], grid.size)


@given(grids())
def test_patches_are_stride_apart_until_the_last(grid):
    for axis in (0, 1):
        steps = np.diff(np.unique(grid.corners[:, axis]))
        assert (steps[:-1] == grid.stride).all()
        assert (steps[-1:] <= grid.stride).all()
    assert len(np.unique(grid.corners, axis=0)) == len(grid)


@given(grids(longest=300), st.integers(0, 2**32 - 1))
def test_cut_is_slicing(grid, seed):
    pixels = np.random.default_rng(seed).random(grid.shape, np.float32)
    patches = cut(grid, pixels)
    assert patches.dtype == np.float32
    assert patches.shape == (len(grid), grid.size, grid.size)
    below, right = (max(grid.size - length, 0) for length in grid.shape)
    padded = np.pad(pixels, [(0, below), (0, right)], mode="edge")
    for patch, (row, col) in zip(patches, grid.corners, strict=True):
        np.testing.assert_array_equal(patch, padded[row : row + grid.size, col : col + grid.size])


def test_cut_repeats_the_edge_of_an_image_smaller_than_a_patch():
    patch = cut(PatchGrid((2, 2), size=3, stride=1), np.array([[1, 2], [3, 4]], np.float32))
    assert patch.tolist() == [[[1, 2, 2], [3, 4, 4], [3, 4, 4]]]


def test_cut_takes_the_patches_asked_for_and_copies():
    pixels = np.arange(24, dtype=np.float32).reshape(4, 6)
    pixels.flags.writeable = False
    grid = PatchGrid((4, 6), size=2, stride=2)
    patches = cut(grid, pixels, np.array([5, 0]))
    assert patches.tolist() == [[[16, 17], [22, 23]], [[0, 1], [6, 7]]]
    patches[:] = -1  # its own memory
    assert cut(grid, pixels, np.array([], np.int64)).shape == (0, 2, 2)


@given(grids(longest=300), st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_means_of_a_mask_are_exact_shares(grid, seed, share):
    mask = np.random.default_rng(seed).random(grid.shape) < share
    naive = [mask[r : r + grid.size, c : c + grid.size].mean() for r, c in grid.corners]
    np.testing.assert_array_equal(means(grid, mask), naive)


@given(grids(longest=300), st.integers(0, 2**32 - 1))
def test_means_of_pixels(grid, seed):
    pixels = np.random.default_rng(seed).random(grid.shape, np.float32)
    naive = [pixels[r : r + grid.size, c : c + grid.size].mean() for r, c in grid.corners]
    np.testing.assert_allclose(means(grid, pixels), naive, rtol=1e-5)


def test_means_count_only_pixels_inside_the_image():
    found = means(PatchGrid((1, 3), size=2, stride=1), np.array([[1.0, 2.0, 6.0]]))
    assert found.tolist() == [1.5, 4.0]


@given(grids(), st.integers(1, 3000), st.integers(1, 3000))
def test_boxes_lie_inside_and_scale(grid, rows, cols):
    own = grid.boxes()
    np.testing.assert_array_equal(own[:, :2], grid.corners)
    np.testing.assert_array_equal(own[:, 2], np.minimum(grid.size, grid.shape[0]))
    np.testing.assert_array_equal(own[:, 3], np.minimum(grid.size, grid.shape[1]))
    scaled = grid.boxes((rows, cols))
    y, x = rows / grid.shape[0], cols / grid.shape[1]
    np.testing.assert_allclose(scaled, own * [y, x, y, x], rtol=1e-12)
    ends = scaled[:, :2] + scaled[:, 2:]
    np.testing.assert_allclose(ends.max(0), (rows, cols), rtol=1e-12)


def test_boxes_by_hand():
    boxes = PatchGrid((4, 6), size=4, stride=4).boxes((8, 3))
    assert boxes.tolist() == [[0, 0, 8, 2], [0, 1, 8, 2]]


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@given(
    grid=grids(),
    constant=st.floats(allow_nan=False, allow_infinity=False, width=32, allow_subnormal=False),
)
@settings(max_examples=50)
def test_a_constant_stays_that_constant(weighting, grid, constant):
    values = np.full(len(grid), constant, np.float32)
    picture = stitch(grid, values, weighting=weighting)
    assert picture.dtype == np.float32
    assert picture.shape == grid.shape
    np.testing.assert_array_equal(picture, np.float32(constant))


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@given(
    length=st.tuples(st.integers(1, 8), st.integers(1, 8)),
    size=st.integers(1, 32),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=30)
def test_patches_that_do_not_overlap_come_back(weighting, length, size, seed):
    grid = PatchGrid((length[0] * size, length[1] * size), size, size)
    values = np.random.default_rng(seed).normal(size=length).astype(np.float32)
    picture = stitch(grid, values.ravel(), weighting=weighting)
    blocks = np.kron(values, np.ones((size, size), np.float32))
    np.testing.assert_allclose(picture, blocks, rtol=0, atol=1e-6)  # float32, of some deviations


def test_stitching_patches_of_one_pixel_gives_the_image_back():
    pixels = np.arange(12, dtype=np.float32).reshape(3, 4)
    grid = PatchGrid((3, 4), size=1, stride=1)
    np.testing.assert_array_equal(stitch(grid, cut(grid, pixels).ravel()), pixels)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@given(case=grids_and_values())
@settings(max_examples=15)
def test_stitch_is_the_weighted_mean_in_any_order(weighting, case):
    grid, values, rng = case
    assume(len(grid) * grid.size**2 < 40_000)
    values[rng.random(len(grid)) < 0.2] = np.nan
    picture = stitch(grid, values, weighting=weighting)
    np.testing.assert_allclose(picture, naive_stitch(grid, values, weighting), rtol=1e-5, atol=1e-6)


@given(grids_and_values())
def test_a_transposed_image_gives_the_transposed_picture(case):
    grid, values, _ = case
    turned = PatchGrid(grid.shape[::-1], grid.size, grid.stride)
    rows = len(np.unique(grid.corners[:, 0]))
    picture = stitch(turned, values.reshape(rows, -1).T.ravel())
    np.testing.assert_allclose(picture.T, stitch(grid, values), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@given(case=grids_and_values())
@settings(max_examples=50)
def test_a_picture_stays_within_what_its_patches_said(weighting, case):
    grid, values, _ = case
    picture = stitch(grid, values, weighting=weighting)
    assert picture.min() >= values.min()
    assert picture.max() <= values.max()


@given(grids_and_values())
def test_a_patch_that_is_nan_is_silent(case):
    grid, values, rng = case
    values[rng.random(len(grid)) < 0.5] = np.nan
    spoken = np.zeros(grid.shape, bool)
    for row, col in grid.corners[np.isfinite(values)]:
        spoken[row : row + grid.size, col : col + grid.size] = True
    np.testing.assert_array_equal(np.isfinite(stitch(grid, values)), spoken)


@given(grids_and_values())
def test_only_one_patch_speaks(case):
    grid, values, rng = case
    one = int(rng.integers(len(grid)))
    alone = np.full(len(grid), np.nan, np.float32)
    alone[one] = values[one]
    picture = stitch(grid, alone)
    row, col = grid.corners[one]
    inside = picture[row : row + grid.size, col : col + grid.size]
    np.testing.assert_array_equal(inside, values[one])
    assert np.isfinite(picture).sum() == inside.size


@given(grids_and_values())
def test_the_mask_cuts_and_changes_nothing_else(case):
    grid, values, rng = case
    mask = rng.random(grid.shape) < 0.5
    expected = np.where(mask, stitch(grid, values), np.float32(np.nan))
    np.testing.assert_array_equal(stitch(grid, values, mask=mask), expected)


def test_two_overlapping_patches_by_hand():
    grid = PatchGrid((1, 3), size=2, stride=1)  # one row: the patches hang over below
    picture = stitch(grid, np.array([1, 3], np.float32), weighting="mean")
    assert picture.tolist() == [[1, 2, 3]]


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("size", [1, 2, 3, 128, 1000])
def test_windows_are_positive_everywhere_and_symmetric(weighting, size):
    window = window_profile(size, weighting)
    assert window.shape == (size,)
    assert (window > 0).all()
    np.testing.assert_allclose(window, window[::-1], rtol=1e-9)
    assert window.max() == window[size // 2]


def test_windows_by_hand():
    side = math.sin(math.pi / 4) ** 2
    np.testing.assert_allclose(window_profile(2, "hann"), [side, side])
    side = math.exp(-0.5)  # a quarter of the patch from its middle: one standard deviation
    np.testing.assert_allclose(window_profile(2, "gaussian"), [side, side])
    assert (window_profile(5, "mean") == 1).all()


@pytest.mark.parametrize(
    ("shape", "size", "stride", "named"),
    [((0, 5), 4, 4, r"\(0, 5\)"), ((9, 9), 4, 5, r"1\.\.4.*5"), ((9, 9), 4, 0, r"1\.\.4.*0")],
)
def test_a_grid_that_would_miss_pixels_is_refused(shape, size, stride, named):
    with pytest.raises(ValueError, match=named):
        PatchGrid(shape, size, stride)


def test_arrays_of_another_image_are_refused():
    grid = PatchGrid((4, 4), size=2, stride=2)
    with pytest.raises(ValueError, match=r"\(4, 4\).*\(4, 5\)"):
        cut(grid, np.zeros((4, 5), np.float32))
    with pytest.raises(ValueError, match=r"\(4, 4\).*\(5, 4\)"):
        means(grid, np.zeros((5, 4), bool))
    with pytest.raises(ValueError, match=r"4, got shape \(3,\)"):
        stitch(grid, np.zeros(3, np.float32))
    with pytest.raises(ValueError, match="'flat'"):
        stitch(grid, np.zeros(4, np.float32), weighting="flat")


@given(st.integers(0, 500), st.integers(1, 100))
def test_batches_cover_each_index_once(count, size):
    parts = list(batches(count, size))
    assert [i for part in parts for i in range(part.start, part.stop)] == list(range(count))
    assert all(0 < part.stop - part.start <= size for part in parts)


turns = st.builds(Turn, st.booleans(), st.booleans(), st.booleans())


@given(grids_and_values(), turns)
def test_the_turned_grid_is_the_grid_of_the_turned_image(case, turn):
    grid, values, rng = case
    there, turned = grid.turned(turn), grid.turn_values(values, turn)
    assert there.turned(turn.inverse) == grid
    np.testing.assert_array_equal(there.turn_values(turned, turn.inverse), values)
    order = grid.turn_values(np.arange(len(grid)), turn)
    np.testing.assert_array_equal(there.boxes(), turn.boxes(grid.boxes()[order], grid.shape))
    corners = [tuple(corner) for corner in there.corners]
    assert corners == sorted(corners)  # reading order
    pixels = rng.random(grid.shape, np.float32)
    patches = [turn.picture(patch) for patch in cut(grid, pixels)[order]]
    np.testing.assert_array_equal(cut(there, turn.picture(pixels)), patches)
    found = means(there, turn.picture(pixels))
    np.testing.assert_allclose(found, means(grid, pixels)[order], rtol=1e-9)
    mask = rng.random(grid.shape) < 0.8
    sewn = stitch(there, turned, mask=turn.picture(mask))
    np.testing.assert_array_equal(sewn, turn.picture(stitch(grid, values, mask=mask)))


@given(grids_and_values(), turns, st.tuples(st.integers(1, 3000), st.integers(1, 3000)))
def test_boxes_of_a_turned_grid_scale_with_the_picture(case, turn, shape):
    grid, _, _ = case
    order = grid.turn_values(np.arange(len(grid)), turn)
    there = grid.turned(turn).boxes(turn.pair(shape))
    np.testing.assert_allclose(there, turn.boxes(grid.boxes(shape)[order], shape), atol=1e-9)


def test_a_mirrored_grid_counts_columns_from_the_right():
    grid = PatchGrid((4, 7), size=3, stride=3, turn=MIRRORED)
    assert grid.corners.tolist() == [[0, 0], [0, 1], [0, 4], [1, 0], [1, 1], [1, 4]]
    narrow = PatchGrid((3, 2), size=3, stride=3, turn=MIRRORED)
    assert narrow.corners.tolist() == [[0, -1]]
    assert narrow.boxes().tolist() == [[0, 0, 3, 2]]
    pixels = np.array([[1, 2], [3, 4], [5, 6]], np.float32)
    assert cut(narrow, pixels)[0].tolist() == [[1, 1, 2], [3, 3, 4], [5, 5, 6]]


def test_a_grid_on_its_side_counts_rows_from_the_end_it_was_laid_at():
    # Laid on 7 rows and turned to the left: what was the first row is the first column.
    left = PatchGrid((7, 4), size=3, stride=3).turned(QUARTERS[1])
    assert left.shape == (4, 7)
    assert left.corners.tolist() == [[0, 0], [0, 3], [0, 4], [1, 0], [1, 3], [1, 4]]
    flat = PatchGrid((3, 2), size=3, stride=3).turned(QUARTERS[1])
    assert flat.corners.tolist() == [[-1, 0]]
    pixels = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
    assert cut(flat, pixels)[0].tolist() == [[1, 2, 3], [1, 2, 3], [4, 5, 6]]
