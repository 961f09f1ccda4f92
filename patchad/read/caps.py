"""What a file may cost: every buffer that is made for it is bounded before it is made.

The unit is ``--max-pixels``: a file may have so many pixels, and take a fixed number of bytes for
each of them. What a codec takes within itself can't be foreseen; the processes that read images
are bounded by the system as well (:func:`bounded`).
"""

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from patchad.errors import ImageError

if sys.platform != "win32":
    import resource

MAX_PIXELS = 100_000_000  # rows × columns; four times a large mammogram, 0.4 GB once read
MAX_CHANNELS = 4  # grey stored as RGBA

_PIXEL_BYTES = 16  # of a decoded pixel, all channels: float32 RGBA
_FILE_BYTES = 8  # of a file a pixel: 16-bit RGBA as it is, or four frames of 16 bits
_FILE_SLACK = 2**26  # beside them: headers, private data
# Address space a pixel while a file is decoded: integers take up to 14 bytes, 64-bit floats 28. The
# slack is for libraries that are loaded on the way.
_READING_BYTES, _READING_SLACK = 32, 2**30


def check_size(rows: int, columns: int, max_pixels: int, *, pixel_bytes: int = 1) -> None:
    """Refuse an image before memory is taken for it.

    Args:
        rows: of the image.
        columns: likewise.
        max_pixels: the cap on rows × columns.
        pixel_bytes: what a decoded pixel takes, all channels together; more than 16 count for
            more pixels.
    """
    if rows < 1 or columns < 1:
        raise ImageError(f"the image has no pixels: its header says {rows} × {columns}")
    if rows * columns * max(1, pixel_bytes / _PIXEL_BYTES) > max_pixels:
        of_bytes = f" of {pixel_bytes} bytes" if pixel_bytes > _PIXEL_BYTES else ""
        raise ImageError(
            f"the image has {rows} × {columns} pixels{of_bytes}, more than the {max_pixels:,} that "
            "are read (a damaged header, or not a radiograph): if it is sound, raise --max-pixels"
        )


def most_bytes(max_pixels: int) -> int:
    """How large a file may be that is read into memory."""
    return max_pixels * _FILE_BYTES + _FILE_SLACK


def check_file(path: Path, max_pixels: int) -> None:
    """Refuse a file that is larger than :func:`most_bytes`.

    Raises:
        ImageError: so, or it cannot be looked at.
    """
    try:
        size = path.stat().st_size
    except OSError as error:
        raise ImageError(f"the file cannot be read: {error.strerror}") from None
    if size > most_bytes(max_pixels):
        raise ImageError(
            f"the file has {size:,} bytes, more than the {most_bytes(max_pixels):,} that are read "
            f"with --max-pixels {max_pixels}: raise it if the file is sound"
        )


def read_content(path: Path, max_pixels: int) -> bytes:
    """A file's content, if :func:`check_file` lets it through."""
    check_file(path, max_pixels)
    try:
        with path.open("rb") as file:  # it may grow meanwhile
            return file.read(most_bytes(max_pixels) + 1)
    except OSError as error:
        raise ImageError(f"the file cannot be read: {error.strerror}") from None


class Metered(io.BufferedReader):
    """A file opened to read, of which no more than ``allowed`` bytes can be read altogether.

    What is skipped by seeking is free. A length beyond the end takes no memory. ``spent`` tells
    that it was asked for more: who reads may have made another error of it.

    Raises:
        ImageError: by ``read``, where more is asked for.
        OSError: the file cannot be opened.
    """

    def __init__(self, path: Path, allowed: int) -> None:
        super().__init__(io.FileIO(path))
        self._size, self._left, self._allowed = path.stat().st_size, allowed, allowed
        self.spent = False

    def read(self, size: int | None = -1, /) -> bytes:
        """At most ``size`` bytes, all that is left of the file without it."""
        rest = max(0, self._size - self.tell())
        wanted = rest if size is None or size < 0 else min(size, rest)
        if wanted > self._left:
            self.spent = True
            raise ImageError(self.reason)
        self._left -= wanted
        return super().read(wanted)

    @property
    def reason(self) -> str:
        """What is said where more is asked for."""
        return (
            f"what stands beside the pixels has more than the {self._allowed:,} bytes that are "
            "read: the file is damaged, or made to fill the memory"
        )


def damaged(kind: str, reason: str) -> NoReturn:
    """Say that an image of this kind can't be decoded."""
    raise ImageError(
        f"the {kind} image is damaged ({' '.join(reason.split())}): fetch or export it again"
    ) from None


@contextmanager
def bounded(max_pixels: int) -> Iterator[None]:
    """Bound the address space of this process while a file is decoded, where the system can.

    A second line behind the checks: a codec that takes more fails, and with it the file. For
    processes that do nothing else; the limit ends with the block. Linux alone keeps such a limit
    and tells what is taken already.

    Raises:
        ImageError: what was done in the block ran out of memory.
    """
    taken = _address_space()
    try:
        if taken is None:
            yield
            return
        before, most = resource.getrlimit(resource.RLIMIT_AS)
        wanted = taken + max_pixels * _READING_BYTES + _READING_SLACK
        limits = [wanted, *(n for n in (before, most) if n != resource.RLIM_INFINITY)]
        resource.setrlimit(resource.RLIMIT_AS, (min(limits), most))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (before, most))
    except MemoryError:
        raise ImageError(
            "decoding it takes more memory than there is, or than an image of --max-pixels "
            f"{max_pixels} may need: the file is damaged, or made to fill the memory"
        ) from None


def _address_space() -> int | None:
    """Bytes of address space that this process has taken; None where the system doesn't say."""
    try:
        pages = Path("/proc/self/statm").read_text("ascii").split()[0]
        return int(pages) * resource.getpagesize()
    except (OSError, NameError):
        return None
