"""The other breast of the same patient as a reference for what is normal for her.

Half of the other side's image score is subtracted from an image's. It needs no registration. It
lowers the score of the healthy breast of a patient with a lesion, and so raises the AUROC of
images; for patients it did not help on the films where it was tried. So it is off by default.
"""

import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from patchad.engine.screener import FLAGGED, flag_reason
from patchad.errors import RequestError
from patchad.model.calibration import (
    TwoBreasts,
    conformal_threshold,
    highest_of_patients,
    image_percentile,
)
from patchad.model.card import ModelCard
from patchad.read.manifest import ManifestRow
from patchad.store.run import ImageRow

SHARE = 0.5  # of the other side's score


class Side(NamedTuple):
    """The patient, study, view and side of an image; empty if unknown."""

    patient_id: str
    study_id: str
    view: str
    laterality: str


def other_sides(sides: Sequence[Side]) -> list[int | None]:
    """For each image the index of the one of the other breast, None unless there is exactly one.

    Both are of one patient, study and view, and differ in laterality, or neither has one.
    """
    groups: dict[tuple[str, str, str], list[int]] = {}
    for number, side in enumerate(sides):
        if side.patient_id:
            groups.setdefault(side[:3], []).append(number)
    found: list[int | None] = [None] * len(sides)
    for members in groups.values():
        lateralities = {sides[number].laterality for number in members}
        if len(members) == 2 and lateralities in ({"L", "R"}, {""}):
            found[members[0]], found[members[1]] = members[1], members[0]
    return found


def less_other_side(
    scores: Sequence[float], others: Sequence[int | None], ordinary: float
) -> list[float]:
    """Each image score less its share of the other side's, or of ``ordinary`` if there is none.

    So images with and without another side share one scale.
    """
    return [
        score - SHARE * (ordinary if other is None else scores[other])
        for score, other in zip(scores, others, strict=True)
    ]


def calibrate_two_breasts(
    scores: Sequence[float], sides: Sequence[Side], patients: Sequence[str], false_images: float
) -> TwoBreasts | None:
    """The negatives' scores less their other sides'; None if no two are of one patient.

    The threshold is counted by patient, as for the images alone.
    """
    others = other_sides(sides)
    if not any(other is not None for other in others):
        return None
    ordinary = statistics.median(scores)
    ranked = highest_of_patients(patients, less_other_side(scores, others, ordinary))
    return TwoBreasts(ordinary, tuple(ranked), conformal_threshold(ranked, false_images))


def with_two_breasts(card: ModelCard) -> ModelCard:
    """The card with the calibration for scores less the other side's.

    Raises:
        RequestError: the model was not calibrated for it.
    """
    pairs = card.calibrated.two_breasts
    if pairs is None:
        raise RequestError(
            "--two-breasts needs a model whose held-out negatives had both breasts of a patient, "
            "by the manifest's columns patient_id, study_id and view: this one's had none"
        )
    calibration = replace(
        card.calibrated,
        patient_scores=pairs.patient_scores,
        image_threshold=pairs.image_threshold,
        marks=replace(card.calibrated.marks, decides=False),
    )
    return replace(card, calibration=calibration)


def compare_breasts(
    rows: Sequence[ImageRow], entries: Sequence[ManifestRow], ordinary: float, card: ModelCard
) -> list[ImageRow]:
    """The rows with their scores less the other side's, and the reason.

    ``card`` is that of :func:`with_two_breasts`; ``ordinary`` replaces a missing side.
    """
    done = [number for number, row in enumerate(rows) if row.status == "ok"]
    scores = [rows[number].score or 0.0 for number in done]
    sides = [
        Side(
            entries[number].patient_id,
            entries[number].study_id,
            rows[number].view or entries[number].view,
            rows[number].laterality or entries[number].laterality,
        )
        for number in done
    ]
    others = other_sides(sides)
    changed = list(rows)
    for place, score in enumerate(less_other_side(scores, others, ordinary)):
        row, other = rows[done[place]], others[place]
        flagged = score > card.calibrated.image_threshold
        whose = "an ordinary negative's, since the other breast is missing"
        if other is not None:
            whose = f"that of the other breast, {rows[done[other]].id} ({scores[other]:.4g})"
        reasons = [part for part in row.reason.split("; ") if part and not part.startswith(FLAGGED)]
        reasons.insert(0, f"score {scores[place]:.4g} less {SHARE:g} × {whose}")
        if flagged:
            reasons.insert(0, flag_reason(score, card.calibrated.image_threshold))
        changed[done[place]] = replace(
            row,
            score=score,
            percentile=image_percentile(card.calibrated, score),
            flagged=flagged,
            reason="; ".join(reasons),
        )
    return changed
