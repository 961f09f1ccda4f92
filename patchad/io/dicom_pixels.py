"""The pixels of a DICOM file: from the bytes that are stored to the values that they stand for."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, uid
from pydicom.encaps import get_frame
from pydicom.pixels.decoders.base import get_decoder

from patchad.errors import ImageError, NotARadiographError
from patchad.io.dicom_header import TAGS, name_of, number_of, parse, required, text_of, value_of
from patchad.io.raster import check_size, decode_stream

# fmt: off
# Which codec decodes a compressed frame, and what pydicom decodes itself.
_STREAMS = {
    uid.JPEGBaseline8Bit: "JPEG", uid.JPEGExtended12Bit: "JPEG",
    uid.JPEGLossless: "JPEG Lossless", uid.JPEGLosslessSV1: "JPEG Lossless",
    uid.JPEGLSLossless: "JPEG-LS", uid.JPEGLSNearLossless: "JPEG-LS",
    uid.JPEG2000Lossless: "JPEG 2000", uid.JPEG2000: "JPEG 2000",
    uid.HTJ2KLossless: "JPEG 2000", uid.HTJ2KLosslessRPCL: "JPEG 2000", uid.HTJ2K: "JPEG 2000",
}
_BY_PYDICOM = (
    uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian,
    uid.DeflatedExplicitVRLittleEndian, uid.RLELossless,
)
# fmt: on


def stored_range(header: Dataset) -> tuple[int, int]:
    """The lowest and highest value that the stored bits allow."""
    check_size(required(header, "Rows"), required(header, "Columns"))
    bits, allocated = required(header, "BitsStored"), required(header, "BitsAllocated")
    if bits == 1:
        raise NotARadiographError("an image of 1 bit a pixel is a mask, not a radiograph")
    if allocated not in (8, 16, 32) or not 2 <= bits <= min(allocated, 16):
        raise ImageError(
            f"{bits} bits stored in {allocated}, not 2 to 16 in 8, 16 or 32: export it as 16 bits"
        )
    top = number_of(header, "HighBit", bits - 1)
    if top != bits - 1:
        raise ImageError(
            f"{name_of('HighBit')} is {top:g}, must be {bits - 1} for {bits} bits: export it anew"
        )
    if required(header, "PixelRepresentation") == 1:
        return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    return 0, 2**bits - 1


def decode(path: Path, header: Dataset) -> NDArray[Any]:
    """The stored values (rows, columns), integers within the stored bits."""
    image = parse(path, [*TAGS, "PixelData"], stop=False)
    data = value_of(image, "PixelData")
    if not data:
        raise ImageError(
            f"{name_of('PixelData')} is missing: the file is cut off, or stores floats; fetch it "
            "again, or export it with integers"
        )
    # files without a preamble don't say their syntax; pydicom found out while it parsed them
    implicit, little = header.original_encoding
    explicit = uid.ExplicitVRLittleEndian if little else uid.ExplicitVRBigEndian
    syntax = uid.UID(text_of(image.file_meta, "TransferSyntaxUID"))
    syntax = syntax or (uid.ImplicitVRLittleEndian if implicit else explicit)
    kind = _STREAMS.get(syntax, "")
    if not kind and syntax not in _BY_PYDICOM:
        raise ImageError(
            f"the transfer syntax {syntax.name} is not decoded here: convert the file to Explicit "
            "VR Little Endian, or to a JPEG, JPEG-LS, JPEG 2000 or RLE syntax"
        )
    shape = required(header, "Rows"), required(header, "Columns")
    bits = required(header, "BitsStored")
    try:
        if not kind:
            return np.asarray(get_decoder(syntax).as_array(image, index=0, raw=True)[0])
        samples = decode_stream(kind, get_frame(data, 0, number_of_frames=1), shape)
    except Exception as error:  # pydicom raises many builtins; of the pixels, they quote sizes only
        raise ImageError(
            f"{name_of('PixelData')} cannot be decoded as {syntax.name} "
            f"({' '.join(str(error).split())}): it is damaged or cut off, fetch the file again"
        ) from None
    if samples.shape != shape or int(samples.max()) >= 2**bits:
        raise ImageError(
            f"{name_of('PixelData')}: shape {samples.shape}, values up to {samples.max()}; the "
            f"header says {shape} and {bits} bits: export the file again"
        )
    # most codecs know no signs: the stored bits are read again as two's complement
    sign = required(header, "PixelRepresentation") << (bits - 1)
    return np.asarray(((samples.astype(np.int32) & (2**bits - 1)) ^ sign) - sign)
