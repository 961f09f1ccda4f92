"""An image's result and its marks in words, the same in every output."""

import math

from patchad.engine.marks import Mark
from patchad.model.calibration import Calibration
from patchad.model.rarity import bound_in_short

DECIDED_BY_MARK = "its strongest mark decides whether it is flagged"
OWN_SCALE = "its score has a scale of its own: marks don't decide whether it is flagged"
NOT_CALIBRATED = "how rare its marks are is not known: this stride is not the model's"


def verdict(score: float, percentile: float, *, flagged: bool) -> str:
    """An image's score, the share of normal patients who score lower, and whether it is flagged."""
    lower = ""
    if not math.isnan(percentile):
        lower = f", higher than {percentile:.0f} % of normal patients"
    return f"image score {score:.4g}{lower}: {'flagged' if flagged else 'not flagged'}"


def marks_in_words(count: int, calibration: Calibration, *, calibrated: bool = True) -> str:
    """How many marks an image has, how many a normal one has, and what decides the flag."""
    how = calibration.marks
    number = f"{count or 'no'} mark{'s' * (count != 1)}, a normal film has {how.per_film:.2g}"
    parts = [number, DECIDED_BY_MARK if how.decides else OWN_SCALE]
    return "; ".join(parts if calibrated else [*parts, NOT_CALIBRATED])


def rarity_in_words(mark: Mark, calibration: Calibration) -> str:
    """How rare a mark is, with its upper bound."""
    words, bound = calibration.marks.rarity.in_words(mark.rarity), bound_in_short(mark.upper)
    return f"{words} ({bound}, 95 % bound)" if bound else words


def label_of(mark: Mark, calibration: Calibration) -> str:
    """A mark's number and rarity, in short: ``2: 1 in 12``."""
    return f"{mark.number}: {calibration.marks.rarity.in_short(mark.rarity)}"
