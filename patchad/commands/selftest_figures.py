"""The figures of a self-test: the share of lesions found, by kind, size and contrast."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Any

from patchad.commands.selftest_images import Trials
from patchad.commands.selftest_words import DEFINITIONS, FALSE_MARKS, notes
from patchad.evaluation.contrast_detail import Level, half_found, levels_of, mark_threshold
from patchad.model.card import ModelCard, card_as_dict
from patchad.model.trained_on import among
from patchad.store.run import row_path


def figures(card: ModelCard, trials: Trials, kinds: Sequence[str], seed: int) -> dict[str, Any]:
    """The figures for ``selftest.json``; ``kinds`` is the order of the levels."""
    tried, used, tested = trials.tried, trials.used, trials.tested
    threshold = mark_threshold([image.marks for image in tested], FALSE_MARKS)
    levels = levels_of(sorted(tried, key=lambda one: kinds.index(one.kind)), threshold)
    over = sum(int((image.marks > threshold).sum()) for image in tested)
    return {
        "method": card.method,
        "model": card_as_dict(card)["digest"],
        "seed": seed,
        "definitions": DEFINITIONS,
        "notes": notes(used, sum(among(card.data.trained_on, trials.digests))),
        "counts": {
            "images": len(used),
            "screenings": sum(image.screenings for image in tested),
            "lesions": len(tried),
            "lesions_without_room": sum(image.not_placed for image in tested),
        },
        "images": [{"path": row_path(row.path), "split": row.split} for row in used],
        "threshold": threshold,
        "false_marks_an_image": over / len(used),
        "levels": [asdict(level) for level in levels],
        "half_found": _half_found(levels),
        "failed": [list(fault) for fault in trials.failed],
        "skipped": [list(fault) for fault in trials.skipped],
    }


def _half_found(levels: Sequence[Level]) -> list[dict[str, Any]]:
    found = []
    for (kind, diameter), group in groupby(levels, key=lambda x: (x.kind, x.diameter_mm)):
        cell = [level for level in group if level.contrast > 0]
        contrast = half_found(cell) if cell else math.nan
        found.append(
            {
                "kind": kind,
                "diameter_mm": diameter,
                "contrast": contrast if math.isfinite(contrast) else None,
                "or_less": bool(cell) and contrast == cell[0].contrast,
            }
        )
    return found
