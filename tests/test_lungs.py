"""Lungs: rectangles and ellipses drawn by hand, and those of phantoms."""

import numpy as np
import pytest

from patchad.errors import TrainingError
from patchad.phantoms.phantom import chest
from patchad.prepare.lungs import find_dark_lungs, find_lungs


def valleys(shape: tuple[int, int]) -> np.ndarray:
    """Two dark rectangles, with dark air at both sides and a small third valley between."""
    h, w = shape
    film = np.full(shape, 0.8, np.float32)
    film[:, : w // 12] = film[:, -w // 12 :] = 0.0
    film[h // 4 : 3 * h // 4, w // 5 : 2 * w // 5] = 0.2
    film[h // 4 : 3 * h // 4, 3 * w // 5 : 4 * w // 5] = 0.3
    film[h // 8 : h // 8 + 10, w // 2 : w // 2 + 10] = 0.2
    return film


@pytest.mark.parametrize("shape", [(256, 256), (200, 300)])
def test_lungs_of_a_mean_film_are_the_two_large_valleys_of_rows(shape):
    h, w = shape
    expected = np.zeros(shape, bool)
    for left in (w // 5, 3 * w // 5):
        expected[h // 4 : 3 * h // 4, left : left + w // 5] = True
    found = find_lungs(valleys(shape))
    assert found.dtype == np.bool_
    assert (found & expected).sum() / (found | expected).sum() > 0.98


def test_a_hole_in_a_lung_is_filled():
    film = valleys((256, 256))
    film[120:130, 70:80] = 0.9
    assert find_lungs(film)[125, 75]


def test_a_mean_film_without_lungs_is_refused():
    with pytest.raises(TrainingError, match="no lungs"):
        find_lungs(np.full((256, 256), 0.5, np.float32))


def test_dark_lungs_are_dark_for_their_surroundings_whatever_slope_lies_over_them():
    y, x = np.indices((300, 300))
    lungs = [np.hypot((y - 150) / 90, (x - at) / 45) < 1 for at in (90, 210)]
    film = np.where(lungs[0] | lungs[1], 0.2, 0.6) + 0.0005 * y
    everywhere = np.ones(film.shape, bool)
    found = find_dark_lungs(film.astype(np.float32), everywhere, (1.0, 1.0))
    expected = lungs[0] | lungs[1]
    assert (found & expected).sum() / (found | expected).sum() > 0.85


def test_where_no_lungs_are_the_whole_field_is_taken():
    film = np.full((200, 200), 0.5, np.float32)
    film[95:103, 95:103] = 0.1  # the only dark part: 64 of 40,000 pixels
    field = np.ones(film.shape, bool)
    field[:10] = False
    np.testing.assert_array_equal(find_dark_lungs(film, field, (1.0, 1.0)), field)


@pytest.mark.parametrize("seed", range(3))
def test_both_ways_find_the_same_lungs_in_phantoms(seed):
    film = chest(np.random.default_rng(seed), shape=(256, 208), spacing_mm=1.68)
    dark = find_dark_lungs(film.pixels, film.foreground, film.spacing_mm)
    valleys = find_lungs(film.pixels)
    assert 0.05 < dark.mean() < 0.5
    assert (dark & valleys).sum() / min(dark.sum(), valleys.sum()) > 0.5
