"""The run folder: the results of a screening, written and read.

``run.json`` holds the settings, ``images.csv`` a row per input, ``patches/<id>.parquet`` a row per
patch. The pictures next to them (``heatmaps/``, ``overlays/``) belong to :mod:`patchad.export`.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from pydantic import TypeAdapter

from patchad.core.grid import PatchGrid
from patchad.core.image import PatchScores, Radiograph, Screening
from patchad.core.turn import Turn
from patchad.errors import OutputError, RequestError
from patchad.files.kinds import no_run
from patchad.files.names import checked
from patchad.files.whole import shown, write_whole
from patchad.prepare.preprocess import Preprocessing
from patchad.prepare.workers import DEFAULT_LIMITS, Fault, How, Limits, Ready, read_ahead
from patchad.read.manifest import ManifestRow

FORMAT = 2


@dataclass(frozen=True)
class ImageRow:
    """A row of images.csv, its fields the columns in order; None if unknown.

    ``rows`` and ``columns`` are the size of the image as stored, ``scored_rows`` and
    ``scored_columns`` as prepared; ``reading`` is the decisions made while reading; ``frame``
    is the frame of a multi-frame image, the first is 1; ``turned`` is how the film was turned for
    the model (:attr:`patchad.core.turn.Turn.name`), empty if not; ``assumed_row_mm`` and
    ``assumed_col_mm`` are the assumed pixel spacing if the spacing is unknown.
    """

    id: str
    path: str
    status: Literal["ok", "failed", "skipped"]
    reason: str
    sop_instance_uid: str = ""
    score: float | None = None
    percentile: float | None = None
    flagged: bool | None = None
    n_patches: int | None = None
    seconds: float | None = None
    modality: str = ""
    laterality: str = ""
    view: str = ""
    rows: int | None = None
    columns: int | None = None
    scored_rows: int | None = None
    scored_columns: int | None = None
    stride: int | None = None
    spacing_row_mm: float | None = None
    spacing_col_mm: float | None = None
    digest: str = ""
    reading: str = ""
    frame: int | None = None
    turned: str = ""
    assumed_row_mm: float | None = None
    assumed_col_mm: float | None = None

    @property
    def spacing_mm(self) -> tuple[float, float] | None:
        """(row, col), None if unknown."""
        if self.spacing_row_mm is None or self.spacing_col_mm is None:
            return None
        return self.spacing_row_mm, self.spacing_col_mm

    def as_entry(self) -> ManifestRow:
        """The manifest row to read the image again in the same way."""
        return ManifestRow(
            Path(self.path),
            laterality=self.laterality,
            view=self.view,
            spacing_mm=self.spacing_mm,
            frame=self.frame,
            digest=self.digest,
        )


@dataclass(frozen=True, eq=False)
class Run:
    """A run folder that was read: ``settings`` is run.json, ``images`` is images.csv."""

    folder: Path
    settings: Mapping[str, Any]
    images: pd.DataFrame

    @property
    def rows(self) -> tuple[ImageRow, ...]:
        """The rows of images.csv."""
        known = self.images.astype(object).where(self.images.notna(), None)
        return tuple(_ROW.validate_python(row) for row in known.to_dict("records"))

    def patches(self, image_id: str) -> pd.DataFrame:
        """The patches of one image, in the order of its grid.

        ``row``, ``col``, ``size`` are pixels of the scored image, turned back as stored; ``x``,
        ``y``, ``width``, ``height`` the same box in pixels of the image as stored; ``foreground`` a
        share in [0, 1]; ``score`` and ``percentile`` NaN if the patch was not scored; the rest
        are the baselines.
        """
        # from bytes: pyarrow can't open paths that aren't UTF-8
        return pd.read_parquet(BytesIO(self.patches_path(image_id).read_bytes()))

    def patches_path(self, image_id: str) -> Path:
        """Where the patch scores of one image are."""
        return patches_path(self.folder, image_id)

    def heatmap_path(self, image_id: str) -> Path:
        """Where the heatmap of one image is, if requested."""
        return heatmap_path(self.folder, image_id)

    def overlay_path(self, image_id: str) -> Path:
        """Where the overlay of one image is, if requested."""
        return overlay_path(self.folder, image_id)


def patches_path(folder: Path, image_id: str) -> Path:
    """Where a run keeps the patch scores of one image."""
    return folder / "patches" / f"{checked(image_id)}.parquet"


def heatmap_path(folder: Path, image_id: str) -> Path:
    """Where a run keeps the heatmap of one image."""
    return folder / "heatmaps" / f"{checked(image_id)}.tif"


def overlay_path(folder: Path, image_id: str) -> Path:
    """Where a run keeps the overlay of one image."""
    return folder / "overlays" / f"{checked(image_id)}.png"


def object_path(folder: Path, image_id: str, kind: str) -> Path:
    """Where a run keeps the DICOM object of a kind of one image."""
    return folder / "dicom" / checked(image_id) / f"{kind}.dcm"


def read_run(folder: Path) -> Run:
    """Read ``run.json`` and ``images.csv`` of a run folder.

    Raises:
        RequestError: it is not a run folder, or an incomplete one.
    """
    try:
        settings = json.loads((folder / "run.json").read_text("utf-8"))
        images = pd.read_csv(
            folder / "images.csv",
            dtype=dict.fromkeys(_TEXT, str),
            keep_default_na=False,
            na_values={f.name: [""] for f in fields(ImageRow) if f.name not in _TEXT},
        )
    except FileNotFoundError as error:
        raise RequestError(no_run(folder, Path(error.filename).name)) from None
    except (OSError, ValueError) as error:
        raise RequestError(f"{folder} cannot be read as a run: {error}") from None
    if settings.get("format") != FORMAT:
        raise RequestError(
            f"{folder} is a run of format {settings.get('format')}, this patchad reads {FORMAT}: "
            "screen again, or use the version that made it"
        )
    return Run(folder, settings, images)


def write_run(folder: Path, settings: Mapping[str, Any], rows: Sequence[ImageRow]) -> Run:
    """Write ``images.csv`` and then ``run.json``, and read them back.

    An older ``run.json`` is deleted first: it wouldn't match the new table.
    """
    table = pd.DataFrame([asdict(row) for row in rows], columns=[f.name for f in fields(ImageRow)])
    for field in ("n_patches", "rows", "columns", "scored_rows", "scored_columns", "stride"):
        table[field] = table[field].astype(
            "Int64"
        )  # missing values must not turn the column into floats
    try:
        (folder / "run.json").unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(
            f"{shown(folder / 'run.json')} cannot be replaced ({error.strerror}): make the folder "
            "writable"
        ) from None
    write_whole(folder / "images.csv", table.to_csv(index=False))
    write_whole(folder / "run.json", json.dumps({"format": FORMAT, **settings}, indent=2) + "\n")
    return read_run(folder)


def write_patches(path: Path, screening: Screening) -> None:
    """Write one image's patches as Parquet; see :meth:`Run.patches` for the columns."""
    grid, boxes = screening.scores.grid, screening.boxes
    table = pd.DataFrame(
        {
            "row": grid.corners[:, 0],
            "col": grid.corners[:, 1],
            "size": np.full(len(grid), grid.size),
            "foreground": screening.scores.foreground,
            "score": screening.scores.values,
            "percentile": screening.patch_percentiles,
            "x": boxes[:, 1],
            "y": boxes[:, 0],
            "width": boxes[:, 3],
            "height": boxes[:, 2],
            **screening.baselines,
        }
    )
    write_whole(path, table.to_parquet(None, index=False))


def stored_scores(run: Run, row: ImageRow) -> PatchScores:
    """The patch scores of a screened image, on the grid they were made with.

    Raises:
        RequestError: the file is missing, or its patches don't match images.csv.
    """
    path = patches_path(run.folder, row.id)
    try:
        table = run.patches(row.id)
    except (OSError, ValueError) as error:
        raise RequestError(f"{path} cannot be read ({error}): screen this image again") from None
    if row.scored_rows is None or row.scored_columns is None or row.stride is None:
        raise RequestError(f"{row.path} has status {row.status}: it has no scores")
    size = int(table["size"].iloc[0])
    shape = row.scored_rows, row.scored_columns
    grid = PatchGrid(shape, size, row.stride, _turn_of(row).inverse)
    if not np.array_equal(table[["row", "col"]].to_numpy(), grid.corners):
        raise RequestError(
            f"{path} does not hold the patches of its row in images.csv: screen this image again"
        )
    return PatchScores(
        grid,
        table["score"].to_numpy(np.float32, copy=True),
        table["foreground"].to_numpy(np.float32, copy=True),
    )


def _turn_of(row: ImageRow) -> Turn:
    try:
        return Turn.named(row.turned)
    except ValueError as error:
        raise RequestError(
            f"images.csv, column turned of {row.path}: {error}: screen this image again"
        ) from None


def done_row(
    image_id: str,
    screening: Screening,
    radiograph: Radiograph,
    seconds: float,
    *,
    frame: int | None = None,
    assumed_mm: tuple[float, float] | None = None,
) -> ImageRow:
    """The row of images.csv for a screened image; ``assumed_mm`` is an assumed spacing."""
    grid, source = screening.scores.grid, screening.source
    row_mm, col_mm = radiograph.spacing_mm or (None, None)
    assumed_row_mm, assumed_col_mm = assumed_mm or (None, None)
    turned = grid.turn.inverse.name
    return ImageRow(
        id=image_id,
        path=row_path(source.path),
        status="ok",
        reason="; ".join(screening.reasons),
        sop_instance_uid=source.sop_instance_uid,
        score=screening.score,
        percentile=screening.percentile,
        flagged=screening.flagged,
        n_patches=int(screening.scores.scored.sum()),
        seconds=round(seconds, 3),
        modality=source.modality,
        laterality=source.laterality,
        view=source.view,
        rows=radiograph.shape[0],
        columns=radiograph.shape[1],
        scored_rows=grid.shape[0],
        scored_columns=grid.shape[1],
        stride=grid.stride,
        spacing_row_mm=row_mm,
        spacing_col_mm=col_mm,
        digest=source.digest,
        reading="; ".join((*source.reading, *[f"{turned} for the model"] * bool(turned))),
        frame=frame,
        turned=turned,
        assumed_row_mm=assumed_row_mm,
        assumed_col_mm=assumed_col_mm,
    )


def read_again(
    run: Run, rows: Sequence[ImageRow], preprocessing: Preprocessing
) -> Iterator[tuple[ImageRow, Ready | Fault]]:
    """The images of screened rows, read and prepared in the same way again.

    An image whose file is gone or has changed gives a fault.
    """
    settings = run.settings
    used = settings.get("settings", {})
    voi, bits = used.get("voi") or preprocessing.voi, used.get("bits") or preprocessing.bits
    largest = max(((row.rows or 0) * (row.columns or 0) for row in rows), default=0)
    seconds = settings.get("limits", {}).get("seconds", DEFAULT_LIMITS.seconds)
    how = How(replace(preprocessing, voi=voi, bits=bits), limits=Limits(max(1, largest), seconds))
    entries = [row.as_entry() for row in rows]
    for row, (_, read) in zip(rows, read_ahead(entries, how), strict=True):
        yield row, read


def row_path(path: str | Path) -> str:
    """A path for tables; bytes that aren't UTF-8 become escapes."""
    return str(path).encode("utf-8", "backslashreplace").decode()


_TEXT = [field.name for field in fields(ImageRow) if field.type is str] + ["status"]
_ROW = TypeAdapter(ImageRow)
