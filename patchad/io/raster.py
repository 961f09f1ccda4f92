"""Radiographs in picture formats: PNG, JPEG, TIFF and PGM, at the depth they were stored with.

And what these share with DICOM: compressed streams, the cap on size, the digest of the pixels.
"""

import hashlib
import re
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray

from patchad.errors import ImageError, NotARadiographError
from patchad.image import Radiograph, Source
from patchad.io.quiet import quiet

MAX_PIXELS = 100_000_000  # rows × columns; four times a large mammogram, 0.4 GB once read

_MAGIC = {
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
    **{f"P{kind}".encode(): "PNM" for kind in "123456"},
}

_CODECS: Mapping[str, Callable[[bytes], NDArray[Any]]] = {
    "PNG": imagecodecs.png_decode,
    "JPEG": imagecodecs.jpeg8_decode,
    "JPEG Lossless": imagecodecs.jpegsof3_decode,
    "JPEG-LS": imagecodecs.jpegls_decode,
    # HTJ2K as well: htj2k_decode returns an array in spite of its own errors, and may hang
    "JPEG 2000": imagecodecs.jpeg2k_decode,
}


def format_of(head: bytes) -> str:
    """The picture format that a file with these first bytes is in: PNG, JPEG, TIFF, PNM or ''."""
    for magic, name in _MAGIC.items():
        if head.startswith(magic) and (name != "PNM" or head[2:3] in b" \t\r\n#"):
            return name
    return ""


def read_raster(
    path: Path,
    spacing_mm: tuple[float, float] | None = None,
    *,
    max_pixels: int = MAX_PIXELS,
) -> Radiograph:
    """Read a grey PNG, JPEG, TIFF or PGM file.

    Integers are scaled by the full range of the format (2^bits - 1; the maxval of a PGM), whatever
    the image itself reaches, so that two images of a kind stay comparable; where the upper bits
    are unused, ``Source.reading`` says so. Float TIFF must lie in [0, 1] already. TIFF with
    MINISWHITE is turned over. Grey that was stored as RGB or RGBA is taken as the grey it is.
    Orientation tags are ignored (pixels are taken as stored), and so are resolution tags, which
    mostly tell of a printer.

    Args:
        path: the file; its content, not its name, says which format it is.
        spacing_mm: distance of pixel centres (row, col) in millimetres, where it is known.
        max_pixels: the cap on rows × columns.

    Raises:
        NotARadiographError: colour, palette, transparency, several pages, or 1 to 7 bits.
        ImageError: the file is damaged, too large, or its values have no known scale.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ImageError(f"the file cannot be read: {error.strerror}") from None
    notes: list[str] = []
    match format_of(content[:8]):
        case "PNG":
            pixels = _png(content, notes, max_pixels)
        case "JPEG":
            pixels = _jpeg(content, notes, max_pixels)
        case "TIFF":
            pixels = _tiff(path, notes, max_pixels)
        case "PNM":
            pixels = _pnm(content, notes, max_pixels)
        case _:
            raise ImageError("the file is neither PNG, JPEG, TIFF nor PGM: convert it to one")
    notes.append("spacing: given by the user" if spacing_mm else "spacing: unknown")
    source = Source(str(path), pixels_digest(pixels), reading=tuple(notes))
    return Radiograph(pixels, spacing_mm, source)


def pixels_digest(pixels: NDArray[np.float32]) -> str:
    """SHA-256 (hex) of the shape and the pixels (H, W) float32: what names an image in results."""
    shape = "×".join(map(str, pixels.shape)).encode()
    return hashlib.sha256(shape + pixels.astype("<f4", copy=False).tobytes()).hexdigest()


def check_size(rows: int, columns: int, max_pixels: int) -> None:
    """Refuse an image of more than ``max_pixels`` before memory is taken for it."""
    if rows < 1 or columns < 1:
        raise ImageError(f"the image has no pixels: its header says {rows} × {columns}")
    if rows * columns > max_pixels:
        raise ImageError(
            f"the image has {rows} × {columns} pixels, more than the {max_pixels:,} that are read "
            "(a damaged header, or not a radiograph): if it is sound, raise --max-pixels"
        )


def decode_stream(kind: str, stream: bytes, shape: tuple[int, int]) -> NDArray[Any]:
    """Decode a compressed image: (rows, columns[, samples]), integers of the stream's own depth.

    Args:
        kind: PNG, JPEG (8 or 12 bits), JPEG Lossless, JPEG-LS, or JPEG 2000 (HTJ2K as well).
        stream: the compressed image; bytes after its end are let through.
        shape: the (rows, columns) it must have.

    Raises:
        ImageError: the stream is damaged, cut off, or of another shape.
    """
    if kind == "JPEG 2000":
        start = stream[:512].find(b"\xff\x4f\xff\x51")  # some writers put a JP2 header before it
        if start < 0 or len(stream) < start + 24:
            _damaged(kind, "its header is missing")
        right, bottom, left, top = struct.unpack_from(">4I", stream, start + 8)
        found = bottom - top, right - left
        samples = int.from_bytes(stream[start + 40 : start + 42], "big")
    elif kind == "PNG":
        found, samples = shape, 1
    else:
        found, samples = _jpeg_frame(stream)[:2], _jpeg_frame(stream)[3]
    if found != shape:  # seen before memory is taken for it
        _damaged(kind, f"it has {found[0]} × {found[1]} pixels, not {shape[0]} × {shape[1]}")
    if samples > 4:
        _damaged(kind, f"it claims {samples} colours")
    if kind != "PNG" and b"\xff\xd9" not in stream[-4096:]:
        _damaged(kind, "its end is missing")  # libjpeg would fill up with grey
    try:
        return _CODECS[kind](stream)
    except Exception as error:  # codecs have an exception class each, and raise builtins as well
        _damaged(kind, str(error))


def stream_kind(stream: bytes) -> str:
    """What a compressed image is by its own marks, as :func:`decode_stream` calls it, or RLE.

    Empty where it begins like none of them. An RLE stream is told by its header alone: up to 15
    segments, the first right after the header, each later than the one before.
    """
    if b"\xff\x4f\xff\x51" in stream[:512] and stream[:1] in (b"\xff", b"\0"):
        return "JPEG 2000"
    if stream[:2] == b"\xff\xd8":
        try:
            marker = _jpeg_header(stream)[0]
        except ImageError:
            return ""
        return {0xC3: "JPEG Lossless", 0xF7: "JPEG-LS"}.get(marker, "JPEG")
    if len(stream) > 64:
        count, *offsets = struct.unpack_from("<16I", stream)
        used, rest = offsets[:count], offsets[count:]
        if 1 <= count <= 15 and used[0] == 64 and used == sorted(set(used)) and not any(rest):
            return "RLE"
    return ""


def _jpeg_frame(content: bytes) -> tuple[int, int, int, int]:
    """Rows, columns, bits and components that a JPEG or JPEG-LS stream declares."""
    return _jpeg_header(content)[1:]


def _jpeg_header(content: bytes) -> tuple[int, int, int, int, int]:
    """The marker of the frame, and its rows, columns, bits and components."""
    at, marker, fields = 2, 0, None
    while fields is None and at + 10 <= len(content) and content[at] == 0xFF:
        marker, length = content[at + 1], int.from_bytes(content[at + 2 : at + 4], "big")
        if marker == 0xFF:  # a fill byte
            at += 1
        elif (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)) or marker == 0xF7:
            fields = struct.unpack_from(">BHHB", content, at + 4)
        else:
            at += 2 + length
    if fields is None:
        _damaged("JPEG", "its frame header is missing")
    bits, rows, columns, components = fields
    return marker, rows, columns, bits, components


def _png(content: bytes, notes: list[str], max_pixels: int) -> NDArray[np.float32]:
    if len(content) < 33:
        _damaged("PNG", "it ends within its header")
    columns, rows, bits, colour = struct.unpack_from(">IIBB", content, 16)
    check_size(rows, columns, max_pixels)
    if colour == 3:
        raise NotARadiographError("a PNG with a palette: patchad reads grey images of 8 or 16 bits")
    if b"acTL" in content[: content.find(b"IDAT")]:
        raise NotARadiographError("an animated PNG: patchad reads single images")
    return _scaled(decode_stream("PNG", content, (rows, columns)), bits, notes)


def _jpeg(content: bytes, notes: list[str], max_pixels: int) -> NDArray[np.float32]:
    rows, columns, bits, components = _jpeg_frame(content)
    check_size(rows, columns, max_pixels)
    if components not in (1, 3):
        raise NotARadiographError(f"a JPEG of {components} colours: patchad reads grey images")
    return _scaled(decode_stream("JPEG", content, (rows, columns)), bits, notes)


def _tiff(path: Path, notes: list[str], max_pixels: int) -> NDArray[np.float32]:
    try:
        with quiet(), tifffile.TiffFile(path) as file:
            pages = [page.aspage() for page in file.pages]
            pages = [page for page in pages if not page.is_reduced] or pages[:1]
            if len(pages) != 1:
                raise NotARadiographError(
                    f"a TIFF of {len(pages)} pages: patchad reads single images; save each page "
                    "as a file"
                )
            page = pages[0]
            check_size(page.imagelength, page.imagewidth, max_pixels)
            if page.photometric not in (0, 1, 2) or page.axes not in ("YX", "YXS", "SYX"):
                kind = getattr(page.photometric, "name", page.photometric)
                raise NotARadiographError(
                    f"a TIFF with photometric interpretation {kind} and axes {page.axes}: patchad "
                    "reads single grey images"
                )
            bits, white_is_zero = int(page.bitspersample), page.photometric == 0
            samples = page.asarray()
            samples = np.moveaxis(samples, 0, -1) if page.axes == "SYX" else samples
            if samples.shape[:2] != (page.imagelength, page.imagewidth):
                raise ValueError(f"pixels of shape {samples.shape}")
    except ImageError:
        raise
    except Exception as error:  # tifffile and its codecs raise whatever a damaged file trips up
        _damaged("TIFF", str(error))
    if samples.dtype.kind == "f":
        pixels = _unscaled(samples, notes)
    else:
        pixels = _scaled(samples, bits, notes)
    if white_is_zero:
        notes.append("MINISWHITE: turned over")
        np.subtract(1, pixels, out=pixels)
    return pixels


def _pnm(content: bytes, notes: list[str], max_pixels: int) -> NDArray[np.float32]:
    kind = content[:2].decode()
    if kind not in ("P2", "P5"):
        raise NotARadiographError(
            f"a portable {'pixmap (colour)' if kind in 'P3 P6' else 'bitmap (1 bit)'}: patchad "
            "reads portable graymaps (P2, P5)"
        )
    gap = rb"(?:\s|#[^\n]*\n)+"
    header = re.match(rb"P[25]" + gap + gap.join([rb"(\d{1,9})"] * 3), content)
    if header is None:
        _damaged("PGM", "its header lacks the width, the height or the largest value")
    columns, rows, maxval = map(int, header.groups())
    check_size(rows, columns, max_pixels)
    if not 1 <= maxval <= 65535:
        _damaged("PGM", f"its largest value is {maxval}, outside of 1 to 65535")
    if maxval == 1:
        raise NotARadiographError("a PGM of two grey levels is a mask, not a radiograph")
    count, rest = rows * columns, content[header.end() :]
    if kind == "P5":
        dtype = np.dtype(">u2" if maxval > 255 else "u1")
        data, left = rest[1 : 1 + count * dtype.itemsize], rest[1 + count * dtype.itemsize :]
        if left.lstrip()[:2] == b"P5":
            raise NotARadiographError("a PGM of several images: patchad reads single images")
        values = np.frombuffer(data[: len(data) // dtype.itemsize * dtype.itemsize], dtype)
    else:
        words = re.sub(rb"#[^\n]*", b"", rest).split()
        if not all(word.isdigit() and len(word) < 7 for word in words):
            _damaged("PGM", "it holds something else than numbers")
        values = np.array(words, dtype="S6").astype(np.int64)
    if len(values) < count:
        _damaged("PGM", f"it holds {len(values)} of {count} pixels")
    samples = values[:count].reshape(rows, columns)
    if int(samples.max()) > maxval:
        _damaged("PGM", f"a pixel has {int(samples.max())}, above its largest value {maxval}")
    return _divided(samples, maxval, notes)


def _scaled(samples: NDArray[Any], bits: int, notes: list[str]) -> NDArray[np.float32]:
    """Integers (H, W) or (H, W, S) of a known depth as grey (H, W) float32 in [0, 1]."""
    if bits < 8:
        raise NotARadiographError(
            f"an image of {bits} bit{'s' * (bits > 1)} a pixel: patchad reads 8 to 16 bits"
        )
    if samples.dtype.kind != "u" or bits > 16:
        raise ImageError(
            f"the scale of {samples.dtype} pixels is unknown: save as unsigned 8- or 16-bit "
            "integers, or as float in [0, 1]"
        )
    return _divided(_grey(samples, 2**bits - 1, notes), 2**bits - 1, notes)


def _divided(samples: NDArray[Any], full: int, notes: list[str]) -> NDArray[np.float32]:
    highest = int(samples.max())
    notes.append(f"scale: 0 to {full} became 0 to 1")
    if highest.bit_length() < full.bit_length():
        notes.append(
            f"the largest value, {highest}, leaves the top "
            f"{full.bit_length() - highest.bit_length()} of {full.bit_length()} bits unused"
        )
    return (samples / np.float64(full)).astype(np.float32)


def _unscaled(samples: NDArray[Any], notes: list[str]) -> NDArray[np.float32]:
    """Floats in [0, 1] as they are."""
    if not np.isfinite(samples).all():
        raise ImageError("the image holds NaN or infinite pixels: replace them, then save it again")
    low, high = float(samples.min()), float(samples.max())
    if low < 0 or high > 1:
        raise ImageError(
            f"float pixels must lie in [0, 1], these lie in [{low:g}, {high:g}]: divide them by "
            "the full scale of the detector (one number for all images), then save them again"
        )
    notes.append("scale: float, taken as it is")
    return _grey(samples, 1, notes).astype(np.float32)


def _grey(samples: NDArray[Any], opaque: int, notes: list[str]) -> NDArray[Any]:
    """The grey (H, W) of samples (H, W), or (H, W, S) with equal colours and opaque alpha."""
    if samples.ndim == 2:
        return samples
    if not 1 <= samples.shape[2] <= 4:
        raise NotARadiographError(
            f"an image of {samples.shape[2]} channels: patchad reads grey images"
        )
    colours = samples
    if samples.shape[2] in (2, 4):
        colours = samples[..., :-1]
        if (samples[..., -1] != opaque).any():
            raise NotARadiographError("an image with transparent pixels: save it without alpha")
    if (colours != colours[..., :1]).any():
        raise NotARadiographError("a colour image: patchad reads grey images")
    notes.append(f"grey, stored in {samples.shape[2]} channels")
    grey: NDArray[Any] = colours[..., 0]
    return grey


def _damaged(kind: str, reason: str) -> NoReturn:
    raise ImageError(
        f"the {kind} image is damaged ({' '.join(reason.split())}): fetch or export it again"
    ) from None
