"""The overlay as a Secondary Capture: a colour picture that every viewer opens."""

import numpy as np
from highdicom.sc import SCImage
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian

from patchad.export.dicom.header import code_item, copy_element, text_of
from patchad.export.dicom.kind import Kind
from patchad.export.dicom.object import Finding
from patchad.read.dicom_native import compress_picture


def secondary_capture(found: Finding) -> Dataset:
    """A Secondary Capture of the overlay, compressed without loss.

    It has no pixel spacing: the film in it is scaled, with a colour bar at its side.
    """
    picture = found.draw()
    capture: Dataset = SCImage(
        pixel_array=np.ascontiguousarray(picture),
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        study_instance_uid=found.reference.StudyInstanceUID,
        patient_orientation=("L", "F"),  # replaced below: it refuses A\FL and similar
        transfer_syntax_uid=ExplicitVRLittleEndian,
        **found.identity(KIND),
    )
    capture.PatientOrientation = None
    copy_element(found.header, capture, "PatientOrientation")
    found.locate(capture)
    capture.ConversionType = "WSD"
    capture.BurnedInAnnotation = "YES"  # score and "research use only"; no name
    capture.ImageComments = f"{found.card.intended_use} Unverified result of a program."
    capture.DerivationDescription = f"Colour overlay of anomaly scores by {found.maker.words}"
    source = Dataset()
    source.ReferencedSOPClassUID = found.reference.SOPClassUID
    source.ReferencedSOPInstanceUID = found.reference.SOPInstanceUID
    source.PurposeOfReferenceCodeSequence = [
        code_item(codes.DCM.SourceImageForImageProcessingOperation)
    ]
    capture.SourceImageSequence = [source]
    compress_picture(capture, picture)
    return capture


def _burned_in(found: Finding) -> str:
    """Text in the film's pixels may name the patient, and the overlay shows it."""
    if found.maker.deidentify and text_of(found.header, "BurnedInAnnotation") == "YES":
        return (
            "the film has text burned in (Burned In Annotation YES), which an overlay "
            "would show: --deidentify cannot remove it, leave sc out of --write"
        )
    return ""


KIND = Kind("sc", "overlay", 9401, "image", secondary_capture, obstacle=_burned_in)
