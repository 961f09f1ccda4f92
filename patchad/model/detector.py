"""What a detector is, the card that travels with it, and the model folder they are kept in."""

import hashlib
import json
import math
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import safetensors
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from patchad.core.grid import PatchGrid, Weighting, batches, stitch
from patchad.core.image import Heatmap, PatchScores, Radiograph
from patchad.errors import ModelError
from patchad.files.kinds import no_model
from patchad.files.whole import write_whole
from patchad.model.calibration import Calibration, Pooling, pool
from patchad.model.fit import Fit
from patchad.prepare.preprocess import Prepared, Preprocessing, to_source_frame
from patchad.version import __version__

# Of the model folder; raised whenever another patchad could misread it.
FORMAT = 3
_NO_NUMBERS = "the detector gave scores that are not numbers: its weights are unusable"
INTENDED_USE = "Research use only. Not a medical device; not for diagnosis or triage of patients."


@dataclass(frozen=True)
class TrainingData:
    """What a model was trained on, as far as screening has to know it."""

    digest: str  # SHA-256 (hex) over the digests of the training images, sorted
    images: int
    patients: int
    split: str  # how the negatives that calibrate were kept apart
    modalities: tuple[str, ...]
    spacing_mm: tuple[float, float] | None  # median (row, col) as read; None where nobody said
    brightness: tuple[float, float]  # range of the foreground's median pixel over the images
    for_processing: bool = False  # whether it saw raw detector values instead of finished images
    trained_on: str = ""  # the training images' digests, see patchad.model.trained_on
    fit: Fit | None = None  # what a film has to look like; None where too few negatives tell


@dataclass(frozen=True)
class ModelCard:
    """Everything that screening needs to know of a model."""

    method: str
    config: Mapping[str, Any]  # the resolved configuration, as given to train
    preprocessing: Preprocessing
    patch_size: int
    stride: int
    weighting: Weighting
    min_foreground: float  # patches with a smaller share of foreground are not scored
    score_unit: str
    seed: int
    data: TrainingData
    patch_pooling: str = ""  # how an ImageDetector makes a patch's score of its map, in words
    calibration: Calibration | None = None  # None only while training
    notes: tuple[str, ...] = ()  # restarts, leaks, whatever a reader of results must know
    versions: Mapping[str, str] = field(default_factory=dict)
    intended_use: str = INTENDED_USE
    weights_sha256: str = ""
    format: int = FORMAT

    @property
    def calibrated(self) -> Calibration:
        """The calibration; an error where there is none."""
        if self.calibration is None:
            raise ModelError("this model was never calibrated: finish its training first")
        return self.calibration


class PatchDetector(Protocol):
    """Scores patches one by one; stitching makes the map."""

    @property
    def card(self) -> ModelCard:
        """What the detector is and was trained on."""

    def score(self, patches: Tensor) -> Tensor:
        """Score patches (N, 1, S, S) float32 in [0, 1]: (N,) float32, higher = more anomalous."""

    def tensors(self) -> dict[str, Tensor]:
        """The weights by name, for the model folder."""


@dataclass(frozen=True, eq=False)
class Response:
    """What an :class:`ImageDetector` says of one prepared image; higher = more anomalous.

    ``map`` (H', W') float32, NaN where it doesn't speak, is sharp: it says what of the marked
    patches is outlined. ``patches`` (N,) float32 are the scores of all patches of the grid,
    pooled from maps as the card says. ``image`` is the image's score where the method has its own;
    NaN: the patch scores are pooled, as for any method.
    """

    map: NDArray[np.float32]
    patches: NDArray[np.float32]
    image: float = math.nan


@runtime_checkable
class ImageDetector(Protocol):
    """Looks at the whole image, further than a patch reaches."""

    @property
    def card(self) -> ModelCard:
        """What the detector is and was trained on."""

    def respond(self, image: Prepared, grid: PatchGrid) -> Response:
        """Look at one image, prepared as the card says; ``grid`` lies in its frame."""

    def tensors(self) -> dict[str, Tensor]:
        """What was learnt, by name, for the model folder."""


Detector = PatchDetector | ImageDetector


def score_patches(
    detector: PatchDetector,
    pixels: NDArray[np.float32],
    mask: NDArray[np.bool_],
    grid: PatchGrid,
    *,
    batch_size: int = 256,
) -> PatchScores:
    """Score the patches of one prepared image that hold enough foreground.

    Args:
        detector: what scores.
        pixels: (H, W) float32 in [0, 1], prepared as the detector's card says.
        mask: (H, W) bool, the foreground.
        grid: the patches of this image.
        batch_size: patches scored at once.
    """
    foreground = grid.means(mask).astype(np.float32)
    values = np.full(len(grid), np.nan, np.float32)
    keep = np.flatnonzero(foreground >= detector.card.min_foreground)
    device = next((t.device for t in detector.tensors().values()), torch.device("cpu"))
    with torch.inference_mode():
        for part in batches(len(keep), batch_size):
            patches = torch.from_numpy(grid.cut(pixels, keep[part])).to(device)
            values[keep[part]] = detector.score(patches[:, None]).float().cpu().numpy()
    if not np.isfinite(values[keep]).all():
        raise ModelError(_NO_NUMBERS)
    return PatchScores(grid, values, foreground)


@dataclass(frozen=True, eq=False)
class Scored:
    """What a detector of either kind says of a prepared image; see :class:`Response`.

    ``map`` (H', W') is None where the patch scores are still to be stitched.
    """

    scores: PatchScores
    map: NDArray[np.float32] | None = None
    image: float = math.nan

    def image_score(self, pooling: Pooling, top_k: int, patch_threshold: float) -> float:
        """The method's own image score, or else the pooled patch scores."""
        if math.isfinite(self.image):
            return self.image
        return pool(self.scores.values, pooling, top_k, patch_threshold)


def score(detector: Detector, image: Prepared, grid: PatchGrid) -> Scored:
    """Score one image, prepared as the detector's card says, on a grid in its frame."""
    if not isinstance(detector, ImageDetector):
        return Scored(score_patches(detector, image.pixels, image.foreground.mask, grid))
    foreground = grid.means(image.foreground.mask).astype(np.float32)
    keep = foreground >= detector.card.min_foreground
    if not keep.any():
        return Scored(PatchScores(grid, np.full(len(grid), np.nan, np.float32), foreground))
    response = detector.respond(image, grid)
    if not np.isfinite(response.patches[keep]).all():
        raise ModelError(_NO_NUMBERS)
    values = np.where(keep, response.patches, np.float32(np.nan)).astype(np.float32)
    return Scored(PatchScores(grid, values, foreground), response.map, response.image)


def heatmap_of(card: ModelCard, scored: Scored, image: Prepared, radiograph: Radiograph) -> Heatmap:
    """The detector's map, or its patch scores stitched, in the frame of the image as stored.

    ``scored`` lies as ``image`` does, which may be turned.
    """
    values = scored.map
    if values is None:
        grid, mask = scored.scores.grid, image.foreground.mask
        values = stitch(grid, scored.scores.values, weighting=card.weighting, mask=mask)
    values = to_source_frame(values, image.turn.pair(radiograph.shape))
    stored = image.turn.inverse.picture(values)
    return Heatmap(stored, card.score_unit, radiograph.spacing_mm)


def save(detector: Detector, folder: Path, calibration: Calibration | None = None) -> ModelCard:
    """Write the model folder, with a calibration that was made since.

    Returns the card as written, with the digest of the weights.
    """
    card = replace(detector.card, calibration=calibration or detector.card.calibration)
    return write_model(card, detector.tensors(), folder)


def write_model(card: ModelCard, tensors: Mapping[str, Tensor], folder: Path) -> ModelCard:
    """Write a card and its weights; returns the card with the digest of those."""
    weights = save_tensors({name: t.cpu().contiguous() for name, t in tensors.items()})
    card = replace(card, weights_sha256=hashlib.sha256(weights).hexdigest())
    write_whole(folder / "weights.safetensors", weights)
    write_whole(folder / "card.json", json.dumps(card_as_dict(card), indent=2) + "\n")
    return card


def read_model(folder: Path) -> tuple[ModelCard, dict[str, Tensor]]:
    """Read a model folder: its card and weights.

    Raises:
        ModelError: there is none, or a file was changed, is foreign or of another version.
    """
    card = read_card(folder)
    path = folder / "weights.safetensors"
    try:
        weights = path.read_bytes()
    except OSError as error:
        raise ModelError(
            f"{path} cannot be read ({error.strerror}): is the folder whole?"
        ) from None
    if hashlib.sha256(weights).hexdigest() != card.weights_sha256:
        raise ModelError(
            f"{path} is not the file that card.json was written for (its SHA-256 "
            "differs): copy the model folder again, or train anew"
        )
    try:
        return card, load_tensors(weights)
    except safetensors.SafetensorError as error:
        raise ModelError(f"{path} is not a safetensors file: {error}") from None


def read_card(folder: Path) -> ModelCard:
    """Read and check ``card.json`` of a model folder."""
    path = folder / "card.json"
    try:
        content = json.loads(path.read_text("utf-8"))
        if not isinstance(content, dict):
            raise ValueError(f"it holds a {type(content).__name__}, not an object")
    except FileNotFoundError:
        raise ModelError(no_model(folder)) from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not the card of a model: {error}") from None
    if content.get("format") != FORMAT:
        made_with = content.get("versions")
        version = made_with.get("patchad") if isinstance(made_with, dict) else None
        raise ModelError(
            f"{path} has format {content.get('format')}, this patchad ({__version__}) reads "
            f"{FORMAT}: train anew, or use the version it was trained with ({version or 'unknown'})"
        )
    if content.pop("digest", None) != _digest(content):
        raise ModelError(
            f"{path} was changed after it was written (its digest differs): copy the "
            "model folder again, or train anew"
        )
    return card_from_dict(content, str(path))


def card_as_dict(card: ModelCard) -> dict[str, Any]:
    """The card as JSON values, with the ``digest`` that names the model in every result."""
    content: dict[str, Any] = _CARD.dump_python(card, mode="json")
    return {"digest": _digest(content), **content}


def card_from_dict(content: Mapping[str, Any], where: str) -> ModelCard:
    """The card that :func:`card_as_dict` wrote; ``where`` is what an error calls it."""
    try:
        return _CARD.validate_python({k: v for k, v in content.items() if k != "digest"})
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        raise ModelError(
            f"{where} is not a card that patchad {__version__} can read "
            f"({'.'.join(map(str, fault['loc']))}: {fault['msg']}): train anew"
        ) from None


def versions() -> dict[str, str]:
    """The versions that a result depends on."""
    return {
        "patchad": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
    }


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


_CARD = TypeAdapter(ModelCard)
