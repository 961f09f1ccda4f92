"""Caps on memory for a file: the size of every buffer is checked before it is allocated.

The unit is ``--max-pixels``: a file may have that many pixels, and take a fixed number of bytes for
each of them. What a codec allocates itself can't be known; the processes that read images are
limited by the system as well (:func:`bounded`).
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
_FILE_BYTES = 8  # of a file per pixel: 16-bit RGBA, or four frames of 16 bits
_FILE_SLACK = 2**26  # in addition: headers, private data
# Address space per pixel while a file is decoded: integers take up to 14 bytes, 64-bit floats 28.
# The slack is for libraries that are loaded meanwhile.
_READING_BYTES, _READING_SLACK = 32, 2**30


def check_size(rows: int, columns: int, max_pixels: int, *, pixel_bytes: int = 1) -> None:
    """Refuse an image that is too large, before memory is allocated for it.

    Args:
        rows: of the image.
        columns: of the image.
        max_pixels: the cap on rows × columns.
        pixel_bytes: bytes of a decoded pixel, all channels together; above 16, a pixel counts as
            pixel_bytes / 16 pixels.

    Raises:
        ImageError: it has more pixels than the cap, or none.
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
    """The largest size in bytes of a file that is read into memory."""
    return max_pixels * _FILE_BYTES + _FILE_SLACK


def check_file(path: Path, max_pixels: int) -> None:
    """Refuse a file that is larger than :func:`most_bytes`.

    Raises:
        ImageError: it is larger, or its size cannot be read.
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
    """A file's content, checked by :func:`check_file` first."""
    check_file(path, max_pixels)
    try:
        with path.open("rb") as file:  # it may have grown since
            return file.read(most_bytes(max_pixels) + 1)
    except OSError as error:
        raise ImageError(f"the file cannot be read: {error.strerror}") from None


class Metered(io.BufferedReader):
    """A file opened for reading, of which at most ``allowed`` bytes can be read in total.

    Bytes skipped by seeking don't count. A length beyond the end takes no memory. ``spent`` is true
    once more was requested: the reader may have turned the error into another one.

    Raises:
        ImageError: by ``read``, if more is requested.
        OSError: the file cannot be opened.
    """

    def __init__(self, path: Path, allowed: int) -> None:
        super().__init__(io.FileIO(path))
        self._size, self._left, self._allowed = path.stat().st_size, allowed, allowed
        self.spent = False

    def read(self, size: int | None = -1, /) -> bytes:
        """At most ``size`` bytes; the rest of the file without it."""
        rest = max(0, self._size - self.tell())
        wanted = rest if size is None or size < 0 else min(size, rest)
        if wanted > self._left:
            self.spent = True
            raise ImageError(self.reason)
        self._left -= wanted
        return super().read(wanted)

    @property
    def reason(self) -> str:
        """The error text if more is requested."""
        return (
            f"the file has more than {self._allowed:,} bytes besides the pixels, which is the most "
            "that is read: the file is damaged, or made to fill the memory"
        )


def damaged(kind: str, reason: str) -> NoReturn:
    """Raise the ImageError of an image of this kind that can't be decoded."""
    raise ImageError(
        f"the {kind} image is damaged ({' '.join(reason.split())}): fetch or export it again"
    ) from None


@contextmanager
def bounded(max_pixels: int) -> Iterator[None]:
    """Limit the address space of this process while a file is decoded, if the system can.

    A second defence after the checks: a codec that allocates more fails, and so does the file. For
    processes that do nothing else; the limit ends with the block. Only Linux enforces such a limit
    and reports the current use.

    Raises:
        ImageError: the block ran out of memory.
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
            f"{max_pixels} may take: the file is damaged, or made to fill the memory"
        ) from None


def _address_space() -> int | None:
    """Bytes of address space that this process uses; None if unknown."""
    try:
        pages = Path("/proc/self/statm").read_text("ascii").split()[0]
        return int(pages) * resource.getpagesize()
    except (OSError, NameError):
        return None
