"""What a score means: percentiles, thresholds and the colour range, from held-out negatives.

The image threshold is split-conformal (Vovk et al. 2005; Angelopoulos & Bates, "A gentle
introduction to conformal prediction", 2021): with n exchangeable negatives held out, the
⌈(n+1)(1−α)⌉-th smallest image score is exceeded by a new negative with probability at most α.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray
from skimage.feature import peak_local_max

from patchad.calibration import Calibration, MapCalibration
from patchad.config import CalibrationConfig
from patchad.detector import Scored
from patchad.errors import TrainingError
from patchad.verbs.two_breasts import Side, calibrate_two_breasts

# Denser towards 1: the tail is where percentiles are read.
LEVELS = np.unique(np.concatenate([np.linspace(0, 1, 101), 1 - np.geomspace(1e-4, 1e-2, 41)]))
_SAMPLED = 20_000  # values of a dense map that are kept of an image
_APART_MM = 5.0  # between the peaks of a dense map
_DISPLAY_FROM = 0.9  # the colours begin here: nine tenths of a negative film stay clear


@dataclass(frozen=True, eq=False)
class NegativeImage:
    """The scores of one held-out negative image.

    ``scored``: what the detector said of it, without its map. ``held_out`` (m,) float32: the
    patches that percentiles are learnt from, all unless the split was by patch. ``side``: which
    breast it shows, for the comparison of two. Of a dense map,
    ``peaks`` are the local maxima and ``dense`` a sample of the values, both (n,) float32.
    """

    patient_id: str
    scored: Scored
    held_out: NDArray[np.float32]
    side: Side
    peaks: NDArray[np.float32] | None = None
    dense: NDArray[np.float32] | None = None

    @classmethod
    def of(
        cls,
        patient_id: str,
        side: Side,
        scored: Scored,
        spacing_mm: tuple[float, float] | None,
        held_out: NDArray[np.float32] | None = None,
    ) -> "NegativeImage":
        """What calibration needs of a scored image."""
        values = scored.scores.values[scored.scores.scored] if held_out is None else held_out
        bare = replace(scored, map=None)
        if scored.map is None:
            return cls(patient_id, bare, values, side)
        dense = scored.map[np.isfinite(scored.map)]
        peaks = map_peaks(scored.map, spacing_mm)
        return cls(patient_id, bare, values, side, peaks, dense[:: max(1, len(dense) // _SAMPLED)])

    @property
    def values(self) -> NDArray[np.float32]:
        """The scores of its scored patches, (n,) float32."""
        return self.scored.scores.values[self.scored.scores.scored]


def calibrate(images: Sequence[NegativeImage], config: CalibrationConfig) -> Calibration:
    """Learn thresholds, percentiles and the display range from negatives that were set aside.

    Raises:
        TrainingError: no held-out negative has a scored patch.
    """
    images = [image for image in images if image.values.size]
    held_out = np.concatenate([image.held_out for image in images] or [np.empty(0, np.float32)])
    if not held_out.size:
        raise TrainingError(
            "no negative patch was held out, so scores cannot be calibrated: give more negative "
            "patients, a larger split.held_out, or a smaller min_foreground"
        )
    patch_threshold = _patch_threshold([image.values for image in images], config.false_patches)
    by_image = [
        image.scored.image_score(config.pooling, config.top_k, patch_threshold) for image in images
    ]
    scores = sorted(by_image)
    split_conformal = partial(_image_threshold, config.false_images)
    dense = [image.dense for image in images if image.dense is not None]
    peaks = [image.peaks for image in images if image.peaks is not None]
    own = _map_calibration(peaks, config.false_patches) if peaks else None
    shown = np.concatenate(dense) if dense else held_out
    low = float(np.quantile(shown, _DISPLAY_FROM))
    drawn_over = patch_threshold if own is None else own.threshold
    high = low + 2 * max(drawn_over - low, 1e-3 * abs(low), 1e-6)
    patients = len({image.patient_id for image in images})
    return Calibration(
        pooling=config.pooling,
        top_k=config.top_k,
        levels=tuple(LEVELS.tolist()),
        quantiles=tuple(np.quantile(held_out, LEVELS).astype(float).tolist()),
        image_scores=tuple(scores),
        patch_threshold=patch_threshold,
        image_threshold=split_conformal(scores),
        display_range=(low, high),
        patients=patients,
        patches=int(held_out.size),
        statements=_statements(len(scores), patients, config, dense=own is not None),
        map=own,
        two_breasts=calibrate_two_breasts(
            by_image, [image.side for image in images], split_conformal
        ),
    )


def _image_threshold(false_images: float, ranked: Sequence[float]) -> float:
    """The ⌈(n+1)(1−α)⌉-th smallest of n scores, the highest where there are too few."""
    rank = math.ceil((len(ranked) + 1) * (1 - false_images))
    return float(ranked[min(rank, len(ranked)) - 1])


def map_peaks(
    values: NDArray[np.float32], spacing_mm: tuple[float, float] | None
) -> NDArray[np.float32]:
    """The values of a map's local maxima, (n,) float32, ``_APART_MM`` apart at least.

    ``values`` (H, W), NaN where it doesn't speak; without spacing a fiftieth of the longer side.
    """
    apart = max(values.shape) / 50 if spacing_mm is None else _APART_MM / max(spacing_mm)
    spoken = np.where(np.isfinite(values), values, np.nanmin(values, initial=0))
    places: NDArray[np.int64] = peak_local_max(  # type: ignore[no-untyped-call]
        spoken, min_distance=max(1, round(apart)), exclude_border=False
    )
    found: NDArray[np.float32] = values[places[:, 0], places[:, 1]]
    return found[np.isfinite(found)]


def _map_calibration(peaks: Sequence[NDArray[np.float32]], budget: float) -> MapCalibration:
    everything = np.concatenate(peaks)
    return MapCalibration(
        threshold=_patch_threshold(peaks, budget),
        levels=tuple(LEVELS.tolist()),
        quantiles=tuple(np.quantile(everything, LEVELS).astype(float).tolist()),
    )


def _patch_threshold(images: Sequence[NDArray[np.float32]], budget: float) -> float:
    """The lowest value that no more than ``budget`` of an image exceed, on average."""
    values = np.sort(np.concatenate(images))
    allowed = min(int(budget * len(images)), len(values) - 1)
    return float(values[len(values) - 1 - allowed])


def _statements(
    images: int, patients: int, config: CalibrationConfig, *, dense: bool
) -> tuple[str, ...]:
    promised = max(config.false_images, 1 / (images + 1))
    exceed = "patches an image exceed the patch threshold"
    if dense:
        exceed += f", and as many peaks of the map ({_APART_MM:g} mm apart) the map threshold,"
    statements = [
        f"Patches: on the {images} held-out negative images, at most {config.false_patches:g} "
        f"{exceed} on average. This is what was counted, not a guarantee for new images.",
        f"Images: a new negative image that is exchangeable with the {images} held-out ones is "
        f"flagged with probability at most {promised:.1%} (split conformal: on average over draws "
        "of the held-out set; with n this small one model's rate may lie well above or below).",
    ]
    if promised > config.false_images:
        statements.append(
            f"{config.false_images:.1%} was asked for, but {images} images can promise no less "
            f"than 1/(n + 1) = {promised:.1%}; hold out at least "
            f"{math.ceil(1 / config.false_images) - 1} negative images for it."
        )
    if patients < images:
        statements.append(
            f"The {images} images come from {patients} patients: images of one patient are alike, "
            "so the promise holds for a smaller n than the number of images."
        )
    return tuple(statements)
