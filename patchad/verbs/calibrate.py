"""What a score means: percentiles, thresholds and the colour range, from held-out negatives.

The image threshold is split-conformal (Vovk et al. 2005; Angelopoulos & Bates, "A gentle
introduction to conformal prediction", 2021): with n exchangeable negatives held out, the
⌈(n+1)(1−α)⌉-th smallest image score is exceeded by a new negative with probability at most α.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from patchad.calibration import Calibration, pool
from patchad.config import CalibrationConfig
from patchad.errors import TrainingError

# Denser towards 1: the tail is where percentiles are read.
LEVELS = np.unique(np.concatenate([np.linspace(0, 1, 101), 1 - np.geomspace(1e-4, 1e-2, 41)]))
_DISPLAY_FROM = 0.9  # the colours begin here: nine tenths of a negative film stay clear


@dataclass(frozen=True, eq=False)
class NegativeImage:
    """The scores of one held-out negative image.

    ``values`` (n,) float32: its scored patches. ``held_out`` (m,) float32: those that percentiles
    are learnt from, the same unless the split was by patch.
    """

    patient_id: str
    values: NDArray[np.float32]
    held_out: NDArray[np.float32]


def calibrate(images: Sequence[NegativeImage], config: CalibrationConfig) -> Calibration:
    """Learn thresholds, percentiles and the display range from negatives that were set aside.

    Raises:
        TrainingError: no held-out negative has a scored patch.
    """
    images = [image for image in images if image.values.size]
    held_out = np.concatenate([image.held_out for image in images] or [np.empty(0, np.float32)])
    if not held_out.size:
        raise TrainingError(
            "no negative patch was held out, so scores cannot be calibrated: give more negative "
            "patients, a larger split.held_out, or a smaller min_foreground"
        )
    patch_threshold = _patch_threshold([image.values for image in images], config.false_patches)
    scores = np.sort(
        [pool(image.values, config.pooling, config.top_k, patch_threshold) for image in images]
    )
    rank = math.ceil((len(scores) + 1) * (1 - config.false_images))
    image_threshold = float(scores[min(rank, len(scores)) - 1])
    low = float(np.quantile(held_out, _DISPLAY_FROM))
    high = low + 2 * max(patch_threshold - low, 1e-3 * abs(low), 1e-6)
    patients = len({image.patient_id for image in images})
    return Calibration(
        pooling=config.pooling,
        top_k=config.top_k,
        levels=tuple(LEVELS.tolist()),
        quantiles=tuple(np.quantile(held_out, LEVELS).astype(float).tolist()),
        image_scores=tuple(scores.astype(float).tolist()),
        patch_threshold=patch_threshold,
        image_threshold=image_threshold,
        display_range=(low, high),
        patients=patients,
        patches=int(held_out.size),
        statements=_statements(len(scores), patients, config),
    )


def _patch_threshold(images: Sequence[NDArray[np.float32]], budget: float) -> float:
    """The lowest score that no more than ``budget`` patches an image exceed, on average."""
    values = np.sort(np.concatenate(images))
    allowed = min(int(budget * len(images)), len(values) - 1)
    return float(values[len(values) - 1 - allowed])


def _statements(images: int, patients: int, config: CalibrationConfig) -> tuple[str, ...]:
    promised = max(config.false_images, 1 / (images + 1))
    statements = [
        f"Patches: on the {images} held-out negative images, at most {config.false_patches:g} "
        "patches an image exceed the patch threshold on average. This is what was counted, not "
        "a guarantee for new images.",
        f"Images: a new negative image that is exchangeable with the {images} held-out ones is "
        f"flagged with probability at most {promised:.1%} (split conformal: on average over draws "
        "of the held-out set; with n this small one model's rate may lie well above or below).",
    ]
    if promised > config.false_images:
        statements.append(
            f"{config.false_images:.1%} was asked for, but {images} images can promise no less "
            f"than 1/(n + 1) = {promised:.1%}; hold out at least "
            f"{math.ceil(1 / config.false_images) - 1} negative images for it."
        )
    if patients < images:
        statements.append(
            f"The {images} images come from {patients} patients: images of one patient are alike, "
            "so the promise holds for a smaller n than the number of images."
        )
    return tuple(statements)
