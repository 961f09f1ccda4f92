"""Write pictures and reports of a run later, from its stored raw scores, without inference."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from patchad.core.baselines import patch_statistics
from patchad.core.host import to_host
from patchad.core.image import Radiograph, Screening
from patchad.errors import ImageError, RequestError
from patchad.export import IMAGE_KINDS
from patchad.export.tiff import stored_heatmap
from patchad.export.write import check_kinds, write_image_kinds, write_run_kinds
from patchad.model.calibration import patch_percentiles
from patchad.model.card import ModelCard, card_from_dict
from patchad.prepare.workers import Ready, required
from patchad.progress import Progress, silent
from patchad.store.layouts import open_run
from patchad.store.run import ImageRow, Run, read_again, stored_scores

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Exported:
    """How many images were written completely, and the failures: (path, reason)."""

    written: int
    failed: tuple[tuple[str, str], ...]


def export(
    folder: Path,
    kinds: Sequence[str],
    *,
    deidentify: bool = False,
    invent_geometry: bool = False,
    progress: Progress = silent,
) -> Exported:
    """Write ``kinds`` for every screened image of a run; the images are read again.

    ``deidentify`` leaves the patient out of DICOM objects; ``invent_geometry`` allows kind ``pm``.

    Raises:
        RequestError: ``folder`` is not a run, or ``pm`` is not allowed.
        OutputError: the disk is full, or the folder read-only or in use.
    """
    check_kinds(kinds, invent_geometry=invent_geometry)
    with open_run(folder, "export") as run:
        return export_run(
            run, kinds, deidentify=deidentify, invent_geometry=invent_geometry, progress=progress
        )


def export_run(
    run: Run,
    kinds: Sequence[str],
    *,
    deidentify: bool = False,
    invent_geometry: bool = False,
    progress: Progress = silent,
) -> Exported:
    """As :func:`export`, for a holder of the folder's lock; an existing report is rewritten."""
    check_kinds(kinds, invent_geometry=invent_geometry)
    folder = run.folder
    if (folder / "report.html").exists():
        kinds = tuple(dict.fromkeys((*kinds, "report")))
    card = card_from_dict(run.settings["card"], f"the card in {folder}")
    failed: list[tuple[str, str]] = []
    wanted = bool(set(kinds) & set(IMAGE_KINDS))
    rows = [row for row in run.rows if wanted and row.status == "ok"]
    for number, (row, read) in enumerate(read_again(run, rows, card.preprocessing), start=1):
        try:
            radiograph, screening = rebuild(run, row, required(read), card)
            remarks = write_image_kinds(
                folder, row.id, screening, radiograph, card, kinds, deidentify=deidentify
            )
            if remarks.no_objects:
                failed.append((row.path, remarks.no_objects))
            for note in remarks.notes:
                log.info("%s: %s", row.path, note)
        except (ImageError, RequestError) as error:
            failed.append((row.path, str(error)))
        progress("exporting", number, len(rows), math.nan)
    left_out = write_run_kinds(folder, kinds, deidentify=deidentify)
    return Exported(len(rows) - len(failed), (*failed, *left_out))


def rebuild(run: Run, row: ImageRow, read: Ready, card: ModelCard) -> tuple[Radiograph, Screening]:
    """The screening of an image of a run that was read again, from its stored scores."""
    radiograph, prepared = read.radiograph, read.prepared.as_stored()
    scores = stored_scores(run, row)
    found = patch_statistics(torch.tensor(prepared.pixels), scores.grid)
    return radiograph, Screening(
        source=radiograph.source,
        scores=scores,
        heatmap=stored_heatmap(run, row, read, scores, card),
        score=math.nan if row.score is None else row.score,
        percentile=math.nan if row.percentile is None else row.percentile,
        flagged=bool(row.flagged),
        patch_percentiles=patch_percentiles(card.calibrated, scores.values),
        baselines=dict(zip(found, to_host(*found.values()), strict=True)),
        reasons=(row.reason,) if row.reason else (),
    )
