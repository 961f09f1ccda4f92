"""The source's header, read again: patchad itself stores nothing about a patient.

See :mod:`patchad.export.dicom.taken` for the elements that objects copy.
"""

import math
from copy import deepcopy
from pathlib import Path
from typing import Any

from pydicom import Dataset, dcmread
from pydicom.datadict import dictionary_description
from pydicom.multival import MultiValue

from patchad.core.image import Source, Voi
from patchad.errors import ImageError
from patchad.export.dicom.taken import Taken, take_over
from patchad.read.quiet import quiet

# fmt: off
EMPTY_IF_UNKNOWN = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime",
    "StudyID", "AccessionNumber", "ReferringPhysicianName",
)
_OF_A_REFERENCE = (
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Rows", "Columns",
    "PatientOrientation",
)
# fmt: on


def read_header(
    path: Path, sop_instance_uid: str, *, voi: Voi = "auto", deidentify: bool = False
) -> Taken:
    """The elements that objects may copy from the header of a file screened as this instance.

    See :func:`patchad.export.dicom.taken.take_over`.

    Raises:
        ImageError: the file can no longer be read, or is not the file that was screened.
    """
    try:
        with quiet():
            header = dcmread(path, stop_before_pixels=True, force=True)
            taken = take_over(header, voi=voi, deidentify=deidentify)
        if text_of(taken.header, "SOPInstanceUID") == sop_instance_uid:
            return taken
    except Exception:  # as in patchad.read.dicom: errors may quote the header
        pass
    raise ImageError(
        f"{path.name} is missing or is no longer the one that was screened: no DICOM object can "
        "refer to it, screen it again"
    )


def obstacle(header: Dataset) -> str:
    """Why an object can't refer to this file, in words; empty if it can.

    The file needs the UIDs of class, instance, series and study, and a single frame.
    """
    uids = [keyword for keyword in _OF_A_REFERENCE if keyword.endswith("UID")]
    missing = [dictionary_description(uid) for uid in uids if not text_of(header, uid)]
    if missing:
        return f"it lacks a valid {', '.join(missing)}"
    return "it has several frames" if number_of(header, "NumberOfFrames") > 1 else ""


def why_none(source: Source) -> str:
    """Why :func:`.object.finding` gives none, in words; empty if it is not a DICOM file.

    Raises:
        ImageError: the file can no longer be read, or is not the file that was screened.
    """
    if not source.voi:
        return ""
    if not source.sop_instance_uid:
        return "it lacks a valid SOP Instance UID"
    return obstacle(read_header(Path(source.path), source.sop_instance_uid).header)


def reference(header: Dataset) -> Dataset:
    """The part of a source that highdicom needs, without names, since highdicom logs them.

    It has no character set either: highdicom doesn't know all of them.
    """
    known = Dataset()
    for keyword in EMPTY_IF_UNKNOWN:
        setattr(known, keyword, "")
    for keyword in _OF_A_REFERENCE:
        copy_element(header, known, keyword)
    known.SamplesPerPixel = 1
    return known


def code_item(code: Any) -> Dataset:
    """An item of a code sequence."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator = code.value, code.scheme_designator
    item.CodeMeaning = code.meaning
    return item


def copy_element(header: Dataset, target: Dataset, keyword: str) -> None:
    """Copy an element unchanged, or leave it out if it is missing or damaged."""
    try:
        if keyword in header:
            target.add(deepcopy(header[keyword]))
    except Exception:  # pydicom converts on access; its errors quote the value
        return


def text_of(header: Dataset, keyword: str) -> str:
    """The first value as text; empty if it is missing or damaged."""
    try:
        value = header.get(keyword)
    except Exception:  # pydicom converts on access; its errors quote the value
        return ""
    if isinstance(value, MultiValue):
        value = value[0] if value else None
    return "" if value is None else str(value).strip()


def number_of(header: Dataset, keyword: str) -> float:
    """The first value as a number; NaN if there is none."""
    try:
        number = float(text_of(header, keyword))
    except ValueError:
        return math.nan
    return number if math.isfinite(number) else math.nan
