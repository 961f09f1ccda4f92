"""Folders that patchad writes: claimed with a marker, locked, and emptied only of its own files.

A marker (``.patchad.json``) holds the kind of the folder, the version of patchad that made it, its
path and the request. A folder without a valid marker is neither emptied nor resumed.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from patchad.errors import OutputError, RequestError
from patchad.files.clearing import Layout, clear, names_in, sweep
from patchad.files.lock import LOCK, locked
from patchad.files.marker import MARKER, Marker, read_marker, write_marker
from patchad.files.request import differences
from patchad.files.whole import shown
from patchad.version import __version__

_NAMED = 5  # differences that an error lists


@dataclass(frozen=True, eq=False)
class Claim:
    """A folder held until the command ends; ``resumed`` if the same request began it."""

    folder: Path
    layout: Layout
    marker: Marker
    resumed: bool

    def remember(self, found: Mapping[str, Any]) -> None:
        """Store what was found in the inputs, for :func:`claimed` to compare when resuming."""
        write_marker(self.folder, replace(self.marker, found=dict(found)))

    def clear(self, below: str) -> None:
        """Delete what patchad wrote below ``below``, a folder in this one."""
        clear(self.folder, self.layout, below)


@contextmanager
def claimed(
    folder: Path,
    layout: Layout,
    request: Mapping[str, Any],
    *,
    command: str,
    resume: bool | None = None,
    overwrite: bool | None = None,
    apart: Sequence[Path] = (),
    compare: Callable[[Mapping[str, Any]], list[str]] | None = None,
) -> Iterator[Claim]:
    """Hold a folder for a command that writes into it, or fail before anything is written.

    Args:
        folder: made if it is not there.
        layout: what the command writes into it.
        request: all that results depend on, as JSON.
        command: its name.
        resume: continue the same request; None if the command has no ``--resume``.
        overwrite: delete earlier results of patchad; None if the command has no ``--overwrite``.
        apart: inputs, which must not lie in the folder.
        compare: lists differences between what was found then (``Claim.remember``) and now.

    Raises:
        RequestError: both options, an input in the folder, or a different request.
        OutputError: the folder is not empty, not ours, in use, or cannot be written.
    """
    if resume and overwrite:
        raise RequestError(
            "--resume continues what is in the folder and --overwrite deletes it: give one"
        )
    with ExitStack() as stack:
        try:
            claim = _claim(
                folder,
                layout,
                request,
                command,
                resume,
                overwrite,
                apart,
                compare,
                stack.enter_context,
            )
        except OSError as error:
            if isinstance(error, OutputError):
                raise
            raise OutputError(
                f"{shown(folder)} cannot be used ({error.strerror or error}): name another folder"
            ) from error
        yield claim


def require_free(folder: Path, layout: Layout, *, overwrite: bool) -> None:
    """Refuse a folder that :func:`claimed` would, before anything is computed for it.

    Raises:
        OutputError: it is not empty, and not to be overwritten or not ours.
    """
    _judge(folder, layout, False, overwrite, ["--overwrite"])


def _claim(
    folder: Path,
    layout: Layout,
    request: Mapping[str, Any],
    command: str,
    resume: bool | None,
    overwrite: bool | None,
    apart: Sequence[Path],
    compare: Callable[[Mapping[str, Any]], list[str]] | None,
    hold: Callable[[AbstractContextManager[None]], None],
) -> Claim:
    """What :func:`claimed` gives; ``hold`` keeps the lock."""
    ways = [*["--resume"] * (resume is not None), *["--overwrite"] * (overwrite is not None)]
    _judge(folder, layout, bool(resume), bool(overwrite), ways)  # before the lock is written
    _keep_apart(folder, apart)
    folder.mkdir(parents=True, exist_ok=True)
    hold(locked(folder, command))
    before = _judge(
        folder, layout, bool(resume), bool(overwrite), ways
    )  # again, now that nobody else can change it
    if before is not None and resume:
        found = compare(before.found) if compare and before.found else []
        _require_equal(folder, before, json.loads(json.dumps(request)), found)
        sweep(folder, layout)
        return Claim(folder, layout, before, True)
    inode = folder.stat().st_ino
    marker = Marker(layout.kind, __version__, _real(folder), inode, dict(request))
    if before is not None:
        write_marker(folder, replace(marker, request=None))
        clear(folder, layout)
    write_marker(folder, marker)
    return Claim(folder, layout, marker, False)


def _judge(
    folder: Path, layout: Layout, resume: bool, overwrite: bool, ways: Sequence[str]
) -> Marker | None:
    """The marker of the folder before the command, None if the folder is empty."""
    if folder.is_symlink() and not folder.exists():
        raise OutputError(f"{shown(folder)} is a link to nothing: name a folder")
    if not folder.exists():
        return None
    if not folder.is_dir():
        raise OutputError(f"{shown(folder)} is a file, not a folder: name a new or empty folder")
    if names_in(folder) <= {LOCK}:
        return None
    if not (resume or overwrite):
        remedies = {
            "--resume": "continue with --resume",
            "--overwrite": "replace it with --overwrite",
        }
        remedy = ", ".join([*(remedies[way] for way in ways), "name a new or empty folder"])
        raise OutputError(f"{shown(folder)} is not empty: {remedy.replace(', name', ', or name')}")
    marker, way = read_marker(folder), "resume" if resume else "overwrite"
    if marker is None:
        raise OutputError(
            f"{shown(folder)} holds no {MARKER}, so patchad can't {way} it: name another folder"
        )
    if marker.kind != layout.kind:
        raise OutputError(
            f"{shown(folder)} is a folder of kind {marker.kind}, and this command writes one of "
            f"kind {layout.kind}: name another"
        )
    if overwrite and _real(folder) != marker.path and folder.stat().st_ino != marker.inode:
        raise OutputError(
            f"{shown(folder / MARKER)} was written for {shown(marker.path)}: this is a copy, which "
            "patchad does not empty: delete the folder yourself, or name another"
        )
    if resume and marker.request is None:
        raise OutputError(
            f"{shown(folder)} was being emptied when its last command was interrupted: begin again "
            "with --overwrite"
        )
    return marker


def _require_equal(
    folder: Path, before: Marker, request: Mapping[str, Any], found: Sequence[str]
) -> None:
    then = {"patchad": before.patchad, **(before.request or {})}
    lines = [*differences(then, {"patchad": __version__, **request}), *found]
    if lines:
        more = [f"… and {len(lines) - _NAMED} more"] if len(lines) > _NAMED else []
        listed = "\n".join(f"  {shown(line)}" for line in [*lines[:_NAMED], *more])
        raise RequestError(
            f"{shown(folder)} was begun with another request:\n{listed}\n"
            "Repeat the request as it was, replace the results with --overwrite, or name another "
            "folder."
        )


def _keep_apart(folder: Path, apart: Sequence[Path]) -> None:
    own = Path(_real(folder))
    for path in apart:
        real = Path(_real(path))
        if own == real or own in real.parents:
            raise RequestError(
                f"{shown(path)} lies in {shown(folder)}, which this command writes: name another "
                "folder to write"
            )


def _real(path: Path) -> str:
    return os.path.realpath(path)
