"""Portable graymaps (P2, P5)."""

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchad.errors import NotARadiographError
from patchad.read.caps import check_size, damaged
from patchad.read.grey import Reading, depth_of, divided

_HEADER = 2**16  # the most bytes, comments included
_TEXT = 12  # the most bytes per pixel in P2 on average: six digits, the rest white space
_GAP = rb"(?:\s|#[^\n]*\n)+"
_NUMBERS = re.compile(rb"P[25]" + _GAP + _GAP.join([rb"(\d{1,9})"] * 3))


def read_pgm(content: bytes, reading: Reading, max_pixels: int) -> NDArray[np.float32]:
    """Grey (H, W) float32 in [0, 1], scaled by the largest value that the header allows.

    If that is 65535, the depth is that of other 16-bit files, see
    :func:`patchad.read.grey.depth_of`.

    Raises:
        NotARadiographError: colour, 1 bit, several images.
        ImageError: it is damaged or too large.
    """
    kind = content[:2].decode()
    if kind not in ("P2", "P5"):
        raise NotARadiographError(
            f"a portable {'pixmap (colour)' if kind in 'P3 P6' else 'bitmap (1 bit)'}: patchad "
            "reads portable graymaps (P2, P5)"
        )
    header = _NUMBERS.match(content[:_HEADER])
    if header is None:
        damaged("PGM", "its header lacks the width, the height or the largest value")
    columns, rows, maxval = map(int, header.groups())
    check_size(rows, columns, max_pixels)
    if not 1 <= maxval <= 65535:
        damaged("PGM", f"its largest value is {maxval}, outside of 1 to 65535")
    if maxval == 1:
        raise NotARadiographError("a PGM of two grey levels is a mask, not a radiograph")
    read = _bytes if kind == "P5" else _text
    samples = read(content[header.end() :], rows * columns, maxval).reshape(rows, columns)
    highest = int(samples.max())
    if highest > maxval:
        damaged("PGM", f"a pixel has {highest}, above its largest value {maxval}")
    full = maxval if maxval < 65535 else 2 ** depth_of(highest, reading) - 1
    return divided(samples, full, reading)


def _bytes(rest: bytes, count: int, maxval: int) -> NDArray[Any]:
    dtype = np.dtype(">u2" if maxval > 255 else "u1")
    end = 1 + count * dtype.itemsize
    if rest[end : end + 256].lstrip()[:2] == b"P5":
        raise NotARadiographError("a PGM of several images: patchad reads single images")
    held = max(0, len(rest) - 1) // dtype.itemsize
    if held < count:
        damaged("PGM", f"it holds {held} of {count} pixels")
    return np.frombuffer(rest, dtype, count, offset=1)


def _text(rest: bytes, count: int, maxval: int) -> NDArray[Any]:
    if len(rest) > count * _TEXT + _HEADER:
        damaged("PGM", f"it holds more than {_TEXT} characters a pixel")
    if b"#" in rest:
        rest = re.sub(rb"#[^\n]*", b"", rest)
    characters = np.frombuffer(rest, np.uint8)
    digits = (characters >= 0x30) & (characters <= 0x39)
    if not (digits | np.isin(characters, list(b" \t\n\v\f\r"))).all():
        damaged("PGM", "it holds something other than numbers")
    edges = np.flatnonzero(np.diff(digits, prepend=False, append=False))
    starts, ends = edges[::2], edges[1::2]
    if len(starts) < count:
        damaged("PGM", f"it holds {len(starts)} of {count} pixels")
    if int((ends - starts).max()) > 9:
        damaged("PGM", f"it holds numbers above its largest value {maxval}")
    return np.fromstring(rest[: ends[count - 1]], np.int64, sep=" ")
