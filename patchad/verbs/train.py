"""Train a detector on negatives alone, calibrate it on negatives set aside, and save it."""

import hashlib
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from patchad.config import Config
from patchad.detector import (
    Detector,
    ModelCard,
    TrainingData,
    format_of,
    read_card,
    save,
    score,
    versions,
)
from patchad.errors import RequestError
from patchad.fit import fit_note, fit_of
from patchad.grid import PatchGrid
from patchad.image import Source
from patchad.io.files import shown
from patchad.io.folder import Claim, claimed
from patchad.io.grey import depth_note
from patchad.io.layouts import MODEL
from patchad.io.manifest import ManifestRow
from patchad.io.run import row_path
from patchad.io.workers import DEFAULT_LIMITS, Ahead, Fault, How, Limits, readers
from patchad.look import Look
from patchad.methods import module_of
from patchad.preprocess import Prepared
from patchad.progress import Progress, silent
from patchad.training_set import PackedMask, PatchBank, TrainingSet, foreground_corners
from patchad.verbs.calibrate import NegativeImage, calibrate
from patchad.verbs.training_images import TrainingImages, negatives
from patchad.verbs.two_breasts import Side

log = logging.getLogger(__name__)

_CORNERS = 20_000  # places for patches an image; more would cost memory and show nothing new
_SPACING_TOLERANCE = 0.1  # share by which training images may differ in pixel spacing
_LEAK = (
    "Held out by patch, as Wei et al. (2018) did: held-out patches neighbour patches that were "
    "trained on, so percentiles and thresholds LEAK and flatter the model."
)


@dataclass(frozen=True)
class Trained:
    """What came of a training: the card as saved, and the images that could not be used."""

    card: ModelCard
    failed: tuple[tuple[str, str], ...] = ()  # (path, reason)


@dataclass(frozen=True, eq=False)
class _Negative:
    """What is kept of a negative image once its pixels are in the bank."""

    row: ManifestRow
    source: Source
    spacing_mm: tuple[float, float] | None
    brightness: float
    tiles: "_Tiles"
    look: Look | None


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
    progress: Progress = silent,
) -> Trained:
    """Train on the negatives of ``source`` and write the model folder.

    Args:
        source: a manifest, or a folder (or file) all of whose images are taken as negatives.
        model: the folder to write.
        config: from :func:`patchad.config.read_config`.
        device: what to train on.
        seed: decides the split, the patches and the initial weights.
        spacing_mm: (row, col) for images that carry no pixel spacing.
        limits: what one image may cost to read.
        resume: go on from the last checkpoint, if the request is the same.
        overwrite: replace a model that is there.
        progress: told of images read and epochs done.

    Raises:
        RequestError: no negatives, too few patients, mixed pixel spacings; or another request than
            the one that is resumed.
        TrainingError: the method gave up, or nothing is left to calibrate on.
        OutputError: the folder is not empty, in use, or cannot be written.
    """
    training, held_out, notes = _split(negatives(source), config, seed)
    images = TrainingImages.of(training, held_out)
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
        apart=[source, *(row.path for row in images.rows)],
        compare=images.compare,
    ) as claim:
        if (model / "card.json").exists():
            log.info("%s holds the model that was asked for: nothing is left to do", shown(model))
            claim.clear("checkpoint")
            return Trained(read_card(model))
        with readers(How(config.preprocessing, spacing_mm, limits)) as ahead:
            reader = _Reader(config, seed, ahead, [], {}, progress)
            return _train(reader, training, held_out, notes, claim, images, device)


def _train(
    reader: "_Reader",
    training: list[ManifestRow],
    held_out: list[ManifestRow],
    notes: tuple[str, ...],
    claim: Claim,
    images: TrainingImages,
    device: torch.device,
) -> Trained:
    config, seed, failed, progress = reader.config, reader.seed, reader.failed, reader.progress
    model = claim.folder
    facts: list[_Negative] = []
    masks: list[PackedMask] = []

    def parts() -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]:
        for negative, prepared in reader.read(training, "reading training images"):
            facts.append(negative)
            corners = _corners(negative, prepared, config, seed)
            if len(corners):  # others don't enter the bank
                masks.append(PackedMask.of(prepared))
            yield prepared.pixels, corners
        if not facts:
            path, reason = failed[-1]
            raise RequestError(
                f"none of the {len(training)} training images could be used; the last, {path}: "
                f"{reason}"
            )

    bank = PatchBank.of(parts(), config.patch_size, device)
    # Read now for their facts, and again to be scored: pixels are never held but in the bank.
    aside = [negative for negative, _ in reader.read(held_out, "reading held-out images")]
    if held_out and not aside:
        raise RequestError(f"no held-out image could be used; the first: {failed[-1][1]}")
    if not claim.marker.found:  # else it was compared with that already
        claim.remember(images.found(reader.contents))
    described = _describe(facts, aside, config)
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
            *(*notes, *_failure_note(failed), *_spacing_note(facts, config)),
            *fit_note(described.fit),
            *depth_note(n.source.guessed_bits for n in facts),
        ),
        versions=versions(),
        format=format_of(described, config.preprocessing),
    )
    patches = sum(int(negative.tiles.training.sum()) for negative in facts)
    data = TrainingSet(bank, patches, tuple(masks))
    checkpoint = model / "checkpoint" / "training.safetensors"
    detector = module_of(config.method).fit(
        config.options,
        data,
        card=card,
        seed=seed,
        device=device,
        checkpoint=checkpoint,
        progress=progress,
    )
    chosen = held_out or training
    scored = [
        _score_negative(detector, negative, prepared, config)
        for negative, prepared in reader.read(chosen, "calibrating", again=True)
    ]
    calibration = calibrate(scored, config.calibration)
    if not held_out:
        calibration = replace(calibration, statements=(_LEAK, *calibration.statements))
    saved = save(detector, model, calibration)
    claim.clear("checkpoint")
    return Trained(saved, tuple(failed))


def _split(
    rows: list[ManifestRow], config: Config, seed: int
) -> tuple[list[ManifestRow], list[ManifestRow], tuple[str, ...]]:
    """Rows to train on, rows to calibrate on (none: by patch), and what a reader must know."""
    notes = []
    if not any(row.patient_id for row in rows):
        notes.append("No patient_id was given: every image was taken as a patient of its own.")
        log.warning(notes[-1])
    if config.split.by == "patch":
        return rows, [], (*notes, _LEAK)
    given = [row for row in rows if row.split == "validation"]
    if given:
        return [row for row in rows if row.split != "validation"], given, tuple(notes)
    patients = sorted({_patient(row) for row in rows})
    if len(patients) < 2:
        raise RequestError(
            f"calibration needs negatives of patients apart from the training's, but there is "
            f"{len(patients)} patient: give more, or --set split.by=patch (which leaks)"
        )
    count = min(max(1, round(config.split.held_out * len(patients))), len(patients) - 1)
    chosen = set(np.random.default_rng(seed).permutation(patients)[:count].tolist())
    return (
        [row for row in rows if _patient(row) not in chosen],
        [row for row in rows if _patient(row) in chosen],
        tuple(notes),
    )


def _patient(row: ManifestRow) -> str:
    return row.patient_id or str(row.path)


@dataclass(frozen=True, eq=False)
class _Reader:
    """Reads and prepares negatives one by one; what cannot be used goes to ``failed``.

    ``contents`` gets the SHA-256 of each file.
    """

    config: Config
    seed: int
    ahead: Ahead
    failed: list[tuple[str, str]]
    contents: dict[Path, str]
    progress: Progress

    def read(
        self, rows: Sequence[ManifestRow], stage: str, *, again: bool = False
    ) -> Iterator[tuple[_Negative, Prepared]]:
        for number, (row, read) in enumerate(self.ahead(rows), start=1):
            if not again:
                self.contents[row.path] = read.content
            if isinstance(read, Fault):
                if not again:
                    self.failed.append((row_path(row.path), read.reason))
                    log.warning("left out %s: %s", row_path(row.path), read.reason)
            else:
                radiograph, prepared = read.radiograph, read.prepared
                tiles = _tiles(prepared, self.config, row, self.seed)
                said = radiograph.source, radiograph.spacing_mm
                yield _Negative(row, *said, prepared.brightness, tiles, prepared.look), prepared
            self.progress(stage, number, len(rows), math.nan)


@dataclass(frozen=True, eq=False)
class _Tiles:
    """Patches that tile an image without overlap; which to train on, which are held out."""

    grid: PatchGrid
    training: NDArray[np.bool_]  # (N,)
    held_out: NDArray[np.bool_]  # (N,), all false unless the split is by patch


def _tiles(prepared: Prepared, config: Config, row: ManifestRow, seed: int) -> _Tiles:
    grid = PatchGrid(prepared.pixels.shape, config.patch_size, config.patch_size)
    enough = grid.means(prepared.foreground.mask) >= config.min_foreground
    aside = np.zeros_like(enough)
    if config.split.by == "patch":
        aside = enough & (_rng(row, seed, 0).random(len(grid)) < config.split.held_out)
    return _Tiles(grid, enough & ~aside, aside)


def _corners(
    negative: _Negative, prepared: Prepared, config: Config, seed: int
) -> NDArray[np.int64]:
    """Where patches are drawn: anywhere in the foreground, or at the tiles not held out."""
    if config.split.by == "patch":
        return negative.tiles.grid.corners[negative.tiles.training]
    return foreground_corners(
        prepared.foreground.mask,
        config.patch_size,
        config.min_foreground,
        limit=_CORNERS,
        rng=_rng(negative.row, seed, 1),
    )


def _rng(row: ManifestRow, seed: int, use: int) -> np.random.Generator:
    """A generator that depends on the image, not on its place in the list."""
    name = int.from_bytes(hashlib.sha256(row.path.name.encode()).digest()[:8], "big")
    return np.random.default_rng([seed, use, name])


def _score_negative(
    detector: Detector, negative: _Negative, prepared: Prepared, config: Config
) -> NegativeImage:
    grid = PatchGrid(prepared.pixels.shape, config.patch_size, config.stride)
    held_out = None
    if config.split.by == "patch":
        tiled = score(detector, prepared, negative.tiles.grid).scores
        held_out = tiled.values[negative.tiles.held_out]
    scored = score(detector, prepared, grid)
    return NegativeImage.of(_patient(negative.row), _side(negative), scored, held_out)


def _side(negative: _Negative) -> Side:
    row, source = negative.row, negative.source
    return Side(row.patient_id, row.study_id, source.view or row.view, source.laterality)


def _describe(training: list[_Negative], aside: list[_Negative], config: Config) -> TrainingData:
    """What the card says of the data; refuses images whose scales cannot be one model's."""
    everything = [*training, *aside]
    known = np.array([n.spacing_mm for n in everything if n.spacing_mm is not None])
    spacing = None
    if len(known):
        row, col = np.median(known, axis=0).tolist()
        spacing = (row, col)
        if config.preprocessing.spacing_mm is None:
            _require_one_scale(known, spacing, len(everything))
    brightness = [n.brightness for n in everything]
    return TrainingData(
        digest=hashlib.sha256(
            "".join(sorted(n.source.digest for n in training)).encode()
        ).hexdigest(),
        images=len(training),
        patients=len({_patient(n.row) for n in training}),
        calibration_images=len(aside or training),
        split=f"by {config.split.by}",
        modalities=tuple(sorted({n.source.modality for n in everything} - {""})),
        spacing_mm=spacing,
        brightness=(min(brightness), max(brightness)),
        for_processing=_one_intent(everything),
        fit=fit_of([(n.look, _patient(n.row)) for n in everything]),
    )


def _one_intent(images: list[_Negative]) -> bool:
    """Whether the images hold raw detector values; refuses some that do beside some that don't."""
    raw = sum(bool(n.source.for_processing) for n in images)
    if raw not in (0, len(images)):
        raise RequestError(
            f"{raw} of {len(images)} training images are For Processing (raw detector values): "
            "leave out those, or the others"
        )
    return raw > 0


def _require_one_scale(
    known: NDArray[np.float64], middle: tuple[float, float], images: int
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


def _spacing_note(training: list[_Negative], config: Config) -> tuple[str, ...]:
    unknown = sum(negative.spacing_mm is None for negative in training)
    if not unknown or config.preprocessing.assumed_side_mm is None:
        return ()
    side = config.preprocessing.assumed_side_mm
    return (
        f"{unknown} of {len(training)} training images carry no pixel spacing: their longer side "
        f"was taken for {side:g} mm.",
    )
