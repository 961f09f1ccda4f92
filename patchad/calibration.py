"""What a detector's scores mean: the card's calibration, and how it is read."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from patchad.rarity import Rarity

Pooling = Literal["max", "top_mean", "excess"]


@dataclass(frozen=True)
class MarkCalibration:
    """What of an image is marked, and how rare its marks are among held-out negatives.

    Patches that score over ``threshold`` are marked, and negatives have ``per_film`` marks on
    average. ``dense``: the detector's own map says what of the patches is outlined. ``decides``:
    the image score is the score of its strongest mark; otherwise it has a scale of its own.
    ``rarity`` holds for patches ``stride`` pixels apart.
    """

    threshold: float
    per_film: float
    dense: bool
    decides: bool
    stride: int
    rarity: Rarity


@dataclass(frozen=True)
class TwoBreasts:
    """What an image score less that of the patient's other breast means.

    ``ordinary`` is the median image score of held-out negatives, for a breast that isn't there;
    ``image_scores`` and ``image_threshold`` are as in :class:`Calibration`.
    """

    ordinary: float
    image_scores: tuple[float, ...]
    image_threshold: float


@dataclass(frozen=True)
class Calibration:
    """What scores mean, learnt from held-out negatives alone.

    ``quantiles`` are the patch scores at ``levels`` (in [0, 1]) among the negative patches;
    ``image_scores`` the sorted image scores of the negative images. ``marks`` says what is marked
    on an image, an image above ``image_threshold`` is flagged; ``display_range`` is what every
    overlay of this model spans. ``patch_threshold`` is where single patches are judged, and what
    the pooling ``excess`` counts from. ``statements`` say in words what the thresholds promise,
    and how little that is when n is small.
    """

    pooling: Pooling
    top_k: int
    levels: tuple[float, ...]
    quantiles: tuple[float, ...]
    image_scores: tuple[float, ...]
    patch_threshold: float
    image_threshold: float
    display_range: tuple[float, float]
    patients: int
    patches: int
    marks: MarkCalibration
    statements: tuple[str, ...] = ()
    two_breasts: TwoBreasts | None = None  # None where no patient had both among the held-out


def pool(
    values: NDArray[np.float32], pooling: Pooling, top_k: int, patch_threshold: float
) -> float:
    """The image score of patch scores (N,), NaN = not scored; NaN where none was scored.

    ``max``; ``top_mean``: the mean of the ``top_k`` highest (of all, where there are fewer);
    ``excess``: the mean over all patches of what exceeds ``patch_threshold``.
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
    """The share in [0, 100] of negative patches that score lower: (N,) float32, NaN kept."""
    shares = np.interp(values, calibration.quantiles, calibration.levels)
    return (100 * shares).astype(np.float32)


def image_percentile(calibration: Calibration, score: float) -> float:
    """The share in [0, 100) of n held-out negative images that score at most this much.

    Counted out of n + 1, so that a score above all of few images doesn't read as 100.
    """
    if math.isnan(score):
        return math.nan
    below = int(np.searchsorted(calibration.image_scores, score, side="right"))
    return 100 * below / (len(calibration.image_scores) + 1)
