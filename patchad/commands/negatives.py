"""The negatives of a source: read, grouped by patient, and each counted once."""

import hashlib
import logging
import math
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from patchad.core.grid import PatchGrid
from patchad.core.image import Source
from patchad.core.patches import means
from patchad.errors import RequestError
from patchad.model.config import Config
from patchad.prepare.look import Look
from patchad.prepare.preprocess import Prepared
from patchad.prepare.workers import Ahead, Ready
from patchad.progress import Progress
from patchad.read.dicom_identity import PATIENT, STUDY
from patchad.read.manifest import ManifestRow, is_manifest
from patchad.read.read import find_images
from patchad.store.run import row_path

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Named:
    """The images of a source: negatives to train on, and positives, which they may not repeat.

    ``has_patients``: a manifest gives each image's patient.
    """

    negatives: tuple[ManifestRow, ...]
    positives: tuple[ManifestRow, ...]
    has_patients: bool


@dataclass(frozen=True, eq=False)
class Negative:
    """What is kept of a negative image after reading it.

    The row's ``patient_id`` is set: from the manifest, else the path of the first image of
    the same patient.
    """

    row: ManifestRow
    source: Source
    spacing_mm: tuple[float, float] | None
    brightness: float
    tiles: "Tiles"
    look: Look | None

    @property
    def patient(self) -> str:
        """The patient; only to distinguish patients, never to be written."""
        return self.row.patient_id


@dataclass(frozen=True, eq=False)
class Tiles:
    """Patches that tile an image without overlap; which to train on, which are held out."""

    grid: PatchGrid
    training: NDArray[np.bool_]  # (N,)
    held_out: NDArray[np.bool_]  # (N,), all false unless the split is by patch


@dataclass(frozen=True, eq=False)
class Survey:
    """The usable negatives, each once, and notes for the card.

    ``paths`` has for each patient the files of all their images, copies included.
    """

    images: tuple[Negative, ...]
    paths: Mapping[str, tuple[Path, ...]]
    notes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Reader:
    """Reads and prepares negatives one by one; failures go to ``failed``.

    ``contents`` gets the SHA-256 of each file when it was first read.
    """

    config: Config
    seed: int
    ahead: Ahead
    failed: list[tuple[str, str]]
    progress: Progress
    contents: dict[Path, str] = field(default_factory=dict)

    def read(self, images: Sequence[Negative], stage: str) -> Iterator[tuple[Negative, Prepared]]:
        """Each image with its pixels, prepared."""
        known = {negative.row.path: negative for negative in images}
        for row, ready in self.ready([negative.row for negative in images], stage):
            yield known[row.path], ready.prepared

    def ready(self, rows: Sequence[ManifestRow], stage: str) -> Iterator[tuple[ManifestRow, Ready]]:
        """Each row with its image, as read."""
        for number, (row, read) in enumerate(self.ahead(rows), start=1):
            self.contents.setdefault(row.path, read.content)
            if isinstance(read, Ready):
                yield row, read
            else:
                self.leave_out(row, read.reason)
            self.progress(stage, number, len(rows), math.nan)

    def leave_out(self, row: ManifestRow, reason: str) -> None:
        """Record, once a path, that an image takes no part, and log it."""
        path = row_path(row.path)
        if all(path != known for known, _ in self.failed):
            self.failed.append((path, reason))
            log.warning("left out %s: %s", path, reason)


def find_negatives(source: Path, purpose: str) -> Named:
    """The negatives of a manifest, except the splits test and unlabelled; all of a folder.

    Raises:
        RequestError: there is none; ``purpose`` says why they are needed.
    """
    rows = find_images([source], strangers=False)
    if not is_manifest(source):
        log.warning("%s is not a manifest: all %d images are taken as negatives", source, len(rows))
        return Named(tuple(rows), (), has_patients=False)
    used = [r for r in rows if r.label == "negative" and r.split not in ("test", "unlabelled")]
    if not used:
        raise RequestError(
            f"{source} has no row with label negative in the split train or validation "
            f"(of {len(rows)} rows): {purpose}"
        )
    positives = tuple(row for row in rows if row.label == "positive")
    return Named(tuple(used), positives, has_patients=True)


def survey(reader: Reader, named: Named) -> Survey:
    """Read every negative once: which are usable, their patients, and which have the same pixels.

    Images are of one patient by the manifest's ``patient_id``; else by the Patient ID or the Study
    Instance UID of their DICOM headers; and if their pixels are the same. Else each is a
    patient of its own. Of images with the same pixels one is kept, if possible one of the split
    ``validation``.

    Raises:
        RequestError: a positive image has the pixels of a negative one.
    """
    rows: list[ManifestRow] = []
    found: list[Negative] = []
    identities: list[Mapping[str, str]] = []
    for row, ready in reader.ready(named.negatives, "looking through negatives"):
        tiles = _tiles(ready.prepared, reader.config, row, reader.seed)
        image, prepared = ready.radiograph, ready.prepared
        facts = image.source, image.spacing_mm
        found.append(Negative(row, *facts, prepared.brightness, tiles, prepared.look))
        given = {PATIENT: row.patient_id} if row.patient_id else {}
        identities.append(ready.identity or given)
        rows.append(row)
    _refuse_contradictions(reader, named.positives, found)
    digests = [negative.source.digest for negative in found]
    keys = [
        [*identity.items(), ("digest", digest)]
        for identity, digest in zip(identities, digests, strict=True)
    ]
    whose = [_name(rows[first]) for first in first_of_group(keys)]
    kept: dict[str, int] = {}
    for number, digest in enumerate(digests):
        if digest not in kept or rows[kept[digest]].split != rows[number].split == "validation":
            kept[digest] = number
    images = tuple(
        replace(
            found[number],
            row=replace(
                rows[number],
                patient_id=whose[number],
                study_id=rows[number].study_id or identities[number].get(STUDY, ""),
            ),
        )
        for number in sorted(kept.values())
    )
    paths: dict[str, tuple[Path, ...]] = {}
    for patient, row in zip(whose, rows, strict=True):
        paths[patient] = (*paths.get(patient, ()), row.path)
    notes = (
        *_copies_note(rows, digests, identities, kept),
        *_patients_note(named, identities, len(paths)),
    )
    return Survey(images, paths, notes)


def first_of_group(keys: Sequence[Collection[Hashable]]) -> list[int]:
    """For each item the first one that it shares a key with, directly or indirectly."""
    owners: dict[Hashable, int] = {}
    above = list(range(len(keys)))

    def first(number: int) -> int:
        while above[number] != number:
            above[number] = above[above[number]]
            number = above[number]
        return number

    for number, own in enumerate(keys):
        for key in own:
            ends = sorted((first(owners.setdefault(key, number)), first(number)))
            above[ends[1]] = ends[0]
    return [first(number) for number in range(len(keys))]


def image_rng(row: ManifestRow, seed: int, use: int) -> np.random.Generator:
    """A generator that depends on the image, not on its place in the list."""
    name = int.from_bytes(hashlib.sha256(row.path.name.encode()).digest()[:8], "big")
    return np.random.default_rng([seed, use, name])


def _name(row: ManifestRow) -> str:
    return row.patient_id or str(row.path)


def _tiles(prepared: Prepared, config: Config, row: ManifestRow, seed: int) -> Tiles:
    grid = PatchGrid(prepared.pixels.shape, config.patch_size, config.patch_size)
    mask = torch.tensor(prepared.foreground.mask)
    enough = means(grid, mask).numpy() >= config.min_foreground
    aside = np.zeros_like(enough)
    if config.split.by == "patch":
        aside = enough & (image_rng(row, seed, 0).random(len(grid)) < config.split.held_out)
    return Tiles(grid, enough & ~aside, aside)


def _refuse_contradictions(
    reader: Reader, positives: Sequence[ManifestRow], negatives: Sequence[Negative]
) -> None:
    """Refuse pixels that are negative in one row and positive in another."""
    known = {negative.source.digest: negative.row.path for negative in negatives}
    pairs = []
    for number, (row, read) in enumerate(reader.ahead(positives), start=1):
        # an unreadable image is a copy of no readable one
        if isinstance(read, Ready) and read.radiograph.source.digest in known:
            pairs.append((known[read.radiograph.source.digest], row.path))
        reader.progress("looking for copies among positives", number, len(positives), math.nan)
    if pairs:
        negative, positive = map(row_path, pairs[0])
        raise RequestError(
            f"an image has one label, but {len(pairs)} of the manifest are positive in one row and "
            f"negative in another, with the same pixels, the first {positive} and {negative}: "
            "correct the labels, or take the rows out"
        )


def _copies_note(
    rows: Sequence[ManifestRow],
    digests: Sequence[str],
    identities: Sequence[Mapping[str, str]],
    kept: Mapping[str, int],
) -> tuple[str, ...]:
    """The note on images left out as copies; on the terminal with the path of one."""
    pairs = [(number, kept[digest]) for number, digest in enumerate(digests)]
    copies = [(copy, own) for copy, own in pairs if copy != own]
    if not copies:
        return ()
    whose = [{identities[n].get(PATIENT, "") for n in pair} - {""} for pair in copies]
    others = sum(len(patients) == 2 for patients in whose)
    sides = sum(
        (rows[copy].split == "validation") != (rows[own].split == "validation")
        for copy, own in copies
    )
    count = "1 image has" if len(copies) == 1 else f"{len(copies)} images have"
    note = (
        f"{count} the same pixels as another and counted once only; {others} of these under "
        f"another patient, {sides} in training and in validation"
    )
    copy, own = copies[0]
    example = f"{row_path(rows[copy].path)} is {row_path(rows[own].path)} again"
    log.warning("%s (%s)", note, example)
    return (f"{note}.",)


def _patients_note(
    named: Named, identities: Sequence[Mapping[str, str]], patients: int
) -> tuple[str, ...]:
    """How patients were identified, if no manifest gives them."""
    if named.has_patients:
        return ()
    unknown = sum(not identity for identity in identities)
    if unknown == len(identities):
        note = "No patient_id was given: every image was taken as a patient of its own."
        log.warning(note)
        return (note,)
    found = "1 patient was" if patients == 1 else f"{patients} patients were"
    note = (
        f"{found} found in {len(identities)} images, by the Patient ID and Study "
        "Instance UID of their DICOM headers"
    )
    if unknown:
        note += f"; the {unknown} images that have neither were taken as a patient each"
    log.info(note)
    return (f"{note}.",)
