"""Rarity: counted by hand, bounded, and never surer than the films allow."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchad.model.rarity import Rarity, bound_in_short, estimate_rarity, upper_bound


def of(*films: tuple[str, list[float]]) -> Rarity:
    return estimate_rarity(
        [np.array(marks, np.float32) for _, marks in films], [patient for patient, _ in films]
    )


def test_by_hand() -> None:
    rarity = of(("a", [3, 5]), ("b", [4]), ("c", []), ("d", [4]))
    assert (rarity.films, rarity.patients) == (4, 4)
    expected = {
        2: 5 / 5,
        3: 5 / 5,
        3.5: 4 / 5,
        4: 4 / 5,
        4.5: 2 / 5,
        5: 2 / 5,
        5.5: 1 / 5,
        99: 1 / 5,
    }
    assert {score: rarity.of(score)[0] for score in expected} == pytest.approx(expected)
    assert all(math.isnan(number) for number in rarity.of(math.nan))


def test_nothing_seen_is_bounded_by_the_number_of_patients() -> None:
    # 3.0 / patients: with more, 95 % of the time one of them at least would have had one.
    four = of(*((patient, []) for patient in "aabbccdd"))
    assert four.of(1.0) == (pytest.approx(1 / 9), pytest.approx(-math.log(0.05) / 4))
    eight = of(*((patient, []) for patient in "abcdefgh"))
    assert eight.of(1.0) == (pytest.approx(1 / 9), pytest.approx(-math.log(0.05) / 8))


def test_one_patient_bounds_little() -> None:
    assert of(("a", [1]), ("a", [1]), ("a", [])).of(1.0)[1] > 2


def test_the_bound_of_independent_marks_is_that_of_a_poisson_count() -> None:
    marks = np.repeat([1.0, 0.0], [10, 90])
    # 10 of 100: the exact bound of a count of 10 is 16.96
    assert upper_bound(marks, np.ones(100)) == pytest.approx(0.1696, abs=2e-3)
    together = np.zeros(100)
    together[0] = 10  # all on one patient: wider by far
    assert upper_bound(together, np.ones(100)) > 0.4


@given(
    st.lists(
        st.tuples(st.sampled_from("abcde"), st.lists(st.floats(-3, 3, width=32), max_size=6)),
        min_size=1,
        max_size=12,
    ),
    st.floats(-4, 4),
    st.floats(0, 2),
)
def test_stronger_marks_are_rarer(
    films: list[tuple[str, list[float]]], score: float, more: float
) -> None:
    rarity = of(*films)
    (expected, upper), (rarer, lower) = rarity.of(score), rarity.of(score + more)
    assert 1 / (1 + len(films)) <= rarer <= expected <= upper
    assert rarer <= lower <= upper
    count = sum(mark >= score for _, marks in films for mark in marks)
    assert expected == pytest.approx((1 + count) / (1 + len(films)))


def test_of_many_marks_few_scores_are_kept_and_none_said_to_be_rarer() -> None:
    scores = np.random.default_rng(0).random(5000).astype(np.float32)
    rarity = of(*((str(n), part) for n, part in enumerate(np.split(scores, 1000))))
    assert len(rarity.scores) <= 500
    for score in [*np.linspace(0, 1.1, 40), *np.sort(scores)[-20:]]:
        told, exact = rarity.of(float(score))[0], (1 + (scores >= score).sum()) / 1001
        assert exact <= told <= 1.1 * exact
    assert rarity.of(float(scores.max()))[0] == pytest.approx(2 / 1001)


@pytest.mark.parametrize(
    ("number", "words", "short"),
    [
        (1 / 81, "a mark this strong is seen in fewer than 1 of 80 normal films", "<1 in 80"),
        (2 / 81, "a mark this strong is seen in 1 of 40 normal films", "1 in 40"),
        (7 / 81, "a mark this strong is seen in 1 of 11 normal films", "1 in 11"),
        (0.5, "a mark this strong is seen in 1 of 2 normal films", "1 in 2"),
        (0.9, "a normal film has about 1 mark this strong", "1 a film"),
        (2.0, "a normal film has 2 marks this strong", "2 a film"),
        (math.nan, "how rare a mark this strong is, is not known", "not known"),
    ],
)
def test_words(number: float, words: str, short: str) -> None:
    rarity = Rarity((), (1 / 81,), (3 / 40,), 80, 40)
    assert (rarity.in_words(number), rarity.in_short(number)) == (words, short)


@pytest.mark.parametrize(
    ("bound", "words"),
    [(0.08, "at most 1 in 12"), (0.75, "at most 0.75 a film"), (math.nan, "")],
)
def test_words_of_a_bound(bound: float, words: str) -> None:
    assert bound_in_short(bound) == words


def test_a_table_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="for each score and for one above all"):
        Rarity((1.0,), (0.5,), (0.5,), 1, 1)
