"""Compare runs over the same images: one table, one figure, differences paired by patient."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import pandas as pd
import torch

from patchad.errors import RequestError
from patchad.evaluation.common import Common, match_runs, names_of
from patchad.evaluation.comparison import (
    ALL,
    Row,
    as_json,
    definitions,
    difference,
    rows_of,
)
from patchad.evaluation.metrics import resample
from patchad.export.comparison_figure import Compared, Interval, plot_comparison, short
from patchad.files.claim import claimed, require_free
from patchad.files.whole import shown, write_whole
from patchad.model.calibration import Pooling
from patchad.progress import Progress, silent
from patchad.read.manifest import read_manifest, read_regions
from patchad.store.layouts import COMPARISON
from patchad.store.run import Run, read_run
from patchad.version import __version__

DRAWN = {  # the columns of the figure
    "image_auroc": "image AUROC",
    "patch_auroc": "patch AUROC",
    "lesions_found_at_1": "lesions found\nat 1 false mark",
}
_SCREENED = ("stride", "two_breasts", "voi", "bits", "frames")  # settings of screening to compare


@dataclass(frozen=True, eq=False)
class Comparison:
    """The rows of the table, and the content of ``comparison.json``."""

    rows: tuple[Row, ...]
    result: dict[str, Any]


def compare(
    folders: Sequence[Path],
    truth: Path,
    regions: Path | None,
    out: Path,
    *,
    only_common: bool = False,
    overwrite: bool = False,
    seed: int = 0,
    resamples: int = 1000,
    device: torch.device,
    progress: Progress = silent,
) -> Comparison:
    """Compare runs, and write ``comparison.json``, ``comparison.csv`` and ``comparison.png``.

    Args:
        folders: two runs or more, from ``patchad screen``; others are compared with the first.
        truth: a manifest with labels; see :func:`patchad.evaluation.truth.match_truth`.
        regions: the lesions' positions; without them, only image figures are defined.
        out: the folder to write.
        only_common: compare on the images that all runs have scored, and report the others.
        overwrite: replace a comparison that is there.
        seed: of the bootstrap.
        resamples: of the bootstrap.
        device: where figures are computed; the CPU instead of MPS, which has no float64.
        progress: called for each run.

    Raises:
        RequestError: the runs, the truth or the regions are wrong or don't fit together; nothing
            was written.
        OutputError: ``out`` is not empty, in use, or cannot be written.
    """
    if len(folders) < 2:
        raise RequestError("a comparison takes two runs or more: name another run folder")
    names = names_of(folders)
    runs = {name: _readable(folder) for name, folder in zip(names, folders, strict=True)}
    require_free(out, COMPARISON, overwrite=overwrite)
    marked = None if regions is None else read_regions(regions)
    common = match_runs(runs, read_manifest(truth), marked, only_common=only_common)
    rows = compare_rows(
        runs, common, seed=seed, resamples=resamples, device=device, progress=progress
    )
    result = {
        "patchad": __version__,
        "truth": str(truth),
        "regions": None if regions is None else str(regions),
        "seed": seed,
        "resamples": resamples,
        "definitions": definitions(),
        "notes": [*common.notes, *_grids(runs)],
        "counts": dict(common.counts),
        "runs": _described(runs),
        "rows": [as_json(row, rows[0]) for row in rows],
    }
    request = {"runs": names, "truth": str(truth), "seed": seed}
    apart = [*folders, truth, *([regions] if regions else [])]
    with claimed(
        out, COMPARISON, request, command="compare", overwrite=overwrite, apart=apart
    ):  # nothing is computed under the lock, and a refused request leaves no folder
        write_comparison(out, rows, result)
    return Comparison(tuple(rows), result)


def compare_rows(
    runs: Mapping[str, Run],
    common: Common,
    *,
    seed: int,
    resamples: int,
    device: torch.device,
    progress: Progress = silent,
) -> list[Row]:
    """The rows of the table: the runs in their order, then the baselines."""
    device = torch.device("cpu") if device.type == "mps" else device
    weights = resample(common.patients, resamples, seed=seed, device=device)
    rows: list[Row] = []
    for number, own in enumerate(rows_of(runs, common, weights), start=1):
        rows += own
        progress("comparing runs", number, len(runs), math.nan)
    if len({row.of for row in rows if row.baseline}) == 1:  # one set of them needs no run's name
        rows = [
            replace(row, name=row.baseline.replace("_", " ")) if row.baseline else row
            for row in rows
        ]
    return sorted(rows, key=lambda row: bool(row.baseline))


def write_comparison(out: Path, rows: Sequence[Row], result: Mapping[str, Any]) -> None:
    """Write the three files of a comparison; ``result`` is the content of ``comparison.json``."""
    table = pd.DataFrame(table_rows(rows, rows[0]))
    write_whole(out / "comparison.csv", table.to_csv(index=False))
    first = rows[0]
    shown_figures = {
        name: title
        for name, title in DRAWN.items()
        if any(math.isfinite(row.figures[ALL][name].value) for row in rows)
    }
    plot_comparison(
        out / "comparison.png",
        [
            Compared(
                row.name,
                bool(row.baseline),
                [
                    (
                        Interval.of(row.figures[ALL][name].as_json()),
                        Interval.of(difference(row.figures[ALL][name], first.figures[ALL][name])),
                    )
                    for name in shown_figures
                ],
                row.curves,
            )
            for row in rows
        ],
        [*shown_figures.values()],
    )
    text = json.dumps(result, indent=2, allow_nan=False)
    write_whole(out / "comparison.json", text + "\n")


def table_rows(rows: Sequence[Row], first: Row) -> Iterator[dict[str, Any]]:
    """``comparison.csv``: a row a figure; empty cells are undefined."""
    for row in rows:
        for part, figures in row.figures.items():
            for name, figure in figures.items():
                own = figure.as_json()
                excess = difference(figure, first.figures[part][name])
                yield {
                    "name": row.name,
                    "run": row.of,
                    "baseline": row.baseline,
                    "part": part.name,
                    "figure": name,
                    "value": own["value"],
                    "ci95_low": own["ci95"][0],
                    "ci95_high": own["ci95"][1],
                    "difference": excess["value"],
                    "difference_ci95_low": excess["ci95"][0],
                    "difference_ci95_high": excess["ci95"][1],
                    "above": excess["above"],
                    "below": excess["below"],
                    "positive_images": row.counts[part]["positive_images"],
                    "negative_images": row.counts[part]["negative_images"],
                    "lesions": row.counts[part]["lesions"],
                }


def _readable(folder: Path) -> Run:
    """The run in a folder.

    Raises:
        RequestError: it is no run, or its card lacks what a comparison needs.
    """
    run = read_run(folder)
    if not _known(run.settings):
        raise RequestError(
            f"the card in {shown(folder)} is not one that patchad {__version__} can read: screen "
            "again"
        )
    return run


def _known(settings: Mapping[str, Any]) -> bool:
    """Whether the settings of a run hold what a comparison reads, of the kinds that it expects."""
    card, used = settings.get("card"), settings.get("settings") or {}
    if not (isinstance(card, Mapping) and isinstance(used, Mapping)):
        return False
    config, data, calibration = (card.get(name) or {} for name in ("config", "data", "calibration"))
    if not all(isinstance(part, Mapping) for part in (config, data, calibration)):
        return False
    try:
        json.dumps(settings, allow_nan=False)  # as it is written again
    except ValueError:
        return False
    count = calibration.get("top_k")
    return (
        isinstance(card.get("method"), str)
        and calibration.get("pooling") in [*get_args(Pooling)]
        and isinstance(count, int)
        and count >= 1
        and isinstance(data.get("trained_on", ""), str)
        and isinstance(calibration.get("made_on", ""), str)
    )


def _described(runs: Mapping[str, Run]) -> list[dict[str, Any]]:
    """What each run is: its folder, its method, and the settings that tell it from its likes."""
    settings = {name: _settings(run) for name, run in runs.items()}
    described = []
    for name, run in runs.items():
        card = run.settings["card"]
        alike = [o for o in runs if runs[o].settings["card"]["method"] == card["method"]]
        own = settings[name]
        keys = {key for other in alike for key in settings[other]}
        apart = sorted(k for k in keys if len({str(settings[o].get(k)) for o in alike}) > 1)
        described.append(
            {
                "name": name,
                "folder": str(run.folder),
                "method": card["method"],
                "model": card.get("digest"),
                "seed": card.get("seed"),
                "patch_size": card.get("patch_size"),
                "stride": own.get("stride"),
                "differs_in": {key: own.get(key) for key in apart},
                "configuration": card.get("config"),
            }
        )
    return described


def _settings(run: Run) -> dict[str, Any]:
    """The configuration of a run's model and the settings of its screening, keys dotted."""
    card, used = run.settings["card"], run.settings.get("settings") or {}
    flat: dict[str, Any] = {"seed": card.get("seed")}

    def add(content: Mapping[str, Any], prefix: str) -> None:
        for key, value in content.items():
            if isinstance(value, Mapping):
                add(value, f"{prefix}{key}.")
            else:
                flat[f"{prefix}{key}"] = value

    add(card.get("config") or {}, "")
    return flat | {key: used[key] for key in _SCREENED if used.get(key) is not None}


def _grids(runs: Mapping[str, Run]) -> list[str]:
    """A note if runs cut images differently."""
    grids: dict[str, list[str]] = {}
    for name, run in runs.items():
        own = _settings(run)
        grid = f"patches of {run.settings['card'].get('patch_size')}, {own.get('stride')} apart"
        grids.setdefault(grid, []).append(name)
    if len(grids) == 1:
        return []
    listed = "; ".join(f"{grid}: {', '.join(map(short, own))}" for grid, own in grids.items())
    return [
        "The runs cut images differently, so patch figures are of other patches, and marks may be "
        f"of another size ({listed}). Image figures and the pointing game compare alike."
    ]
