"""Runs side by side: every figure of each, and its paired difference to the first run.

All rows, the trivial baselines included, are drawn with the same resamples of the same patients.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from patchad.core.arrays import Curve
from patchad.core.baselines import BASELINES
from patchad.evaluation.common import Common
from patchad.evaluation.estimate import MIN_PATIENTS, Figure, Section
from patchad.evaluation.figures import sections_of
from patchad.evaluation.judged import METHOD, Samples, collect
from patchad.store.run import Run

FIGURES: Mapping[str, tuple[str, str]] = {  # name: level and figure of the sections
    "image_auroc": ("image", "auroc"),
    "image_average_precision": ("image", "average_precision"),
    "patient_auroc": ("patient", "auroc"),
    "patch_auroc": ("patch", "auroc"),
    "within_image_auroc": ("patch", "within_image_auroc"),
    "lesions_found_at_0.25": ("froc", "sensitivity_at_0.25"),
    "lesions_found_at_0.5": ("froc", "sensitivity_at_0.5"),
    "lesions_found_at_1": ("froc", "sensitivity_at_1"),
    "lesions_found_at_2": ("froc", "sensitivity_at_2"),
    "pointing_hits": ("pointing", "hits"),
}
_SLACK = 1e-12  # a difference this small is rounding


@dataclass(frozen=True)
class Part:
    """A part of the images: all (both empty), those of a ``view``, or a ``kind`` of lesion."""

    view: str = ""
    kind: str = ""

    @property
    def name(self) -> str:
        """As in tables."""
        return f"view {self.view}" if self.view else f"kind {self.kind}" if self.kind else "all"


ALL = Part()


@dataclass(frozen=True, eq=False)
class Row:
    """A row of the table: a run, or a ``baseline`` on what the run ``of`` prepared and cut.

    ``figures`` are by part and by the names of ``FIGURES``, ``counts`` by part, ``curves`` (roc of
    images, froc) of all images.
    """

    name: str
    of: str
    baseline: str
    figures: Mapping[Part, Mapping[str, Figure]]
    counts: Mapping[Part, Mapping[str, float]]
    curves: Mapping[str, Curve]


def parts_of(common: Common) -> tuple[Part, ...]:
    """All images, each view that has positives and negatives, and each kind of lesion."""
    kinds = {region.kind or "unspecified" for case in common.cases for region in case.regions}
    seen: dict[str, set[bool]] = {}
    for view, case in zip(common.views, common.cases, strict=True):
        seen.setdefault(view, set()).add(case.positive)
    views = [view for view, labels in sorted(seen.items()) if view and len(labels) == 2]
    if len(seen) == 1:  # of all images, as the first part
        views = []
    return ALL, *(Part(view=view) for view in views), *(Part(kind=kind) for kind in sorted(kinds))


def rows_of(runs: Mapping[str, Run], common: Common, weights: Tensor) -> Iterator[list[Row]]:
    """The rows of each run: its own, and those of the baselines.

    The baselines of a run that prepared and cut its images as an earlier one did are left out,
    since they are the same.

    Args:
        runs: by name.
        common: what they are judged on.
        weights: (R, patients) float64, the resamples of all rows.
    """
    parts = parts_of(common)
    known: set[str] = set()
    for name, run in runs.items():
        samples = collect(run, common.truths[name])
        rows = [_row(samples, name, METHOD, common, parts, weights)]
        mark = _fingerprint(samples)
        if mark not in known:
            known.add(mark)
            rows += [_row(samples, name, b, common, parts, weights) for b in BASELINES]
        yield rows


def difference(figure: Figure, first: Figure) -> dict[str, Any]:
    """The paired difference as JSON: ``value``, ``ci95``, ``dropped``, ``above`` and ``below``.

    ``above`` and ``below`` are the shares of resamples in which it is more and less than 0. Unlike
    a figure's, the interval of a difference that is the same in all resamples has no width, if
    both figures have an interval: the two then rank alike, whatever patients are drawn.
    """
    excess = figure.minus(first)
    content = {**excess.as_json(), "above": None, "below": None}
    if excess.draws is None or content["value"] is None:
        return content
    draws = excess.draws[excess.draws.isfinite()]
    if len(draws):
        content["above"] = float((draws > _SLACK).double().mean())
        content["below"] = float((draws < -_SLACK).double().mean())
        same = bool((draws - draws[0]).abs().max() <= _SLACK)
        known = all(one.as_json()["ci95"][0] is not None for one in (figure, first))
        if same:
            content["ci95"] = [content["value"]] * 2 if known else [None, None]
    return content


def as_json(row: Row, first: Row) -> dict[str, Any]:
    """A row with its figures, each with its difference to the ``first`` row."""
    parts = {
        part: {
            **{
                name: {**figure.as_json(), "difference": difference(figure, first_of[name])}
                for name, figure in figures.items()
            },
            "counts": dict(row.counts[part]),
        }
        for part, figures in row.figures.items()
        for first_of in [first.figures[part]]
    }
    return {
        "name": row.name,
        "run": row.of,
        "baseline": row.baseline or None,
        **parts[ALL],
        "by_view": {part.view: content for part, content in parts.items() if part.view},
        "by_kind": {part.kind: content for part, content in parts.items() if part.kind},
    }


def mean_row(rows: Sequence[Row]) -> Row:
    """The mean of rows of the same cases and resamples, such as those of several seeds."""
    first = rows[0]
    figures = {
        part: {name: _mean([row.figures[part][name] for row in rows]) for name in own}
        for part, own in first.figures.items()
    }
    return Row(first.name, first.of, first.baseline, figures, first.counts, {})


def _mean(figures: Sequence[Figure]) -> Figure:
    value = math.fsum(figure.value for figure in figures) / len(figures)
    draws = [figure.draws for figure in figures if figure.draws is not None]
    if len(draws) < len(figures):
        return Figure(value, None)
    return Figure(value, sum(draws[1:], draws[0]) / len(draws))


def _row(
    samples: Samples,
    run: str,
    scorer: str,
    common: Common,
    parts: Sequence[Part],
    weights: Tensor,
) -> Row:
    views = np.array(common.views, dtype=object)
    figures, counts = {}, {}
    curves: dict[str, Curve] = {}
    for part in parts:
        chosen = samples.of_cases(views == part.view) if part.view else samples
        sections = sections_of(chosen, scorer, weights, part.kind)
        figures[part] = {
            name: sections[level].figures[figure] for name, (level, figure) in FIGURES.items()
        }
        counts[part] = _counts(sections)
        if part == ALL:
            drawn = {"roc": sections["image"].curves, "froc": sections["froc"].curves}
            curves = {name: own[name] for name, own in drawn.items() if name in own}
    baseline = "" if scorer == METHOD else scorer
    name = run if not baseline else f"{baseline.replace('_', ' ')} ({run})"
    return Row(name, run, baseline, figures, counts, curves)


def _counts(sections: Mapping[str, Section]) -> dict[str, float]:
    image, patient, patch, froc = (
        sections[level].counts for level in ("image", "patient", "patch", "froc")
    )
    return {
        "positive_images": image["positives"],
        "negative_images": image["negatives"],
        "positive_patients": patient["positives"],
        "negative_patients": patient["negatives"],
        "positive_patches": patch["positives"],
        "negative_patches": patch["negatives"],
        "lesions": froc["lesions"],
        "lesions_not_scored": froc["lesions_not_scored"],
    }


def _fingerprint(samples: Samples) -> str:
    """Equal for samples whose baselines are the same."""
    digest = hashlib.sha256()
    names = [*BASELINES]
    tables = [samples.patches[[*names, "case", "label"]], samples.images[names]]
    tables += [samples.lesions[[*names, *(f"pointed_{name}" for name in names)]]]
    tables += [samples.false_marks[name] for name in names]
    for table in tables:
        digest.update(np.ascontiguousarray(table.to_numpy(np.float64)).tobytes() + b"\0")
    return digest.hexdigest()


def definitions() -> dict[str, str]:
    """What a comparison's figures mean, beside those of an evaluation."""
    return {
        "ci95": "Percentile interval of the resamples, which draw patients with replacement. All "
        "rows have the same draws. [null, null] if fewer than "
        f"{MIN_PATIENTS} patients have positives or negatives, or if all resamples agree.",
        "difference": "The row less the first row, resample by resample; above and below: the "
        "shares of resamples in which it is more and less than 0. Its ci95 is [0, 0] if both rank "
        "alike in every resample.",
        "image": "Image scores of positive against negative images; baselines are pooled from "
        "patches by each run's own rule, excess by its maximum.",
        "patient": "One sample a patient, with the highest of their image scores.",
        "patch": "Positive: covers half of a region, or a region half of it. Negative: all scored "
        "patches of negative images. Runs may cut images differently: then these are other "
        "patches, and so are marks of lesions_found.",
        "within_image": "Mean, over positive images that have both, of the image's own AUROC of "
        "positive patches against patches that touch no region.",
        "lesions_found": "Share of lesions found at so many false marks a negative image (FROC).",
        "pointing_hits": "Share of positive images with regions whose highest patch has its centre "
        "in one.",
        "by_view": "Images of one view: of the truth, else as read. Views without positives or "
        "without negatives are left out.",
        "by_kind": "Positives with this kind of lesion against all negatives.",
        "baselines": "Unchanged, never inverted. Runs that prepare and cut images alike share "
        "theirs; others have their own, named after the run.",
    }
