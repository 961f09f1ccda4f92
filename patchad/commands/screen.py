"""Screen many images into a run folder; a bad one is a failed row and never stops the run."""

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from patchad.commands.export import export_run
from patchad.commands.other_breast import compare_breasts, with_two_breasts
from patchad.core.grid import check_stride
from patchad.engine.marks import Mark, marks
from patchad.engine.screener import Screener, ScreenOptions, how_to_read
from patchad.errors import OutputError, RequestError
from patchad.export.stored_marks import stored_marks
from patchad.export.write import check_kinds, write_image_kinds, write_run_kinds
from patchad.files.claim import Claim, claimed
from patchad.files.clearing import clear
from patchad.files.names import new_id
from patchad.files.request import content_of, numbered
from patchad.files.whole import shown
from patchad.methods import load
from patchad.model.card import ModelCard, card_as_dict, versions
from patchad.model.detector import Detector
from patchad.prepare.frames import every_frame
from patchad.prepare.preprocess import Preprocessing
from patchad.prepare.workers import (
    DEFAULT_LIMITS,
    Fault,
    How,
    Limits,
    Readers,
    Ready,
    fault_of,
    readers,
)
from patchad.progress import Progress, silent
from patchad.read.manifest import ManifestRow, facts_of
from patchad.read.read import find_images
from patchad.store.journal import Entry, Journal
from patchad.store.layouts import RUN
from patchad.store.marks_table import write_marks
from patchad.store.run import (
    ImageRow,
    Run,
    done_row,
    heatmap_path,
    overlay_path,
    patches_path,
    read_run,
    row_path,
    write_patches,
    write_run,
)

log = logging.getLogger(__name__)

STATUSES = ("ok", "failed", "skipped")
_STAGES = ("read", "score", "write")
_NAMED = 3  # changed files that a refusal names


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
    command: Sequence[str] = (),
    read_with: Readers = readers,
    progress: Progress = silent,
) -> Run:
    """Screen images into a run folder; a bad one is a failed row and never stops the run.

    ``resume`` continues an equal request: failed images are tried again, finished ones are kept.
    ``command`` is the command line, for ``run.json``. ``read_with`` reads and prepares images; for
    studies that do it once for many models.

    Raises:
        RequestError: the request is wrong, or not the one that is resumed; nothing was written.
        ModelError: the model folder cannot be used; nothing was written.
        OutputError: the folder cannot be written, is in use, or the disk is full; ``resume``
            continues.
    """
    check_kinds(options.kinds, invent_geometry=options.invent_geometry)
    entries = find_images(inputs)
    if options.frames == "all":
        entries = every_frame(entries, limits)
    detector = load(model, device)
    if options.stride is not None:
        check_stride(options.stride, detector.card.patch_size)
    preprocessing = how_to_read(detector.card.preprocessing, options)
    # run.json has the settings that were used
    options = replace(options, voi=preprocessing.voi, bits=preprocessing.bits)
    card = card_as_dict(detector.card)
    read_as = with_two_breasts(detector.card) if options.two_breasts else detector.card
    settings = {
        "command": [*command] or ["screen", *map(str, (*inputs, "--model", model, "--out", out))],
        "model": card["digest"],
        "settings": asdict(options),
        "limits": asdict(limits),
        "versions": versions(),
        "device": str(device),
    }
    request = _request(detector.card, options, entries)
    apart = [model, *inputs, *(entry.path for entry in entries)]
    with claimed(
        out, RUN, request, command="screen", resume=resume, overwrite=overwrite, apart=apart
    ) as claim:
        # Files that show a score can't be written before both breasts are scored.
        now = replace(options, kinds=("heatmap",)) if options.two_breasts else options
        journal = Journal.read(out)
        _require_unchanged(journal, entries, out, progress)
        _drop_incomplete(journal, out, detector, now)
        todo = [entry for entry in entries if journal.of(entry) is None]
        if journal.finished and not todo and (out / "marks.csv").is_file():
            log.info("%s holds all results of this request: nothing is left to do", shown(out))
            return read_run(out)
        if claim.resumed:
            clear(out, RUN, ids=journal.orphans)
        journal.rewrite(entries)
        marked: dict[str, tuple[Mark, ...]] = {}
        how, taken = How(preprocessing, options.spacing_mm, limits), journal.taken
        with read_with(how) as ahead:
            for number, (entry, read) in enumerate(ahead(todo), start=1):
                one = _screen_entry(entry, read, detector, now, out, taken, journal, marked)
                if claim.resumed and one.row.status == "ok":
                    _drop_evaluation(claim)
                journal.add(one)
                progress("screening", number, len(todo), math.nan)
        done = [found for entry in entries if (found := journal.of(entry))]
        table = [one.row for one in done]
        pairs = detector.card.calibrated.two_breasts
        if options.two_breasts and pairs is not None:
            table = compare_breasts(table, entries, pairs.ordinary, read_as)
        counts = {status: sum(row.status == status for row in table) for status in STATUSES}
        seconds = {name: sum(one.seconds.get(name, 0.0) for one in done) for name in _STAGES}
        used = {**card_as_dict(read_as), "digest": card["digest"]}
        for row in table:  # rows of an earlier session, and files that depend on both breasts
            if row.status == "ok" and (row.id not in marked or options.two_breasts):
                stored = Run(out, {}, pd.DataFrame())
                marked[row.id] = stored_marks(stored, row, read_as.calibrated)
        write_marks(out, {row.id: marked[row.id] for row in table if row.status == "ok"})
        assumed = _assumed(table, preprocessing)
        results = {"counts": counts, "assumed_spacing": assumed, "seconds": seconds}
        run = write_run(out, {**settings, "card": used, **results}, table)
        if options.two_breasts:
            allowed = {"deidentify": options.deidentify, "invent_geometry": options.invent_geometry}
            left_out = export_run(run, options.kinds, **allowed, progress=progress).failed
        else:
            left_out = write_run_kinds(out, options.kinds, deidentify=options.deidentify)
        for path, reason in left_out:
            log.warning("%s: %s", shown(path), reason)
        journal.rewrite(entries, finished=True)
    return run


def _request(
    card: ModelCard, options: ScreenOptions, entries: Sequence[ManifestRow]
) -> dict[str, Any]:
    """Everything that the results depend on. An image's patient is a number at most.

    The device and the limits are not included, since they don't change results.
    """
    settings = {
        **asdict(options),
        "kinds": sorted(options.kinds),
        "stride": options.stride or card.stride,
    }
    facts = [facts_of(entry) for entry in entries]
    if options.two_breasts:
        patients = numbered(entry.patient_id for entry in entries)
        studies = numbered(f"{entry.patient_id}\0{entry.study_id}" for entry in entries)
        for one, entry, patient, study in zip(facts, entries, patients, studies, strict=True):
            if entry.patient_id:
                one |= {"patient": patient, "study": study}
    names = [row_path(e.path) + (f" frame {e.frame}" if e.frame else "") for e in entries]
    return {
        "model": card_as_dict(card)["digest"],
        "settings": settings,
        "inputs": dict(zip(names, facts, strict=True)),
    }


def _require_unchanged(
    journal: Journal, entries: Sequence[ManifestRow], out: Path, progress: Progress
) -> None:
    """Refuse to resume if files of rows have changed since they were screened."""
    done = [(entry, found) for entry in entries if (found := journal.of(entry))]
    changed = []
    contents: dict[Path, str] = {}  # once for all frames of a file
    for number, (entry, found) in enumerate(done, start=1):
        if entry.path not in contents:
            contents[entry.path] = content_of(entry.path)
        if contents[entry.path] != found.content:
            what = "changed since it was screened" if contents[entry.path] else "can't be read now"
            changed.append(f"{shown(entry.path)} {what}")
        progress("comparing with the screened files", number, len(done), math.nan)
    if changed:
        more = f", … ({len(changed)} in all)" if len(changed) > _NAMED else ""
        raise RequestError(
            f"{shown(out)} has rows of files that have changed since: "
            f"{', '.join(changed[:_NAMED])}{more}: restore the files, or screen all again with "
            "--overwrite"
        )


def _drop_incomplete(journal: Journal, out: Path, detector: Detector, now: ScreenOptions) -> None:
    """Screen rows again whose files have been deleted since."""
    dense = detector.card.calibrated.marks.dense
    for key, entry in [*journal.entries.items()]:
        if entry.row.status != "ok":
            continue
        needed = [patches_path(out, entry.row.id)]
        needed += [heatmap_path(out, entry.row.id)] * ("heatmap" in now.kinds or dense)
        needed += [overlay_path(out, entry.row.id)] * ("overlay" in now.kinds)
        if not all(path.is_file() for path in needed):
            del journal.entries[key]


def _drop_evaluation(claim: Claim) -> None:
    """Delete an evaluation that covers fewer images than the run has now."""
    if (claim.folder / "evaluation" / "evaluation.json").exists():
        claim.clear("evaluation")
        log.warning("deleted the evaluation, which was of other rows: evaluate again")


def _assumed(rows: Sequence[ImageRow], preprocessing: Preprocessing) -> dict[str, Any]:
    """How many images had their pixel spacing assumed, and how; logged once."""
    found = [row.assumed_row_mm for row in rows if row.assumed_row_mm is not None]
    if not found:
        return {"images": 0}
    side = preprocessing.assumed_side_mm
    log.warning(
        "%d of %d images have no pixel spacing: their longer side was assumed to be %g mm, %.3g to "
        "%.3g mm a pixel; give it by --spacing-mm or the manifest's column spacing_mm",
        *(len(found), len(rows), side, min(found), max(found)),
    )
    return {"images": len(found), "side_mm": side, "pixel_mm": [min(found), max(found)]}


def _screen_entry(
    entry: ManifestRow,
    read: Ready | Fault,
    detector: Detector,
    options: ScreenOptions,
    out: Path,
    taken: set[str],
    journal: Journal,
    marked: dict[str, tuple[Mark, ...]],
) -> Entry:
    """Score one image and write its files; return its row of images.csv, and the time.

    Its marks go into ``marked``, under its id.
    """
    if isinstance(read, Fault):
        return _failed(new_id(entry.path.stem, taken), entry, read)
    start = time.monotonic()
    name = ""
    try:
        screening = Screener(detector).screen(read.radiograph, read.prepared, options)
        preferred = screening.source.sop_instance_uid or entry.path.stem
        name = new_id(preferred + (f"_frame{entry.frame}" if entry.frame else ""), taken)
        scored = time.monotonic()
        journal.begin(name)
        write_patches(patches_path(out, name), screening)
        marked[name] = marks(screening, detector.card.calibrated)
        remarks = write_image_kinds(
            out,
            name,
            screening,
            read.radiograph,
            detector.card,
            options.kinds,
            deidentify=options.deidentify,
        )
    except OutputError:
        raise  # the folder is the problem, not this image
    except Exception as error:
        if name:  # its files would look like a result
            clear(out, RUN, ids={name})
            taken.discard(name.lower())
        fault = replace(fault_of(error), content=read.content)
        return _failed(new_id(entry.path.stem, taken), entry, fault)
    end = time.monotonic()
    reasons = (*screening.reasons, *remarks.notes, *filter(None, [remarks.no_objects]))
    row = done_row(
        name,
        replace(screening, reasons=reasons),
        read.radiograph,
        read.seconds + end - start,
        frame=entry.frame,
        assumed_mm=read.prepared.assumed_mm,
    )
    seconds = {"read": read.seconds, "score": scored - start, "write": end - scored}
    return Entry(row, read.content, seconds)


def _failed(name: str, entry: ManifestRow, fault: Fault) -> Entry:
    if fault.trace:
        log.debug("%s failed with an unexpected error:\n%s", entry.path, fault.trace)
    row = ImageRow(name, row_path(entry.path), fault.status, fault.reason, frame=entry.frame)
    return Entry(row, fault.content)
