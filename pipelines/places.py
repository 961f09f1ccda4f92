"""Places: how well a heatmap separates marked regions from the rest of the same positive films.

Only where the heatmap is defined: for detectors of the lungs, inside the lungs. Over a whole chest
film a fixed map of the lungs would score well without finding anything.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from patchad.evaluation.estimate import estimate
from patchad.evaluation.labelling import region_pixels
from patchad.evaluation.metrics import auroc, rank, resample, weighted_mean
from patchad.evaluation.truth import match_truth
from patchad.export.tiff import read_heatmap
from patchad.read.manifest import read_manifest, read_regions
from patchad.store.run import Run

STEP = 4  # every fourth row and column is used
LEVELS = 1000  # levels that values are rounded to when films are pooled


def judge_places(run: Run, truth: Path, regions: Path, *, seed: int) -> dict[str, Any]:
    """``pooled``: AUROC of all films' pixels together; ``by_film``: mean of each film's own AUROC.

    Pixels in a region against all others where the heatmap is defined, on positive films that
    have regions. Intervals by patient, of 1000 resamples.
    """
    cases = match_truth(run, read_manifest(truth), read_regions(regions))
    values, inside, owners, own = [], [], [], []
    for case in cases.cases:
        if not case.regions:
            continue
        shown = read_heatmap(run.heatmap_path(case.image_id)).values[::STEP, ::STEP]
        lesion = region_pixels(case.regions, case.shape)[::STEP, ::STEP]
        defined = np.isfinite(shown)
        values.append(shown[defined].astype(np.float64))
        inside.append(lesion[defined])
        owners.append(case.patient)
        counts = rank(torch.from_numpy(values[-1]), torch.from_numpy(inside[-1])).counts()
        own.append(auroc(counts).item())
    weights = resample(cases.patients, 1000, seed=seed, device=torch.device("cpu"))
    everything = np.concatenate([*values, np.empty(0)])
    edges = np.unique(np.quantile(everything, np.linspace(0, 1, LEVELS))) if len(everything) else []
    unit = np.repeat(np.array(owners, np.int64), [len(one) for one in values])
    ranking = rank(
        torch.from_numpy(np.searchsorted(edges, everything, side="right")),
        torch.from_numpy(np.concatenate([*inside, np.empty(0, bool)])),
        torch.from_numpy(unit),
        cases.patients,
    )
    known = [k for k, value in enumerate(own) if math.isfinite(value)]
    films = torch.tensor([own[k] for k in known], dtype=torch.float64)
    film_owners = torch.tensor([owners[k] for k in known], dtype=torch.int64)
    figures = {
        **estimate(
            ["pooled"], lambda w: auroc(ranking.counts(w))[:, None], weights, len(set(owners))
        ),
        **estimate(
            ["by_film"],
            lambda w: weighted_mean(films, film_owners, w)[:, None],
            weights,
            len({owners[k] for k in known}),
        ),
    }
    return {
        **{name: figure.as_json() for name, figure in figures.items()},
        "counts": {"films": len(owners), "films_with_both": len(known)},
    }
