"""Screen many images into a run folder; a bad one costs its row, never the run."""

import json
import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from patchad.detector import Detector, card_as_dict, versions
from patchad.errors import OutputError, RequestError
from patchad.export.marks_table import stored_marks, write_marks
from patchad.export.write import check_kinds, write_image_kinds, write_run_kinds
from patchad.io.files import claim_folder, write_whole
from patchad.io.manifest import ManifestRow
from patchad.io.read import find_images, frames_of
from patchad.io.run import (
    ImageRow,
    Run,
    done_row,
    new_id,
    patches_path,
    row_path,
    write_patches,
    write_run,
)
from patchad.io.workers import DEFAULT_LIMITS, Fault, How, Limits, Ready, fault_of, read_ahead
from patchad.marks import Mark, marks
from patchad.methods import load
from patchad.progress import Progress, silent
from patchad.verbs.export import export
from patchad.verbs.screen import ScreenOptions, screen_prepared
from patchad.verbs.two_breasts import compare_breasts, with_two_breasts

log = logging.getLogger(__name__)

STATUSES = ("ok", "failed", "skipped")
_JOURNAL = ".rows.jsonl"  # the rows so far, so that a killed run can go on


def screen_run(
    inputs: Sequence[Path],
    model: Path,
    out: Path,
    options: ScreenOptions,
    *,
    device: torch.device,
    limits: Limits = DEFAULT_LIMITS,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress = silent,
) -> Run:
    """Screen images into a run folder; a bad one costs its row, never the run.

    Raises:
        RequestError: the request is wrong; nothing was written.
        ModelError: the model folder cannot be used; nothing was written.
        OutputError: the folder cannot be written, or the disk is full; ``resume`` goes on.
    """
    check_kinds(options.kinds, invent_geometry=options.invent_geometry)
    entries = find_images(inputs)
    if options.frames == "all":
        entries = [frame for entry in entries for frame in frames_of(entry)]
    detector = load(model, device)
    if options.stride is not None and not 1 <= options.stride <= detector.card.patch_size:
        raise RequestError(
            f"--stride lies in 1..{detector.card.patch_size} (the model's patch size), "
            f"got {options.stride}"
        )
    preprocessing = detector.card.preprocessing
    if options.voi is not None:
        preprocessing = replace(preprocessing, voi=options.voi)
    options = replace(options, voi=preprocessing.voi)  # what was used is what run.json says
    card = card_as_dict(detector.card)
    read_as = with_two_breasts(detector.card) if options.two_breasts else detector.card
    settings = {
        "command": ["screen", *map(str, inputs)],
        "model": card["digest"],
        "settings": asdict(options),
        "limits": asdict(limits),
        "versions": versions(),
        "device": str(device),
    }
    claim_folder(out, ("run.json", _JOURNAL), resume=resume, overwrite=overwrite)
    rows = _Journal(out / _JOURNAL, {name: settings[name] for name in ("model", "settings")})
    seconds = {"read": 0.0, "score": 0.0, "write": 0.0}
    marked: dict[str, tuple[Mark, ...]] = {}
    # What tells a score can't be written before both breasts have theirs.
    now = replace(options, kinds=("heatmap",)) if options.two_breasts else options
    todo = [entry for entry in entries if not rows.holds(entry)]
    how = How(preprocessing, options.spacing_mm, limits)
    for number, (entry, read) in enumerate(read_ahead(todo, how), start=1):
        rows.add(_screen_entry(entry, read, detector, now, out, rows.taken, seconds, marked))
        progress("screening", number, len(todo), math.nan)
    table = [rows.of(entry) for entry in entries]
    pairs = detector.card.calibrated.two_breasts
    if options.two_breasts and pairs is not None:
        table = compare_breasts(table, entries, pairs.ordinary, read_as)
    counts = {status: sum(row.status == status for row in table) for status in STATUSES}
    used = {**card_as_dict(read_as), "digest": card["digest"]}
    for row in table:  # those of an earlier session, and what only both breasts decide
        if row.status == "ok" and (row.id not in marked or options.two_breasts):
            marked[row.id] = stored_marks(Run(out, {}, pd.DataFrame()), row, read_as.calibrated)
    write_marks(out, {row.id: marked[row.id] for row in table if row.status == "ok"})
    run = write_run(out, {**settings, "card": used, "counts": counts, "seconds": seconds}, table)
    if options.two_breasts:
        allowed = {"deidentify": options.deidentify, "invent_geometry": options.invent_geometry}
        for path, reason in export(out, options.kinds, **allowed, progress=progress).failed:
            log.warning("no pictures or objects of %s: %s", path, reason)
    else:
        for path, reason in write_run_kinds(out, options.kinds, deidentify=options.deidentify):
            log.warning("%s: %s", path, reason)
    return run


def _screen_entry(
    entry: ManifestRow,
    read: Ready | Fault,
    detector: Detector,
    options: ScreenOptions,
    out: Path,
    taken: set[str],
    seconds: dict[str, float],
    marked: dict[str, tuple[Mark, ...]],
) -> ImageRow:
    """Score one image and write its files; its row of images.csv."""
    if isinstance(read, Fault):
        return _failed(new_id(entry.path.stem, taken), entry, read)
    seconds["read"] += read.seconds
    start = time.monotonic()
    try:
        screening = screen_prepared(read.radiograph, read.prepared, detector, options)
        preferred = screening.source.sop_instance_uid or entry.path.stem
        name = new_id(preferred + (f"_frame{entry.frame}" if entry.frame else ""), taken)
        scored = time.monotonic()
        write_patches(patches_path(out, name), screening)
        found = marks(screening, detector.card.calibrated)
        passed_over = write_image_kinds(
            out,
            name,
            screening,
            read.radiograph,
            detector.card,
            options.kinds,
            deidentify=options.deidentify,
        )
    except OutputError:
        raise  # the folder is at fault, not this image
    except Exception as error:
        return _failed(new_id(entry.path.stem, taken), entry, fault_of(error))
    seconds["score"] += scored - start
    seconds["write"] += time.monotonic() - scored
    if passed_over:
        screening = replace(screening, reasons=(*screening.reasons, passed_over))
    marked[name] = found
    took = read.seconds + time.monotonic() - start
    return done_row(name, screening, read.radiograph, took, frame=entry.frame)


def _failed(name: str, entry: ManifestRow, fault: Fault) -> ImageRow:
    if fault.trace:
        log.debug("%s failed in a way that patchad doesn't know:\n%s", entry.path, fault.trace)
    return ImageRow(name, row_path(entry.path), fault.status, fault.reason, frame=entry.frame)


class _Journal:
    """The rows so far, a JSON line each, so that a killed run can go on where it stopped."""

    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        self.path, self.taken = path, set[str]()
        self._rows: dict[tuple[str, int | None], ImageRow] = {}
        header = json.loads(json.dumps(header))
        if not path.exists():
            write_whole(path, json.dumps(header) + "\n")
            return
        first, *lines = path.read_text("utf-8").splitlines(keepends=True)
        if json.loads(first) != header:
            raise RequestError(
                f"{path.parent} was begun with another model or other settings: repeat the "
                "request as it was, or replace the run with --overwrite"
            )
        for line in lines:
            if line.endswith("\n"):  # the last one may have been cut off
                row = ImageRow(**json.loads(line))
                if row.status != "failed":  # what failed is tried again
                    self.taken.add(row.id.lower())
                    self._rows[row.path, row.frame] = row
        write_whole(path, first + "".join(_line(row) for row in self._rows.values()))

    def holds(self, entry: ManifestRow) -> bool:
        return (row_path(entry.path), entry.frame) in self._rows

    def of(self, entry: ManifestRow) -> ImageRow:
        return self._rows[row_path(entry.path), entry.frame]

    def add(self, row: ImageRow) -> None:
        self._rows[row.path, row.frame] = row
        try:
            with self.path.open("a", encoding="utf-8") as journal:
                journal.write(_line(row))
        except OSError as error:
            raise OutputError(
                f"{self.path} could not be written ({error.strerror}): free space, then go on "
                "with --resume"
            ) from error


def _line(row: ImageRow) -> str:
    return json.dumps(asdict(row)) + "\n"
