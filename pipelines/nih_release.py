"""The files of the NIH ChestX-ray release: the table, the list of boxes and the images."""

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from patchad.errors import RequestError

TABLES = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")
BOXES = "BBox_List_2017.csv"
SIDE = 1024  # pixels of every PNG of the release
OLDEST = 120  # years; the first release has ages of up to 414
EXTENT_MM = (200, 500)  # of a plausible image side: a cassette is 350 × 430 mm
# The list of boxes and the table name this finding differently.
SAME = {"Infiltrate": "Infiltration"}


@dataclass(frozen=True)
class Entry:
    """A row of the table: ``view`` AP or PA, ``age`` in years, None if implausible.

    ``spacing_mm`` (row, col) is that of the PNG, None if the table's is implausible.
    """

    image: str
    patient: str
    findings: tuple[str, ...]
    age: int | None
    view: str
    spacing_mm: tuple[float, float] | None


@dataclass(frozen=True)
class Box:
    """A marked finding, in pixels of the PNG from its top-left corner."""

    image: str
    finding: str
    x: float
    y: float
    width: float
    height: float


def read_entries(path: Path) -> list[Entry]:
    """Read ``Data_Entry_2017*.csv``; its paired column names are split by commas, or quoted.

    Raises:
        RequestError: a column is missing, or a row has too few cells.
    """
    header, rows = _rows(path)
    where = {name: at for at, name in enumerate(header)}
    names = ("Image Index", "Finding Labels", "Patient ID", "Patient Age", "View Position",
             "OriginalImage[Width", "OriginalImagePixelSpacing[x")  # fmt: skip
    missing = [name for name in names if name not in where]
    if missing:
        raise RequestError(f"{path} lacks {', '.join(missing)}: give the table of the release")
    image, findings, patient, age, view, width, spacing = (where[name] for name in names)
    entries = []
    for number, row in rows:
        if len(row) < spacing + 2:
            raise RequestError(f"{path}, row {number}: {len(row)} cells, the header has more")
        entries.append(
            Entry(
                row[image],
                row[patient],
                tuple(row[findings].split("|")),
                _age(row[age]),
                row[view],
                _png_spacing(row[width : width + 2], row[spacing : spacing + 2]),
            )
        )
    return entries


def read_boxes(path: Path) -> list[Box]:
    """Read ``BBox_List_2017.csv``: x, y, width, height are columns 3 to 6, under any name.

    Raises:
        RequestError: the columns differ, or a number is missing.
    """
    header, rows = _rows(path)
    if header[:2] != ["Image Index", "Finding Label"] or not header[2:3][0].startswith("Bbox"):
        raise RequestError(f"{path} names {', '.join(header)}: give the list of the release")
    boxes = []
    for number, row in rows:
        try:
            x, y, width, height = (float(cell) for cell in row[2:6])
        except ValueError:
            raise RequestError(
                f"{path}, row {number}: found {row[2:6]}, needed x, y, w, h"
            ) from None
        boxes.append(Box(row[0], SAME.get(row[1], row[1]), x, y, width, height))
    return boxes


def _rows(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The header with its quoted pairs taken apart, and the rows with their numbers."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            header, *rows = csv.reader(file)
    except (OSError, ValueError) as error:
        raise RequestError(f"{path} cannot be read as a table: {error}") from None
    names = [name.strip() for name in ",".join(header).split(",")]
    return names, [(number, row) for number, row in enumerate(rows, start=2) if any(row)]


def _age(text: str) -> int | None:
    """Years from ``58`` or ``058Y``; an age in months or days is a child's."""
    found = re.fullmatch(r"0*(\d+)([YMD]?)", text.strip())
    if found is None:
        return None
    years = int(found[1]) if found[2] in ("", "Y") else 0
    return years if years <= OLDEST else None


def _png_spacing(size: Sequence[str], spacing: Sequence[str]) -> tuple[float, float] | None:
    """Spacing (row, col) of the PNG, from width and height of the original and its spacing (x, y).

    The originals were resized to 1024 × 1024 regardless of their shape: a round marker of an
    original of 2500 × 2048 pixels is an upright ellipse in its PNG, of 2048 × 2500 a flat one.
    """
    try:
        width, height = (float(cell) for cell in size)
        x, y = (float(cell) for cell in spacing)
    except ValueError:
        return None
    extents = (height * y, width * x)
    if not all(EXTENT_MM[0] <= extent <= EXTENT_MM[1] for extent in extents):
        return None
    return extents[0] / SIDE, extents[1] / SIDE


def find_images(data: Path) -> dict[str, Path]:
    """The PNG files below ``data`` by name.

    Raises:
        RequestError: there are none.
    """
    images = {path.name: path.resolve() for path in sorted(data.rglob("*.png"))}
    if not images:
        raise RequestError(f"{data} holds no PNG files: give the folder with the release's images")
    return images
