"""A negative that alone sets the image threshold: a positive, a wrong label or an artefact?"""

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from patchad.calibration import conformal_rank

_FAR = 3.0  # robust deviations between the highest patient and the next
_LEAST = 5  # patients; of fewer nobody can tell what is far
_IQR = 1.349  # of a normal distribution, in standard deviations


@dataclass(frozen=True)
class Outlier:
    """The image (its ``number`` among those given) that sets the threshold, and the next score."""

    number: int
    score: float
    following: float

    def note(self, digest: str) -> str:
        """What the card says: the image by its digest, no path."""
        return (
            f"One negative image alone sets the image threshold: it scores {self.score:.4g}, the "
            f"next patient's highest {self.following:.4g} (the image with the digest "
            f"{digest[:12]}…). It may be a positive, a wrong label or an artefact."
        )

    def warning(self, path: str, model: Path) -> str:
        """What the terminal says: which file, and how to look at it."""
        look = f"patchad screen {shlex.quote(path)} --model {shlex.quote(str(model))} --out outlier"
        return (
            f"{path} alone sets the image threshold: it scores {self.score:.4g}, the next "
            f"patient's highest {self.following:.4g}. It may be a positive, a wrong label or an "
            f"artefact: look at it ({look}), and if it is one, take it out and calibrate again"
        )


def find_outlier(
    patients: Sequence[str], scores: Sequence[float], false_images: float
) -> Outlier | None:
    """The image that alone sets the image threshold by far, if there is one.

    It does where the threshold is the highest patient's score (as it is with fewer than
    2 / ``false_images`` − 1 patients), and that lies more than three robust standard deviations
    above the next patient's: the interquartile range of all other patients' scores, over 1.349.
    NaN scores are passed over; of fewer than five patients nobody can tell.

    Args:
        patients: whose each image is.
        scores: the image scores.
        false_images: what the threshold is set for.
    """
    highest: dict[str, tuple[float, int]] = {}
    for number, (patient, score) in enumerate(zip(patients, scores, strict=True)):
        if not math.isnan(score) and score > highest.get(patient, (-math.inf, 0))[0]:
            highest[patient] = (score, number)
    ranked = sorted(highest.values())
    if len(ranked) < _LEAST or conformal_rank(len(ranked), false_images) < len(ranked):
        return None
    others = [score for score, _ in ranked[:-1]]
    score, number = ranked[-1]
    low, high = np.quantile(others, [0.25, 0.75])
    if not score - others[-1] > _FAR * (high - low) / _IQR:
        return None
    return Outlier(number, score, others[-1])
