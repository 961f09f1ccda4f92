"""Radiographs in picture formats: PNG, JPEG, TIFF and PGM, at the depth they were stored with.

Also the digest of the pixels, for all formats.
"""

import hashlib
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from patchad.core.image import Radiograph, Source
from patchad.errors import ImageError, NotARadiographError
from patchad.read.caps import MAX_PIXELS, check_size, damaged, read_content
from patchad.read.codecs import decode_stream, jpeg_frame
from patchad.read.grey import Reading, scaled
from patchad.read.pgm import read_pgm
from patchad.read.quiet import quiet
from patchad.read.tiff import read_tiff

_MAGIC = {
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
    **{f"P{kind}".encode(): "PNM" for kind in "123456"},
}


def format_of(head: bytes) -> str:
    """The picture format of a file with these first bytes: PNG, JPEG, TIFF, PNM or ''."""
    for magic, name in _MAGIC.items():
        if head.startswith(magic) and (name != "PNM" or head[2:3] in b" \t\r\n#"):
            return name
    return ""


def read_raster(
    path: Path,
    spacing_mm: tuple[float, float] | None = None,
    *,
    bits: int | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Radiograph:
    """Read a grey PNG, JPEG, TIFF or PGM file.

    Integers are scaled by the full range of their depth (2^bits - 1; the maxval of a PGM). In
    files with 16 bits per sample the depth is ``bits``, else guessed by the highest value, with a
    caution; see :func:`patchad.read.grey.depth_of`. Float TIFF must lie in [0, 1] already. TIFF
    with MINISWHITE is inverted. Grey stored as RGB or RGBA is read as grey. Orientation tags are
    ignored (pixels stay as stored), and so are resolution tags, mostly those of a printer.

    Args:
        path: the file; its content, not its name, decides the format.
        spacing_mm: distance of pixel centres (row, col) in millimetres, None if unknown.
        bits: the depth of 16-bit files, 8 to 16; None to guess it.
        max_pixels: the cap on rows × columns, and so on memory.

    Raises:
        NotARadiographError: colour, palette, transparency, several pages, or 1 to 7 bits.
        ImageError: the file is damaged, too large, or its values have no known scale.
    """
    content = read_content(path, max_pixels)
    reading = Reading(bits)
    with quiet():
        match format_of(content[:8]):
            case "PNG":
                pixels = _png(content, reading, max_pixels)
            case "JPEG":
                pixels = _jpeg(content, reading, max_pixels)
            case "TIFF":
                pixels = read_tiff(content, reading, max_pixels)
            case "PNM":
                pixels = read_pgm(content, reading, max_pixels)
            case _:
                raise ImageError("the file is neither PNG, JPEG, TIFF nor PGM: convert it to one")
    reading.notes.append("spacing: given by the user" if spacing_mm else "spacing: unknown")
    source = Source(
        str(path),
        pixels_digest(pixels),
        reading=tuple(reading.notes),
        cautions=tuple(reading.cautions),
        guessed_bits=reading.guessed_bits,
    )
    return Radiograph(pixels, spacing_mm, source)


def pixels_digest(pixels: NDArray[np.float32]) -> str:
    """SHA-256 (hex) of the shape and the pixels (H, W) float32: identifies an image in results."""
    shape = "×".join(map(str, pixels.shape)).encode()
    digest = hashlib.sha256(shape)
    digest.update(np.ascontiguousarray(pixels, "<f4").data)
    return digest.hexdigest()


def _png(content: bytes, reading: Reading, max_pixels: int) -> NDArray[np.float32]:
    if len(content) < 33:
        damaged("PNG", "it ends within its header")
    columns, rows, bits, colour = struct.unpack_from(">IIBB", content, 16)
    check_size(rows, columns, max_pixels)
    if colour == 3:
        raise NotARadiographError("a PNG with a palette: patchad reads grey images of 8 or 16 bits")
    if b"acTL" in content[: content.find(b"IDAT")]:
        raise NotARadiographError("an animated PNG: patchad reads single images")
    return scaled(decode_stream("PNG", content, (rows, columns)), bits, reading)


def _jpeg(content: bytes, reading: Reading, max_pixels: int) -> NDArray[np.float32]:
    frame = jpeg_frame(content)
    check_size(frame.rows, frame.columns, max_pixels)
    if frame.channels not in (1, 3):
        raise NotARadiographError(f"a JPEG of {frame.channels} colours: patchad reads grey images")
    samples = decode_stream("JPEG", content, (frame.rows, frame.columns))
    return scaled(samples, frame.bits, reading)
