"""What is planted, where, and with which label."""

import numpy as np
import pytest
import scipy.sparse as sparse
import torch
from scipy.sparse.linalg import spsolve

from patchad.methods.parts import pseudo_anomalies as pseudo
from patchad.methods.parts.poisson import clone, solve
from patchad.methods.parts.pseudo_anomalies import Natural, Picture, natural


@pytest.mark.parametrize("shape", [(1, 1), (1, 6), (7, 5), (24, 31)])
def test_poisson_is_solved_as_a_sparse_system_is(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    divergence, rim = rng.normal(size=shape), rng.normal(size=(shape[0] + 2, shape[1] + 2))
    rows, cols = shape
    matrix, right = sparse.lil_matrix((rows * cols, rows * cols)), divergence.ravel().copy()
    for r in range(rows):
        for c in range(cols):
            matrix[r * cols + c, r * cols + c] = -4
            for down, across in ((1, 0), (-1, 0), (0, 1), (0, -1)):
                y, x = r + down, c + across
                if 0 <= y < rows and 0 <= x < cols:
                    matrix[r * cols + c, y * cols + x] = 1
                else:
                    right[r * cols + c] -= rim[y + 1, x + 1]
    expected = spsolve(matrix.tocsc(), right).reshape(shape)
    np.testing.assert_allclose(solve(divergence, rim), expected, atol=1e-9)


def test_gradients_of_the_target_alone_leave_it_as_it_is() -> None:
    target, source = np.random.default_rng(1).normal(size=(2, 12, 9))
    np.testing.assert_allclose(clone(target, source, 1, 0), target[1:-1, 1:-1], atol=1e-12)


def test_a_cloned_source_keeps_its_gradients_and_takes_the_level_of_the_rim() -> None:
    source = np.random.default_rng(2).normal(size=(12, 9))
    target = source + 5
    np.testing.assert_allclose(clone(target, source, 0, 1), target[1:-1, 1:-1], atol=1e-12)


def test_each_pair_of_neighbours_takes_the_larger_gradient() -> None:
    rng = np.random.default_rng(3)
    target, source = rng.normal(size=(2, 6, 7))
    mixed = np.pad(clone(target, source, 0.3, 0.7), 1)
    mixed[[0, -1]], mixed[:, [0, -1]] = target[[0, -1]], target[:, [0, -1]]
    for r in range(1, 5):
        for c in range(1, 6):
            total = 0.0
            for y, x in ((r + 1, c), (r - 1, c), (r, c + 1), (r, c - 1)):
                own = 0.3 * (target[y, x] - target[r, c])
                foreign = 0.7 * (source[y, x] - source[r, c])
                total += own if abs(own) > abs(foreign) else foreign
            around = mixed[r + 1, c] + mixed[r - 1, c] + mixed[r, c + 1] + mixed[r, c - 1]
            assert around - 4 * mixed[r, c] == pytest.approx(total)


def pictures(seed: int, side: int = 64) -> tuple[np.ndarray, np.ndarray]:
    target, source = np.random.default_rng(seed).random((2, side, side)).astype(np.float32)
    return target, source


@pytest.mark.parametrize("seed", range(20))
def test_fpi_mixes_a_square_and_labels_it_by_how_much(seed: int) -> None:
    target, source = pictures(seed)
    planted, label = pseudo.interpolate(np.random.default_rng(seed), target, source)
    alpha = label.max()
    assert 0.05 <= alpha <= 0.95
    rows, cols = np.nonzero(label)
    box = np.s_[rows.min() : rows.max() + 1, cols.min() : cols.max() + 1]
    mixed = (1 - alpha) * target[box] + alpha * source[box]
    np.testing.assert_allclose(planted[box], mixed, atol=1e-6)
    outside = np.ones_like(label, bool)
    outside[box] = False
    np.testing.assert_array_equal(planted[outside], target[outside])
    for line in (rows, cols):
        length = line.max() - line.min() + 1
        assert length <= 2 * 12  # half-widths of 3 to 12, 13 excluded
        assert length >= 2 * 3 or line.max() == 63 or line.min() == 0


def test_fpi_leaves_what_is_alike_unlabelled() -> None:
    target, _ = pictures(0)
    source = target.copy()
    source[:, 32:] += 0.5
    _, label = pseudo.interpolate(np.random.default_rng(4), target, source)
    assert not label[:, :32].any()


@pytest.mark.parametrize("seed", range(20))
def test_pii_joins_without_leaving_the_range_and_labels_what_changed(seed: int) -> None:
    target, source = pictures(seed)
    target = target * 0.5 + 0.2
    planted, label = pseudo.interpolate_gradients(np.random.default_rng(seed), target, source)
    assert planted.min() >= target.min()
    assert planted.max() <= target.max()
    changed = np.abs(planted - target) > 1e-3
    np.testing.assert_array_equal(label > 0, changed)
    assert len(np.unique(label)) == 2
    assert not changed[[0, -1]].any()
    assert not changed[:, [0, -1]].any()


def test_pii_is_a_clone_of_its_square() -> None:
    target, source = pictures(5)
    planted, label = pseudo.interpolate_gradients(np.random.default_rng(5), target, source)
    rows, cols = np.nonzero(planted != target)
    around = np.s_[rows.min() - 1 : rows.max() + 2, cols.min() - 1 : cols.max() + 2]
    alpha = float(label.max())
    mixed = clone(target[around], source[around], 1 - alpha, alpha)
    expected = np.clip(mixed, target.min(), target.max())
    np.testing.assert_allclose(planted[around][1:-1, 1:-1], expected, atol=1e-5)


def test_the_logistic_label_has_its_middle_at_four_steps() -> None:
    found = pseudo.logistic_label(
        np.array([[4.0, 6.0, 0.0]], np.float32), np.array([[True, True, False]]), 0.5, 4.0
    )
    np.testing.assert_allclose(found, [[0.5, 1 / (1 + np.exp(-1.0)), 0]], rtol=1e-6)


def test_medians_are_those_of_a_disc() -> None:
    values = np.random.default_rng(0).integers(0, 200, (9, 9)).astype(np.float32)
    found = pseudo.median(values, 1)
    cross = [values[4, 4], values[3, 4], values[5, 4], values[4, 3], values[4, 5]]
    assert found[4, 4] == np.median(cross)


def whole(seed: int, side: int = 64) -> tuple[Picture, Picture]:
    shown = np.zeros((side, side), bool)
    shown[4:-4, : side // 2 + 8] = True
    target, source = pictures(seed, side)
    return Picture(target * shown, shown), Picture(source * shown, shown)


@pytest.mark.parametrize("seed", range(20))
def test_nsa_plants_on_the_object_and_grades_by_change(seed: int) -> None:
    target, source = whole(seed)
    planted, label = natural(np.random.default_rng(seed), target, source, Natural())
    assert planted.min() >= 0
    assert planted.max() <= 1
    assert label.max() > 0.5
    assert label.max() <= 1
    steps = np.abs(planted - target.pixels) * 255
    far = pseudo.majority(steps <= 1, 2)  # nothing changed near: no label
    assert not label[far & (steps == 0)].any() or label[far].mean() < 0.05
    assert target.shown[label > 0].mean() > 0.6


@pytest.mark.parametrize("seed", range(10))
def test_nsa_by_swapping_takes_pixels_as_they_are(seed: int) -> None:
    target, source = whole(seed)
    source = Picture(np.full_like(source.pixels, 0.75), source.shown)
    recipe = Natural(blend="swap", label="binary", resize=(1.0, 1.0), patches=1)
    planted, label = natural(np.random.default_rng(seed), target, source, recipe)
    changed = planted != target.pixels
    assert (planted[changed] == np.float32(0.75)).all()
    assert set(np.unique(label)) == {0, 1}
    assert (label > 0).sum() == pytest.approx(changed.sum(), rel=0.3)
    rows, cols = np.nonzero(changed)
    assert np.ptp(rows) < 0.8 * 64
    assert np.ptp(cols) < 0.8 * 64


def test_where_no_place_is_found_nothing_is_planted() -> None:
    nothing = Picture(np.zeros((64, 64), np.float32), np.zeros((64, 64), bool))
    planted, label = natural(np.random.default_rng(0), nothing, nothing, Natural())
    assert not planted.any()
    assert not label.any()


def test_cut_paste_changes_two_to_fifteen_per_cent() -> None:
    target = np.zeros((128, 128), np.float32)
    source = np.full((128, 128), 0.5, np.float32)
    shares, ratios = [], []
    for seed in range(200):
        rows, cols = np.nonzero(pseudo.cut_paste(np.random.default_rng(seed), target, source))
        shares.append(len(rows) / 128**2)
        ratios.append((np.ptp(rows) + 1) / (np.ptp(cols) + 1))
    assert 0.018 < min(shares) < 0.03
    assert 0.13 < max(shares) < 0.155
    assert 0.28 < min(ratios) < 0.35
    assert 2.9 < max(ratios) < 3.5
    assert abs(np.mean(np.log(ratios))) < 0.15


def test_a_scar_is_a_thin_turned_strip() -> None:
    target = np.zeros((256, 256), np.float32)
    source = np.full((256, 256), 0.5, np.float32)
    areas = []
    for seed in range(100):
        rows, cols = np.nonzero(pseudo.scar(np.random.default_rng(seed), target, source))
        areas.append(len(rows))
        assert np.hypot(np.ptp(rows), np.ptp(cols)) <= np.hypot(16, 25) * 1.45
    assert min(areas) >= 15
    assert max(areas) <= 16 * 25 * 1.2


def test_jitter_stays_within_a_tenth() -> None:
    patch = np.full((5, 5), 0.5, np.float32)
    levels = [pseudo.jittered(np.random.default_rng(s), patch).mean() for s in range(100)]
    assert 0.45 <= min(levels) < 0.46
    assert 0.54 < max(levels) <= 0.55


def test_sources_are_others() -> None:
    rng, which = np.random.default_rng(0), np.arange(5)
    drawn = np.stack([pseudo.others(rng, which, 5, same=True) for _ in range(200)])
    assert not (drawn == which).any()
    assert all(set(column) == set(range(5)) - {n} for n, column in enumerate(drawn.T))
    assert set(pseudo.others(rng, np.zeros(99, np.int64), 3, same=False)) == {0, 1, 2}


def test_one_generator_plants_one_thing() -> None:
    first, again = (pseudo.numpy_rng(torch.Generator().manual_seed(3)).random() for _ in range(2))
    assert first == again
