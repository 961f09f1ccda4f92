"""What a comparison of configurations found: rows of every seed, and their means."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from compare_arm import Done, Task, failures
from compare_tables import fact_rows
from folds import Folds
from torch import Tensor

from patchad.commands.compare import compare_rows
from patchad.evaluation.common import Common, match_runs
from patchad.evaluation.comparison import ALL, Row, mean_row
from patchad.evaluation.estimate import Figure, estimate
from patchad.evaluation.metrics import auroc, rank, resample
from patchad.model.config import Config
from patchad.read.manifest import read_manifest, read_regions
from patchad.store.run import read_run

ENOUGH = 0.9  # of the images, that a method must score
WITHIN = "image_auroc_within_folds"
RESAMPLES = 1000
log = logging.getLogger("study")


@dataclass(frozen=True)
class Arm:
    """A line of the table: a configuration, or why it can't be had here."""

    name: str
    config: Config | None
    quick: bool = False
    reason: str = ""


@dataclass(frozen=True, eq=False)
class Judged:
    """The means over the seeds, the rows of every seed, and the facts of each method."""

    means: list[Row]
    seeds: Mapping[int, list[Row]]
    facts: list[dict[str, Any]]
    common: Common | None


def judge(
    arms: Sequence[Arm],
    tasks: Sequence[Task],
    done: Mapping[tuple[str, int], Done],
    dealt: Folds,
    regions: Path | None,
    seeds: Sequence[int],
    device: torch.device,
) -> Judged:
    """Compare the arms that finished, on the images that all of them scored."""
    failed = {arm.name: arm.reason for arm in arms if arm.reason}
    for arm in arms:
        own = [done[arm.name, seed] for seed in seeds if (arm.name, seed) in done]
        few = [one for one in own if not one.reason and one.scored < ENOUGH * one.images]
        reason = failures(own)
        if few and not reason:
            reason = f"it scored {few[0].scored} of {few[0].images} images"
        if reason:
            failed.setdefault(arm.name, reason)
    facts = [
        fact_rows(arm.name, arm.config, arm.quick, failed.get(arm.name, ""), own)
        for arm in arms
        for own in [[done[arm.name, s] for s in seeds if (arm.name, s) in done]]
    ]
    kept = [task for task in tasks if task.name not in failed]
    if not kept:
        return Judged([], {}, facts, None)
    runs = {f"{task.name}, seed {task.seed}": read_run(task.pooled) for task in kept}
    marked = None if regions is None else read_regions(regions)
    common = match_runs(runs, read_manifest(dealt.truth), marked, only_common=True)
    began = time.monotonic()
    rows = compare_rows(
        runs,
        common,
        seed=0,
        resamples=RESAMPLES,
        device=device,
        progress=lambda _, number, total, __: log.info(
            "judged %d of %d runs in %s", number, total, clock(time.monotonic() - began)
        ),
    )
    weights = resample(common.patients, RESAMPLES, seed=0, device=torch.device("cpu"))
    by_seed: dict[int, list[Row]] = {seed: [] for seed in seeds}
    for task in kept:
        name = f"{task.name}, seed {task.seed}"
        (row,) = (row for row in rows if row.name == name and not row.baseline)
        folds = done[task.name, task.seed].fold_images
        figures = {part: dict(own) for part, own in row.figures.items()}
        figures[ALL][WITHIN] = within_folds(common, name, runs[name].images, folds, weights)
        by_seed[task.seed].append(replace(row, name=task.name, of=task.name, figures=figures))
    means = [
        mean_row([row for own in by_seed.values() for row in own if row.name == arm.name])
        for arm in arms
        if arm.name not in failed
    ]
    curves = {row.name: row.curves for row in by_seed[seeds[0]]}
    means = [replace(row, curves=curves[row.name]) for row in means]
    # Seeds prepare films alike, so baselines come once, with the first arm that has them.
    baselines = [replace(row, of=row.of.rpartition(", ")[0]) for row in rows if row.baseline]
    several = len({row.of for row in baselines}) > 1
    means += [
        replace(row, name=row.baseline.replace("_", " ") + (f" ({row.of})" if several else ""))
        for row in baselines
    ]
    return Judged(means, by_seed, facts, common)


def within_folds(
    common: Common,
    name: str,
    images: pd.DataFrame,
    folds: Sequence[Sequence[str]],
    weights: Tensor,
) -> Figure:
    """AUROC of images over the pairs of one fold alone: which no scale between folds can change."""
    fold_of = {path: number for number, paths in enumerate(folds) for path in paths}
    paths = dict(zip(images["id"], images["path"], strict=True))
    cases = common.truths[name].cases
    fold = [fold_of[paths[case.image_id]] for case in cases]
    rankings = [
        rank(
            torch.tensor([case.score for case in own], dtype=torch.float64),
            torch.tensor([case.positive for case in own], dtype=torch.bool),
            torch.tensor([case.patient for case in own], dtype=torch.int64),
            common.patients,
        )
        for number in sorted(set(fold))
        for own in [[c for c, of in zip(cases, fold, strict=True) if of == number]]
    ]

    def statistic(w: Tensor) -> Tensor:
        won, pairs = torch.zeros(len(w)).double(), torch.zeros(len(w)).double()
        for ranking in rankings:
            counts = ranking.counts(w)
            own = counts.positives * counts.negatives
            won += torch.where(own > 0, auroc(counts).nan_to_num() * own, 0.0)
            pairs += own
        return (won / pairs)[:, None]

    carriers = [len({c.patient for c in cases if c.positive == kind}) for kind in (True, False)]
    return estimate([WITHIN], statistic, weights, min(carriers))[WITHIN]


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    return f"{seconds // 3600:.0f}:{seconds // 60 % 60:02.0f}:{seconds % 60:02.0f}"
