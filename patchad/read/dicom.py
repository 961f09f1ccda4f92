"""Radiographs in DICOM files: from stored values to the image that a radiologist would see.

Stored value → modality LUT or rescale → VOI LUT or window → MONOCHROME1 inverted; PS3.3 C.11.
"""

import re
from pathlib import Path

from pydicom import Dataset, uid
from pydicom.multival import MultiValue

from patchad.core.image import Radiograph, Source, Voi
from patchad.errors import ImageError, NotARadiographError
from patchad.read.caps import MAX_PIXELS
from patchad.read.dicom_header import (
    TAGS,
    Pair,
    name_of,
    number_of,
    parse,
    sop_class_of,
    spread_frame,
    text_of,
    uid_name,
    uid_of,
    value_of,
)
from patchad.read.dicom_outside import outside_of
from patchad.read.dicom_pixels import decode, stored_range
from patchad.read.dicom_spacing import scale_of
from patchad.read.dicom_tones import tones_of
from patchad.read.quiet import quiet
from patchad.read.raster import pixels_digest

# Radiographs: a file must be of one of these SOP classes and one of these modalities. The class of
# secondary captures tells nothing, so they may have modality OT or none; for the others, only the
# class may be missing. Everything else is refused by name.
# fmt: off
_XRAY_CLASSES = frozenset({
    uid.ComputedRadiographyImageStorage,
    uid.DigitalXRayImageStorageForPresentation, uid.DigitalXRayImageStorageForProcessing,
    uid.DigitalMammographyXRayImageStorageForPresentation,
    uid.DigitalMammographyXRayImageStorageForProcessing,
    uid.DigitalIntraOralXRayImageStorageForPresentation,
    uid.DigitalIntraOralXRayImageStorageForProcessing,
    uid.BreastTomosynthesisImageStorage,  # its frames, with --frames
    uid.XRayAngiographicImageStorage, uid.XRayRadiofluoroscopicImageStorage,
})
_CAPTURE_CLASSES = frozenset({
    uid.SecondaryCaptureImageStorage,
    uid.MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    uid.MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
})
_MODALITIES = ("MG", "CR", "DX", "RG", "PX", "IO", "XA", "RF")
# Values that an error may quote from a refused file: any other text could be a name.
_OTHERS = frozenset({
    *_MODALITIES, "OT", "CT", "MR", "US", "NM", "PT", "SC", "DG", "ES", "GM", "SM", "XC", "OP",
    "OPT", "OCT", "ECG", "SR", "PR", "KO", "SEG", "REG", "DOC", "PLAN", "RTIMAGE", "RTDOSE",
    "RTSTRUCT", "RTPLAN", "RTRECORD", "BI", "IVUS", "M3D", "HD", "AU", "BMD", "PM", "CD", "DD",
})
_COLOURS = frozenset({
    "PALETTE COLOR", "RGB", "HSV", "ARGB", "CMYK", "YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_422",
    "YBR_PARTIAL_420", "YBR_ICT", "YBR_RCT", "XYB",
})
_GREYS = ("MONOCHROME1", "MONOCHROME2")

# Values of View Position that are kept: the defined terms of PS3.3 C.8.11.5, the abbreviations of
# CID 4014, and those of manufacturers. Any other word could be a name.
_VIEWS = frozenset({
    "AP", "PA", "LL", "RL", "RLD", "LLD", "RLO", "LLO", "LAT", "LATERAL", "LLAT", "RLAT", "OBL",
    "CC", "MLO", "ML", "LM", "LMO", "MLI", "XCC", "XCCL", "XCCM", "FB", "SIO", "ISO", "CV", "AT",
    "CCID", "MLOID", "MLID", "LMID", "RCC", "LCC", "RMLO", "CCRL", "CCRM", "TAN", "ROLL", "SPEC",
})
# Views that a model trained on ordinary ones has not seen, by their codes in CID 4015 (SNOMED CT,
# and SRT in older files).
_MODIFIERS = {
    "399055006": "spot compression view", "R-102D7": "spot compression view",
    "399163009": "magnified view", "R-102D6": "magnified view",
    "399209000": "implant displaced view", "R-102D5": "implant displaced view",
}
# fmt: on
_MOST_FRAMES = 10_000  # each becomes a row
_MAGNIFIED = 1.3  # the factor of ordinary views is about 1.1, of magnified ones 1.5 to 2


def read_dicom(
    path: Path,
    spacing_mm: tuple[float, float] | None = None,
    *,
    voi: Voi = "auto",
    max_pixels: int = MAX_PIXELS,
    frame: int | None = None,
) -> Radiograph:
    """Read a grey X-ray image of one frame, or one frame of several.

    The intensity is scaled by the output range of the first VOI LUT, else the first window, else
    by the range that the stored bits allow after the modality LUT, or as ``voi`` says; never by
    the image's own range. MONOCHROME1 is inverted once, after that (Presentation LUT Shape repeats
    the same, and is ignored).

    The spacing is that in the plane of the patient, from the most reliable element of the header,
    else ``spacing_mm`` (row, col); see :func:`patchad.read.dicom_spacing.scale_of`.
    ``Source.reading`` records the source of the spacing and the other decisions.

    Args:
        path: the file.
        spacing_mm: (row, col) for a file without its own.
        voi: auto, or the only one to use: lut, window or full (the range of the stored bits).
        max_pixels: the cap on rows × columns, checked before memory is allocated.
        frame: the frame of a multi-frame image, the first is 1; None refuses such images.

    Raises:
        NotARadiographError: another kind of object, multi-frame, colour, 1 bit.
        ImageError: the file is damaged, lacks what is needed, or cannot be decoded.
    """
    with quiet():
        header = parse(path, TAGS, stop=True, max_pixels=max_pixels)
        notes: list[str] = []
        modality = text_of(header, "Modality").upper()
        _refuse_others(header, modality, notes)
        frames = _frames(header, frame, notes)
        taken = spread_frame(header, frame or 1)
        if taken:
            notes.append(f"functional groups: {', '.join(taken)}")
        low, high = stored_range(header, max_pixels)
        tones, used = tones_of(header, low, high, notes, voi)
        stored = decode(path, header, notes, frames=frames, frame=frame or 1, max_pixels=max_pixels)
        pixels = tones[stored - low]
        outside = outside_of(header, stored, (low, high), notes)
        scale = scale_of(header, modality, spacing_mm, notes)
        laterality, view = _side_and_view(header)
        source = Source(
            path=str(path),
            digest=pixels_digest(pixels),
            sop_class_uid=uid_of(header, "SOPClassUID"),
            sop_instance_uid=uid_of(header, "SOPInstanceUID"),
            series_instance_uid=uid_of(header, "SeriesInstanceUID"),
            study_instance_uid=uid_of(header, "StudyInstanceUID"),
            modality=modality,
            laterality=laterality,
            view=view,
            directions=_directions(header),
            voi=used,
            reading=tuple(notes),
            cautions=(*_cautions(header), *scale.cautions),
            for_processing=_for_processing(header),
            pixel_aspect=scale.aspect,
        )
    return Radiograph(pixels, scale.spacing_mm, source, outside)


def count_frames(path: Path, max_pixels: int = MAX_PIXELS) -> int:
    """How many frames a radiograph in DICOM has.

    Raises:
        ImageError: it is no radiograph, or its header is damaged.
    """
    with quiet():
        return _frames(header_of(path, max_pixels=max_pixels), 1, [])


def header_of(path: Path, *more: str, max_pixels: int = MAX_PIXELS) -> Dataset:
    """The elements of a radiograph's header that are read, and the elements ``more``; no pixels.

    They may identify the patient, so they must not leave the process that reads them.

    Raises:
        NotARadiographError: it is no radiograph.
        ImageError: the header is damaged.
    """
    header = parse(path, [*TAGS, *more], stop=True, max_pixels=max_pixels)
    _refuse_others(header, text_of(header, "Modality").upper(), [])
    return header


def header_facts(header: Dataset) -> tuple[int, Pair | None, str, str]:
    """The number of frames, and spacing (row, col), laterality and view of the first."""
    frames = _frames(header, 1, [])
    spread_frame(header, 1)
    spacing = scale_of(header, text_of(header, "Modality").upper(), None, []).spacing_mm
    return frames, spacing, *_side_and_view(header)


def _side_and_view(header: Dataset) -> tuple[str, str]:
    laterality = (text_of(header, "ImageLaterality") or text_of(header, "Laterality")).upper()
    view = text_of(header, "ViewPosition").upper()
    return (
        laterality if laterality in ("L", "R", "B") else "",
        view if view in _VIEWS else "",
    )


def _refuse_others(header: Dataset, modality: str, notes: list[str]) -> None:
    sop_class = sop_class_of(header)
    if sop_class in _CAPTURE_CLASSES:
        accepted = modality in (*_MODALITIES, "OT", "")
    else:
        accepted = (sop_class in _XRAY_CLASSES and modality in (*_MODALITIES, "")) or (
            not sop_class and modality in _MODALITIES
        )
    if not accepted:
        kind = uid_name(sop_class) if sop_class else "an object without SOP class"
        raise NotARadiographError(
            f"{kind}, modality {modality if modality in _OTHERS else 'unknown'}, "
            f"is not a radiograph: patchad reads {', '.join(_MODALITIES)} and grey secondary "
            "captures"
        )
    if modality in ("", "OT"):
        notes.append(f"modality: {modality or 'not given'}, treated as a radiograph")
    if _for_processing(header):
        notes.append("For Processing: raw detector values, not what a radiologist looks at")
    photometric = text_of(header, "PhotometricInterpretation")
    if photometric not in (*_GREYS, *_COLOURS):
        raise ImageError(
            f"{name_of('PhotometricInterpretation')} is missing or unknown: export the file again"
        )
    samples = number_of(header, "SamplesPerPixel", 1)
    if samples > 1 or photometric not in _GREYS:
        raise NotARadiographError(
            f"a {photometric} image, samples per pixel {samples:g}: patchad reads grey images "
            f"({', '.join(_GREYS)})"
        )


def _for_processing(header: Dataset) -> bool | None:
    """By Presentation Intent Type, else by the SOP class; None if neither gives it."""
    intent = text_of(header, "PresentationIntentType").upper()
    keyword = sop_class_of(header).keyword
    for named, answer in (("PROCESSING", True), ("PRESENTATION", False)):
        if intent == f"FOR {named}" or (not intent and f"For{named.title()}" in keyword):
            return answer
    return None


def _directions(header: Dataset) -> tuple[str, str]:
    """Patient Orientation (PS3.3 C.7.6.1.1.1); values that are no body direction become empty."""
    value = value_of(header, "PatientOrientation")
    found = [str(part).strip().upper() for part in value] if isinstance(value, MultiValue) else []
    across, down = (
        part if re.fullmatch(r"[APLRHF]{1,3}", part) else "" for part in (*found, "", "")[:2]
    )
    return across, down


def _frames(header: Dataset, frame: int | None, notes: list[str]) -> int:
    """The number of frames; an error if one must be chosen and isn't, or doesn't exist."""
    # missing, or present and empty, means one
    frames = number_of(header, "NumberOfFrames") if text_of(header, "NumberOfFrames") else 1.0
    if not (1 <= frames <= _MOST_FRAMES and frames.is_integer()):
        raise ImageError(
            f"{name_of('NumberOfFrames')} is damaged (or more than {_MOST_FRAMES:,}): fetch the "
            "file again"
        )
    if frames > 1 and frame is None:
        raise NotARadiographError(
            f"an image of {frames:g} frames: patchad reads single frames, or each of them with "
            "--frames all"
        )
    if frame is not None:
        if not 1 <= frame <= frames:
            raise ImageError(f"there is no frame {frame}, the image has {frames:g}")
        notes.append(f"frame {frame} of {frames:g}")
    return int(frames)


def _cautions(header: Dataset) -> list[str]:
    """Warnings for whoever reads the result, a phrase each."""
    found = []
    if text_of(header, "BreastImplantPresent").upper() == "YES":
        found.append("breast implant")
    try:
        items = [
            modifier
            for view in header.get("ViewCodeSequence") or ()
            for modifier in view.get("ViewModifierCodeSequence") or ()
        ]
        values = [text_of(item, "CodeValue") for item in items]
    except Exception:  # pydicom may raise anything on a damaged item
        values = []
    found += [_MODIFIERS[value] for value in dict.fromkeys(values) if value in _MODIFIERS]
    factor = number_of(header, "EstimatedRadiographicMagnificationFactor")
    if factor >= _MAGNIFIED and "magnified view" not in found:
        found.append("magnified view")
    if text_of(header, "PartialView").upper() == "YES":
        found.append("partial view")
    if text_of(header, "BurnedInAnnotation").upper() == "YES":
        found.append("annotation burned in: it may be scored, and may name the patient")
    return found
