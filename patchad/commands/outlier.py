"""Negatives that alone set the image threshold: positives, wrong labels or artefacts?"""

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from patchad.model.calibration import conformal_rank

_FAR = 3.0  # robust deviations between those that set the threshold and the next
_LEAST = 5  # patients; with fewer it is unclear what is far
_MOST = 3  # patients who set it; more are not outliers
_IQR = 1.349  # of a normal distribution, in standard deviations


@dataclass(frozen=True)
class Outliers:
    """The images (``numbers`` among those given) that set the threshold, and the next score.

    The first is the one whose ``score`` is the threshold, others score higher.
    """

    numbers: tuple[int, ...]
    score: float
    following: float

    def note(self, digests: Sequence[str]) -> str:
        """The note for the card: the images by their digests, without paths."""
        return (
            f"{self._alone(_listed([f'{digest[:12]}…' for digest in digests], 'with the digest'))} "
            f"{_MAY_BE}."
        )

    def warning(self, paths: Sequence[str], model: Path) -> str:
        """The warning for the terminal: which files, and how to look at them."""
        named = " ".join(map(shlex.quote, paths))
        look = f"patchad screen {named} --model {shlex.quote(str(model))} --out outlier"
        return (
            f"{self._alone(', '.join(paths))} {_MAY_BE}: look at them ({look}), and if so, "
            "take them out and calibrate again"
        )

    def _alone(self, named: str) -> str:
        count = len(self.numbers)
        who = "One negative image" if count == 1 else f"{count} negative images"
        return (
            f"{who} alone set{'s' * (count == 1)} the image threshold ({self.score:.4g}; the next "
            f"patient's highest image scores {self.following:.4g}): {named}."
        )


_MAY_BE = "Such an image may be a positive, a wrong label or an artefact"


def _listed(names: Sequence[str], what: str) -> str:
    return f"{what} {' and '.join(names)}"


def find_outliers(
    patients: Sequence[str], scores: Sequence[float], false_images: float
) -> Outliers | None:
    """The images that alone set the image threshold by far, if there are any.

    Of n patients the m highest may exceed the threshold or set it (m = 1 with fewer than
    2 / ``false_images`` − 1 patients). They do so by far if m is 3 at most and the threshold
    lies more than three robust standard deviations above the next patient's score: the
    interquartile range of all lower patients' scores, over 1.349. NaN scores are
    ignored; with fewer than five patients the answer is None.

    Args:
        patients: the patient of each image.
        scores: the image scores.
        false_images: the target of the threshold.
    """
    highest: dict[str, tuple[float, int]] = {}
    for number, (patient, score) in enumerate(zip(patients, scores, strict=True)):
        if not math.isnan(score) and score > highest.get(patient, (-math.inf, 0))[0]:
            highest[patient] = (score, number)
    ranked = sorted(highest.values())
    if len(ranked) < _LEAST:
        return None
    place = conformal_rank(len(ranked), false_images) - 1
    if place < _LEAST - 1 or len(ranked) - place > _MOST:
        return None
    lower = [score for score, _ in ranked[:place]]
    score = ranked[place][0]
    low, high = np.quantile(lower, [0.25, 0.75])
    if not score - lower[-1] > _FAR * (high - low) / _IQR:
        return None
    return Outliers(tuple(number for _, number in ranked[place:]), score, lower[-1])
