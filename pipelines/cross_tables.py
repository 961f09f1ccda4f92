"""The tables of a cross-validation: a line per detector, a column per figure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from study_tables import ALL, count, spread, table, two

from patchad.core.baselines import BASELINES


@dataclass(frozen=True)
class Column:
    """Where evaluation.json has a figure, for a ``subset`` of the images and a kind of lesion."""

    level: str
    figure: str
    kind: str = ""
    subset: str = ALL


def cross_rows(
    judged: Mapping[str, Mapping[str, Any]],
    columns: Mapping[str, Column],
    arm: str,
    seed: int,
    *,
    baselines: bool,
) -> Iterator[dict[str, Any]]:
    """Every figure as a row; with ``baselines``, also theirs. Missing figures have no row."""
    for name, column in columns.items():
        result = judged.get(column.subset, {})
        if column.kind:
            result = result.get("by_kind", {}).get(column.kind, {})
        scorers = {arm: result}
        if baselines:
            beside = result.get("baselines", {})
            scorers |= {f"*{b.replace('_', ' ')}*": beside.get(b, {}) for b in BASELINES}
        for scorer, sections in scorers.items():
            section = sections.get(column.level) or {}
            found = section.get(column.figure)
            if found is not None:
                yield {
                    "arm": scorer,
                    "seed": seed,
                    "figure": name,
                    "value": found["value"],
                    "low": found["ci95"][0],
                    "high": found["ci95"][1],
                }


def cross_report(
    results: pd.DataFrame,
    facts: pd.DataFrame,
    cards: Sequence[str],
    columns: Mapping[str, Column],
) -> str:
    """All tables, with their headings; ``results`` are rows of :func:`cross_rows`."""
    first = int(results["seed"].min())
    parts = [
        "## Data, by seed",
        table([*facts.columns], [[count(v) for v in row] for row in facts.to_numpy()]),
        "## Figures: mean over the seeds (lowest–highest)",
        "Baselines have no seed; they are those of the first line, from the same prepared pixels "
        "and patches. Seconds per image include reading and writing. A member's training is that "
        "of the whole fused detector.",
        _figures(results, columns, _mean),
        f"## Figures of seed {first}, with 95 % intervals by patient",
        _figures(results[results["seed"] == first], columns, _interval),
    ]
    if cards:
        parts += ["## Notes of the models' cards", "\n".join(f"* {note}" for note in cards)]
    return "\n\n".join(parts) + "\n"


def _figures(results: pd.DataFrame, columns: Mapping[str, Column], cell: Any) -> str:
    names = results["arm"].drop_duplicates()
    names = sorted(names, key=lambda name: name.startswith("*"))  # stable: baselines come last
    shown = [name for name in columns if (results["figure"] == name).any()]
    lines = []
    for arm in names:
        own = results[results["arm"] == arm]
        lines.append([arm, *(cell(own[own["figure"] == name]) for name in shown)])
    return table(["", *shown], lines)


def _mean(rows: pd.DataFrame) -> str:
    return spread(rows["value"])


def _interval(rows: pd.DataFrame) -> str:
    if rows.empty:
        return "–"
    one = rows.iloc[0]
    if pd.isna(one["low"]):
        return two(one["value"])
    return f"{two(one['value'])} [{two(one['low'])}, {two(one['high'])}]"
