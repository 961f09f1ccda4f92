"""The picture of a comparison: intervals of every row, and curves of the first few runs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font

from patchad.core.arrays import Curve
from patchad.export.curves import Line, draw_froc, draw_roc, write_figure

MOST_CURVES = 8  # more lines can't be told apart
_LONGEST = 36  # characters of a name in a table or a picture
_RATES = (0.25, 0.5, 1.0, 2.0, 4.0)


@dataclass(frozen=True)
class Interval:
    """A value with the ends of its interval, NaN where undefined."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, figure: Mapping[str, Any]) -> "Interval":
        """From a figure as JSON."""
        ends = (figure["value"], *figure["ci95"])
        return cls(*(math.nan if end is None else float(end) for end in ends))


@dataclass(frozen=True, eq=False)
class Compared:
    """A row of the picture.

    ``figures`` has for each column its interval, and that of the difference to the first row.
    ``curves``: roc and froc, where defined.
    """

    name: str
    baseline: bool
    figures: Sequence[tuple[Interval, Interval]]
    curves: Mapping[str, Curve]


def plot_comparison(path: Path, rows: Sequence[Compared], columns: Sequence[str]) -> None:
    """Draw a forest of intervals, a row a run or baseline, and the curves of the first runs.

    Args:
        path: of the PNG.
        rows: the first is the one that others are compared with.
        columns: titles of the rows' figures, each with a panel of values and one of differences.
    """
    height = 0.9 + 0.28 * len(rows)
    width = 3.2 + 2.6 * max(2 * len(columns), 2)
    figure = Figure(figsize=(width, height + 4.4), layout="constrained")
    above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=[4.4, height])[:, 0]
    _curves(above, rows)
    axes = below.subplots(1, max(2 * len(columns), 1), sharey=True, squeeze=False)[0]
    places = [len(rows) - number for number in range(len(rows))]
    for number, title in enumerate(columns):
        values, excess = axes[2 * number], axes[2 * number + 1]
        _forest(values, title, [row.figures[number][0] for row in rows], rows, places)
        chance = 0.5 if "AUROC" in title else None
        if chance is not None:
            values.axvline(chance, color="0.8", linewidth=0.8, zorder=0)
        differences = [Interval(math.nan, math.nan, math.nan)]
        differences += [row.figures[number][1] for row in rows[1:]]
        _forest(excess, "less the first", differences, rows, places)
        excess.axvline(0, color="0.8", linewidth=0.8, zorder=0)
    axes[0].set_yticks(places, [printable(row.name) for row in rows], fontsize=8)
    axes[0].set_ylim(0.4, len(rows) + 0.6)
    write_figure(path, figure)


def printable(text: str) -> str:
    """``text`` as a picture can show it.

    Long ones are shortened. Characters that the font lacks become escapes, a ``$`` begins no
    formula, and an underscore at the front, which would keep a line out of the legend, comes after
    a space.
    """
    known = get_font(findfont(FontProperties())).get_charmap()
    shown = "".join(
        c if ord(c) in known else c.encode("ascii", "backslashreplace").decode() for c in text
    )
    shown = short(shown)
    return " " * shown.startswith("_") + shown.replace("$", r"\$")


def short(name: str) -> str:
    """A name for a table or a picture, its middle left out if it is long."""
    if len(name) <= _LONGEST:
        return name
    return f"{name[: _LONGEST // 3]}…{name[-(_LONGEST - _LONGEST // 3 - 1) :]}"


def _curves(figure: Any, rows: Sequence[Compared]) -> None:
    runs = [row for row in rows if not row.baseline]
    shown = runs[:MOST_CURVES]
    few = "" if len(shown) == len(runs) else f" (the first {MOST_CURVES} runs)"
    roc, froc = figure.subplots(1, 2)
    for axis, title in ((roc, "images: ROC"), (froc, "lesions: FROC")):
        axis.set_title(title + few, fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
    lines = {
        curve: [
            Line(printable(row.name), *row.curves[curve]) for row in shown if curve in row.curves
        ]
        for curve in ("roc", "froc")
    }
    draw_roc(roc, lines["roc"])
    draw_froc(froc, [line for line in lines["froc"] if len(line.x)], _RATES)


def _forest(
    axis: Axes,
    title: str,
    intervals: Sequence[Interval],
    rows: Sequence[Compared],
    places: Sequence[int],
) -> None:
    """One column of intervals; baselines are grey, and a value without an interval is hollow."""
    for place, row, one in zip(places, rows, intervals, strict=True):
        colour = "0.5" if row.baseline else "#0072B2"
        if math.isfinite(one.low):
            axis.plot([one.low, one.high], [place, place], color=colour, linewidth=1.4)
        if math.isfinite(one.value):
            filled = colour if math.isfinite(one.low) else "white"
            axis.plot(one.value, place, "o", color=colour, markerfacecolor=filled, markersize=4.5)
    axis.set_title(title, fontsize=9)
    axis.tick_params(axis="x", labelsize=8)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.tick_params(axis="y", length=0)
