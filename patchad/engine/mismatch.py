"""How an image differs from the training images of a model."""

import math

from patchad.core.image import Radiograph
from patchad.model.card import ModelCard
from patchad.model.fit import misfit
from patchad.prepare.preprocess import Prepared

_SPACING_TOLERANCE = 0.1  # share by which the pixel spacing may differ from the model's


def mismatches(radiograph: Radiograph, prepared: Prepared, card: ModelCard) -> list[str]:
    """How an image differs from the training images, a sentence each; empty if it fits."""
    found, data = [], card.data
    modality = radiograph.source.modality
    if modality and data.modalities and modality not in data.modalities:
        found.append(f"modality {modality}, trained on {', '.join(data.modalities)}")
    raw = radiograph.source.for_processing
    if raw is not None and raw != data.for_processing:
        named = "For Presentation", "For Processing (raw detector values)"
        found.append(f"{named[raw]}, trained on {named[data.for_processing]}")
    if card.preprocessing.spacing_mm is None:
        found += _spacing_mismatch(radiograph.spacing_mm, data.spacing_mm)
    part = card.preprocessing.body_part if card.preprocessing.body_part != "other" else "picture"
    low, high = data.brightness
    slack = max(0.15, high - low)  # of the full range; few training images span too little
    if not low - slack <= prepared.brightness <= high + slack:
        found.append(
            f"median brightness of the {part} {prepared.brightness:.2f}, "
            f"trained on {low:.2f} to {high:.2f}: inverted, or windowed otherwise?"
        )
    if data.fit is not None and prepared.look is not None:
        how = card.preprocessing
        unlike = misfit(prepared.look, data.fit, how.body_part, model_mm=how.spacing_mm)
        found += [unlike] if unlike else []
    return found


def _spacing_mismatch(
    found: tuple[float, float] | None, trained: tuple[float, float] | None
) -> list[str]:
    if found is None and trained is None:
        return []  # unknown; the card says so
    if found is None or trained is None:
        known = found or trained or (math.nan, math.nan)
        return [
            f"pixel spacing {'unknown' if found is None else in_mm(known)}, trained at "
            f"{'unknown spacing' if trained is None else in_mm(known)}: the scales cannot be "
            "compared (give it by --spacing-mm or a manifest's column spacing_mm)"
        ]
    off = max(abs(f / t - 1) for f, t in zip(found, trained, strict=True))
    if off <= _SPACING_TOLERANCE:
        return []
    return [
        f"pixel spacing {in_mm(found)}, trained at {in_mm(trained)} (a model trained with "
        "preprocessing.spacing_mm resamples every image to its own)"
    ]


def in_mm(spacing: tuple[float, float]) -> str:
    """A pixel spacing (row, col) in words."""
    return " × ".join(f"{s:.4g}" for s in spacing) + " mm"
