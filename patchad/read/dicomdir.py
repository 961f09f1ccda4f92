"""DICOMDIR, the table of contents of a study on a disc: which of its files are images."""

from pathlib import Path

from pydicom import Dataset, dcmread
from pydicom.multival import MultiValue

from patchad.errors import ImageError, RequestError
from patchad.read.caps import Metered
from patchad.read.dicom_header import is_deflated, text_of, value_of
from patchad.read.quiet import quiet

_MOST_BYTES = 2**24  # of a DICOMDIR: tens of thousands of images


def images_of(path: Path) -> list[Path]:
    """The images that a DICOMDIR names, in its order; they may be missing.

    Only the type and the file of each record are read, nothing about the patient.
    Names that would lead out of the folder are left out.

    Raises:
        RequestError: it cannot be read, is no DICOMDIR, or too large. Deflated ones are
            invalid (PS3.10, 8.6), and could inflate to any size.
    """
    try:
        with quiet(), Metered(path, _MOST_BYTES) as file:
            if is_deflated(file):
                raise ImageError("a DICOMDIR is never deflated")
            file.seek(0)
            content = dcmread(file, specific_tags=["DirectoryRecordSequence"])
            found = [_file(path.parent, record) for record in content.DirectoryRecordSequence]
    except Exception:  # pydicom may raise anything on a damaged file, and quote the header
        raise RequestError(
            f"{path} cannot be read as a DICOMDIR: name the folder instead, or its files"
        ) from None
    return [image for image in found if image is not None]


def _file(folder: Path, record: Dataset) -> Path | None:
    if text_of(record, "DirectoryRecordType").upper() != "IMAGE":
        return None
    names = value_of(record, "ReferencedFileID") or ""
    parts = [str(name) for name in (names if isinstance(names, MultiValue) else [names])]
    if not all(
        part.strip() and part not in (".", "..") and Path(part).name == part for part in parts
    ):
        return None
    file = folder.joinpath(*parts)
    # names on discs often appear in lower case, but upper case in the table
    lower = folder.joinpath(*map(str.lower, parts))
    return lower if lower.exists() and not file.exists() else file
