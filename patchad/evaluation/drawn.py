"""The marks of a run against the truth: how many, on what, and is their rarity right?"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from patchad.errors import RequestError
from patchad.evaluation.estimate import Figure, Section, estimate, per_patient
from patchad.evaluation.labelling import mark_hits
from patchad.evaluation.truth import Truth
from patchad.store.marks_table import read_marks
from patchad.store.run import Run

RARITIES = (1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001)  # marks a normal film
_BOX = ["y", "x", "height", "width"]


@dataclass(frozen=True, eq=False)
class Drawn:
    """The marks of the judged images.

    ``marks`` has a row a mark: ``image_id``, ``number``, ``patient`` (int), ``positive`` (of
    its image), ``lesions_hit`` (float, NaN if the lesion's position is unknown), ``score``,
    ``rarity`` and ``rarity_upper``. ``hit`` (L,) bool: the lesions that were hit, in the order
    of the cases' regions.
    """

    marks: pd.DataFrame
    hit: NDArray[np.bool_]


def collect_marks(run: Run, truth: Truth) -> Drawn:
    """Match the marks of a run with the regions of its cases.

    Raises:
        RequestError: the run has no table of marks.
    """
    by_image = dict(tuple(read_marks(run.folder).groupby("image_id")))
    parts: list[pd.DataFrame] = []
    hit: list[NDArray[np.bool_]] = [np.empty(0, np.bool_)]
    for case in truth.cases:
        regions = case.regions
        table = by_image.get(case.image_id)
        if table is None:
            hit.append(np.zeros(len(regions), np.bool_))
            continue
        centres = table[["centre_y", "centre_x"]].to_numpy(np.float64)
        hits = mark_hits(table[_BOX].to_numpy(np.float64), centres, regions)
        hit.append(np.asarray(hits.any(0), np.bool_))
        lesions = hits.sum(1).astype(np.float64)
        if case.positive and not regions:
            lesions[:] = np.nan
        chosen = table[["image_id", "number", "score", "rarity", "rarity_upper"]]
        parts.append(
            chosen.assign(patient=case.patient, positive=case.positive, lesions_hit=lesions)
        )
    columns = ["image_id", "number", "score", "rarity", "rarity_upper"]
    columns += ["patient", "positive", "lesions_hit"]
    marks = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)
    kinds = {"patient": "int64", "positive": "bool", "lesions_hit": "float64", "rarity": "float64"}
    return Drawn(marks.astype(kinds), np.concatenate(hit))


def marks_section(
    drawn: Drawn, images: pd.DataFrame, lesions: pd.DataFrame, weights: Tensor, kind: str = ""
) -> Section:
    """Marks a negative image, lesions that a mark hits (of ``kind``, if given), and precision.

    Precision is the share of marks that hit a lesion, of marks on negative images and on positive
    ones whose regions are known. ``images`` and ``lesions`` are those of the samples.
    """
    marks = drawn.marks
    negative = images[~images["positive"]]["patient"].to_numpy(np.int64)
    of_kind = np.ones(len(lesions), np.bool_)
    if kind:
        of_kind = (lesions["kind"] == kind).to_numpy()
    owner = lesions["patient"].to_numpy(np.int64)
    false = marks[~marks["positive"]]["patient"].to_numpy(np.int64)
    known = marks[marks["lesions_hit"].notna()]
    true = known[known["lesions_hit"] > 0]
    ratios: dict[str, tuple[NDArray[np.int64], NDArray[np.int64], int]] = {
        "marks_a_negative_image": (false, negative, len(set(negative))),
        "lesions_marked": (owner[of_kind & drawn.hit], owner[of_kind], len(set(owner[of_kind]))),
    }
    if not kind:
        judged = known["patient"].to_numpy(np.int64)
        ratios["precision"] = true["patient"].to_numpy(np.int64), judged, len(set(judged))
    figures = {
        name: figure
        for name, (part, whole, carriers) in ratios.items()
        for figure in [_ratio(part, whole, carriers, weights)]
    }
    counts = {
        "lesions": int(of_kind.sum()),
        "lesions_marked": int((of_kind & drawn.hit).sum()),
        "negative_images": len(negative),
        "marks_on_negative_images": len(false),
        "negative_images_without_marks": len(negative)
        - marks[~marks["positive"]]["image_id"].nunique(),
        "marks_on_lesions": len(true),
        "marks": len(marks),
    }
    return Section(figures, counts, {})


def rarity_table(
    drawn: Drawn, images: pd.DataFrame, resolution: float, weights: Tensor
) -> list[dict[str, Any]]:
    """For each rarity: how many marks at least this rare a negative image really has.

    A dict a row: ``expected`` (the stated rarity), ``observed`` (a figure as JSON) and the
    number of ``marks``. The model has no rarities below ``resolution``.
    """
    negative = images[~images["positive"]]["patient"].to_numpy(np.int64)
    marks = drawn.marks[~drawn.marks["positive"]]
    rows = []
    for rarity in RARITIES:
        if rarity < resolution:
            break
        rare = marks[marks["rarity"] <= rarity + 1e-12]["patient"].to_numpy(np.int64)
        figure = _ratio(rare, negative, len(set(negative)), weights)
        if marks["rarity"].isna().any():  # a stride that isn't calibrated
            figure = Figure(math.nan, None)
        rows.append({"expected": rarity, "observed": figure.as_json(), "marks": len(rare)})
    return rows


def resolution_of(calibration: Mapping[str, Any]) -> float:
    """The lowest rarity that a card's calibration can give.

    Raises:
        RequestError: the card has no calibration of marks.
    """
    try:
        return float(calibration["marks"]["rarity"]["expected"][-1])
    except (LookupError, TypeError) as error:
        raise RequestError(
            f"the run's card has no calibration of marks ({error!r}): it is of another "
            "version, screen again"
        ) from None


def _ratio(
    part: Sequence[int] | NDArray[np.int64],
    whole: Sequence[int] | NDArray[np.int64],
    carriers: int,
    weights: Tensor,
) -> Figure:
    """The number of ``part`` per item of ``whole``, both given by their patients."""
    above = per_patient(np.asarray(part, np.int64), weights)
    below = per_patient(np.asarray(whole, np.int64), weights)

    def statistic(w: Tensor) -> Tensor:
        ratio: Tensor = (w @ above) / (w @ below)
        return torch.where((w @ below) > 0, ratio, math.nan)[:, None]

    return estimate(["ratio"], statistic, weights, carriers)["ratio"]
