"""Which films are of one patient, without saying of whom.

What identifies a patient is hashed with a secret of the caller before it leaves this module: the
hashes tell which films belong together, and without the secret nobody can try out patients' numbers
on them.
"""

from pathlib import Path

from patchad.errors import ImageError
from patchad.files.pseudonym import pseudonym
from patchad.read.caps import MAX_PIXELS
from patchad.read.dicom_header import parse, value_of
from patchad.read.quiet import quiet

PATIENT, STUDY = "patient", "study"
_ELEMENTS = {PATIENT: "PatientID", STUDY: "StudyInstanceUID"}
_READ = [*_ELEMENTS.values(), "SOPClassUID", "Rows"]  # the last two tell that it is DICOM


def identity_of(path: Path, secret: bytes, *, max_pixels: int = MAX_PIXELS) -> dict[str, str]:
    """The hash of a DICOM file's Patient ID (``patient``) and Study Instance UID (``study``).

    Only those that the file has: none where its header cannot be read, or it is no DICOM file.
    Issuers are not looked at: films of two patients who share a number stay together.
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
