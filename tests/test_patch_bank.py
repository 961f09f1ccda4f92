"""Patches from the bank, and corners in the foreground."""

import numpy as np
import pytest
import torch
from builders import cut, means
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from patchad.core.grid import PatchGrid
from patchad.errors import RequestError
from patchad.learn.checkpoint import epoch_generator
from patchad.learn.patch_bank import PatchBank, foreground_corners

STEP = 1 / 65535


def image(shape: tuple[int, int], seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


def mixed_bank(size: int = 8) -> tuple[PatchBank, list[NDArray[np.float32]]]:
    """A bank of a wide image, one smaller than a patch and a tall one; and its patches, cut."""
    parts, patches = [], []
    for seed, shape in enumerate([(20, 33), (5, 6), (40, 9)]):
        pixels, grid = image(shape, seed), PatchGrid(shape, size, 3)
        parts.append((pixels, grid.corners))
        patches.extend(cut(grid, pixels))
    return PatchBank.of(parts, size), patches


def test_drawn_patches_are_those_that_numpy_cuts() -> None:
    bank, patches = mixed_bank()
    assert len(bank) == len(patches)
    which = torch.randint(len(bank), (50,), generator=torch.Generator().manual_seed(3))
    drawn = bank.cut(bank.draw(50, torch.Generator().manual_seed(3)))
    assert drawn.shape == (50, 1, 8, 8)
    assert drawn.dtype == torch.float32
    expected = np.stack([patches[k] for k in which])
    np.testing.assert_allclose(drawn[:, 0].numpy(), expected, rtol=0, atol=0.51 * STEP)


def test_both_ways_of_cutting_give_the_same() -> None:
    bank, _ = mixed_bank()
    which = bank.draw(50, torch.Generator().manual_seed(3))
    assert torch.equal(bank._copied(which), bank._gathered(which))


def test_sixteen_bit_values_pass_through_the_bank_unchanged() -> None:
    pixels = (np.array([[0, 1, 32767, 32768, 65534, 65535]]) / 65535).astype(np.float32)
    bank = PatchBank.of([(pixels, np.array([[0, c] for c in range(6)]))], 1)
    drawn = set(bank.cut(bank.draw(300, torch.Generator().manual_seed(0))).flatten().tolist())
    assert drawn == set(pixels.ravel().tolist())


def test_corners_are_drawn_uniformly_whatever_image_they_are_in() -> None:
    # 1 × 1 patches, each of its own value: 1 corner in the first image, 3 and 6 in the others
    values = np.arange(10, dtype=np.float32) / 10
    parts = []
    for part in np.split(values, [1, 4]):
        corners = np.stack([np.zeros(len(part), np.int64), np.arange(len(part))], axis=1)
        parts.append((part[None], corners))
    bank = PatchBank.of(parts, 1)
    drawn = bank.cut(bank.draw(20_000, torch.Generator().manual_seed(1))).flatten()
    counts = np.bincount(np.rint(drawn.numpy() * 10).astype(int), minlength=10)
    chi_squared = ((counts - 2000) ** 2 / 2000).sum()
    assert chi_squared < 27.9  # 99.9 % of chi-squared with 9 degrees of freedom


def test_the_bank_refuses_corners_outside_the_image() -> None:
    for corner in [(-1, 0), (0, 3), (3, 0)]:
        with pytest.raises(ValueError, match=r"\(0, 0\)\.\.\(2, 2\)"):
            PatchBank.of([(image((10, 10), 0), np.array([corner]))], 8)


def test_a_bank_without_any_corner_says_what_to_do() -> None:
    with pytest.raises(RequestError, match="lower min_foreground"):
        PatchBank.of([(image((10, 10), 0), np.empty((0, 2), np.int64))], 8)


@given(
    st.integers(1, 30),
    st.integers(1, 30),
    st.integers(1, 12),
    st.sampled_from([0.1, 0.5, 0.75, 1.0]),
    st.integers(0, 99),
)
def test_foreground_corners_are_all_those_with_enough_foreground(
    rows: int, cols: int, size: int, share: float, seed: int
) -> None:
    mask = image((rows, cols), seed) > 0.3
    every = PatchGrid((rows, cols), size, 1)
    expected = every.corners[means(every, mask).astype(np.float32) >= share]
    found = foreground_corners(mask, size, share, limit=900, rng=np.random.default_rng(0))
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, expected)


def test_foreground_corners_by_hand() -> None:
    mask = np.zeros((4, 5), bool)
    mask[1:3, 2:4] = True
    every = foreground_corners(mask, 2, 1.0, limit=9, rng=np.random.default_rng(0))
    assert every.tolist() == [[1, 2]]
    half = foreground_corners(mask, 2, 0.5, limit=9, rng=np.random.default_rng(0))
    assert half.tolist() == [[0, 2], [1, 1], [1, 2], [1, 3], [2, 2]]
    none = foreground_corners(np.zeros((4, 5), bool), 2, 0.5, limit=9, rng=np.random.default_rng(0))
    assert none.shape == (0, 2)


def test_limited_corners_are_distinct_and_cover_the_image() -> None:
    mask = np.ones((60, 60), bool)
    found = foreground_corners(mask, 10, 0.5, limit=500, rng=np.random.default_rng(0))
    assert len(np.unique(found, axis=0)) == 500
    # 500 of 51 × 51 places, mean 25: the standard error is 14.7 / sqrt(500) = 0.66
    assert np.abs(found.mean(0) - 25).max() < 3


def test_every_epoch_and_seed_has_patches_of_its_own() -> None:
    bank, _ = mixed_bank()
    drawn = [bank.draw(20, epoch_generator(s, e)) for s, e in [(0, 1), (0, 2), (1, 1), (0, 1)]]
    assert torch.equal(drawn[0], drawn[3])
    assert not torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


@pytest.mark.gpu
@gpu
def test_a_gpu_draws_the_same_patches_as_the_cpu() -> None:
    parts = [(image((300, 200), 0), PatchGrid((300, 200), 32, 16).corners)]
    bank = PatchBank.of(parts, 32)
    drawn = bank.draw(64, epoch_generator(0, 1))
    on_cpu, on_gpu = (bank.to(torch.device(kind)).cut(drawn) for kind in ("cpu", "cuda"))
    assert on_gpu.is_cuda
    assert torch.equal(on_cpu, on_gpu.cpu())
