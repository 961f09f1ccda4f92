"""The pictures of an evaluation: curves and histograms, readable without colour vision."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from patchad.files.whole import write_whole

_DPI = 150
# Okabe & Ito's palette; the dashes distinguish the lines in grey, too.
_STYLES: tuple[tuple[str, str], ...] = (
    ("#000000", "-"), ("#0072B2", "--"), ("#D55E00", "-."), ("#009E73", ":"),
    ("#CC79A7", "-"), ("#56B4E9", "--"), ("#E69F00", "-."), ("#999999", ":"),
)  # fmt: skip
_NEGATIVE, _POSITIVE = "#56B4E9", "#D55E00"


@dataclass(frozen=True, eq=False)
class Line:
    """A curve: ``x`` and ``y`` (V,) float64, and its text in the legend."""

    label: str
    x: NDArray[np.float64]
    y: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Distribution:
    """Scores of negatives and positives, (N,) and (M,), and the card's threshold."""

    negatives: NDArray[np.float64]
    positives: NDArray[np.float64]
    threshold: float
    unit: str
    labels: tuple[str, str]  # of negatives and positives


@dataclass(frozen=True, eq=False)
class DetailLine:
    """Lesions of one size: the share ``found`` (C,) at each ``contrast`` (C,), float64.

    ``interval`` (C, 2) is that of the share; ``half`` the contrast at which half are found, NaN
    if never reached. Contrasts are in local standard deviations.
    """

    diameter_mm: float
    contrast: NDArray[np.float64]
    found: NDArray[np.float64]
    interval: NDArray[np.float64]
    half: float


def plot_roc(path: Path, panels: Mapping[str, Sequence[Line]]) -> None:
    """Draw ROC curves, a panel a key; the first line of each is the method."""
    figure, axes = _panels(panels)
    for axis, lines in zip(axes, panels.values(), strict=True):
        draw_roc(axis, lines)
    write_figure(path, figure)


def draw_roc(axis: Axes, lines: Sequence[Line]) -> None:
    """Draw ROC curves, and the line of chance."""
    axis.plot([0, 1], [0, 1], color="0.75", linewidth=0.8, zorder=0)
    _draw(axis, lines)
    _unit_square(axis, "1 − specificity", "sensitivity")


def plot_pr(
    path: Path, panels: Mapping[str, Sequence[Line]], prevalence: Mapping[str, float]
) -> None:
    """Draw precision over recall; the grey line is the prevalence, the precision of chance."""
    figure, axes = _panels(panels)
    for axis, (name, lines) in zip(axes, panels.items(), strict=True):
        axis.axhline(prevalence[name], color="0.75", linewidth=0.8, zorder=0)
        whole = [
            Line(line.label, np.append(0, line.x), np.append(line.y[:1], line.y)) for line in lines
        ]
        _draw(axis, whole, drawstyle="steps-pre")
        _unit_square(axis, "recall (sensitivity)", "precision")
    write_figure(path, figure)


def plot_froc(path: Path, lines: Sequence[Line], rates: Sequence[float]) -> None:
    """Draw lesion sensitivity over false marks a negative image, up to the last of ``rates``."""
    figure, (axis,) = _panels({"lesions": lines})
    draw_froc(axis, lines, rates)
    write_figure(path, figure)


def draw_froc(axis: Axes, lines: Sequence[Line], rates: Sequence[float]) -> None:
    """Draw FROC curves up to the last of ``rates`` false marks a negative image."""
    last = rates[-1]
    drawn = []
    for line in lines:
        seen = line.x <= last
        highest = line.y[seen].max(initial=0.0)
        x = np.concatenate([[0], line.x[seen], [last]])
        drawn.append(Line(line.label, x, np.concatenate([[0], line.y[seen], [highest]])))
    _draw(axis, drawn, drawstyle="steps-post")
    axis.set_xlim(0, last)
    axis.set_ylim(0, 1.01)
    axis.set_xticks(rates, [f"{rate:g}" for rate in rates], fontsize=8)
    axis.set_xlabel("false marks a negative image")
    axis.set_ylabel("lesion sensitivity")


def plot_histogram(path: Path, panels: Mapping[str, Distribution]) -> None:
    """Draw the scores of negatives and positives, each as shares of its own number."""
    figure, axes = _panels(panels)
    for axis, scores in zip(axes, panels.values(), strict=True):
        both = np.concatenate([scores.negatives, scores.positives])
        if both.size:
            low, high = np.quantile(both, (0.001, 0.999))
            fewer = min(len(scores.negatives), len(scores.positives))
            bins = int(np.clip(2 * fewer**0.5, 8, 40))
            edges = np.linspace(low, high if high > low else low + 1, bins + 1)
            _shares(axis, scores.negatives, edges, scores.labels[0], color=_NEGATIVE)
            _shares(axis, scores.positives, edges, scores.labels[1], color=_POSITIVE, fill=False)
        axis.axvline(scores.threshold, color="black", linestyle="--", label="card's threshold")
        axis.set_xlabel(f"score ({scores.unit})")
        axis.set_ylabel("share")
        axis.legend(fontsize=8)
    write_figure(path, figure)


def plot_rarity(
    path: Path, expected: NDArray[np.float64], observed: Sequence[Mapping[str, Any]]
) -> None:
    """Draw the measured rate of marks of negative images over the stated one, both logarithmic.

    ``expected`` (R,) in marks an image; ``observed`` the figure of each, with its ``ci95``. No
    mark is an arrow at the bottom; on the grey line both are equal.
    """
    figure, (axis,) = _panels({"marks of negative images": observed})
    value = np.array([np.nan if f["value"] is None else f["value"] for f in observed], np.float64)
    seen = value[value > 0]
    low = 0.5 * min([*expected, *seen], default=0.1)
    high = 2 * max([*expected, *seen], default=1)
    axis.plot([low, high], [low, high], color="0.75", linewidth=0.8, zorder=0)
    for place, number, shown in zip(expected, value, observed, strict=True):
        ends = shown["ci95"]
        if None not in ends:
            axis.plot([place, place], [max(ends[0], low), max(ends[1], low)], color="0.4")
        if number > 0:
            axis.plot(place, number, "o", color="black")
        elif number == 0:
            axis.plot(place, low * 1.1, "v", color="#D55E00")
    _log_ticks(axis, "x", expected.tolist(), (low, high))
    _log_ticks(axis, "y", expected.tolist(), (low, high))
    axis.set_xlabel("marks this rare a normal film has, by the model")
    axis.set_ylabel("marks this rare a negative image has here")
    if not np.isfinite(value).any():
        axis.text(0.5, 0.5, "not defined", ha="center", color="0.4", transform=axis.transAxes)
    write_figure(path, figure)


def plot_contrast_detail(
    path: Path, panels: Mapping[str, Sequence[DetailLine]], false_marks: float
) -> None:
    """Draw how small and how faint a lesion may be and still be found, a column a kind.

    Top row: the share found over contrast, a line a size, with intervals. Bottom row: the contrast
    at which half are found over size; an arrow at the top if half were never found.
    """
    figure = Figure(figsize=(4.6 * len(panels), 7.6), layout="constrained")
    axes = figure.subplots(2, len(panels), squeeze=False, sharey="row")
    drawn = np.concatenate([line.contrast for lines in panels.values() for line in lines])
    contrasts = sorted({float(contrast) for contrast in drawn if contrast > 0})
    low, high = contrasts[0] / 1.3, contrasts[-1] * 1.3
    sizes = sorted({line.diameter_mm for lines in panels.values() for line in lines})
    for (above, below), (kind, lines) in zip(axes.T, panels.items(), strict=True):
        above.axhline(0.5, color="0.8", linewidth=0.8, zorder=0)
        for number, line in enumerate(lines):
            colour, dashes = _STYLES[number % len(_STYLES)]
            x = line.contrast * 1.04 ** (number - (len(lines) - 1) / 2)  # bars side by side
            bars = np.abs(line.interval.T - line.found)
            above.errorbar(
                x, line.found, bars, color=colour, linestyle=dashes, marker="o", markersize=4,
                elinewidth=0.8, capsize=2, label=f"{line.diameter_mm:g} mm",
            )  # fmt: skip
        above.set_title(kind)
        above.set_ylim(-0.02, 1.02)
        above.set_xlabel("contrast (local s.d.)")
        above.legend(fontsize=8, title="diameter", title_fontsize=8)
        _log_ticks(above, "x", contrasts, (low, high))
        size = np.array([line.diameter_mm for line in lines])
        half = np.array([line.half for line in lines])
        reached = np.isfinite(half)
        below.plot(size[reached], half[reached], color="black", marker="o")
        at_top = np.full(int((~reached).sum()), high / 1.12)
        below.plot(size[~reached], at_top, "^", color="#D55E00", label="half not reached")
        if not reached.all():
            below.legend(fontsize=8, loc="lower left")
        below.set_xlabel("diameter (mm)")
        _log_ticks(below, "x", sizes, (sizes[0] / 1.3, sizes[-1] * 1.3))
        _log_ticks(below, "y", contrasts, (low, high))
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
    plural = "s" * (false_marks != 1)
    axes[0, 0].set_ylabel(f"share found at {false_marks:g} false mark{plural} an image")
    axes[1, 0].set_ylabel("contrast at which half are found (local s.d.)")
    write_figure(path, figure)


def _log_ticks(
    axis: Axes, which: Literal["x", "y"], ticks: Sequence[float], ends: tuple[float, float]
) -> None:
    """Make an axis logarithmic, with ticks at these values only."""
    axis.set(**{f"{which}scale": "log", f"{which}lim": ends})
    drawn = axis.xaxis if which == "x" else axis.yaxis
    drawn.set_ticks(ticks, [f"{tick:g}" for tick in ticks])
    drawn.set_ticks([], minor=True)


def _shares(
    axis: Axes,
    values: NDArray[np.float64],
    edges: NDArray[np.float64],
    label: str,
    *,
    color: str,
    fill: bool = True,
) -> None:
    """One histogram; values outside the edges are counted in the outermost bins."""
    counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
    share = counts / max(len(values), 1)
    axis.stairs(
        share, edges, fill=fill, color=color, linewidth=1.6, label=f"{label} (n = {len(values)})"
    )


def _panels(panels: Mapping[str, object]) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(5.2 * len(panels), 4.8), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, name in zip(axes, panels, strict=True):
        axis.set_title(name)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, list(axes)


def _draw(axis: Axes, lines: Sequence[Line], drawstyle: str = "default") -> None:
    for number, line in enumerate(lines):
        colour, dashes = _STYLES[number % len(_STYLES)]
        axis.plot(
            line.x, line.y, color=colour, linestyle=dashes, label=line.label, drawstyle=drawstyle,
            linewidth=2.0 if number == 0 else 1.3, zorder=len(lines) - number + 1,
        )  # fmt: skip
    if lines:
        axis.legend(fontsize=8, loc="best")
    else:
        axis.text(0.5, 0.5, "not defined: a class is missing", ha="center", color="0.4")


def _unit_square(axis: Axes, x: str, y: str) -> None:
    axis.set_xlim(-0.01, 1.01)
    axis.set_ylim(-0.01, 1.01)
    axis.set_aspect("equal")
    axis.set_xlabel(x)
    axis.set_ylabel(y)


def write_figure(path: Path, figure: Figure) -> None:
    """Write a figure as PNG, completely or not at all."""
    write_whole(path, lambda aside: figure.savefig(aside, dpi=_DPI))
