"""Facts about images from their headers, for a first manifest: no pixel is decoded.

Identifiers of patients and studies become pseudonyms in the process that reads them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from patchad.errors import ImageError
from patchad.files.pseudonym import pseudonym
from patchad.prepare.workers import DEFAULT_LIMITS, Fault, Limits, fault_of, read_ahead
from patchad.read.caps import bounded
from patchad.read.dicom import header_facts, header_of
from patchad.read.dicom_header import text_of, value_of
from patchad.read.manifest import ManifestRow
from patchad.read.quiet import quiet
from patchad.read.read import NO_IMAGE, check_entry, content_kind

_IDENTIFIERS = ("PatientID", "IssuerOfPatientID", "StudyInstanceUID", "Manufacturer")
# Manufacturer is free text, which may hold any name. These are known manufacturers.
_MAKERS = (
    "Agfa", "Canon", "Carestream", "DRTECH", "Fuji", "GE", "Giotto", "Hologic", "iCRco", "IMS",
    "Kodak", "Konica", "Lorad", "Philips", "Planmed", "Samsung", "Sectra", "Shimadzu", "Siemens",
    "Toshiba", "Varian", "Vieworks",
)  # fmt: skip


@dataclass(frozen=True)
class Facts:
    """Facts from a header; empty or None if unknown, as for pictures.

    ``patient`` and ``study`` are pseudonyms; ``spacing_mm`` is (row, col); ``frames`` how many the
    file has.
    """

    patient: str = ""
    study: str = ""
    modality: str = ""
    manufacturer: str = ""
    laterality: str = ""
    view: str = ""
    spacing_mm: tuple[float, float] | None = None
    frames: int = 1


@dataclass(frozen=True)
class _Reader:
    """Reads the facts of a file, in the processes that read images."""

    salt: str
    limits: Limits

    def __call__(self, entry: ManifestRow) -> Facts | Fault:
        try:
            check_entry(entry)
            match content_kind(entry.path):
                case "DICOM":
                    with quiet(), bounded(self.limits.max_pixels):
                        return self._dicom(entry)
                case "picture":
                    return Facts()
            raise ImageError(NO_IMAGE)
        except Exception as error:
            return fault_of(error)

    def _dicom(self, entry: ManifestRow) -> Facts:
        header = header_of(entry.path, *_IDENTIFIERS, max_pixels=self.limits.max_pixels)
        patient, issuer, study, maker = (_text(value_of(header, name)) for name in _IDENTIFIERS)
        frames, spacing, laterality, view = header_facts(header)
        return Facts(
            patient=pseudonym(self.salt, "patient", issuer, patient) if patient else "",
            study=pseudonym(self.salt, "study", study) if study else "",
            modality=text_of(header, "Modality").upper(),
            manufacturer=_maker(maker),
            laterality=laterality,
            view=view,
            spacing_mm=spacing,
            frames=frames,
        )


def facts_ahead(
    entries: Sequence[ManifestRow], salt: str, limits: Limits = DEFAULT_LIMITS
) -> Iterator[tuple[ManifestRow, Facts | Fault]]:
    """Each image with the facts in its header, or why it can't be read; in order.

    Raises:
        RequestError: no process can be started.
    """
    return read_ahead(entries, _Reader(salt, limits))


def _text(value: object) -> str:
    return "" if value is None else str(value).strip()


def _maker(text: str) -> str:
    words = text.casefold().replace(",", " ").split()
    found = [name for name in _MAKERS if any(word.startswith(name.casefold()) for word in words)]
    return found[0] if len(found) == 1 else ""
