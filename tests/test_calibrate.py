import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchad.calibration import image_percentile, patch_percentiles, pool
from patchad.config import CalibrationConfig
from patchad.detector import Scored
from patchad.errors import TrainingError
from patchad.grid import PatchGrid
from patchad.image import PatchScores
from patchad.verbs.calibrate import NegativeImage, calibrate
from patchad.verbs.two_breasts import Side


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
    images = [negative(str(n), float(n)) for n in range(1, 40)]  # 39 images
    found = calibrate(images, CalibrationConfig(pooling="max", false_images=0.05))
    assert found.image_threshold == 38.0  # ceil(40 x 0.95) = 38th smallest
    assert "5.0%" in found.statements[1]


def test_too_few_images_promise_what_they_can() -> None:
    images = [negative(str(n), float(n)) for n in range(1, 10)]  # 9 images
    found = calibrate(images, CalibrationConfig(pooling="max", false_images=0.05))
    assert found.image_threshold == 9.0
    assert "10.0%" in found.statements[1]  # 1 / (9 + 1)
    assert "at least 19 negative images" in found.statements[2]


def test_images_of_one_patient_are_said_to_count_for_less() -> None:
    images = [negative("same", float(n)) for n in range(30)]
    assert "30 images come from 1 patients" in calibrate(images, CalibrationConfig()).statements[-1]


@given(st.integers(5, 200), st.sampled_from([0.05, 0.1, 0.3]), st.integers(0, 2**32))
def test_false_image_rate_holds_on_average(count: int, alpha: float, seed: int) -> None:
    # By symmetry each of the n + 1 exchangeable images is as likely to be the new one.
    scores = np.random.default_rng(seed).random(count + 1)
    flagged = 0
    for new in range(count + 1):
        images = [negative(str(n), scores[n]) for n in range(count + 1) if n != new]
        threshold = calibrate(
            images, CalibrationConfig(pooling="max", false_images=alpha)
        ).image_threshold
        flagged += np.float32(scores[new]) > threshold
        if count > 40:
            return  # the loop is quadratic; large counts only check that nothing breaks
    assert flagged / (count + 1) <= max(alpha, 1 / (count + 1)) + 1e-9


def test_percentiles() -> None:
    images = [negative(str(n), *np.linspace(n, n + 1, 101)) for n in range(4)]
    found = calibrate(images, CalibrationConfig(pooling="max"))
    got = patch_percentiles(found, np.array([-1, 0, 2, 4, 9, np.nan], np.float32))
    np.testing.assert_allclose(got[:5], [0, 0, 50, 100, 100], atol=0.3)
    assert math.isnan(got[5])
    assert image_percentile(found, 0.5) == 0
    assert image_percentile(found, 2.0) == 100 * 2 / 5  # images score 1, 2, 3, 4
    assert image_percentile(found, 99.0) == 100 * 4 / 5  # never 100: only four were seen
    assert math.isnan(image_percentile(found, math.nan))


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
