from pathlib import Path

import numpy as np
import pytest

from patchad.verbs.outlier import Outlier, find_outlier

NAMES = [*"abcdefgh"]


def test_a_lone_high_score_is_named_with_the_next() -> None:
    # others: 1 … 7, quartiles 2.5 and 5.5, so 3 robust deviations are 3 x 3 / 1.349 = 6.67
    scores = [1.0, 2, 3, 4, 5, 6, 7]
    assert find_outlier(NAMES, [*scores, 13.6], 0.05) is None  # 6.6 over the next
    assert find_outlier(NAMES, [*scores, 13.7], 0.05) == Outlier(7, 13.7, 7)
    shuffled = [5.0, 20.0, 1, 2, 3, 4, 6, 7]
    assert find_outlier(NAMES, shuffled, 0.05) == Outlier(1, 20.0, 7)


def test_a_low_score_is_no_outlier_and_neither_are_two_high_ones() -> None:
    assert find_outlier(NAMES, [-99.0, 2, 3, 4, 5, 6, 7, 8], 0.05) is None
    assert find_outlier(NAMES, [1.0, 2, 3, 4, 5, 6, 99, 100], 0.05) is None


def test_films_of_one_patient_are_one() -> None:
    # both of h are far above: one patient still, whose highest film is named
    patients = [*NAMES, "h"]
    scores = [1.0, 2, 3, 4, 5, 6, 7, 50, 60]
    assert find_outlier(patients, scores, 0.05) == Outlier(8, 60, 7)


def test_where_patients_are_many_one_does_not_set_the_threshold() -> None:
    names = [str(n) for n in range(39)]
    scores = [*np.linspace(0, 1, 38), 100.0]
    assert find_outlier(names, scores, 0.05) is None  # the 38th smallest is the threshold
    assert find_outlier(names[:38], scores[1:], 0.05) == Outlier(37, 100.0, 1.0)


def test_few_patients_and_images_without_a_score_tell_nothing() -> None:
    assert find_outlier(NAMES[:4], [1, 1, 1, 99], 0.05) is None
    assert find_outlier(NAMES[:6], [1, 1, 1, 1, np.nan, 99], 0.05) == Outlier(5, 99, 1)


def test_the_card_names_no_path_and_the_terminal_a_command() -> None:
    found = Outlier(0, 13.7, 7.0)
    note = found.note("ab" * 32)
    assert "13.7" in note
    assert "abababababab…" in note
    warning = found.warning("/films/Jane Doe.png", Path("model"))
    assert "patchad screen '/films/Jane Doe.png' --model model --out outlier" in warning
    assert "a positive, a wrong label or an artefact" in warning


@pytest.mark.parametrize("scale", [1e-3, 1e6])
def test_the_unit_of_the_score_does_not_matter(scale: float) -> None:
    scores = [1.0, 2, 3, 4, 5, 6, 7, 13.7]
    assert find_outlier(NAMES, [scale * x for x in scores], 0.05) is not None
