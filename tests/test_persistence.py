"""Regions over every threshold, against labelling each threshold by itself."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from patchad.grid import PatchGrid
from patchad.marks import links_of
from patchad.persistence import Peaks, lowest_threshold, peaks_of


def line(*values: float) -> Peaks:
    scores = np.array(values, np.float32)
    return peaks_of(scores, links_of(PatchGrid((1, len(scores)), 1, 1), dense=False))


def test_the_lower_of_two_peaks_ends_where_they_meet() -> None:
    found = line(1, 5, 2, 7, 3, 4, np.nan, 6)
    assert found.births.tolist() == [7, 6, 5, 4]
    assert found.deaths.tolist() == [-np.inf, -np.inf, 2, 3]
    assert found.over(2.5).tolist() == [7, 6, 5]
    assert found.over(3).tolist() == [7, 6, 5, 4]
    assert found.over(1.9).tolist() == [7, 6]
    assert found.over(7).tolist() == []


def test_a_plateau_is_one_peak() -> None:
    found = line(3, 3, 3, 1, 3)
    assert found.births.tolist() == [3, 3]
    assert found.over(2).tolist() == [3, 3]
    assert found.over(0).tolist() == [3]


@st.composite
def scored(draw: st.DrawFn) -> tuple[PatchGrid, np.ndarray]:
    """A grid with a score a patch, of few values, so that ties abound; some NaN."""
    size = draw(st.integers(1, 9))
    stride = draw(st.integers(1, size))
    shape = draw(st.tuples(st.integers(1, 40), st.integers(1, 40)))
    grid = PatchGrid(shape, size, stride)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    values = rng.integers(0, draw(st.integers(1, 8)) + 1, len(grid)).astype(np.float32)
    values[rng.random(len(grid)) < draw(st.sampled_from([0, 0.2]))] = np.nan
    return grid, values


@given(scored(), st.floats(-0.5, 8))
def test_marks_over_any_threshold_are_the_regions_of_the_pixels(
    image: tuple[PatchGrid, np.ndarray], threshold: float
) -> None:
    grid, values = image
    pixels = np.zeros(grid.shape, bool)
    for row, col, height, width in grid.boxes()[values > threshold].astype(int):
        pixels[row : row + height, col : col + width] = True
    labels, count = ndimage.label(pixels)
    found = peaks_of(values, links_of(grid, dense=False)).over(threshold)
    assert len(found) == count
    highest = np.full(count + 1, -np.inf)
    for box, value in zip(grid.boxes().astype(int), values, strict=True):
        if value > threshold:
            label = labels[box[0], box[1]]
            highest[label] = max(highest[label], value)
    assert found.tolist() == sorted(highest[1:], reverse=True)


@given(scored())
def test_patches_whose_middles_touch_are_linked(image: tuple[PatchGrid, np.ndarray]) -> None:
    grid, _ = image
    reach = max(grid.stride, grid.size // 2)
    apart = np.abs(grid.corners[:, None] - grid.corners[None])
    near = (apart <= reach).all(2) & ~(apart == reach).all(2)
    expected = np.argwhere(np.triu(near, 1))
    found = np.sort(links_of(grid, dense=True), axis=1)
    assert sorted(map(tuple, found.tolist())) == sorted(map(tuple, expected.tolist()))


@given(
    st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=12), min_size=1, max_size=4),
    st.sampled_from([0.3, 1.0, 1.5, 4.0]),
    st.integers(-1, 7),
)
def test_the_lowest_threshold_that_keeps_the_budget(
    films: list[list[int]], budget: float, floor: int
) -> None:
    found = lowest_threshold([line(*film) for film in films], budget, floor)

    def marks(threshold: float) -> float:
        runs = 0
        for film in films:
            over = np.array([False, *(value > threshold for value in film)])
            runs += int((over[1:] & ~over[:-1]).sum())
        return runs / len(films)

    levels = {float(value) for film in films for value in film} | {float(floor)}
    kept = [
        level
        for level in levels
        if level >= floor and all(marks(x) <= budget + 1e-9 for x in levels if x >= level)
    ]
    assert found == min(kept)


def test_a_threshold_needs_no_peaks() -> None:
    assert lowest_threshold([line(np.nan)], 1.0, 0.25) == pytest.approx(0.25)
