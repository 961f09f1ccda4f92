"""Screen one image with a trained model."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from patchad.baselines import baseline_scores
from patchad.calibration import image_percentile, patch_percentiles
from patchad.detector import Detector, ModelCard, heatmap_of, score
from patchad.errors import ImageError, MismatchError
from patchad.export import DEFAULT_KINDS
from patchad.grid import PatchGrid
from patchad.image import Radiograph, Screening, Voi
from patchad.io.read import read_radiograph
from patchad.preprocess import Prepared, prepare

FLAGGED = "flagged"  # how a row's reason begins that says why
_SPACING_TOLERANCE = 0.1  # share by which the pixel spacing may differ from the model's


@dataclass(frozen=True)
class ScreenOptions:
    """What a user may ask of a run. ``stride`` in pixels of the prepared image, None: the card's.

    ``spacing_mm`` (row, col) stands for images that carry no pixel spacing; ``allow_mismatch``
    screens images that differ from the training images, and says so in their row. ``voi`` is what
    scales the grey of DICOM files, None: as the card says; ``frames`` of ``all`` screens each frame
    of multi-frame images. ``deidentify`` leaves the patient out of DICOM objects;
    ``invent_geometry`` allows the kind ``pm``. ``two_breasts`` takes half of the other breast's
    score off an image's, where a manifest has both.
    """

    kinds: tuple[str, ...] = DEFAULT_KINDS
    stride: int | None = None
    spacing_mm: tuple[float, float] | None = None
    allow_mismatch: bool = False
    voi: Voi | None = None
    frames: Literal["one", "all"] = "one"
    deidentify: bool = False
    invent_geometry: bool = False
    two_breasts: bool = False


def screen(
    image: str | Path | Radiograph,
    detector: Detector,
    options: ScreenOptions,
) -> Screening:
    """Screen one image; see :func:`patchad.screen`."""
    if not isinstance(image, Radiograph):
        voi = options.voi or detector.card.preprocessing.voi
        image = read_radiograph(Path(image), spacing_mm=options.spacing_mm, voi=voi)
    return screen_prepared(image, prepare(image, detector.card.preprocessing), detector, options)


def screen_prepared(
    radiograph: Radiograph, prepared: Prepared, detector: Detector, options: ScreenOptions
) -> Screening:
    """Screen an image that was read and prepared already; see :func:`screen`."""
    card, calibration = detector.card, detector.card.calibrated
    reasons = mismatches(radiograph, prepared, card)
    if reasons and not options.allow_mismatch:
        raise MismatchError("; ".join(reasons) + "; --allow-mismatch screens it all the same")
    mask = prepared.foreground.mask
    grid = PatchGrid(prepared.pixels.shape, card.patch_size, options.stride or card.stride)
    scored = score(detector, prepared, grid)
    scores = scored.scores
    if not scores.scored.any():
        raise ImageError(
            f"no patch of {card.patch_size} pixels holds {card.min_foreground:.0%} foreground "
            f"({mask.mean():.1%} of the image is {card.preprocessing.body_part}): nothing to score"
        )
    assumed = card.preprocessing.assumed(radiograph.shape)
    if radiograph.spacing_mm is None and assumed is not None:
        reasons.append(
            f"pixel spacing unknown, taken as {_mm(assumed)} since the model takes the longer "
            f"side for {card.preprocessing.assumed_side_mm:g} mm (--spacing-mm says it better)"
        )
    cautions = (*radiograph.source.cautions, *prepared.cautions)
    reasons += [f"caution: {caution}" for caution in cautions]
    if grid.stride != card.stride:
        reasons.append(
            f"stride {grid.stride} instead of {card.stride}: percentile, flag and the rarity of "
            "marks are not calibrated"
        )
    if min(grid.shape) < grid.size:
        reasons.append(f"smaller than a patch ({grid.size} pixels): its edge was repeated")
    image_score = scored.image_score(
        calibration.pooling, calibration.top_k, calibration.patch_threshold
    )
    flagged = image_score > calibration.image_threshold
    if flagged:
        reasons.insert(0, flag_reason(image_score, calibration.image_threshold))
    screening = Screening(
        source=radiograph.source,
        scores=scores,
        heatmap=heatmap_of(card, scored, prepared, radiograph),
        score=image_score,
        percentile=image_percentile(calibration, image_score),
        flagged=flagged,
        patch_percentiles=patch_percentiles(calibration, scores.values),
        baselines=baseline_scores(prepared.pixels, grid),
        reasons=tuple(reasons),
    )
    return screening.mirror() if prepared.mirrored else screening


def flag_reason(score: float, threshold: float) -> str:
    """Why an image is flagged, for its row."""
    return f"{FLAGGED}: score {score:.4g} is over the threshold {threshold:.4g}"


def mismatches(radiograph: Radiograph, prepared: Prepared, card: ModelCard) -> list[str]:
    """How an image differs from what the model was trained on, a sentence each; none: it fits."""
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
    low, high = data.brightness
    slack = max(0.15, high - low)  # of the full range; few training images span too little
    if not low - slack <= prepared.brightness <= high + slack:
        found.append(
            f"median brightness of the {card.preprocessing.body_part} {prepared.brightness:.2f}, "
            f"trained on {low:.2f} to {high:.2f}: inverted, or windowed otherwise?"
        )
    return found


def _spacing_mismatch(
    found: tuple[float, float] | None, trained: tuple[float, float] | None
) -> list[str]:
    if found is None and trained is None:
        return []  # nobody can tell; the card says so
    if found is None or trained is None:
        known = found or trained or (math.nan, math.nan)
        return [
            f"pixel spacing {'unknown' if found is None else _mm(known)}, trained at "
            f"{'unknown spacing' if trained is None else _mm(known)}: the scales cannot be "
            "compared (give it by --spacing-mm or a manifest's column spacing_mm)"
        ]
    off = max(abs(f / t - 1) for f, t in zip(found, trained, strict=True))
    if off <= _SPACING_TOLERANCE:
        return []
    return [
        f"pixel spacing {_mm(found)}, trained at {_mm(trained)} (a model trained with "
        "preprocessing.spacing_mm resamples every image to its own)"
    ]


def _mm(spacing: tuple[float, float]) -> str:
    return " × ".join(f"{s:.4g}" for s in spacing) + " mm"
