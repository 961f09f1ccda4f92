"""The table and the picture of a self-test."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from patchad.export.curves import DetailLine, plot_contrast_detail


def table(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row a level, with the contrast at which half of its kind and size are found."""
    half = {(x["kind"], x["diameter_mm"]): x["contrast"] for x in result["half_found"]}
    return [
        {
            **{name: value for name, value in level.items() if name != "ci95"},
            "found_low": level["ci95"][0],
            "found_high": level["ci95"][1],
            "half_found_at": half[level["kind"], level["diameter_mm"]],
        }
        for level in result["levels"]
    ]


def draw(path: Path, result: Mapping[str, Any]) -> None:
    """The share found over contrast, a line each size, a panel each kind."""
    panels: dict[str, list[DetailLine]] = {}
    for half in result["half_found"]:
        own = [
            level
            for level in result["levels"]
            if (level["kind"], level["diameter_mm"]) == (half["kind"], half["diameter_mm"])
        ]
        line = DetailLine(
            half["diameter_mm"],
            np.array([level["contrast"] for level in own]),
            np.array([level["found"] for level in own]),
            np.array([level["ci95"] for level in own]),
            math.nan if half["contrast"] is None else half["contrast"],
        )
        panels.setdefault(half["kind"], []).append(line)
    plot_contrast_detail(path, panels, result["false_marks_an_image"])
