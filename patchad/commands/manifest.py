"""Write a first manifest of a folder, from headers and folder names, to be completed by hand."""

import csv
import io
import math
import os
import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from patchad.commands.facts import Facts, facts_ahead
from patchad.errors import OutputError, RequestError
from patchad.files.pseudonym import pseudonym
from patchad.files.whole import write_whole
from patchad.prepare.workers import DEFAULT_LIMITS, Fault, Limits
from patchad.progress import Progress, silent
from patchad.read.manifest import Label, ManifestRow, lexical
from patchad.read.read import find_images
from patchad.store.run import row_path

COLUMNS = (
    "path", "patient_id", "label", "split", "laterality", "view", "spacing_mm", "study_id",
    "modality", "manufacturer", "frames",
)  # fmt: skip
# Folder names that are labels. Benign lesions and named findings are left to the user who fills in
# the labels.
_LABELS: dict[str, Label] = {
    **dict.fromkeys(("negative", "negatives", "normal", "normals", "no_finding"), "negative"),
    **dict.fromkeys(("positive", "positives", "malignant", "cancer", "cancers"), "positive"),
}
# Folder names that don't identify a patient.
_NO_PATIENTS = frozenset({
    *_LABELS, "benign", "abnormal", "unknown", "train", "training", "validation", "val", "test",
    "unlabelled", "images", "image", "films", "data", "dicom", "png",
})  # fmt: skip


@dataclass(frozen=True)
class Listed:
    """The result: how many images and patients, and how patients were identified (in words).

    ``labels`` counts the images of each label; ``failed`` and ``skipped`` are (path, reason);
    ``notes`` are for the user who completes the manifest.
    """

    out: str
    images: int
    patients: int
    labels: dict[str, int]
    failed: tuple[tuple[str, str], ...]
    skipped: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]


def list_images(
    folder: Path,
    out: Path,
    *,
    salt: str | None = None,
    limits: Limits = DEFAULT_LIMITS,
    overwrite: bool = False,
    progress: Progress = silent,
) -> Listed:
    """Write a manifest of the images of ``folder``; patients and studies are pseudonyms.

    The patient is that of the DICOM header's Patient ID (and its issuer). Without one it is the
    image's folder, if there are several whose names are neither a label nor a split; else each
    image is a patient. ``label`` is ``unknown`` unless a folder's name gives it.

    Args:
        folder: searched recursively.
        out: the CSV file to write; paths in it are relative to its folder.
        salt: of the pseudonyms, so that those of several folders match; by default a random one
            that is not stored.
        limits: what one file may cost to read.
        overwrite: replace an existing file.
        progress: called for files read.

    Raises:
        RequestError: there is no such folder, no image in it, or ``out`` is not a CSV file.
        OutputError: ``out`` is there already, or can't be written.
    """
    if not folder.is_dir():
        raise RequestError(f"{folder} is not a folder: name the one that holds the images")
    if out.suffix.lower() != ".csv":
        raise RequestError(f"a manifest is written as CSV, --out is {out}: name a file like it.csv")
    if salt is not None and not salt.strip():
        raise RequestError("--salt is empty: give a text that can't be guessed, or leave it out")
    if out.exists() and not overwrite:
        raise OutputError(f"{out} already exists: replace it with --overwrite, or name another")
    salt = salt or secrets.token_hex(16)
    entries = find_images([folder])
    found: list[tuple[ManifestRow, Facts]] = []
    failed: list[tuple[str, str]] = []
    skipped: list[tuple[str, str]] = []
    for number, (entry, facts) in enumerate(facts_ahead(entries, salt, limits), start=1):
        path = row_path(entry.path)
        if isinstance(facts, Fault):
            (skipped if facts.status == "skipped" else failed).append((path, facts.reason))
        elif reason := _unwritable(entry.path):
            failed.append((path, reason))
        else:
            found.append((entry, facts))
        progress("reading headers", number, len(entries), math.nan)
    if not found:
        first = (failed or skipped)[0][1]
        raise RequestError(f"none of the {len(entries)} files is a radiograph; the first: {first}")
    base = lexical(folder)
    patients, how = _patients(found, base, salt)
    labels = [_label(entry.path.relative_to(base)) for entry, _ in found]
    rows = [
        {
            "path": _relative(entry.path, lexical(out).parent),
            "patient_id": patient,
            "label": label,
            "split": "",
            "laterality": facts.laterality,
            "view": facts.view,
            "spacing_mm": _spacing(facts.spacing_mm),
            "study_id": facts.study,
            "modality": facts.modality,
            "manufacturer": facts.manufacturer,
            "frames": str(facts.frames),
        }
        for (entry, facts), patient, label in zip(found, patients, labels, strict=True)
    ]
    table = io.StringIO()
    writer = csv.DictWriter(table, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(out, table.getvalue())
    counts = Counter(labels)
    return Listed(
        out=str(out),
        images=len(rows),
        patients=len(set(patients)),
        labels={label: counts[label] for label in ("negative", "positive", "unknown")},
        failed=tuple(failed),
        skipped=tuple(skipped),
        notes=(how, *_notes(found, patients, counts)),
    )


def _patients(
    found: Sequence[tuple[ManifestRow, Facts]], base: Path, salt: str
) -> tuple[list[str], str]:
    """The patient of each image, and how patients were identified."""
    folders = [_patient_folder(entry.path.relative_to(base)) for entry, _ in found]
    silent_ones = [n for n, (_, facts) in enumerate(found) if not facts.patient]
    by_folder = len({folders[n] for n in silent_ones if folders[n]}) > 1
    patients, by = [], Counter[str]()
    for (entry, facts), folder in zip(found, folders, strict=True):
        if facts.patient:
            patients.append(facts.patient)
            by["their headers"] += 1
        elif by_folder and folder:
            patients.append(pseudonym(salt, "folder", folder))
            by["the folders they lie in"] += 1
        else:
            patients.append(pseudonym(salt, "image", entry.path.relative_to(base).as_posix()))
            by["nothing: each is taken as a patient of its own"] += 1
    ways = "; ".join(f"{count} by {how}" for how, count in by.items())
    return patients, f"patients were told apart: {ways}"


def _patient_folder(path: PurePath) -> str:
    """The folder that is an image's patient, empty if its name means something else."""
    folder = path.parent
    return "" if folder.name.casefold() in ("", *_NO_PATIENTS) else folder.as_posix()


def _label(path: PurePath) -> Label:
    """The label in the names of an image's folders, if they agree."""
    names = (part.casefold().replace(" ", "_") for part in path.parts[:-1])
    labels = {_LABELS[name] for name in names if name in _LABELS}
    return labels.pop() if len(labels) == 1 else "unknown"


def _notes(
    found: Sequence[tuple[ManifestRow, Facts]], patients: Sequence[str], labels: Mapping[Label, int]
) -> list[str]:
    notes = ["paths are unchanged: if folders are named after patients, so are its rows"]
    unknown = labels["unknown"]
    if unknown < len(found):
        notes.append(f"{len(found) - unknown} labels are from folder names: check them")
    if unknown:
        notes.append(f"{unknown} labels are unknown: fill them in, training needs negatives")
    studies = {facts.study for _, facts in found if facts.study}
    if len(found) > 1 and len(set(patients)) == 1 and len(studies) > 1:
        notes.append(
            f"all {len(found)} images have one Patient ID in {len(studies)} studies: if they were "
            "anonymised that way, fill in patient_id again"
        )
    if any(not facts.spacing_mm for _, facts in found):
        notes.append("spacing_mm is empty if the file doesn't give it: fill it in if you know it")
    if any(facts.frames > 1 for _, facts in found):
        notes.append("files of several frames are screened with --frames all")
    return notes


def _unwritable(path: Path) -> str:
    """Why a table can't name this file; empty if it can."""
    name = str(path)
    if name.encode("utf-8", "replace").decode() != name or not name.isprintable():
        return "a name that is not plain UTF-8 text can't be in a manifest: rename the file"
    if any(part != part.strip() for part in path.parts):
        return "a name that begins or ends with a space can't be in a manifest: rename the file"
    return ""


def _relative(path: Path, folder: Path) -> str:
    """A path from ``folder``, in a form that spreadsheets read as text."""
    try:
        text = Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:  # another drive
        text = path.as_posix()
    return f"./{text}" if text.startswith(("=", "+", "-", "@")) else text


def _spacing(spacing: tuple[float, float] | None) -> str:
    if spacing is None:
        return ""
    row, col = spacing
    return f"{row!r}" if row == col else f"{row!r} {col!r}"
