"""What a score means: percentiles, thresholds and the colour range, from held-out negatives.

The image threshold is split-conformal (Vovk et al. 2005; Angelopoulos & Bates, "A gentle
introduction to conformal prediction", 2021): with n exchangeable negatives held out, the
⌈(n+1)(1−α)⌉-th smallest image score is exceeded by a new negative with probability at most α.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from patchad.calibration import Calibration
from patchad.config import CalibrationConfig
from patchad.detector import Scored
from patchad.errors import TrainingError
from patchad.verbs.calibrate_marks import calibrate_marks, draw_marks, mark_statement
from patchad.verbs.two_breasts import Side, calibrate_two_breasts

# Denser towards 1: the tail is where percentiles are read.
LEVELS = np.unique(np.concatenate([np.linspace(0, 1, 101), 1 - np.geomspace(1e-4, 1e-2, 41)]))
_SAMPLED = 20_000  # values of a dense map that are kept of an image
_DISPLAY_FROM = 0.9  # the colours begin here: nine tenths of a negative film stay clear


@dataclass(frozen=True, eq=False)
class NegativeImage:
    """The scores of one held-out negative image.

    ``scored``: what the detector said of it, without its map. ``held_out`` (m,) float32: the
    patches that percentiles are learnt from, all unless the split was by patch. ``side``: which
    breast it shows, for the comparison of two. ``dense`` (n,) float32 is a sample of the values of
    a dense map, its highest among them; None where there is none.
    """

    patient_id: str
    scored: Scored
    held_out: NDArray[np.float32]
    side: Side
    dense: NDArray[np.float32] | None = None

    @classmethod
    def of(
        cls,
        patient_id: str,
        side: Side,
        scored: Scored,
        held_out: NDArray[np.float32] | None = None,
    ) -> "NegativeImage":
        """What calibration needs of a scored image."""
        values = scored.scores.values[scored.scores.scored] if held_out is None else held_out
        bare = replace(scored, map=None)
        if scored.map is None:
            return cls(patient_id, bare, values, side)
        dense = np.sort(scored.map[np.isfinite(scored.map)])[::-1]
        return cls(patient_id, bare, values, side, dense[:: max(1, len(dense) // _SAMPLED)])

    @property
    def values(self) -> NDArray[np.float32]:
        """The scores of its scored patches, (n,) float32."""
        return self.scored.scores.values[self.scored.scores.scored]


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
    dense = [image.dense for image in images if image.dense is not None]
    films = [image.scored.scores for image in images]
    drawn = draw_marks(films, config.false_marks)
    patch_threshold = drawn.threshold
    by_image = [
        image.scored.image_score(config.pooling, config.top_k, patch_threshold) for image in images
    ]
    scores = sorted(by_image)
    split_conformal = partial(_image_threshold, config.false_images)
    image_threshold = split_conformal(scores)
    shown = np.concatenate(dense) if dense else held_out
    low = float(np.quantile(shown, _DISPLAY_FROM))
    # Halfway up the colours: the threshold of marks, or an ordinary negative's highest spot.
    halfway = float(np.median([values.max() for values in dense])) if dense else drawn.threshold
    high = low + 2 * max(halfway - low, 1e-3 * abs(low), 1e-6)
    names = [image.patient_id for image in images]
    patients = len(set(names))
    own_score = any(math.isfinite(image.scored.image) for image in images)
    decides = config.pooling == "max" and not own_score
    marks = calibrate_marks(drawn, names, image_threshold, dense=bool(dense), decides=decides)
    return Calibration(
        pooling=config.pooling,
        top_k=config.top_k,
        levels=tuple(LEVELS.tolist()),
        quantiles=tuple(np.quantile(held_out, LEVELS).astype(float).tolist()),
        image_scores=tuple(scores),
        patch_threshold=patch_threshold,
        image_threshold=image_threshold,
        display_range=(low, high),
        patients=patients,
        patches=int(held_out.size),
        marks=marks,
        statements=(mark_statement(marks), *_statements(len(scores), patients, config)),
        two_breasts=calibrate_two_breasts(
            by_image, [image.side for image in images], split_conformal
        ),
    )


def _image_threshold(false_images: float, ranked: Sequence[float]) -> float:
    """The ⌈(n+1)(1−α)⌉-th smallest of n scores, the highest where there are too few."""
    rank = math.ceil((len(ranked) + 1) * (1 - false_images))
    return float(ranked[min(rank, len(ranked)) - 1])


def _statements(images: int, patients: int, config: CalibrationConfig) -> tuple[str, ...]:
    promised = max(config.false_images, 1 / (images + 1))
    statements = [
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
