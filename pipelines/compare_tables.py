"""The tables of a comparison of configurations: figures, differences, and what each costs."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from compare_arm import Done
from study_tables import count, table, two

from patchad.evaluation.comparison import ALL, Row, difference
from patchad.methods import method_of
from patchad.model.config import Config

WHOLE = {  # column: figure
    "image AUROC": "image_auroc",
    "within folds": "image_auroc_within_folds",
    "image AP": "image_average_precision",
    "patient AUROC": "patient_auroc",
    "patch AUROC": "patch_auroc",
    "within image": "within_image_auroc",
    "found at .25": "lesions_found_at_0.25",
    "at .5": "lesions_found_at_0.5",
    "at 1": "lesions_found_at_1",
    "at 2": "lesions_found_at_2",
    "points at one": "pointing_hits",
}
_SECONDS = ("seconds_to_train", "cpu_seconds_to_train", "seconds_an_image")
DIFFERENCES = ("image_auroc", "patch_auroc", "lesions_found_at_1")


def fact_rows(
    name: str, config: Config | None, quick: bool, reason: str, done: Sequence[Done]
) -> dict[str, Any]:
    """A row of ``methods.csv``: what a configuration is, needs and costs, or why it failed."""
    row: dict[str, Any] = {"name": name, "setting": "quick" if quick else "as it is"}
    if config is not None:
        method = method_of(config.method)
        row |= {
            "method": method.name,
            "family": method.family,
            "kind": method.gives.kind,
            "needs": method.needs.words,
            "unlabelled": method.needs_with(config.options).unlabelled,
            "patch_size": config.patch_size,
            "stride": config.stride,
        }
    good = [one for one in done if not one.reason]
    trainings = [seconds for one in good for seconds in one.training]
    cpu = [seconds for one in good for seconds in one.training_cpu]
    row |= {
        "seconds_to_train": sum(trainings) / len(trainings) if trainings else math.nan,
        "cpu_seconds_to_train": sum(cpu) / len(cpu) if cpu else math.nan,
        "seconds_an_image": sum(one.image for one in good) / len(good) if good else math.nan,
        "peak_mib": max((one.peak_mib for one in good), default=math.nan),
        "device_mib": max((one.device_mib for one in good), default=math.nan),
        "scored": min((one.scored for one in good), default=0),
        "failed": reason,
        "notes": " ".join(dict.fromkeys(note for one in good for note in one.notes)),
    }
    return row


def compare_report(
    means: Sequence[Row],
    seeds: Mapping[int, Sequence[Row]],
    facts: Sequence[Mapping[str, Any]],
    data: pd.DataFrame,
) -> str:
    """All tables, with their headings; the first of ``means`` is what others are compared with."""
    parts = [
        "## Data, by seed",
        table([*data.columns], [[count(v) for v in row] for row in data.to_numpy()]),
    ]
    if means:
        parts += [
            "## Figures: mean over the seeds [95 % interval by patient] (range over seeds)",
            _whole(means, seeds),
            f"## Differences to {means[0].name}, paired by patient",
            "The share is that of resamples in which the difference is above 0.",
            _differences(means),
            *_by_part(means),
        ]
    parts += [
        "## What each is and costs",
        "Seconds are a training of one fold, by the clock and of the CPU, and an image to read, "
        "score and write.",
        _costs(facts),
    ]
    failed = [row for row in facts if row["failed"]]
    if failed:
        parts += ["## Failed", "\n".join(f"* {row['name']}: {row['failed']}" for row in failed)]
    noted = [row for row in facts if row["notes"]]
    if noted:
        parts += [
            "## Notes of the models' cards",
            "\n".join(f"* {row['name']}: {row['notes']}" for row in noted),
        ]
    return "\n\n".join(parts) + "\n"


def _whole(means: Sequence[Row], seeds: Mapping[int, Sequence[Row]]) -> str:
    shown = [
        title
        for title, name in WHOLE.items()
        if any(math.isfinite(_value(row, name)) for row in means)
    ]
    lines = []
    for row in means:
        own = [one for rows in seeds.values() for one in rows if one.name == row.name]
        lines.append([_label(row), *(_cell(row, WHOLE[title], own) for title in shown)])
    return table(["", *shown], lines)


def _cell(row: Row, name: str, seeds: Sequence[Row]) -> str:
    figure = row.figures[ALL].get(name)
    if figure is None or not math.isfinite(figure.value):
        return "–"
    low, high = figure.as_json()["ci95"]
    text = two(figure.value) + ("" if low is None else f" [{two(low)}, {two(high)}]")
    values = [_value(one, name) for one in seeds]
    return text + (f" ({two(min(values))}–{two(max(values))})" if len(values) > 1 else "")


def _differences(means: Sequence[Row]) -> str:
    first = means[0]
    titles = {name: title for title, name in WHOLE.items()}
    shown = [name for name in DIFFERENCES if math.isfinite(_value(first, name))]
    lines = []
    for row in means[1:]:
        cells = []
        for name in shown:
            excess = difference(row.figures[ALL][name], first.figures[ALL][name])
            if excess["value"] is None:
                cells.append("–")
                continue
            low, high = excess["ci95"]
            ends = "" if low is None else f" [{low:+.2f}, {high:+.2f}], {excess['above']:.0%}"
            cells.append(f"{excess['value']:+.2f}{ends}")
        lines.append([_label(row), *cells])
    return table(["", *(titles[name] for name in shown)], lines)


def _by_part(means: Sequence[Row]) -> list[str]:
    parts = [part for part in means[0].figures if part != ALL]
    if not parts:
        return []
    texts = []
    for title, name, chosen in (
        ("image AUROC", "image_auroc", parts),
        ("patch AUROC", "patch_auroc", [part for part in parts if part.kind]),
    ):
        if not chosen:
            continue
        lines = [
            [_label(row), *(two(row.figures[part][name].value) for part in chosen)] for row in means
        ]
        texts += [f"## By view and kind: {title}"]
        texts += [table(["", *(part.name for part in chosen)], lines)]
    return texts


def _costs(facts: Sequence[Mapping[str, Any]]) -> str:
    columns = ["family", "kind", "setting", "needs"]
    heads = ["", *columns, "s to train", "of CPU", "s an image", "peak MiB"]
    lines = [
        [
            row["name"],
            *(str(row.get(name, "–")) for name in columns),
            *(two(row[name]) for name in _SECONDS),
            "–" if math.isnan(row["peak_mib"]) else f"{row['peak_mib']:.0f}",
        ]
        for row in facts
    ]
    return table(heads, lines)


def _label(row: Row) -> str:
    return f"*{row.name}*" if row.baseline else row.name


def _value(row: Row, name: str) -> float:
    figure = row.figures[ALL].get(name)
    return math.nan if figure is None else figure.value
