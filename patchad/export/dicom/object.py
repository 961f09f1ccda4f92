"""The common part of all DICOM objects of patchad: patient, equipment and UIDs.

The content of an object is made by the module of its kind; :mod:`.header` reads the source.
"""

import uuid
from collections.abc import Callable
from dataclasses import astuple, dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import UID

from patchad.core.image import Screening
from patchad.engine.marks import Mark, marks
from patchad.errors import ImageError
from patchad.export.dicom.header import (
    EMPTY_IF_UNKNOWN,
    code_item,
    copy_element,
    number_of,
    obstacle,
    read_header,
    reference,
    text_of,
)
from patchad.export.dicom.kind import Kind
from patchad.export.dicom.taken import OF_THE_EQUIPMENT, OF_THE_PATIENT, OF_THE_STUDY, Taken
from patchad.files.whole import write_whole
from patchad.model.card import ModelCard, card_as_dict
from patchad.read.quiet import quiet
from patchad.version import __version__

# fmt: off
_UNPAIRED = (
    "CHEST", "ABDOMEN", "ABDOMENPELVIS", "PELVIS", "HEAD", "SKULL", "NECK", "SPINE", "CSPINE",
    "TSPINE", "LSPINE", "SSPINE", "HEART", "WHOLEBODY",
)
# fmt: on


@dataclass(frozen=True, eq=False)
class Maker:
    """The model that made an object; ``deidentify``: objects are without the patient."""

    card: ModelCard
    deidentify: bool = False

    @cached_property
    def digest(self) -> str:
        """The digest (SHA-256, hex) that identifies the model."""
        return str(card_as_dict(self.card)["digest"])

    @property
    def words(self) -> str:
        """The model in words."""
        return f"patchad {__version__}, {self.card.method}, weights {self.card.weights_sha256}"

    def uid(self, *name: object) -> UID:
        """A UID that is the same for the same model, version and name (2.25: from a UUID).

        An object without its patient has another UID, as has one of another version: a PACS
        keeps the first object that it got under a UID.
        """
        without = ("deidentified",) if self.deidentify else ()
        text = "/".join(map(str, (self.digest, __version__, *without, *name)))
        return UID(f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, text).int}")

    def identity(self, kind: Kind[Any], *series: str) -> dict[str, Any]:
        """Arguments of highdicom for an object's series and equipment."""
        return {
            "series_instance_uid": self.uid(*series, kind.name),
            "series_number": kind.number,
            "series_description": f"patchad {kind.title}, research use only",
            "manufacturer": "patchad",
            "manufacturer_model_name": self.card.method,
            "software_versions": __version__,
            "device_serial_number": self.digest,
        }


@dataclass(frozen=True, eq=False)
class Finding:
    """The data of an object: elements copied from the source, and the screening's results.

    ``draw`` gives the overlay, (h, w, 3) uint8 RGB.
    """

    taken: Taken
    screening: Screening
    maker: Maker
    draw: Callable[[], NDArray[np.uint8]]

    @property
    def header(self) -> Dataset:
        """The elements copied from the source, all of them legal."""
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

        It depends on every setting that changes a result: model, version and grid, grey scaling,
        side, view and spacing, and the threshold. The image score, to the digits that are
        printed, is included since it may depend on the other breast.
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

    def identity(self, kind: Kind[Any]) -> dict[str, Any]:
        """Arguments of highdicom for an object's identity, series and equipment.

        The objects of a kind and a study are one series; those of left and right are two, because
        laterality belongs to the series. An object of a kind that is ``alone`` has its own series.
        """
        source = self.screening.source
        series = [source.study_instance_uid, source.laterality, self.body_part]
        if kind.alone:
            series.append(source.sop_instance_uid)
        number = number_of(self.header, "InstanceNumber")
        return {
            "sop_instance_uid": self.uid(kind.name),
            "instance_number": int(number) if 1 <= number < 2**31 else 1,
            **self.maker.identity(kind, *series),
        }

    @property
    def body_part(self) -> str:
        """Body Part Examined of the source, else the model's body part; empty if unknown."""
        own = self.card.preprocessing.body_part
        part = text_of(self.header, "BodyPartExamined") or (own if own != "other" else "")
        return part.upper()

    def locate(self, dataset: Dataset) -> None:
        """Set body part and laterality, which paired body parts must have, even if empty."""
        dataset.BodyPartExamined = self.body_part
        if self.body_part not in _UNPAIRED:
            dataset.Laterality = self.screening.source.laterality.strip("B")


def finding(
    screening: Screening,
    card: ModelCard,
    draw: Callable[[], NDArray[np.uint8]],
    *,
    deidentify: bool = False,
) -> Finding | None:
    """Read the source's header again; None if an object could not refer to the source.

    That is a file that is not DICOM, lacks the UIDs of class, instance, series or study, or has
    several frames; :func:`.header.why_none` says which.

    Raises:
        ImageError: the file can no longer be read, or is not the file that was screened.
    """
    source = screening.source
    if not source.sop_instance_uid:
        return None
    taken = read_header(
        Path(source.path), source.sop_instance_uid, voi=source.voi or "auto", deidentify=deidentify
    )
    if obstacle(taken.header):
        return None
    return Finding(taken, screening, Maker(card, deidentify), draw)


def write_object(
    path: Path, header: Dataset, maker: Maker, build: Callable[[], Dataset | None]
) -> None:
    """Build an object, add patient and equipment, and write it, if there is one.

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
        except ImageError:  # of the picture, with a clear message
            raise
        except Exception as error:  # a header may hold anything, and the error may quote it
            raise ImageError(
                f"no DICOM object ({path.stem}) can be made for this image, its header is unusual "
                f"({type(error).__name__}): leave {path.stem} out of --write"
            ) from None
        write_whole(path, encoded.getvalue())


def stamp(dataset: Dataset, header: Dataset, maker: Maker) -> None:
    """Add the copied modules of patient and study, and the equipment that made the object."""
    for keyword in ("SpecificCharacterSet", *OF_THE_PATIENT, *OF_THE_STUDY):
        copy_element(header, dataset, keyword)
    for keyword in EMPTY_IF_UNKNOWN:
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
