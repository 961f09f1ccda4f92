"""The samples: patches, lesions, marks and images, each with its truth and every score."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from patchad.core.baselines import BASELINES
from patchad.engine.marks import find_marks
from patchad.errors import RequestError
from patchad.evaluation.labelling import (
    NOT_COUNTED,
    centred_in,
    hits,
    label_patches,
)
from patchad.evaluation.truth import Truth
from patchad.model.calibration import Pooling, pool
from patchad.store.run import Run

METHOD = "score"
SCORERS = (METHOD, *BASELINES)  # columns of every table here: the method and the baselines
_BOX = ["y", "x", "height", "width"]
_NO_MARKS = pd.DataFrame(
    {"patient": np.empty(0, np.int64), "case": np.empty(0, np.int64), "score": np.empty(0)}
)


@dataclass(frozen=True, eq=False)
class Samples:
    """Tables, each with ``patient`` (int) and a float64 column a scorer of ``SCORERS``.

    ``patches``: the scored ones, with ``case`` (int), ``label`` of :mod:`.labelling` and
    ``in_positive`` (bool, of a positive image). ``lesions``: the regions, with ``case``, ``kind``
    and ``scored`` (a scored patch is positive for it); their score is that of the best mark that
    hits them, -inf without one; ``pointed_<scorer>`` (bool) says whether the centre of the image's
    highest patch lies in them. ``pairs`` (K, 2) int64 says which row of ``patches`` is positive
    for which row of ``lesions``. ``images``: with ``case`` and ``positive``. ``false_marks``, by
    scorer: the marks on negative images, with ``patient``, ``case`` and ``score``.
    """

    patches: pd.DataFrame
    lesions: pd.DataFrame
    pairs: NDArray[np.int64]
    images: pd.DataFrame
    false_marks: Mapping[str, pd.DataFrame]

    def of_cases(self, chosen: NDArray[np.bool_]) -> "Samples":
        """The samples of the cases that are ``chosen`` (cases,), with their numbers as before."""
        patches, lesions, images = (
            chosen[table["case"].to_numpy(np.int64)]
            for table in (self.patches, self.lesions, self.images)
        )
        pairs = self.pairs[patches[self.pairs[:, 0]]]
        places = [np.cumsum(kept) - 1 for kept in (patches, lesions)]
        return Samples(
            patches=self.patches[patches].reset_index(drop=True),
            lesions=self.lesions[lesions].reset_index(drop=True),
            pairs=np.stack([place[pairs[:, k]] for k, place in enumerate(places)], 1),
            images=self.images[images].reset_index(drop=True),
            false_marks={
                scorer: marks[chosen[marks["case"].to_numpy(np.int64)]].reset_index(drop=True)
                for scorer, marks in self.false_marks.items()
            },
        )


def collect(run: Run, truth: Truth) -> Samples:
    """Read the patches of every case and label them by its regions.

    Baselines are pooled to image scores as the card says; for ``excess``, which needs a threshold
    that they don't have, by their maximum.

    Raises:
        RequestError: a table of patches lacks a column, or scored patches lack baselines.
    """
    calibration = run.settings["card"]["calibration"]
    pooling: Pooling = "max" if calibration["pooling"] == "excess" else calibration["pooling"]
    patches, lesions, images = [], [], []
    pairs: list[NDArray[np.int64]] = []
    false_marks: dict[str, list[pd.DataFrame]] = {scorer: [] for scorer in SCORERS}
    n_patches = n_lesions = 0
    for number, case in enumerate(truth.cases):
        owner = {"patient": case.patient, "case": number}
        table = _scored(run, case.image_id)
        boxes = table[_BOX].to_numpy(np.float64)
        scores = table[[*SCORERS]].astype(np.float64)
        labels = label_patches(boxes, case.regions)
        if case.positive and not case.regions:  # there is a lesion, but its position is unknown
            label = np.full_like(labels.label, NOT_COUNTED)
        else:
            label = labels.label
        patches.append(scores.assign(**owner, label=label, in_positive=case.positive))
        pooled = {
            name: pool(table[name].to_numpy(np.float32), pooling, calibration["top_k"], math.nan)
            for name in BASELINES
        }
        images.append({METHOD: case.score, **pooled, **owner, "positive": case.positive})
        best: dict[str, NDArray[np.float64]] = {}
        pointed: dict[str, NDArray[np.bool_]] = {}
        centred = centred_in(boxes, case.regions)
        for scorer in SCORERS:
            values = scores[scorer].to_numpy()
            marks = find_marks(boxes, values)
            hit = hits(boxes[marks], case.regions)
            best[scorer] = np.where(hit, values[marks, None], -np.inf).max(0, initial=-np.inf)
            pointed[f"pointed_{scorer}"] = centred[marks[0]]  # the first mark is the highest patch
            if not case.positive:
                found = {**owner, "score": values[marks]}
                false_marks[scorer].append(pd.DataFrame(found))
        kinds = [region.kind or "unspecified" for region in case.regions]
        lesions.append(
            pd.DataFrame(
                {**best, **pointed, "kind": pd.Series(kinds, dtype=str), "scored": labels.of.any(0)}
            ).assign(**owner)
        )
        pairs.append(np.argwhere(labels.of) + np.array([n_patches, n_lesions]))
        n_patches, n_lesions = n_patches + len(table), n_lesions + len(kinds)
    return Samples(
        patches=pd.concat(patches, ignore_index=True),
        lesions=pd.concat(lesions, ignore_index=True),
        pairs=np.concatenate(pairs),
        images=pd.DataFrame(images),
        false_marks={
            scorer: pd.concat([_NO_MARKS, *parts], ignore_index=True)
            for scorer, parts in false_marks.items()
        },
    )


def _scored(run: Run, image_id: str) -> pd.DataFrame:
    try:
        table = run.patches(image_id)
    except (OSError, ValueError) as error:
        raise RequestError(
            f"{run.patches_path(image_id)} cannot be read ({error}): screen this image again"
        ) from None
    missing = [name for name in (*SCORERS, *_BOX) if name not in table]
    if missing:
        raise RequestError(
            f"{run.patches_path(image_id)} lacks the columns {', '.join(missing)}: it was written "
            "by another version or changed; screen this image again"
        )
    scored: pd.DataFrame = table[np.isfinite(table[METHOD])]
    if not np.isfinite(scored[[*BASELINES]].to_numpy()).all():
        raise RequestError(
            f"{run.patches_path(image_id)} has scored patches without baselines, so the method "
            "cannot be compared with them: screen this image again"
        )
    return scored
