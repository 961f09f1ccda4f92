"""Pixels as samples: heatmaps against regions, kept as histograms so that memory stays small."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from patchad.errors import RequestError
from patchad.evaluation.labelling import region_pixels
from patchad.evaluation.metrics import Ranking, rank
from patchad.evaluation.region_overlap import Components, component_levels
from patchad.evaluation.truth import Case, Truth
from patchad.export.stored_marks import stored_marks
from patchad.export.tiff import read_heatmap
from patchad.model.calibration import Calibration
from patchad.store.run import Run

LEVELS = 4096


@dataclass(frozen=True, eq=False)
class Pixels:
    """Scored pixels by patient.

    ``ranking`` has heatmap values rounded down to ``LEVELS`` levels; ``overlaps`` (patients, 3)
    float64 counts, exactly, the pixels that are lesion and marked, all lesion pixels, and all
    marked pixels. ``components`` are the connected parts of lesions, as PRO counts them.
    ``negative_patients`` have scored pixels outside lesions; ``counts`` is informative only.
    """

    ranking: Ranking
    overlaps: torch.Tensor
    components: Components
    negative_patients: int
    counts: dict[str, int]


def tally_pixels(
    run: Run,
    truth: Truth,
    patch_scores: NDArray[np.float64],
    calibration: Calibration,
    device: torch.device,
) -> Pixels | None:
    """Count the pixels of negative images and of positive images with regions.

    Positive are pixels inside a region, negative all others of these images; unscored pixels
    are not ranked, but count as missed in a lesion. The levels are quantiles of the patch
    scores, where a stitched heatmap's values are densest, or of a dense map's values.

    Returns:
        None if there are no regions, or a heatmap is missing.

    Raises:
        RequestError: a heatmap doesn't have the size of its image.
    """
    cases = [case for case in truth.cases if case.regions or not case.positive]
    if not any(case.regions for case in cases) or not all(
        run.heatmap_path(case.image_id).exists() for case in cases
    ):
        return None
    rows = {row.id: row for row in run.rows}
    # The values of a dense map are not patch scores.
    known = _sampled(run, cases) if calibration.marks.dense else patch_scores
    edges = np.unique(np.quantile(known, np.linspace(0, 1, LEVELS - 1))).astype(np.float32)
    tally = np.zeros((truth.patients, 2, len(edges) + 1), np.int64)
    overlaps = np.zeros((truth.patients, 3))
    parts: list[tuple[int, NDArray[np.int64], int]] = []
    unscored = 0
    for case in cases:
        heatmap = read_heatmap(run.heatmap_path(case.image_id))
        values = heatmap.values
        if values.shape != case.shape:
            raise RequestError(
                f"{run.heatmap_path(case.image_id)} has {values.shape} pixels, its image has "
                f"{case.shape}: screen this image again"
            )
        lesion = region_pixels(case.regions, case.shape)
        scored = np.isfinite(values)
        level = np.searchsorted(edges, values[scored], side="right")
        inside = lesion[scored]
        for kind, chosen in enumerate((~inside, inside)):
            found = np.bincount(level[chosen], minlength=len(edges) + 1)
            tally[case.patient, kind] += found
        whole = np.full(case.shape, -1)
        whole[scored] = level
        parts += [(case.patient, *one) for one in component_levels(whole, lesion, len(edges) + 1)]
        above = np.zeros(case.shape, np.bool_)
        for mark in stored_marks(run, rows[case.image_id], calibration, heatmap):
            height, width = mark.mask.shape
            above[mark.row : mark.row + height, mark.col : mark.col + width] |= mark.mask
        overlaps[case.patient] += (above & lesion).sum(), lesion.sum(), above.sum()
        unscored += int((lesion & ~scored).sum())
    patient, row, level = np.nonzero(tally)
    ranking = rank(
        torch.from_numpy(level).to(device),
        torch.from_numpy(row == 1).to(device),
        torch.from_numpy(patient).to(device),
        truth.patients,
        torch.from_numpy(tally[patient, row, level]).to(device),
    )
    counts = {
        "images": len(cases),
        "positives": int(tally[:, 1].sum()),
        "negatives": int(tally[:, 0].sum()),
        "lesion_pixels_not_scored": unscored,
    }
    without = int(tally[:, 0].any(1).sum())
    components = Components.of(parts, tally[:, 0], device)
    return Pixels(ranking, torch.from_numpy(overlaps).to(device), components, without, counts)


def _sampled(run: Run, cases: Sequence[Case]) -> NDArray[np.float32]:
    """Some thousand heatmap values an image: (n,) float32."""
    parts = []
    for case in cases:
        values = read_heatmap(run.heatmap_path(case.image_id)).values
        values = values[np.isfinite(values)]
        parts.append(values[:: max(1, len(values) // LEVELS)])
    return np.concatenate(parts)
