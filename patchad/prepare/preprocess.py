"""Preprocessing: orientation, foreground, pixel spacing and intensity."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from patchad.core.image import Foreground, Radiograph, Voi
from patchad.core.turn import AS_STORED, MIRRORED, Turn
from patchad.errors import ImageError, RequestError
from patchad.prepare.filters import gaussian, tissue
from patchad.prepare.foreground import BodyPart, find_foreground
from patchad.prepare.look import Look, Scale, look_at
from patchad.prepare.orientation import chest_wall, lie_of
from patchad.prepare.resize import resize
from patchad.read.grey import check_bits

Intensity = Literal["voi", "percentiles", "local"]
FLAT = 1e-3  # smallest local standard deviation, about a quarter of an 8-bit grey level
FEWEST_PIXELS = 200  # along the longer side, if the spacing is assumed
MOST_PIXELS = 2**28  # of one image after resampling: 1 GiB of float32


@dataclass(frozen=True)
class Preprocessing:
    """How a radiograph is prepared before it is cut into patches; stored in the card.

    ``body_part`` chooses how the foreground is found: of a ``breast``, of a ``chest``, or, of
    ``other`` pictures (OCT, brain, fundus, textures), all of it. ``intensity``: ``voi`` keeps the
    pixels as read; ``percentiles`` maps these foreground percentiles to 0 and 1; ``local``
    subtracts the local mean and divides by the local standard deviation, both Gaussian with
    ``local_radius_mm``.
    ``spacing_mm`` is the pixel spacing that images are resampled to; None keeps their own pixels.
    ``canonical_side`` mirrors breasts whose chest wall is on the right, so that a method sees all
    of them on one side; see :func:`patchad.prepare.orientation.chest_wall`. ``voi`` is how the grey
    of DICOM files is scaled; see :func:`patchad.read.dicom.read_dicom`. ``bits`` is the depth of
    16-bit PNG, TIFF and PGM, None to guess it by the highest value of each. ``assumed_side_mm`` is
    the length assumed for the longer side of an image of unknown spacing, and is recorded in its
    row; None leaves the spacing unknown. Films that are upside down or on their side by Patient
    Orientation are always turned upright; see :func:`patchad.prepare.orientation.lie_of`.
    """

    body_part: BodyPart = "breast"
    intensity: Intensity = "voi"
    percentiles: tuple[float, float] = (1.0, 99.0)
    local_radius_mm: float = 6.4
    spacing_mm: float | None = None
    canonical_side: bool = False
    voi: Voi = "auto"
    assumed_side_mm: float | None = None
    bits: int | None = None

    def __post_init__(self) -> None:
        if self.body_part not in get_args(BodyPart):
            raise RequestError(f"body_part is breast, chest or other, not {self.body_part!r}")
        if self.intensity not in get_args(Intensity):
            raise RequestError(f"intensity is voi, percentiles or local, not {self.intensity!r}")
        if self.voi not in get_args(Voi):
            raise RequestError(f"voi is {', '.join(get_args(Voi))}, not {self.voi!r}")
        check_bits(self.bits)
        if not 0 <= self.percentiles[0] < self.percentiles[1] <= 100:
            raise RequestError(f"percentiles must rise within 0..100, got {self.percentiles}")
        if not 0 < self.local_radius_mm < np.inf:
            raise RequestError(f"local_radius_mm must be positive, got {self.local_radius_mm}")
        if self.spacing_mm is not None and not 0 < self.spacing_mm < np.inf:
            raise RequestError(f"spacing_mm must be positive or left out, got {self.spacing_mm}")
        if self.canonical_side and self.body_part != "breast":
            raise RequestError(
                f"canonical_side is for breasts, body_part is {self.body_part}: leave it out"
            )
        if self.assumed_side_mm is not None and not 0 < self.assumed_side_mm < np.inf:
            raise RequestError(
                f"assumed_side_mm must be positive or left out, got {self.assumed_side_mm}"
            )

    def assumed(self, radiograph: Radiograph) -> tuple[float, float] | None:
        """The pixel spacing (row, col) assumed for an image; None if nothing is assumed.

        Raises:
            ImageError: the image has far too few pixels to be a film of ``assumed_side_mm``.
        """
        if self.assumed_side_mm is None or radiograph.spacing_mm is not None:
            return None
        rows, cols = radiograph.shape
        aspect = radiograph.source.pixel_aspect
        col = self.assumed_side_mm / max(rows * aspect, cols)
        if max(rows, cols) < FEWEST_PIXELS:
            raise ImageError(
                f"an image of {rows} × {cols} pixels without pixel spacing: a film whose longer "
                f"side is {self.assumed_side_mm:g} mm has at least {FEWEST_PIXELS} along it; give "
                "the image at its full size, or its spacing (--spacing-mm, or the manifest's "
                "column spacing_mm)"
            )
        return aspect * col, col


@dataclass(frozen=True, eq=False)
class Prepared:
    """An image as a method sees it.

    ``pixels`` (H', W') float32 in [0, 1] and ``foreground`` are in the same, perhaps resampled
    frame, whose pixel spacing is ``spacing_mm`` (row, col), None if unknown; ``brightness`` is the
    median of the foreground's pixels as read, before normalisation. ``turn`` was applied to the
    image as stored, so results must be turned back. ``cautions`` are warnings for whoever reads
    the result.
    """

    pixels: NDArray[np.float32]
    foreground: Foreground
    brightness: float
    spacing_mm: tuple[float, float] | None
    turn: Turn = AS_STORED
    cautions: tuple[str, ...] = ()
    assumed_mm: tuple[float, float] | None = (
        None  # the assumed spacing (row, col) of the image as read
    )
    look: Look | None = None  # of the whole film; None of other pictures, or parts

    def __post_init__(self) -> None:
        self.pixels.flags.writeable = False

    def as_stored(self) -> "Prepared":
        """The same, in the orientation of the image as stored."""
        if self.turn == AS_STORED:
            return self
        back = self.turn.inverse
        return replace(
            self,
            pixels=back.picture(self.pixels),
            foreground=replace(self.foreground, mask=back.picture(self.foreground.mask)),
            spacing_mm=self.spacing_mm and back.pair(self.spacing_mm),
            turn=AS_STORED,
        )

    @cached_property
    def tissue(self) -> NDArray[np.bool_]:
        """The foreground without its rim, (H', W') bool; see :func:`.filters.tissue`."""
        return tissue(self.foreground.mask, self.known_spacing)

    @property
    def known_spacing(self) -> tuple[float, float]:
        """``spacing_mm``; an ImageError if it is unknown."""
        return require_spacing(self.spacing_mm, "by a method that measures in mm")


def require_spacing(spacing: tuple[float, float] | None, why: str) -> tuple[float, float]:
    """``spacing`` (row, col) in mm; if unknown, an ImageError with the reason ``why``."""
    if spacing is None:
        raise ImageError(
            f"the pixel spacing is needed {why}, and the file doesn't give it: add a "
            "spacing_mm column in the manifest, or --spacing-mm"
        )
    return spacing


def prepare(radiograph: Radiograph, preprocessing: Preprocessing) -> Prepared:
    """Turn the film upright, find the foreground, resample and normalise as ``preprocessing`` says.

    Where a side of the foreground is cut straight, as at the chest wall, its edge is repeated
    outwards, so that no patch contains padding. Resampling keeps the whole extent:
    H' = round(H · spacing / target), and so for W', which gives square pixels to within half a
    pixel over the image. An image of unknown spacing whose Pixel Aspect Ratio isn't 1 is also
    resampled to square pixels. ``percentiles`` and ``local`` use the foreground alone. A flat
    foreground becomes 0.5. Turning comes first, so that a turned film gives the same result.

    Raises:
        ImageError: no foreground found, or the pixel spacing is needed and unknown.
    """
    found, body_part = find_foreground(radiograph, preprocessing.body_part), preprocessing.body_part
    assumed = preprocessing.assumed(radiograph)
    lie = lie_of(radiograph.source, radiograph.film, found.mask, body_part)
    turn, cautions = lie.turn, lie.cautions
    pixels, mask = turn.picture(radiograph.film), turn.picture(found.mask)
    if turn not in (AS_STORED, MIRRORED):  # the foreground is that of the upright film
        found = find_foreground(radiograph.turned(turn), body_part)
        mask = found.mask
    if preprocessing.canonical_side:
        wall = chest_wall(lie.source, mask)
        cautions += wall.cautions
        if wall.side == "right":
            turn = turn.then(MIRRORED)
            pixels, mask = MIRRORED.picture(pixels), MIRRORED.picture(mask)
    brightness = float(np.median(pixels[mask]))
    spacing = radiograph.spacing_mm or assumed
    spacing = spacing and turn.pair(spacing)
    step = spacing or turn.pair(radiograph.step)
    scale: Scale = "unknown" if spacing is None else "known" if assumed is None else "assumed"
    # other pictures may be of anything, so there is no look that they must have
    look = None if body_part == "other" else look_at(pixels, mask, body_part, step, scale)
    shape, target = turn.pair(radiograph.shape), preprocessing.spacing_mm
    if target is not None:
        spacing = require_spacing(spacing, f"to resample to {target:g} mm")
        shape = _resampled_shape(shape, spacing, target)
        spacing = (target, target)
    elif spacing is None and step[0] != step[1]:  # make pixels square
        shape = _resampled_shape(shape, step, min(step))
    if shape != pixels.shape or target is not None:
        pixels = np.clip(resize(pixels, shape), 0, 1)
        mask = resize(mask.astype(np.float32), shape) >= 0.5
        if not mask.any():
            raise ImageError(
                f"at {shape[0]} × {shape[1]} pixels nothing is left of the {body_part}: check the "
                f"image's spacing, {radiograph.spacing_mm or assumed} mm"
            )
    pixels = _without_padding(pixels, mask)
    match preprocessing.intensity:
        case "percentiles":
            pixels = _stretch(pixels, mask, preprocessing.percentiles)
        case "local":
            spacing = require_spacing(spacing, "for a local radius in mm")
            radius = preprocessing.local_radius_mm
            pixels = _local(pixels, mask, (radius / spacing[0], radius / spacing[1]))
    foreground = Foreground(mask, found.method, found.threshold, found.measures)
    return Prepared(pixels, foreground, brightness, spacing, turn, cautions, assumed, look)


def _resampled_shape(
    shape: tuple[int, int], spacing: tuple[float, float], target: float
) -> tuple[int, int]:
    rows, cols = (max(1, round(n * s / target)) for n, s in zip(shape, spacing, strict=True))
    if rows * cols > MOST_PIXELS:
        raise ImageError(
            f"{shape} pixels of {spacing} mm would become {rows} × {cols} at {target:g} "
            f"mm, more than {MOST_PIXELS}: check the image's spacing and spacing_mm"
        )
    return rows, cols


def _without_padding(pixels: NDArray[np.float32], mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Repeat the foreground's edge outwards wherever it is cut straight.

    There the film ends, as at the chest wall, and padding or a rim follows: the step would dominate
    the score of a patch across it. A side is cut straight if the outermost line of the foreground's
    bounding box is foreground for a third of its length; round sides touch it less.
    """
    inside = []
    for axis in (0, 1):
        lines = np.moveaxis(mask, axis, 0)
        found = np.flatnonzero(lines.any(1))
        across = np.flatnonzero(lines.any(0))
        first, last = (
            place if lines[place].sum() >= (across[-1] + 1 - across[0]) / 3 else end
            for place, end in ((found[0], 0), (found[-1], len(lines) - 1))
        )
        inside.append(np.arange(len(lines)).clip(first, last))
    covered: NDArray[np.float32] = pixels[np.ix_(*inside)]
    return covered


def _stretch(
    pixels: NDArray[np.float32], mask: NDArray[np.bool_], percentiles: tuple[float, float]
) -> NDArray[np.float32]:
    low, high = np.percentile(pixels[mask], percentiles)
    if not high > low:
        return np.full(pixels.shape, 0.5, np.float32)
    stretched = (pixels - np.float32(low)) / np.float32(high - low)
    return np.asarray(np.clip(stretched, 0, 1), np.float32)


def _local(
    pixels: NDArray[np.float32], mask: NDArray[np.bool_], sigma: tuple[float, float]
) -> NDArray[np.float32]:
    """0.5 + z / 10 in [0, 1], z from the local mean and deviation of the foreground alone.

    Both are Gaussian (``sigma`` in pixels, (row, col)) and normalised by the mask, G(a·m) / G(m)
    (Knutsson & Westin, CVPR 1993), so that air has no influence and the skin line makes no edge.
    """
    weight = gaussian(mask.astype(np.float32), sigma)
    weight[~mask] = 1
    # Relative to the foreground's mean, so that float32 keeps the digits of the variance.
    centred = np.where(
        mask, pixels - np.float32(pixels[mask].mean(dtype=np.float64)), np.float32(0)
    )
    mean = gaussian(centred, sigma) / weight
    variance = np.maximum(gaussian(centred**2, sigma) / weight - mean**2, 0)
    z = (centred - mean) / np.maximum(np.sqrt(variance), np.float32(FLAT))
    return np.where(mask, np.clip(0.5 + z / 10, 0, 1), np.float32(0.5)).astype(np.float32)
