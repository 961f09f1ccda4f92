"""The marks of a screened image, recomputed from its stored run."""

import math

from patchad.core.image import Heatmap
from patchad.engine.marks import Mark, marks_of
from patchad.errors import RequestError
from patchad.export.tiff import read_heatmap
from patchad.model.calibration import Calibration
from patchad.store.run import ImageRow, Run, stored_scores


def stored_marks(
    run: Run, row: ImageRow, calibration: Calibration, heatmap: Heatmap | None = None
) -> tuple[Mark, ...]:
    """As :func:`patchad.engine.marks.marks`, from the stored scores and, if dense, the heatmap.

    ``heatmap`` is the image's own if it was already read.

    Raises:
        RequestError: the scores are missing or damaged, or the heatmap has another size.
        ImageError: the heatmap cannot be read.
    """
    scores = stored_scores(run, row)
    shape = (row.rows or 0, row.columns or 0)
    dense = None
    if calibration.marks.dense:
        dense = (heatmap or read_heatmap(run.heatmap_path(row.id))).values
        if dense.shape != shape:
            raise RequestError(
                f"{run.heatmap_path(row.id)} has {dense.shape} pixels (row, col), its image has "
                f"{shape}: screen this image again"
            )
    spacing = row.spacing_mm or (math.nan, math.nan)
    return marks_of(scores, calibration, shape, spacing, dense, flagged=bool(row.flagged))
