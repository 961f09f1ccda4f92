"""Show what patchad reads from an image, or a model's card."""

from pathlib import Path
from typing import Any

from patchad.core.image import Voi
from patchad.errors import RequestError
from patchad.prepare.orientation import chest_wall, turned
from patchad.prepare.preprocess import Preprocessing
from patchad.prepare.workers import DEFAULT_LIMITS, How, Limits, read_one
from patchad.read.manifest import ManifestRow


def inspect(
    path: Path,
    *,
    body_part: str = "breast",
    spacing_mm: tuple[float, float] | None = None,
    voi: Voi = "auto",
    bits: int | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> dict[str, Any]:
    """The content of an image file or a model folder, as JSON values.

    Raises:
        RequestError: the path doesn't exist, or ``body_part`` is neither breast nor chest.
        ImageError: the image cannot be read.
        ModelError: the model cannot be read.
    """
    if path.is_dir():
        from patchad.model.card import card_as_dict  # torch, which images don't need
        from patchad.model.folder import read_card

        return card_as_dict(read_card(path))
    if not path.exists():
        raise RequestError(f"{path} does not exist: give an image or a model folder")
    if body_part not in ("breast", "chest"):
        raise RequestError(f"--body-part is breast or chest, got {body_part!r}")
    read_as = Preprocessing(body_part=body_part, voi=voi, bits=bits)  # type: ignore[arg-type]
    read = read_one(ManifestRow(path), How(read_as, spacing_mm, limits))
    radiograph, prepared = read.radiograph, read.prepared
    source, pixels = radiograph.source, radiograph.pixels
    foreground = prepared.foreground
    lies = turned(source, prepared.turn)
    wall = chest_wall(lies, foreground.mask) if body_part == "breast" else None
    return {
        "path": source.path,
        "rows": radiograph.shape[0],
        "columns": radiograph.shape[1],
        "spacing_mm": radiograph.spacing_mm,
        "modality": source.modality or None,
        "laterality": source.laterality or None,
        "view": source.view or None,
        "sop_instance_uid": source.sop_instance_uid or None,
        "pixels": {
            "minimum": round(float(pixels.min()), 4),
            "mean": round(float(pixels.mean()), 4),
            "maximum": round(float(pixels.max()), 4),
        },
        "for_processing": source.for_processing,
        "reading": source.reading,
        "cautions": (*source.cautions, *prepared.cautions, *(wall.cautions if wall else ())),
        "turned": prepared.turn.name or None,
        **({"chest_wall": f"{wall.side}, by {wall.by}"} if wall else {}),
        "foreground": {
            "method": foreground.method,
            "threshold": round(foreground.threshold, 4),
            "share_of_image": round(float(foreground.mask.mean()), 4),
            "median_brightness": round(prepared.brightness, 4),
            **{name: round(value, 4) for name, value in foreground.measures.items()},
        },
        "digest": source.digest,
    }
