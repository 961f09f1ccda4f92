"""The header of a DICOM file: only the elements named here are parsed.

No name, birth date or patient ID is passed on. An element of damaged length may contain them, so
text is used only if it looks like a code, a UID or a number.
"""

import math
import re
import zlib
from copy import deepcopy
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

from pydicom import Dataset, dcmread, uid
from pydicom.datadict import dictionary_description
from pydicom.filereader import read_dataset
from pydicom.multival import MultiValue
from pydicom.tag import Tag

from patchad.errors import ImageError, NotARadiographError
from patchad.files.names import is_uid
from patchad.read.caps import Metered, check_file, most_bytes

Pair: TypeAlias = tuple[float, float]
# Bytes besides the pixels that are read, or inflated; LUTs are the largest legitimate elements.
# Empty items take 80 times as much once they are parsed, and half a second for 2**17 bytes.
_SLACK = 2**22

# fmt: off
TAGS = [
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Modality",
    "ImageLaterality", "Laterality", "ViewPosition", "PatientOrientation", "PixelSpacing",
    "ImagerPixelSpacing", "EstimatedRadiographicMagnificationFactor", "PixelAspectRatio",
    "NominalScannedPixelSpacing", "DetectorElementSpacing", "DetectorBinning",
    "DetectorActiveShape", "DetectorActiveDimensions", "FieldOfViewShape", "FieldOfViewDimensions",
    "Manufacturer", "ManufacturerModelName", "SamplesPerPixel", "PhotometricInterpretation",
    "NumberOfFrames", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit",
    "PixelRepresentation", "PlanarConfiguration", "ModalityLUTSequence", "RescaleSlope",
    "RescaleIntercept", "VOILUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction",
    "PresentationIntentType", "BreastImplantPresent", "BurnedInAnnotation", "PartialView",
    "ViewCodeSequence", "PixelPaddingValue", "PixelPaddingRangeLimit",
    "ShutterShape", "ShutterLeftVerticalEdge", "ShutterRightVerticalEdge",
    "ShutterUpperHorizontalEdge", "ShutterLowerHorizontalEdge", "CenterOfCircularShutter",
    "RadiusOfCircularShutter", "VerticesOfThePolygonalShutter",
    "CollimatorShape", "CollimatorLeftVerticalEdge", "CollimatorRightVerticalEdge",
    "CollimatorUpperHorizontalEdge", "CollimatorLowerHorizontalEdge", "CenterOfCircularCollimator",
    "RadiusOfCircularCollimator", "VerticesOfThePolygonalCollimator",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
]
# Functional groups of a frame, and the elements of single images for the same (PS3.3 C.7.6.16.2).
_OF_A_FRAME = {
    "FrameVOILUTSequence": ("VOILUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction"),
    "PixelValueTransformationSequence": ("RescaleSlope", "RescaleIntercept"),
    "PixelMeasuresSequence": ("PixelSpacing",),
    "PatientOrientationInFrameSequence": ("PatientOrientation",),
    "FrameAnatomySequence": ("FrameLaterality",),
}
_RENAMED = {"FrameLaterality": "ImageLaterality"}
# fmt: on


def parse(path: Path, tags: list[str], *, stop: bool, max_pixels: int) -> Dataset:
    """The elements ``tags`` of a file; with ``stop`` it is read only up to the pixels.

    Raises:
        NotARadiographError: it is a DICOMDIR.
        ImageError: it cannot be read, is no DICOM, or inflates to more than its header or
            ``max_pixels`` allow; the message quotes nothing of the file.
    """
    check_file(path, max_pixels)
    try:
        with path.open("rb") as file:
            bare = file.read(132)[128:] != b"DICM"  # old files lack the preamble
            deflated = not bare and is_deflated(file)
            if deflated:
                _check_inflated(file, max_pixels)
        # without the pixels only the parsed elements are read; a deflated file is read completely
        whole = deflated or not stop
        with Metered(path, 2 * most_bytes(max_pixels) if whole else _SLACK) as file:
            try:
                header = dcmread(file, force=bare, specific_tags=[*tags], stop_before_pixels=stop)
            except Exception:
                if file.spent:
                    raise ImageError(file.reason) from None
                raise
    except OSError as error:
        raise ImageError(f"the file cannot be read: {error.strerror or 'it is cut off'}") from None
    except ImageError:
        raise
    except Exception:  # pydicom may raise anything on a damaged file, and quote the header
        raise ImageError("the DICOM header is damaged: fetch the file again") from None
    if sop_class_of(header) == uid.MediaStorageDirectoryStorage:
        raise NotARadiographError(
            "a DICOMDIR, the table of contents of a study: name it, or its folder, as INPUT"
        )
    if not (sop_class_of(header).startswith("1.2.840.10008.") or "Rows" in header):
        raise ImageError(
            "the file has neither a SOP class nor a size: fetch it again, or convert it to DICOM"
        )
    return header


def is_deflated(file: BinaryIO) -> bool:
    """Whether a file with a preamble is deflated; leaves the file at the start of the data set."""
    file.seek(132)
    meta = read_dataset(file, False, True, stop_when=lambda tag, vr, length: tag.group != 2)
    return text_of(meta, "TransferSyntaxUID") == uid.DeflatedExplicitVRLittleEndian


def _check_inflated(file: BinaryIO, max_pixels: int) -> None:
    """Refuse a deflated file that inflates to more than its header implies; pydicom has no cap.

    It is inflated piece by piece from the current position; the pieces are dropped.
    """
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    head = inflater.decompress(file.read(), _SLACK)
    sizes = ("NumberOfFrames", "Rows", "Columns", "BitsAllocated")
    header = read_dataset(
        BytesIO(head),
        False,
        True,
        stop_when=lambda tag, vr, length: tag.group >= 0x7FE0,
        specific_tags=[Tag(size) for size in sizes],
    )
    frames, rows, columns, bits = (number_of(header, size, 1) for size in sizes)
    pixels = frames * rows * columns
    if not pixels <= max_pixels:  # NaN as well
        raise ImageError(
            f"the deflated file declares {pixels:,g} pixels, more than the "
            f"{max_pixels:,} that are read: raise --max-pixels if it is sound"
        )
    size, allowed = len(head), pixels * bits / 8 + _SLACK
    while inflater.unconsumed_tail and size <= allowed:
        size += len(inflater.decompress(inflater.unconsumed_tail, 2**20))
    if size > allowed:
        raise ImageError(
            f"the deflated file inflates to more than {allowed:,.0f} bytes, its header accounts "
            f"for {pixels * bits / 8:,.0f}: it is damaged, or made to fill the memory"
        )


def spread_frame(header: Dataset, frame: int) -> list[str]:
    """Copy the functional groups of a frame to the elements that single images use.

    Groups of the frame override shared ones, and both override existing elements. Damaged ones are
    left out. Returns the names of the groups that were used.
    """
    taken: dict[str, None] = {}
    for sequence, item in (
        ("SharedFunctionalGroupsSequence", 0),
        ("PerFrameFunctionalGroupsSequence", frame - 1),
    ):
        try:
            group = header[sequence].value[item]
        except Exception:  # missing, or damaged: pydicom may raise anything
            continue
        for name, keywords in _OF_A_FRAME.items():
            try:
                found = group[name].value[0]
                elements = {k: deepcopy(found[k]) for k in keywords if k in found}
                for keyword, element in elements.items():
                    target = _RENAMED.get(keyword, keyword)
                    header.add_new(target, element.VR, element.value)
                    taken[target] = None
            except Exception:
                continue
    return [*taken]


def sop_class_of(header: Dataset) -> uid.UID:
    """The SOP class of the object, else of the file; empty if unknown."""
    return uid.UID(
        text_of(header, "SOPClassUID") or text_of(header.file_meta, "MediaStorageSOPClassUID")
    )


def uid_name(number: uid.UID) -> str:
    """The name of a UID for an error: that in the standard, never text of the file."""
    return number.name if number.keyword else "an unknown UID"


def uid_of(header: Dataset, keyword: str) -> str:
    """A UID; empty if there is none, several, or something else."""
    if isinstance(value_of(header, keyword), MultiValue):
        return ""
    text = text_of(header, keyword)
    return text if is_uid(text) else ""


def value_of(header: Dataset, keyword: str) -> Any:
    """The value of the element (all, if several); None if it is missing or damaged."""
    try:
        return header.get(keyword)
    except Exception:  # pydicom converts on access; its errors quote the value
        return None


def text_of(header: Dataset, keyword: str) -> str:
    """The first value; empty if there is none, or if it is no code, UID or number."""
    value = value_of(header, keyword)
    if isinstance(value, MultiValue):
        value = value[0] if value else None
    text = "" if value is None else str(value).strip()
    # an element of damaged length may contain the patient's name
    return text if re.fullmatch(r"[\w .+-]{1,64}", text, re.ASCII) else ""


def number_of(header: Dataset, keyword: str, default: float = math.nan) -> float:
    """The first value, ``default`` without the element, NaN if it isn't a finite number."""
    if keyword not in header:
        return default
    try:
        value = float(text_of(header, keyword))
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan


def required(header: Dataset, keyword: str) -> int:
    """The first value as an integer; an error that names the element if there is none."""
    value = number_of(header, keyword)
    if math.isnan(value):
        raise ImageError(
            f"{name_of(keyword)} is missing or damaged: fetch or export the file again"
        )
    return int(value)


def pair_of(header: Dataset, keyword: str) -> Pair | None:
    """Two positive numbers, None if the element doesn't hold them."""
    value = value_of(header, keyword)
    try:
        row, col = (float(part) for part in value)
    except (TypeError, ValueError):
        return None
    return (row, col) if 0 < row < math.inf and 0 < col < math.inf else None


def name_of(keyword: str) -> str:
    """The name and tag of an element, for errors."""
    return f"{dictionary_description(keyword)} {Tag(keyword)}"
