"""Calibrate a trained model on another site's negatives: the same weights, another scale."""

import logging
import secrets
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from patchad.commands.calibrate import NegativeImage, calibrate, image_scores
from patchad.commands.folds import side_of
from patchad.commands.negatives import Negative, Reader, find_negatives, survey
from patchad.commands.outlier import find_outliers
from patchad.commands.training_images import TrainingImages
from patchad.engine.mismatch import mismatches
from patchad.engine.screener import Screener, no_foreground
from patchad.errors import ImageError, MismatchError, RequestError
from patchad.files.claim import claimed
from patchad.methods import load
from patchad.methods.configure import resolve
from patchad.model.card import ModelCard, card_as_dict
from patchad.model.config import CalibrationConfig, Config
from patchad.model.detector import Detector
from patchad.model.fit import fit_of
from patchad.model.folder import write_model
from patchad.model.trained_on import among, pack_digests
from patchad.prepare.workers import DEFAULT_LIMITS, How, Limits, fault_of, readers
from patchad.progress import Progress, silent
from patchad.store.layouts import MODEL
from patchad.store.run import row_path

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recalibrated:
    """The card as written, and the images that could not be used: (path, reason)."""

    card: ModelCard
    failed: tuple[tuple[str, str], ...] = ()


def recalibrate(
    model: Path,
    on: Path,
    out: Path,
    *,
    device: torch.device,
    spacing_mm: tuple[float, float] | None = None,
    limits: Limits = DEFAULT_LIMITS,
    allow_mismatch: bool = False,
    overwrite: bool = False,
    progress: Progress = silent,
) -> Recalibrated:
    """Score negatives that the model was not trained on, and write a model calibrated on them.

    Nothing is trained. An image that differs from the training images (spacing, modality, look)
    or that the model was trained on is left out, with its reason. The criteria for how films have
    to look are computed again from these, if there are enough of them.

    Args:
        model: folder of a trained model; it is not changed.
        on: a manifest, whose negatives are used (except the splits test and unlabelled, which are
            for evaluation), or a folder all of whose images are negatives.
        out: the model folder to write.
        device: where to score.
        spacing_mm: (row, col) for images without pixel spacing.
        limits: of reading one image.
        allow_mismatch: use images that differ from the training images, with a note.
        overwrite: replace an existing model.
        progress: called for images read and scored.

    Raises:
        RequestError: no negatives, or none of them can be used; ``model`` lies in ``out``.
        ModelError: the model folder cannot be used.
        OutputError: the folder is not empty, in use, or cannot be written.
    """
    named = find_negatives(on, "a model is calibrated on negatives")
    detector = load(model, device)
    config = _config_of(detector.card)
    images = TrainingImages.of(named.negatives)
    request = {
        "model": card_as_dict(detector.card)["digest"],
        "spacing_mm": spacing_mm,
        "allow_mismatch": allow_mismatch,
        **images.request(),
    }
    apart = [model, on, *(row.path for row in (*named.negatives, *named.positives))]
    with claimed(out, MODEL, request, command="calibrate", overwrite=overwrite, apart=apart):
        how = How(detector.card.preprocessing, spacing_mm, limits, secret=secrets.token_bytes(32))
        with readers(how) as ahead:
            reader = Reader(config, detector.card.seed, ahead, [], progress)
            found = survey(reader, named)
            known = among(detector.card.data.trained_on, (n.source.digest for n in found.images))
            seen = {n.row.path for n, was in zip(found.images, known, strict=True) if was}
            new = [n for n in found.images if n.row.path not in seen]
            scored, unlike = _scored(detector, reader, new, allow_mismatch)
        failed = [*reader.failed]
        failed += [(row_path(path), "the model was trained on this image: its score is too low")
                   for path in sorted(seen)]  # fmt: skip
        if not scored:
            raise RequestError(
                f"none of the {len(named.negatives)} negatives of {on} can calibrate this model; "
                f"the first: {failed[0][1]}"
            )
        notes = [*found.notes]
        if unlike:
            notes.append(
                f"{unlike} of {len(scored)} images differ from the training images, and calibrated "
                "the model anyway (--allow-mismatch)."
            )
        if failed:
            notes.append(f"{len(failed)} images could not be used and were left out.")
        card = _write(detector, scored, config.calibration, notes, out)
    return Recalibrated(card, tuple(failed))


def _scored(
    detector: Detector, reader: Reader, images: list[Negative], allow_mismatch: bool
) -> tuple[list[tuple[Negative, NegativeImage]], int]:
    """The scores of each image that fits the model; the others go to ``failed``.

    Also how many were used although they differ from the training images.
    """
    card, scored, unlike = detector.card, [], 0
    screener = Screener(detector)
    originals = {negative.row.path: negative for negative in images}
    for row, ready in reader.ready([negative.row for negative in images], "calibrating"):
        negative = originals[row.path]
        try:
            faults = mismatches(ready.radiograph, ready.prepared, card)
            if faults and not allow_mismatch:
                raise MismatchError("; ".join(faults) + "; --allow-mismatch uses it anyway")
            found = screener.score(ready.prepared)
            if not found.scores.scored.any():
                raise ImageError(no_foreground(detector, ready.prepared))
        except Exception as error:  # a bad image never affects the others
            fault = fault_of(error)
            if fault.trace:
                log.debug("%s failed unexpectedly:\n%s", row.path, fault.trace)
            reader.failed.append((row_path(row.path), fault.reason))
            continue
        own = NegativeImage.of(negative.patient, side_of(negative), found)
        scored.append((negative, own))
        unlike += bool(faults)
    return scored, unlike


def _write(
    detector: Detector,
    scored: list[tuple[Negative, NegativeImage]],
    config: CalibrationConfig,
    notes: list[str],
    out: Path,
) -> ModelCard:
    images = [image for _, image in scored]
    origin = card_as_dict(detector.card)["digest"][:12]
    modalities = Counter(negative.source.modality or "no modality" for negative, _ in scored)
    calibration = calibrate(
        images,
        config,
        made=f"other negatives ({', '.join(sorted(modalities))}), by patchad calibrate from the "
        f"model {origin}…, without training",
        made_on=pack_digests(negative.source.digest for negative, _ in scored),
    )
    outliers = find_outliers(
        [image.patient_id for image in images],
        image_scores(images, calibration),
        config.false_images,
    )
    alone = [scored[number][0] for number in outliers.numbers] if outliers else []
    if outliers:
        notes.append(outliers.note([negative.source.digest for negative in alone]))
    fit = fit_of([(negative.look, negative.patient) for negative, _ in scored])
    data = detector.card.data if fit is None else replace(detector.card.data, fit=fit)
    card = replace(detector.card, data=data, calibration=replace(calibration, notes=tuple(notes)))
    written = write_model(card, detector.module.state_dict(), out)
    if outliers:
        log.warning(outliers.warning([row_path(negative.row.path) for negative in alone], out))
    return written


def _config_of(card: ModelCard) -> Config:
    """The configuration that the model was trained with; with the same calibration settings."""
    return resolve(card.config, source="the model's card")
