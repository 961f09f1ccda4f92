"""Radiographs in DICOM files: what was stored becomes what a radiologist would see.

Stored value → modality LUT or rescale → VOI LUT or window → MONOCHROME1 turned over; PS3.3 C.11.
"""

from pathlib import Path

import numpy as np
from pydicom import Dataset, uid

from patchad.errors import ImageError, NotARadiographError
from patchad.image import Radiograph, Source
from patchad.io.dicom_header import (
    TAGS,
    Pair,
    name_of,
    number_of,
    pair_of,
    parse,
    sop_class_of,
    text_of,
)
from patchad.io.dicom_pixels import decode, stored_range
from patchad.io.dicom_tones import tones_of
from patchad.io.raster import pixels_digest, quiet

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
        header = parse(path, TAGS, stop=True)
        notes: list[str] = []
        modality = text_of(header, "Modality").upper()
        _refuse_others(header, modality, notes)
        low, high = stored_range(header)
        tones = tones_of(header, low, high, notes)
        pixels = tones[decode(path, header).astype(np.int32) - low]
        spacing = _spacing(header, modality, spacing_mm, notes)
        laterality = (text_of(header, "ImageLaterality") or text_of(header, "Laterality")).upper()
        source = Source(
            path=str(path),
            digest=pixels_digest(pixels),
            sop_class_uid=text_of(header, "SOPClassUID"),
            sop_instance_uid=text_of(header, "SOPInstanceUID"),
            series_instance_uid=text_of(header, "SeriesInstanceUID"),
            study_instance_uid=text_of(header, "StudyInstanceUID"),
            modality=modality,
            laterality=laterality if laterality in ("L", "R", "B") else "",
            view=text_of(header, "ViewPosition").upper(),
            reading=tuple(notes),
        )
    return Radiograph(pixels, spacing, source)


def _refuse_others(header: Dataset, modality: str, notes: list[str]) -> None:
    sop_class = sop_class_of(header)
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
    frames = number_of(header, "NumberOfFrames", 1)
    if frames > 1:
        raise NotARadiographError(f"an image of {frames:g} frames: patchad reads single frames")
    photometric = text_of(header, "PhotometricInterpretation")
    if not photometric:
        raise ImageError(
            f"{name_of('PhotometricInterpretation')} is missing: export the file again"
        )
    samples = number_of(header, "SamplesPerPixel", 1)
    if samples > 1 or photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise NotARadiographError(
            f"a {photometric} image, samples per pixel {samples:g}: patchad reads grey images "
            "(MONOCHROME1, MONOCHROME2)"
        )


def _spacing(header: Dataset, modality: str, given: Pair | None, notes: list[str]) -> Pair | None:
    plane, imager = pair_of(header, "PixelSpacing"), pair_of(header, "ImagerPixelSpacing")
    if imager and (modality == "MG" or not plane):
        factor = number_of(header, "EstimatedRadiographicMagnificationFactor")
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
