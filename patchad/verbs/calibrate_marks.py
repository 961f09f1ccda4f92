"""From which score on patches are marked, and how rare marks are: counted on held-out negatives."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from patchad.calibration import MarkCalibration
from patchad.image import PatchScores
from patchad.marks import links_of
from patchad.persistence import Peaks, lowest_threshold, peaks_of
from patchad.rarity import estimate_rarity

_MARKED_AT_MOST = 0.1  # of the negatives' patches: from the next one down, marks would run together


@dataclass(frozen=True, eq=False)
class Drawn:
    """The score over which negatives have as many marks as they may, and each film's peaks."""

    threshold: float
    films: tuple[Peaks, ...]
    dense: bool
    stride: int


def draw_marks(films: Sequence[PatchScores], budget: float, *, dense: bool) -> Drawn:
    """The lowest threshold that leaves the films ``budget`` marks each, on average.

    Of their patches it leaves a tenth at most, however few marks those would make.
    """
    peaks = tuple(peaks_of(film.values, links_of(film.grid, dense=dense)) for film in films)
    patches = np.concatenate([film.values[film.scored] for film in films])
    floor = float(np.quantile(patches, 1 - _MARKED_AT_MOST))
    return Drawn(lowest_threshold(peaks, budget, floor), peaks, dense, films[0].grid.stride)


def calibrate_marks(
    drawn: Drawn, patients: Sequence[str], image_threshold: float, *, decides: bool
) -> MarkCalibration:
    """How rare the drawn marks are.

    Args:
        drawn: from :func:`draw_marks`.
        patients: whose film it is, one a film.
        image_threshold: a flagged image is marked from here on, if that is lower.
        decides: whether the image score is that of the strongest mark.
    """
    least = min(drawn.threshold, image_threshold) if decides else drawn.threshold
    found = [film.over(drawn.threshold) for film in drawn.films]
    # And what a flagged image may have for its only mark.
    fainter = [peaks[peaks <= drawn.threshold] for peaks in (f.over(least) for f in drawn.films)]
    both = [np.concatenate(marks) for marks in zip(found, fainter, strict=True)]
    return MarkCalibration(
        threshold=drawn.threshold,
        per_film=sum(map(len, found)) / len(found),
        dense=drawn.dense,
        decides=decides,
        stride=drawn.stride,
        rarity=estimate_rarity(both, patients),
    )


def mark_statement(marks: MarkCalibration) -> str:
    """What marks promise, in words."""
    rarity = marks.rarity
    return (
        f"Marks: the {rarity.films} negative images of {rarity.patients} patients have "
        f"{marks.per_film:.2g} mark{'s' * (marks.per_film != 1)} each on average: what scores over "
        f"{marks.threshold:.4g}. How rare a mark is, is counted on them; its upper bound (95 %) "
        "is for patients like these."
    )
