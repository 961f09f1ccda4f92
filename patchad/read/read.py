"""Reading any supported file, and finding the images among a user's inputs."""

import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from patchad.core.image import Radiograph, Voi
from patchad.errors import ImageError, NotARadiographError, RequestError
from patchad.files.marker import kind_of
from patchad.files.whole import shown
from patchad.read.caps import MAX_PIXELS
from patchad.read.dicom import read_dicom
from patchad.read.dicomdir import images_of
from patchad.read.grey import check_levels
from patchad.read.manifest import ManifestRow, is_manifest, lexical, read_manifest
from patchad.read.raster import format_of, read_raster

log = logging.getLogger(__name__)

NO_IMAGE = "the content is not an image patchad reads: convert it to DICOM, PNG, JPEG, TIFF or PGM"
_BARE_DICOM = (b"\x02\0", b"\x08\0", b"\0\x02", b"\0\x08")  # group 2 or 8, without a preamble
_RESULTS = ("run", "model", "selftest", "evaluation")  # not demo folders, which also hold films
# Suffixes of images. A file of such a name that can't be read is damaged, or must be converted.
# fmt: off
_IMAGE_NAMES = frozenset({
    ".dcm", ".dicom", ".dic", ".ima", ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".jls",
    ".tif", ".tiff", ".btf", ".tf8", ".pgm", ".pnm", ".pbm", ".ppm", ".jp2", ".j2k", ".jpx", ".bmp",
    ".gif", ".webp", ".nii", ".mha", ".mhd", ".nrrd",
})
# A UID, or a DICOM file name on discs: at most 8 characters, with a digit.
_DICOM_NAME = re.compile(r"[0-9.]+|(?=.*\d)[A-Z0-9_]{1,8}")
# Files that often lie next to images and clearly are none. Anything else in a folder gets a row, so
# that an image that can't be read fails visibly, instead of being left out silently.
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
    bits: int | None = None,
    max_pixels: int = MAX_PIXELS,
    frame: int | None = None,
) -> Radiograph:
    """Read a radiograph from DICOM, PNG, JPEG, TIFF or PGM, recognised by content.

    Args:
        path: the file, of any name.
        spacing_mm: distance of pixel centres (row, col) in millimetres, for files without their
            own; that of a DICOM file takes precedence.
        voi: what scales the grey of DICOM files, see :func:`patchad.read.dicom.read_dicom`.
        bits: the depth of 16-bit PNG, TIFF and PGM, see
            :func:`patchad.read.raster.read_raster`.
        max_pixels: the cap on rows × columns, checked before memory is allocated.
        frame: the frame of a multi-frame DICOM file, the first is 1.

    Raises:
        NotARadiographError: a sound file that isn't for patchad (colour, multi-frame, CT, a mask of
            a few grey levels …).
        ImageError: the file cannot be read. The message doesn't repeat the path.
        RequestError: ``spacing_mm`` isn't positive.
    """
    if spacing_mm is not None and not all(0 < value < float("inf") for value in spacing_mm):
        raise RequestError(f"spacing must be positive millimetres (row, col), got {spacing_mm}")
    match content_kind(path):
        case "DICOM":
            found = read_dicom(path, spacing_mm, voi=voi, max_pixels=max_pixels, frame=frame)
        case "picture":
            found = read_raster(path, spacing_mm, bits=bits, max_pixels=max_pixels)
        case _:
            raise ImageError(NO_IMAGE)
    check_levels(found.pixels)
    return found


def content_kind(path: Path) -> Literal["DICOM", "picture", ""]:
    """The kind of a file by its first bytes; empty if patchad doesn't read it.

    Raises:
        ImageError: it is missing, empty or no file.
    """
    try:
        if path.exists() and not path.is_file():
            raise ImageError("this is a folder or a device, not a file: name an image")
        with path.open("rb") as file:
            head = file.read(132)
    except OSError as error:
        raise ImageError(f"the file cannot be read: {error.strerror}") from None
    if not head:
        raise ImageError("the file is empty: fetch it again")
    # DICOM first: its preamble may look like a TIFF
    if head[128:] == b"DICM":
        return "DICOM"
    if format_of(head):
        return "picture"
    return "DICOM" if head[:2] in _BARE_DICOM else ""


def read_entry(
    row: ManifestRow,
    spacing_mm: tuple[float, float] | None = None,
    *,
    voi: Voi = "auto",
    bits: int | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Radiograph:
    """Read the image of a manifest's row, which fills in what the file lacks.

    Args:
        row: its spacing, laterality and view are used if the file lacks them.
        spacing_mm: (row, col), used if both lack it.
        voi: as for :func:`read_radiograph`.
        bits: as for :func:`read_radiograph`.
        max_pixels: as for :func:`read_radiograph`.

    Raises:
        NotARadiographError: as :func:`read_radiograph`; or see :func:`check_entry`.
        ImageError: as :func:`read_radiograph`; or its digest is not the row's.
    """
    check_entry(row)
    radiograph = read_radiograph(
        row.path,
        spacing_mm=row.spacing_mm or spacing_mm,
        voi=voi,
        bits=bits,
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


def check_entry(row: ManifestRow) -> None:
    """Refuse a row whose file clearly isn't an image, without reading all of it.

    Raises:
        NotARadiographError: a folder was searched, and the file has neither the name nor the
            content of an image.
        ImageError: a manifest names the file, and it is missing.
    """
    if row.origin == "manifest" and not row.path.exists():
        raise ImageError(
            "there is no such file: paths are relative to the folder of the manifest"
            + (", with / between folders" if "\\" in str(row.path) else "")
        )
    if _is_stranger(row):
        raise NotARadiographError(
            "neither the name nor the content of the file is that of an image: name the file "
            "itself to read it anyway"
        )


def _is_stranger(row: ManifestRow) -> bool:
    """Whether a file was found in a folder, and neither its name nor content is an image's."""
    path = row.path
    if row.origin != "search" or path.suffix.lower() in _IMAGE_NAMES:
        return False
    if _DICOM_NAME.fullmatch(path.name):
        return False
    try:
        return path.is_file() and (path.stat().st_size == 0 or not content_kind(path))
    except (OSError, ImageError):
        return False  # a file that can't be opened may be an image


def find_images(inputs: Sequence[Path], *, strangers: bool = True) -> list[ManifestRow]:
    """The images of a user's inputs (files, folders, manifests, DICOMDIRs), a row each.

    Folders are searched in the order of their names, linked folders once. Left out are hidden
    files, a DICOMDIR (its files are found without it), files that clearly are no images and folders
    that patchad wrote (their pictures are results). An image named twice gets one row, that of its
    first mention. ``strangers`` are files in folders with neither the name nor the content of an
    image: they get a row, and are skipped when they are read, or else are left out here.

    Raises:
        RequestError: an input is missing, a folder holds no image, or a manifest names none that
            exists.
    """
    rows: dict[Path, ManifestRow] = {}
    for given in inputs:
        path = lexical(given)
        if path.is_dir():
            if (kind := kind_of(path)) in _RESULTS:
                raise RequestError(
                    f"{given} is a {kind} folder, which patchad wrote: name the images themselves"
                )
            found = [ManifestRow(file, origin="search") for file in _files(path, set())]
            found = found if strangers else [row for row in found if not _is_stranger(row)]
            if not found:
                raise RequestError(f"{given} holds no images: name another folder, or a file")
        elif not path.exists():
            raise RequestError(f"{given} does not exist: name a file, a folder or a manifest")
        elif path.name.upper() == "DICOMDIR":
            found = [ManifestRow(file) for file in images_of(path)]
            if not found:
                raise RequestError(f"{given} names no images: name the folder instead")
        elif is_manifest(path):
            found = _listed(path)
        else:
            found = [ManifestRow(path)]
        for row in found:
            rows.setdefault(row.path, row)
    return list(rows.values())


def _listed(path: Path) -> list[ManifestRow]:
    """The rows of a manifest that names at least one file."""
    rows = read_manifest(path)
    if not any(row.path.exists() for row in rows):
        raise RequestError(
            f"none of the {len(rows)} images that {path} names exists, the first is "
            f"{rows[0].path}: paths are relative to the folder of the manifest, {path.parent}"
        )
    return rows


def _files(folder: Path, seen: set[tuple[int, int]]) -> Iterator[Path]:
    """The files below ``folder`` that may be images; ``seen`` folders are skipped."""
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
            yield entry  # a link to nothing gets a row too: its image is missing


def _may_be_image(path: Path) -> bool:
    return (path.is_file() or path.is_symlink()) and path.suffix.lower() not in _BESIDE_IMAGES
