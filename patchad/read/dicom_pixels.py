"""The pixels of a DICOM file: from stored bytes to stored values."""

import math
import struct
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, uid
from pydicom.encaps import generate_fragments, generate_frames, parse_basic_offsets
from pydicom.pixels.decoders.base import get_decoder

from patchad.errors import ImageError, NotARadiographError
from patchad.read.caps import check_size
from patchad.read.codecs import decode_stream, stream_kind
from patchad.read.dicom_header import (
    TAGS,
    name_of,
    number_of,
    parse,
    required,
    text_of,
    uid_name,
    value_of,
)

# fmt: off
# The encoding of a frame by transfer syntax: native, or one of decode_stream's codecs.
_KINDS = {
    uid.ImplicitVRLittleEndian: "native", uid.ExplicitVRLittleEndian: "native",
    uid.ExplicitVRBigEndian: "native", uid.DeflatedExplicitVRLittleEndian: "native",
    uid.RLELossless: "RLE",
    uid.JPEGBaseline8Bit: "JPEG", uid.JPEGExtended12Bit: "JPEG",
    uid.JPEGLossless: "JPEG Lossless", uid.JPEGLosslessSV1: "JPEG Lossless",
    uid.JPEGLSLossless: "JPEG-LS", uid.JPEGLSNearLossless: "JPEG-LS",
    uid.JPEG2000Lossless: "JPEG 2000", uid.JPEG2000: "JPEG 2000",
    uid.HTJ2KLossless: "JPEG 2000", uid.HTJ2KLosslessRPCL: "JPEG 2000", uid.HTJ2K: "JPEG 2000",
}
# fmt: on
_ITEM = b"\xfe\xff\x00\xe0"  # the start of encapsulated pixels
_RLE_GAIN = 64  # RLE expands two bytes to at most 128


def stored_range(header: Dataset, max_pixels: int) -> tuple[int, int]:
    """The lowest and highest value that the stored bits allow.

    Raises:
        NotARadiographError: 1 bit.
        ImageError: the size or the bits are missing or impossible; too many pixels.
    """
    check_size(required(header, "Rows"), required(header, "Columns"), max_pixels)
    bits, allocated = required(header, "BitsStored"), required(header, "BitsAllocated")
    if bits == 1:
        raise NotARadiographError("an image of 1 bit a pixel is a mask, not a radiograph")
    if allocated not in (8, 16, 32) or not 2 <= bits <= min(allocated, 16):
        raise ImageError(
            f"{bits} bits stored in {allocated}, not 2 to 16 in 8, 16 or 32: export it as 16 bits"
        )
    top = number_of(header, "HighBit", bits - 1)
    if math.isnan(top):
        raise ImageError(f"{name_of('HighBit')} is damaged: fetch or export the file again")
    if top != bits - 1:
        raise ImageError(
            f"{name_of('HighBit')} is {top:g}, must be {bits - 1} for {bits} bits: export it again"
        )
    if required(header, "PixelRepresentation") == 1:
        return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    return 0, 2**bits - 1


def decode(
    path: Path, header: Dataset, notes: list[str], *, frames: int, frame: int, max_pixels: int
) -> NDArray[np.int32]:
    """The stored values (rows, columns) int32 of one frame, within the stored bits.

    A frame compressed in another way than the file declares is recognised by its first bytes,
    decoded accordingly, and noted in ``notes``.

    Args:
        path: the file.
        header: its elements, as checked by :func:`stored_range`.
        notes: what was noticed is appended.
        frames: the number of frames that the file declares.
        frame: the one to decode, the first is 1.
        max_pixels: the cap on the size that a deflated file may inflate to.
    """
    tags = [*TAGS, "FloatPixelData", "DoubleFloatPixelData", "PixelData"]
    image = parse(path, tags, stop=False, max_pixels=max_pixels)
    data = value_of(image, "PixelData")
    if not isinstance(data, bytes) or not data:
        floats = "FloatPixelData" in image or "DoubleFloatPixelData" in image
        raise ImageError(
            f"{name_of('PixelData')} is missing: the file "
            + ("stores floats, export it with integers" if floats else "is cut off, fetch it again")
        )
    syntax = _syntax(image, header)
    declared = _KINDS.get(syntax)
    if declared is None:
        raise ImageError(
            f"the transfer syntax {uid_name(syntax)} is not decoded here: convert the file to "
            "Explicit VR Little Endian, or to a JPEG, JPEG-LS, JPEG 2000 or RLE syntax"
        )
    kind, stream = declared, b""
    try:
        if not _encapsulated(image, data, declared):
            kind = "native"
        else:
            stream = _frame(data, frames, frame)
            kind = stream_kind(stream) or declared
            if kind == "native":
                raise ImageError("it is compressed in an unknown way: convert it")
        if kind != declared:
            notes.append(f"pixels: {kind}, though the file declares {syntax.name}")
        if kind == "native":
            return _native(image, data, syntax, notes, frames=frames, frame=frame)
        if kind == "RLE":
            return _rle(image, stream)
        return _compressed(image, stream, kind)
    except ImageError as error:
        reason = str(error)
    except Exception:  # pydicom raises many builtins; they may quote what was read
        reason = f"the {kind} pixels are damaged or cut off: fetch the file again"
    raise ImageError(
        f"{name_of('PixelData')} cannot be decoded as {syntax.name} ({' '.join(reason.split())})"
    )


def _syntax(image: Dataset, header: Dataset) -> uid.UID:
    """The transfer syntax, or pydicom's finding if the file doesn't declare one."""
    syntax = uid.UID(text_of(image.file_meta, "TransferSyntaxUID"))
    implicit, little = header.original_encoding
    explicit = uid.ExplicitVRLittleEndian if little else uid.ExplicitVRBigEndian
    return syntax or (uid.ImplicitVRLittleEndian if implicit else explicit)


def _encapsulated(image: Dataset, data: bytes, declared: str) -> bool:
    if declared == "native":
        return bool(image["PixelData"].is_undefined_length) and data.startswith(_ITEM)
    if data.startswith(_ITEM):
        return True
    if len(data) in (_size(image), _size(image) + 1):
        return False  # not compressed, whatever the file declares
    raise ImageError("it holds no item, as compressed pixels must: fetch the file again")


def _frame(data: bytes, frames: int, frame: int) -> bytes:
    """The compressed stream of one frame."""
    try:
        offsets = len(parse_basic_offsets(data))
        _, *parts = generate_fragments(data)  # the first is the table of offsets
    except Exception:
        raise ImageError("its items are damaged or cut off: fetch the file again") from None
    if not any(parts):
        raise ImageError("it holds no frame: fetch the file again")
    held = max(offsets, sum(bool(stream_kind(part)) for part in parts))
    if held > frames:
        raise ImageError(f"it holds {held} frames, the header says {frames}: export it again")
    try:
        streams = generate_frames(data, number_of_frames=frames)
        return next(islice(streams, frame - 1, frame))
    except Exception:  # fewer than the header says
        raise ImageError(f"frame {frame} of {frames} is missing: fetch the file again") from None


def _size(image: Dataset) -> int:
    """Bytes of one native frame."""
    bits = required(image, "BitsAllocated")
    return required(image, "Rows") * required(image, "Columns") * bits // 8


def _native(
    image: Dataset, data: bytes, syntax: uid.UID, notes: list[str], *, frames: int, frame: int
) -> NDArray[np.int32]:
    size = _size(image)
    if len(data) < size * frames:
        raise ImageError(
            f"it holds {len(data):,} of {size * frames:,} bytes: the file is cut off or its header "
            "is wrong, fetch it again"
        )
    if len(data) > size * frames + 1:  # one byte pads an odd length
        notes.append(f"pixels: {len(data) - size * frames:,} bytes more than the image has")
    if _KINDS[syntax] != "native":
        syntax = uid.ExplicitVRLittleEndian  # that of all compressed syntaxes except for the pixels
        image.file_meta.TransferSyntaxUID = syntax
    image.PixelData = data[size * (frame - 1) : size * frame + size % 2]
    image.NumberOfFrames = 1
    samples = get_decoder(syntax).as_array(image, index=0, raw=True)[0]
    return np.asarray(samples, np.int32)


def _rle(image: Dataset, stream: bytes) -> NDArray[np.int32]:
    size = _size(image)
    if len(stream) * _RLE_GAIN < size:
        raise ImageError(
            f"{len(stream):,} bytes of RLE cannot hold the {size:,} that the header declares: "
            "fetch the file again"
        )
    image.NumberOfFrames = 1
    decoder = get_decoder(uid.RLELossless)
    image.PixelData = _ITEM + bytes(4) + _ITEM + struct.pack("<I", len(stream)) + stream
    image.file_meta.TransferSyntaxUID = uid.RLELossless
    return np.asarray(decoder.as_array(image, index=0, raw=True)[0], np.int32)


def _compressed(image: Dataset, stream: bytes, kind: str) -> NDArray[np.int32]:
    shape = required(image, "Rows"), required(image, "Columns")
    bits = required(image, "BitsStored")
    samples = decode_stream(kind, stream, shape)
    if samples.shape != shape or int(samples.max()) >= 2**bits:
        raise ImageError(
            f"shape {samples.shape}, values up to {samples.max()}; the header says {shape} and "
            f"{bits} bits: export the file again"
        )
    # most codecs are unsigned: the stored bits are reinterpreted as two's complement
    sign = required(image, "PixelRepresentation") << (bits - 1)
    values: NDArray[Any] = ((samples.astype(np.int32) & (2**bits - 1)) ^ sign) - sign
    return np.asarray(values, np.int32)
