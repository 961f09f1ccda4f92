"""The figures of a repeated table: ours as rows, and the report with the published ones beside."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from study_tables import count, table

from patchad.core.baselines import BASELINES
from patchad.model.card import ModelCard
from patchad.store.run import Run

FIGURES = {  # column: where evaluation.json has it
    "AUROC": ("image", "auroc"),
    "AP": ("image", "average_precision"),
    "pixel AUROC": ("pixel", "auroc"),
    "PRO": ("pixel", "pro"),
    "Dice": ("pixel", "dice"),
    "Dice †": ("pixel", "dice_chosen_on_test"),
    "precision": ("threshold", "precision"),
    "recall": ("threshold", "sensitivity"),
    "specificity": ("threshold", "specificity"),
    "F1": ("threshold", "f1"),
    "accuracy": ("threshold", "accuracy"),
}
PATCHES = {
    "patch AUROC": ("patch", "auroc"),
}
ON_TEST = "†"  # marks what was chosen on the data that it is computed from
FLAGGED, FALSELY = "anomalies flagged", "normals flagged"
RULES = {"vanhetreve2023": 2.0}  # the paper's own threshold; other methods have their card's
LEGEND = (
    "Published figures stand in italics under ours. Precision, recall, specificity, F1, accuracy "
    "and Dice are at the card's threshold, from negatives held out of training; flagged shares are "
    "by the method's own rule where its paper has one (vanhetreve2023: 2 standard deviations, to "
    "both sides), else by the card's. Seconds to train are of the whole command: with reading and "
    "calibrating. † chosen on the test data, as papers often do: too good. "
    "AP depends on the share of positives, so compare it only where that is the same. Ours: mean "
    "over the seeds (lowest–highest)."
)


@dataclass(frozen=True)
class PublishedRow:
    """A row of a paper's table.

    ``config`` is ours for the same system, such as ``ddad+backbone=memae``, empty if patchad has
    none; ``part`` and ``test`` are those the row is about, both empty for a mean over the parts;
    ``figures`` by our columns; ``source`` is the paper. Without figures a row only names what is
    run by default.
    """

    label: str
    config: str
    figures: Mapping[str, float]
    source: str
    part: str = ""
    test: str = ""


def figures_of(
    run: Run,
    labels: Mapping[Path, str],
    judged: Mapping[str, Any] | None,
    card: ModelCard,
    model: Mapping[str, float],
) -> Iterator[dict[str, Any]]:
    """The figures of one run as rows: scorer, figure, value, low, high.

    Args:
        run: of all test pictures.
        labels: of those to judge.
        judged: the content of evaluation.json; None if a class is missing.
        card: of the model.
        model: figures of the model itself.
    """
    images = run.images[[Path(path) in labels for path in run.images["path"]]]
    done = images[images["status"] == "ok"]
    scores = done["score"].to_numpy(np.float64)
    positive = np.array([labels[Path(path)] == "positive" for path in done["path"]], bool)
    if judged is not None:
        for scorer in ("", *BASELINES):
            sections = judged if not scorer else judged["baselines"][scorer]
            for name, (level, figure) in (FIGURES | PATCHES).items():
                section = sections.get(level)
                if level == "threshold" and section:
                    section = section["image"]
                if section and figure in section:
                    found = section[figure]
                    low, high = found["ci95"]
                    yield _row(scorer, name, found["value"], low, high)
        for name, value in youden(scores, positive).items():
            yield _row("", f"{name} {ON_TEST}", value)
    threshold = RULES.get(card.method, card.calibrated.image_threshold)
    for name, chosen in ((FLAGGED, positive), (FALSELY, ~positive)):
        if chosen.any():
            yield _row("", name, float((scores[chosen] > threshold).mean()))
    seconds = done["seconds"].to_numpy(np.float64).sum()
    for name, value in {
        **model,
        "screened images a second": len(done) / seconds if seconds else math.nan,
        "not screened": float(len(images) - len(done)),
    }.items():
        yield _row("", name, value)


def youden(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> dict[str, float]:
    """Figures at the threshold with the highest recall + specificity on these same scores.

    Of equal ones the highest threshold. Above is at or above it.
    """
    if not positive.any() or positive.all():
        return {}
    levels = np.unique(scores)[::-1]
    hits, lower = np.sort(scores[positive]), np.sort(scores[~positive])
    true = len(hits) - np.searchsorted(hits, levels)
    false = len(lower) - np.searchsorted(lower, levels)
    recall, specificity = true / len(hits), 1 - false / len(lower)
    best = int(np.argmax(recall + specificity))
    precision = float(true[best] / (true[best] + false[best]))
    return {
        "precision": precision,
        "recall": float(recall[best]),
        "specificity": float(specificity[best]),
        "F1": float(2 * true[best] / (true[best] + false[best] + len(hits))),
        "accuracy": float((true[best] + len(lower) - false[best]) / len(scores)),
    }


def published_report(
    results: pd.DataFrame,
    facts: pd.DataFrame,
    published: Sequence[PublishedRow],
    failed: Sequence[str],
    *,
    average: bool,
) -> str:
    """The tables with their headings.

    Args:
        results: rows of :func:`figures_of`, with seed, config, part and test.
        facts: of the data, a row a seed and part.
        published: the paper's rows.
        failed: what could not be run, a line each.
        average: whether there is a table of means over the parts.
    """
    blocks = [
        "## Data",
        table([*facts.columns], [[_cell(v) for v in row] for row in facts.to_numpy()]),
        "## Figures",
        LEGEND,
    ]
    tests = [*results["test"].unique()]
    parts = [*results["part"].unique()]
    if average:
        keys = ["seed", "config", "test", "scorer", "figure"]
        mean = results.groupby(keys, sort=False, as_index=False)["value"].mean()
        for test in tests:
            here = mean[mean["test"] == test]
            about = [row for row in published if not row.part and row.test == test]
            of = f"the {len(parts)} parts" if len(parts) > 1 else parts[0]
            blocks += [f"### Mean of {of}{_of(test)}", _figures(here, about)]
    for part in parts if len(parts) > 1 or not average else ():
        for test in tests:
            here = results[(results["part"] == part) & (results["test"] == test)]
            if here.empty:
                continue
            about = [row for row in published if (row.part, row.test) == (part, test)]
            title = (part or "All pictures") + _of(test)
            blocks += [f"### {title}", _figures(here, about)]
    gone = [row for row in published if row.part not in ("", *parts) or row.test not in tests]
    if gone:
        blocks += [
            "### Published, without a run here",
            "\n".join(f"* {row.label} ({row.part or row.test}): {_listed(row)}" for row in gone),
        ]
    if failed:
        blocks += ["## Not run", "\n".join(f"* {reason}" for reason in failed)]
    return "\n\n".join(blocks) + "\n"


def _figures(results: pd.DataFrame, published: Sequence[PublishedRow]) -> str:
    """A table: each configuration, with the published row below, then the baselines."""
    published = [row for row in published if row.figures]
    own = results[results["scorer"] == ""]
    columns = [*own["figure"].unique()]
    columns += [c for row in published for c in row.figures if c not in columns]
    columns = [c for c in dict.fromkeys(columns) if _known(results, published, c)]
    lines, shown = [], set()
    for config in own["config"].unique():
        lines.append(_line(f"`{config}`", own[own["config"] == config], columns))
        for number, row in enumerate(published):
            if row.config == config:
                lines.append(_published(row, columns, ""))
                shown.add(number)
    rest = [row for number, row in enumerate(published) if number not in shown]
    lines += [_published(row, columns, ", not run here") for row in rest]
    first = results["config"].iloc[0]
    for scorer in BASELINES:
        part = results[(results["scorer"] == scorer) & (results["config"] == first)]
        if len(part):
            lines.append(_line(scorer.replace("_", " "), part, columns))
    return table(["", *columns], lines)


def _known(results: pd.DataFrame, published: Sequence[PublishedRow], column: str) -> bool:
    values = results["value"][results["figure"] == column]
    if column == "not screened" and not values.any():
        return False
    return bool(values.notna().any()) or any(column in row.figures for row in published)


def _line(label: str, part: pd.DataFrame, columns: Sequence[str]) -> list[str]:
    return [label, *(_spread(part["value"][part["figure"] == column]) for column in columns)]


def _published(row: PublishedRow, columns: Sequence[str], how: str) -> list[str]:
    cells = [f"*{_digits(row.figures[c])}*" if c in row.figures else "" for c in columns]
    return [f"*{row.label} ({row.source}{how})*", *cells]


def _spread(values: "pd.Series[float]") -> str:
    known = values.dropna()
    if known.empty:
        return "–"
    text = _digits(known.mean())
    if len(known) > 1:
        text += f" ({_digits(known.min())}–{_digits(known.max())})"
    return text


def _digits(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def _listed(row: PublishedRow) -> str:
    return ", ".join(f"{name} {_digits(value)}" for name, value in row.figures.items())


def _of(test: str) -> str:
    return f": {test}" if test else ""


def _cell(value: object) -> str:
    return value if isinstance(value, str) else count(float(value))  # type: ignore[arg-type]


def _row(
    scorer: str, figure: str, value: float | None, low: float | None = None,
    high: float | None = None,
) -> dict[str, Any]:  # fmt: skip
    return {
        "scorer": scorer, "figure": figure, "value": value, "low": low, "high": high,
        "chosen_on_test": ON_TEST in figure,
    }  # fmt: skip
