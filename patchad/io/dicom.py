"""Radiographs in DICOM files: what was stored becomes what a radiologist would see.

Stored value → modality LUT or rescale → VOI LUT or window → MONOCHROME1 turned over; PS3.3 C.11.
"""

import math
import re
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread, uid
from pydicom.datadict import dictionary_description
from pydicom.encaps import get_frame
from pydicom.multival import MultiValue
from pydicom.pixels.decoders.base import get_decoder
from pydicom.tag import Tag
from scipy.special import expit

from patchad.errors import ImageError, NotARadiographError
from patchad.image import Radiograph, Source
from patchad.io.raster import check_size, decode_stream, pixels_digest, quiet

Values: TypeAlias = NDArray[np.float64]
Pair: TypeAlias = tuple[float, float]

# What is a radiograph: a file must be of one of these SOP classes and one of these modalities.
# Secondary captures say nothing by their class, so OT or no modality at all is let through there;
# of the others, only the class may be missing. Everything else is refused by name.
# fmt: off
_XRAY_CLASSES = frozenset({
    uid.ComputedRadiographyImageStorage,
    uid.DigitalXRayImageStorageForPresentation, uid.DigitalXRayImageStorageForProcessing,
    uid.DigitalMammographyXRayImageStorageForPresentation,
    uid.DigitalMammographyXRayImageStorageForProcessing,
    uid.DigitalIntraOralXRayImageStorageForPresentation,
    uid.DigitalIntraOralXRayImageStorageForProcessing,
    uid.XRayAngiographicImageStorage, uid.XRayRadiofluoroscopicImageStorage,
})
_CAPTURE_CLASSES = frozenset({
    uid.SecondaryCaptureImageStorage,
    uid.MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    uid.MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
})
_MODALITIES = ("MG", "CR", "DX", "RG", "PX", "IO", "XA", "RF")

# The only elements that are read: no name, no birth date, no patient ID ever leaves the file.
_TAGS = [
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Modality",
    "ImageLaterality", "Laterality", "ViewPosition", "PixelSpacing", "ImagerPixelSpacing",
    "EstimatedRadiographicMagnificationFactor", "SamplesPerPixel", "PhotometricInterpretation",
    "NumberOfFrames", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit",
    "PixelRepresentation", "PlanarConfiguration", "ModalityLUTSequence", "RescaleSlope",
    "RescaleIntercept", "VOILUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction",
]

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


def read_dicom(path: Path, spacing_mm: tuple[float, float] | None = None) -> Radiograph:
    """Read a single-frame grey X-ray image.

    The intensity is scaled by the output range of the first VOI LUT, else the first window, else
    by the range that the stored bits allow after the modality LUT; never by what the image itself
    reaches. MONOCHROME1 is turned over once, after that (Presentation LUT Shape says the same
    again, and is not looked at).

    The spacing is the one in the plane of the patient. MG: Imager Pixel Spacing divided by the
    magnification factor, else Pixel Spacing. Others: Pixel Spacing, else Imager Pixel Spacing
    divided by the magnification factor. A file without either takes ``spacing_mm`` (row, col).
    ``Source.reading`` says which was taken, and what else was decided.

    Raises:
        NotARadiographError: another kind of object, multi-frame, colour, 1 bit.
        ImageError: the file is damaged, lacks what is needed, or cannot be decoded.
    """
    with quiet():
        header = _parse(path, _TAGS, stop=True)
        notes: list[str] = []
        modality = _text(header, "Modality").upper()
        _refuse_others(header, modality, notes)
        low, high = _stored_range(header)
        tones = _tones(header, low, high, notes)
        pixels = tones[_decode(path, header).astype(np.int32) - low]
        spacing = _spacing(header, modality, spacing_mm, notes)
        laterality = (_text(header, "ImageLaterality") or _text(header, "Laterality")).upper()
        source = Source(
            path=str(path),
            digest=pixels_digest(pixels),
            sop_class_uid=_text(header, "SOPClassUID"),
            sop_instance_uid=_text(header, "SOPInstanceUID"),
            series_instance_uid=_text(header, "SeriesInstanceUID"),
            study_instance_uid=_text(header, "StudyInstanceUID"),
            modality=modality,
            laterality=laterality if laterality in ("L", "R", "B") else "",
            view=_text(header, "ViewPosition").upper(),
            reading=tuple(notes),
        )
    return Radiograph(pixels, spacing, source)


def _parse(path: Path, tags: list[str], *, stop: bool) -> Dataset:
    try:
        with path.open("rb") as file:
            bare = file.read(132)[128:] != b"DICM"  # old files lack the preamble
            file.seek(0)
            header = dcmread(file, force=bare, specific_tags=[*tags], stop_before_pixels=stop)
    except OSError as error:
        raise ImageError(f"the file cannot be read: {error.strerror or 'it is cut off'}") from None
    except Exception:  # whatever a damaged file trips pydicom up with; it may quote the header
        raise ImageError("the DICOM header is damaged: fetch the file again") from None
    if not (_sop_class(header).startswith("1.2.840.10008.") or "Rows" in header):
        raise ImageError(
            "the file says neither what it is nor its size: fetch it again, or convert it to DICOM"
        )
    return header


def _sop_class(header: Dataset) -> uid.UID:
    return uid.UID(
        _text(header, "SOPClassUID") or _text(header.file_meta, "MediaStorageSOPClassUID")
    )


def _refuse_others(header: Dataset, modality: str, notes: list[str]) -> None:
    sop_class = _sop_class(header)
    if sop_class in _CAPTURE_CLASSES:
        accepted = modality in (*_MODALITIES, "OT", "")
    else:
        accepted = (sop_class in _XRAY_CLASSES and modality in (*_MODALITIES, "")) or (
            not sop_class and modality in _MODALITIES
        )
    if not accepted:
        raise NotARadiographError(
            f"{sop_class.name or 'an object without SOP class'}, modality {modality or 'unknown'}, "
            f"is no radiograph: patchad reads {', '.join(_MODALITIES)} and grey secondary captures"
        )
    if modality in ("", "OT"):
        notes.append(f"modality: {modality or 'not given'}, taken for a radiograph")
    if "ForProcessing" in sop_class.keyword:
        notes.append("For Processing: raw detector values, not what a radiologist looks at")
    frames = _number(header, "NumberOfFrames", 1)
    if frames > 1:
        raise NotARadiographError(f"an image of {frames:g} frames: patchad reads single frames")
    photometric = _text(header, "PhotometricInterpretation")
    if not photometric:
        raise ImageError(f"{_name('PhotometricInterpretation')} is missing: export the file again")
    samples = _number(header, "SamplesPerPixel", 1)
    if samples > 1 or photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise NotARadiographError(
            f"a {photometric} image, samples per pixel {samples:g}: patchad reads grey images "
            "(MONOCHROME1, MONOCHROME2)"
        )


def _stored_range(header: Dataset) -> tuple[int, int]:
    """The lowest and highest value that the stored bits allow."""
    check_size(_required(header, "Rows"), _required(header, "Columns"))
    bits, allocated = _required(header, "BitsStored"), _required(header, "BitsAllocated")
    if bits == 1:
        raise NotARadiographError("an image of 1 bit a pixel is a mask, not a radiograph")
    if allocated not in (8, 16, 32) or not 2 <= bits <= min(allocated, 16):
        raise ImageError(
            f"{bits} bits stored in {allocated}, not 2 to 16 in 8, 16 or 32: export it as 16 bits"
        )
    top = _number(header, "HighBit", bits - 1)
    if top != bits - 1:
        raise ImageError(
            f"{_name('HighBit')} is {top:g}, must be {bits - 1} for {bits} bits: export it anew"
        )
    if _required(header, "PixelRepresentation") == 1:
        return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    return 0, 2**bits - 1


def _tones(header: Dataset, low: int, high: int, notes: list[str]) -> NDArray[np.float32]:
    """What each stored value from ``low`` to ``high`` looks like: float32 in [0, 1]."""
    values, bounds = np.arange(low, high + 1, dtype=np.float64), (float(low), float(high))
    if "ModalityLUTSequence" in header:
        try:
            values, bits = _look_up(header, "ModalityLUTSequence", values, signed=low < 0)
        except ValueError as error:
            raise ImageError(
                f"{_name('ModalityLUTSequence')} {error}: export the file again"
            ) from None
        bounds = 0.0, 2.0**bits - 1
        notes.append("modality LUT applied")
    elif "RescaleSlope" in header or "RescaleIntercept" in header:
        slope = _number(header, "RescaleSlope", 1.0)
        intercept = _number(header, "RescaleIntercept", 0.0)
        values = values * slope + intercept
        bounds = (float(values.min()), float(values.max()))
        if not 0 < bounds[1] - bounds[0] < math.inf:
            raise ImageError(
                f"{_name('RescaleSlope')} must be a number other than 0, and "
                f"{_name('RescaleIntercept')} a number: export the file again"
            )
        if (slope, intercept) != (1.0, 0.0):
            notes.append(f"rescaled: slope {slope:g}, intercept {intercept:g}")
    shown = _voi(header, values, bounds, notes).clip(0, 1)
    if _text(header, "PhotometricInterpretation") == "MONOCHROME1":
        shown = 1 - shown
        notes.append("MONOCHROME1: turned over")
    return shown.astype(np.float32)


def _voi(header: Dataset, values: Values, bounds: Pair, notes: list[str]) -> Values:
    """Modality values as grey, to be clipped to [0, 1]; PS3.3 C.11.2."""
    if "VOILUTSequence" in header:
        try:
            mapped, bits = _look_up(header, "VOILUTSequence", values, signed=bounds[0] < 0)
        except ValueError as error:
            notes.append(f"VOI LUT not used: it {error}")
        else:
            notes.append(f"VOI: the first LUT, {bits} bits")
            return mapped / (2.0**bits - 1)
    if "WindowWidth" in header or "WindowCenter" in header:
        try:
            return _window(header, values, bounds, notes)
        except ValueError as error:
            notes.append(f"window not used: {error}")
    notes.append(f"VOI: none, the full range {bounds[0]:g} to {bounds[1]:g}")
    return (values - bounds[0]) / (bounds[1] - bounds[0])


def _window(header: Dataset, values: Values, bounds: Pair, notes: list[str]) -> Values:
    centre, width = _number(header, "WindowCenter"), _number(header, "WindowWidth")
    function = _text(header, "VOILUTFunction").upper() or "LINEAR"
    if not math.isfinite(centre + width):
        raise ValueError("its centre or width is missing or no number")
    if width <= (1 if function == "LINEAR" else 0):
        raise ValueError(f"a width of {width:g} leaves no grey between black and white")
    said = f"centre {centre:g}, width {width:g}"
    if centre + width / 2 <= bounds[0] or centre - width / 2 >= bounds[1]:
        raise ValueError(f"{said} shows nothing of {bounds[0]:g} to {bounds[1]:g}")
    match function:
        case "LINEAR":
            shown = (values - (centre - 0.5)) / (width - 1) + 0.5
        case "LINEAR_EXACT":
            shown = (values - centre) / width + 0.5
        case "SIGMOID":
            shown = expit(4 * (values - centre) / width)
        case _:
            raise ValueError(f"its function {function} is unknown")
    notes.append(f"VOI: the first window, {said}, {function}")
    return shown


def _look_up(header: Dataset, sequence: str, values: Values, *, signed: bool) -> tuple[Values, int]:
    """``values`` as the first lookup table maps them, and the bits of its entries.

    Done here because pydicom wraps around where a table has more entries than its bits can count.
    """
    try:
        item = header[sequence].value[0]
        entries, first, bits = (int(value) for value in item.LUTDescriptor)
        data = item.LUTData
    except Exception:  # whatever a damaged item trips pydicom up with
        raise ValueError("is empty or damaged") from None
    # the descriptor is unsigned or signed by the pixels, which not every writer kept to
    entries, bits = entries % 2**16 or 2**16, bits % 2**16
    first = first - 2**16 if signed and first >= 2**15 else first
    if isinstance(data, bytes):
        little = header.original_encoding[1] is not False
        packed = bits <= 8 and len(data) in (entries, entries + 1)
        dtype = np.dtype("u1" if packed else "<u2" if little else ">u2")
        data = np.frombuffer(data[: len(data) // dtype.itemsize * dtype.itemsize], dtype)
    table = np.atleast_1d(np.asarray(data, np.float64))[:entries]
    if not 1 <= bits <= 16 or len(table) < entries:
        raise ValueError(f"has {len(table)} of {entries} entries, of {bits} bits")
    if table.min() < 0 or table.max() >= 2**bits:
        raise ValueError(f"has entries up to {table.max():g}, more than its {bits} bits allow")
    return table.take(np.rint(values).astype(np.int64) - first, mode="clip"), bits


def _spacing(header: Dataset, modality: str, given: Pair | None, notes: list[str]) -> Pair | None:
    plane, imager = _pair(header, "PixelSpacing"), _pair(header, "ImagerPixelSpacing")
    if imager and (modality == "MG" or not plane):
        factor = _number(header, "EstimatedRadiographicMagnificationFactor")
        how, own = "magnification unknown", imager
        if factor > 0:
            how = f"divided by the magnification {factor:g}"
            own = imager[0] / factor, imager[1] / factor
        notes.append(f"spacing: Imager Pixel Spacing, {how}")
    elif plane:
        own = plane
        notes.append("spacing: Pixel Spacing")
    else:
        present = "PixelSpacing" in header or "ImagerPixelSpacing" in header
        why = "what the file says is unusable" if present else "the file says none"
        notes.append(f"spacing: {'given by the user' if given else 'unknown'}, {why}")
        return given
    if given and given != own:
        notes.append("spacing: what the user gave was not used, the file says its own")
    return own


def _pair(header: Dataset, keyword: str) -> Pair | None:
    value = _value(header, keyword)
    try:
        row, col = (float(part) for part in value)
    except (TypeError, ValueError):
        return None
    return (row, col) if 0 < row < math.inf and 0 < col < math.inf else None


def _decode(path: Path, header: Dataset) -> NDArray[Any]:
    """The stored values (rows, columns), integers within the stored bits."""
    image = _parse(path, [*_TAGS, "PixelData"], stop=False)
    data = _value(image, "PixelData")
    if not data:
        raise ImageError(
            f"{_name('PixelData')} is missing: the file is cut off, or stores floats; fetch it "
            "again, or export it with integers"
        )
    # files without a preamble don't say their syntax; pydicom found out while it parsed them
    implicit, little = header.original_encoding
    explicit = uid.ExplicitVRLittleEndian if little else uid.ExplicitVRBigEndian
    syntax = uid.UID(_text(image.file_meta, "TransferSyntaxUID"))
    syntax = syntax or (uid.ImplicitVRLittleEndian if implicit else explicit)
    kind = _STREAMS.get(syntax, "")
    if not kind and syntax not in _BY_PYDICOM:
        raise ImageError(
            f"the transfer syntax {syntax.name} is not decoded here: convert the file to Explicit "
            "VR Little Endian, or to a JPEG, JPEG-LS, JPEG 2000 or RLE syntax"
        )
    shape = _required(header, "Rows"), _required(header, "Columns")
    bits = _required(header, "BitsStored")
    try:
        if not kind:
            return np.asarray(get_decoder(syntax).as_array(image, index=0, raw=True)[0])
        samples = decode_stream(kind, get_frame(data, 0, number_of_frames=1), shape)
    except Exception as error:  # pydicom raises many builtins; of the pixels, they quote sizes only
        raise ImageError(
            f"{_name('PixelData')} cannot be decoded as {syntax.name} "
            f"({' '.join(str(error).split())}): it is damaged or cut off, fetch the file again"
        ) from None
    if samples.shape != shape or int(samples.max()) >= 2**bits:
        raise ImageError(
            f"{_name('PixelData')}: shape {samples.shape}, values up to {samples.max()}; the "
            f"header says {shape} and {bits} bits: export the file again"
        )
    # most codecs know no signs: the stored bits are read again as two's complement
    sign = _required(header, "PixelRepresentation") << (bits - 1)
    return np.asarray(((samples.astype(np.int32) & (2**bits - 1)) ^ sign) - sign)


def _value(header: Dataset, keyword: str) -> Any:
    """What the element holds (of several values, all); None where it is missing or damaged."""
    try:
        return header.get(keyword)
    except Exception:  # pydicom converts on access; its errors quote the value
        return None


def _text(header: Dataset, keyword: str) -> str:
    """The first value; empty where there is none, or something else than a code, UID or number."""
    value = _value(header, keyword)
    if isinstance(value, MultiValue):
        value = value[0] if value else None
    text = "" if value is None else str(value).strip()
    # an element of damaged length may have swallowed the patient's name
    return text if re.fullmatch(r"[\w .+-]{1,64}", text, re.ASCII) else ""


def _number(header: Dataset, keyword: str, default: float = math.nan) -> float:
    """The first value, ``default`` without the element, NaN where it isn't a finite number."""
    if keyword not in header:
        return default
    try:
        value = float(_text(header, keyword))
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan


def _required(header: Dataset, keyword: str) -> int:
    value = _number(header, keyword)
    if math.isnan(value):
        raise ImageError(f"{_name(keyword)} is missing or damaged: fetch or export the file again")
    return int(value)


def _name(keyword: str) -> str:
    return f"{dictionary_description(keyword)} {Tag(keyword)}"
