"""The run folder: what a screening leaves behind, and how it is read again.

``run.json`` says what was run, ``images.csv`` holds a row an input, ``patches/<id>.parquet`` a row
a patch. The pictures beside them (``heatmaps/``, ``overlays/``) belong to :mod:`patchad.export`.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from patchad.errors import RequestError
from patchad.grid import PatchGrid
from patchad.image import PatchScores, Radiograph, Screening
from patchad.io.files import write_whole

FORMAT = 1

# The columns of images.csv, in order. Sizes are in pixels: of the image as stored (rows, columns)
# and as scored, after resampling (scored_rows, scored_columns).
IMAGE_COLUMNS = (
    "id", "path", "sop_instance_uid", "status", "reason", "score", "percentile", "flagged",
    "n_patches", "seconds", "modality", "laterality", "view", "rows", "columns", "scored_rows",
    "scored_columns", "stride", "spacing_row_mm", "spacing_col_mm", "digest", "reading",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Run:
    """A run folder that was read: ``settings`` is run.json, ``images`` is images.csv."""

    folder: Path
    settings: Mapping[str, Any]
    images: pd.DataFrame

    @property
    def done(self) -> pd.DataFrame:
        """The rows of the images that were screened."""
        return self.images[self.images["status"] == "ok"]

    def patches(self, image_id: str) -> pd.DataFrame:
        """The patches of one image, in the order of its grid.

        ``row``, ``col``, ``size`` are pixels of the scored image; ``x``, ``y``, ``width``,
        ``height`` the same box in pixels of the image as stored; ``foreground`` a share in
        [0, 1]; ``score`` and ``percentile`` NaN where the patch was not scored; the rest are
        the baselines.
        """
        return pd.read_parquet(self.patches_path(image_id))

    def patches_path(self, image_id: str) -> Path:
        """Where the patch scores of one image are."""
        return self.folder / "patches" / f"{image_id}.parquet"

    def heatmap_path(self, image_id: str) -> Path:
        """Where the heatmap of one image is, if it was asked for."""
        return self.folder / "heatmaps" / f"{image_id}.tif"

    def overlay_path(self, image_id: str) -> Path:
        """Where the overlay of one image is, if it was asked for."""
        return self.folder / "overlays" / f"{image_id}.png"


def read_run(folder: Path) -> Run:
    """Read ``run.json`` and ``images.csv`` of a run folder.

    Raises:
        RequestError: it is not a run folder, or not a whole one.
    """
    try:
        settings = json.loads((folder / "run.json").read_text("utf-8"))
        images = pd.read_csv(
            folder / "images.csv",
            dtype={name: str for name in IMAGE_COLUMNS if name in _TEXT},
            keep_default_na=False,
            na_values={name: [""] for name in IMAGE_COLUMNS if name not in _TEXT},
        )
    except FileNotFoundError as error:
        raise RequestError(
            f"{folder} is not a whole run ({Path(error.filename).name} is missing): give the --out "
            "folder of `patchad screen`, and finish a broken one with --resume"
        ) from None
    except (OSError, ValueError) as error:
        raise RequestError(f"{folder} cannot be read as a run: {error}") from None
    if settings.get("format") != FORMAT:
        raise RequestError(
            f"{folder} is a run of format {settings.get('format')}, this patchad reads {FORMAT}: "
            "screen again, or use the version that made it"
        )
    return Run(folder, settings, images)


def write_run(folder: Path, settings: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Run:
    """Write ``images.csv`` and then ``run.json``, and read them back."""
    table = pd.DataFrame(rows, columns=list(IMAGE_COLUMNS))
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
    write_whole(path, lambda aside: table.to_parquet(aside, index=False))


def stored_scores(run: Run, row: pd.Series) -> PatchScores:
    """The patch scores of one row of images.csv, on the grid they were made with."""
    table = run.patches(row["id"])
    shape = int(row["scored_rows"]), int(row["scored_columns"])
    grid = PatchGrid(shape, int(table["size"].iloc[0]), int(row["stride"]))
    if not np.array_equal(table[["row", "col"]].to_numpy(), grid.corners):
        raise RequestError(
            f"{run.patches_path(row['id'])} does not hold the patches that images.csv tells of: "
            "screen this image again"
        )
    return PatchScores(
        grid,
        table["score"].to_numpy(np.float32, copy=True),
        table["foreground"].to_numpy(np.float32, copy=True),
    )


def done_row(
    image_id: str, screening: Screening, radiograph: Radiograph, seconds: float
) -> dict[str, Any]:
    """The row of images.csv for a screened image."""
    grid, source = screening.scores.grid, screening.source
    spacing = radiograph.spacing_mm or (np.nan, np.nan)
    return {
        "id": image_id,
        "path": source.path,
        "sop_instance_uid": source.sop_instance_uid,
        "status": "ok",
        "reason": "; ".join(screening.reasons),
        "score": screening.score,
        "percentile": screening.percentile,
        "flagged": screening.flagged,
        "n_patches": int(screening.scores.scored.sum()),
        "seconds": round(seconds, 3),
        "modality": source.modality,
        "laterality": source.laterality,
        "view": source.view,
        "rows": radiograph.shape[0],
        "columns": radiograph.shape[1],
        "scored_rows": grid.shape[0],
        "scored_columns": grid.shape[1],
        "stride": grid.stride,
        "spacing_row_mm": spacing[0],
        "spacing_col_mm": spacing[1],
        "digest": source.digest,
        "reading": "; ".join(source.reading),
    }


def image_id(preferred: str, taken: set[str]) -> str:
    """A file name for one image's results: ``preferred`` made safe, numbered if ``taken``."""
    safe = re.sub(r"[^A-Za-z0-9._-]+", "_", preferred).strip("._")[:100] or "image"
    name, number = safe, 1
    while name.lower() in taken:  # some file systems do not tell a from A
        number += 1
        name = f"{safe}-{number}"
    taken.add(name.lower())
    return name


_TEXT = {
    "id", "path", "sop_instance_uid", "status", "reason", "modality", "laterality", "view",
    "digest", "reading",
}  # fmt: skip
