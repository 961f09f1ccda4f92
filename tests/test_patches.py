import math
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from patchad.core.arrays import band_sums, banded, box_sums, integral, wide
from patchad.core.grid import PatchGrid, Weighting
from patchad.core.host import to_host
from patchad.core.patches import corners, cut, means, stitch
from patchad.core.turn import MIRRORED, QUARTERS, Turn

WEIGHTINGS = get_args(Weighting)
CPU = torch.device("cpu")
TURNS = st.builds(Turn, st.booleans(), st.booleans(), st.booleans())


@st.composite
def grids(draw, longest=200, most=150):
    """Turned grids of every kind, of images smaller than a patch too, with values."""
    shape = (draw(st.integers(1, longest)), draw(st.integers(1, longest)))
    size = draw(st.integers(1, 128))
    stride = draw(st.integers(1, size))
    assume(math.prod(length / stride + 2 for length in shape) <= most)
    grid = PatchGrid(shape, size, stride).turned(draw(TURNS))
    return grid, np.random.default_rng(draw(st.integers(0, 2**32 - 1)))


def test_an_integral_and_its_boxes_by_hand() -> None:
    table = integral(torch.tensor([[1, 2, 3], [4, 5, 6]], dtype=torch.uint8))
    assert table.dtype == torch.float64 == wide(CPU)
    assert table.tolist() == [[0, 0, 0, 0], [0, 1, 3, 6], [0, 5, 12, 21]]
    edges = torch.tensor([[0, 0, 2, 3], [1, 1, 2, 3], [0, 2, 1, 3], [1, 1, 1, 3]])
    assert box_sums(table, edges).tolist() == [21, 11, 3, 0]
    assert integral(torch.tensor([[True, False, True]])).tolist() == [[0, 0, 0, 0], [0, 1, 1, 2]]
    assert wide(torch.device("mps")) == torch.float32


def test_bands_by_hand() -> None:
    cuts, lines = banded(np.array([[0, 0, 4, 2], [2, 1, 6, 3]]))
    assert cuts == [0, 2, 4, 6]
    assert lines.tolist() == [[0, 0, 2, 2], [1, 1, 3, 3]]
    sums = band_sums(torch.arange(18).reshape(6, 3), cuts)
    assert sums.tolist() == [[3, 5, 7], [15, 17, 19], [27, 29, 31]]


def test_large_sums_keep_their_digits() -> None:
    values = torch.full((2000, 2000), 0.1)
    assert float(integral(values)[-1, -1]) == pytest.approx(4e6 * float(values[0, 0]), rel=1e-12)


@given(grids())
def test_corners_are_the_grid_s(case) -> None:
    grid, _ = case
    assert corners(grid, CPU).tolist() == grid.corners.tolist()


def test_cut_takes_the_patches_asked_for_and_copies() -> None:
    pixels = torch.arange(24.0).reshape(6, 4).T  # not contiguous
    grid = PatchGrid((4, 6), size=2, stride=2)
    patches = cut(grid, pixels, torch.tensor([5, 0]))
    assert patches.tolist() == [[[18, 22], [19, 23]], [[0, 4], [1, 5]]]
    patches[:] = -1
    assert pixels.min() == 0
    assert cut(grid, pixels, torch.empty(0, dtype=torch.int64)).shape == (0, 2, 2)


def test_cut_repeats_the_edge_of_an_image_smaller_than_a_patch() -> None:
    pixels, first = torch.tensor([[1.0, 2], [3, 4]]), torch.tensor([0])
    patch = cut(PatchGrid((2, 2), size=3, stride=1), pixels, first)
    assert patch.tolist() == [[[1, 2, 2], [3, 4, 4], [3, 4, 4]]]
    mirrored = cut(PatchGrid((2, 2), size=3, stride=1, turn=MIRRORED), pixels, first)
    assert mirrored.tolist() == [[[1, 1, 2], [3, 3, 4], [3, 3, 4]]]


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@given(
    case=grids(),
    constant=st.floats(allow_nan=False, allow_infinity=False, width=32, allow_subnormal=False),
)
@settings(max_examples=40)
def test_a_constant_stays_that_constant(weighting, case, constant) -> None:
    grid, rng = case
    values = torch.full((len(grid),), constant, dtype=torch.float32)
    assert (stitch(grid, values, weighting=weighting, mask=None) == values[0]).all()
    values[torch.from_numpy(rng.random(len(grid)) < 0.5)] = torch.nan
    picture = stitch(grid, values, weighting=weighting, mask=None)
    assert (picture[picture.isfinite()] == np.float32(constant)).all()


@given(grids())
def test_a_picture_stays_within_what_its_patches_said(case) -> None:
    grid, rng = case
    values = torch.from_numpy(rng.normal(loc=100, size=len(grid)).astype(np.float32))
    picture = stitch(grid, values, mask=None)
    assert picture.min() >= values.min()
    assert picture.max() <= values.max()


@given(grids(), TURNS)
def test_a_turned_picture_has_the_same_last_digits(case, turn) -> None:
    grid, rng = case
    values = rng.normal(size=len(grid)).astype(np.float32)
    turned = stitch(grid.turned(turn), torch.from_numpy(grid.turn_values(values, turn)), mask=None)
    picture = stitch(grid, torch.from_numpy(values), mask=None)
    np.testing.assert_array_equal(turned.numpy(), turn.picture(picture.numpy()))


def test_two_overlapping_patches_by_hand() -> None:
    grid = PatchGrid((1, 3), size=2, stride=1)
    picture = stitch(grid, torch.tensor([1.0, 3.0]), weighting="mean", mask=None)
    assert picture.tolist() == [[1, 2, 3]]
    on_its_side = stitch(
        grid.turned(QUARTERS[1]), torch.tensor([3.0, 1.0]), weighting="mean", mask=None
    )
    assert on_its_side.tolist() == [[3], [2], [1]]


def test_tensors_of_another_image_are_refused() -> None:
    grid = PatchGrid((4, 4), size=2, stride=2)
    with pytest.raises(ValueError, match=r"\(4, 4\).*\(4, 5\)"):
        cut(grid, torch.zeros(4, 5), torch.tensor([0]))
    with pytest.raises(ValueError, match=r"\(4, 4\).*\(5, 4\)"):
        means(grid, torch.zeros(5, 4))
    with pytest.raises(ValueError, match=r"4, got shape \(3,\)"):
        stitch(grid, torch.zeros(3), mask=None)


def test_what_comes_to_the_host() -> None:
    scores = torch.tensor([1.5, torch.nan], dtype=torch.float64, requires_grad=True)
    found, mask, count = to_host(scores, torch.tensor([True]), torch.tensor([[3]]))
    assert (found.dtype, mask.dtype, count.dtype) == (np.float32, np.bool_, np.int64)
    np.testing.assert_array_equal(found, np.array([1.5, np.nan], np.float32))
    assert mask.tolist() == [True]
    assert count.tolist() == [[3]]
