"""Tables from users: manifests (images, patients, labels) and regions (lesions)."""

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NoReturn, cast

from patchad.core.image import Region
from patchad.errors import ImageError, RequestError
from patchad.read.caps import MAX_PIXELS
from patchad.read.mask import regions_of
from patchad.read.table import SUFFIXES, Table, read_table

Label = Literal["negative", "positive", "unknown"]
Split = Literal["train", "validation", "test", "unlabelled", ""]

_LABELS = ("negative", "positive", "unknown")
_SPLITS = ("train", "validation", "test", "unlabelled", "")
_LATERALITIES = ("L", "R", "B", "")
_OWN = ("path", "patient_id", "label", "split", "laterality", "view", "study_id", "spacing_mm")


@dataclass(frozen=True)
class ManifestRow:
    """One image of a manifest, or of a searched folder.

    ``path`` is absolute; ``split`` is empty if none was given; ``spacing_mm`` (row, col) is for
    images without their own; ``frame`` is one of a multi-frame image, the first is 1; ``digest`` is
    that of the pixels if the image must be this one, else empty; ``other`` holds the columns that
    patchad has no field for, as text. ``origin`` is who named the file, the user, a manifest or a
    folder search, which decides the error if it is missing or no image.
    """

    path: Path
    patient_id: str = ""
    label: Label = "unknown"
    split: Split = ""
    laterality: str = ""
    view: str = ""
    study_id: str = ""
    spacing_mm: tuple[float, float] | None = None
    frame: int | None = None
    digest: str = ""
    other: Mapping[str, str] = field(default_factory=dict)
    origin: Literal["user", "manifest", "search"] = field(default="user", compare=False)


def is_manifest(path: Path) -> bool:
    """Whether a file is a manifest, by the suffix of its name."""
    return path.suffix.lower() in SUFFIXES


def read_manifest(path: Path) -> list[ManifestRow]:
    """Read a manifest, whose first row names the columns; see :func:`.table.read_table`.

    ``path``, ``patient_id`` and ``label`` are required; without a label, ``birads`` gives it: 1-2
    negative, 3-6 positive, 0 unknown (Wei et al., doi 10.1117/12.2293408). ``split``,
    ``laterality``, ``view``, ``study_id`` and ``spacing_mm`` (one number, or two, row col) are
    optional. Whether the images exist is checked when they are read.

    Raises:
        RequestError: a cell is invalid, with its row (the header is row 1) and column; an image is
            named twice, or a patient is in two splits.
    """
    table = read_table(path)
    _need(table, "path", "patient_id")
    if "label" not in table.columns and "birads" not in table.columns:
        raise RequestError(
            f"{path} has neither a column label ({_listed(_LABELS)}) nor birads (0-6): add one; "
            f"it has {_listed(table.columns)}"
        )
    rows: list[ManifestRow] = []
    seen: dict[Path, int] = {}
    splits: dict[str, tuple[Split, int]] = {}
    for number, record in table.records:
        row = _manifest_row(table, number, record)
        if row.path in seen:
            raise RequestError(
                f"{path}, row {number}, column path: {row.path} was named in row {seen[row.path]} "
                "already: each image may have one row"
            )
        seen[row.path] = number
        split, where = splits.setdefault(row.patient_id, (row.split, number))
        if split != row.split:
            raise RequestError(
                f"{path}, row {number}, column split: patient {row.patient_id} is in "
                f"{row.split or '(none)'} here and in {split or '(none)'} in row {where}: all "
                "images of a patient belong to one split"
            )
        rows.append(row)
    return rows


def read_regions(path: Path, *, max_pixels: int = MAX_PIXELS) -> dict[Path, list[Region]]:
    """Read where lesions are: ``path,x,y,width,height[,kind]`` or ``path,mask[,kind]`` rows.

    Boxes are in pixels of the image as stored, origin top-left, x right, y down. Each connected
    part (8 neighbours) of the pixels that aren't zero in a mask file becomes a region. A file may
    have both kinds of rows. Paths and masks are relative to the file.

    Args:
        path: the table; see :func:`patchad.read.table.read_table`.
        max_pixels: the cap on rows × columns of a mask.

    Returns:
        the regions of each image, by its absolute path.

    Raises:
        RequestError: a cell is invalid, with its row (the header is row 1) and column.
    """
    table = read_table(path)
    _need(table, "path")
    box = ("x", "y", "width", "height")
    if "mask" not in table.columns:
        _need(table, *box)
    regions: dict[Path, list[Region]] = {}
    for number, record in table.records:
        image = _absolute(path, number, record, "path")
        kind, given = record.get("kind", ""), [name for name in box if record.get(name)]
        if record.get("mask") and not given:
            found = _mask_regions(path, number, record, kind, max_pixels)
        elif len(given) == len(box) and not record.get("mask"):
            found = [_box_region(table, number, record, kind)]
        else:
            filled = [*given, *(["mask"] if record.get("mask") else [])]
            _wrong(
                path,
                number,
                "mask" if "mask" in table.columns else "width",
                _listed(filled),
                "fill in x, y, width and height, or else mask",
            )
        regions.setdefault(image, []).extend(found)
    return regions


def lexical(path: Path, base: Path | None = None) -> Path:
    """``path`` as an absolute path without ``..``, relative to ``base`` or the current folder.

    Links are not followed: a result has the name that the user gave.
    """
    return Path(os.path.normpath((base or Path.cwd()).absolute() / path))


def _manifest_row(table: Table, number: int, record: Mapping[str, str]) -> ManifestRow:
    path = table.path
    if not record["patient_id"]:
        _wrong(path, number, "patient_id", "", "name the patient: splits are made by patient")
    laterality = record.get("laterality", "").upper()
    if laterality not in _LATERALITIES:
        _wrong(path, number, "laterality", laterality, _listed(_LATERALITIES))
    split = record.get("split", "").lower()
    if split not in _SPLITS:
        _wrong(path, number, "split", split, _listed(_SPLITS))
    return ManifestRow(
        path=_absolute(path, number, record, "path"),
        patient_id=record["patient_id"],
        label=_label(path, number, record),
        split=cast("Split", split),
        laterality=laterality,
        view=record.get("view", "").upper(),
        study_id=record.get("study_id", ""),
        spacing_mm=_spacing(table, number, record.get("spacing_mm", "")),
        other={name: value for name, value in record.items() if name not in _OWN},
        origin="manifest",
    )


def _label(path: Path, number: int, record: Mapping[str, str]) -> Label:
    label, birads = record.get("label", "").lower(), record.get("birads", "")
    if label in _LABELS:
        return cast("Label", label)
    if label or not birads:
        _wrong(
            path,
            number,
            "label" if "label" in record else "birads",
            label or birads,
            _listed(_LABELS) if "label" in record else "0, 1, 2, 3, 4 (4a-4c), 5, 6",
        )
    category = re.fullmatch(r"([0-6])(?:\.0)?|(4)[a-c]", birads.lower())
    if category is None:
        _wrong(path, number, "birads", birads, "0, 1, 2, 3, 4 (4a-4c), 5, 6")
    value = int(category[1] or category[2])
    return "unknown" if value == 0 else "negative" if value <= 2 else "positive"


def _spacing(table: Table, number: int, text: str) -> tuple[float, float] | None:
    if not text:
        return None
    parts = [table.number(part) for part in text.split()]
    if len(parts) not in (1, 2) or not all(0 < part < math.inf for part in parts):
        _wrong(table.path, number, "spacing_mm", text, "one positive number, or two: row col")
    return parts[0], parts[-1]


def _box_region(table: Table, number: int, record: Mapping[str, str], kind: str) -> Region:
    path = table.path
    for name in ("x", "y", "width", "height"):
        if not math.isfinite(table.number(record[name])):
            _wrong(path, number, name, record[name], "a number of pixels")
    x, y, width, height = (table.number(record[name]) for name in ("x", "y", "width", "height"))
    for name, size, end in (("width", width, x + width), ("height", height, y + height)):
        if size <= 0:
            _wrong(path, number, name, record[name], "a number above 0")
        if end <= 0:
            _wrong(path, number, name, record[name], "the box must reach into the image")
    return Region(x, y, width, height, kind)


def _mask_regions(
    path: Path, number: int, record: Mapping[str, str], kind: str, max_pixels: int
) -> list[Region]:
    file = _absolute(path, number, record, "mask")
    try:
        return regions_of(file, kind, max_pixels)
    except ImageError as error:
        _wrong(path, number, "mask", str(file), f"a mask as PNG, TIFF, PGM or BMP ({error})")


def _need(table: Table, *needed: str) -> None:
    missing = [name for name in needed if name not in table.columns]
    if missing:
        other = ""
        if "patient_id" in missing and (
            "mask" in table.columns or {"width", "height"} <= {*table.columns}
        ):
            other = "; it looks like a table of regions, for --regions"
        elif "width" in missing and "patient_id" in table.columns:
            other = "; it looks like a manifest, for --truth"
        raise RequestError(
            f"{table.path} lacks the column{'s' * (len(missing) > 1)} {_listed(missing)}: row 1 "
            f"must name {'them' if len(missing) > 1 else 'it'}; it names "
            f"{_listed(table.columns)}{other}"
        )


def _absolute(path: Path, number: int, record: Mapping[str, str], column: str) -> Path:
    """The file that a row names, relative to the table's folder.

    A table made on Windows separates folders by backslashes. Elsewhere these are taken as
    separators too, unless there is a file of exactly that name.
    """
    text = record[column]
    if not text:
        _wrong(path, number, column, "", "the path of a file")
    file = lexical(Path(text), path.parent)
    if "\\" in text and os.sep != "\\" and not file.exists():
        return lexical(Path(text.replace("\\", "/")), path.parent)
    return file


def _listed(names: Sequence[str]) -> str:
    return ", ".join(name or "(empty)" for name in names) or "(nothing)"


def _wrong(path: Path, number: int, column: str, found: str, allowed: str) -> NoReturn:
    raise RequestError(
        f"{path}, row {number}, column {column}: found {found or '(empty)'}; allowed: {allowed}"
    ) from None


def facts_of(row: ManifestRow) -> dict[str, Any]:
    """The user's facts of an image on which results depend, except for the patient."""
    facts: dict[str, Any] = {
        "laterality": row.laterality,
        "view": row.view,
        "spacing_mm": row.spacing_mm and [*row.spacing_mm],
        "frame": row.frame,
    }
    return {name: value for name, value in facts.items() if value}
