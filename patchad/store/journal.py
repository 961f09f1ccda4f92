"""The journal of a screening: its rows so far, so that an interrupted run can be resumed."""

import csv
import json
import logging
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from patchad.errors import OutputError
from patchad.files.whole import shown, write_whole
from patchad.read.manifest import ManifestRow
from patchad.store.run import ImageRow, row_path

log = logging.getLogger(__name__)

JOURNAL = ".rows.jsonl"
_END = {"finished": True}


@dataclass(frozen=True)
class Entry:
    """A finished image: its row, the SHA-256 of its file, and seconds by stage."""

    row: ImageRow
    content: str
    seconds: Mapping[str, float] = field(default_factory=dict)


_ENTRY = TypeAdapter(Entry)


@dataclass(eq=False)
class Journal:
    """A JSON line for each image begun (its id) and for each one finished (its :class:`Entry`).

    The id is written before the first file of an image, so that the files of an unfinished image
    can be found.
    """

    path: Path
    entries: dict[tuple[str, int | None], Entry] = field(default_factory=dict)
    begun: set[str] = field(default_factory=set)
    finished: bool = False

    @classmethod
    def read(cls, folder: Path) -> "Journal":
        """The journal of a run folder, empty if there is none.

        A line that is cut off or damaged is skipped: its image is screened again. So is an image
        that failed.

        Raises:
            OutputError: the file cannot be read.
        """
        journal = cls(folder / JOURNAL)
        damaged = 0
        for record in _lines(journal.path):
            if record == _END:
                journal.finished = True
            elif isinstance(begun := record.get("begun"), str):
                journal.begun.add(begun)
            else:
                try:
                    entry = _ENTRY.validate_python(record)
                except ValueError:
                    damaged += 1
                    continue
                journal.begun.add(entry.row.id)
                if entry.row.status != "failed":
                    journal.entries[entry.row.path, entry.row.frame] = entry
        if damaged:
            log.warning("%s: %d damaged lines, skipped", shown(journal.path), damaged)
        return journal

    @property
    def taken(self) -> set[str]:
        """The ids of finished images, in lower case: some file systems ignore case."""
        return {entry.row.id.lower() for entry in self.entries.values()}

    @property
    def orphans(self) -> Set[str]:
        """The ids with files but no row."""
        return self.begun - {e.row.id for e in self.entries.values() if e.row.status == "ok"}

    def of(self, image: ManifestRow) -> Entry | None:
        """The entry of an image, None if it isn't finished."""
        return self.entries.get((row_path(image.path), image.frame))

    def begin(self, image_id: str) -> None:
        """Record that files of this id may exist from now on."""
        self.begun.add(image_id)
        self._add({"begun": image_id})

    def add(self, entry: Entry) -> None:
        """Record a finished image."""
        self.entries[entry.row.path, entry.row.frame] = entry
        self._add(asdict(entry))

    def rewrite(self, images: Sequence[ManifestRow], *, finished: bool = False) -> None:
        """Rewrite the file with the entries of ``images``, in order; ``finished`` if all are."""
        entries = [entry for image in images if (entry := self.of(image))]
        self.entries = {(entry.row.path, entry.row.frame): entry for entry in entries}
        self.begun = {entry.row.id for entry in entries if entry.row.status == "ok"}
        self.finished = finished
        lines = [asdict(entry) for entry in entries] + [_END] * finished
        write_whole(self.path, "".join(json.dumps(line) + "\n" for line in lines))

    def _add(self, line: Mapping[str, Any]) -> None:
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise OutputError(
                f"{shown(self.path)} could not be written ({error.strerror}): free space, then "
                "continue with --resume"
            ) from error


def ids_in(folder: Path) -> Set[str]:
    """The ids under which a run folder may hold files, from its journal and its table."""
    found = Journal.read(folder).begun
    try:
        with (folder / "images.csv").open(encoding="utf-8", newline="") as file:
            found |= {row.get("id") or "" for row in csv.DictReader(file)}
    except FileNotFoundError:
        pass
    except (OSError, ValueError, csv.Error) as error:
        log.warning("%s cannot be read (%s)", shown(folder / "images.csv"), type(error).__name__)
    # Only ids that new_id could have made: a single part of a path.
    return {one for one in found if one.strip(".") and not {*one} & {*"/\\\0"}}


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a journal; the last line may have been cut off."""
    try:
        text = path.read_text("utf-8", errors="replace")
    except FileNotFoundError:
        return
    except OSError as error:
        raise OutputError(f"{shown(path)} cannot be read ({error.strerror})") from None
    for line in text.splitlines(keepends=True):
        try:
            record = json.loads(line) if line.endswith("\n") else None
        except ValueError:
            record = {}
        if isinstance(record, dict):
            yield record
