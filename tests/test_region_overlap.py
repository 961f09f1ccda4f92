"""PRO and the best Dice against slow versions and by hand."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import ndimage

from patchad.evaluation.metrics import rank
from patchad.evaluation.region_overlap import (
    Components,
    best_dice,
    component_levels,
    region_overlap,
)

CPU = torch.device("cpu")


def components_of(films):
    """From films, each (patient, levels (H, W), lesion (H, W)); levels are 0, 1, 2 …"""
    count = 1 + max(int(levels.max()) for _, levels, _ in films)
    patients = 1 + max(patient for patient, *_ in films)
    negatives = np.zeros((patients, count), np.int64)
    parts = []
    for patient, levels, lesion in films:
        negatives[patient] += np.bincount(levels[~lesion & (levels >= 0)], minlength=count)
        parts += [(patient, *one) for one in component_levels(levels, lesion, count)]
    return Components.of(parts, negatives, CPU)


def slow(films, limit=0.3):
    """PRO by a loop over thresholds, components and pixels, and the trapezoid rule."""
    highest = max(int(levels.max()) for _, levels, _ in films)
    points = [(0.0, 0.0)]
    for threshold in range(highest, -1, -1):
        false = total = 0
        shares = []
        for _, levels, lesion in films:
            false += int(((levels >= threshold) & ~lesion).sum())
            total += int(((levels >= 0) & ~lesion).sum())
            labels, parts = ndimage.label(lesion, np.ones((3, 3)))
            for part in range(1, parts + 1):
                own = labels == part
                shares.append(((levels >= threshold) & own).sum() / own.sum())
        points.append((false / total, float(np.mean(shares))))
    area = 0.0
    for (x, y), (to, end) in pairwise(points):
        if x >= limit:
            break
        if to > limit:
            end = y + (end - y) * (limit - x) / (to - x)
            to = limit
        area += (to - x) * (y + end) / 2
    return area / limit


def pro(films, weights=None):
    found = components_of(films)
    weights = torch.ones(1, len(found.negatives)) if weights is None else weights
    return region_overlap(found, weights.double()).tolist()


def test_by_hand():
    # 10 negative pixels; the left lesion has one pixel, the right one three
    lesion = np.zeros((2, 7), bool)
    lesion[0, 0] = True
    lesion[0, 4:7] = True
    levels = np.zeros((2, 7), int)
    levels[0, 0] = 2
    levels[0, 4] = 1
    levels[1, 0] = 1  # the one negative pixel of level 1
    # (0, 0), (0, 1/2), (1/10, 2/3), (1, 1): to 0.3 the last piece rises by 2/9 of 1/3
    at_limit = 2 / 3 + (1 / 3) * 0.2 / 0.9
    area = 0.1 * (1 / 2 + 2 / 3) / 2 + 0.2 * (2 / 3 + at_limit) / 2
    assert pro([(0, levels, lesion)]) == pytest.approx([area / 0.3])


def test_a_perfect_map_has_one_and_an_inverse_one_zero():
    lesion = np.zeros((4, 5), bool)
    lesion[1:3, 1:3] = True
    assert pro([(0, lesion.astype(int), lesion)]) == pytest.approx([1])
    assert pro([(0, 1 - lesion.astype(int), lesion)]) == pytest.approx([0])


def test_against_the_slow_version():
    rng = np.random.default_rng(0)
    films = []
    for patient in (0, 0, 1, 2):
        lesion = ndimage.binary_dilation(rng.random((12, 15)) > 0.96)
        levels = rng.integers(0, 6, lesion.shape) + 2 * lesion
        levels[rng.random(lesion.shape) > 0.9] = -1  # not scored
        films.append((patient, levels, lesion))
    films.append((2, rng.integers(0, 6, (5, 5)), np.zeros((5, 5), bool)))  # a negative film
    assert pro(films) == pytest.approx([slow(films)])
    # a resample that draws the first patient twice and the second never
    drawn = [film for film in films if film[0] == 0] * 2 + [f for f in films if f[0] == 2]
    assert pro(films, torch.tensor([[2, 0, 1]])) == pytest.approx([slow(drawn)])


def test_pixels_touching_at_a_corner_are_one_part():
    lesion = np.array([[True, False], [False, True]])
    ((found, size),) = component_levels(np.array([[1, 0], [0, -1]]), lesion, 2)
    assert found.tolist() == [0, 1]
    assert size == 2  # with the pixel that was not scored


def test_without_lesions_or_negative_pixels_it_is_undefined():
    levels = np.array([[0, 1]])
    assert np.isnan(pro([(0, levels, np.zeros((1, 2), bool))])).all()
    assert np.isnan(pro([(0, levels, np.ones((1, 2), bool))])).all()


def test_best_dice_over_all_thresholds():
    rng = np.random.default_rng(1)
    scores, lesion = rng.integers(0, 9, 200), rng.random(200) > 0.7
    missed = 5  # lesion pixels that were not scored
    slow_best = max(
        2 * (lesion & (scores >= t)).sum() / (lesion.sum() + missed + (scores >= t).sum())
        for t in range(9)
    )
    counts = rank(torch.from_numpy(scores), torch.from_numpy(lesion)).counts()
    size = torch.tensor([float(lesion.sum() + missed)], dtype=torch.float64)
    assert best_dice(counts, size).tolist() == pytest.approx([slow_best])
    none = rank(torch.zeros(3), torch.zeros(3, dtype=torch.bool)).counts()
    assert np.isnan(best_dice(none, torch.zeros(1)).tolist()).all()
