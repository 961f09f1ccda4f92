"""The tables of a study: every figure as a row, and the report in Markdown."""

import csv
import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from patchad.core.baselines import BASELINES
from patchad.files.whole import write_whole

ALL = "all"  # the whole test set, next to its subsets
FIGURES = {  # column of the tables: where evaluation.json has it
    "patch AUROC": ("patch", "auroc"),
    "patch AP": ("patch", "average_precision"),
    "within-image AUROC": ("patch", "within_image_auroc"),
    "image AUROC": ("image", "auroc"),
    "lesions found at 1 false mark an image": ("froc", "sensitivity_at_1"),
}


def figure_rows(
    judged: Mapping[str, Mapping[str, Any]], *, seed: int, config: str, intensity: str
) -> Iterator[dict[str, Any]]:
    """Every figure as a row, for the method and its baselines, by subset and kind of lesion."""
    for subset, result in judged.items():
        for kind, every in {"": result, **result["by_kind"]}.items():
            for scorer, sections in {"method": every, **every["baselines"]}.items():
                for name, (level, figure) in FIGURES.items():
                    found = sections[level][figure]
                    counts = sections[level]["counts"]
                    yield {
                        "seed": seed,
                        "config": config,
                        "intensity": intensity,
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


def results_report(
    results: pd.DataFrame, facts: pd.DataFrame, cards: Sequence[str], published: Mapping[str, str]
) -> str:
    """All tables of a study, with their headings.

    Args:
        results: from :func:`figure_rows`.
        facts: of the data, a row per seed.
        cards: notes of the models' cards, a line each.
        published: patch AUROC of the papers.
    """
    parts = [
        "## Data, by seed",
        table([*facts.columns], [[count(v) for v in row] for row in facts.to_numpy()]),
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
            figures_table(part, published if whole else {}),
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
        parts += ["## Notes of the models' cards", "\n".join(f"* {note}" for note in cards)]
    return "\n\n".join(parts) + "\n"


def figures_table(results: pd.DataFrame, published: Mapping[str, str]) -> str:
    """Scorers × figures, mean (lowest–highest) over the seeds, below the published ones."""
    whole = results[results["kind"] == ""]
    lines = [[label, value, *[""] * len(FIGURES)] for label, value in published.items()]
    for label, method, part in _scorers(whole):
        cells = [spread(part.loc[part["figure"] == name, "value"]) for name in FIGURES]
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
        [label, *(spread(part.loc[part["kind"] == kind, "value"]) for kind in kinds)]
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
            cells.append(
                "{} [{}, {}]".format(*(two(one[name]) for name in ("value", "low", "high")))
            )
        lines.append([label, *cells])
    return table(["", *(f"seed {seed}" for seed in seeds)], lines)


def _scorers(results: pd.DataFrame) -> Iterator[tuple[str, bool, pd.DataFrame]]:
    """A table's lines: label, whether it is a method, its rows; baselines once per intensity."""
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
    """Write a CSV file, completely or not at all."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([columns, *rows])
    write_whole(path, text.getvalue())


def spread(values: "pd.Series[float]") -> str:
    """Mean (lowest–highest)."""
    known = values.dropna()
    if known.empty:
        return "–"
    return f"{known.mean():.2f} ({known.min():.2f}–{known.max():.2f})"


def two(value: float) -> str:
    """Two digits."""
    return "–" if math.isnan(value) else f"{value:.2f}"


def count(value: float) -> str:
    """Whole numbers without decimals."""
    return f"{value:.0f}" if float(value).is_integer() else two(value)
