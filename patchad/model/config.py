"""A resolved configuration: the options of `train`, with every default written out."""

from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import TypeAdapter

from patchad.core.grid import Weighting
from patchad.model.calibration import Pooling
from patchad.prepare.preprocess import Preprocessing


@dataclass(frozen=True)
class Split:
    """How negatives are set aside for calibration.

    ``by = "patient"`` keeps whole patients away from training. ``by = "patch"`` holds out patches
    of the training images, as Wei et al. did: it leaks, since neighbours of the held-out patches
    were trained on; the card and every report warn of it.
    """

    held_out: float = 0.1
    by: Literal["patient", "patch"] = "patient"

    def __post_init__(self) -> None:
        if not 0 < self.held_out < 1:
            raise ValueError(f"held_out is a share between 0 and 1, got {self.held_out}")


@dataclass(frozen=True)
class CalibrationConfig:
    """How scores become percentiles, flags and colours; see :mod:`patchad.commands.calibrate`.

    ``pooling`` computes the image score from patch scores: ``max``; ``top_mean``, the mean of the
    ``top_k`` highest; ``excess``, the mean excess over the threshold of marks. ``false_marks`` is
    the average number of marks allowed on a negative image, ``false_images`` the share of
    negative patients who may have an image flagged.

    ``folds``: with 0 or 1, the negatives that ``split`` holds out calibrate. With K of 2 or more
    none are held out: the patients are divided into K folds, each fold is scored by a model trained
    on the others, and the model itself is trained on all. This takes about K more trainings.
    """

    pooling: Pooling = "max"
    top_k: int = 3
    false_marks: float = 1.0
    false_images: float = 0.05
    folds: int = 0

    def __post_init__(self) -> None:
        if self.top_k < 1:
            raise ValueError(f"top_k is at least 1, got {self.top_k}")
        if not self.false_marks > 0:
            raise ValueError(f"false_marks is more than 0 an image, got {self.false_marks}")
        if not 0 < self.false_images < 1:
            raise ValueError(f"false_images is a share between 0 and 1, got {self.false_images}")
        if self.folds < 0:
            raise ValueError(f"folds is 0 (none) or a number of folds, got {self.folds}")


@dataclass(frozen=True)
class Config:
    """A resolved configuration. ``options`` is the method's own table, of its ``Config`` type."""

    method: str
    options: Any
    patch_size: int = 128
    stride: int = 64
    min_foreground: float = 0.5
    weighting: Weighting = "gaussian"
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    split: Split = field(default_factory=Split)
    calibration: CalibrationConfig = field(default_factory=CalibrationConfig)

    def __post_init__(self) -> None:
        if not 1 <= self.stride <= self.patch_size:
            raise ValueError(f"stride lies in 1..{self.patch_size} (patch_size), got {self.stride}")
        if not 0 < self.min_foreground <= 1:
            raise ValueError(f"min_foreground is a share in (0, 1], got {self.min_foreground}")
        if self.split.by == "patch" and self.calibration.folds > 1:
            raise ValueError(
                f"split.by = patch holds out patches and calibration.folds = "
                f"{self.calibration.folds} patients: set split.by = patient, or "
                "calibration.folds = 0"
            )

    def as_dict(self) -> dict[str, Any]:
        """The configuration as TOML would hold it, every default written out."""
        content: dict[str, Any] = TypeAdapter(Config).dump_python(self, mode="json")
        options = content.pop("options")
        return {**content, self.method: options}
