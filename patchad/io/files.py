"""Files that appear whole or not at all: written aside, then renamed."""

import secrets
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

from patchad.errors import OutputError


def write_whole(path: Path, content: bytes | str | Callable[[Path], object]) -> None:
    """Write ``content`` to ``path``, or call it with a path beside to write to, then rename.

    Raises:
        OutputError: the disk is full, read-only or not ours; nothing is left behind.
    """
    aside: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unused = path.with_name(f".{secrets.token_hex(8)}{path.suffix}")
        unused.touch(exist_ok=False)  # with the mode of any new file, which a mkstemp has not
        aside = unused
        if callable(content):
            content(aside)
        else:
            aside.write_bytes(content.encode() if isinstance(content, str) else content)
        aside.replace(path)
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        reason = error.strerror or str(error)
        raise OutputError(
            f"{path} could not be written ({reason}): free space or choose another "
            "folder, then run again with --resume"
        ) from error
    finally:
        if aside is not None:
            aside.unlink(missing_ok=True)


@contextmanager
def locked(path: Path, busy: str) -> Iterator[None]:
    """Hold a lock on ``path``, a file made for it; the system lets go of it when we end, or die.

    Where the file system has no locks there is none.

    Raises:
        OutputError: another process holds it, which ``busy`` says, or it cannot be made.
    """
    try:
        file = path.open("a+b")
    except OSError as error:
        raise OutputError(f"{path} cannot be written ({error.strerror}): make it so") from None
    with file:
        try:
            if sys.platform == "win32":
                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            else:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise OutputError(busy) from None
        except OSError:
            pass  # this file system knows no locks
        yield


def claim_folder(folder: Path, marks: tuple[str, ...], *, resume: bool, overwrite: bool) -> None:
    """Make ``folder`` ready to be written into, or refuse.

    Args:
        folder: made if it is not there.
        marks: names that show a folder is one of ours; only such a folder is ever emptied.
        resume: what is there is kept.
        overwrite: what is there is deleted.

    Raises:
        OutputError: it is not empty and neither was asked for, or it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if resume or not any(folder.iterdir()):
            return
        if not overwrite:
            raise OutputError(
                f"{folder} is not empty: go on with --resume, replace it with --overwrite, or "
                "name another folder"
            )
        if not any((folder / mark).exists() for mark in marks):
            raise OutputError(
                f"{folder} holds none of {', '.join(marks)}, so it is not patchad's to overwrite: "
                "name another folder"
            )
        for path in folder.iterdir():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(f"{folder} cannot be used ({error.strerror}): name another") from error
