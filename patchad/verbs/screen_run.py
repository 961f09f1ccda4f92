"""Screen many images into a run folder; a bad one costs its row, never the run."""

import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch

from patchad.detector import ModelCard, PatchDetector, card_as_dict, versions
from patchad.errors import ImageError, NotARadiographError, OutputError, RequestError
from patchad.export.write import check_kinds, write_image_kinds, write_run_kinds
from patchad.image import Radiograph
from patchad.io.files import claim_folder, write_whole
from patchad.io.manifest import ManifestRow
from patchad.io.read import find_images, read_entry
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
from patchad.methods import load
from patchad.preprocess import Prepared, prepare
from patchad.progress import Progress, silent
from patchad.verbs.screen import ScreenOptions, screen_prepared

log = logging.getLogger(__name__)

STATUSES = ("ok", "failed", "skipped")
_JOURNAL = ".rows.jsonl"  # the rows so far, so that a killed run can go on
_READ_AHEAD = 2  # images read while another is scored

_In = TypeVar("_In")
_Out = TypeVar("_Out")


def screen_run(
    inputs: Sequence[Path],
    model: Path,
    out: Path,
    options: ScreenOptions,
    *,
    device: torch.device,
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
    detector = load(model, device)
    if options.stride is not None and not 1 <= options.stride <= detector.card.patch_size:
        raise RequestError(
            f"--stride lies in 1..{detector.card.patch_size} (the model's patch size), "
            f"got {options.stride}"
        )
    card = card_as_dict(detector.card)
    settings = {
        "command": ["screen", *map(str, inputs)],
        "model": card["digest"],
        "settings": asdict(options),
        "versions": versions(),
        "device": str(device),
    }
    claim_folder(out, ("run.json", _JOURNAL), resume=resume, overwrite=overwrite)
    rows = _Journal(out / _JOURNAL, {name: settings[name] for name in ("model", "settings")})
    seconds = {"read": 0.0, "score": 0.0, "write": 0.0}
    todo = [entry for entry in entries if not rows.holds(entry.path)]
    for number, (entry, read) in enumerate(
        _ahead(lambda entry: _read(entry, detector.card, options), todo), start=1
    ):
        rows.add(_screen_entry(entry, read, detector, options, out, rows.taken, seconds))
        progress("screening", number, len(todo), math.nan)
    table = [rows.of(entry.path) for entry in entries]
    counts = {status: sum(row.status == status for row in table) for status in STATUSES}
    run = write_run(out, {**settings, "card": card, "counts": counts, "seconds": seconds}, table)
    write_run_kinds(out, options.kinds, deidentify=options.deidentify)
    return run


@dataclass(frozen=True, eq=False)
class _Read:
    """An image ready to be scored, or why it is not."""

    radiograph: Radiograph | None
    prepared: Prepared | None
    error: Exception | None
    seconds: float


def _read(entry: ManifestRow, card: ModelCard, options: ScreenOptions) -> _Read:
    start = time.monotonic()
    radiograph, prepared, fault = None, None, None
    try:
        radiograph = read_entry(entry, options.spacing_mm)
        prepared = prepare(radiograph, card.preprocessing)
    except Exception as error:  # whatever a decoder throws at one file stays with that file
        fault = error
    return _Read(radiograph, prepared, fault, time.monotonic() - start)


def _screen_entry(
    entry: ManifestRow,
    read: _Read,
    detector: PatchDetector,
    options: ScreenOptions,
    out: Path,
    taken: set[str],
    seconds: dict[str, float],
) -> ImageRow:
    """Score one image and write its files; its row of images.csv."""
    seconds["read"] += read.seconds
    start = time.monotonic()
    try:
        if read.radiograph is None or read.prepared is None:
            raise read.error or ImageError("it could not be read")
        screening = screen_prepared(read.radiograph, read.prepared, detector, options)
        name = new_id(screening.source.sop_instance_uid or entry.path.stem, taken)
        scored = time.monotonic()
        write_patches(patches_path(out, name), screening)
        write_image_kinds(
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
        name = new_id(entry.path.stem, taken)
        return ImageRow(name, row_path(entry.path), *_status(error))
    seconds["score"] += scored - start
    seconds["write"] += time.monotonic() - scored
    return done_row(name, screening, read.radiograph, read.seconds + time.monotonic() - start)


def _status(error: Exception) -> tuple[Literal["failed", "skipped"], str]:
    """Status and reason of an image that gave ``error``."""
    if isinstance(error, NotARadiographError):
        return "skipped", str(error)
    if isinstance(error, ImageError):
        return "failed", str(error)
    log.debug("an image failed in a way that patchad doesn't know", exc_info=error)
    if isinstance(error, MemoryError):
        return "failed", "not enough memory for this image: screen it alone, or downsample it"
    # The text of a foreign error may quote the file's content, and with it the patient.
    return "failed", f"unexpected {type(error).__name__}: run with -v and report it to patchad"


class _Journal:
    """The rows so far, a JSON line each, so that a killed run can go on where it stopped."""

    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        self.path, self.taken = path, set[str]()
        self._rows: dict[str, ImageRow] = {}
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
                    self._rows[row.path] = row
        write_whole(path, first + "".join(_line(row) for row in self._rows.values()))

    def holds(self, path: Path) -> bool:
        return row_path(path) in self._rows

    def of(self, path: Path) -> ImageRow:
        return self._rows[row_path(path)]

    def add(self, row: ImageRow) -> None:
        self._rows[row.path] = row
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


def _ahead(work: Callable[[_In], _Out], items: Sequence[_In]) -> Iterator[tuple[_In, _Out]]:
    """Each item with its result, in order, a few of them worked on before they are asked for."""
    with ThreadPoolExecutor(_READ_AHEAD) as threads:
        pending = [threads.submit(work, item) for item in items[:_READ_AHEAD]]
        for number, item in enumerate(items):
            yield item, pending.pop(0).result()
            pending += [threads.submit(work, i) for i in items[number + _READ_AHEAD :][:1]]
