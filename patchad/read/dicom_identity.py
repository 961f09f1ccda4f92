"""Which films are of the same patient, without identifying the patient.

Identifiers are hashed with a secret of the caller before they leave this module: the hashes show
which films belong together, and patients' numbers can't be tried out without the secret.
"""

from pathlib import Path

from patchad.errors import ImageError
from patchad.files.pseudonym import pseudonym
from patchad.read.caps import MAX_PIXELS
from patchad.read.dicom_header import parse, value_of
from patchad.read.quiet import quiet

PATIENT, STUDY = "patient", "study"
_ELEMENTS = {PATIENT: "PatientID", STUDY: "StudyInstanceUID"}
_READ = [*_ELEMENTS.values(), "SOPClassUID", "Rows"]  # the last two confirm that it is DICOM


def identity_of(path: Path, secret: bytes, *, max_pixels: int = MAX_PIXELS) -> dict[str, str]:
    """The hash of a DICOM file's Patient ID (``patient``) and Study Instance UID (``study``).

    Only those that the file has: empty if its header cannot be read, or it is no DICOM file.
    Issuers are ignored: films of two patients who share a number count as one patient's.
    """
    try:
        with quiet():
            header = parse(path, _READ, stop=True, max_pixels=max_pixels)
            found = {
                name: str(value_of(header, tag) or "").strip() for name, tag in _ELEMENTS.items()
            }
    except ImageError:
        return {}
    return {name: pseudonym(secret.hex(), name, text) for name, text in found.items() if text}
