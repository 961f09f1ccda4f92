"""The run folders of all folds combined, their scores on one scale."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from patchad.errors import RequestError
from patchad.export.tiff import read_heatmap, write_heatmap
from patchad.files.names import new_id
from patchad.methods import method_of
from patchad.methods.fused import Fused
from patchad.model.calibration import Shares
from patchad.store.marks_table import read_marks, write_marks_table
from patchad.store.run import Run, heatmap_path, patches_path, write_run

Shift = tuple[float, float]  # centre and spread
AS_IS: Shift = (0.0, 1.0)
_LEAST = 1e-6  # of the scores: a spread below that is rounding


@dataclass(frozen=True)
class Scale:
    """The centre to subtract from a fold's scores and the spread to divide by, level by level."""

    patches: Shift = AS_IS
    maps: Shift = AS_IS
    images: Shift = AS_IS

    @classmethod
    def of_negatives(cls, run: Run) -> "Scale":
        """From the patches of the model's calibration negatives, for a map stitched from patches.

        Median, and half the distance from the 16th to the 84th percentile.
        """
        shares = Shares(**run.settings["card"]["calibration"]["patch_shares"])
        low, middle, high = (shares.quantile(share) for share in (0.1587, 0.5, 0.8413))
        least = _LEAST * max(abs(low), abs(high))  # scores are in units of any size
        own = middle, max((high - low) / 2, least) or 1.0
        return cls(own, own, own)

    @classmethod
    def of_any(cls, run: Run) -> "Scale":
        """The scale of any method's run, from the calibration negatives alone.

        A fusion's scores are on one scale already. An image score of the method's own has another
        unit than its patches: its scale is that of the patients' highest films.
        """
        method = method_of(run.settings["card"]["method"])
        if method.family == "fusion":
            return cls()
        scale = cls.of_negatives(run)
        if not method.gives.image:
            return scale
        highest = np.array(run.settings["card"]["calibration"]["patient_scores"], np.float64)
        low, middle, high = np.quantile(highest, (0.1587, 0.5, 0.8413)).tolist()
        return replace(scale, images=(middle, (high - low) / 2 if high > low else 1.0))

    @classmethod
    def of_member(cls, fused: Fused, name: str) -> "Scale":
        """The scale of a member within a fusion, from the negatives it was fitted to."""
        number = [*fused.config.members].index(name)
        patches, maps, images = (
            (float(scale.centre[number]), float(scale.spread[number]))
            for scale in (fused.patches, fused.maps, fused.images)
        )
        # Members without an image score of their own are pooled from patches, and shift with them.
        return cls(patches, maps, patches if images == AS_IS else images)


def pool_runs(parts: Sequence[Run], out: Path, scales: Sequence[Scale]) -> Run:
    """Combine the runs of all folds in one run folder.

    Thresholds, which `evaluate` reads from the card, are the medians of the folds'. Marks and their
    rarity are those of each fold. Images of several folds that have one id get numbers.

    Args:
        parts: the run of each fold.
        out: the folder to write.
        scales: of each run's scores.

    Raises:
        RequestError: two folds hold the same image.
    """
    rows, cards, marks = [], [], []
    taken: set[str] = set()
    for part, scale in zip(parts, scales, strict=True):
        card = json.loads(json.dumps(part.settings["card"]))
        calibration = card["calibration"]
        for level in ("patch", "image"):
            shift = scale.patches if level == "patch" else scale.images
            name = f"{level}_threshold"
            calibration[name] = _moved(calibration[name], shift)
        drawn = calibration["marks"]
        drawn["threshold"] = _moved(drawn["threshold"], scale.patches)
        drawn["rarity"]["scores"] = [_moved(s, scale.patches) for s in drawn["rarity"]["scores"]]
        shown = scale.maps if drawn["dense"] else scale.patches
        calibration["display_range"] = [_moved(end, shown) for end in calibration["display_range"]]
        # Each fold's model saw the images of other folds, but scored none of them.
        calibration["made_on"] = ""
        if "data" in card:
            card["data"]["trained_on"] = ""
        cards.append(card)
        own = read_marks(part.folder)
        ids = {row.id: new_id(row.id, taken) for row in part.rows}
        scores = _moved(own["score"], scale.patches)
        marks.append(own.assign(score=scores, image_id=own["image_id"].map(ids)))
        for row in part.rows:
            name = ids[row.id]
            if row.score is not None:
                table = part.patches(row.id)
                table["score"] = _moved(table["score"], scale.patches).astype(np.float32)
                path = patches_path(out, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                table.to_parquet(path, index=False)
                row = replace(row, score=_moved(row.score, scale.images))
            if part.heatmap_path(row.id).exists():
                shown = read_heatmap(part.heatmap_path(row.id))
                values = _moved(shown.values, scale.maps).astype(np.float32)
                write_heatmap(heatmap_path(out, name), replace(shown, values=values))
            rows.append(replace(row, id=name))
    if len({(row.path, row.frame) for row in rows}) < len(rows):
        raise RequestError("two folds hold the same image: give each image to one fold")
    write_marks_table(out, pd.concat(marks, ignore_index=True))
    return write_run(out, {**parts[0].settings, "card": _middle(cards)}, rows)


def _middle(cards: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The first card, with the medians of all cards' thresholds."""
    own = [card["calibration"] for card in cards]
    chosen = dict(own[0])
    for name in ("patch_threshold", "image_threshold"):
        chosen[name] = float(np.median([one[name] for one in own]))
    chosen["display_range"] = np.median([one["display_range"] for one in own], axis=0).tolist()
    middle = float(np.median([one["marks"]["threshold"] for one in own]))
    chosen["marks"] = {**chosen["marks"], "threshold": middle}
    return {**cards[0], "calibration": chosen}


def _moved(values: Any, shift: Shift) -> Any:
    centre, spread = shift
    return (values - centre) / spread
