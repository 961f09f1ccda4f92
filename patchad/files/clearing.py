"""Which files in a folder are patchad's own, and may be deleted."""

import errno
import re
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import ExitStack
from dataclasses import dataclass, field
from fnmatch import fnmatchcase, translate
from pathlib import Path

from patchad.errors import OutputError
from patchad.files.lock import LOCK, locked
from patchad.files.marker import MARKER, read_marker
from patchad.files.whole import TEMPORARY, shown


def _no_ids(folder: Path) -> Set[str]:
    return frozenset()


@dataclass(frozen=True)
class Layout:
    """What patchad writes into a kind of folder; nothing else is ever deleted from it.

    ``files`` are paths below the folder in the order of deletion: first the file that marks it as
    finished, last the one that lists the others. In them ``{id}`` stands for one of
    ``ids(folder)``, and ``*``, ``?`` and ``[…]`` are those of a shell. ``nested`` are folders with
    markers of their own, as patterns of the same kind.
    """

    kind: str
    files: tuple[str, ...]
    nested: Mapping[str, "Layout"] = field(default_factory=dict)
    ids: Callable[[Path], Set[str]] = _no_ids


def sweep(folder: Path, layout: Layout) -> None:
    """Delete files that were never finished; the caller holds the folder's lock."""
    for place in _folders(folder, layout):
        for name in names_in(place):
            path = place / name
            if TEMPORARY.fullmatch(name) and path.is_file() and not path.is_symlink():
                path.unlink(missing_ok=True)


def clear(folder: Path, layout: Layout, below: str = "", *, ids: Set[str] | None = None) -> None:
    """Delete what patchad wrote, and folders left empty; the caller holds the lock.

    The marker and the lock of ``folder`` itself stay. Links are neither followed nor deleted.

    Args:
        folder: one of this layout.
        layout: what patchad writes there.
        below: only what lies below this folder.
        ids: only the files of these, instead of all files.

    Raises:
        OutputError: a link lies where patchad writes, or a nested folder is not patchad's or is in
            use; nothing was deleted.
    """
    known = layout.ids(folder) if ids is None else ids
    patterns = [p for p in layout.files if _may_be_below(p, below) and (ids is None or "{id}" in p)]
    files = [
        path
        for pattern in patterns
        for path in _matches(folder, pattern, known)
        if _is_below(_below(path, folder), below)
    ]
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
    with ExitStack() as stack:
        for path, _ in inner:
            stack.enter_context(locked(path, "clearing"))
        for path, kind in inner:
            clear(path, kind)
            if names_in(path) <= {MARKER, LOCK}:
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


def names_in(folder: Path) -> set[str]:
    """The names of what lies in a folder."""
    return {path.name for path in folder.iterdir()}


def _require_ours(folder: Path, layout: Layout) -> None:
    """Refuse a nested folder that holds something without patchad's marker."""
    marker = read_marker(folder)
    empty = names_in(folder) <= {LOCK}
    if not empty and (marker is None or marker.kind != layout.kind):
        raise OutputError(
            f"{shown(folder)} lies where patchad writes, and is not its {layout.kind} folder: move "
            "it away first"
        )


def _below(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


def _is_below(path: str, folder: str) -> bool:
    return not folder or path == folder or path.startswith(f"{folder}/")


def _may_be_below(pattern: str, folder: str) -> bool:
    """Whether a pattern of a layout can match a path below ``folder``, which has no wildcards."""
    parts, above = pattern.split("/"), folder.split("/") if folder else []
    return len(parts) > len(above) and all(
        fnmatchcase(name, part.replace("{id}", "*"))
        for name, part in zip(above, parts, strict=False)
    )


def _folders(folder: Path, layout: Layout) -> list[Path]:
    """The folder, and those below it that hold patchad's files."""
    parents = {up for name in layout.files for up in Path(name).parents if up.parts}
    found = [folder]
    for parent in sorted(parents):
        pattern = parent.as_posix().replace("{id}", "*")
        found += _matches(folder, pattern, frozenset(), folders=True)
    return list(dict.fromkeys(found))


def _matches(folder: Path, pattern: str, ids: Set[str], *, folders: bool = False) -> Iterator[Path]:
    """The files (or folders) below ``folder`` that match a pattern of a layout, sorted.

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
        names = sorted(name for name in names_in(folder) if fits.fullmatch(name))
    else:
        names = [first]
    for name in names:
        path = folder / name
        if path.is_symlink():
            if several:
                continue  # one of the user's
            raise OutputError(
                f"{shown(path)} is a link where patchad writes, and it follows none: remove "
                "the link, or name another folder"
            )
        if rest and path.is_dir():
            yield from _matches(path, rest, ids, folders=folders)
        elif not rest and (path.is_dir() if folders else path.is_file()):
            yield path
