"""The data types: what is read from a file, what is found in it, and its results.

All are frozen; their arrays are made read-only. Axes are (row, col), origin at the top-left pixel.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from patchad.core.grid import PatchGrid
from patchad.core.turn import Turn

# What scales the grey of DICOM files. auto: the first LUT, else the first window, else the full
# range. The others: only that one, or the full range if the file lacks it.
Voi = Literal["auto", "lut", "window", "full"]


@dataclass(frozen=True)
class Source:
    """Where an image came from. Holds no name, birth date or patient identifier."""

    path: str
    digest: str  # SHA-256 (hex) of the pixels as read, so that a result can be tied to its image
    sop_class_uid: str = ""
    sop_instance_uid: str = ""
    series_instance_uid: str = ""
    study_instance_uid: str = ""
    modality: str = ""  # MG, DX, CR …; empty if unknown
    laterality: str = ""  # L, R, B or empty
    view: str = ""  # CC, MLO, AP, PA … or empty
    # Patient Orientation: the body directions of rows (to the right) and columns (down), from A, P,
    # L, R, H, F, combined if oblique; empty if unknown.
    directions: tuple[str, str] = ("", "")
    voi: Literal["lut", "window", "full", ""] = ""  # which DICOM element scaled the grey
    reading: tuple[str, ...] = ()  # what was decided while reading: the window, the spacing …
    cautions: tuple[str, ...] = ()  # warnings for whoever reads the result: an implant, a spot view
    for_processing: bool | None = None  # raw detector values; None if unknown
    pixel_aspect: float = 1.0  # height of a pixel / its width; used if the spacing is unknown
    guessed_bits: int | None = None  # the depth, guessed by the highest value; None if not guessed


@dataclass(frozen=True, eq=False)
class Radiograph:
    """An image as it was read: after modality LUT, VOI and inversion of MONOCHROME1.

    ``pixels`` (H, W) float32 in [0, 1], brighter = denser. ``spacing_mm`` (row, col) is the
    distance between pixel centres in the plane of the patient, None if unknown.
    ``outside`` (H, W) bool marks pixels that are not film: padding, and the area covered by a
    shutter or a collimator; None if all pixels are film.
    """

    pixels: NDArray[np.float32]
    spacing_mm: tuple[float, float] | None
    source: Source
    outside: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        _freeze(self.pixels, "pixels", np.float32)
        if self.pixels.size == 0:
            raise ValueError(f"an image needs at least one pixel, got shape {self.pixels.shape}")
        low, high = float(self.pixels.min()), float(self.pixels.max())
        if not (low >= 0 and high <= 1):
            raise ValueError(f"pixels must lie in [0, 1], got [{low:g}, {high:g}]")
        if self.spacing_mm is not None and not all(0 < s < np.inf for s in self.spacing_mm):
            raise ValueError(f"spacing must be positive millimetres, got {self.spacing_mm}")
        if self.outside is not None:
            _freeze(self.outside, "outside", np.bool_)
            if self.outside.shape != self.pixels.shape or self.outside.all():
                raise ValueError("outside must have the image's shape and not cover all of it")

    @property
    def step(self) -> tuple[float, float]:
        """(height, width) of a pixel: in mm, or in pixel widths if the spacing is unknown."""
        return self.spacing_mm or (self.source.pixel_aspect, 1.0)

    def turned(self, turn: Turn) -> "Radiograph":
        """The same picture turned; ``source`` still describes the file."""
        outside = None if self.outside is None else turn.picture(self.outside)
        spacing = self.spacing_mm and turn.pair(self.spacing_mm)
        return Radiograph(turn.picture(self.pixels), spacing, self.source, outside)

    @property
    def film(self) -> NDArray[np.float32]:
        """The pixels (H, W) float32; pixels outside the film get the value of its darkest."""
        if self.outside is None:
            return self.pixels
        return np.where(self.outside, self.pixels[~self.outside].min(), self.pixels)

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return self.pixels.shape[0], self.pixels.shape[1]


@dataclass(frozen=True, eq=False)
class Foreground:
    """The breast or the body, without air, labels, film edges or collimator.

    ``mask`` (H, W) bool; ``method`` and ``threshold`` (in the unit of the pixels) are how it was
    made; ``measures`` are figures of it (fractions of the image or of the mask).
    """

    mask: NDArray[np.bool_]
    method: str
    threshold: float
    measures: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _freeze(self.mask, "mask", np.bool_)


@dataclass(frozen=True, eq=False)
class Region:
    """A marked lesion: a box in pixels of the image as stored, and its outline if there is one.

    ``x`` (right) and ``y`` (down) are the box's left and top edges; ``mask`` (height, width) bool
    is the lesion within the box, None if the whole box is the lesion.
    """

    x: float
    y: float
    width: float
    height: float
    kind: str = ""
    mask: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        if not (self.width > 0 and self.height > 0):
            raise ValueError(f"a region needs a positive size, got {self.width} × {self.height}")
        if self.mask is not None:
            _freeze(self.mask, "mask", np.bool_)
            if self.mask.shape != (self.height, self.width):
                raise ValueError(f"mask {self.mask.shape} is not {self.height} × {self.width}")


@dataclass(frozen=True, eq=False)
class PatchScores:
    """The scores of the patches of ``grid``.

    ``values`` (N,) float32, higher = more anomalous, NaN = not scored; ``foreground`` (N,) float32
    in [0, 1], the share of the patch that is breast or body.
    """

    grid: PatchGrid
    values: NDArray[np.float32]
    foreground: NDArray[np.float32]

    def __post_init__(self) -> None:
        for name in ("values", "foreground"):
            array = getattr(self, name)
            _freeze(array, name, np.float32, ndim=1)
            if len(array) != len(self.grid):
                raise ValueError(f"{name}: {len(array)} values for {len(self.grid)} patches")

    @property
    def scored(self) -> NDArray[np.bool_]:
        """(N,) bool: true for the patches that have a score."""
        return np.isfinite(self.values)

    def turned(self, turn: Turn) -> "PatchScores":
        """The same scores, seen in the picture turned by ``turn``."""
        values, foreground = (
            self.grid.turn_values(of, turn) for of in (self.values, self.foreground)
        )
        return PatchScores(self.grid.turned(turn), values, foreground)


@dataclass(frozen=True, eq=False)
class Heatmap:
    """The stitched scores, in the pixel frame of the source image.

    ``values`` (H, W) float32 in ``unit``, NaN = no score there; ``spacing_mm`` (row, col) as in
    the image.
    """

    values: NDArray[np.float32]
    unit: str
    spacing_mm: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        _freeze(self.values, "values", np.float32)


@dataclass(frozen=True, eq=False)
class Screening:
    """The result for one image.

    ``scores`` lie on the grid of the prepared (perhaps resampled) image, ``heatmap`` in the frame
    of the source. ``score`` is the image score, ``percentile`` its rank in [0, 100] among negative
    patients; ``patch_percentiles`` (N,) float32 are those of the patches, NaN = not scored.
    ``baselines`` (each (N,) float32) are the patch statistics that a method has to beat.
    ``reasons`` say why it was flagged, and which mismatches were allowed.
    """

    source: Source
    scores: PatchScores
    heatmap: Heatmap
    score: float
    percentile: float
    flagged: bool
    patch_percentiles: NDArray[np.float32]
    baselines: Mapping[str, NDArray[np.float32]]
    reasons: tuple[str, ...] = ()

    @property
    def boxes(self) -> NDArray[np.float64]:
        """Each patch as (row, col, height, width), (N, 4) float64, in pixels of the source."""
        rows, cols = self.heatmap.values.shape
        return self.scores.grid.boxes((rows, cols))


def _freeze(array: NDArray[np.generic], name: str, dtype: type[np.generic], ndim: int = 2) -> None:
    if array.ndim != ndim or array.dtype != dtype:
        raise TypeError(
            f"{name} must have {ndim} axes of {dtype.__name__}, "
            f"got shape {array.shape} of {array.dtype}"
        )
    array.flags.writeable = False
