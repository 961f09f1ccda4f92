import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from patchad.core.grid import PatchGrid, stitch
from patchad.core.turn import Turn
from patchad.methods.parts import pools
from patchad.methods.parts.pooling import max_pool, mean_pool, smooth_patches


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
    st.integers(2, 5),
    st.floats(0.1, 1),
    st.sampled_from([0.0, 0.3, 0.95]),
    st.builds(Turn, st.booleans(), st.booleans(), st.booleans()),
)
def test_the_device_s_pools_are_the_host_s(
    shape: tuple[int, int],
    cells: tuple[int, int],
    size: int,
    steps: int,
    middle: float,
    silent: float,
    turn: Turn,
) -> None:
    rng = np.random.default_rng(0)
    grid = PatchGrid(shape, size, max(1, size // steps)).turned(turn)
    values = rng.normal(size=cells).astype(np.float32)
    values[rng.random(cells) < silent] = np.nan
    values[rng.random(cells) < silent / 9] = np.inf  # undefined too
    on_device = torch.from_numpy(values)
    highest = pools.max_pool(on_device, grid, middle)
    assert highest.dtype == torch.float32
    np.testing.assert_array_equal(highest.numpy(), max_pool(values, grid, middle))
    mean = pools.mean_pool(on_device, grid, middle)
    assert mean.dtype == torch.float32
    np.testing.assert_allclose(mean.numpy(), mean_pool(values, grid, middle), atol=1e-6)
    scores = max_pool(values, grid, middle)
    for sigma in (0.0, 1.0, 5.0, 60.0):
        smooth = pools.smooth_patches(torch.from_numpy(scores), grid, sigma)
        np.testing.assert_allclose(smooth.numpy(), smooth_patches(scores, grid, sigma), atol=1e-6)


def test_the_device_s_pools_by_hand() -> None:
    values = torch.arange(64.0).reshape(8, 8)
    grid = PatchGrid((8, 8), 4, 4)
    assert pools.max_pool(values, grid).tolist() == [27, 31, 59, 63]
    assert pools.mean_pool(values, grid).tolist() == [13.5, 17.5, 45.5, 49.5]
    assert pools.max_pool(values, grid, 0.5).tolist() == [18, 22, 50, 54]
    values[:4, :4] = torch.nan
    values[0, :2] = torch.tensor([3, 5])
    assert pools.max_pool(values, grid)[0] == 5
    assert pools.mean_pool(values, grid)[0] == 4
