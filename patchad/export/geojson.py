"""The marks of an image as GeoJSON (RFC 7946), which viewers of large images open."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from patchad.engine.marks import Mark
from patchad.export.verdict import rarity_in_words
from patchad.files.whole import write_whole
from patchad.model.calibration import Calibration

_FRAME = (
    "pixels of the image as stored, not longitude and latitude: x to the right, y down, (0, 0) at "
    "the outer corner of the first pixel"
)


def geojson_path(folder: Path, image_id: str) -> Path:
    """Where a run keeps the marks of one image as GeoJSON."""
    return folder / "geojson" / f"{image_id}.geojson"


def write_geojson(
    path: Path, image_id: str, found: Sequence[Mark], calibration: Calibration
) -> None:
    """Write a FeatureCollection, a polygon a mark; without marks it is empty.

    Raises:
        OutputError: the file cannot be written.
    """
    features = [_feature(image_id, mark, calibration) for mark in found]
    content = {
        "type": "FeatureCollection",
        "image": image_id,
        "coordinates_are": _FRAME,
        "use": "Research use only. Not for diagnosis.",
        "features": features,
    }
    write_whole(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def _feature(image_id: str, mark: Mark, calibration: Calibration) -> dict[str, Any]:
    return {
        "type": "Feature",
        "id": f"{image_id}/{mark.number}",
        "geometry": {"type": "Polygon", "coordinates": [_ring(mark)]},
        "properties": {
            "name": f"mark {mark.number}",
            "score": mark.score,
            "rarity": _known(mark.rarity),
            "rarity_upper": _known(mark.upper),
            "words": rarity_in_words(mark, calibration),
            "area_mm2": _known(mark.area_mm2),
        },
    }


def _ring(mark: Mark) -> list[list[float]]:
    """The outline, closed, counter-clockwise from x to y by the right-hand rule."""
    x, y = mark.outline.T
    turned = float((x[:-1] * y[1:] - x[1:] * y[:-1]).sum()) < 0
    ring: list[list[float]] = (mark.outline[::-1] if turned else mark.outline).tolist()
    return ring


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None
