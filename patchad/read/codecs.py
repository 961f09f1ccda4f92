"""Compressed image streams: their kind, the size they declare, and their samples.

The header of a stream is parsed here as strictly as any decoder does, and its size compared with
the expected one before a decoder allocates memory for it.
"""

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import imagecodecs
from numpy.typing import NDArray

from patchad.errors import ImageError
from patchad.read.caps import MAX_CHANNELS, damaged

_CODECS: Mapping[str, Callable[[bytes], NDArray[Any]]] = {
    "PNG": imagecodecs.png_decode,
    "JPEG": imagecodecs.jpeg8_decode,
    "JPEG Lossless": imagecodecs.jpegsof3_decode,
    "JPEG-LS": imagecodecs.jpegls_decode,
    # also for HTJ2K: htj2k_decode returns an array despite its own errors, and may hang
    "JPEG 2000": imagecodecs.jpeg2k_decode,
}
_CODESTREAM = b"\xff\x4f\xff\x51"  # the start of a JPEG 2000 codestream
_MOST_TILES = 4096  # of JPEG 2000; a decoder takes about 10 kB for each before it reads one
_BARE_MARKERS = (0x00, 0x01, *range(0xD0, 0xDA))  # JPEG markers without a length


@dataclass(frozen=True)
class Frame:
    """The frame header of a JPEG or JPEG-LS stream; ``marker`` is its marker."""

    marker: int
    rows: int
    columns: int
    bits: int
    channels: int


def decode_stream(kind: str, stream: bytes, shape: tuple[int, int]) -> NDArray[Any]:
    """Decode a compressed image: (rows, columns[, samples]), integers of the stream's own depth.

    Args:
        kind: PNG, JPEG (8 or 12 bits), JPEG Lossless, JPEG-LS, or JPEG 2000 (also HTJ2K).
        stream: the compressed image; bytes after its end are ignored.
        shape: the (rows, columns) it must have.

    Raises:
        ImageError: the stream is damaged, cut off, or of another shape.
    """
    if kind == "JPEG 2000":
        # Some writers put a JP2 header before it, which a decoder would trust.
        stream = stream[max(0, stream[:512].find(_CODESTREAM)) :]
        found, samples, tiles = _codestream_size(stream)
    elif kind == "PNG":
        found, samples, tiles = shape, 1, 1
    else:
        frame = jpeg_frame(stream)
        found, samples, tiles = (frame.rows, frame.columns), frame.channels, 1
    if found != shape:  # checked before memory is allocated
        damaged(kind, f"it has {found[0]} × {found[1]} pixels, not {shape[0]} × {shape[1]}")
    if samples > MAX_CHANNELS:
        damaged(kind, f"it claims {samples} colours")
    if tiles > _MOST_TILES:
        damaged(kind, f"it claims {tiles} tiles, more than {_MOST_TILES}")
    if kind != "PNG" and b"\xff\xd9" not in stream[-4096:]:
        damaged(kind, "its end is missing")  # libjpeg would fill up with grey
    try:
        return _CODECS[kind](stream)
    except MemoryError:
        raise
    except Exception as error:  # each codec has its own exception class, and raises builtins too
        damaged(kind, str(error))


def stream_kind(stream: bytes) -> str:
    """The kind of a compressed image by its first bytes: one of :func:`decode_stream`, or RLE.

    Empty if unknown. An RLE stream is recognised by its header alone: up to 15 segments, the first
    right after the header, each later than the one before.
    """
    if _CODESTREAM in stream[:512] and stream[:1] in (b"\xff", b"\0"):
        return "JPEG 2000"
    if stream[:2] == b"\xff\xd8":
        try:
            marker = jpeg_frame(stream).marker
        except ImageError:
            return ""
        return {0xC3: "JPEG Lossless", 0xF7: "JPEG-LS"}.get(marker, "JPEG")
    if len(stream) > 64:
        count, *offsets = struct.unpack_from("<16I", stream)
        used, rest = offsets[:count], offsets[count:]
        if 1 <= count <= 15 and used[0] == 64 and used == sorted(set(used)) and not any(rest):
            return "RLE"
    return ""


def jpeg_frame(stream: bytes) -> Frame:
    """The one frame header of a JPEG or JPEG-LS stream, before its first scan.

    Raises:
        ImageError: there is none, there are two (decoders may use either), or the markers before
            the scan can't be parsed.
    """
    at, found = 2, list[Frame]()
    while at + 4 <= len(stream):
        if stream[at] != 0xFF or stream[at + 1] in _BARE_MARKERS:
            damaged("JPEG", "its header cannot be read")
        marker, length = stream[at + 1], int.from_bytes(stream[at + 2 : at + 4], "big")
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        if marker == 0xDA:  # a scan
            break
        frame = (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)) or marker == 0xF7
        if frame and at + 10 <= len(stream):
            bits, rows, columns, channels = struct.unpack_from(">BHHB", stream, at + 4)
            found.append(Frame(marker, rows, columns, bits, channels))
        at += 2 + length
    if len(found) != 1:
        damaged("JPEG", f"it has {len(found)} frame headers" if found else "its header is missing")
    return found[0]


def _codestream_size(stream: bytes) -> tuple[tuple[int, int], int, int]:
    """(rows, columns), components and tiles that a JPEG 2000 codestream declares."""
    if not stream.startswith(_CODESTREAM) or len(stream) < 42:
        damaged("JPEG 2000", "its header is missing")
    right, bottom, left, top, width, height, tiles_left, tiles_top, components = struct.unpack_from(
        ">8IH", stream, 8
    )
    if not (width and height and tiles_left < right and tiles_top < bottom):
        damaged("JPEG 2000", "its tiles have no size")
    tiles = -(-(right - tiles_left) // width) * -(-(bottom - tiles_top) // height)
    return (bottom - top, right - left), components, tiles
