"""Train a detector on negatives alone, calibrate it on negatives set aside, and save it."""

import logging
import secrets
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from patchad.commands.calibrate import NegativeImage, calibrate, image_scores
from patchad.commands.folds import FoldScores, score_by_folds, side_of
from patchad.commands.negatives import (
    Named,
    Negative,
    Reader,
    Survey,
    find_negatives,
    survey,
)
from patchad.commands.outlier import find_outliers
from patchad.commands.pace import announce, quick_note
from patchad.commands.plan import Plan, plan_calibration, require_patients
from patchad.commands.training_data import draft_card, find_unlabelled, gather, require_one_kind
from patchad.commands.training_images import TrainingImages
from patchad.engine.screener import Screener
from patchad.errors import RequestError
from patchad.files.claim import Claim, claimed
from patchad.files.request import content_of
from patchad.files.whole import shown
from patchad.learn.fitting import fit
from patchad.learn.run import Run, digest
from patchad.methods import method_of
from patchad.model.card import ModelCard, card_as_dict
from patchad.model.config import Config
from patchad.model.detector import Detector
from patchad.model.folder import read_card, save
from patchad.model.method import setting_of
from patchad.model.trained_on import pack_digests
from patchad.prepare.workers import DEFAULT_LIMITS, How, Limits, Readers, readers
from patchad.progress import Progress, silent
from patchad.read.manifest import ManifestRow
from patchad.store.layouts import MODEL
from patchad.store.run import row_path

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trained:
    """What came of a training: the card as saved, and the images that could not be used."""

    card: ModelCard
    failed: tuple[tuple[str, str], ...] = ()  # (path, reason)


def train(
    source: Path,
    model: Path,
    config: Config,
    *,
    device: torch.device,
    seed: int = 0,
    spacing_mm: tuple[float, float] | None = None,
    limits: Limits = DEFAULT_LIMITS,
    resume: bool = False,
    overwrite: bool = False,
    leave_out: Collection[Path] = (),
    read_with: Readers = readers,
    progress: Progress = silent,
) -> Trained:
    """Train on the negatives of ``source`` and write the model folder.

    Args:
        source: a manifest, or a folder (or file) all of whose images are taken as negatives.
        model: the folder to write.
        config: from :func:`patchad.methods.configure.read_config`.
        device: what to train on.
        seed: decides the split, the patches and the initial weights.
        spacing_mm: (row, col) for images that have no pixel spacing.
        limits: what one image may cost to read.
        resume: continue from the last checkpoint, if the request is the same.
        overwrite: replace a model that is there.
        leave_out: negatives that are for something else.
        read_with: what reads and prepares images; for studies that do it once for many models.
        progress: called for images read and epochs done.

    Raises:
        RequestError: no negatives, too few patients, mixed pixel spacings; or another request than
            the one that is resumed.
        TrainingError: the method gave up, or nothing is left to calibrate on.
        OutputError: the folder is not empty, in use, or cannot be written.
    """
    if seed < 0:
        raise RequestError(f"a seed is 0 or more, got {seed}")
    named = find_negatives(source, "a one-class detector is trained on negatives")
    named = replace(
        named, negatives=tuple(row for row in named.negatives if row.path not in leave_out)
    )
    require_patients(
        {row.patient_id or str(row.path) for row in named.negatives},
        config,
        given=any(row.split == "validation" for row in named.negatives),
    )
    unlabelled = find_unlabelled(source, config)
    images = TrainingImages.of(named.negatives, unlabelled=unlabelled)
    request = {
        "config": config.as_dict(),
        "seed": seed,
        "spacing_mm": spacing_mm,
        **images.request(),
    }
    with claimed(
        model,
        MODEL,
        request,
        command="train",
        resume=resume,
        overwrite=overwrite,
        apart=[source, *(row.path for row in (*images.rows, *named.positives))],
        compare=images.compare,
    ) as claim:
        if (model / "card.json").exists():
            log.info("%s holds the requested model: nothing is left to do", shown(model))
            claim.clear("checkpoint")
            return Trained(read_card(model))
        # Patients' numbers are hashed with a secret that is not kept: only groups remain.
        how = How(config.preprocessing, spacing_mm, limits, secret=secrets.token_bytes(32))
        with read_with(how) as ahead:
            reader = Reader(config, seed, ahead, [], progress)
            found = survey(reader, named)
            if not found.images:
                path, reason = reader.failed[0]
                raise RequestError(f"no negative image could be used; the first, {path}: {reason}")
            _require_given(named, found)
            if not claim.marker.found:  # else it was compared already
                known = reader.contents
                contents = {
                    row.path: known.get(row.path) or content_of(row.path) for row in images.rows
                }
                claim.remember(images.found(contents))
            return _train(reader, found, claim, device, unlabelled)


def _train(
    reader: Reader,
    found: Survey,
    claim: Claim,
    device: torch.device,
    unlabelled: Sequence[ManifestRow],
) -> Trained:
    config, seed, model = reader.config, reader.seed, claim.folder
    plan = plan_calibration(found.images, config, seed)
    require_one_kind([*plan.training, *plan.held_out], config)  # before anything is trained
    folder, expect = model / "checkpoint", announce(config, str(device))

    def score_fold(
        training: Sequence[Negative], scored: Sequence[Negative], file: Path, progress: Progress
    ) -> FoldScores:
        own = replace(reader, progress=progress)
        detector, draft = _fit(own, training, (), plan, (), file, device, unlabelled, expect)
        noted = tuple(note for note in detector.card.notes if note not in draft.notes)
        return FoldScores(tuple(_scored(detector, own, scored)), noted)

    if plan.folds:
        scores = score_by_folds(
            plan.training,
            plan.folds,
            score_fold,
            folder=folder,
            request={"config": config.as_dict(), "seed": seed},
            seed=seed,
            clear=claim.clear,
            progress=reader.progress,
        )
    file = folder / "training.safetensors"
    notes = (*found.notes, *filter(None, [quick_note(config)]))
    detector, _ = _fit(
        reader, plan.training, plan.held_out, plan, notes, file, device, unlabelled, expect
    )
    if not plan.folds:
        scores = FoldScores(tuple(_scored(detector, reader, plan.held_out or plan.training)), ())
    if not scores.images:
        raise RequestError(f"no held-out image could be used; the first: {reader.failed[-1][1]}")
    images = [image for _, image in scores.images]
    calibration = calibrate(
        images,
        config.calibration,
        made=plan.made,
        folds=plan.folds,
        made_on=pack_digests(negative.source.digest for negative, _ in scores.images),
    )
    outliers = find_outliers(
        [image.patient_id for image in images],
        image_scores(images, calibration),
        config.calibration.false_images,
    )
    remarks = (*scores.notes, *plan.cautions)
    alone = [scores.images[number][0] for number in outliers.numbers] if outliers else []
    if outliers:
        remarks = (*remarks, outliers.note([negative.source.digest for negative in alone]))
    calibration = replace(
        calibration, notes=remarks, statements=(*plan.cautions, *calibration.statements)
    )
    saved = save(detector, model, calibration)
    claim.clear("checkpoint")
    if outliers:
        log.warning(outliers.warning([row_path(negative.row.path) for negative in alone], model))
    return Trained(saved, tuple(reader.failed))


def _fit(
    reader: Reader,
    training: Sequence[Negative],
    aside: Sequence[Negative],
    plan: Plan,
    notes: tuple[str, ...],
    checkpoint: Path,
    device: torch.device,
    unlabelled: Sequence[ManifestRow],
    expect: Callable[[float], None],
) -> tuple[Detector, ModelCard]:
    """A detector fitted to ``training``, and the draft of its card that it was given.

    Pixels are held in the training set alone, which goes when this returns.
    """
    config, method = reader.config, method_of(reader.config.method)
    data, facts, others = gather(reader, training, unlabelled, plan)
    draft = draft_card(reader, facts, aside, plan, notes, others)
    asked = card_as_dict(replace(draft, notes=(), versions={}))
    run = Run(
        reader.seed,
        device,
        setting_of(config),
        request=digest([asked, data.patches, len(data.bank)]),
        checkpoint=checkpoint,
        progress=reader.progress,
        expect=expect,
        repeats=plan.folds + 1,
    )
    fitted = fit(method, config.options, data, run)
    card = replace(
        draft,
        score_unit=fitted.unit,
        patch_pooling=fitted.pooling,
        seed=fitted.seed,
        notes=(*draft.notes, *run.notes),
    )
    return Detector(card, method, config.options, fitted.module), draft


def _scored(
    detector: Detector, reader: Reader, images: Sequence[Negative]
) -> Iterator[tuple[Negative, NegativeImage]]:
    """Each image with what calibration needs of its scores."""
    config = reader.config
    screener = Screener(detector)
    for negative, prepared in reader.read(images, "calibrating"):
        held_out = None
        if config.split.by == "patch":
            tiled = screener.score(prepared, negative.tiles.grid).scores
            held_out = tiled.values[negative.tiles.held_out]
        scored = screener.score(prepared)
        yield (
            negative,
            NegativeImage.of(negative.patient, side_of(negative), scored, held_out),
        )


def _require_given(named: Named, found: Survey) -> None:
    """Refuse to calibrate on others than those that a manifest names for it."""
    given = sum(row.split == "validation" for row in named.negatives)
    if given and not any(negative.row.split == "validation" for negative in found.images):
        raise RequestError(
            f"none of the {given} negatives of the split validation, which calibrates, could be "
            "used: see why above, or leave the column split empty"
        )
