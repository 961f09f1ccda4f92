"""Files that appear whole or not at all: written aside, then renamed."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from patchad.errors import OutputError


def write_whole(path: Path, content: bytes | str | Callable[[Path], object]) -> None:
    """Write ``content`` to ``path``, or call it with a path beside to write to, then rename.

    Raises:
        OutputError: the disk is full, read-only or not ours; nothing is left behind.
    """
    aside: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=path.suffix)
        os.close(handle)
        aside = Path(name)
        if callable(content):
            content(aside)
        else:
            aside.write_bytes(content.encode() if isinstance(content, str) else content)
        aside.chmod(0o666 & ~_umask())
        aside.replace(path)
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        reason = error.strerror or str(error)
        raise OutputError(f"{path} could not be written ({reason}): free space or choose another "
                          "folder, then run again with --resume") from error
    finally:
        if aside is not None:
            aside.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
