"""Screen one image with a trained model."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from patchad.core.baselines import baseline_scores
from patchad.core.grid import PatchGrid, check_stride
from patchad.core.image import Radiograph, Screening, Voi
from patchad.errors import ImageError, MismatchError
from patchad.model.calibration import image_percentile, patch_percentiles
from patchad.model.detector import Detector, ModelCard, heatmap_of, score
from patchad.model.fit import misfit
from patchad.prepare.preprocess import Prepared, Preprocessing, prepare
from patchad.read.caps import MAX_PIXELS
from patchad.read.read import read_radiograph

FLAGGED = "flagged"  # how a row's reason begins that says why
_SPACING_TOLERANCE = 0.1  # share by which the pixel spacing may differ from the model's


@dataclass(frozen=True)
class ScreenOptions:
    """What a user may ask of a run. ``stride`` in pixels of the prepared image, None: the card's.

    ``spacing_mm`` (row, col) stands for images that carry no pixel spacing; ``allow_mismatch``
    screens images that differ from the training images, and says so in their row. ``voi`` is what
    scales the grey of DICOM files, None: as the card says; ``frames`` of ``all`` screens each frame
    of multi-frame images. ``bits`` is the depth of 16-bit PNG, TIFF and PGM, None: as the card
    says, else told by their pixels. ``deidentify`` leaves the patient out of DICOM objects;
    ``invent_geometry`` allows the kind ``pm``. ``two_breasts`` takes half of the other breast's
    score off an image's, where a manifest has both.
    """

    kinds: tuple[str, ...] = ()
    stride: int | None = None
    spacing_mm: tuple[float, float] | None = None
    allow_mismatch: bool = False
    voi: Voi | None = None
    frames: Literal["one", "all"] = "one"
    deidentify: bool = False
    invent_geometry: bool = False
    two_breasts: bool = False
    bits: int | None = None


def screen(
    image: str | Path | Radiograph,
    detector: Detector,
    options: ScreenOptions,
    *,
    max_pixels: int = MAX_PIXELS,
) -> Screening:
    """Screen one image; see :func:`patchad.screen`."""
    if options.stride is not None:
        check_stride(options.stride, detector.card.patch_size)
    if not isinstance(image, Radiograph):
        how = how_to_read(detector.card.preprocessing, options)
        image = read_radiograph(
            Path(image),
            spacing_mm=options.spacing_mm,
            voi=how.voi,
            bits=how.bits,
            max_pixels=max_pixels,
        )
    return screen_prepared(image, prepare(image, detector.card.preprocessing), detector, options)


def how_to_read(preprocessing: Preprocessing, options: ScreenOptions) -> Preprocessing:
    """How images are read and prepared: as the card says, but for what was asked for.

    Raises:
        RequestError: that can't be.
    """
    return replace(
        preprocessing,
        voi=options.voi or preprocessing.voi,
        bits=preprocessing.bits if options.bits is None else options.bits,
    )


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
    if prepared.assumed_mm is not None:
        reasons.append(
            f"pixel spacing unknown, taken as {_mm(prepared.assumed_mm)} since the model takes the "
            f"longer side for {card.preprocessing.assumed_side_mm:g} mm "
            "(--spacing-mm says it better)"
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
    back = prepared.turn.inverse
    baselines = baseline_scores(prepared.pixels, grid)
    return Screening(
        source=radiograph.source,
        scores=scores.turned(back),
        heatmap=heatmap_of(card, scored, prepared, radiograph),
        score=image_score,
        percentile=image_percentile(calibration, image_score),
        flagged=flagged,
        patch_percentiles=patch_percentiles(calibration, grid.turn_values(scores.values, back)),
        baselines={name: grid.turn_values(values, back) for name, values in baselines.items()},
        reasons=tuple(reasons),
    )


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
    if data.fit is not None and prepared.look is not None:
        how = card.preprocessing
        unlike = misfit(prepared.look, data.fit, how.body_part, model_mm=how.spacing_mm)
        found += [unlike] if unlike else []
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
