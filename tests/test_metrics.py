import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as reference

from patchad.evaluation.metrics import (
    agreement,
    auroc,
    average_precision,
    bootstrap,
    froc,
    froc_curve,
    interval,
    pr_curve,
    rank,
    resample,
    roc_curve,
    sensitivity_at_specificity,
    weighted_mean,
)

CPU = torch.device("cpu")


def ranked(scores, positive, unit=None, units=None):
    unit = None if unit is None else torch.as_tensor(unit)
    return rank(torch.as_tensor(scores), torch.as_tensor(positive), unit, units)


@st.composite
def tied_samples(draw):
    """Scores of few levels, so that ties abound, labels of both classes, and patients."""
    n = draw(st.integers(2, 60))
    levels = draw(st.integers(1, 12))
    integers = st.lists(st.integers(0, levels), min_size=n, max_size=n)
    scores = np.array(draw(integers)) / 7 - 0.4
    positive = np.array(draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    positive[:2] = True, False
    unit = np.array(draw(st.lists(st.integers(0, 5), min_size=n, max_size=n)))
    weights = np.array(draw(st.lists(st.integers(0, 3), min_size=6, max_size=6)), float)
    return scores, positive, unit, weights


def test_auroc_counts_ties_as_half():
    # Of six pairs (positives 3, 2; negatives 2, 1, 3): 3 beats 2 and 1, ties with 3; 2 ties with
    # 2, beats 1, loses to 3: (2 + 0.5 + 0.5 + 1) / 6.
    counts = ranked([3.0, 2, 2, 1, 3], [True, True, False, False, False]).counts()
    assert auroc(counts).item() == pytest.approx(4 / 6)


def test_average_precision_by_hand():
    # From the top: 4+ (precision 1), 3-, 2+ and 2- together (2 of 4).
    counts = ranked([4.0, 3, 2, 2], [True, False, True, False]).counts()
    assert average_precision(counts).item() == pytest.approx((1 + 2 / 4) / 2)


def test_sensitivity_at_specificity_takes_whole_steps():
    scores = [10.0, 8, 6, *range(10)]  # positives 10, 8, 6; negatives 0 … 9
    counts = ranked(scores, [True] * 3 + [False] * 10).counts()
    at = {s: sensitivity_at_specificity(counts, s).item() for s in (1.0, 0.9, 0.8, 0.6)}
    assert at == {1.0: 1 / 3, 0.9: 1 / 3, 0.8: 2 / 3, 0.6: 1.0}


@given(tied_samples())
def test_agrees_with_scikit_learn_for_any_weights(samples):
    scores, positive, unit, weights = samples
    each = weights[unit]
    counts = ranked(scores, positive, unit, 6).counts(torch.tensor(weights)[None])
    if not (each[positive].sum() and each[~positive].sum()):
        assert math.isnan(auroc(counts).item())
        assert math.isnan(average_precision(counts).item())
        assert math.isnan(sensitivity_at_specificity(counts, 0.9).item())
        return
    false, true, _ = reference.roc_curve(
        positive, scores, sample_weight=each, drop_intermediate=False
    )
    expected = {
        "auroc": reference.roc_auc_score(positive, scores, sample_weight=each),
        "ap": reference.average_precision_score(positive, scores, sample_weight=each),
        "sensitivity": true[false <= 0.3 + 1e-9].max(),
    }
    assert {
        "auroc": auroc(counts).item(),
        "ap": average_precision(counts).item(),
        "sensitivity": sensitivity_at_specificity(counts, 0.7).item(),
    } == pytest.approx(expected, abs=1e-6)
    x, y = roc_curve(counts)
    assert torch.trapezoid(y, x).item() == pytest.approx(expected["auroc"], abs=1e-6)
    recall, precision = pr_curve(counts)
    gained = torch.diff(recall, prepend=torch.zeros(1))
    area = (gained * torch.nan_to_num(precision)).sum().item()
    assert area == pytest.approx(expected["ap"], abs=1e-6)


def test_agrees_with_scikit_learn_on_many_samples():
    generator = np.random.default_rng(0)
    positive = generator.random(20_000) < 0.05
    scores = np.round(generator.normal(size=20_000) + positive, 1).astype(np.float32)
    counts = ranked(scores, positive).counts()
    assert auroc(counts).item() == pytest.approx(
        reference.roc_auc_score(positive, scores), abs=1e-6
    )
    assert average_precision(counts).item() == pytest.approx(
        reference.average_precision_score(positive, scores), abs=1e-6
    )


@given(tied_samples())
def test_a_weight_is_that_many_repetitions(samples):
    scores, positive, unit, weights = samples
    again = np.repeat(np.arange(len(scores)), weights[unit].astype(int))
    weighted = ranked(scores, positive, unit, 6).counts(torch.tensor(weights)[None])
    repeated = ranked(scores[again], positive[again]).counts()
    counted = rank(
        torch.tensor(scores), torch.tensor(positive), count=torch.tensor(weights[unit])
    ).counts()
    for statistic in (auroc, average_precision):
        expected = statistic(repeated).item()
        assert statistic(weighted).item() == pytest.approx(expected, nan_ok=True)
        assert statistic(counted).item() == pytest.approx(expected, nan_ok=True)


def test_a_large_table_is_weighed_in_blocks(monkeypatch):
    generator = np.random.default_rng(1)
    scores, positive = generator.normal(size=500), generator.random(500) < 0.4
    ranking = ranked(scores, positive, generator.integers(0, 30, 500), 30)
    weights = resample(30, 20, seed=0, device=CPU)
    whole = auroc(ranking.counts(weights))
    monkeypatch.setattr("patchad.evaluation.metrics._BLOCK", 100)
    assert torch.equal(auroc(ranking.counts(weights)), whole)


@pytest.mark.parametrize("positive", [[True, True], [False, False]])
def test_a_missing_class_gives_nan(positive):
    counts = ranked([1.0, 2.0], positive).counts()
    assert math.isnan(auroc(counts).item())
    assert math.isnan(average_precision(counts).item())
    assert math.isnan(sensitivity_at_specificity(counts, 0.9).item())


def test_nothing_at_all_gives_nan():
    counts = ranked(np.empty(0), np.empty(0, bool), np.empty(0, np.int64), 3).counts()
    assert math.isnan(auroc(counts).item())
    assert math.isnan(froc(counts, torch.zeros(1), (1.0,)).item())


def test_nan_scores_are_refused():
    with pytest.raises(ValueError, match="1 are NaN"):
        ranked([1.0, math.nan], [True, False])


def test_froc_by_hand():
    # Four lesions with marks 0.9, 0.5, 0.2 and none; false marks 0.7, 0.4, 0.3, 0.1 on two images.
    scores = [0.9, 0.5, 0.2, -math.inf, 0.7, 0.4, 0.3, 0.1]
    counts = ranked(scores, [True] * 4 + [False] * 4).counts()
    images = torch.tensor([2.0])
    found = froc(counts, images, (0.25, 0.5, 1.0, 1.5, 2.0, 4.0))
    assert found.tolist() == [[0.25, 0.5, 0.5, 0.75, 0.75, 0.75]]
    rate, sensitivity = froc_curve(counts, images)
    assert rate.tolist() == [0, 0.5, 1.5]
    assert sensitivity.tolist() == [0.25, 0.5, 0.75]


def test_froc_without_negative_images_is_nan():
    counts = ranked([0.9], [True]).counts()
    assert froc(counts, torch.zeros(1), (1.0, 2.0)).isnan().all()


def test_agreement_by_hand():
    found = agreement(*(torch.tensor(float(n)) for n in (6, 2, 4, 12)))
    assert {name: value.item() for name, value in found.items()} == pytest.approx(
        {
            "sensitivity": 6 / 8,
            "specificity": 12 / 16,
            "precision": 6 / 10,
            "f1": 12 / 18,
            "accuracy": 18 / 24,
        }
    )


def test_precision_of_no_alarm_is_nan():
    found = agreement(*(torch.tensor(float(n)) for n in (0, 2, 0, 3)))
    assert math.isnan(found["precision"].item())
    assert found["sensitivity"].item() == 0


def test_weighted_mean_by_hand():
    values, unit = torch.tensor([1.0, 2.0, 6.0]), torch.tensor([0, 0, 1])
    weights = torch.tensor([[1.0, 1], [2, 1], [0, 0]], dtype=torch.float64)
    assert weighted_mean(values, unit, weights)[:2].tolist() == [3.0, 12 / 5]
    assert weighted_mean(values, unit, weights)[2].isnan()


def test_bootstrap_is_the_brute_force_one():
    generator = np.random.default_rng(2)
    unit = np.sort(generator.integers(0, 12, 150))
    positive = generator.random(150) < 0.3
    scores = np.round(generator.normal(size=150) + positive, 1)
    ranking, weights = ranked(scores, positive, unit, 12), resample(12, 40, seed=5, device=CPU)
    draws = bootstrap(lambda w: auroc(ranking.counts(w)), weights, chunk=7)
    brute = []
    for times in weights.int().tolist():
        rows = [row for who, n in enumerate(times) for row in n * [*np.flatnonzero(unit == who)]]
        brute.append(reference.roc_auc_score(positive[rows], scores[rows]))
    assert draws.tolist() == pytest.approx(brute, abs=1e-9)
    assert interval(draws) == pytest.approx(tuple(np.quantile(brute, (0.025, 0.975))), abs=1e-9)


def test_resamples_draw_as_many_patients_as_there_are():
    weights = resample(7, 500, seed=3, device=CPU)
    assert (weights.sum(1) == 7).all()
    assert weights.mean().item() == 1
    assert torch.equal(weights, resample(7, 500, seed=3, device=CPU))
    assert not torch.equal(weights, resample(7, 500, seed=4, device=CPU))


def test_an_interval_leaves_nan_out_and_says_nothing_of_constants():
    draws = torch.arange(101, dtype=torch.float64)
    low, high = interval(torch.cat([draws, torch.tensor([math.nan])]))
    assert (low, high) == pytest.approx((2.5, 97.5))
    assert all(math.isnan(end) for end in interval(torch.ones(1000)))
    assert all(math.isnan(end) for end in interval(torch.full((5,), math.nan)))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_device_changes_nothing():
    generator = np.random.default_rng(4)
    positive, unit = generator.random(5000) < 0.1, generator.integers(0, 50, 5000)
    scores = np.round(generator.normal(size=5000) + positive, 1)
    found = []
    for device in (CPU, torch.device("cuda")):
        tensors = (torch.tensor(values, device=device) for values in (scores, positive, unit))
        ranking = rank(*tensors, 50)
        weights = resample(50, 100, seed=0, device=device)
        found.append(bootstrap(lambda w, r=ranking: auroc(r.counts(w)), weights).cpu())
    assert torch.allclose(found[0], found[1], atol=1e-12, rtol=0)
