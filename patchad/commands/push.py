"""Send a run's DICOM objects to a PACS, each until it is accepted, and then never again."""

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from patchad.errors import ImageError, OutputError, RequestError
from patchad.net.send import Answer, CStore, StoredObject, StowRs, destination, read_object
from patchad.progress import Progress, silent
from patchad.store.layouts import open_run

JOURNAL = "pushed.jsonl"  # a line an acceptance: destination, object, time


@dataclass(frozen=True)
class Pushed:
    """The results: objects accepted now or ``before``; ``failed`` is (path, reason)."""

    to: str
    accepted: int
    before: int
    failed: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]


def once(failed: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Each reason once: (the first path that has it, and how many more, the reason)."""
    paths: dict[str, list[str]] = {}
    for path, reason in failed:
        paths.setdefault(reason, []).append(path)
    return [
        (f"{found[0]} and {len(found) - 1} more" if found[1:] else found[0], reason)
        for reason, found in paths.items()
    ]


def push(
    folder: Path,
    to: str,
    *,
    pauses: Sequence[float] = (1.0, 5.0),
    progress: Progress = silent,
) -> Pushed:
    """Send ``dicom/<id>/*.dcm`` of a run to ``aet@host:port`` (C-STORE) or a URL (STOW-RS).

    Objects without an answer, or rejected for now, are sent again after each of ``pauses``
    (seconds). Accepted ones are listed in ``pushed.jsonl`` of the run, by destination and SOP
    instance.

    Raises:
        RequestError: ``folder`` is not a run or has no objects, or ``to`` is not a destination.
        OutputError: there was no answer at all, the journal cannot be written, or another command
            writes into the run.
    """
    where = destination(to)
    with open_run(folder, "push"):
        return _push(folder, where, pauses, progress)


def _push(
    folder: Path, where: CStore | StowRs, pauses: Sequence[float], progress: Progress
) -> Pushed:
    paths = [path for path in sorted(folder.glob("dicom/*/*.dcm")) if path.name[0] != "."]
    if not paths:
        raise RequestError(
            f"{folder} has no DICOM objects to send: make them with "
            f"patchad export {folder} --write sc,gsps,sr"
        )
    done = _accepted(folder / JOURNAL, str(where))
    before, notes, reasons, waiting = 0, [], {}, []
    for path in paths:
        try:
            one = read_object(path)
        except ImageError as error:
            reasons[path] = str(error)
            continue
        if one.sop_instance_uid in done:
            before += 1
        else:
            waiting.append(one)
    accepted = heard = 0
    for pause in (0.0, *pauses):
        if not waiting:
            break
        time.sleep(pause)
        tries, waiting = waiting, []
        for number, (one, answer) in enumerate(where.send(tries), start=1):
            heard += answer.outcome != "lost"
            if answer.outcome == "accepted":
                _note(folder / JOURNAL, str(where), one)
                accepted += 1
                reasons.pop(one.path, None)
                if answer.words:
                    notes.append(f"{one.path}: {answer.words}")
            else:
                reasons[one.path] = answer.words
                if _again(answer):
                    waiting.append(one)
            if answer.outcome != "lost":
                progress("sending", number, len(tries), math.nan)
    if waiting and not heard:
        raise OutputError(
            f"{reasons[waiting[0].path]}: nothing was sent; check that it runs, its address, and "
            "the firewall"
        )
    failed = tuple((str(path), reasons[path]) for path in paths if path in reasons)
    return Pushed(str(where), accepted, before, failed, tuple(notes))


def _again(answer: Answer) -> bool:
    return answer.outcome in ("busy", "lost")


def _accepted(journal: Path, to: str) -> set[str]:
    """The SOP instances that a destination has accepted; a broken last line is ignored."""
    try:
        lines = journal.read_text("utf-8").splitlines()
    except FileNotFoundError:
        return set()
    except (OSError, ValueError) as error:
        raise OutputError(
            f"{journal} cannot be read ({type(error).__name__}): repair it, or move it away and "
            "everything is sent again"
        ) from None
    entries = []
    for line in lines:
        try:
            entries.append(json.loads(line))
        except ValueError:
            continue
    return {str(e.get("sop_instance_uid")) for e in entries if e.get("to") == to}


def _note(journal: Path, to: str, one: StoredObject) -> None:
    """Add a line at once, so that an interrupted push keeps its record."""
    entry = {
        "to": to,
        "sop_instance_uid": one.sop_instance_uid,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    try:
        with journal.open("a", encoding="utf-8") as file:
            # the newline first: an incomplete line must not merge with the next
            file.write(("\n" if file.tell() else "") + json.dumps(entry))
    except OSError as error:
        raise OutputError(
            f"{journal} cannot be written ({error.strerror}), so that objects may be sent twice: "
            "free space and push again"
        ) from None
