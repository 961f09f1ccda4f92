"""Squares of one film pasted into another, against a slow loop and their published bounds."""

import numpy as np
import pytest
import torch

from patchad.methods.parts.foreign_patch import ForeignPatches, draw_patches, paste


def test_pasted_as_a_slow_loop_does() -> None:
    rng = np.random.default_rng(0)
    films = rng.random((4, 1, 10, 10)).astype(np.float32)
    which, shift = [2, 0, 3], [3, 1, 2]  # from films 1, 1 and 1
    edges, alpha = [[1, 2, 4, 7], [-2, 6, 3, 13], [0, 0, 9, 9]], [0.25, 0.9, 0.0]
    expected = np.zeros((3, 1, 10, 10))
    labels = np.zeros((3, 10, 10), bool)
    for b in range(3):
        top, left, bottom, right = edges[b]
        for row in range(10):
            for col in range(10):
                within = top <= row < bottom and left <= col < right
                share = alpha[b] if within else 0
                own, other = films[which[b], 0, row, col], films[1, 0, row, col]
                expected[b, 0, row, col] = (1 - share) * own + share * other
                labels[b, row, col] = share > 0
    patches = ForeignPatches(torch.tensor(shift), torch.tensor(edges), torch.tensor(alpha))
    found, inside = paste(torch.from_numpy(films), torch.tensor(which), patches)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)
    np.testing.assert_array_equal(inside.numpy(), labels)
    assert labels.sum((1, 2)).tolist() == [15, 12, 0]


def test_drawn_within_the_published_bounds() -> None:
    drawn = draw_patches(20_000, 5, 64, torch.Generator().manual_seed(0))
    sides = (drawn.edges[:, 2:] - drawn.edges[:, :2]).numpy()
    centres = ((drawn.edges[:, 2:] + drawn.edges[:, :2]) // 2).numpy()
    assert (sides[:, 0] == sides[:, 1]).all()
    assert sorted(set(sides[:, 0] // 2)) == [*range(3, 13)]
    for axis in range(2):
        assert sorted(set(centres[:, axis])) == [*range(6, 57)]  # the middle 80 % of 64
    given = drawn.alpha[drawn.alpha > 0].numpy()
    assert len(given) == pytest.approx(10_000, abs=300)
    assert given.mean() == pytest.approx(0.5, abs=0.01)
    assert given.max() < 1
    assert sorted(set(drawn.shift.tolist())) == [1, 2, 3, 4]  # never from the film itself


def test_small_squares_have_patches_of_a_pixel_at_least() -> None:
    drawn = draw_patches(200, 2, 2, torch.Generator().manual_seed(0), pasted=1.0)
    _, inside = paste(torch.rand(2, 1, 2, 2), torch.zeros(200, dtype=torch.int64), drawn)
    assert inside.any((1, 2)).all()
