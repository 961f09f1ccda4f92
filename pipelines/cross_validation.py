"""Cross-validation by patient: each fold's model learns from the other folds' negatives.

Every image is then scored by the one model not trained on its patient, and figures are computed
over all folds together. `train`, `screen` and `evaluate` are those of `patchad`.
"""

import json
import logging
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from cross_tables import Column, cross_report, cross_rows
from folds import Fold, Folds
from places import judge_places
from pooled_run import Scale, pool_runs
from study import claim_study, head_of, say
from study_tables import ALL

from patchad.commands.calibrate import NegativeImage, calibrate
from patchad.commands.evaluate import evaluate
from patchad.commands.other_breast import Side, compare_breasts, with_two_breasts
from patchad.commands.screen import screen_run
from patchad.commands.train import train
from patchad.engine.screener import Screener, ScreenOptions
from patchad.errors import RequestError
from patchad.files.whole import write_whole
from patchad.methods import load, method_of
from patchad.methods.configure import read_config
from patchad.methods.fused import Fused
from patchad.model.card import card_as_dict, card_from_dict
from patchad.model.config import CalibrationConfig
from patchad.model.detector import Detector
from patchad.model.folder import save
from patchad.prepare.preprocess import prepare
from patchad.read.manifest import read_manifest
from patchad.read.read import read_entry
from patchad.store.run import Run, read_run

log = logging.getLogger("study")

NOTES = (
    "Each fold's model is trained on all negatives of the other folds' patients, also the negative "
    "images of patients who have a positive one, except for a tenth of these patients for its "
    "calibration (calibration.folds = 0: folds within folds would cost five trainings for each). "
    "It scores all images of its own fold; no positive image is used for training. Figures are of "
    "all folds together, intervals by patient over all.",
    "Each fold's model has a scale of its own. A fusion's scores are in standard deviations of the "
    "negatives it was trained on, and are pooled unchanged; its members' are put on their scale "
    "within it. wei2018's are standardised by the median, and half the "
    "distance from the 16th to the 84th percentile, of the patches of the fold's calibration "
    "negatives.",
)


WITHOUT_FOLDS = ("calibration.folds=0",)


@dataclass(frozen=True)
class CrossArm:
    """A line of the table. Arms of one ``config`` share its training, and so its ``overrides``.

    ``member`` screens one member of a fused detector by itself, with its own calibration;
    ``two_breasts`` subtracts the other side's score, as `patchad screen --two-breasts` does;
    ``standardise``: the folds' scores have no common scale.
    """

    name: str
    config: str
    overrides: tuple[str, ...] = ()
    member: str = ""
    two_breasts: bool = False
    standardise: bool = False


@dataclass(frozen=True)
class CrossStudy:
    """A cross-validation: ``deal`` writes the tables of a seed; ``kinds`` are the files of a run.

    The baselines' figures are those of the first arm.
    """

    title: str
    arms: tuple[CrossArm, ...]
    seeds: tuple[int, ...]
    deal: Callable[[int, Path], Folds]
    columns: Mapping[str, Column]
    kinds: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    cuts: tuple[str, ...] = ()


def choose_arms(arms: Sequence[CrossArm], names: str) -> tuple[CrossArm, ...]:
    """The arms named in ``a,b``, or all.

    Raises:
        RequestError: there is no such arm.
    """
    known = {arm.name: arm for arm in arms}
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    for name in wanted:
        if name not in known:
            raise RequestError(f"--arms {name}: no such arm; choose from {', '.join(known)}")
    return tuple(known[name] for name in wanted) or tuple(arms)


def run_cross_validation(
    study: CrossStudy,
    out: Path,
    *,
    device: torch.device,
    arms: str = "",
    resume: bool = False,
) -> str:
    """Run every arm with every seed, and write ``results.md``, ``results.csv`` and ``facts.csv``.

    With ``resume``, finished parts are kept. A run may do some ``arms`` (``a,b``; empty: all) and
    some seeds, also in parallel with ``resume``; the last run combines them.

    Returns:
        The report, as written to ``results.md``.

    Raises:
        PatchadError: from one of the commands; or ``out`` holds another study.
    """
    chosen = choose_arms(study.arms, arms)
    described = {
        "title": study.title,
        "arms": [asdict(arm) for arm in study.arms],
        "notes": [*study.notes],
    }
    claim_study(out, described, resume=resume)
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
            judged, notes = _run_arm(arm, dealt, out / f"seed{seed}", study.kinds, seed, device)
            rows += cross_rows(
                judged, study.columns, arm.name, seed, baselines=arm.name == chosen[0].name
            )
            cards |= {f"{arm.name}, seed {seed}, {note}": None for note in notes}
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
    """The content of evaluation.json for each subset, with seconds and places; the cards' notes."""
    runs, scales, trainings, notes = [], [], [], []
    for number, fold in enumerate(dealt.folds, start=1):
        own = folder / f"fold{number}"
        model, seconds = _trained(arm, fold, own, seed, device)
        trainings.append(seconds)
        done = own / "runs" / model.name
        if not (done / "run.json").exists():  # which is written last
            screen_run(
                [fold.test],
                model,
                done,
                ScreenOptions(kinds=kinds, allow_mismatch=True),
                device=device,
                resume=True,
                progress=say(f"{model.name}, seed {seed}, fold {number}"),
            )
        runs.append(read_run(done))
        scales.append(_scale(arm, runs[-1], own / "models", device))
        notes += [f"fold {number}: {note}" for note in runs[-1].settings["card"]["notes"]]
    pooled, judged = folder / "pooled" / arm.name, {}
    for name, truth in {ALL: dealt.truth, **dealt.subsets}.items():
        found = pooled / f"evaluation-{name}"
        if not (found / "evaluation.json").exists():
            shutil.rmtree(found, ignore_errors=True)
            if name == ALL:
                parts = [
                    _less_other_side(run, fold.test) if arm.two_breasts else run
                    for run, fold in zip(runs, dealt.folds, strict=True)
                ]
                pool_runs(parts, pooled / "run", scales)
            evaluate(pooled / "run", truth, dealt.regions, found, seed=seed, device=device)
        judged[name] = json.loads((found / "evaluation.json").read_text("utf-8"))
    if "heatmap" in kinds:
        judged[ALL]["places"] = judge_places(
            read_run(pooled / "run"), dealt.truth, dealt.regions, seed=seed
        )
    images = pd.concat([run.images for run in runs])
    judged[ALL]["seconds"] = {
        "image": {"value": float(images["seconds"].mean()), "ci95": [None, None]},
        "scoring": {"value": _scoring(runs), "ci95": [None, None]},
        "training": {"value": float(np.mean(trainings)), "ci95": [None, None]},
    }
    value = judged[ALL]["image"]["auroc"]["value"]
    log.info("%s, seed %d: image AUROC %s", arm.name, seed, value)
    return judged, notes


def _scale(arm: CrossArm, run: Run, models: Path, device: torch.device) -> Scale:
    """The shift and factor that put the arm's folds on one scale; see ``NOTES``."""
    if arm.member:
        return Scale.of_member(_fused(models / Path(arm.config).stem, device).module, arm.member)
    return Scale.of_negatives(run) if arm.standardise else Scale()


def _fused(model: Path, device: torch.device) -> Detector:
    found = load(model, device)
    if not isinstance(found.module, Fused):
        raise RequestError(f"{model} holds no fused detector, so it has no members")
    return found


def _scoring(runs: Sequence[Run]) -> float:
    """Seconds to score an image; too few if a run was interrupted and resumed."""
    scored = sum(run.settings["counts"]["ok"] for run in runs)
    return float(sum(run.settings["seconds"]["score"] for run in runs) / max(scored, 1))


def _less_other_side(run: Run, test: Path) -> Run:
    """The run as `patchad screen --two-breasts` would have written it, without scoring again."""
    plain = card_from_dict(run.settings["card"], str(run.folder))
    card = with_two_breasts(plain)
    ordinary = card.calibrated.two_breasts
    assert ordinary is not None  # else with_two_breasts would have failed
    rows = compare_breasts(run.rows, read_manifest(test), ordinary.ordinary, card)
    images = pd.DataFrame([asdict(row) for row in rows])
    return replace(run, images=images, settings={**run.settings, "card": card_as_dict(card)})


def _trained(
    arm: CrossArm, fold: Fold, folder: Path, seed: int, device: torch.device
) -> tuple[Path, float]:
    """The arm's model in this fold, and the seconds that its training took."""
    own = folder / "models" / Path(arm.config).stem
    config = read_config(arm.config, [*arm.overrides, *WITHOUT_FOLDS])
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
    single = folder / "models" / f"{own.name}-{arm.member}"
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
    fused = _fused(model, device)
    number = [*fused.options.members].index(name)
    member, module = fused.options.members[name], fused.module.members[number]
    card = replace(
        fused.card,
        method=member.method,
        config={**fused.card.config, member.method: asdict(member.options)},
        score_unit=module.unit,
        patch_pooling=module.pooling,
    )
    single = Detector(card, method_of(member.method), member.options, module)
    screener, aside = Screener(single), []
    for row in read_manifest(training):
        if row.split == "validation":
            scored = screener.score(prepare(read_entry(row), card.preprocessing))
            side = Side(row.patient_id, row.study_id, row.view, row.laterality)
            aside.append(NegativeImage.of(row.patient_id, side, scored))
    save(single, folder, calibrate(aside, rule))
