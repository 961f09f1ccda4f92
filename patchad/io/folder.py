"""Folders that patchad writes: claimed with a marker, locked, and emptied only of its own files.

A marker (``.patchad.json``) says what kind of folder it is, which patchad made it, where, and what
was asked for. Without a sound one a folder is neither emptied nor gone on with.
"""

import errno
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from fnmatch import translate
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from patchad.errors import OutputError, RequestError
from patchad.io.files import TEMPORARY, shown, write_whole
from patchad.io.lock import LOCK, locked
from patchad.io.request import differences
from patchad.version import __version__

MARKER = ".patchad.json"
_FORMAT = 1
_NAMED = 5  # differences that a refusal names


def _no_ids(folder: Path) -> Set[str]:
    return frozenset()


@dataclass(frozen=True)
class Layout:
    """What patchad writes into a kind of folder; nothing else is ever deleted from it.

    ``files`` are paths below the folder in the order in which they are deleted: first what shows
    that it is finished, last what tells of the others. In a part of them ``{id}`` stands for one
    of ``ids(folder)``, and ``*``, ``?`` and ``[…]`` are those of a shell. ``nested`` are folders,
    named likewise, with markers of their own.
    """

    kind: str
    files: tuple[str, ...]
    nested: Mapping[str, "Layout"] = field(default_factory=dict)
    ids: Callable[[Path], Set[str]] = _no_ids


@dataclass(frozen=True)
class Marker:
    """What ``.patchad.json`` holds.

    ``path`` and ``inode`` tell the folder from its copies; ``request`` is what was asked for, None
    while the folder is being emptied; ``found`` is what the work remembers of its inputs.
    """

    kind: str
    patchad: str
    path: str
    inode: int
    request: dict[str, Any] | None
    found: dict[str, Any] = field(default_factory=dict)
    format: int = _FORMAT


_MARKER = TypeAdapter(Marker)


@dataclass(frozen=True, eq=False)
class Claim:
    """A folder that is ours until the command ends; ``resumed`` if an equal request began it."""

    folder: Path
    layout: Layout
    marker: Marker
    resumed: bool

    def remember(self, found: Mapping[str, Any]) -> None:
        """Store what was found out of the inputs, for :func:`claimed` to compare when resuming."""
        _write_marker(self.folder, replace(self.marker, found=dict(found)))

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
    """Hold a folder for a command that writes into it, or refuse before anything is written.

    Args:
        folder: made if it is not there.
        layout: what the command writes into it.
        request: what was asked for, as JSON; all that results depend on.
        command: its name.
        resume: go on with what an equal request left; None: the command knows no ``--resume``.
        overwrite: delete what patchad wrote there before; None: the command knows no such option.
        apart: what is read and thus must not lie in the folder.
        compare: the differences between what was found then (``Claim.remember``) and is there now.

    Raises:
        RequestError: both options, an input in the folder, or another request than the first.
        OutputError: the folder is not empty, not ours, in use, or cannot be written.
    """
    if resume and overwrite:
        raise RequestError(
            "--resume goes on with what is in the folder and --overwrite deletes it: give one"
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
    _judge(folder, layout, bool(resume), bool(overwrite), ways)  # before even the lock is written
    _keep_apart(folder, apart)
    folder.mkdir(parents=True, exist_ok=True)
    hold(locked(folder, command))
    before = _judge(folder, layout, bool(resume), bool(overwrite), ways)  # now it stays as it is
    if before is not None and resume:
        found = compare(before.found) if compare and before.found else []
        _require_equal(folder, before, json.loads(json.dumps(request)), found)
        sweep(folder, layout)
        return Claim(folder, layout, before, True)
    inode = folder.stat().st_ino
    marker = Marker(layout.kind, __version__, _real(folder), inode, dict(request))
    if before is not None:
        _write_marker(folder, replace(marker, request=None))
        clear(folder, layout)
    _write_marker(folder, marker)
    return Claim(folder, layout, marker, False)


def read_marker(folder: Path) -> Marker | None:
    """The marker of a folder, None where there is none.

    Raises:
        OutputError: it is damaged, or of another patchad.
    """
    path = folder / MARKER
    remedy = "look what the folder holds and delete it yourself, or name another"
    try:
        if path.is_symlink():
            raise OutputError(f"{shown(path)} is a link, which patchad does not write: {remedy}")
        if not path.is_file():
            return None
        content = json.loads(path.read_text("utf-8"))
        if isinstance(content, dict) and content.get("format") != _FORMAT:
            raise OutputError(
                f"{shown(path)} is of format {content.get('format')!r:.40}, this patchad knows "
                f"{_FORMAT}: {remedy}"
            )
        return _MARKER.validate_python(content)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        said = f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}"
    except (ValueError, RecursionError):
        said = "it is not JSON"
    raise OutputError(f"{shown(path)} is damaged ({said}): {remedy}")


def kind_of(folder: Path) -> str:
    """The kind of a folder that patchad wrote, empty if it did not, or if nobody can tell."""
    try:
        marker = read_marker(folder)
    except OSError:
        return ""
    return marker.kind if marker else ""


def sweep(folder: Path, layout: Layout) -> None:
    """Delete files that were never finished; the caller holds the folder's lock."""
    for place in _folders(folder, layout):
        for name in _names(place):
            path = place / name
            if TEMPORARY.fullmatch(name) and path.is_file() and not path.is_symlink():
                path.unlink(missing_ok=True)


def clear(folder: Path, layout: Layout, below: str = "", *, ids: Set[str] | None = None) -> None:
    """Delete what patchad wrote, and folders that are empty then; the caller holds the lock.

    The marker and the lock of ``folder`` itself stay. Links are neither followed nor deleted.

    Args:
        folder: one of this layout.
        layout: what patchad writes there.
        below: only what lies below this folder.
        ids: only the files of these, instead of all files.

    Raises:
        OutputError: a link lies where patchad writes, or a nested folder is not patchad's or is in
            use; then nothing was deleted.
    """
    known = layout.ids(folder) if ids is None else ids
    patterns = [p for p in layout.files if _is_below(p, below) and (ids is None or "{id}" in p)]
    files = [path for pattern in patterns for path in _matches(folder, pattern, known)]
    nested = {} if ids is not None else layout.nested
    inner = [
        (path, kind)
        for pattern, kind in nested.items()
        if _is_below(pattern, below)
        for path in _matches(folder, pattern, known, folders=True)
    ]
    for path, kind in inner:
        _require_ours(path, kind)
    places = [p for p in _folders(folder, layout) if _is_below(_below(p, folder), below)]
    for path, kind in inner:
        with locked(path, "clearing"):
            clear(path, kind)
            if _names(path) <= {MARKER, LOCK}:
                (path / MARKER).unlink(missing_ok=True)
                (path / LOCK).unlink(missing_ok=True)
    for path in files:
        path.unlink(missing_ok=True)
    if ids is None:
        sweep(folder, layout)
    above = {up for path, _ in inner for up in path.parents if folder in up.parents}
    gone = {path for path, _ in inner} | above | {*places} - {folder}
    for path in sorted(gone, key=lambda path: len(path.parts), reverse=True):
        try:
            path.rmdir()
        except FileNotFoundError:
            continue
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise


def _judge(
    folder: Path, layout: Layout, resume: bool, overwrite: bool, ways: Sequence[str]
) -> Marker | None:
    """The marker of the folder as it is before the command, None if nothing is in it."""
    if folder.is_symlink() and not folder.exists():
        raise OutputError(f"{shown(folder)} is a link to nothing: name a folder")
    if not folder.exists():
        return None
    if not folder.is_dir():
        raise OutputError(f"{shown(folder)} is a file, not a folder: name a new or empty folder")
    if _names(folder) <= {LOCK}:
        return None
    if not (resume or overwrite):
        means = {"--resume": "go on with --resume", "--overwrite": "replace it with --overwrite"}
        said = ", ".join([*(means[way] for way in ways), "name a new or empty folder"])
        raise OutputError(f"{shown(folder)} is not empty: {said.replace(', name', ', or name')}")
    marker, end = read_marker(folder), "go on with" if resume else "overwrite"
    if marker is None:
        raise OutputError(
            f"{shown(folder)} holds no {MARKER}, so it is not patchad's to {end}: name another "
            "folder"
        )
    if marker.kind != layout.kind:
        raise OutputError(
            f"{shown(folder)} is a folder of kind {marker.kind}, and this command writes one of "
            f"kind {layout.kind}: name another"
        )
    if overwrite and _real(folder) != marker.path and folder.stat().st_ino != marker.inode:
        raise OutputError(
            f"{shown(folder / MARKER)} was written for {shown(marker.path)}: this is a copy, which "
            "patchad does not empty; delete the folder yourself, or name another"
        )
    if resume and marker.request is None:
        raise OutputError(
            f"{shown(folder)} was being emptied when its last command was broken off: begin anew "
            "with --overwrite"
        )
    return marker


def _require_equal(
    folder: Path, before: Marker, request: Mapping[str, Any], found: Sequence[str]
) -> None:
    then = {"patchad": before.patchad, **(before.request or {})}
    told = [*differences(then, {"patchad": __version__, **request}), *found]
    if told:
        more = [f"… and {len(told) - _NAMED} more"] if len(told) > _NAMED else []
        lines = "\n".join(f"  {shown(line)}" for line in [*told[:_NAMED], *more])
        raise RequestError(
            f"{shown(folder)} was begun with another request:\n{lines}\n"
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


def _require_ours(folder: Path, layout: Layout) -> None:
    """Refuse a nested folder that holds something without patchad's marker."""
    marker = read_marker(folder)
    empty = _names(folder) <= {LOCK}
    if not empty and (marker is None or marker.kind != layout.kind):
        raise OutputError(
            f"{shown(folder)} lies where patchad writes, and is not its {layout.kind} folder: move "
            "it away first"
        )


def _write_marker(folder: Path, marker: Marker) -> None:
    write_whole(folder / MARKER, json.dumps(asdict(marker), indent=1) + "\n")


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def _real(path: Path) -> str:
    return os.path.realpath(path)


def _below(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


def _is_below(path: str, folder: str) -> bool:
    return not folder or path == folder or path.startswith(f"{folder}/")


def _folders(folder: Path, layout: Layout) -> list[Path]:
    """The folder, and those in it that patchad's files lie in."""
    parents = {up for name in layout.files for up in Path(name).parents if up.parts}
    found = [folder]
    for parent in sorted(parents):
        pattern = parent.as_posix().replace("{id}", "*")
        found += _matches(folder, pattern, frozenset(), folders=True)
    return list(dict.fromkeys(found))


def _matches(folder: Path, pattern: str, ids: Set[str], *, folders: bool = False) -> Iterator[Path]:
    """The files (or folders) below ``folder`` that a pattern of a layout means, in sorted order.

    Raises:
        OutputError: there is a link among them.
    """
    first, _, rest = pattern.partition("/")
    head, by_id, tail = first.partition("{id}")
    several = re.search(r"[*?[]", first) is not None
    if by_id:
        names = sorted(f"{head}{one}{tail}" for one in ids)
    elif several:
        fits = re.compile(translate(first))
        names = sorted(name for name in _names(folder) if fits.fullmatch(name))
    else:
        names = [first]
    for name in names:
        path = folder / name
        if path.is_symlink():
            if several:
                continue  # one of the user's
            raise OutputError(
                f"{shown(path)} is a link, and lies where patchad writes; it follows none: remove "
                "the link, or name another folder"
            )
        if rest and path.is_dir():
            yield from _matches(path, rest, ids, folders=folders)
        elif not rest and (path.is_dir() if folders else path.is_file()):
            yield path
