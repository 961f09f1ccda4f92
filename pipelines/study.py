"""Common code of the studies: configurations × seeds through train → screen → evaluate.

A study prepares its data set once per seed, since the split depends on the seed; the rest is the
same code as in `patchad train`, `patchad screen` and `patchad evaluate`.
"""

import json
import logging
import math
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from study_tables import ALL, figure_rows, results_report

from patchad.commands.evaluate import evaluate
from patchad.commands.screen import screen_run
from patchad.commands.train import train
from patchad.engine.screener import ScreenOptions
from patchad.errors import RequestError
from patchad.files.claim import claimed
from patchad.files.clearing import Layout
from patchad.files.whole import write_whole
from patchad.methods.configure import read_config
from patchad.model.card import ModelCard, versions
from patchad.model.config import Config

STUDY = Layout("study", ("results.md", "results.csv", "facts.csv"))
log = logging.getLogger("study")

TESTED = 0.5  # of the patients without any positive image: half for testing, half for training
VALIDATION = 0.2  # of the rest; the paper's 10 % would be two patients of mini-MIAS


@dataclass(frozen=True)
class Arm:
    """One configuration of the study: a packaged one, with its intensities and overrides.

    Baselines use the prepared pixels, so arms of one ``intensity`` share them.
    """

    config: str
    intensity: str
    overrides: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The name in folders and tables."""
        return f"{self.config}-{self.intensity}"

    def resolve(self) -> Config:
        """The configuration as it is trained."""
        return read_config(
            self.config,
            [
                f"preprocessing.intensity={self.intensity}",
                *self.overrides,
                "calibration.folds=0",  # the study's manifest has the calibration patients
            ],
        )


@dataclass(frozen=True)
class Data:
    """A data set prepared for one seed.

    ``training`` is a manifest of all images with their splits; ``test`` one of the test images,
    which are screened; ``subsets`` are manifests of parts of those to evaluate separately, by name.
    ``facts`` are counts for the report, ``notes`` warnings for its reader.
    """

    training: Path
    test: Path
    regions: Path
    subsets: Mapping[str, Path]
    facts: Mapping[str, float]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Study:
    """A study: its data and arms.

    ``cuts`` are the differences from the long setting, in words; ``published`` is the patch AUROC
    of the papers, for the table.
    """

    title: str
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    prepare: Callable[[int, Path], Data]
    cuts: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    published: Mapping[str, str] = field(default_factory=dict)


def run_study(study: Study, out: Path, *, device: torch.device, resume: bool = False) -> str:
    """Run every arm with every seed, and write ``results.md``, ``results.csv`` and ``facts.csv``.

    A folder ``out/seed<seed>/<arm>`` holds each model and run. With ``resume``, finished parts are
    kept.

    Returns:
        The report, as written to ``results.md``.

    Raises:
        PatchadError: from one of the commands; or ``out`` holds another study.
    """
    claim_study(out, _described(study), resume=resume)
    start, worked = time.monotonic(), time.process_time()
    rows: list[dict[str, Any]] = []
    facts: list[dict[str, Any]] = []
    notes: dict[str, None] = {}
    cards: dict[str, None] = {}
    for seed in study.seeds:
        data = study.prepare(seed, out / f"seed{seed}")
        facts.append({"seed": seed, **data.facts})
        notes |= dict.fromkeys(data.notes)
        for arm in study.arms:
            begun = time.monotonic()
            folder = out / f"seed{seed}" / arm.name
            card, judged = _run_arm(arm, data, folder, seed=seed, device=device)
            rows += figure_rows(judged, seed=seed, config=arm.config, intensity=arm.intensity)
            cards |= {f"{arm.name}, seed {seed}: {note}": None for note in card.notes}
            found = judged[ALL]["patch"]["auroc"]["value"]  # None without a region
            value = math.nan if found is None else found
            seconds = time.monotonic() - begun
            log.info("%s, seed %d: patch AUROC %.3f, %.0f s", arm.name, seed, value, seconds)
    results = pd.DataFrame(rows).astype(dict.fromkeys(("value", "low", "high"), float))
    write_whole(out / "results.csv", results.to_csv(index=False))
    write_whole(out / "facts.csv", pd.DataFrame(facts).to_csv(index=False))
    took = (time.monotonic() - start, time.process_time() - worked)
    head = head_of(study.title, study.seeds, study.cuts, [*study.notes, *notes], device, took)
    report = head + results_report(results, pd.DataFrame(facts), [*cards], study.published)
    write_whole(out / "results.md", report)
    return report


def _run_arm(
    arm: Arm, data: Data, folder: Path, *, seed: int, device: torch.device
) -> tuple[ModelCard, dict[str, dict[str, Any]]]:
    """Train, screen and evaluate; returns the card, and evaluation.json's content by subset."""
    progress = say(f"{arm.name}, seed {seed}")
    card = train(
        data.training,
        folder / "model",
        arm.resolve(),
        device=device,
        seed=seed,
        resume=True,
        progress=progress,
    ).card
    # All test images are evaluated, also those that a user would be warned about; and no
    # pictures are written: `patchad export` makes them from a run.
    options = ScreenOptions(kinds=(), allow_mismatch=True)
    screen_run(
        [data.test],
        folder / "model",
        folder / "run",
        options,
        device=device,
        resume=True,
        progress=progress,
    )
    judged = {}
    for name, truth in {ALL: data.test, **data.subsets}.items():
        done = folder / f"evaluation-{name}"
        if not (done / "evaluation.json").exists():  # which is written last
            shutil.rmtree(done, ignore_errors=True)
            evaluate(folder / "run", truth, data.regions, done, seed=seed, device=device)
        judged[name] = json.loads((done / "evaluation.json").read_text("utf-8"))
    return card, judged


def head_of(
    title: str,
    seeds: Sequence[int],
    cuts: Sequence[str],
    notes: Sequence[str],
    device: torch.device,
    took: tuple[float, float],
) -> str:
    """The head of a report; ``took``: wall-clock seconds, and CPU seconds of all cores."""
    clock, cpu = (f"{seconds / 60:.0f}" for seconds in took)
    used = ", ".join(f"{name} {version}" for name, version in versions().items())
    parts = [
        f"# {title}",
        f"{datetime.now(UTC):%Y-%m-%d}, seeds {', '.join(map(str, seeds))}, on "
        f"{device.type}: {clock} minutes, {cpu} of CPU time. {used}.",
        "Cut: " + (" ".join(cuts) or "nothing, this is the long setting."),
        "\n".join(f"* {note}" for note in notes),
    ]
    return "\n\n".join(part for part in parts if part) + "\n\n"


def sample(patients: Iterable[str], count: int, seed: int) -> set[str]:
    """``count`` of the patients (or all), the same for the same set, in any order."""
    pool = sorted(set(patients))
    return set(np.random.default_rng(seed).permutation(pool)[:count].tolist())


def split_patients(patients: set[str], positive: set[str], seed: int) -> tuple[set[str], set[str]]:
    """The patients for testing and those for calibration; the rest is for training.

    Every ``positive`` patient is for testing, with all their images, and a share of the others.
    """
    others = patients - positive
    tested = sample(others, round(TESTED * len(others)), seed)
    left = others - tested
    return positive | tested, sample(left, max(1, round(VALIDATION * len(left))), seed)


def read_seeds(text: str) -> tuple[int, ...]:
    """Seeds from ``0,1,2``."""
    try:
        seeds = tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        seeds = ()
    if not seeds or min(seeds) < 0:
        raise RequestError(f"--seeds takes whole numbers from 0 such as 0,1,2; got {text!r}")
    return seeds


def _described(study: Study) -> dict[str, Any]:
    return {
        "title": study.title,
        "arms": [asdict(arm) for arm in study.arms],
        "cuts": [*study.cuts],
        "notes": [*study.notes],
    }


def claim_study(out: Path, described: Mapping[str, Any], *, resume: bool) -> None:
    """Claim the folder for the study ``described``, without keeping its lock.

    So parts of a study may run in parallel. Nothing is ever deleted from it.

    Raises:
        RequestError: it holds another study.
        OutputError: it holds something else, or is in use.
    """
    with claimed(out, STUDY, described, command="study", resume=resume):
        pass


def say(what: str) -> Callable[[str, int, int, float], None]:
    """A progress callback that logs each stage when it is done."""

    def progress(stage: str, done: int, total: int, value: float) -> None:
        if done == total:
            loss = "" if value != value else f", loss {value:.5g}"
            log.info("%s: %s, %d%s", what, stage, total, loss)

    return progress
