"""The parts that phantoms are drawn from: outlines, tissue, vessels, bones, letters, film grain.

Pure functions of a shape, a pixel spacing in millimetres and a ``numpy.random.Generator``. Arrays
are (row, col) of the whole image; a part is 0 where it is absent and about 1 where it is full.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from patchad.core.arrays import Floats
from patchad.core.image import Region
from patchad.errors import RequestError
from patchad.lesions.noise import power_law_field
from patchad.lesions.recipes import PHANTOMS, apply, deviation_around, draw

Array = NDArray[Any]  # of float32 or float64


def breast_outline(
    rng: np.random.Generator,
    shape: tuple[int, int],
    spacing_mm: float,
    view: Literal["MLO", "CC"],
) -> tuple[Array, tuple[float, float]]:
    """How far a left breast reaches from the image's left edge.

    Returns (H,) in pixels for each row (0: no breast), and the nipple's position (row, col).
    """
    rows = np.arange(shape[0])
    middle = shape[0] * (rng.uniform(0.56, 0.62) if view == "MLO" else rng.uniform(0.47, 0.53))
    reach = shape[1] * rng.uniform(0.62, 0.86)
    up = (middle - rows) / (middle * (1 if view == "MLO" else rng.uniform(0.8, 0.95)))
    down = (rows - middle) / ((shape[0] - middle) * rng.uniform(0.84, 0.97))
    half = np.sqrt(np.clip(1 - np.abs(down) ** rng.uniform(1.9, 2.3), 0, 1))
    if view == "MLO":
        tail = rng.uniform(0.42, 0.6)  # towards the armpit
        above = tail + (1 - tail) * np.exp(-((1.9 * up) ** 2))
    else:
        above = np.sqrt(np.clip(1 - np.abs(up) ** 2.1, 0, 1))
    half = np.where(up > 0, above, half)
    wobble = power_law_field(rng, (shape[0], 1), (spacing_mm,) * 2, slope=4, longest_mm=60)[:, 0]
    nipple = 3.5 / spacing_mm * np.exp(-(((rows - middle) * spacing_mm / 3.5) ** 2))
    edge = half * (reach + wobble * 1.5 / spacing_mm) + nipple * (half > 0.9)
    return edge, (middle, reach)


@dataclass(frozen=True, eq=False)
class Thorax:
    """The outlines of a chest, as distances in the coordinates of the image.

    ``body`` (H, 1) and ``cage`` (H, 1) are the half-widths of the body and the rib cage,
    ``mediastinum`` (H, W) that of heart and great vessels, ``diaphragm`` (H, W) its height;
    ``lung`` (H, W) is how far a pixel lies inside a lung, negative outside.
    """

    body: Array
    cage: Array
    mediastinum: Array
    diaphragm: Array
    lung: Array


def thorax(rng: np.random.Generator, u: Array, v: Array) -> Thorax:
    """Draw the outlines of a chest.

    Args:
        rng: source of all randomness.
        u: (H, W), from -1 to 1 across the image; the patient's left, where the heart is, is > 0.
        v: (H, 1), from 0 to 1 down.
    """
    side, left = np.abs(u), u > 0
    neck, trunk = rng.uniform(0.2, 0.27), rng.uniform(0.86, 1.08)
    width = neck + (1.2 - neck) * sigmoid((v - rng.uniform(0.07, 0.11)) / 0.018)
    width = width + (trunk - 1.2) * sigmoid((v - rng.uniform(0.35, 0.5)) / 0.04)
    cage = 0.8 * np.sqrt(np.clip(1 - ((v - 0.72) / 0.66) ** 2, 0, 1)) ** 1.15
    apex, dome, size = rng.uniform(0.1, 0.13), rng.uniform(0.7, 0.78), rng.uniform(0.85, 1.25)
    base = dome + 0.025 * sigmoid(u / 0.08) + 0.16 * np.clip(side / 0.74 - 0.45, -0.4, 1) ** 2
    knob = 0.07 * np.exp(-((v - 0.29) ** 2) / 0.0016)  # of the aorta
    heart_left = 0.36 * np.sqrt(np.clip(1 - ((v - 0.66) / 0.26) ** 2, 0, 1))
    heart_right = 0.19 * np.sqrt(np.clip(1 - ((v - 0.64) / 0.2) ** 2, 0, 1))
    vessels_and_spine = 0.13 + 0.02 * np.cos(9 * v) + np.where(left, knob, 0)
    inner = np.maximum(vessels_and_spine, size * np.where(left, heart_left, heart_right))
    gap = np.minimum(np.minimum(cage - side, (side - inner) * 1.1), (base - v) * 2)
    return Thorax(width, cage, inner, base, np.minimum(gap, (v - apex) * 2))


def strands(
    rng: np.random.Generator, shape: tuple[int, int], spacing_mm: float, nipple: tuple[float, float]
) -> tuple[Array, Array]:
    """Thin lines that run, branch and break on their way to the nipple, and streaks of tissue.

    Both come from one random field in polar coordinates around the nipple, stretched along the
    radius: the streaks are the field (deviation about 1), the lines (0 to 1) its zero crossings,
    with a constant width by |field| / |gradient|, visible where a second field is high.
    """
    y, x = np.ogrid[: shape[0], : shape[1]]
    spacing = (spacing_mm, spacing_mm)
    warp = power_law_field(rng, shape, spacing, slope=6, longest_mm=40)
    seen = power_law_field(rng, shape, spacing, slope=3, longest_mm=20)
    down, back = y - nipple[0], nipple[1] * 1.1 - x
    away = np.hypot(down, back).astype(np.float32) * spacing_mm
    # Arc lengths at 40 mm from the nipple, so that streaks grow wider away from it.
    angle = np.arctan2(down, back).astype(np.float32) * 40
    base = power_law_field(rng, (512, 512), (0.5, 0.5), slope=3.0, longest_mm=12)
    at = np.stack([(away / 3.5 + 1.6 * warp) / 0.5, (angle + 2 * warp) / 0.5])
    field = ndimage.map_coordinates(base, at % 512, order=1, mode="grid-wrap")
    smooth = ndimage.gaussian_filter(field, 1.0 / spacing_mm)
    slope = np.hypot(*np.gradient(smooth, spacing_mm)) + 0.05
    lines = np.exp(-0.5 * (smooth / (slope * 0.3)) ** 2) * sigmoid(3 * seen - 0.5)
    return lines, field


def vessels(
    rng: np.random.Generator, shape: tuple[int, int], spacing_mm: float, nipple: tuple[float, float]
) -> Array:
    """A few winding vessels from the chest wall towards the nipple."""
    canvas = Image.new("I", shape[::-1])  # in thousandths
    draw = ImageDraw.Draw(canvas)
    for _ in range(int(rng.integers(3, 7))):
        start = np.array([0.0, rng.uniform(0.15, 0.9) * shape[0]])
        end = np.array(
            [nipple[1] * rng.uniform(0.6, 0.95), nipple[0] + 0.2 * shape[0] * rng.normal()]
        )
        t = np.linspace(0, 1, 60)[:, None]
        path = start + t * (end - start)
        path[:, 1] += np.cumsum(np.cumsum(rng.normal(0, 0.25 / spacing_mm, 60))) * 0.04
        path[:, 1] += 1.0 / spacing_mm * np.sin(t[:, 0] * rng.uniform(15, 40))
        width = max(round(rng.uniform(0.7, 1.6) / spacing_mm), 1)
        draw.line(
            [(a, b) for a, b in path], fill=int(rng.integers(300, 1000)), width=width, joint="curve"
        )
    return ndimage.gaussian_filter(np.asarray(canvas, np.float32) / 1000, 0.35 / spacing_mm)


def pectoral_muscle(
    rng: np.random.Generator, shape: tuple[int, int], y: Array, x: Array, spacing_mm: float
) -> Array:
    """The pectoral muscle: a bowed triangle at the chest wall's upper corner, 0 to 1."""
    top, low = rng.uniform(0.24, 0.4) * shape[1], rng.uniform(0.5, 0.72) * shape[0]
    t = np.clip(1 - y / low, 0, 1)
    border = top * (t + rng.uniform(-0.15, 0.2) * t * (1 - t))
    border = np.where(y < low, border, (low - y) * top / low)
    return sigmoid((border - x) * spacing_mm / rng.uniform(0.5, 1.2)).astype(np.float32)


def lung_vessels(
    rng: np.random.Generator, shape: tuple[int, int], u: Array, v: Array, spacing_mm: float
) -> Array:
    """Vessels that branch from the two hila, and the hila themselves."""
    canvas = Image.new("I", shape[::-1])  # in thousandths
    draw = ImageDraw.Draw(canvas)
    centre = int(np.abs(u[len(u) // 2]).argmin())
    for sign in (-1, 1):
        for _ in range(9):
            start = np.array([centre + sign * 0.09 * shape[1], shape[0] * 0.45])
            heading = rng.uniform(-1.25, 1.25)
            stack = [(start, heading, rng.uniform(3, 4.5))]
            while stack:
                place, heading, width = stack.pop()
                steps = int(rng.integers(6, 12))
                turn = heading + np.cumsum(rng.normal(0, 0.09, steps))
                path = place + np.cumsum(np.stack([sign * np.cos(turn), np.sin(turn)], 1), 0) * (
                    3.2 / spacing_mm
                )
                line = [tuple(place), *(tuple(p) for p in path)]
                draw.line(
                    line, fill=round(350 + 150 * width), width=max(round(width / spacing_mm), 1)
                )
                if width > 0.9:
                    for bend in (rng.uniform(0.2, 0.5), -rng.uniform(0.2, 0.5)):
                        stack.append((path[-1], float(turn[-1]) + bend, width * 0.66))
    vessels = ndimage.gaussian_filter(np.asarray(canvas, np.float32) / 1000, 0.7 / spacing_mm)
    hilum = np.exp(-(((np.abs(u) - 0.2) / 0.07) ** 2) - ((v - 0.45) / 0.07) ** 2)
    return vessels + 0.5 * hilum


def bones(rng: np.random.Generator, u: Array, v: Array, cage: Array) -> Array:
    """The brightness that ribs, spine and clavicles add to the pixels."""
    q = np.clip(np.abs(u) / np.maximum(cage, 0.05), 0, 1.2)
    pitch = rng.uniform(0.072, 0.082)
    inside = sigmoid((1.02 - q) / 0.01) * sigmoid((v - 0.1) / 0.02) * sigmoid((0.8 - v) / 0.06)
    back = (v + 0.05 * q - 0.17 * q**3.5) / pitch
    front = (v + 0.26 * (q - 1) + 0.1 * (1 - q) ** 2) / (1.1 * pitch) + rng.uniform()
    added = 0.055 * inside * _rib(back, 0.26) * sigmoid((q - 0.12) / 0.05)
    added += 0.04 * inside * _rib(front, 0.3) * sigmoid((q - 0.5) / 0.08)
    added += 0.05 * np.exp(-(((q - 1.0) / 0.03) ** 2)) * inside
    spine = sigmoid((0.085 - np.abs(u)) / 0.008)
    added += spine * (0.05 + 0.025 * np.cos(2 * np.pi * v / 0.058))
    for sign in (-1, 1):
        s = np.clip((sign * u - 0.07) / 0.72, -0.1, 1.1)
        line = 0.185 - 0.09 * s - 0.025 * np.sin(2 * np.pi * s) + rng.uniform(-0.01, 0.01)
        across = (v - line) / 0.014
        ends = sigmoid((s - 0.02) / 0.01) * sigmoid((0.98 - s) / 0.02)
        added += (
            0.1
            * ends
            * (sigmoid((1 - np.abs(across)) / 0.12) + 0.5 * _bump(np.abs(across) - 0.9, 0.15))
        )
    return added


def place_lesions(
    rng: np.random.Generator,
    pixels: Floats,
    foreground: NDArray[np.bool_],
    inner: NDArray[np.bool_],
    kinds: tuple[str, ...],
    spacing: tuple[float, float],
) -> tuple[Floats, tuple[Region, ...]]:
    """Insert lesions of these kinds, each centred on a pixel of ``inner``, apart from each other.

    ``foreground`` and ``inner`` are (H, W) bool; nothing is added outside ``foreground``.

    Raises:
        RequestError: an unknown kind, or no pixel of ``inner`` is left.
    """
    regions: list[Region] = []
    for kind in kinds:
        if kind not in PHANTOMS:
            raise RequestError(f"no lesion is called {kind!r}: use {', '.join(PHANTOMS)}")
        places = np.flatnonzero(inner)
        if not len(places):
            raise RequestError(f"no room for {kind!r} in this phantom: ask for fewer lesions")
        row, col = (int(n) for n in np.unravel_index(rng.choice(places), inner.shape))
        drawn = draw(rng, PHANTOMS[kind], spacing)
        around = deviation_around(pixels, foreground, (row, col), spacing)
        pixels, region = apply(pixels, foreground, drawn, (row, col), deviation=around)
        regions.append(region)
        h, w = drawn.lesion.added.shape
        inner = inner.copy()
        inner[max(row - h, 0) : row + h, max(col - w, 0) : col + w] = False
    return pixels, tuple(regions)


def film_grain(rng: np.random.Generator, pixels: Floats, level: float) -> Floats:
    """Film noise: white and slightly clumped, stronger in bright parts."""
    noise = rng.standard_normal(pixels.shape, np.float32)
    noise = noise + 1.5 * ndimage.gaussian_filter(
        rng.standard_normal(pixels.shape, np.float32), 0.8
    )
    return np.clip(pixels + level * (0.25 + pixels) * noise, 0, 1).astype(np.float32)


def write_letters(
    pixels: Floats, text: str, corner: tuple[float, float], *, sticker: bool
) -> tuple[Floats, NDArray[np.bool_]]:
    """Write ``text`` at ``corner``, (row, col) shares; also returns the pixels it covers."""
    height = max(pixels.shape[0] // 32, 8)
    font = ImageFont.load_default(height)
    anchor = "rt" if corner[1] > 0.5 else "lt"
    canvas = Image.new("L", pixels.shape[::-1])
    draw = ImageDraw.Draw(canvas)
    place = (corner[1] * pixels.shape[1], corner[0] * pixels.shape[0])
    box = draw.textbbox(place, text, font=font, anchor=anchor)
    if sticker:
        box = (box[0] - 8, box[1] - 8, box[2] + 8, box[3] + 8)
        draw.rectangle(box, fill=235)
    draw.text(place, text, font=font, anchor=anchor, fill=20 if sticker else 245)
    drawn = np.asarray(canvas, np.float32) / 255
    return np.maximum(pixels, drawn), drawn > 0


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)), from 0 to 1."""
    share: Array = 1 / (1 + np.exp(-np.clip(x, -30, 30)))
    return share


def enlarge(small: NDArray[np.float64], shape: tuple[int, int]) -> Array:
    """Linear interpolation to ``shape``."""
    at = [
        np.linspace(0, n - 1, m, dtype=np.float32) for n, m in zip(small.shape, shape, strict=True)
    ]
    grid = np.meshgrid(*at, indexing="ij")
    large: Array = ndimage.map_coordinates(small.astype(np.float32), grid, order=1)
    return large


def _rib(phase: Array, half: float) -> Array:
    """A band of ± ``half`` of a period around each whole ``phase``, with brighter borders."""
    d = np.abs(phase - np.round(phase))
    return 0.7 * sigmoid((half - d) / 0.02) + 0.6 * _bump(d - half + 0.03, 0.025)


def _bump(x: Array, width: float) -> Array:
    bump: Array = np.exp(-((x / width) ** 2))
    return bump
