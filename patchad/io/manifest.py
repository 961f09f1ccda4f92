"""Tables that users give: manifests (which images, whose, what label) and regions (lesions)."""

import math
import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NoReturn, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from patchad.errors import RequestError
from patchad.image import Region

Label = Literal["negative", "positive", "unknown"]
Split = Literal["train", "validation", "test", "unlabelled", ""]

_LABELS = ("negative", "positive", "unknown")
_SPLITS = ("train", "validation", "test", "unlabelled", "")
_LATERALITIES = ("L", "R", "B", "")
_OWN = ("path", "patient_id", "label", "split", "laterality", "view", "study_id", "spacing_mm")


@dataclass(frozen=True)
class ManifestRow:
    """One image of a manifest, or of a folder that was searched through.

    ``path`` is absolute; ``split`` is empty where none was given; ``spacing_mm`` (row, col) is for
    images that carry none; ``frame`` is one of a multi-frame image, the first is 1; ``digest`` is
    that of the pixels, where only that image will do; ``other`` holds the columns that patchad has
    no field for, as text.
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


def read_manifest(path: Path) -> list[ManifestRow]:
    """Read a manifest, CSV (UTF-8, comma) or Parquet, with its columns named first.

    ``path``, ``patient_id`` and ``label`` are needed; where a label is absent, ``birads`` gives
    it: 1-2 negative, 3-6 positive, 0 unknown (Wei et al., doi 10.1117/12.2293408). ``split``,
    ``laterality``, ``view``, ``study_id`` and ``spacing_mm`` (one number, or two, row col) may be
    there. Whether the images exist is seen when they are read.

    Raises:
        RequestError: names the row (the header is row 1) and the column; also for an image named
            twice and a patient in two splits.
    """
    columns, records = _table(path)
    _need(path, columns, "path", "patient_id")
    if "label" not in columns and "birads" not in columns:
        raise RequestError(
            f"{path} has neither a column label ({_listed(_LABELS)}) nor birads (0-6): add one; "
            f"it has {_listed(columns)}"
        )
    rows: list[ManifestRow] = []
    seen: dict[Path, int] = {}
    splits: dict[str, tuple[Split, int]] = {}
    for number, record in records:
        row = _manifest_row(path, number, record)
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


def read_regions(path: Path) -> dict[Path, list[Region]]:
    """Read where lesions are: ``path,x,y,width,height[,kind]`` or ``path,mask[,kind]`` rows.

    Boxes are in pixels of the image as stored, origin top-left, x right, y down. Each connected
    part (8 neighbours) of what isn't zero in a mask file becomes a region. Both kinds of rows may
    stand in one file. Paths and masks are relative to the file.

    Returns:
        the regions of each image, by its absolute path.

    Raises:
        RequestError: names the row (the header is row 1) and the column.
    """
    columns, records = _table(path)
    _need(path, columns, "path")
    box = ("x", "y", "width", "height")
    if "mask" not in columns:
        _need(path, columns, *box)
    regions: dict[Path, list[Region]] = {}
    for number, record in records:
        image = _absolute(path, number, record, "path")
        kind, given = record.get("kind", ""), [name for name in box if record.get(name)]
        if record.get("mask") and not given:
            found = _mask_regions(path, number, record, kind)
        elif len(given) == len(box) and not record.get("mask"):
            found = [_box_region(path, number, record, kind)]
        else:
            filled = [*given, *(["mask"] if record.get("mask") else [])]
            _wrong(
                path,
                number,
                "mask" if "mask" in columns else "width",
                _listed(filled),
                "fill in x, y, width and height, or else mask",
            )
        regions.setdefault(image, []).extend(found)
    return regions


def lexical(path: Path, base: Path | None = None) -> Path:
    """``path`` as an absolute path without ``..``; relative ones start at ``base`` or here.

    Links are not followed: a result carries the name that its user gave.
    """
    return Path(os.path.normpath((base or Path.cwd()).absolute() / path))


def _manifest_row(path: Path, number: int, record: Mapping[str, str]) -> ManifestRow:
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
        spacing_mm=_spacing(path, number, record.get("spacing_mm", "")),
        other={name: value for name, value in record.items() if name not in _OWN},
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


def _spacing(path: Path, number: int, text: str) -> tuple[float, float] | None:
    if not text:
        return None
    parts = [_float(part) for part in text.split()]
    if len(parts) not in (1, 2) or not all(0 < part < math.inf for part in parts):
        _wrong(path, number, "spacing_mm", text, "one positive number, or two: row col")
    return parts[0], parts[-1]


def _box_region(path: Path, number: int, record: Mapping[str, str], kind: str) -> Region:
    for name in ("x", "y", "width", "height"):
        if not math.isfinite(_float(record[name])):
            _wrong(path, number, name, record[name], "a number of pixels")
    x, y, width, height = (float(record[name]) for name in ("x", "y", "width", "height"))
    for name, size, end in (("width", width, x + width), ("height", height, y + height)):
        if size <= 0:
            _wrong(path, number, name, record[name], "a number above 0")
        if end <= 0:
            _wrong(path, number, name, record[name], "the box must reach into the image")
    return Region(x, y, width, height, kind)


def _mask_regions(path: Path, number: int, record: Mapping[str, str], kind: str) -> list[Region]:
    file = _absolute(path, number, record, "mask")
    try:
        with warnings.catch_warnings():  # a large mask is no attack: its user named it
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(file) as picture:
                has_alpha = picture.mode in ("LA", "PA", "RGBA")
                values = np.asarray(picture)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or "it is not an image, or damaged"
        _wrong(path, number, "mask", str(file), f"a PNG, TIFF, PGM or BMP file ({reason})")
    if values.ndim == 3:
        values = (values[..., :-1] if has_alpha else values).max(axis=2)
    lesion: NDArray[np.bool_] = np.asarray(values != 0)
    if not lesion.any():
        _wrong(path, number, "mask", str(file), "a mask with pixels above 0 (these are all 0)")
    labels, _ = ndimage.label(lesion, structure=np.ones((3, 3), bool))
    regions = []
    for index, (rows, cols) in enumerate(ndimage.find_objects(labels), start=1):
        part = labels[rows, cols] == index
        regions.append(Region(cols.start, rows.start, part.shape[1], part.shape[0], kind, part))
    return regions


def _table(path: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """The columns, and each row that isn't empty with its number in a spreadsheet."""
    cells = _cells(path)
    if not cells or not any(cells[0]):
        raise RequestError(f"{path} is empty: its first row must name the columns")
    columns = cells[0]
    if len(columns) == 1 and re.search(r"[;\t]", columns[0]):
        raise RequestError(f"{path} separates its columns by semicolons or tabs: use commas")
    twice = sorted({name for name in columns if columns.count(name) > 1})
    if twice:
        raise RequestError(f"{path}, row 1 names {_listed(twice)} twice: rename the others")
    records = [
        (number, dict(zip(columns, row, strict=True)))
        for number, row in enumerate(cells[1:], start=2)
        if any(row)
    ]
    if not records:
        raise RequestError(f"{path} has no rows below its header: there is nothing to read")
    return columns, records


def _cells(path: Path) -> list[list[str]]:
    try:
        if path.suffix.lower() == ".parquet":
            frame = pd.read_parquet(path)
            rows: Iterator[Sequence[object]] = frame.itertuples(index=False, name=None)
            return [[_cell(cell) for cell in row] for row in ([*frame.columns], *rows)]
        # header=None: pandas would else take a first column without a name for an index, and
        # number rows without the empty ones
        frame = pd.read_csv(
            path,
            dtype=str,
            header=None,
            keep_default_na=False,
            skip_blank_lines=False,
            encoding="utf-8-sig",
        )
    except pd.errors.EmptyDataError:
        return []
    except UnicodeDecodeError:
        raise RequestError(f"{path} is not UTF-8 text: save it as CSV UTF-8") from None
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror or error}") from None
    except ValueError as error:  # pandas' and pyarrow's errors are children of ValueError
        reason = " ".join(str(error).split())
        raise RequestError(f"{path} is not a table that can be read: {reason}") from None
    return [[_cell(c) for c in row] for row in frame.itertuples(index=False, name=None)]


def _cell(value: object) -> str:
    """A cell as text: missing is empty, and 4.0 (an integer column with gaps) is 4."""
    if value is None or value is pd.NA or value is pd.NaT or value != value:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def _need(path: Path, columns: Sequence[str], *needed: str) -> None:
    missing = [name for name in needed if name not in columns]
    if missing:
        other = ""
        if "patient_id" in missing and ("mask" in columns or {"width", "height"} <= {*columns}):
            other = "; it looks like a table of regions, for --regions"
        elif "width" in missing and "patient_id" in columns:
            other = "; it looks like a manifest, for --truth"
        raise RequestError(
            f"{path} lacks the column{'s' * (len(missing) > 1)} {_listed(missing)}: row 1 must "
            f"name {'them' if len(missing) > 1 else 'it'}; it names {_listed(columns)}{other}"
        )


def _absolute(path: Path, number: int, record: Mapping[str, str], column: str) -> Path:
    if not record[column]:
        _wrong(path, number, column, "", "the path of a file")
    return lexical(Path(record[column]), path.parent)


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _listed(names: Sequence[str]) -> str:
    return ", ".join(name or "(empty)" for name in names) or "(nothing)"


def _wrong(path: Path, number: int, column: str, found: str, allowed: str) -> NoReturn:
    raise RequestError(
        f"{path}, row {number}, column {column}: found {found or '(empty)'}; allowed: {allowed}"
    ) from None
