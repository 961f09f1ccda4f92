import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchad.grid import PatchGrid, stitch
from patchad.pooling import max_pool, mean_pool


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
