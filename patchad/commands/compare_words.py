"""What `patchad compare` prints: tables of the figures, and the notes."""

from collections.abc import Mapping, Sequence
from typing import Any

from patchad.evaluation.comparison import FIGURES
from patchad.evaluation.files import as_text
from patchad.export.comparison_figure import short
from patchad.files.whole import shown


def summary(result: Mapping[str, Any]) -> list[str]:
    """``comparison.json`` for the terminal."""
    counts, rows = result["counts"], result["rows"]
    lines = [
        f"{counts['images']} images ({counts['positive_images']} positive) of "
        f"{counts['patients']} patients, {counts['regions']} regions; intervals and differences "
        "by patient, with the same resamples",
        *_run_lines(result["runs"]),
        "",
    ]
    lines += _table(
        rows,
        {
            "image AUROC": lambda row: as_text(row["image_auroc"]),
            **_less(rows[0], "image_auroc"),
            "AP": lambda row: as_text(row["image_average_precision"]),
            "patient AUROC": lambda row: as_text(row["patient_auroc"]),
        },
    )
    if counts["regions"]:
        lines += ["", "lesions found at .25, .5, 1 and 2 false marks a negative image:"]
        lines += _table(
            rows,
            {
                "patch AUROC": lambda row: as_text(row["patch_auroc"]),
                **_less(rows[0], "patch_auroc"),
                "within image": lambda row: as_text(row["within_image_auroc"]),
                "found": _found,
                "points at one": lambda row: as_text(row["pointing_hits"]),
            },
        )
    for by, what, figure in (
        ("by_view", "image AUROC by view", "image_auroc"),
        ("by_kind", "image AUROC by kind of lesion", "image_auroc"),
        ("by_kind", "patch AUROC by kind of lesion", "patch_auroc"),
    ):
        parts = [*rows[0][by]]
        if not parts or (by == "by_kind" and len(parts) == 1):
            continue
        lines += ["", f"{what}:"]
        lines += _table(
            rows,
            {
                shown(part): lambda row, by=by, part=part, figure=figure: as_text(
                    row[by][part][figure]
                )
                for part in parts
            },
        )
    return [*lines, *([""] * bool(result["notes"])), *result["notes"]]


def _run_lines(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = []
    for run in runs:
        apart = [f"{key} = {value}" for key, value in run["differs_in"].items()]
        more = f", … ({len(apart)} in all)" if len(apart) > 3 else ""
        told = f": {', '.join(apart[:3])}{more}" if apart else ""
        lines.append(shown(f"  {short(run['name'])} is {run['method']}{told}"))
    return lines


def _table(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, Any]) -> list[str]:
    """Lines of a table: the runs, then the baselines, indented."""
    cells = [["", *columns]]
    for row in rows:
        name = "  " * bool(row["baseline"]) + short(row["name"])
        cells.append([name, *(text(row) for text in columns.values())])
    widths = [max(len(line[k]) for line in cells) for k in range(len(cells[0]))]
    return [
        "  ".join(f"{cell:<{w}}" for cell, w in zip(line, widths, strict=True)).rstrip()
        for line in cells
    ]


def _less(first: Mapping[str, Any], figure: str) -> dict[str, Any]:
    """The columns of a figure's difference to the first row, which has none itself."""
    return {
        "less the first": lambda row: "" if row is first else _signed(row[figure]["difference"]),
        "above 0": lambda row: "" if row is first else _share(row[figure]["difference"]["above"]),
    }


def _found(row: Mapping[str, Any]) -> str:
    figures = [row[name]["value"] for name in FIGURES if name.startswith("lesions_found")]
    return " ".join("–" if value is None else f"{value:.2f}" for value in figures)


def _signed(excess: Mapping[str, Any]) -> str:
    if excess["value"] is None:
        return "not defined"
    low, high = excess["ci95"]
    value = f"{excess['value']:+.2f}"
    return value if low is None else f"{value} [{low:+.2f}, {high:+.2f}]"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.0%}"
