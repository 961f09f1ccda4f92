"""Any configurations side by side: cross-validated by patient, over seeds, in one table.

    python pipelines/compare.py films.csv --regions regions.csv --config ae --config aeu --quick

Every film of known label is judged by a model that learnt from other patients' negatives. All rows
of the table, trivial scores included, come from the same films and the same resamples of patients,
as in `patchad compare`. A method that fails loses its row, with the reason; the study goes on.
"""

import hashlib
import logging
import re
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pandas as pd
import torch
import typer
from compare_arm import Done, Task, require_same, run_task
from compare_judged import Arm, Judged, clock, judge
from compare_tables import compare_report
from film_store import FilmStore
from folds import Folds, write_folds
from study import claim_study, head_of, read_seeds

from patchad.commands.compare import table_rows, write_comparison
from patchad.device import choose_device
from patchad.errors import PatchadError, RequestError
from patchad.evaluation.comparison import as_json
from patchad.files.whole import write_whole
from patchad.methods import METHODS
from patchad.methods.configure import read_config, resolve
from patchad.methods.declared import body_parts, own_setting, quick_options
from patchad.model.configurations import merge, read_use
from patchad.read.manifest import ManifestRow, read_manifest, read_regions

ASIDE = 0.2  # of the training patients, for calibration: image scores take their scale from these
NOTES = (
    "Each fold's model is trained on the negatives of the other folds' patients, except for a "
    "fifth of these patients, who calibrate it (calibration.folds = 0). It scores all images of "
    "its own fold; no positive image is used for training. Splits that the manifest gives are not "
    "used, but for unlabelled.",
    "Figures are means over the seeds; their intervals are of these means, by patient: every seed "
    "judges the same patients, and all rows have the same resamples. How much a figure depends on "
    "the seed is the range in brackets. Curves are those of the first seed.",
    "Folds are put on one scale by their calibration negatives: scores less the median, over half "
    "the distance from the 16th to the 84th percentile, of the patches; image scores that a method "
    "has of its own by the patients' highest films instead. A fusion's scores are in standard "
    "deviations of negatives already. Few patients calibrate a fold, so that noise of this scale "
    "lowers pooled figures; image AUROC within folds, where only films of one model are compared, "
    "is free of it.",
    "Training times are without reading and preparing films, which is done once for all methods; "
    "seconds an image are with it. Peak memory is of the process that trained and screened, with "
    "all libraries.",
)
log = logging.getLogger("study")


@dataclass(frozen=True, eq=False)
class Films:
    """The films of a manifest: those judged, and the unlabelled ones of other patients."""

    judged: pd.DataFrame
    unlabelled: pd.DataFrame
    notes: tuple[str, ...]


def read_films(manifest: Path) -> Films:
    """Divide the rows of a manifest.

    Raises:
        RequestError: there are no negatives and positives.
    """
    rows = read_manifest(manifest)
    loose = [row for row in rows if row.split == "unlabelled"]
    known = [row for row in rows if row.split != "unlabelled" and row.label != "unknown"]
    if {row.label for row in known} != {"negative", "positive"}:
        raise RequestError(
            f"{manifest} needs films of both labels to judge, negative and positive, outside the "
            f"split unlabelled; it has {len(known)} of known label"
        )
    patients = {row.patient_id for row in known}
    others = [row for row in loose if row.patient_id not in patients]
    notes = []
    if len(known) + len(loose) < len(rows):
        notes.append(f"{len(rows) - len(known) - len(loose)} films of unknown label were left out.")
    if len(others) < len(loose):
        notes.append(
            f"{len(loose) - len(others)} unlabelled films of patients who are judged were left out."
        )
    if others:
        notes.append(
            f"{len(others)} unlabelled films of {len({row.patient_id for row in others})} other "
            "patients are given to the methods that learn from such, in every fold."
        )
    return Films(_table(known), _table(others).assign(label="unknown"), tuple(notes))


def _table(rows: Sequence[ManifestRow]) -> pd.DataFrame:
    columns = ["path", "patient_id", "label", "laterality", "view", "study_id", "spacing_mm"]
    spacing = {row.path: row.spacing_mm and " ".join(map(str, row.spacing_mm)) for row in rows}
    return pd.DataFrame(
        [
            [
                str(row.path), row.patient_id, row.label, row.laterality, row.view, row.study_id,
                spacing[row.path] or "",
            ]
            for row in rows
        ],
        columns=columns,
    )  # fmt: skip


def read_arms(names: Sequence[str], use: str, *, quick: bool) -> tuple[Arm, ...]:
    """The configurations, in their order; the first is the one that others are compared with.

    A method's name takes ``use`` (mammogram or chest), if given, in place of its own. With
    ``quick``, methods that declare options for two cores have these.

    Raises:
        RequestError: a configuration is wrong, or two have one name.
    """
    arms = []
    for given in names:
        name = Path(given).stem
        if not re.fullmatch(r"\w[\w.+-]*", name):  # it stands in tables and names folders
            raise RequestError(f"--config {given!r}: rename it to letters, digits and . _ + -")
        if name in [arm.name for arm in arms]:
            raise RequestError(f"--config {given}: there is a {name} already: name each once")
        arms.append(_arm(name, given, use, quick))
    if not arms:
        raise RequestError("give at least one --config")
    return tuple(arms)


def _arm(name: str, given: str, use: str, quick: bool) -> Arm:
    folds = ("calibration.folds=0",)
    if use and given in METHODS:
        content = read_use(use)
        part = content["preprocessing"]["body_part"]
        if part not in body_parts(given):
            return Arm(name, None, reason=f"it is not for the body part {part}")
        content = merge(content, own_setting(given), given)
        content = merge(content, {"calibration": {"folds": 0}}, given)
        own = quick_options(given) if quick else {}
        config = resolve({**content, "method": given, given: {**own}}, given)
        return Arm(name, config, bool(own))
    config = read_config(given, folds)
    if quick and quick_options(config.method):
        return Arm(name, read_config(given, folds, quick=True), quick=True)
    return Arm(name, config)


def run_comparison(
    manifest: Path,
    regions: Path | None,
    arms: Sequence[Arm],
    seeds: Sequence[int],
    out: Path,
    *,
    folds: int,
    device: torch.device,
    use: str = "",
    jobs: int = 1,
    resume: bool = False,
) -> str:
    """Run every arm with every seed, and write the tables.

    ``results.md``; ``results.csv``, a row a figure of each seed and of their mean; ``methods.csv``,
    a row a method with its time and memory, or why it failed; ``facts.csv``; and in ``comparison``
    the files of `patchad compare` for the means. With ``resume`` finished parts are kept, failed
    ones are tried again.

    Returns:
        The report, as written to ``results.md``.

    Raises:
        PatchadError: the manifest or the regions are wrong, or ``out`` holds another study, or
            what an arm of the same name gave with another configuration.
    """
    films = read_films(manifest)
    if regions is not None:
        read_regions(regions)  # a wrong table is refused before anything is trained
    described = {
        "title": "compare",
        "manifest": hashlib.sha256(manifest.read_bytes()).hexdigest(),
        "folds": folds,
        "use": use,
    }
    claim_study(out, described, resume=resume)
    start, worked = time.monotonic(), time.process_time()
    dealt = {seed: _deal(films, regions, out / f"seed{seed}", folds, seed) for seed in seeds}
    store = FilmStore(out / "films")
    tasks = [
        Task(
            arm.name,
            arm.config,
            seed,
            dealt[seed].folds,
            out / f"seed{seed}" / arm.name,
            store,
            str(device),
        )
        for seed in seeds  # all arms of a seed first: a stopped study has whole seeds
        for arm in arms
        if arm.config is not None
    ]
    require_same(tasks)
    done = run_tasks(tasks, jobs)
    result = judge(arms, tasks, done, dealt[seeds[0]], regions, seeds, device)
    trained = sum(seconds for one in done.values() for seconds in one.training_cpu)
    took = (time.monotonic() - start, time.process_time() - worked + trained)
    quick = [arm.name for arm in arms if arm.quick]
    cuts = (f"Options for two cores instead of the paper's: {', '.join(quick)}.",) if quick else ()
    return _write(out, result, films, dealt, seeds, device, took, cuts)


def run_tasks(tasks: Sequence[Task], jobs: int) -> dict[tuple[str, int], Done]:
    """Do the tasks, ``jobs`` at a time, with a line for each that ends."""
    begun, done = time.monotonic(), {}
    with ThreadPoolExecutor(max_workers=jobs) as pool:
        waiting = {pool.submit(run_task, task): task for task in tasks}
        for number, future in enumerate(as_completed(waiting), start=1):
            task, one = waiting[future], future.result()
            done[task.name, task.seed] = one
            spent = time.monotonic() - begun
            left = spent / number * (len(tasks) - number)
            told = one.reason and f"FAILED: {one.reason}"
            told = told or f"{sum(one.training):.0f} s to train, {one.peak_mib:.0f} MiB"
            log.info(
                "[%s] %d of %d: %s, seed %d: %s; about %s left",
                *(clock(spent), number, len(tasks), task.name, task.seed, told, clock(left)),
            )
    return done


def _deal(films: Films, regions: Path | None, folder: Path, folds: int, seed: int) -> Folds:
    nowhere = pd.DataFrame(columns=["path", "x", "y", "width", "height"])
    return write_folds(
        films.judged,
        nowhere if regions is None else regions.absolute(),
        folder,
        folds=folds,
        seed=seed,
        subsets={},
        unlabelled=films.unlabelled,
        aside=ASIDE,
    )


def _write(
    out: Path,
    judged: Judged,
    films: Films,
    dealt: Mapping[int, Folds],
    seeds: Sequence[int],
    device: torch.device,
    took: tuple[float, float],
    cuts: tuple[str, ...],
) -> str:
    facts = pd.DataFrame([{"seed": seed, **own.facts} for seed, own in dealt.items()])
    write_whole(out / "facts.csv", facts.to_csv(index=False))
    write_whole(out / "methods.csv", pd.DataFrame(judged.facts).to_csv(index=False))
    parts = [("mean", judged.means), *((str(s), own) for s, own in judged.seeds.items())]
    lines = [
        {"seed": name, **line} for name, rows in parts if rows for line in table_rows(rows, rows[0])
    ]
    write_whole(out / "results.csv", pd.DataFrame(lines).to_csv(index=False))
    notes = [*NOTES, *films.notes, *(judged.common.notes if judged.common else ())]
    if judged.means and judged.common:
        result = {
            "counts": dict(judged.common.counts),
            "notes": notes,
            "rows": [as_json(row, judged.means[0]) for row in judged.means],
        }
        write_comparison(out / "comparison", judged.means, result)
    head = head_of("Configurations compared", seeds, cuts, notes, device, took)
    report = head + compare_report(judged.means, judged.seeds, judged.facts, facts)
    write_whole(out / "results.md", report)
    return report


def main(
    manifest: Annotated[Path, typer.Argument(help="Films with patients and labels.")],
    config: Annotated[list[str], typer.Option(help="A configuration, method or file; repeat it.")],
    regions: Annotated[Path | None, typer.Option(help="Positions of lesions.")] = None,
    seeds: Annotated[str, typer.Option(help="Each changes folds and weights.")] = "0,1,2",
    folds: Annotated[int, typer.Option(min=2, help="By patient.")] = 3,
    quick: Annotated[bool, typer.Option("--quick", help="Options for two cores.")] = False,
    use: Annotated[
        str, typer.Option(help="mammogram or chest: what methods named alone are used for.")
    ] = "",
    out: Annotated[Path, typer.Option(help="The folder to work in.")] = Path("studies/compare"),
    device: Annotated[str, typer.Option(help="auto, cuda, mps or cpu.")] = "auto",
    jobs: Annotated[int, typer.Option(min=1, help="Configurations at a time.")] = 1,
    resume: Annotated[bool, typer.Option("--resume", help="Keep what is finished.")] = False,
) -> None:
    """Cross-validate configurations on one manifest, and print one table."""
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    try:
        if use not in ("", "mammogram", "chest"):
            raise RequestError(f"--use takes mammogram or chest, got {use!r}")
        print(
            run_comparison(
                manifest,
                regions,
                read_arms(config, use, quick=quick),
                read_seeds(seeds),
                out,
                folds=folds,
                device=choose_device(device),
                use=use,
                jobs=jobs,
                resume=resume,
            )
        )
    except PatchadError as error:
        typer.echo(f"compare.py: {error}", err=True)
        raise typer.Exit(2) from None


if __name__ == "__main__":
    typer.run(main)
