"""The threshold of marks, and how rare marks are: counted on held-out negatives."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from patchad.core.image import PatchScores
from patchad.engine.marks import find_marks
from patchad.model.calibration import MarkCalibration
from patchad.model.rarity import estimate_rarity


@dataclass(frozen=True, eq=False)
class Drawn:
    """The threshold that leaves negatives the allowed number of marks, and the marks of each film.

    ``films`` holds the scores of each film's marks, (m,) float32, over the threshold or not.
    """

    threshold: float
    films: tuple[NDArray[np.float32], ...]
    stride: int


def draw_marks(films: Sequence[PatchScores], budget: float) -> Drawn:
    """The lowest threshold that no more than ``budget`` marks a film exceed, on average.

    If all films together have no more marks than that, it is their lowest.
    """
    marks = tuple(film.values[find_marks(film.grid.boxes(), film.values)] for film in films)
    scores = np.sort(np.concatenate(marks))[::-1]
    allowed = min(int(budget * len(films) + 1e-9), len(scores) - 1)
    return Drawn(float(scores[allowed]), marks, films[0].grid.stride)


def calibrate_marks(
    drawn: Drawn,
    patients: Sequence[str],
    image_threshold: float,
    *,
    dense: bool,
    decides: bool,
) -> MarkCalibration:
    """How rare the marks are.

    Args:
        drawn: from :func:`draw_marks`.
        patients: the patient of each film.
        image_threshold: a flagged image is marked from here on, if that is lower.
        dense: whether outlines follow the detector's own map.
        decides: whether the image score is that of the strongest mark.
    """
    least = min(drawn.threshold, image_threshold) if decides else drawn.threshold
    over = sum(int((marks > drawn.threshold).sum()) for marks in drawn.films)
    return MarkCalibration(
        threshold=drawn.threshold,
        per_film=over / len(drawn.films),
        dense=dense,
        decides=decides,
        stride=drawn.stride,
        rarity=estimate_rarity([marks[marks > least] for marks in drawn.films], patients),
    )


def mark_statement(marks: MarkCalibration) -> str:
    """The promise of marks, in words."""
    rarity = marks.rarity
    return (
        f"Marks: the {rarity.films} negative images of {rarity.patients} patients have "
        f"{marks.per_film:.2g} mark{'s' * (marks.per_film != 1)} each on average, at scores over "
        f"{marks.threshold:.4g}. How rare a mark is, is counted on them; its upper bound (95 %) "
        "is for patients like these."
    )
