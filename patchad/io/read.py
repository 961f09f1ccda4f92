"""The door: any file that patchad reads, and the images among what a user names."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from patchad.errors import ImageError, RequestError
from patchad.image import Radiograph, Voi
from patchad.io.dicom import count_frames, read_dicom
from patchad.io.dicomdir import images_of
from patchad.io.files import shown
from patchad.io.manifest import ManifestRow, lexical, read_manifest
from patchad.io.marker import kind_of
from patchad.io.raster import MAX_PIXELS, format_of, read_raster

log = logging.getLogger(__name__)

_BARE_DICOM = (b"\x02\0", b"\x08\0", b"\0\x02", b"\0\x08")  # group 2 or 8, without a preamble
_MANIFESTS = (".csv", ".parquet")
_RESULTS = ("run", "model", "selftest", "evaluation")  # a demo holds films as well
# Files that lie beside images and obviously are none. Anything else in a folder gets a row, so
# that an image that can't be read is seen to fail, not silently left out.
# fmt: off
_BESIDE_IMAGES = frozenset({
    ".csv", ".tsv", ".parquet", ".txt", ".md", ".rst", ".pdf", ".xml", ".json", ".jsonl", ".yaml",
    ".yml", ".toml", ".ini", ".html", ".htm", ".css", ".js", ".xls", ".xlsx", ".ods", ".doc",
    ".docx", ".ppt", ".pptx", ".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".py",
    ".ipynb", ".sh", ".bat", ".exe", ".dll", ".log", ".db", ".sqlite", ".npy", ".npz", ".h5",
    ".hdf5", ".pt", ".safetensors", ".part", ".tmp",
})
# fmt: on


def read_radiograph(
    path: Path,
    *,
    spacing_mm: tuple[float, float] | None = None,
    voi: Voi = "auto",
    max_pixels: int = MAX_PIXELS,
    frame: int | None = None,
) -> Radiograph:
    """Read a radiograph from DICOM, PNG, JPEG, TIFF or PGM, told apart by content.

    Args:
        path: the file, by whatever name.
        spacing_mm: distance of pixel centres (row, col) in millimetres, for files that don't say
            it; what a DICOM file says goes first.
        voi: what scales the grey of DICOM files, see :func:`patchad.io.dicom.read_dicom`.
        max_pixels: the cap on rows × columns, checked before memory is taken.
        frame: which one of a multi-frame DICOM file, the first is 1.

    Raises:
        NotARadiographError: a sound file that isn't for patchad (colour, multi-frame, CT …).
        ImageError: the file cannot be read. The message doesn't repeat the path.
        RequestError: ``spacing_mm`` isn't positive.
    """
    if spacing_mm is not None and not all(0 < value < float("inf") for value in spacing_mm):
        raise RequestError(f"spacing must be positive millimetres (row, col), got {spacing_mm}")
    try:
        if path.exists() and not path.is_file():
            raise ImageError("this is a folder or a device, not a file: name an image")
        with path.open("rb") as file:
            head = file.read(132)
    except OSError as error:
        raise ImageError(f"the file cannot be read: {error.strerror}") from None
    if not head:
        raise ImageError("the file is empty: fetch it again")
    # DICOM first: its preamble may well look like a TIFF's
    if head[128:] == b"DICM":
        return read_dicom(path, spacing_mm, voi=voi, max_pixels=max_pixels, frame=frame)
    if format_of(head):
        return read_raster(path, spacing_mm, max_pixels=max_pixels)
    if head[:2] in _BARE_DICOM:
        return read_dicom(path, spacing_mm, voi=voi, max_pixels=max_pixels, frame=frame)
    raise ImageError(
        "the content is no image that patchad reads: convert it to DICOM, PNG, JPEG, TIFF or PGM"
    )


def read_entry(
    row: ManifestRow,
    spacing_mm: tuple[float, float] | None = None,
    *,
    voi: Voi = "auto",
    max_pixels: int = MAX_PIXELS,
) -> Radiograph:
    """Read the image of a manifest's row; what the file doesn't say, the row may.

    Args:
        row: its spacing, laterality and view stand in for those that the file lacks.
        spacing_mm: (row, col) for where neither says it.
        voi: as for :func:`read_radiograph`.
        max_pixels: likewise.

    Raises:
        ImageError: as :func:`read_radiograph`; or it is not the one of the row's digest.
    """
    radiograph = read_radiograph(
        row.path,
        spacing_mm=row.spacing_mm or spacing_mm,
        voi=voi,
        max_pixels=max_pixels,
        frame=row.frame,
    )
    source = radiograph.source
    if row.digest and source.digest != row.digest:
        raise ImageError(
            "the file has changed, it is not the image that was screened: screen it again"
        )
    laterality, view = source.laterality or row.laterality, source.view or row.view
    return replace(radiograph, source=replace(source, laterality=laterality, view=view))


def frames_of(row: ManifestRow) -> list[ManifestRow]:
    """A row for each frame of a multi-frame DICOM file; the row itself where it is none."""
    try:
        frames = count_frames(row.path)
    except ImageError:
        return [row]  # which is said when it is read
    return [replace(row, frame=n) for n in range(1, frames + 1)] if frames > 1 else [row]


def find_images(inputs: Sequence[Path]) -> list[ManifestRow]:
    """What a user named, as one row an image: files, folders, manifests and a DICOMDIR.

    Folders are searched through in the order of their names, linked folders once; hidden files,
    a DICOMDIR (its files are found without it), what obviously is no image and folders that patchad
    wrote (their pictures are results) are left out. An
    image that is named twice is taken once, as it was named first.

    Raises:
        RequestError: an input is missing, or a folder holds no image.
    """
    rows: dict[Path, ManifestRow] = {}
    for given in inputs:
        path = lexical(given)
        if path.is_dir():
            if (kind := kind_of(path)) in _RESULTS:
                raise RequestError(
                    f"{given} is a {kind} folder, which patchad wrote: name the images themselves"
                )
            found = [ManifestRow(file) for file in _files(path, set())]
            if not found:
                raise RequestError(f"{given} holds no images: name another folder, or a file")
        elif not path.exists():
            raise RequestError(f"{given} does not exist: name a file, a folder or a manifest")
        elif path.name.upper() == "DICOMDIR":
            found = [ManifestRow(file) for file in images_of(path)]
            if not found:
                raise RequestError(f"{given} names no images: name the folder instead")
        elif path.suffix.lower() in _MANIFESTS:
            found = read_manifest(path)
        else:
            found = [ManifestRow(path)]
        for row in found:
            rows.setdefault(row.path, row)
    return list(rows.values())


def _files(folder: Path, seen: set[tuple[int, int]]) -> Iterator[Path]:
    """The files below ``folder`` that may be images; ``seen`` holds folders, lest links loop."""
    try:
        status = folder.stat()
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise RequestError(
            f"the folder {folder} cannot be searched ({error.strerror}): make it readable, or name "
            "its images one by one"
        ) from None
    if (status.st_dev, status.st_ino) in seen:
        return
    seen.add((status.st_dev, status.st_ino))
    for entry in entries:
        if entry.name.startswith(".") or entry.name.upper() == "DICOMDIR":
            continue
        if entry.is_dir():
            if (kind := kind_of(entry)) in _RESULTS:
                log.info("left out %s: a %s folder, which patchad wrote", shown(entry), kind)
                continue
            yield from _files(entry, seen)
        elif _may_be_image(entry):
            yield entry  # a link to nothing gets a row as well: its image is missing


def _may_be_image(path: Path) -> bool:
    return (path.is_file() or path.is_symlink()) and path.suffix.lower() not in _BESIDE_IMAGES
