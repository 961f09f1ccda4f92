"""The calibration of a detector's scores, stored in the card."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from patchad.model.rarity import Rarity

Pooling = Literal["max", "top_mean", "excess"]

# Denser towards 1, since percentiles in the tail matter most.
LEVELS = np.unique(np.concatenate([np.linspace(0, 1, 101), 1 - np.geomspace(1e-4, 1e-2, 41)]))
_DISTINCT = 256  # up to this many different values are all kept; of more, those at LEVELS
_ATOM = 1e-3  # share of the scores above which a value is always kept
_EXACT = 1e-9  # tolerance for rounding in the product of a share and a count


@dataclass(frozen=True)
class Shares:
    """The share of negatives' scores that is lower than a score.

    ``values`` are different scores of negatives, ascending; ``below`` and ``at_most`` are the
    shares in [0, 1] of all scores that are strictly lower than each, and not higher. Between two
    values the share is interpolated, so it is exact wherever all scores were kept.
    """

    values: tuple[float, ...]
    below: tuple[float, ...]
    at_most: tuple[float, ...]

    @classmethod
    def of(cls, scores: NDArray[np.floating]) -> "Shares":
        """From scores (N,), none of them NaN, N at least 1.

        Few different values are all kept; of many, those at ``LEVELS``, and each that at least a
        thousandth of the scores have.
        """
        values, counts = np.unique(np.asarray(scores, np.float64), return_counts=True)
        at_most = counts.cumsum()
        if len(values) > _DISTINCT:
            ranks = np.ceil(LEVELS * len(scores)).clip(1)
            kept = np.union1d(
                np.searchsorted(at_most, ranks),
                np.flatnonzero((counts > 1) & (counts >= _ATOM * len(scores))),
            )
        else:
            kept = np.arange(len(values))
        below = (at_most - counts)[kept] / len(scores)
        return cls(
            tuple(values[kept].tolist()),
            tuple(below.tolist()),
            tuple((at_most[kept] / len(scores)).tolist()),
        )

    def lower(self, scores: NDArray[np.floating]) -> NDArray[np.float64]:
        """The share in [0, 1] that is strictly lower than each score: (N,) float64, NaN kept."""
        wanted = np.asarray(scores, np.float64)
        values, below, at_most = map(np.array, (self.values, self.below, self.at_most))
        after = np.searchsorted(values, wanted).clip(max=len(values) - 1)  # the next, or equal
        before = (after - 1).clip(0)
        apart = np.where(after > before, values[after] - values[before], 1)
        # not np.interp: the share jumps at a value, from ``below`` to ``at_most``
        way = ((wanted - values[before]) / apart).clip(0, 1)
        between = at_most[before] + way * (below[after] - at_most[before])
        inside = np.where(wanted == values[after], below[after], between)
        ends = np.where(wanted > values[-1], 1.0, np.where(wanted < values[0], 0.0, inside))
        return np.where(np.isnan(wanted), np.nan, ends)

    def quantile(self, share: float) -> float:
        """The score that ``share`` of all do not exceed, interpolated between the kept ones."""
        return float(np.interp(share, self.at_most, self.values))


@dataclass(frozen=True)
class MarkCalibration:
    """How an image is marked, and how rare its marks are among held-out negatives.

    Patches that score over ``threshold`` are marked; negatives have ``per_film`` marks on average.
    ``dense``: the outline within marked patches comes from the detector's own map. ``decides``: the
    image score is the score of its strongest mark; otherwise it has a scale of its own. ``rarity``
    is valid for patches ``stride`` pixels apart.
    """

    threshold: float
    per_film: float
    dense: bool
    decides: bool
    stride: int
    rarity: Rarity


@dataclass(frozen=True)
class TwoBreasts:
    """The calibration of an image score minus that of the patient's other breast.

    ``ordinary`` is the median image score of negatives, used for a missing breast;
    ``patient_scores`` and ``image_threshold`` are as in :class:`Calibration`.
    """

    ordinary: float
    patient_scores: tuple[float, ...]
    image_threshold: float


@dataclass(frozen=True)
class Calibration:
    """The calibration of scores on negatives alone, each scored by a model not trained on it.

    ``patch_shares`` is the distribution of scores of the negatives' ``patches``. Films of a patient
    are correlated, so image scores are counted by patient: ``patient_scores``, sorted, has the
    highest film's score of each of the ``patients``. ``marks`` is how an image is marked; an image
    above ``image_threshold`` is flagged; ``display_range`` is the colour range of every overlay of
    this model. ``patch_threshold`` is the threshold for single patches, and the base of the pooling
    ``excess``.

    ``made`` describes the negatives in words, ``folds`` is how many models scored them (0: the
    model itself); ``made_on`` holds the negatives' digests (see :mod:`patchad.model.trained_on`).
    ``statements`` are the guarantees of the thresholds, and their limits if n is small; ``notes``
    are other warnings about this calibration, such as an outlier.
    """

    pooling: Pooling
    top_k: int
    patch_shares: Shares
    patient_scores: tuple[float, ...]
    patch_threshold: float
    image_threshold: float
    display_range: tuple[float, float]
    images: int
    patients: int
    patches: int
    marks: MarkCalibration
    made: str = ""
    folds: int = 0
    made_on: str = ""
    statements: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    two_breasts: TwoBreasts | None = None  # None if no negative patient had both


def pool(
    values: NDArray[np.float32], pooling: Pooling, top_k: int, patch_threshold: float
) -> float:
    """The image score of patch scores (N,), NaN = not scored; NaN if none was scored.

    ``max``; ``top_mean``: the mean of the ``top_k`` highest (of all, if there are fewer);
    ``excess``: the mean over all patches of the excess over ``patch_threshold``.
    """
    values = values[np.isfinite(values)].astype(np.float64)
    if not values.size:
        return math.nan
    match pooling:
        case "max":
            return float(values.max())
        case "top_mean":
            return float(np.sort(values)[-top_k:].mean())
        case "excess":
            return float(np.maximum(values - patch_threshold, 0).mean())


def patch_percentiles(calibration: Calibration, values: NDArray[np.float32]) -> NDArray[np.float32]:
    """The share in [0, 100] of negative patches that score strictly lower: (N,) float32, NaN kept.

    As exact as :class:`Shares`.
    """
    return (100 * calibration.patch_shares.lower(values)).astype(np.float32)


def image_percentile(calibration: Calibration, score: float) -> float:
    """The share in [0, 100) of n negative patients whose highest film scores strictly lower.

    Counted out of n + 1, so that a score above all of a few patients doesn't give 100.
    """
    if math.isnan(score):
        return math.nan
    below = int(np.searchsorted(calibration.patient_scores, score, side="left"))
    return 100 * below / (len(calibration.patient_scores) + 1)


def highest_of_patients(patients: Iterable[str], scores: Iterable[float]) -> list[float]:
    """The score of each patient's highest film, sorted."""
    highest: dict[str, float] = {}
    for patient, score in zip(patients, scores, strict=True):
        highest[patient] = max(score, highest.get(patient, -math.inf))
    return sorted(highest.values())


def conformal_threshold(ranked: Sequence[float], false_images: float) -> float:
    """The ⌈(n + 1)(1 − α)⌉-th smallest of n sorted scores; the highest if n is too small."""
    return float(ranked[conformal_rank(len(ranked), false_images) - 1])


def conformal_rank(patients: int, false_images: float) -> int:
    """The rank of the threshold among the sorted scores of ``patients``; the first is 1."""
    over = math.floor((patients + 1) * false_images + _EXACT)
    return min(patients + 1 - over, patients)


def promised_rate(patients: int, false_images: float) -> float:
    """The largest share of new negative patients that is flagged: α, or 1 / (n + 1) if greater."""
    return max(false_images, 1 / (patients + 1))


def patients_needed(false_images: float) -> int:
    """The least number of patients that guarantees ``false_images``: 19 for 5 %."""
    return math.ceil(1 / false_images - _EXACT) - 1


def promise(rate: float) -> str:
    """The guarantee of an image threshold, in the words used everywhere."""
    return (
        f"at most {100 * rate:.3g} % of new negative patients, with as many films as these, have "
        "any film flagged"
    )
