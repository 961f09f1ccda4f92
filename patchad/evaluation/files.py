"""The tables and pictures of an evaluation."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from patchad.core.baselines import BASELINES
from patchad.evaluation.estimate import Section
from patchad.evaluation.figures import FALSE_MARKS, SPECIFICITIES
from patchad.evaluation.judged import METHOD, SCORERS, Samples
from patchad.evaluation.labelling import POSITIVE
from patchad.export.curves import (
    Distribution,
    Line,
    plot_froc,
    plot_histogram,
    plot_pr,
    plot_rarity,
    plot_roc,
)
from patchad.files.whole import write_whole

_UNDEFINED: Mapping[str, Any] = {"value": None, "ci95": (None, None)}
_LEVELS = ("patch", "image", "patient", "pointing", "froc")


def write_tables(folder: Path, result: Mapping[str, Any], marks: pd.DataFrame) -> None:
    """Write ``figures.csv`` (a row a figure), ``by_kind.csv``, ``operating_points.csv``.

    And ``rarity.csv`` (expected against observed) and ``marks.csv`` (``marks``, with the lesions
    they hit). ``result`` is the content of ``evaluation.json``. Empty cells are undefined figures.
    """
    for name, rows in (
        ("figures", _figures(result)),
        ("by_kind", _by_kind(result)),
        ("operating_points", _operating_points(result)),
        ("rarity", _rarity(result)),
    ):
        write_whole(folder / f"{name}.csv", pd.DataFrame(rows).to_csv(index=False))
    judged = marks.drop(columns="patient").rename(columns={"positive": "positive_image"})
    write_whole(folder / "marks.csv", judged.to_csv(index=False))


def write_pictures(
    folder: Path,
    result: Mapping[str, Any],
    sections: Mapping[str, Mapping[str, Section]],
    samples: Samples,
    card: Mapping[str, Any],
) -> None:
    """Draw ``roc.png``, ``pr.png``, ``froc.png``, ``histogram.png`` and ``rarity.png``.

    ``sections`` holds those of each scorer, by level.
    """
    named = {METHOD: card["method"], **{name: name.replace("_", " ") for name in BASELINES}}

    def lines(level: str, curve: str, figure: str, unit: str) -> list[Line]:
        drawn = []
        for scorer in SCORERS:
            section = sections[scorer][level]
            if math.isfinite(section.figures[figure].value):
                text = as_text(section.figures[figure].as_json())
                drawn.append(Line(f"{named[scorer]}: {unit} {text}", *section.curves[curve]))
        return drawn

    panels = {"patches": "patch", "images": "image"}
    plot_roc(
        folder / "roc.png",
        {title: lines(level, "roc", "auroc", "AUROC") for title, level in panels.items()},
    )
    plot_pr(
        folder / "pr.png",
        {title: lines(level, "pr", "average_precision", "AP") for title, level in panels.items()},
        {title: result[level]["counts"]["prevalence"] for title, level in panels.items()},
    )
    plot_froc(
        folder / "froc.png",
        lines("froc", "froc", "sensitivity_at_1", "at 1 false mark"),
        FALSE_MARKS,
    )
    rarity = result["marks"]["rarity"]
    plot_rarity(
        folder / "rarity.png",
        np.array([row["expected"] for row in rarity], np.float64),
        [row["observed"] for row in rarity],
    )
    patches, images = samples.patches, samples.images
    scores, calibration = patches[METHOD].to_numpy(), card["calibration"]
    inside = patches["in_positive"].to_numpy()
    truth = images["positive"].to_numpy()
    plot_histogram(
        folder / "histogram.png",
        {
            "patches": Distribution(
                scores[~inside],
                scores[patches["label"] == POSITIVE],
                calibration["patch_threshold"],
                card["score_unit"],
                ("of negative images", "on a lesion"),
            ),
            "images": Distribution(
                images[METHOD].to_numpy()[~truth],
                images[METHOD].to_numpy()[truth],
                calibration["image_threshold"],
                card["score_unit"],
                ("negative", "positive"),
            ),
        },
    )


def as_text(figure: Mapping[str, Any]) -> str:
    """A figure as text: ``0.71 [0.64, 0.78]``, or ``not defined``."""
    if figure["value"] is None:
        return "not defined"
    low, high = figure["ci95"]
    return f"{figure['value']:.2f}" + ("" if low is None else f" [{low:.2f}, {high:.2f}]")


def _figures(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = []

    def add(scorer: str, kind: str, levels: Mapping[str, Any]) -> None:
        for level, section in levels.items():
            for name, figure in _of(section):
                rows.append(
                    {"scorer": scorer, "kind": kind, "level": level, "figure": name, **_row(figure)}
                )

    method = result["method"]
    add(method, "", {level: result[level] for level in _LEVELS})
    add(method, "", {f"threshold.{name}": part for name, part in result["threshold"].items()})
    add(method, "", {"pixel": result["pixel"] or {}, "marks": result["marks"]})
    for name, baseline in result["baselines"].items():
        add(name, "", {level: baseline[level] for level in _LEVELS})
        add(f"{method} - {name}", "", baseline["method_minus_baseline"])
    for kind, sections in result["by_kind"].items():
        add(method, kind, {level: sections[level] for level in (*_LEVELS, "marks")})
        for name, baseline in sections["baselines"].items():
            add(name, kind, baseline)
    return rows


def _by_kind(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for kind, sections in result["by_kind"].items():
        for scorer, levels in {result["method"]: sections, **sections["baselines"]}.items():
            patch, image, patient, pointing, froc = (levels[level] for level in _LEVELS)
            marked = levels["marks"]["lesions_marked"] if "marks" in levels else _UNDEFINED
            rows.append(
                {
                    "kind": kind,
                    "scorer": scorer,
                    "lesions": froc["counts"]["lesions"],
                    "lesions_not_scored": froc["counts"]["lesions_not_scored"],
                    "images": image["counts"]["positives"],
                    "patches": patch["counts"]["positives"],
                    **_row(patch["auroc"], "patch_auroc"),
                    **_row(patch["within_image_auroc"], "within_image_auroc"),
                    **_row(image["auroc"], "image_auroc"),
                    **_row(patient["auroc"], "patient_auroc"),
                    **_row(pointing["hits"], "pointing_hits"),
                    **_row(froc["sensitivity_at_1"], "froc_sensitivity_at_1"),
                    **_row(marked, "lesions_marked"),
                }
            )
    return rows


def _operating_points(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Operating points: the card's threshold, and specificities on these data."""
    rows = []
    for level in ("patch", "image", "patient"):
        card = result["threshold"][level]
        point = {"level": level, "point": "card's threshold", "threshold": card["value"]}
        rows.append(point | {k: v for name, f in _of(card) for k, v in _row(f, name).items()})
        for share in SPECIFICITIES:
            figure = result[level][f"sensitivity_at_{share}_specificity"]
            point = {"level": level, "point": f"{share} % specificity", "threshold": np.nan}
            rows.append(point | _row(figure, "sensitivity"))
    return rows


def _rarity(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Marks a negative image: the stated and the measured rates."""
    images = result["marks"]["counts"]["negative_images"]
    return [
        {
            "expected": row["expected"],
            **_row(row["observed"], "observed"),
            "marks": row["marks"],
            "negative_images": images,
        }
        for row in result["marks"]["rarity"]
    ]


def _of(section: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    return (
        (name, part)
        for name, part in section.items()
        if isinstance(part, Mapping) and "ci95" in part
    )


def _row(figure: Mapping[str, Any], name: str = "value") -> dict[str, Any]:
    low, high = figure["ci95"]
    prefix = "" if name == "value" else f"{name}_"
    return {name: figure["value"], f"{prefix}ci95_low": low, f"{prefix}ci95_high": high}
