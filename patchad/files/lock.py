"""One writer at a time: the lock of a folder, which ends with the process that holds it."""

import json
import logging
import os
import platform
import re
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

from patchad.errors import OutputError
from patchad.files.whole import shown

log = logging.getLogger(__name__)

LOCK = ".patchad.lock"
_FLAGS = (
    os.O_RDWR
    | os.O_CREAT
    | getattr(os, "O_NOFOLLOW", 0)  # a link could lead to a file that isn't ours
    | getattr(os, "O_NONBLOCK", 0)  # a pipe of that name would wait for its other end
    | getattr(os, "O_CLOEXEC", 0)
)
_FAR = 2**30  # Windows locks byte ranges; nothing is stored here


@contextmanager
def locked(folder: Path, command: str) -> Iterator[None]:
    """Hold the lock of an existing folder, or fail at once.

    The system releases it when the process ends, in whatever way. It belongs to the opened
    file: threads of one process exclude each other too, and a copy of the folder is not locked.
    The file names the holder, only for the message; it stays, empty, when the lock is released.

    Args:
        folder: the folder to write into.
        command: the name of the command, for the error that others get.

    Raises:
        OutputError: another process holds it, or the folder cannot be written.
    """
    path = folder / LOCK
    try:
        file = _open_locked(path)
    except BlockingIOError:
        raise OutputError(
            f"{shown(folder)} is in use{_holder(path)}: wait until that has ended, then run this "
            "command again, or name another folder"
        ) from None
    except OSError as error:
        raise OutputError(
            f"{shown(path)} cannot be opened for writing ({error.strerror or error}): make the "
            "folder writable, or name another"
        ) from None
    try:
        with suppress(OSError):  # a full disk: the lock holds, but its holder isn't named
            os.ftruncate(file, 0)
            holder = {
                "pid": os.getpid(),
                "host": platform.node(),
                "command": command,
                "since": datetime.now(UTC).isoformat(timespec="seconds"),
            }
            os.write(file, json.dumps(holder).encode())
        yield
    finally:
        with suppress(OSError):
            os.ftruncate(file, 0)
        os.close(file)


def _open_locked(path: Path) -> int:
    """The lock's file, opened and locked.

    Raises:
        BlockingIOError: another process holds the lock.
        OSError: the file cannot be made or opened.
    """
    while True:
        file = os.open(path, _FLAGS, 0o666)
        try:
            own = os.fstat(file)
            if not stat.S_ISREG(own.st_mode):
                raise OSError("it is not a file")
            _lock(file, path)
            with suppress(FileNotFoundError):
                if os.path.samestat(own, path.lstat()):
                    return file
            # The previous holder deleted the file: make a new one.
        except BaseException:
            os.close(file)
            raise
        os.close(file)


def _lock(file: int, path: Path) -> None:
    try:
        if sys.platform == "win32":
            os.lseek(file, _FAR, os.SEEK_SET)
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
            os.lseek(file, 0, os.SEEK_SET)
        else:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        raise BlockingIOError from error
    except OSError:
        log.warning(
            "the file system of %s has no locks: make sure that no other patchad writes into it",
            shown(path.parent),
        )


def _holder(path: Path) -> str:
    """The holder of a lock, from its file; empty if that can't be read."""
    try:
        holder = json.loads(path.read_text("utf-8"))
        pid, host, command, since = (holder[n] for n in ("pid", "host", "command", "since"))
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    texts = host, command, since
    if type(pid) is not int or not all(re.fullmatch(r"[\w.:+-]{1,64}", str(t)) for t in texts):
        return ""
    return f" by `patchad {command}` (process {pid} on {host}, since {since})"
