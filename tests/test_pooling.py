import numpy as np
import pytest
from builders import stitch, tensor
from hypothesis import given
from hypothesis import strategies as st

from patchad.core.grid import PatchGrid
from patchad.core.turn import MIRRORED
from patchad.methods.parts import pooling


def max_pool(values, grid, middle=1.0):
    return pooling.max_pool(tensor(values), grid, middle).numpy()


def mean_pool(values, grid, middle=1.0):
    return pooling.mean_pool(tensor(values), grid, middle).numpy()


def smooth_patches(values, grid, sigma):
    return pooling.smooth_patches(tensor(values), grid, sigma).numpy()


def test_pools_by_hand() -> None:
    values = np.arange(64, dtype=np.float32).reshape(8, 8)
    grid = PatchGrid((8, 8), 4, 4)
    assert max_pool(values, grid).tolist() == [27, 31, 59, 63]
    assert mean_pool(values, grid).tolist() == [13.5, 17.5, 45.5, 49.5]
    # the middle half of the first patch: rows and columns 1 and 2
    assert max_pool(values, grid, 0.5)[0] == 18
    assert mean_pool(values, grid, 0.5)[0] == np.mean([9, 10, 17, 18])


def test_what_does_not_speak_is_left_out() -> None:
    values = np.full((8, 8), np.nan, np.float32)
    values[0, 0], values[0, 1] = 3, 5
    grid = PatchGrid((8, 8), 4, 4)
    assert max_pool(values, grid)[0] == 5
    assert mean_pool(values, grid)[0] == 4
    assert np.isnan(max_pool(values, grid)[1:]).all()
    assert np.isnan(mean_pool(values, grid)[1:]).all()


def test_a_coarser_map_is_pooled_where_the_patch_lies() -> None:
    coarse = np.zeros((4, 4), np.float32)
    coarse[2, 1] = 7  # rows 32-48, columns 16-32 of the image
    grid = PatchGrid((64, 64), 32, 32)
    assert max_pool(coarse, grid).tolist() == [0, 0, 7, 0]
    assert mean_pool(coarse, grid).tolist() == [0, 0, 7 / 4, 0]


@given(
    st.tuples(st.integers(5, 70), st.integers(5, 70)),
    st.integers(4, 32),
    st.floats(0.1, 1),
    st.integers(1, 5),
)
def test_pooling_and_stitching_agree_on_constants(
    shape: tuple[int, int], size: int, middle: float, coarser: int
) -> None:
    grid = PatchGrid(shape, size, max(1, size // 2))
    cells = (max(1, shape[0] // coarser), max(1, shape[1] // coarser))
    constant = np.full(cells, 2.5, np.float32)
    for pool in (max_pool, mean_pool):
        pooled = pool(constant, grid, middle)
        np.testing.assert_array_equal(pooled, 2.5)
        assert stitch(grid, pooled) == pytest.approx(2.5)


def test_neighbouring_patches_are_averaged() -> None:
    grid = PatchGrid((10, 8), 4, 2)  # 4 rows and 3 columns of patches
    values = np.zeros(len(grid), np.float32)
    values[4] = 1
    smooth = smooth_patches(values, grid, 2.0).reshape(4, 3)  # as wide as a stride
    # A Gaussian of deviation 1, sampled: 1, 0.607, 0.135 …; less falls on the edge's neighbours.
    assert smooth[1, 1] == smooth.max()
    assert smooth[1, 0] == pytest.approx(smooth[1, 2])
    assert smooth[1, 0] / smooth[1, 1] == pytest.approx(0.607 * 0.99 / 0.7, rel=0.15)
    np.testing.assert_allclose(smooth_patches(np.ones(len(grid), np.float32), grid, 2.0), 1)


def test_smoothing_keeps_unscored_patches_out() -> None:
    grid = PatchGrid((8, 8), 4, 4)
    values = np.array([1, np.nan, 3, np.nan], np.float32)
    smooth = smooth_patches(values, grid, 4.0)
    assert np.isnan(smooth[[1, 3]]).all()
    assert smooth[0] + smooth[2] == pytest.approx(4)
    assert 1 < smooth[0] < 2


@given(
    st.tuples(st.integers(1, 70), st.integers(1, 70)),
    st.tuples(st.integers(1, 90), st.integers(1, 90)),
    st.integers(4, 32),
    st.floats(0.1, 1),
    st.booleans(),
)
def test_pools_are_those_of_the_cells_of_each_patch(
    shape: tuple[int, int], cells: tuple[int, int], size: int, middle: float, mirrored: bool
) -> None:
    rng = np.random.default_rng(0)
    grid = PatchGrid(shape, size, max(1, size // 3))
    grid = grid.turned(MIRRORED) if mirrored else grid
    values = rng.normal(size=cells).astype(np.float32)
    values[rng.random(cells) < 0.3] = np.nan
    highest, mean = max_pool(values, grid, middle), mean_pool(values, grid, middle)
    for number, (row, col, height, width) in enumerate(grid.boxes(cells)):
        margin = height * (1 - middle) / 2, width * (1 - middle) / 2
        top = min(round(row + margin[0]), cells[0] - 1)
        left = min(round(col + margin[1]), cells[1] - 1)
        bottom = max(round(row + height - margin[0]), top + 1)
        right = max(round(col + width - margin[1]), left + 1)
        part = values[top:bottom, left:right]
        if np.isnan(part).all():
            assert np.isnan(highest[number])
            assert np.isnan(mean[number])
        else:
            assert highest[number] == np.nanmax(part)
            assert mean[number] == pytest.approx(np.nanmean(part), abs=1e-5)
