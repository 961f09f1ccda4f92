from pathlib import Path

import numpy as np
import pytest

from patchad.commands.outlier import Outliers, find_outliers

NAMES = [*"abcdefgh"]


def test_a_lone_high_score_is_named_with_the_next() -> None:
    # others: 1 … 7, quartiles 2.5 and 5.5, so 3 robust deviations are 3 x 3 / 1.349 = 6.67
    scores = [1.0, 2, 3, 4, 5, 6, 7]
    assert find_outliers(NAMES, [*scores, 13.6], 0.05) is None  # 6.6 over the next
    assert find_outliers(NAMES, [*scores, 13.7], 0.05) == Outliers((7,), 13.7, 7)
    shuffled = [5.0, 20.0, 1, 2, 3, 4, 6, 7]
    assert find_outliers(NAMES, shuffled, 0.05) == Outliers((1,), 20.0, 7)


def test_a_low_score_is_no_outlier_and_neither_are_two_high_ones() -> None:
    assert find_outliers(NAMES, [-99.0, 2, 3, 4, 5, 6, 7, 8], 0.05) is None
    assert find_outliers(NAMES, [1.0, 2, 3, 4, 5, 6, 99, 100], 0.05) is None


def test_films_of_one_patient_are_one() -> None:
    # both of h are far above: one patient still, whose highest film is named
    patients = [*NAMES, "h"]
    scores = [1.0, 2, 3, 4, 5, 6, 7, 50, 60]
    assert find_outliers(patients, scores, 0.05) == Outliers((8,), 60, 7)


def test_where_patients_are_many_one_does_not_set_the_threshold() -> None:
    names = [str(n) for n in range(39)]
    scores = [*np.linspace(0, 1, 38), 100.0]
    assert find_outliers(names, scores, 0.05) is None  # the 38th smallest is the threshold
    # unless another lies as far: quartiles of the 37 lower ones are 0.25 and 0.75 of the range
    two = [*np.linspace(0, 1, 37), 100.0, 50.0]
    assert find_outliers(names, two, 0.05) == Outliers((38, 37), 50.0, 1.0)
    many = [str(n) for n in range(99)]
    assert find_outliers(many, [*np.linspace(0, 1, 94), *[100.0] * 5], 0.05) is None
    assert find_outliers(names[:38], scores[1:], 0.05) == Outliers((37,), 100.0, 1.0)


def test_few_patients_and_images_without_a_score_tell_nothing() -> None:
    assert find_outliers(NAMES[:4], [1, 1, 1, 99], 0.05) is None
    assert find_outliers(NAMES[:6], [1, 1, 1, 1, np.nan, 99], 0.05) == Outliers((5,), 99, 1)


def test_the_card_names_no_path_and_the_terminal_a_command() -> None:
    found = Outliers((0,), 13.7, 7.0)
    assert found.note(["ab" * 32]) == (
        "One negative image alone sets the image threshold (13.7; the next patient's highest image "
        "scores 7): with the digest abababababab…. Such an image may be a positive, a wrong label "
        "or an artefact."
    )
    warning = found.warning(["/films/Jane Doe.png"], Path("model"))
    assert "patchad screen '/films/Jane Doe.png' --model model --out outlier" in warning
    assert "a positive, a wrong label or an artefact" in warning
    both = Outliers((3, 5), 13.7, 7.0).warning(["a.png", "b.png"], Path("model"))
    assert both.startswith("2 negative images alone set the image threshold (13.7; ")
    assert "patchad screen a.png b.png --model model" in both


@pytest.mark.parametrize("scale", [1e-3, 1e6])
def test_the_unit_of_the_score_does_not_matter(scale: float) -> None:
    scores = [1.0, 2, 3, 4, 5, 6, 7, 13.7]
    assert find_outliers(NAMES, [scale * x for x in scores], 0.05) is not None
