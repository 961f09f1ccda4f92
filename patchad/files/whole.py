"""Files that appear whole or not at all: written under a temporary name, then renamed."""

import re
import secrets
from collections.abc import Callable
from pathlib import Path

from patchad.errors import OutputError

# The name of a file until it is complete; a killed command leaves it behind.
TEMPORARY = re.compile(r"\.patchad-[0-9a-f]{16}(\.[A-Za-z0-9]+)?")


def write_whole(path: Path, content: bytes | str | Callable[[Path], object]) -> None:
    """Write ``content`` to ``path``, or call it with a temporary path to write to, then rename.

    Raises:
        OutputError: the disk is full, read-only or not writable; nothing is left behind.
    """
    aside: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unused = path.with_name(f".patchad-{secrets.token_hex(8)}{path.suffix}")
        unused.touch(exist_ok=False)  # with the mode of any new file, unlike mkstemp
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
            f"{shown(path)} could not be written ({reason}): free space or choose another "
            "folder, then run again with --resume"
        ) from error
    finally:
        if aside is not None:
            aside.unlink(missing_ok=True)


def shown(path: str | Path) -> str:
    """A path for a message: one line, and escapes for bytes that are not UTF-8 or not printable."""
    text = str(path).encode("utf-8", "backslashreplace").decode()
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
