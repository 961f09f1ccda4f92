"""The marks of a run as ``marks.csv``, one row per mark."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from patchad.engine.marks import Mark
from patchad.errors import RequestError
from patchad.files.whole import write_whole
from patchad.store.run import Run

_NUMBERS = (
    *("x", "y", "width", "height", "centre_x", "centre_y"),
    *("area_mm2", "score", "rarity", "rarity_upper"),
)
COLUMNS = ("image_id", "number", *_NUMBERS)


def write_marks(folder: Path, found: Mapping[str, Sequence[Mark]]) -> None:
    """Write ``marks.csv`` of a run: the marks by image, the rarest first; the header if none.

    ``x``, ``y``, ``width``, ``height`` bound the outline, in pixels of the stored image, and
    ``centre_x``, ``centre_y`` is the centre of its area. ``area_mm2`` is empty if the pixel
    spacing is unknown, ``rarity`` and its ``rarity_upper`` if they are not calibrated.
    """
    rows = [
        (
            *(image_id, mark.number, *mark.box, *(round(place, 2) for place in mark.centre)),
            *(mark.area_mm2, mark.score, mark.rarity, mark.upper),
        )
        for image_id, marks in found.items()
        for mark in marks
    ]
    write_marks_table(folder, pd.DataFrame(rows, columns=COLUMNS))


def write_marks_table(folder: Path, table: pd.DataFrame) -> None:
    """Write ``marks.csv`` from the rows that :func:`read_marks` gives."""
    write_whole(folder / "marks.csv", table.to_csv(index=False))


def read_marks(folder: Path) -> pd.DataFrame:
    """The rows of ``marks.csv``, unknown numbers as NaN.

    Raises:
        RequestError: it is missing, or isn't a table of marks.
    """
    path = folder / "marks.csv"
    try:
        table = pd.read_csv(path, dtype={"image_id": str}, keep_default_na=False, na_values=[""])
        missing = [name for name in COLUMNS if name not in table]
        if missing:
            raise ValueError(f"it lacks the columns {', '.join(missing)}")
        kinds: dict[str, str] = {"number": "int64", **dict.fromkeys(_NUMBERS, "float64")}
        return table.astype(kinds)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise RequestError(
            f"{path} cannot be read as the marks of a run ({reason}): screen again"
        ) from None


def run_in_words(run: Run) -> str:
    """The number of marks of a run, the usual number, and whether they decide on flags."""
    table, done = read_marks(run.folder), run.settings["counts"]["ok"]
    how = run.settings["card"]["calibration"]["marks"]
    count = len(table)
    what = "its strongest mark" if how["decides"] else "a score of its own, on another scale,"
    return (
        f"{count} mark{'s' * (count != 1)} on {table['image_id'].nunique()} of {done} images, a "
        f"normal film has {how['per_film']:.2g}; {what} decides whether an image is flagged"
    )
