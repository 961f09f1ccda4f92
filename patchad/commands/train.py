"""Train a detector on negatives alone, calibrate it on negatives set aside, and save it."""

import hashlib
import logging
import math
import secrets
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from patchad.commands.calibrate import NegativeImage, calibrate, image_scores
from patchad.commands.folds import FoldScores, score_by_folds, side_of
from patchad.commands.negatives import (
    Named,
    Negative,
    Reader,
    Survey,
    find_negatives,
    image_rng,
    survey,
)
from patchad.commands.outlier import find_outliers
from patchad.commands.plan import Plan, plan_calibration, require_patients
from patchad.commands.training_images import TrainingImages
from patchad.core.grid import PatchGrid
from patchad.errors import RequestError
from patchad.files.claim import Claim, claimed
from patchad.files.whole import shown
from patchad.learn.training_set import PackedMask, PatchBank, TrainingSet, foreground_corners
from patchad.methods import module_of
from patchad.model.config import Config
from patchad.model.detector import (
    Detector,
    ModelCard,
    TrainingData,
    read_card,
    save,
    score,
    versions,
)
from patchad.model.fit import fit_note, fit_of
from patchad.model.trained_on import pack_digests
from patchad.prepare.preprocess import Prepared
from patchad.prepare.workers import DEFAULT_LIMITS, How, Limits, readers
from patchad.progress import Progress, silent
from patchad.read.grey import depth_note
from patchad.store.layouts import MODEL
from patchad.store.run import row_path

log = logging.getLogger(__name__)

_CORNERS = 20_000  # places for patches an image; more would cost memory and show nothing new
_SPACING_TOLERANCE = 0.1  # share by which training images may differ in pixel spacing


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
    progress: Progress = silent,
) -> Trained:
    """Train on the negatives of ``source`` and write the model folder.

    Args:
        source: a manifest, or a folder (or file) all of whose images are taken as negatives.
        model: the folder to write.
        config: from :func:`patchad.methods.configure.read_config`.
        device: what to train on.
        seed: decides the split, the patches and the initial weights.
        spacing_mm: (row, col) for images that carry no pixel spacing.
        limits: what one image may cost to read.
        resume: go on from the last checkpoint, if the request is the same.
        overwrite: replace a model that is there.
        leave_out: negatives that are for something else.
        progress: told of images read and epochs done.

    Raises:
        RequestError: no negatives, too few patients, mixed pixel spacings; or another request than
            the one that is resumed.
        TrainingError: the method gave up, or nothing is left to calibrate on.
        OutputError: the folder is not empty, in use, or cannot be written.
    """
    named = find_negatives(source, "a one-class detector is trained on negatives")
    named = replace(
        named, negatives=tuple(row for row in named.negatives if row.path not in leave_out)
    )
    require_patients(
        {row.patient_id or str(row.path) for row in named.negatives},
        config,
        given=any(row.split == "validation" for row in named.negatives),
    )
    images = TrainingImages.of(named.negatives)
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
        apart=[source, *(row.path for row in (*named.negatives, *named.positives))],
        compare=images.compare,
    ) as claim:
        if (model / "card.json").exists():
            log.info("%s holds the model that was asked for: nothing is left to do", shown(model))
            claim.clear("checkpoint")
            return Trained(read_card(model))
        # Patients' numbers are hashed with what nobody keeps: only who goes with whom is known.
        how = How(config.preprocessing, spacing_mm, limits, secret=secrets.token_bytes(32))
        with readers(how) as ahead:
            reader = Reader(config, seed, ahead, [], progress)
            found = survey(reader, named)
            if not found.images:
                path, reason = reader.failed[0]
                raise RequestError(f"no negative image could be used; the first, {path}: {reason}")
            _require_given(named, found)
            if not claim.marker.found:  # else it was compared with that already
                claim.remember(images.found(reader.contents))
            return _train(reader, found, claim, device)


def _train(reader: Reader, found: Survey, claim: Claim, device: torch.device) -> Trained:
    config, seed, model = reader.config, reader.seed, claim.folder
    plan = plan_calibration(found.images, config, seed)
    _require_one_kind([*plan.training, *plan.held_out], config)  # before anything is trained
    folder = model / "checkpoint"

    def score_fold(
        training: Sequence[Negative], scored: Sequence[Negative], file: Path, progress: Progress
    ) -> FoldScores:
        own = replace(reader, progress=progress)
        detector, draft = _fit(own, training, (), plan, (), file, device)
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
    detector, _ = _fit(reader, plan.training, plan.held_out, plan, found.notes, file, device)
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
    said = (*scores.notes, *plan.cautions)
    alone = [scores.images[number][0] for number in outliers.numbers] if outliers else []
    if outliers:
        said = (*said, outliers.note([negative.source.digest for negative in alone]))
    calibration = replace(
        calibration, notes=said, statements=(*plan.cautions, *calibration.statements)
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
) -> tuple[Detector, ModelCard]:
    """A detector fitted to ``training``, and the draft of its card that it was given.

    Pixels are held in the bank alone, which goes when this returns.
    """
    config, seed = reader.config, reader.seed
    facts: list[Negative] = []
    masks: list[PackedMask] = []

    def parts() -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]:
        for negative, prepared in reader.read(training, "reading training images"):
            facts.append(negative)
            corners = _corners(negative, prepared, config, seed)
            if len(corners):  # others don't enter the bank
                masks.append(PackedMask.of(prepared))
            yield prepared.pixels, corners

    bank = PatchBank.of(parts(), config.patch_size, device)
    described = _describe(facts, [*aside], plan)
    card = ModelCard(
        method=config.method,
        config=config.as_dict(),
        preprocessing=config.preprocessing,
        patch_size=config.patch_size,
        stride=config.stride,
        weighting=config.weighting,
        min_foreground=config.min_foreground,
        score_unit="",
        seed=seed,
        data=described,
        notes=(
            *(*notes, *_failure_note(reader.failed), *_spacing_note(facts, config)),
            *fit_note(described.fit),
            *depth_note(negative.source.guessed_bits for negative in facts),
        ),
        versions=versions(),
    )
    patches = sum(int(negative.tiles.training.sum()) for negative in facts)
    detector: Detector = module_of(config.method).fit(
        config.options,
        TrainingSet(bank, patches, tuple(masks)),
        card=card,
        seed=seed,
        device=device,
        checkpoint=checkpoint,
        progress=reader.progress,
    )
    return detector, card


def _scored(
    detector: Detector, reader: Reader, images: Sequence[Negative]
) -> Iterator[tuple[Negative, NegativeImage]]:
    """Each image with what calibration needs of its scores."""
    config = reader.config
    for negative, prepared in reader.read(images, "calibrating"):
        grid = PatchGrid(prepared.pixels.shape, config.patch_size, config.stride)
        held_out = None
        if config.split.by == "patch":
            tiled = score(detector, prepared, negative.tiles.grid).scores
            held_out = tiled.values[negative.tiles.held_out]
        scored = score(detector, prepared, grid)
        yield (
            negative,
            NegativeImage.of(negative.patient, side_of(negative), scored, held_out),
        )


def _corners(
    negative: Negative, prepared: Prepared, config: Config, seed: int
) -> NDArray[np.int64]:
    """Where patches are drawn: anywhere in the foreground, or at the tiles not held out."""
    if config.split.by == "patch":
        return negative.tiles.grid.corners[negative.tiles.training]
    return foreground_corners(
        prepared.foreground.mask,
        config.patch_size,
        config.min_foreground,
        limit=_CORNERS,
        rng=image_rng(negative.row, seed, 1),
    )


def _describe(training: list[Negative], aside: list[Negative], plan: Plan) -> TrainingData:
    """What the card says of the data."""
    everything = [*training, *aside]
    known = [negative.spacing_mm for negative in everything if negative.spacing_mm is not None]
    row, col = np.median(known, axis=0).tolist() if known else (math.nan, math.nan)
    brightness = [n.brightness for n in everything]
    return TrainingData(
        digest=hashlib.sha256(
            "".join(sorted(n.source.digest for n in training)).encode()
        ).hexdigest(),
        images=len(training),
        patients=len({negative.patient for negative in training}),
        split=plan.split,
        modalities=tuple(sorted({n.source.modality for n in everything} - {""})),
        spacing_mm=(row, col) if known else None,
        brightness=(min(brightness), max(brightness)),
        for_processing=_one_intent(everything),
        trained_on=pack_digests(negative.source.digest for negative in training),
        fit=fit_of([(negative.look, negative.patient) for negative in everything]),
    )


def _require_given(named: Named, found: Survey) -> None:
    """Refuse to calibrate on others than those that a manifest names for it."""
    given = sum(row.split == "validation" for row in named.negatives)
    if given and not any(negative.row.split == "validation" for negative in found.images):
        raise RequestError(
            f"none of the {given} negatives of the split validation, which calibrates, could be "
            "used: see why above, or leave the column split empty"
        )


def _require_one_kind(images: list[Negative], config: Config) -> None:
    """Refuse images whose scales or intents cannot be one model's."""
    _one_intent(images)
    known = np.array([n.spacing_mm for n in images if n.spacing_mm is not None])
    if len(known) and config.preprocessing.spacing_mm is None:
        _require_one_scale(known, np.median(known, axis=0), len(images))


def _one_intent(images: list[Negative]) -> bool:
    """Whether the images hold raw detector values; refuses some that do beside some that don't."""
    raw = sum(bool(n.source.for_processing) for n in images)
    if raw not in (0, len(images)):
        raise RequestError(
            f"{raw} of {len(images)} training images are For Processing (raw detector values): "
            "leave out those, or the others"
        )
    return raw > 0


def _require_one_scale(
    known: NDArray[np.float64], middle: NDArray[np.float64], images: int
) -> None:
    if len(known) < images:
        raise RequestError(
            f"{images - len(known)} of {images} training images have no pixel spacing: give it by "
            "a column spacing_mm or --spacing-mm"
        )
    if np.abs(known / middle - 1).max() > _SPACING_TOLERANCE:
        raise RequestError(
            f"the training images have pixel spacings from {known.min():.4g} to "
            f"{known.max():.4g} mm: bring them to one with "
            f"--set preprocessing.spacing_mm={known.max():.4g}"
        )


def _failure_note(failed: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    return (f"{len(failed)} images could not be used and were left out.",) if failed else ()


def _spacing_note(training: list[Negative], config: Config) -> tuple[str, ...]:
    unknown = sum(negative.spacing_mm is None for negative in training)
    if not unknown or config.preprocessing.assumed_side_mm is None:
        return ()
    side = config.preprocessing.assumed_side_mm
    return (
        f"{unknown} of {len(training)} training images carry no pixel spacing: their longer side "
        f"was taken for {side:g} mm.",
    )
