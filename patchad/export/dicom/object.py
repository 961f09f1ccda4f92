"""What every DICOM object of patchad has in common: whose it is, who made it, and its UIDs.

The source's header is read again here: what patchad keeps of an image names no patient. See
:mod:`patchad.export.dicom.taken` for what of it gets into an object.
"""

import math
import uuid
from collections.abc import Callable
from copy import deepcopy
from dataclasses import astuple, dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any

from pydicom import Dataset, dcmread
from pydicom.datadict import dictionary_description
from pydicom.multival import MultiValue
from pydicom.sr.codedict import codes
from pydicom.uid import UID

from patchad.core.image import Screening, Source, Voi
from patchad.engine.marks import Mark, marks
from patchad.errors import ImageError
from patchad.export.dicom.taken import (
    OF_THE_EQUIPMENT,
    OF_THE_PATIENT,
    OF_THE_STUDY,
    Taken,
    take_over,
)
from patchad.files.whole import write_whole
from patchad.model.card import ModelCard, card_as_dict
from patchad.read.quiet import quiet
from patchad.version import __version__

# fmt: off
_EMPTY_IF_UNKNOWN = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime",
    "StudyID", "AccessionNumber", "ReferringPhysicianName",
)
_OF_A_REFERENCE = (
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Rows", "Columns",
    "PatientOrientation",
)
_UNPAIRED = (
    "CHEST", "ABDOMEN", "ABDOMENPELVIS", "PELVIS", "HEAD", "SKULL", "NECK", "SPINE", "CSPINE",
    "TSPINE", "LSPINE", "SSPINE", "HEART", "WHOLEBODY",
)
# fmt: on
_SERIES = {
    **{"sc": 9401, "gsps": 9402, "sr": 9403, "seg": 9404, "heatmap-seg": 9405, "ko": 9406},
    **{"cad-sr": 9407, "pm": 9408},
}
_ALONE = ("seg", "heatmap-seg", "pm")


@dataclass(frozen=True, eq=False)
class Maker:
    """The model, as an object names what made it; ``deidentify``: for nobody in particular."""

    card: ModelCard
    deidentify: bool = False

    @cached_property
    def digest(self) -> str:
        """The digest (SHA-256, hex) that names the model."""
        return str(card_as_dict(self.card)["digest"])

    @property
    def words(self) -> str:
        """The model in words."""
        return f"patchad {__version__}, {self.card.method}, weights {self.card.weights_sha256}"

    def uid(self, *name: object) -> UID:
        """A UID that is the same for the same model, version and name (2.25: from a UUID).

        An object without its patient is another object, as is one of another version: a PACS
        keeps what it has under a UID, whatever else is sent.
        """
        without = ("deidentified",) if self.deidentify else ()
        text = "/".join(map(str, (self.digest, __version__, *without, *name)))
        return UID(f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, text).int}")

    def identity(self, kind: str, title: str, *series: str) -> dict[str, Any]:
        """The arguments by which highdicom's objects name their series and what made them."""
        return {
            "series_instance_uid": self.uid(*series, kind),
            "series_number": _SERIES[kind],
            "series_description": f"patchad {title}, research use only",
            "manufacturer": "patchad",
            "manufacturer_model_name": self.card.method,
            "software_versions": __version__,
            "device_serial_number": self.digest,
        }


@dataclass(frozen=True, eq=False)
class Finding:
    """What an object is made of: what is taken over from the source, and what was found."""

    taken: Taken
    screening: Screening
    maker: Maker

    @property
    def header(self) -> Dataset:
        """The elements taken over from the source, all of them legal."""
        return self.taken.header

    @property
    def card(self) -> ModelCard:
        """The card of the model."""
        return self.maker.card

    @cached_property
    def marks(self) -> tuple[Mark, ...]:
        """The marks, the rarest first."""
        return marks(self.screening, self.card.calibrated)

    @cached_property
    def reference(self) -> Dataset:
        """The source as :func:`reference` gives it."""
        return reference(self.header)

    def uid(self, *kind: str) -> UID:
        """A UID that is the same for the same request on the same pixels, and for no other.

        What is asked for and changes a result is in it: model, version and grid, what scaled the
        grey, side, view and spacing, and the threshold. The image score, to the digits that are
        told, stands for what comes from elsewhere: that of the other breast.
        """
        screening, source = self.screening, self.screening.source
        result = (screening.score, screening.percentile, self.card.calibrated.image_threshold)
        return self.maker.uid(
            source.sop_instance_uid,
            source.digest,
            source.voi,
            source.laterality,
            source.view,
            screening.heatmap.spacing_mm,
            *astuple(screening.scores.grid),
            *(f"{number:.4g}" for number in result),
            screening.flagged,
            *kind,
        )

    def identity(self, kind: str, title: str) -> dict[str, Any]:
        """The arguments by which highdicom's objects say what they are and who made them.

        The objects of a kind and a study are one series; those of left and right are two, because
        laterality belongs to the series. A segmentation is a series by itself, as viewers expect.
        """
        source = self.screening.source
        series = [source.study_instance_uid, source.laterality, self.body_part]
        if kind in _ALONE:
            series.append(source.sop_instance_uid)
        number = number_of(self.header, "InstanceNumber")
        return {
            "sop_instance_uid": self.uid(kind),
            "instance_number": int(number) if 1 <= number < 2**31 else 1,
            **self.maker.identity(kind, title, *series),
        }

    @property
    def body_part(self) -> str:
        """Body Part Examined of the source, else what the model is for."""
        said = text_of(self.header, "BodyPartExamined") or self.card.preprocessing.body_part
        return said.upper()

    def locate(self, dataset: Dataset) -> None:
        """Set body part and laterality, which what comes in pairs must have, if only empty."""
        dataset.BodyPartExamined = self.body_part
        if self.body_part not in _UNPAIRED:
            dataset.Laterality = self.screening.source.laterality.strip("B")


def finding(screening: Screening, card: ModelCard, *, deidentify: bool = False) -> Finding | None:
    """Read the source's header again; None where an object could not refer to the source.

    That is so for what is no DICOM file, for one without the UIDs of class, instance, series and
    study, and for one of several frames; :func:`why_none` says which.

    Raises:
        ImageError: the file cannot be read any more, or is another than was screened.
    """
    source = screening.source
    if not source.sop_instance_uid:
        return None
    taken = read_header(
        Path(source.path), source.sop_instance_uid, voi=source.voi or "auto", deidentify=deidentify
    )
    return None if obstacle(taken.header) else Finding(taken, screening, Maker(card, deidentify))


def why_none(source: Source) -> str:
    """Why :func:`finding` gives none, in words; empty for what is no DICOM file.

    Raises:
        ImageError: the file cannot be read any more, or is another than was screened.
    """
    if not source.voi:
        return ""
    if not source.sop_instance_uid:
        return "it lacks a valid SOP Instance UID"
    return obstacle(read_header(Path(source.path), source.sop_instance_uid).header)


def obstacle(header: Dataset) -> str:
    """What keeps an object from referring to this file, in words; empty: nothing.

    It needs the UIDs of class, instance, series and study, and may have but one frame.
    """
    uids = [keyword for keyword in _OF_A_REFERENCE if keyword.endswith("UID")]
    missing = [dictionary_description(uid) for uid in uids if not text_of(header, uid)]
    if missing:
        return f"it lacks a valid {', '.join(missing)}"
    return "it has several frames" if number_of(header, "NumberOfFrames") > 1 else ""


def read_header(
    path: Path, sop_instance_uid: str, *, voi: Voi = "auto", deidentify: bool = False
) -> Taken:
    """What objects may hold of the header of a file that was screened as this instance.

    See :func:`patchad.export.dicom.taken.take_over`.

    Raises:
        ImageError: the file cannot be read any more, or is another than was screened.
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
        f"{path.name} is gone or is no longer the one that was screened: no DICOM object can "
        "refer to it, screen it again"
    )


def reference(header: Dataset) -> Dataset:
    """A source as far as highdicom has to know it; highdicom logs names, so it is given none.

    Nor a character set, of which it does not know all.
    """
    known = Dataset()
    for keyword in _EMPTY_IF_UNKNOWN:
        setattr(known, keyword, "")
    for keyword in _OF_A_REFERENCE:
        copy_element(header, known, keyword)
    known.SamplesPerPixel = 1
    return known


def write_object(
    path: Path, header: Dataset, maker: Maker, build: Callable[[], Dataset | None]
) -> None:
    """Build an object, make it the patient's and patchad's, and write it, if there is one.

    Raises:
        ImageError: the source's header doesn't allow it.
        OutputError: the file cannot be written.
    """
    with quiet():
        try:
            dataset = build()
            if dataset is None:
                return
            stamp(dataset, header, maker)
            encoded = BytesIO()
            dataset.save_as(encoded, enforce_file_format=True)
        except Exception as error:  # a header may hold anything, and the text may quote it
            raise ImageError(
                f"no DICOM object ({path.stem}) can be made for this image, its header is unusual "
                f"({type(error).__name__}): leave {path.stem} out of --write"
            ) from None
        write_whole(path, encoded.getvalue())


def stamp(dataset: Dataset, header: Dataset, maker: Maker) -> None:
    """Copy the modules of patient and study that were taken over, and say what made the object."""
    for keyword in ("SpecificCharacterSet", *OF_THE_PATIENT, *OF_THE_STUDY):
        copy_element(header, dataset, keyword)
    for keyword in _EMPTY_IF_UNKNOWN:
        if keyword not in dataset:
            setattr(dataset, keyword, "")
    dataset.ContributingEquipmentSequence = [_acquired_with(header), _processed_with(maker)]


def _acquired_with(header: Dataset) -> Dataset:
    item = Dataset()
    item.PurposeOfReferenceCodeSequence = [code_item(codes.DCM.AcquisitionEquipment)]
    for keyword in OF_THE_EQUIPMENT:
        copy_element(header, item, keyword)
    item.Manufacturer = text_of(item, "Manufacturer") or "unknown"
    return item


def _processed_with(maker: Maker) -> Dataset:
    item = Dataset()
    item.PurposeOfReferenceCodeSequence = [code_item(codes.DCM.ProcessingEquipment)]
    item.Manufacturer, item.ManufacturerModelName = "patchad", maker.card.method
    item.SoftwareVersions, item.DeviceSerialNumber = __version__, maker.digest
    item.ContributionDescription = f"{maker.words}, model {maker.digest}. {maker.card.intended_use}"
    return item


def code_item(code: Any) -> Dataset:
    """An item of a code sequence."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator = code.value, code.scheme_designator
    item.CodeMeaning = code.meaning
    return item


def copy_element(header: Dataset, target: Dataset, keyword: str) -> None:
    """Copy an element as it stands, or leave it out where it is missing or damaged."""
    try:
        if keyword in header:
            target.add(deepcopy(header[keyword]))
    except Exception:  # pydicom converts on access; its errors quote the value
        return


def text_of(header: Dataset, keyword: str) -> str:
    """The first value as text; empty where it is missing or damaged."""
    try:
        value = header.get(keyword)
    except Exception:  # pydicom converts on access; its errors quote the value
        return ""
    if isinstance(value, MultiValue):
        value = value[0] if value else None
    return "" if value is None else str(value).strip()


def number_of(header: Dataset, keyword: str) -> float:
    """The first value as a number; NaN where there is none."""
    try:
        number = float(text_of(header, keyword))
    except ValueError:
        return math.nan
    return number if math.isfinite(number) else math.nan
