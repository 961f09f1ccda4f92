"""What the studies share: configurations × seeds through train → screen → evaluate, and the tables.

A study prepares its data set, once a seed since the seed decides the split; the rest is the same
chain that `patchad train`, `patchad screen` and `patchad evaluate` call.
"""

import csv
import io
import json
import logging
import math
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from patchad.baselines import BASELINES
from patchad.config import Config, read_config
from patchad.detector import ModelCard, versions
from patchad.errors import OutputError, RequestError
from patchad.io.files import claim_folder, write_whole
from patchad.verbs.evaluate import evaluate
from patchad.verbs.screen import ScreenOptions
from patchad.verbs.screen_run import screen_run
from patchad.verbs.train import train

log = logging.getLogger("study")

TESTED = 0.5  # of the patients without any positive image: as many to test on as to learn from
VALIDATION = 0.2  # of the rest; the paper's 10 % would be two patients of mini-MIAS
ALL = "all"  # the whole test set, beside its subsets
FIGURES = {  # column of the tables: where evaluation.json has it
    "patch AUROC": ("patch", "auroc"),
    "patch AP": ("patch", "average_precision"),
    "within-image AUROC": ("patch", "within_image_auroc"),
    "image AUROC": ("image", "auroc"),
    "lesions found at 1 false mark an image": ("froc", "sensitivity_at_1"),
}


@dataclass(frozen=True)
class Arm:
    """One configuration of the study: a packaged one, with its intensities and overrides.

    Baselines see the prepared pixels, so arms of one ``intensity`` share them.
    """

    config: str
    intensity: str
    overrides: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """For folders and tables."""
        return f"{self.config}-{self.intensity}"

    def resolve(self) -> Config:
        """The configuration as it is trained."""
        return read_config(
            self.config, [f"preprocessing.intensity={self.intensity}", *self.overrides]
        )


@dataclass(frozen=True)
class Data:
    """A data set prepared for one seed.

    ``training`` is a manifest of all images with their splits; ``test`` one of the test images,
    which are screened; ``subsets`` are manifests of parts of those to be judged apart, by name.
    ``facts`` are counts for the report, ``notes`` what its reader must know.
    """

    training: Path
    test: Path
    regions: Path
    subsets: Mapping[str, Path]
    facts: Mapping[str, float]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Study:
    """What is run.

    ``cuts`` says in words what differs from the long setting; ``published`` gives the patch AUROC
    of the papers' own lines for the table.
    """

    title: str
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    prepare: Callable[[int, Path], Data]
    cuts: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    published: Mapping[str, str] = field(default_factory=dict)


def run_study(
    study: Study, out: Path, *, device: torch.device, resume: bool = False, overwrite: bool = False
) -> str:
    """Run every arm with every seed, and write ``results.md``, ``results.csv`` and ``facts.csv``.

    A folder ``out/seed<seed>/<arm>`` holds each model and run. With ``resume``, what is finished
    is kept.

    Returns:
        The report, as written to ``results.md``.

    Raises:
        PatchadError: of the chain; or ``out`` holds another study.
    """
    claim_folder(out, ("study.json",), resume=resume, overwrite=overwrite)
    _same_study(out / "study.json", _described(study))
    start = time.monotonic()
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
            rows += _rows(judged, seed=seed, arm=arm)
            cards |= {f"{arm.name}, seed {seed}: {note}": None for note in card.notes}
            seconds = time.monotonic() - begun
            value = judged[ALL]["patch"]["auroc"]["value"]
            log.info(
                "%s, seed %d: patch AUROC %.3f, %.0f s", arm.name, seed, value or math.nan, seconds
            )
    results = pd.DataFrame(rows)
    write_whole(out / "results.csv", results.to_csv(index=False))
    write_whole(out / "facts.csv", pd.DataFrame(facts).to_csv(index=False))
    head = _head(study, [*notes], device, time.monotonic() - start)
    report = head + _report(study, results, pd.DataFrame(facts), [*cards])
    write_whole(out / "results.md", report)
    return report


def _run_arm(
    arm: Arm, data: Data, folder: Path, *, seed: int, device: torch.device
) -> tuple[ModelCard, dict[str, dict[str, Any]]]:
    """Train, screen and evaluate; the card, and what evaluation.json holds for each subset."""
    progress = _say(f"{arm.name}, seed {seed}")
    card = train(
        data.training,
        folder / "model",
        arm.resolve(),
        device=device,
        seed=seed,
        resume=True,
        progress=progress,
    ).card
    # All test images are to be judged, also those that a user would be warned of; and no
    # pictures: `patchad export` makes them from a run.
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


def _rows(
    judged: Mapping[str, Mapping[str, Any]], *, seed: int, arm: Arm
) -> Iterator[dict[str, Any]]:
    """Every figure as a row: of the method and its baselines, by subset and by kind of lesion."""
    for subset, result in judged.items():
        for kind, every in {"": result, **result["by_kind"]}.items():
            for scorer, sections in {"method": every, **every["baselines"]}.items():
                for name, (level, figure) in FIGURES.items():
                    found = sections[level][figure]
                    counts = sections[level]["counts"]
                    yield {
                        "seed": seed,
                        "config": arm.config,
                        "intensity": arm.intensity,
                        "subset": subset,
                        "scorer": scorer,
                        "kind": kind,
                        "figure": name,
                        "value": found["value"],
                        "low": found["ci95"][0],
                        "high": found["ci95"][1],
                        "positives": counts.get("positives", counts.get("lesions")),
                        "negatives": counts.get("negatives"),
                        "beats_all_baselines": _beats_all(result) if not kind else None,
                    }


def _beats_all(result: Mapping[str, Any]) -> bool | None:
    """Whether the paired difference in patch AUROC is above 0 for each baseline; None: unknown."""
    beaten = [result["baselines"][name]["beaten"] for name in BASELINES]
    return None if None in beaten else all(beaten)


def _head(study: Study, notes: Sequence[str], device: torch.device, seconds: float) -> str:
    used = ", ".join(f"{name} {version}" for name, version in versions().items())
    parts = [
        f"# {study.title}",
        f"{datetime.now(UTC):%Y-%m-%d}, seeds {', '.join(map(str, study.seeds))}, on "
        f"{device.type}, {seconds / 60:.0f} minutes. {used}.",
        "Cut: " + (" ".join(study.cuts) or "nothing, this is the long setting."),
        "\n".join(f"* {note}" for note in (*study.notes, *notes)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n\n"


def _report(study: Study, results: pd.DataFrame, facts: pd.DataFrame, cards: Sequence[str]) -> str:
    parts = [
        "## Data, by seed",
        table([*facts.columns], [[_number(v) for v in row] for row in facts.to_numpy()]),
        "## Figures: mean over the seeds (lowest–highest)",
        "Baselines come from the same prepared pixels. *beats* counts the seeds in which the "
        "method's patch AUROC is above that of every baseline, by the 95 % interval of the paired "
        "difference, by patient.",
    ]
    for subset in results["subset"].unique():
        part = results[results["subset"] == subset]
        whole = subset == ALL
        parts += [
            f"### {'All test images' if whole else f'Of these, the {subset} views'}",
            figures_table(part, study.published if whole else {}),
        ]
    kinds = sorted(set(results["kind"]) - {""})
    if kinds:
        parts += [
            "## Patch AUROC by kind of lesion (all test images)",
            kinds_table(results[results["subset"] == ALL], kinds),
        ]
    parts += [
        "## Patch AUROC seed by seed, with 95 % intervals by patient",
        seeds_table(results[results["subset"] == ALL]),
    ]
    if cards:
        parts += ["## What the models' cards say", "\n".join(f"* {note}" for note in cards)]
    return "\n\n".join(parts) + "\n"


def figures_table(results: pd.DataFrame, published: Mapping[str, str]) -> str:
    """Scorers × figures, mean (lowest–highest) over the seeds, below what was published."""
    whole = results[results["kind"] == ""]
    lines = [[label, value, *[""] * len(FIGURES)] for label, value in published.items()]
    for label, method, part in _scorers(whole):
        cells = [_spread(part.loc[part["figure"] == name, "value"]) for name in FIGURES]
        beats = part.drop_duplicates("seed")["beats_all_baselines"]
        known = beats.notna().sum()
        verdict = f"{int((beats == True).sum())} of {known}" if known else "unknown"  # noqa: E712
        lines.append([label, *cells, verdict if method else ""])
    return table(["", *FIGURES, "beats"], lines)


def kinds_table(results: pd.DataFrame, kinds: Sequence[str]) -> str:
    """Scorers × kinds of lesion, patch AUROC, with the lesions of each kind in the header."""
    chosen = results[results["figure"] == "patch AUROC"]
    found = results[results["figure"] == "lesions found at 1 false mark an image"]
    heads = []
    for kind in kinds:
        counts = found.loc[found["kind"] == kind, "positives"]
        low, high = int(counts.min()), int(counts.max())
        heads.append(f"{kind} (n = {low}" + (f"–{high})" if high > low else ")"))
    lines = [
        [label, *(_spread(part.loc[part["kind"] == kind, "value"]) for kind in kinds)]
        for label, _, part in _scorers(chosen)
    ]
    return table(["", *heads], lines)


def seeds_table(results: pd.DataFrame) -> str:
    """Scorers × seeds, patch AUROC with its interval."""
    chosen = results[(results["figure"] == "patch AUROC") & (results["kind"] == "")]
    seeds = sorted(chosen["seed"].unique())
    lines = []
    for label, _, part in _scorers(chosen):
        cells = []
        for seed in seeds:
            one = part[part["seed"] == seed].iloc[0]
            cells.append(f"{_number(one['value'])} [{_number(one['low'])}, {_number(one['high'])}]")
        lines.append([label, *cells])
    return table(["", *(f"seed {seed}" for seed in seeds)], lines)


def _scorers(results: pd.DataFrame) -> Iterator[tuple[str, bool, pd.DataFrame]]:
    """A table's lines: label, whether it is a method, its rows; baselines once an intensity."""
    for intensity in results["intensity"].unique():
        part = results[results["intensity"] == intensity]
        configs = part["config"].unique()
        for config in configs:
            own = part[(part["config"] == config) & (part["scorer"] == "method")]
            yield f"{config}, {intensity}", True, own
        for name in BASELINES:
            own = part[(part["config"] == configs[0]) & (part["scorer"] == name)]
            yield f"*{name.replace('_', ' ')}, {intensity}*", False, own


def table(columns: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    rows = [columns, ["---"] * len(columns), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A CSV file, whole or not at all."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([columns, *rows])
    write_whole(path, text.getvalue())


def sample(patients: Iterable[str], count: int, seed: int) -> set[str]:
    """So many of the patients (or all), the same for the same set, whatever its order."""
    pool = sorted(set(patients))
    return set(np.random.default_rng(seed).permutation(pool)[:count].tolist())


def split_patients(patients: set[str], positive: set[str], seed: int) -> tuple[set[str], set[str]]:
    """Whose images are for testing, and whose negatives are for calibrating; the rest is to train.

    Every ``positive`` patient is for testing, all her images with her, and a share of the others.
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


def _spread(values: "pd.Series[float]") -> str:
    known = values.dropna()
    if known.empty:
        return "–"
    return f"{known.mean():.2f} ({known.min():.2f}–{known.max():.2f})"


def _number(value: object) -> str:
    if value is None or value != value:
        return "–"
    if isinstance(value, float) and not value.is_integer():
        return f"{value:.2f}"
    return str(int(value)) if isinstance(value, float) else str(value)


def _described(study: Study) -> dict[str, Any]:
    return {
        "title": study.title,
        "arms": [asdict(arm) for arm in study.arms],
        "cuts": [*study.cuts],
        "notes": [*study.notes],
    }


def _same_study(path: Path, described: Mapping[str, Any]) -> None:
    if not path.exists():
        write_whole(path, json.dumps(described, indent=2) + "\n")
    elif json.loads(path.read_text("utf-8")) != json.loads(json.dumps(described)):
        raise OutputError(
            f"{path.parent} holds a study with other settings: name another --out, or replace it "
            "with --overwrite"
        )


def _say(what: str) -> Callable[[str, int, int, float], None]:
    def progress(stage: str, done: int, total: int, value: float) -> None:
        if done == total:
            said = "" if value != value else f", loss {value:.5g}"
            log.info("%s: %s, %d%s", what, stage, total, said)

    return progress
