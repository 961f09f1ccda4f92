"""Heatmaps as float32 TIFF, which ImageJ, QuPath and ITK open; runs store them so, too."""

import json
from pathlib import Path

import numpy as np
import tifffile

from patchad.core.image import Heatmap, PatchScores
from patchad.engine.stored import stitched
from patchad.errors import ImageError
from patchad.files.whole import write_whole
from patchad.model.card import ModelCard
from patchad.prepare.workers import Ready
from patchad.store.run import ImageRow, Run

_MM_PER_CM = 10.0


def write_heatmap(path: Path, heatmap: Heatmap) -> None:
    """Write ``heatmap`` as a single-page float32 TIFF of its own size, NaN kept.

    The resolution tags hold pixels per centimetre (x = along a row, y = along a column), and no
    unit if the spacing is unknown; ImageDescription is JSON with ``unit`` and ``spacing_mm``
    (row, col), exact. Deflate without a predictor, which every reader of float TIFF knows.

    Raises:
        OutputError: the file cannot be written.
    """
    spacing = heatmap.spacing_mm
    per_cm = (1.0, 1.0) if spacing is None else (_MM_PER_CM / spacing[1], _MM_PER_CM / spacing[0])
    description = {"content": "patchad heatmap", "unit": heatmap.unit, "spacing_mm": spacing}
    write_whole(
        path,
        lambda aside: tifffile.imwrite(
            aside,
            heatmap.values,
            photometric="minisblack",
            compression="zlib",
            predictor=False,
            resolution=per_cm,
            resolutionunit="NONE" if spacing is None else "CENTIMETER",
            description=json.dumps(description),
            metadata=None,
            software="patchad",
        ),
    )


def read_heatmap(path: Path) -> Heatmap:
    """Read a heatmap back, bit for bit as it was passed to :func:`write_heatmap`.

    Raises:
        ImageError: there is no such file, or it is not a patchad heatmap.
    """
    remedy = "write it again with `patchad export` or `patchad screen`"
    try:
        with tifffile.TiffFile(path) as file:
            page = file.pages.first
            content = json.loads(page.description)
            unit, spacing = str(content["unit"]), content["spacing_mm"]
            values = np.ascontiguousarray(page.asarray())
        if values.ndim != 2 or values.dtype != np.float32:
            raise ImageError(
                f"{path} holds {values.dtype} of shape {values.shape}, a heatmap is "
                f"float32 with two axes: {remedy}"
            )
        return Heatmap(values, unit, None if spacing is None else (spacing[0], spacing[1]))
    except ImageError:
        raise
    except OSError as error:
        raise ImageError(f"{path} cannot be read ({error.strerror or error}): {remedy}") from None
    except Exception as error:  # a damaged file fails anywhere: struct, zlib, codec, JSON …
        raise ImageError(f"{path} is not a heatmap of patchad ({error}): {remedy}") from None


def stored_heatmap(
    run: Run, row: ImageRow, read: Ready, scores: PatchScores, card: ModelCard
) -> Heatmap:
    """The heatmap of a screened image as stored, or stitched again if it was not written.

    Raises:
        ImageError: a detector's own dense map is missing, which can't be recomputed from the run;
            or the file is damaged.
    """
    path = run.heatmap_path(row.id)
    if path.exists():
        return read_heatmap(path)
    if card.calibrated.marks.dense:
        raise ImageError(f"{path} is missing, and only screening makes it: screen this image again")
    return stitched(scores, card, read.prepared, read.radiograph)
