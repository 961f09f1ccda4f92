"""Cross-validation by patient: each fold's model learns from the other folds' negatives.

Every image is then scored by the one model that saw no image of its patient, and figures are taken
of all folds together. `train`, `screen` and `evaluate` are those of `patchad`.
"""

import json
import logging
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from cross_tables import Column, cross_report, cross_rows
from places import judge_places
from study import claim_study, head_of, say
from study_tables import ALL

from patchad.config import CalibrationConfig, read_config
from patchad.detector import save, score
from patchad.errors import RequestError
from patchad.export.tiff import read_heatmap, write_heatmap
from patchad.grid import PatchGrid
from patchad.io.files import write_whole
from patchad.io.manifest import read_manifest
from patchad.io.read import read_entry
from patchad.io.run import Run, heatmap_path, patches_path, read_run, write_run
from patchad.methods import load
from patchad.methods.fused import Fused
from patchad.preprocess import prepare
from patchad.verbs.calibrate import NegativeImage, calibrate
from patchad.verbs.evaluate import evaluate
from patchad.verbs.screen import ScreenOptions
from patchad.verbs.screen_run import screen_run
from patchad.verbs.train import train

log = logging.getLogger("study")

CALIBRATION = (
    0.1  # of the patients whose negatives are learnt from: what `patchad train` sets aside
)
NOTES = (
    "Each fold's model is trained on all negatives of the other folds' patients, also the negative "
    "images of patients who have a positive one, less a tenth of these patients for its "
    "calibration. It scores all images of its own fold; no positive image is ever learnt from. "
    "Figures are of all folds together, intervals by patient over all.",
    "Scores are pooled as they come where they are in standard deviations of negatives already. "
    "Those of wei2018 are not: they are given less the median, and over half the distance from the "
    "16th to the 84th percentile, of the patches of their fold's own calibration negatives.",
)


@dataclass(frozen=True)
class Fold:
    """Manifests: ``training`` has negatives in the splits train and validation, ``test`` the rest.

    ``test`` holds the fold's own images, positive and negative, all with the split test.
    """

    training: Path
    test: Path


@dataclass(frozen=True)
class Folds:
    """A data set dealt into folds; ``truth``, ``regions`` and ``subsets`` are of all of them.

    ``facts`` are counts for the report, ``notes`` what its reader must know.
    """

    folds: tuple[Fold, ...]
    truth: Path
    regions: Path
    subsets: Mapping[str, Path]
    facts: Mapping[str, float]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class CrossArm:
    """A line of the table. Arms of one ``config`` share its training, and so its ``overrides``.

    ``member`` screens one member of a fused detector by itself, with a calibration of its own;
    ``screening`` are fields of :class:`patchad.verbs.screen.ScreenOptions`; ``standardise``: the
    folds' scores have no common scale.
    """

    name: str
    config: str
    overrides: tuple[str, ...] = ()
    member: str = ""
    screening: Mapping[str, Any] = field(default_factory=dict)
    standardise: bool = False


@dataclass(frozen=True)
class CrossStudy:
    """What is run; ``deal`` writes the tables of a seed; ``kinds`` are the files a run writes.

    The baselines' figures are those beside the first arm.
    """

    title: str
    arms: tuple[CrossArm, ...]
    seeds: tuple[int, ...]
    deal: Callable[[int, Path], Folds]
    columns: Mapping[str, Column]
    kinds: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    cuts: tuple[str, ...] = ()


def deal_patients(
    patients: Iterable[str], positive: set[str], folds: int, seed: int
) -> tuple[set[str], ...]:
    """The patients of each fold, those with and those without a positive image dealt evenly.

    Raises:
        RequestError: fewer than two folds, or fewer patients than folds.
    """
    pool = sorted(set(patients))
    if not 2 <= folds <= len(pool):
        raise RequestError(
            f"--cross-validate takes 2 folds to as many as there are patients ({len(pool)}), "
            f"got {folds}"
        )
    order = np.random.default_rng(seed).permutation(pool).tolist()
    order.sort(key=lambda patient: patient not in positive)  # stable: shuffled within both
    return tuple(set(order[start::folds]) for start in range(folds))


def set_aside(patients: Iterable[str], seed: int) -> set[str]:
    """Whose negatives calibrate instead of being learnt from; one patient at least."""
    pool = sorted(set(patients))
    count = max(1, round(CALIBRATION * len(pool)))
    return set(np.random.default_rng(seed).permutation(pool)[:count].tolist())


def write_folds(
    rows: pd.DataFrame,
    regions: pd.DataFrame,
    folder: Path,
    *,
    folds: int,
    seed: int,
    subsets: Mapping[str, "pd.Series[bool]"],
    notes: tuple[str, ...] = (),
) -> Folds:
    """Deal a data set's patients and write the tables of every fold.

    Args:
        rows: of a manifest, without splits.
        regions: columns as :func:`patchad.io.manifest.read_regions` needs them.
        folder: to write into.
        folds: how many.
        seed: deals the patients, and sets aside whose negatives calibrate.
        subsets: which ``rows`` are to be judged apart, by name.
        notes: what a reader must know of the data.
    """
    positive = rows["label"] == "positive"
    dealt = deal_patients(rows["patient_id"], {*rows["patient_id"][positive]}, folds, seed)
    tested = rows.assign(split="test")
    written = []
    facts: dict[str, float] = {
        "images": len(rows),
        "positive": int(positive.sum()),
        "patients": rows["patient_id"].nunique(),
        "regions": len(regions),
    }
    for number, patients in enumerate(dealt, start=1):
        own = rows["patient_id"].isin(patients)
        learnt = rows[~own & ~positive]
        aside = learnt["patient_id"].isin(set_aside(learnt["patient_id"], seed))
        splits = np.where(aside, "validation", "train")
        fold = Fold(folder / f"fold{number}-training.csv", folder / f"fold{number}-test.csv")
        write_whole(fold.training, learnt.assign(split=splits).to_csv(index=False))
        write_whole(fold.test, tested[own].to_csv(index=False))
        written.append(fold)
        facts |= {
            f"fold {number}: training": int((~aside).sum()),
            f"fold {number}: calibration": int(aside.sum()),
        }
    tables = {name: folder / f"{name}.csv" for name in ("truth", "regions")}
    write_whole(tables["truth"], tested.to_csv(index=False))
    write_whole(tables["regions"], regions.to_csv(index=False))
    parts = {}
    for name, chosen in subsets.items():
        parts[name] = folder / f"truth-{name}.csv"
        write_whole(parts[name], tested[chosen].to_csv(index=False))
    return Folds(tuple(written), tables["truth"], tables["regions"], parts, facts, notes)


def choose_arms(arms: Sequence[CrossArm], names: str) -> tuple[CrossArm, ...]:
    """The arms named in ``a,b``, or all.

    Raises:
        RequestError: there is no such arm.
    """
    known = {arm.name: arm for arm in arms}
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    for name in wanted:
        if name not in known:
            raise RequestError(f"--arms {name}: no such arm; take of {', '.join(known)}")
    return tuple(known[name] for name in wanted) or tuple(arms)


def run_cross_validation(
    study: CrossStudy,
    out: Path,
    *,
    device: torch.device,
    arms: str = "",
    resume: bool = False,
    overwrite: bool = False,
) -> str:
    """Run every arm with every seed, and write ``results.md``, ``results.csv`` and ``facts.csv``.

    With ``resume``, what is finished is kept. Some ``arms`` (``a,b``; empty: all) and some seeds
    may be run at a time, or side by side with ``resume``; the last run puts them together.

    Returns:
        The report, as written to ``results.md``.

    Raises:
        PatchadError: of the chain; or ``out`` holds another study.
    """
    chosen = choose_arms(study.arms, arms)
    described = {
        "title": study.title,
        "arms": [asdict(arm) for arm in study.arms],
        "notes": [*study.notes],
    }
    claim_study(out, described, resume=resume, overwrite=overwrite)
    start, worked = time.monotonic(), time.process_time()
    rows: list[dict[str, Any]] = []
    facts: list[dict[str, Any]] = []
    notes: dict[str, None] = {}
    cards: dict[str, None] = {}
    for seed in study.seeds:
        dealt = study.deal(seed, out / f"seed{seed}")
        facts.append({"seed": seed, **dealt.facts})
        notes |= dict.fromkeys(dealt.notes)
        for arm in chosen:
            judged, said = _run_arm(arm, dealt, out / f"seed{seed}", study.kinds, seed, device)
            rows += cross_rows(
                judged, study.columns, arm.name, seed, baselines=arm.name == chosen[0].name
            )
            cards |= {f"{arm.name}, seed {seed}, {note}": None for note in said}
    results = pd.DataFrame(rows).astype(dict.fromkeys(("value", "low", "high"), float))
    write_whole(out / "results.csv", results.to_csv(index=False))
    write_whole(out / "facts.csv", pd.DataFrame(facts).to_csv(index=False))
    took = (time.monotonic() - start, time.process_time() - worked)
    head = head_of(
        study.title, study.seeds, study.cuts, [*NOTES, *study.notes, *notes], device, took
    )
    report = head + cross_report(results, pd.DataFrame(facts), [*cards], study.columns)
    write_whole(out / "results.md", report)
    return report


def _run_arm(
    arm: CrossArm,
    dealt: Folds,
    folder: Path,
    kinds: tuple[str, ...],
    seed: int,
    device: torch.device,
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """What evaluation.json holds for each subset, with seconds and places; the cards' notes."""
    runs, trainings, said = [], [], []
    for number, fold in enumerate(dealt.folds, start=1):
        own = folder / f"fold{number}"
        model, seconds = _trained(arm, fold, own, seed, device)
        trainings.append(seconds)
        progress = say(f"{arm.name}, seed {seed}, fold {number}")
        options = ScreenOptions(kinds=kinds, allow_mismatch=True, **arm.screening)
        done = own / "runs" / arm.name
        if not (done / "run.json").exists():  # which is written last
            screen_run(
                [fold.test], model, done, options, device=device, resume=True, progress=progress
            )
        runs.append(read_run(done))
        said += [f"fold {number}: {note}" for note in runs[-1].settings["card"]["notes"]]
    pooled, judged = folder / "pooled" / arm.name, {}
    for name, truth in {ALL: dealt.truth, **dealt.subsets}.items():
        found = pooled / f"evaluation-{name}"
        if not (found / "evaluation.json").exists():
            shutil.rmtree(found, ignore_errors=True)
            if name == ALL:
                pool_runs(runs, pooled / "run", standardise=arm.standardise)
            evaluate(pooled / "run", truth, dealt.regions, found, seed=seed, device=device)
        judged[name] = json.loads((found / "evaluation.json").read_text("utf-8"))
    if "heatmap" in kinds:
        judged[ALL]["places"] = judge_places(
            read_run(pooled / "run"), dealt.truth, dealt.regions, seed=seed
        )
    images = pd.concat([run.images for run in runs])
    judged[ALL]["seconds"] = {
        "image": {"value": float(images["seconds"].mean()), "ci95": [None, None]},
        "training": {"value": float(np.mean(trainings)), "ci95": [None, None]},
    }
    value = judged[ALL]["image"]["auroc"]["value"]
    log.info("%s, seed %d: image AUROC %s", arm.name, seed, value)
    return judged, said


def _trained(
    arm: CrossArm, fold: Fold, folder: Path, seed: int, device: torch.device
) -> tuple[Path, float]:
    """The arm's model in this fold, and how many seconds its training took."""
    own = folder / "models" / arm.config
    config = read_config(arm.config, arm.overrides)
    if arm.member and arm.member not in getattr(config.options, "members", ()):
        raise RequestError(f"{arm.name}: the configuration {arm.config} has no such member")
    clock = own.with_suffix(".json")
    start = time.monotonic()
    train(
        fold.training,
        own,
        config,
        device=device,
        seed=seed,
        resume=True,
        progress=say(f"{arm.config}, seed {seed}, {folder.name}"),
    )
    if not clock.exists():
        write_whole(clock, json.dumps({"seconds": round(time.monotonic() - start, 1)}) + "\n")
    seconds = float(json.loads(clock.read_text("utf-8"))["seconds"])
    if not arm.member:
        return own, seconds
    single = folder / "models" / f"{arm.config}-{arm.member}"
    if not (single / "card.json").exists():
        save_member(own, arm.member, single, fold.training, config.calibration, device)
    return single, seconds


def save_member(
    model: Path,
    name: str,
    folder: Path,
    training: Path,
    rule: CalibrationConfig,
    device: torch.device,
) -> None:
    """Save one member of a fused model as a model, calibrated on the same negatives set aside."""
    fused = load(model, device)
    if not isinstance(fused, Fused):
        raise RequestError(f"{model} holds no fused detector, it has no member {name}")
    member = fused.members[[*fused.config.members].index(name)]
    card = fused.card
    aside = []
    for row in read_manifest(training):
        if row.split == "validation":
            prepared = prepare(read_entry(row), card.preprocessing)
            grid = PatchGrid(prepared.pixels.shape, card.patch_size, card.stride)
            scored = score(member, prepared, grid)
            aside.append(NegativeImage.of(row.patient_id, scored, prepared.spacing_mm))
    save(member, folder, calibrate(aside, rule))


def pool_runs(parts: Sequence[Run], out: Path, *, standardise: bool) -> Run:
    """One run folder of all folds; images are named apart.

    Thresholds, which `evaluate` reads from the card, are the medians of the folds'.

    Args:
        parts: a run a fold.
        out: the folder to write.
        standardise: bring scores to one scale, see ``NOTES``.
    """
    rows, cards = [], []
    for part in parts:
        card = json.loads(json.dumps(part.settings["card"]))
        centre, spread = _scale(card["calibration"]) if standardise else (0.0, 1.0)
        _rescale(card["calibration"], centre, spread)
        cards.append(card)
        for row in part.rows:
            if row.score is not None:
                table = part.patches(row.id)
                table["score"] = ((table["score"] - centre) / spread).astype(np.float32)
                path = patches_path(out, row.id)
                path.parent.mkdir(parents=True, exist_ok=True)
                table.to_parquet(path, index=False)
                row = replace(row, score=(row.score - centre) / spread)
            if part.heatmap_path(row.id).exists():
                shown = read_heatmap(part.heatmap_path(row.id))
                values = ((shown.values - centre) / spread).astype(np.float32)
                write_heatmap(heatmap_path(out, row.id), replace(shown, values=values))
            rows.append(row)
    if len({row.id for row in rows}) < len(rows):
        raise RequestError("images of two folds share a name: give each image a name of its own")
    first = cards[0]
    own = [card["calibration"] for card in cards]
    for name in ("patch_threshold", "image_threshold"):
        first["calibration"][name] = float(np.median([one[name] for one in own]))
    if first["calibration"].get("map"):
        middle = float(np.median([one["map"]["threshold"] for one in own]))
        first["calibration"]["map"]["threshold"] = middle
    return write_run(out, {**parts[0].settings, "card": first}, rows)


def _scale(calibration: Mapping[str, Any]) -> tuple[float, float]:
    """Median and half the distance from the 16th to the 84th percentile of negatives' patches."""
    low, middle, high = np.interp(
        [0.1587, 0.5, 0.8413], calibration["levels"], calibration["quantiles"]
    )
    return float(middle), max(float(high - low) / 2, 1e-6)


def _rescale(calibration: dict[str, Any], centre: float, spread: float) -> None:
    for name in ("patch_threshold", "image_threshold"):
        calibration[name] = (calibration[name] - centre) / spread
    if calibration.get("map"):
        calibration["map"]["threshold"] = (calibration["map"]["threshold"] - centre) / spread
