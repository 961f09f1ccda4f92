"""Common code of the pipelines that repeat papers: their data, split and table beside ours.

A pipeline says what its data set holds, how the paper divides it and what it reports. Here the
named configurations are trained, screened and evaluated by the same code as in the commands, and
the figures are laid beside the published ones.
"""

import json
import logging
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import torch
import typer
from published_data import Part
from published_tables import PublishedRow, figures_of, published_report
from study import claim_study, head_of, read_seeds, say

from patchad.commands.evaluate import evaluate
from patchad.commands.screen import screen_run
from patchad.commands.train import train
from patchad.device import choose_device
from patchad.engine.screener import ScreenOptions
from patchad.errors import PatchadError, RequestError, TrainingError
from patchad.files.whole import write_whole
from patchad.methods import METHODS
from patchad.methods.configure import read_config, resolve
from patchad.methods.declared import own_setting, quick_options
from patchad.model.config import Config
from patchad.model.configurations import merge, packaged, read_use
from patchad.read.manifest import read_manifest, read_regions

Out = Annotated[Path, typer.Option(help="The folder to work in.")]
Configs = Annotated[str, typer.Option(help="a,b; by default those of the paper's table.")]
Seeds = Annotated[str, typer.Option(help="Each changes split, order and weights.")]
Quick = Annotated[bool, typer.Option("--quick", help="Each method's setting for two cores.")]
Limit = Annotated[int, typer.Option(min=0, help="Pictures of each split and label. 0: all.")]
Resume = Annotated[bool, typer.Option("--resume", help="Keep what is finished.")]
OnDevice = Annotated[str, typer.Option(help="auto, cuda, mps or cpu.")]
Sets = Annotated[list[str], typer.Option("--set", help="KEY=VALUE, such as ae.epochs=50.")]

log = logging.getLogger("study")


@dataclass(frozen=True)
class Asked:
    """What the user asked of any of these pipelines."""

    out: Path
    configs: str = ""
    seeds: str = "0"
    quick: bool = False
    limit: int = 0
    resume: bool = False
    device: str = "auto"
    sets: tuple[str, ...] = ()


@dataclass(frozen=True)
class Replication:
    """A paper's table to repeat.

    ``use`` is the packaged use (chest, mammogram or picture) that pictures are prepared as;
    ``overrides`` are keys of every configuration. ``prepare`` writes the tables of a seed into a
    folder. ``published`` are the paper's rows; a row without a ``config`` is only listed.
    ``average``: the paper's figures are means over the parts. ``measure`` gives further figures of
    a trained model, by the method's name and the model folder.
    """

    title: str
    use: str
    prepare: Callable[[int, Path], Sequence[Part]]
    published: tuple[PublishedRow, ...]
    notes: tuple[str, ...] = ()
    overrides: Mapping[str, Any] | None = None
    average: bool = False
    measure: Callable[[str, Path], Mapping[str, float]] = lambda method, model: {}


@contextmanager
def refused(script: str):
    """Turn errors of patchad into one line on the terminal and exit status 2."""
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    try:
        yield
    except PatchadError as error:
        typer.echo(f"{script}: {error}", err=True)
        raise typer.Exit(2) from None


def arm_config(
    name: str, study: Replication, *, quick: bool = False, sets: Sequence[str] = ()
) -> Config:
    """The configuration that ``name`` stands for, with the data's use in place of its own.

    A packaged one for the same body part, such as wei2018 on mammograms, keeps what it says.
    ``ddad_intra+backbone=memae`` sets options of its method. ``sets`` apply where their table is
    the method's own, or no method's. A tenth of the training negatives calibrates.

    Raises:
        RequestError: an unknown name, option or value; or the method is for another body part.
    """
    base, *options = name.split("+")
    method = read_config(base).method
    applied = [s for s in sets if s.split(".")[0] in (method, *({s.split(".")[0]} - {*METHODS}))]
    config = read_config(
        base,
        ["calibration.folds=0", *(f"{method}.{option}" for option in options), *applied],
        quick=quick and bool(quick_options(method)),
    )
    use = merge(read_use(study.use), own_setting(method), name)
    content = config.as_dict()
    own = base in packaged() and config.preprocessing.body_part == use["preprocessing"]["body_part"]
    if not own:
        content["preprocessing"] = use["preprocessing"]
        content |= {key: use[key] for key in ("patch_size", "stride", "min_foreground")}
    content = merge(content, study.overrides or {}, name)
    return resolve(content, name)


def default_configs(study: Replication) -> tuple[str, ...]:
    """The configurations of the published rows that patchad has, each once."""
    known = {*METHODS, *packaged()}
    named = [row.config for row in study.published if row.config.split("+")[0] in known]
    return tuple(dict.fromkeys(named))


def replicate(study: Replication, asked: Asked) -> str:
    """Run every configuration with every seed; write ``results.csv`` and ``results.md``.

    ``out/seed<n>/<part>/<configuration>`` holds each model and its runs. A configuration that
    fails loses its rows, with the reason in the report; the others go on.

    Returns:
        The report, as written to ``results.md``.

    Raises:
        PatchadError: the data can't be used, a name is wrong, or the folder can't be written.
    """
    out, device = asked.out, choose_device(asked.device)
    names = tuple(n.strip() for n in asked.configs.split(",") if n.strip())
    names = names or default_configs(study)
    arms, failed = {}, dict[str, None]()
    for name in names:
        try:
            arms[name] = arm_config(name, study, quick=asked.quick, sets=asked.sets)
        except RequestError as error:
            if asked.configs:
                raise
            failed[f"{name} was not run: {error}"] = None
    if not arms:
        raise RequestError(f"no configuration can be run: name some by --configs. {[*failed]}")
    seeds = read_seeds(asked.seeds)
    described = {
        "title": study.title, "configs": [*arms], "quick": asked.quick, "limit": asked.limit,
        "set": [*asked.sets],
    }  # fmt: skip
    claim_study(out, described, resume=asked.resume)
    start, worked = time.monotonic(), time.process_time()
    rows: list[dict[str, Any]] = []
    facts: list[dict[str, Any]] = []
    notes: dict[str, None] = {}
    for seed in seeds:
        for part in study.prepare(seed, out / f"seed{seed}"):
            facts.append({"seed": seed, "part": part.name, **part.facts})
            notes |= dict.fromkeys(part.notes)
            for name, config in arms.items():
                folder = out / f"seed{seed}" / _folder(part.name) / _folder(name)
                try:
                    found = _run(config, part, folder, study, seed=seed, device=device)
                except (RequestError, TrainingError) as error:
                    log.warning("%s, %s: %s", name, part.name or study.title, error)
                    failed[f"{name}, {part.name or 'all'}, seed {seed}: {error}"] = None
                    continue
                rows += [{"seed": seed, "config": name, "part": part.name, **row} for row in found]
    if not rows:
        raise RequestError(f"no configuration could be run: {'; '.join(failed)}")
    results = pd.DataFrame(rows).astype(dict.fromkeys(("value", "low", "high"), float))
    write_whole(out / "results.csv", results.to_csv(index=False))
    cuts = _cuts(asked, arms)
    took = (time.monotonic() - start, time.process_time() - worked)
    report = head_of(study.title, seeds, cuts, [*study.notes, *notes], device, took)
    report += published_report(
        results, pd.DataFrame(facts), study.published, [*failed], average=study.average
    )
    write_whole(out / "results.md", report)
    return report


def _run(
    config: Config,
    part: Part,
    folder: Path,
    study: Replication,
    *,
    seed: int,
    device: torch.device,
) -> list[dict[str, Any]]:
    """Train, screen every test set, evaluate; the figures' rows."""
    progress, model = say(f"{folder.name}, seed {seed}"), folder / "model"
    clock, clean = folder / "seconds.json", not model.exists()
    begun = time.monotonic()
    card = train(
        part.training, model, config, device=device, seed=seed, resume=True, progress=progress
    ).card
    if clean and not clock.exists():  # else part of it was another session's
        write_whole(clock, json.dumps({"training": time.monotonic() - begun}))
    known = json.loads(clock.read_text("utf-8")) if clock.exists() else {"training": math.nan}
    model_figures = {
        "seconds to train": known["training"],
        "training images a second": card.data.images / known["training"],
        **study.measure(config.method, model),
    }
    # All are judged, also those that a user would be warned about.
    kinds = () if part.regions is None else ("heatmap",)
    screened = screen_run(
        [part.images],
        model,
        folder / "run",
        ScreenOptions(kinds=kinds, allow_mismatch=True),
        device=device,
        resume=True,
        progress=progress,
    )
    marked = {} if part.regions is None else read_regions(part.regions)
    rows = []
    for test, manifest in part.tests.items():
        labels = {row.path: row.label for row in read_manifest(manifest)}
        judged = None
        if {*labels.values()} >= {"negative", "positive"}:
            done = folder / _folder(f"evaluation-{test}" if test else "evaluation")
            if not (done / "evaluation.json").exists():  # which is written last
                shutil.rmtree(done, ignore_errors=True)
                regions = part.regions if labels.keys() & marked.keys() else None
                evaluate(screened.folder, manifest, regions, done, seed=seed, device=device)
            judged = json.loads((done / "evaluation.json").read_text("utf-8"))
        rows += [
            {"test": test, **row}
            for row in figures_of(screened, labels, judged, card, model_figures)
        ]
    return rows


def _cuts(asked: Asked, arms: Mapping[str, Config]) -> list[str]:
    cuts = []
    if asked.quick:
        own = [name for name, config in arms.items() if quick_options(config.method)]
        cuts.append(f"quick settings for two cores ({', '.join(own) or 'no method has one'}).")
    if asked.limit:
        cuts.append(f"at most {asked.limit} pictures of each split and label: a try, no result.")
    if asked.sets:
        cuts.append(f"set by hand: {', '.join(asked.sets)}.")
    return cuts


def _folder(name: str) -> str:
    """A name as one of a folder."""
    return "".join(c if c.isalnum() or c in "+=-._" else "-" for c in name) or "all"
