"""What a score means: percentiles, thresholds and the colour range, from negatives not trained on.

The image threshold is conformal (Vovk et al. 2005; Angelopoulos & Bates, "A gentle introduction to
conformal prediction", 2021), counted by patient: films of a patient are similar, so patients
are exchangeable, not films. With n negative patients, each with the score of the highest film, the
⌈(n+1)(1−α)⌉-th smallest score is exceeded by a new negative patient, with as many films as these,
with probability at most α, if one model scored them all and was trained on none (split conformal).

If each was scored by the model of a fold (cross-conformal, :mod:`patchad.commands.folds`), and
the model in use was trained on all of them, no such bound is known. R. F. Barber, E. J.
Candès, A. Ramdas, R. J. Tibshirani (Predictive inference with the jackknife+, Annals of Statistics
49: 486-507, 2021, https://doi.org/10.1214/20-AOS1965) prove at most 2α (leave-one-out, Theorem 1)
or 2α + min(2(1−1/K)/(n/K+1), (1−K/n)/(K+1)) (K folds, Theorem 4) for another procedure, in which
the models of all folds also score the new film, each compared with its own fold. In
benchmarks/calibration.py the one model stays near α.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from patchad.commands.calibrate_marks import calibrate_marks, draw_marks, mark_statement
from patchad.commands.other_breast import Side, calibrate_two_breasts
from patchad.engine.screener import Scored
from patchad.errors import TrainingError
from patchad.model.calibration import (
    Calibration,
    Shares,
    conformal_threshold,
    highest_of_patients,
    patients_needed,
    promise,
    promised_rate,
)
from patchad.model.card import ModelCard
from patchad.model.config import CalibrationConfig

_SAMPLED = 20_000  # values of a dense map that are kept for an image
_DISPLAY_FROM = 0.9  # the colours begin here: nine tenths of a negative film are transparent


@dataclass(frozen=True, eq=False)
class NegativeImage:
    """The scores of one negative image, by a model that was not trained on it.

    ``scored``: the detector's scores, without the map. ``held_out`` (m,) float32: the
    patches that percentiles are computed from, all unless the split was by patch. ``side``: which
    breast it shows, for the comparison of two. ``dense`` (n,) float32 is a sample of the values of
    a dense map, its highest among them; None if there is none.
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
        """The part of a scored image that calibration needs."""
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


def calibrate(
    images: Sequence[NegativeImage],
    config: CalibrationConfig,
    *,
    made: str = "",
    folds: int = 0,
    made_on: str = "",
) -> Calibration:
    """Compute thresholds, percentiles and the display range from negatives that were set aside.

    Args:
        images: by patient; the model that scored an image was not trained on it.
        config: the targets of the thresholds.
        made: the negatives, in words.
        folds: how many models scored them, one a fold; 0: the model itself.
        made_on: the images' digests, see :mod:`patchad.model.trained_on`.

    Raises:
        TrainingError: no negative has a scored patch.
    """
    images = [image for image in images if image.values.size]
    held_out = np.concatenate([image.held_out for image in images] or [np.empty(0, np.float32)])
    if not held_out.size:
        raise TrainingError(
            "no negative patch was held out, so scores cannot be calibrated: give more negative "
            "patients, a larger split.held_out, or a smaller min_foreground"
        )
    drawn = draw_marks([image.scored.scores for image in images], config.false_marks)
    by_image = [
        image.scored.image_score(config.pooling, config.top_k, drawn.threshold) for image in images
    ]
    patients = [image.patient_id for image in images]
    ranked = highest_of_patients(patients, by_image)
    dense = [image.dense for image in images if image.dense is not None]
    shown = np.concatenate(dense) if dense else held_out
    low = float(np.quantile(shown, _DISPLAY_FROM))
    # The middle of the colours: the threshold of marks, or a typical negative's highest spot.
    halfway = float(np.median([values.max() for values in dense])) if dense else drawn.threshold
    high = low + 2 * max(halfway - low, 1e-3 * abs(low), 1e-6)
    image_threshold = conformal_threshold(ranked, config.false_images)
    own_score = any(math.isfinite(image.scored.image) for image in images)
    marks = calibrate_marks(
        drawn,
        patients,
        image_threshold,
        dense=bool(dense),
        decides=config.pooling == "max" and not own_score,
    )
    return Calibration(
        pooling=config.pooling,
        top_k=config.top_k,
        patch_shares=Shares.of(held_out),
        patient_scores=tuple(ranked),
        patch_threshold=drawn.threshold,
        image_threshold=image_threshold,
        display_range=(low, high),
        images=len(images),
        patients=len(ranked),
        patches=int(held_out.size),
        made=made,
        folds=folds,
        made_on=made_on,
        marks=marks,
        statements=(
            mark_statement(marks),
            *_statements(len(ranked), config, folds),
        ),
        two_breasts=calibrate_two_breasts(
            by_image, [image.side for image in images], patients, config.false_images
        ),
    )


def image_scores(images: Sequence[NegativeImage], calibration: Calibration) -> list[float]:
    """The image score of each, as the calibration pools patches; NaN if nothing was scored."""
    return [
        image.scored.image_score(
            calibration.pooling, calibration.top_k, calibration.patch_threshold
        )
        for image in images
    ]


def told_of(card: ModelCard) -> list[str]:
    """A card's calibration for the terminal, in lines."""
    calibration = card.calibrated
    over = sum(score > calibration.image_threshold for score in calibration.patient_scores)
    return [
        f"calibrated on {calibration.images} negative images of {calibration.patients} patients: "
        f"{calibration.made}",
        *calibration.notes,
        *calibration.statements,
        f"specificity at the image threshold {calibration.image_threshold:.4g}, on these patients "
        f"themselves: {1 - over / calibration.patients:.2f} ({over} of {calibration.patients} "
        "flagged); sensitivity needs positives: patchad evaluate",
    ]


def _statements(patients: int, config: CalibrationConfig, folds: int) -> tuple[str, ...]:
    rate = promised_rate(patients, config.false_images)
    statements = [
        f"Images: {promise(rate)}. "
        + (_of_folds(patients, folds, rate) if folds else _of_split(patients)),
    ]
    if rate > config.false_images:
        statements.append(
            f"{100 * config.false_images:.3g} % was requested, but {patients} patients can promise "
            f"no less than 1/(n + 1) = {100 * rate:.3g} %: it takes "
            f"{patients_needed(config.false_images)} negative patients at least."
        )
    return tuple(statements)


def _of_split(patients: int) -> str:
    return (
        f"This holds (split conformal, n = {patients} patients) for patients who are exchangeable "
        "with these, on average over draws of these; with a small n one model's rate may lie well "
        "above or below."
    )


def _of_folds(patients: int, folds: int, rate: float) -> str:
    size = patients / folds
    excess = min(2 * (1 - 1 / folds) / (size + 1), (1 - folds / patients) / (folds + 1))
    return (
        f"In practice the rate lies near this (cross-conformal, {folds} folds, n = {patients} "
        "patients), but no bound is proven for one model trained on all of them: if all "
        f"{folds} folds' models score the new film it is at most {100 * (2 * rate + excess):.3g} % "
        "(Barber et al. 2021, Theorem 4)."
    )
