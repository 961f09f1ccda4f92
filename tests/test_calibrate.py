import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchad.commands.calibrate import NegativeImage, calibrate, told_of
from patchad.commands.other_breast import Side
from patchad.core.grid import PatchGrid
from patchad.core.image import PatchScores
from patchad.engine.screener import Scored
from patchad.errors import TrainingError
from patchad.model.calibration import (
    Shares,
    conformal_rank,
    image_percentile,
    patch_percentiles,
    patients_needed,
    pool,
    promised_rate,
)
from patchad.model.config import CalibrationConfig


def negative(patient: str, *values: float) -> NegativeImage:
    scores = np.array(values or (np.nan,), np.float32)
    grid = PatchGrid((1, len(scores)), 1, 1)
    scored = Scored(PatchScores(grid, scores, np.ones(len(scores), np.float32)))
    return NegativeImage.of(patient, Side("", "", "", ""), scored)


def test_pooling_by_hand() -> None:
    values = np.array([0.1, np.nan, 0.5, 0.3, 0.2], np.float32)
    assert pool(values, "max", 1, 0.0) == pytest.approx(0.5)
    assert pool(values, "top_mean", 2, 0.0) == pytest.approx(0.4)
    assert pool(values, "top_mean", 9, 0.0) == pytest.approx(0.275)  # fewer than 9: all
    assert pool(values, "excess", 1, 0.25) == pytest.approx((0.25 + 0.05) / 4)
    assert math.isnan(pool(np.full(3, np.nan, np.float32), "max", 1, 0.0))


def test_the_threshold_of_marks_spends_the_budget_and_no_more() -> None:
    # Patches of one pixel silence no neighbour: each is a mark.
    images = [negative("a", 1, 2, 3), negative("b", 4, 5, 6), negative("c", 7, 8, 9)]
    one = calibrate(images, CalibrationConfig(false_marks=1.0)).marks
    assert (one.threshold, one.per_film) == (6.0, 1.0)  # 7, 8 and 9 are over it
    third = calibrate(images, CalibrationConfig(false_marks=1 / 3)).marks
    assert (third.threshold, third.per_film) == (8.0, pytest.approx(1 / 3))
    assert calibrate(images, CalibrationConfig(false_marks=100)).marks.threshold == 1.0


def test_patches_beside_a_higher_one_are_no_marks_of_their_own() -> None:
    grid = PatchGrid((4, 8), 4, 1)  # five patches in a row; each covers the next two centres

    def film(patient: str, *values: float) -> NegativeImage:
        scores = np.array(values, np.float32)
        found = Scored(PatchScores(grid, scores, np.ones(5, np.float32)))
        return NegativeImage.of(patient, Side("", "", "", ""), found)

    images = [film("a", 9, 8, 7, 1, 2), film("b", 5, 4, 3, 4, 6)]
    # Marks: 9 and, two away from it and more, 2 (1 lies beside it); 6, and 5 silenced by neither.
    found = calibrate(images, CalibrationConfig(false_marks=1.0)).marks
    assert (found.threshold, found.per_film) == (5.0, 1.0)
    assert [found.rarity.of(s)[0] for s in (6, 7, 9, 10)] == [1, 2 / 3, 2 / 3, 1 / 3]


def test_rarity_counts_the_marks_of_held_out_films() -> None:
    images = [negative("a", 1, 5), negative("b", 1, 6), negative("c", 1, 1)]
    found = calibrate(images, CalibrationConfig()).marks
    assert (found.rarity.films, found.rarity.patients) == (3, 3)
    assert found.threshold == 1.0
    assert [found.rarity.of(s)[0] for s in (4, 5, 5.5, 6, 7)] == [3 / 4, 3 / 4, 2 / 4, 2 / 4, 1 / 4]


def test_a_flagged_image_has_a_mark_that_was_counted_too() -> None:
    # Film a alone has eight marks over 8; half of the images may be flagged.
    images = [negative("a", *range(9, 17)), *(negative(c, 4) for c in "bcdefgh")]
    found = calibrate(images, CalibrationConfig(false_marks=0.5, false_images=0.5))
    assert found.image_threshold == 4.0
    assert found.marks.threshold == 12.0
    # Between both thresholds count the marks of a that lie there as well.
    assert found.marks.rarity.of(10.0)[0] == pytest.approx((1 + 7) / 9)
    assert found.marks.rarity.of(13.0)[0] == pytest.approx((1 + 4) / 9)


@pytest.mark.parametrize(("pooling", "decides"), [("max", True), ("top_mean", False)])
def test_marks_decide_where_the_image_score_is_the_strongest(pooling: str, decides: bool) -> None:
    images = [negative("a", 1, 2), negative("b", 3, 4)]
    assert calibrate(images, CalibrationConfig(pooling=pooling)).marks.decides is decides
    own = replace(images[0], scored=replace(images[0].scored, image=2.0))
    assert not calibrate([own, images[1]], CalibrationConfig(pooling=pooling)).marks.decides


def test_image_threshold_is_the_conformal_rank() -> None:
    images = [negative(str(n), float(n)) for n in range(1, 40)]  # 39 patients
    found = calibrate(images, CalibrationConfig(pooling="max", false_images=0.05))
    assert found.image_threshold == 38.0  # ceil(40 x 0.95) = 38th smallest
    assert found.statements[1].startswith(
        "Images: at most 5 % of new negative patients, with as many films as these, have any film "
        "flagged. This holds (split conformal, n = 39 patients)"
    )
    assert len(found.statements) == 2


@pytest.mark.parametrize(
    ("patients", "share", "rank"),
    [(19, 0.05, 19), (18, 0.05, 18), (20, 0.05, 20), (38, 0.05, 38), (39, 0.05, 38),
     (9, 0.1, 9), (19, 0.1, 18), (29, 0.1, 27), (59, 0.1, 54), (1, 0.05, 1)],
)  # fmt: skip
def test_rounding_moves_no_rank(patients: int, share: float, rank: int) -> None:
    assert conformal_rank(patients, share) == rank


def test_nineteen_patients_promise_five_per_cent() -> None:
    assert [patients_needed(share) for share in (0.05, 0.1, 0.01, 0.07)] == [19, 9, 99, 14]
    assert promised_rate(19, 0.05) == 0.05
    assert promised_rate(18, 0.05) == pytest.approx(1 / 19)


def test_too_few_patients_promise_what_they_can() -> None:
    images = [negative(str(n), float(n)) for n in range(1, 10)]  # 9 patients
    found = calibrate(images, CalibrationConfig(pooling="max", false_images=0.05))
    assert found.image_threshold == 9.0
    assert "at most 10 % of new negative patients" in found.statements[1]  # 1 / (9 + 1)
    assert "it takes 19 negative patients at least" in found.statements[2]


def test_a_patient_scores_what_the_highest_film_does() -> None:
    # 20 patients of three films each; a film alone would be one of 60, and the threshold 57.
    images = [negative(str(n // 3), float(n)) for n in range(60)]
    found = calibrate(images, CalibrationConfig(pooling="max", false_images=0.05))
    assert found.patient_scores == tuple(float(n) for n in range(2, 60, 3))
    assert found.image_threshold == 59.0  # of 20 patients, the 20th: floor(21 x 0.05) = 1 over
    assert (found.images, found.patients) == (60, 20)
    assert "n = 20 patients" in found.statements[1]
    one = calibrate([negative("same", float(n)) for n in range(30)], CalibrationConfig())
    assert one.patient_scores == (29.0,)
    assert "at most 50 % of new negative patients" in one.statements[1]


def test_folds_promise_no_more_than_is_known() -> None:
    images = [negative(str(n), float(n)) for n in range(100)]
    found = calibrate(images, CalibrationConfig(pooling="max"), folds=5, made="in folds")
    assert (found.folds, found.made) == (5, "in folds")
    said = found.statements[1]
    assert "near this (cross-conformal, 5 folds, n = 100 patients), but no bound is proven" in said
    # 2 x 5 % + min(2 x (1 - 1/5) / (100 / 5 + 1), (1 - 5 / 100) / (5 + 1)) = 10 % + 7.62 %
    assert "it is at most 17.6 %" in said
    leave_one_out = calibrate(images, CalibrationConfig(pooling="max"), folds=100)
    assert "it is at most 10 %" in leave_one_out.statements[1]  # Theorem 1: twice the promise


@given(
    st.integers(5, 40),
    st.integers(1, 4),
    st.sampled_from([0.05, 0.1, 0.3]),
    st.integers(0, 2**32),
)
def test_false_patient_rate_holds_on_average(
    count: int, films: int, alpha: float, seed: int
) -> None:
    # By symmetry each of the n + 1 exchangeable patients is as likely to be the new one.
    rng = np.random.default_rng(seed)
    scores = (rng.normal(size=(count + 1, 1)) + 0.5 * rng.normal(size=(count + 1, films))).astype(
        np.float32
    )
    flagged = 0
    for new in range(count + 1):
        images = [
            negative(str(n), score) for n in range(count + 1) if n != new for score in scores[n]
        ]
        threshold = calibrate(
            images, CalibrationConfig(pooling="max", false_images=alpha)
        ).image_threshold
        flagged += bool((scores[new] > threshold).any())
    assert flagged / (count + 1) <= max(alpha, 1 / (count + 1)) + 1e-9


def test_percentiles_at_ties_count_what_is_strictly_lower() -> None:
    # 10 patches: four of 1, two of 2, three of 3, one of 5
    found = calibrate(
        [negative("a", 1, 1, 1, 1, 2), negative("b", 2, 3, 3, 3, 5)],
        CalibrationConfig(pooling="max"),
    )
    got = patch_percentiles(
        found, np.array([0, 1, 1.5, 2, 2.5, 3, 4, 5, 6, np.nan, np.inf], np.float32)
    )
    np.testing.assert_allclose(got, [0, 0, 40, 40, 60, 60, 90, 90, 100, np.nan, 100], rtol=1e-6)
    # images score 2 and 5: nothing is lower than 2, though one image has just this score
    assert [image_percentile(found, x) for x in (1, 2, 3, 5, 6)] == pytest.approx(
        [0, 0, 100 / 3, 100 / 3, 200 / 3]
    )
    assert math.isnan(image_percentile(found, math.nan))


def test_nothing_is_lower_than_an_atom_at_the_bottom() -> None:
    # more different values than are kept, and a good part of them at the lowest
    scores = np.concatenate([np.zeros(430), np.linspace(1, 2, 570)])
    shares = Shares.of(scores)
    assert len(shares.values) < 300
    assert shares.lower(np.array([0.0])) == [0]
    (between,) = shares.lower(np.array([0.5]))  # interpolated up to the next that is kept
    assert 0.43 <= between <= 0.44


@given(
    st.lists(st.integers(-20, 20), min_size=1, max_size=300),
    st.lists(st.floats(-25, 25, width=32), min_size=1, max_size=20),
)
def test_shares_of_few_different_scores_are_exact(scores: list[int], asked: list[float]) -> None:
    values = np.array(scores, np.float32)
    wanted = np.array([*asked, *scores], np.float32)
    brute = [(values < x).mean() for x in wanted]
    np.testing.assert_allclose(Shares.of(values).lower(wanted), brute, atol=1e-12)


@given(st.integers(0, 2**32), st.floats(0, 0.9), st.integers(1, 5))
def test_shares_of_many_scores_are_exact_at_atoms_and_near_elsewhere(
    seed: int, mass: float, atoms: int
) -> None:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=3000).astype(np.float32)
    at = rng.normal(size=atoms).astype(np.float32)
    chosen = rng.random(3000) < mass
    values[chosen] = rng.choice(at, chosen.sum())
    shares = Shares.of(values)
    heavy = [x for x in at if (values == x).mean() >= 1e-3]
    brute = [(values < x).mean() for x in heavy]
    np.testing.assert_allclose(shares.lower(np.array(heavy)), brute, atol=1e-12)
    wanted = rng.normal(size=200).astype(np.float32)
    near = np.abs(shares.lower(wanted) - [(values < x).mean() for x in wanted])
    assert near.max() <= 0.01 + 1e-9  # between levels, which lie at most 1 % apart
    assert (np.diff(shares.lower(np.sort(wanted))) >= 0).all()


def test_quantiles_come_back() -> None:
    shares = Shares.of(np.arange(1, 101))
    assert [shares.quantile(share) for share in (0.5, 0.16, 1.0)] == pytest.approx([50, 16, 100])


def test_the_terminal_is_told_the_specificity_and_what_sensitivity_needs() -> None:
    images = [negative(str(n), float(n)) for n in range(1, 40)]
    found = calibrate(images, CalibrationConfig(pooling="max"), made="negatives set aside")
    first, *_, last = told_of(SimpleNamespace(calibrated=found))
    assert first == ("calibrated on 39 negative images of 39 patients: negatives set aside")
    assert "threshold 38, on these patients themselves: 0.97 (1 of 39 flagged)" in last
    assert "sensitivity needs positives: patchad evaluate" in last


def test_colours_begin_where_nine_tenths_of_negative_patches_lie_below() -> None:
    images = [negative("a", *np.linspace(0, 1, 1001))]
    found = calibrate(images, CalibrationConfig(false_marks=10))
    assert found.display_range[0] == pytest.approx(0.9)
    assert found.marks.threshold == pytest.approx(np.mean(found.display_range))


def test_constant_scores_still_give_a_range() -> None:
    found = calibrate([negative("a", 1, 1, 1), negative("b", 1, 1)], CalibrationConfig())
    assert found.display_range[1] > found.display_range[0]


def test_nothing_held_out_is_an_error() -> None:
    with pytest.raises(TrainingError, match="held out"):
        calibrate([negative("a")], CalibrationConfig())
