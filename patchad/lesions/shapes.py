"""Synthetic lesions, made from a seed: masses, spicules, calcifications, chest opacities.

Each generator is a pure function of a ``numpy.random.Generator`` and sizes in millimetres. It
returns a :class:`Lesion` that peaks at 1; :func:`insert` adds it to an image with an amplitude in
the unit of the pixels, which a caller takes relative to the structure around it
(:func:`local_deviation`). Arrays are (row, col), ``spacing_mm`` is (row, col).
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.morphology import convex_hull_image

from patchad.core.arrays import Floats
from patchad.core.image import Region
from patchad.errors import RequestError
from patchad.lesions.noise import power_law_field

Profile = Literal["disc", "gaussian", "dome"]
Array = NDArray[Any]  # of float32 or float64


@dataclass(frozen=True, eq=False)
class Lesion:
    """The brightness that a lesion adds to an image, centred on the middle pixel of its arrays.

    ``added`` (h, w) float32 in [0, 1] is added times an amplitude; ``mask`` (h, w) bool is the area
    a reader would outline (it may lack pixels that are only faintly brighter); h and w are odd.
    """

    added: Floats
    mask: NDArray[np.bool_]
    kind: str

    def __post_init__(self) -> None:
        if self.added.shape != self.mask.shape or self.added.ndim != 2:
            raise ValueError(f"added {self.added.shape} and mask {self.mask.shape} must match")
        if not all(length % 2 for length in self.added.shape):
            raise ValueError(f"a lesion needs a middle pixel: odd sides, got {self.added.shape}")
        self.added.flags.writeable = self.mask.flags.writeable = False


def mass(
    rng: np.random.Generator,
    *,
    diameter_mm: float,
    spacing_mm: tuple[float, float],
    profile: Profile = "dome",
    lobes: float = 0.12,
    kind: str = "mass",
) -> Lesion:
    """A lobed ellipse.

    With t the distance from the centre in units of the outline's radius in that direction, the
    profile is ``disc``: 1 / (1 + exp(12 (t - 1))), flat with a soft rim; ``gaussian``:
    2^(-t²), half as bright at the outline; ``dome``: √(1 - t²), the projection of a ball.

    Args:
        rng: source of all randomness: axis ratio, orientation and lobes.
        diameter_mm: mean of the two axes of the ellipse.
        spacing_mm: (row, col) of the image it is for.
        profile: how the brightness falls from the centre to the outline.
        lobes: how far the outline deviates from the ellipse, as a share of its radius.
        kind: the name for its region.
    """
    reach = {"disc": 1.5, "gaussian": 2.6, "dome": 1.0}[profile] * (1 + 3 * lobes) * 1.2
    y, x = _plane(reach * diameter_mm / 2, diameter_mm, spacing_mm)
    t = _lobed_radius(rng, y, x, diameter_mm / 2, lobes)
    match profile:
        case "disc":
            added = 1 / (1 + np.exp(np.clip(12 * (t - 1), -40, 40)))
        case "gaussian":
            added = np.exp2(-(t**2))
        case "dome":
            added = np.sqrt(np.clip(1 - t**2, 0, 1))
    return _lesion(added, t <= 1, kind)


def spiculated_mass(
    rng: np.random.Generator,
    *,
    diameter_mm: float,
    spacing_mm: tuple[float, float],
    spicules: tuple[int, int] = (9, 18),
) -> Lesion:
    """A dense core of ``diameter_mm`` from which tapering, slightly bent spicules radiate.

    Their number is drawn from ``spicules`` (least, most); they reach 1.6 to 2.8 core radii from the
    centre and are 0.3-0.8 mm thick.
    """
    radius = diameter_mm / 2
    y, x = _plane(2.8 * radius + 1, diameter_mm, spacing_mm)
    t = _lobed_radius(rng, y, x, radius, 0.15)
    added = np.exp2(-(t**3))
    outline = t <= 1
    count = int(rng.integers(spicules[0], spicules[1] + 1))
    angles = (np.arange(count) + rng.uniform(-0.35, 0.35, count)) * 2 * np.pi / count
    for angle in angles:
        spicule = _spicule(rng, y, x, angle, radius * rng.uniform(1.6, 2.8), spacing_mm)
        added = np.maximum(added, spicule)
        outline |= spicule > 0.2
    return _lesion(added, outline, "spiculated mass")


def architectural_distortion(
    rng: np.random.Generator, *, diameter_mm: float, spacing_mm: tuple[float, float]
) -> Lesion:
    """8-20 spicules that radiate from a middle without a dense core.

    They look like those of a spiculated mass, reach 0.35 to 0.5 ``diameter_mm`` from the middle and
    fade where they would meet. The mask is their convex hull.
    """
    radius = diameter_mm / 2
    y, x = _plane(1.15 * radius + 1, diameter_mm, spacing_mm)
    added = np.zeros(np.broadcast_shapes(y.shape, x.shape))
    count = int(rng.integers(8, 21))
    angles = (np.arange(count) + rng.uniform(-0.45, 0.45, count)) * 2 * np.pi / count
    for angle in angles:
        length = radius * rng.uniform(0.7, 1)
        added = np.maximum(added, _spicule(rng, y, x, angle, length, spacing_mm))
    added *= 1 - np.exp2(-(((y**2 + x**2) / (0.3 * radius) ** 2) ** 2))  # half at 0.3 radii
    hull = convex_hull_image(added > 0.2 * added.max())  # type: ignore[no-untyped-call]
    return _lesion(added, hull, "architectural distortion")


def calcification_cluster(
    rng: np.random.Generator,
    *,
    diameter_mm: float,
    spacing_mm: tuple[float, float],
    count: int | None = None,
) -> Lesion:
    """A cluster of 3-21 microcalcifications: Gaussian specks of 0.2-0.6 mm in an ellipse.

    ``diameter_mm`` is the mean of the axes of that ellipse, ``count`` fixes the number of specks.
    Each speck is blurred by the pixel's own size. The mask is the convex hull of the specks, as a
    reader would outline the cluster.
    """
    number = int(rng.integers(3, 22)) if count is None else count
    if number < 1:
        raise RequestError(f"a cluster needs at least one speck, got count = {count}")
    ratio, turn = np.sqrt(rng.uniform(0.5, 1)), rng.uniform(0, np.pi)
    distance, angle = np.sqrt(rng.uniform(0, 1, number)), rng.uniform(0, 2 * np.pi, number)
    major, minor = (distance * f(angle) * diameter_mm / 2 for f in (np.cos, np.sin))
    major, minor = major / ratio, minor * ratio
    y, x = _plane(diameter_mm / 2 / ratio + 1.5, diameter_mm, spacing_mm)
    added = np.zeros(np.broadcast_shapes(y.shape, x.shape))
    for a, b in zip(major, minor, strict=True):
        dy = y - (a * np.sin(turn) + b * np.cos(turn))
        dx = x - (a * np.cos(turn) - b * np.sin(turn))
        direction, sigma = rng.uniform(0, np.pi), rng.uniform(0.2, 0.6) / 2
        along = dx * np.cos(direction) + dy * np.sin(direction)
        across = dy * np.cos(direction) - dx * np.sin(direction)
        # A uniform pixel of width s has the variance s² / 12.
        var = sigma**2 + spacing_mm[0] * spacing_mm[1] / 12
        speck = np.exp(-0.5 * (along**2 / var + across**2 / (var * rng.uniform(0.4, 1))))
        added += rng.uniform(0.35, 1) * (sigma / 0.3) * speck
    hull = convex_hull_image(added > 0.15 * added.max())  # type: ignore[no-untyped-call]
    return _lesion(added, hull, "calcifications")


def opacity(
    rng: np.random.Generator,
    *,
    diameter_mm: float,
    spacing_mm: tuple[float, float],
    form: Literal["consolidation", "nodule"] = "consolidation",
) -> Lesion:
    """A shadow in the lung: a ``nodule`` (a ball) or a ``consolidation``.

    The consolidation is a soft, lobed area whose brightness and border are modulated by a 1/f³
    random field, so that it has neither a rim nor a plateau.
    """
    if form == "nodule":
        return mass(rng, diameter_mm=diameter_mm, spacing_mm=spacing_mm, lobes=0.06, kind=form)
    y, x = _plane(diameter_mm, diameter_mm, spacing_mm)
    t = _lobed_radius(rng, y, x, diameter_mm / 2, 0.2)
    clouds = power_law_field(
        rng, t.shape, spacing_mm, slope=3.0, longest_mm=max(diameter_mm, 4 * max(spacing_mm))
    )
    level = 1.1 - t + 0.28 * clouds
    fading = np.clip(3 * (1 - np.hypot(y, x) / diameter_mm), 0, 1)  # to 0 at the array's edge
    added = np.clip(level, 0, 1) ** 0.8 * fading
    labels, _ = ndimage.label(added > 0.2)
    middle = labels == np.bincount(labels[added > 0.2]).argmax()
    return _lesion(added, ndimage.binary_fill_holes(middle), form)


def textured(
    rng: np.random.Generator,
    lesion: Lesion,
    *,
    spacing_mm: tuple[float, float],
    strength: float,
    slope: float = 2.0,
) -> Lesion:
    """The lesion with its brightness modulated by a random field; outline and kind stay.

    ``added`` is multiplied by 1 + ``strength`` times a 1/f^``slope`` field of deviation 1, clipped
    to 0.1..2, and rescaled to a peak of 1.
    """
    field = power_law_field(
        rng, (lesion.added.shape[0], lesion.added.shape[1]), spacing_mm, slope=slope, longest_mm=10
    )
    added = lesion.added * np.clip(1 + np.float32(strength) * field, 0.1, 2)
    return _lesion(added, lesion.mask.copy(), lesion.kind)


def local_deviation(
    pixels: Floats,
    foreground: NDArray[np.bool_],
    centre: tuple[int, int],
    *,
    radius_mm: float,
    spacing_mm: tuple[float, float],
) -> float:
    """Standard deviation of the foreground pixels in the square of ± ``radius_mm`` at ``centre``.

    In the unit of ``pixels`` (H, W); NaN if there is no foreground. ``centre`` is (row, col).
    """
    half = [round(radius_mm / s) for s in spacing_mm]
    box = tuple(slice(max(c - h, 0), max(c + h + 1, 0)) for c, h in zip(centre, half, strict=True))
    inside = pixels[box][foreground[box]]
    return float(inside.std()) if inside.size else float("nan")


def insert(
    pixels: Floats,
    foreground: NDArray[np.bool_],
    lesion: Lesion,
    centre: tuple[int, int],
    *,
    amplitude: float,
) -> tuple[Floats, Region]:
    """Add a lesion to an image: the new image and the region of the lesion.

    Args:
        pixels: (H, W) float32 in [0, 1], not changed.
        foreground: (H, W) bool; nothing is added outside it, nor beyond the image's edge.
        lesion: what to add.
        centre: (row, col) of the lesion's middle pixel.
        amplitude: added at its brightest pixel, in the unit of ``pixels``, before clipping.

    Raises:
        RequestError: no pixel of the lesion lies in the foreground.
    """
    h, w = lesion.added.shape
    top, left = centre[0] - h // 2, centre[1] - w // 2
    rows = slice(max(top, 0), max(min(top + h, pixels.shape[0]), 0))
    cols = slice(max(left, 0), max(min(left + w, pixels.shape[1]), 0))
    part = np.s_[max(-top, 0) :, max(-left, 0) :]
    inside = foreground[rows, cols]
    added = lesion.added[part][: inside.shape[0], : inside.shape[1]]
    mask = lesion.mask[part][: inside.shape[0], : inside.shape[1]] & inside
    if not mask.any():
        raise RequestError(
            f"the lesion at (row, col) = {centre} lies outside the foreground: "
            "choose a centre where the foreground mask is true"
        )
    result = pixels.copy()
    result[rows, cols] = np.clip(result[rows, cols] + np.float32(amplitude) * added * inside, 0, 1)
    box = ndimage.find_objects(mask.astype(np.int8))[0]
    (y0, y1), (x0, x1) = ((s.start, s.stop) for s in box)
    region = Region(
        x=cols.start + x0,
        y=rows.start + y0,
        width=x1 - x0,
        height=y1 - y0,
        kind=lesion.kind,
        mask=mask[box].copy(),
    )
    return result, region


def _plane(
    reach_mm: float, diameter_mm: float, spacing_mm: tuple[float, float]
) -> tuple[Array, Array]:
    """Millimetres from the middle pixel, as a column (h, 1) and a row (1, w), h and w odd."""
    if not diameter_mm > 0 or not all(s > 0 for s in spacing_mm):
        raise RequestError(
            "a lesion needs a diameter and a pixel spacing above 0 mm, got "
            f"{diameter_mm} and {spacing_mm}"
        )
    half = [int(np.ceil(reach_mm / s)) for s in spacing_mm]
    y, x = (np.arange(-n, n + 1) * s for n, s in zip(half, spacing_mm, strict=True))
    return y[:, None], x[None]


def _lobed_radius(
    rng: np.random.Generator,
    y: Array,
    x: Array,
    radius_mm: float,
    lobes: float,
) -> Array:
    """Distance from the centre in units of a lobed ellipse's radius in that direction."""
    ratio, turn = np.sqrt(rng.uniform(0.7, 1)), rng.uniform(0, np.pi)
    along, across = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    angle = np.arctan2(across, along)
    outline = 1.0
    for k in range(2, 6):
        outline = outline + lobes * rng.normal() / k * np.cos(k * angle + rng.uniform(0, 2 * np.pi))
    distance: Array = np.hypot(along * ratio, across / ratio)
    distance /= radius_mm * np.maximum(outline, 0.5)
    return distance


def _spicule(
    rng: np.random.Generator,
    y: Array,
    x: Array,
    angle: float,
    length_mm: float,
    spacing_mm: tuple[float, float],
) -> Array:
    """A line of 0.3-0.8 mm from the middle towards ``angle``, slightly bent, tapering to 0.

    At most 0.7, and 0 from 1.15 ``length_mm`` on; (h, w) for the ``y`` (h, 1) and ``x`` (1, w).
    """
    width = rng.uniform(0.3, 0.8) / 2
    along = x * np.cos(angle) + y * np.sin(angle)
    bend = rng.normal(0, 0.12) * along**2 / length_mm
    across = y * np.cos(angle) - x * np.sin(angle) + bend
    # A spicule thinner than a pixel gets darker rather than thinner.
    seen = np.hypot(width * np.clip(1.3 - along / length_mm, 0.3, 1), min(spacing_mm) / 2)
    spicule = np.clip(1.15 - along / length_mm, 0, 0.7) * np.exp(-0.5 * (across / seen) ** 2)
    taken: Array = spicule * (along > 0) * width / np.hypot(width, min(spacing_mm) / 2)
    return taken


def _lesion(added: Array, mask: NDArray[np.bool_], kind: str) -> Lesion:
    return Lesion((added / added.max()).astype(np.float32), mask, kind)
