"""The card of a model: everything that screening needs to know about it."""

import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError

from patchad.core.grid import Weighting
from patchad.errors import ModelError
from patchad.model.calibration import Calibration
from patchad.model.fit import Fit
from patchad.prepare.preprocess import Preprocessing
from patchad.version import __version__

# Of the model folder; raised whenever another version of patchad could misread it.
FORMAT = 4
INTENDED_USE = "Research use only. Not a medical device; not for diagnosis or triage of patients."


@dataclass(frozen=True)
class TrainingData:
    """The facts of a model's training data that screening needs."""

    digest: str  # SHA-256 (hex) over the digests of all images learnt from, sorted
    images: int
    patients: int
    split: str  # how the calibration negatives were set aside
    modalities: tuple[str, ...]
    spacing_mm: tuple[float, float] | None  # median (row, col) as read; None if unknown
    brightness: tuple[float, float]  # range of the foreground's median pixel over the images
    for_processing: bool = False  # whether it was trained on raw detector values
    trained_on: str = ""  # the training images' digests, see patchad.model.trained_on
    fit: Fit | None = None  # what a film must look like; None with too few negatives


@dataclass(frozen=True)
class ModelCard:
    """Everything that screening needs to know about a model."""

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
    patch_pooling: str = ""  # how a patch's score is computed from the map, in words
    calibration: Calibration | None = None  # None only while training
    notes: tuple[str, ...] = ()  # warnings for whoever reads results: restarts, leaks …
    versions: Mapping[str, str] = field(default_factory=dict)
    intended_use: str = INTENDED_USE
    weights_sha256: str = ""
    format: int = FORMAT

    @property
    def calibrated(self) -> Calibration:
        """The calibration; an error if there is none."""
        if self.calibration is None:
            raise ModelError("this model was never calibrated: finish its training first")
        return self.calibration


def card_as_dict(card: ModelCard) -> dict[str, Any]:
    """The card as JSON values, with the ``digest`` that identifies the model in every result."""
    content: dict[str, Any] = _CARD.dump_python(card, mode="json")
    return {"digest": digest_of(content), **content}


def card_from_dict(content: Mapping[str, Any], where: str) -> ModelCard:
    """The card that :func:`card_as_dict` wrote; ``where`` is its name in errors."""
    try:
        return _CARD.validate_python({k: v for k, v in content.items() if k != "digest"})
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        raise ModelError(
            f"{where} is not a card that patchad {__version__} can read "
            f"({'.'.join(map(str, fault['loc']))}: {fault['msg']}): train again"
        ) from None


def versions() -> dict[str, str]:
    """The versions that a result depends on."""
    return {
        "patchad": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
    }


def digest_of(content: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of a card's content."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


_CARD = TypeAdapter(ModelCard)
