"""The run folders of all folds as one."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from patchad.errors import RequestError
from patchad.export.tiff import read_heatmap, write_heatmap
from patchad.io.run import Run, heatmap_path, patches_path, write_run


def pool_runs(parts: Sequence[Run], out: Path, *, standardise: bool) -> Run:
    """One run folder of all folds; images are named apart.

    Thresholds, which `evaluate` reads from the card, are the medians of the folds'.

    Args:
        parts: a run a fold.
        out: the folder to write.
        standardise: bring scores to one scale, see ``NOTES``.
    """
    rows, cards = [], []
    for part in parts:
        card = json.loads(json.dumps(part.settings["card"]))
        centre, spread = _scale(card["calibration"]) if standardise else (0.0, 1.0)
        _rescale(card["calibration"], centre, spread)
        cards.append(card)
        for row in part.rows:
            if row.score is not None:
                table = part.patches(row.id)
                table["score"] = ((table["score"] - centre) / spread).astype(np.float32)
                path = patches_path(out, row.id)
                path.parent.mkdir(parents=True, exist_ok=True)
                table.to_parquet(path, index=False)
                row = replace(row, score=(row.score - centre) / spread)
            if part.heatmap_path(row.id).exists():
                shown = read_heatmap(part.heatmap_path(row.id))
                values = ((shown.values - centre) / spread).astype(np.float32)
                write_heatmap(heatmap_path(out, row.id), replace(shown, values=values))
            rows.append(row)
    if len({row.id for row in rows}) < len(rows):
        raise RequestError("images of two folds share a name: give each image a name of its own")
    first = cards[0]
    own = [card["calibration"] for card in cards]
    for name in ("patch_threshold", "image_threshold"):
        first["calibration"][name] = float(np.median([one[name] for one in own]))
    if first["calibration"].get("map"):
        middle = float(np.median([one["map"]["threshold"] for one in own]))
        first["calibration"]["map"]["threshold"] = middle
    return write_run(out, {**parts[0].settings, "card": first}, rows)


def _scale(calibration: Mapping[str, Any]) -> tuple[float, float]:
    """Median and half the distance from the 16th to the 84th percentile of negatives' patches."""
    low, middle, high = np.interp(
        [0.1587, 0.5, 0.8413], calibration["levels"], calibration["quantiles"]
    )
    return float(middle), max(float(high - low) / 2, 1e-6)


def _rescale(calibration: dict[str, Any], centre: float, spread: float) -> None:
    for name in ("patch_threshold", "image_threshold"):
        calibration[name] = (calibration[name] - centre) / spread
    if calibration.get("map"):
        calibration["map"]["threshold"] = (calibration["map"]["threshold"] - centre) / spread
