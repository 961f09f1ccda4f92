"""The one way to score and screen an image: command, self-test and Python all call it."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from patchad.core.baselines import patch_statistics
from patchad.core.grid import PatchGrid, check_stride
from patchad.core.host import to_host
from patchad.core.image import Heatmap, PatchScores, Radiograph, Screening, Voi
from patchad.engine.mismatch import in_mm, mismatches
from patchad.engine.stored import Found, to_stored
from patchad.errors import ImageError, MismatchError, ModelError
from patchad.model.calibration import Pooling, image_percentile, patch_percentiles, pool
from patchad.model.detector import Detector
from patchad.model.method import setting_of
from patchad.model.scoring import Answer
from patchad.model.scoring import score as score_film
from patchad.prepare.film import Film
from patchad.prepare.preprocess import Prepared, Preprocessing, prepare
from patchad.read.caps import MAX_PIXELS
from patchad.read.read import read_radiograph

FLAGGED = "flagged"  # how the reason of a flagged image begins


@dataclass(frozen=True)
class ScreenOptions:
    """What a user may ask of a run. ``stride`` in pixels of the prepared image, None: the card's.

    ``spacing_mm`` (row, col) stands for images that have no pixel spacing; ``allow_mismatch``
    screens images that differ from the training images, noted in their row. ``voi`` is what
    scales the grey of DICOM files, None: as the card says; ``frames`` of ``all`` screens each frame
    of multi-frame images. ``bits`` is the depth of 16-bit PNG, TIFF and PGM, None: as the card
    says, else guessed from their pixels. ``deidentify`` leaves the patient out of DICOM objects;
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


@dataclass(frozen=True, eq=False)
class Scored:
    """The result of a detector for a prepared image, on the host.

    ``scores`` and ``map`` (H', W') float32 lie in the prepared frame; ``map`` is None where the
    patch scores are still to be stitched. ``image`` is the method's own image score, NaN without.
    """

    scores: PatchScores
    map: NDArray[np.float32] | None = None
    image: float = math.nan

    def image_score(self, pooling: Pooling, top_k: int, patch_threshold: float) -> float:
        """The method's own image score, or else the pooled patch scores."""
        if math.isfinite(self.image):
            return self.image
        return pool(self.scores.values, pooling, top_k, patch_threshold)


@dataclass(frozen=True, eq=False)
class Screener:
    """Scores and screens images with one detector.

    Everything between the prepared image and the results is computed on the detector's device;
    :func:`patchad.core.host.to_host` brings the results back, once an image.
    """

    detector: Detector

    def score(self, image: Prepared, grid: PatchGrid | None = None) -> Scored:
        """Score an image that was prepared as the card says.

        Args:
            image: the prepared image.
            grid: patches in its frame; those of the card by default.

        Raises:
            ModelError: a score is not a number.
            ImageError: the method needs the pixel spacing and it is unknown; or the device has too
                little memory.
        """
        _, answer = self._answer(image, grid)
        return _on_host(answer, answer.map, {})[0]

    def screen(self, radiograph: Radiograph, image: Prepared, options: ScreenOptions) -> Screening:
        """Screen an image that was read and prepared already.

        Raises:
            MismatchError: it differs from the training images, which ``options`` don't allow.
            ImageError: no patch holds enough foreground; and as :meth:`score`.
            ModelError: a score is not a number.
        """
        card, calibration = self.detector.card, self.detector.card.calibrated
        reasons = mismatches(radiograph, image, card)
        if reasons and not options.allow_mismatch:
            raise MismatchError("; ".join(reasons) + "; --allow-mismatch screens it anyway")
        shape = (image.pixels.shape[0], image.pixels.shape[1])
        grid = PatchGrid(shape, card.patch_size, options.stride or card.stride)
        film, answer = self._answer(image, grid)
        with torch.inference_mode(), _memory(self.detector.device):
            baselines = patch_statistics(film.pixels, grid)
            dense = answer.dense(film, setting_of(card))
        scored, statistics = _on_host(answer, dense, baselines)
        if not scored.scores.scored.any():
            raise ImageError(no_foreground(self.detector, image))
        score = scored.image_score(
            calibration.pooling, calibration.top_k, calibration.patch_threshold
        )
        flagged = score > calibration.image_threshold
        reasons += _remarks(radiograph, image, self.detector, grid)
        if flagged:
            reasons.insert(0, flag_reason(score, calibration.image_threshold))
        assert scored.map is not None  # it is the dense one
        found = Found(scored.scores, scored.map, statistics)
        stored = to_stored(found, image.turn, radiograph.shape)
        return Screening(
            source=radiograph.source,
            scores=stored.scores,
            heatmap=Heatmap(stored.map, card.score_unit, radiograph.spacing_mm),
            score=score,
            percentile=image_percentile(calibration, score),
            flagged=flagged,
            patch_percentiles=patch_percentiles(calibration, stored.scores.values),
            baselines=stored.baselines,
            reasons=tuple(reasons),
        )

    def _answer(self, image: Prepared, grid: PatchGrid | None) -> tuple[Film, Answer]:
        detector = self.detector
        setting = setting_of(detector.card)
        options = detector.options
        with _memory(detector.device):
            film = Film.of(image, detector.device, detector.method.needs_with(options).before)
            on = grid or setting.grid(film.shape)
            return film, score_film(detector.method, detector.module, setting, film, on)


def screen(
    image: str | Path | Radiograph,
    detector: Detector,
    options: ScreenOptions,
    *,
    max_pixels: int = MAX_PIXELS,
) -> Screening:
    """Read, prepare and screen one image; see :func:`patchad.screen`."""
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
    return Screener(detector).screen(image, prepare(image, detector.card.preprocessing), options)


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


def flag_reason(score: float, threshold: float) -> str:
    """Why an image is flagged, for its row."""
    return f"{FLAGGED}: score {score:.4g} is over the threshold {threshold:.4g}"


def no_foreground(detector: Detector, image: Prepared) -> str:
    """Why no patch of an image could be scored."""
    card = detector.card
    return (
        f"no patch of {card.patch_size} pixels holds {card.min_foreground:.0%} foreground "
        f"({image.foreground.mask.mean():.1%} of the image is {card.preprocessing.body_part}): "
        "nothing to score"
    )


def _on_host(
    answer: Answer, dense: Tensor | None, baselines: Mapping[str, Tensor]
) -> tuple[Scored, dict[str, NDArray[np.float32]]]:
    """All that an image gave, brought to the host at once and checked."""
    given = {
        "values": answer.values,
        "foreground": answer.foreground,
        "scored": answer.scored,
        "map": dense,
        "image": answer.image,
    }
    present = {name: tensor for name, tensor in given.items() if tensor is not None}
    arrays = to_host(*present.values(), *baselines.values())
    found = dict(zip(present, arrays, strict=False))
    scored, picture = found["scored"], found.get("map")
    image = float(found.get("image", math.nan))
    no_number = scored.any() and "image" in found and not math.isfinite(image)
    infinite = picture is not None and np.isinf(picture).any()
    if no_number or infinite or not np.isfinite(found["values"][scored]).all():
        raise ModelError("the detector gave scores that are not numbers: its weights are unusable")
    scores = PatchScores(answer.grid, found["values"], found["foreground"])
    statistics = dict(zip(baselines, arrays[len(present) :], strict=True))
    return Scored(scores, picture, image), statistics


@contextmanager
def _memory(device: torch.device) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError:
        raise ImageError(
            f"{device} has too little memory for this image: screen it with --device cpu"
        ) from None


def _remarks(
    radiograph: Radiograph, image: Prepared, detector: Detector, grid: PatchGrid
) -> list[str]:
    """What a reader of the result must know of how it came about."""
    card, remarks = detector.card, []
    if image.assumed_mm is not None:
        remarks.append(
            f"pixel spacing unknown, taken as {in_mm(image.assumed_mm)} since the model takes the "
            f"longer side for {card.preprocessing.assumed_side_mm:g} mm "
            "(--spacing-mm gives the true one)"
        )
    remarks += [f"caution: {c}" for c in (*radiograph.source.cautions, *image.cautions)]
    if grid.stride != card.stride:
        remarks.append(
            f"stride {grid.stride} instead of {card.stride}: percentile, flag and the rarity of "
            "marks are not calibrated"
        )
    if min(grid.shape) < grid.size:
        remarks.append(f"smaller than a patch ({grid.size} pixels): its edge was repeated")
    return remarks
