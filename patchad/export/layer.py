"""The layer over a film: colours of the scores, outlines of the marks, and the drawn size.

One colour scale a model: its ends come from the card, never from the image, so that a normal film
looks calm. A layer is an index image into :func:`palette`; ``report.html`` shows it over the film,
:mod:`.overlay` blends the two.
"""

from collections.abc import Sequence
from functools import cache

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from patchad.core.image import Heatmap, Radiograph
from patchad.engine.marks import Mark
from patchad.errors import ImageError

LONG_SIDE = 2048  # pixels of the film in the picture, at most
OUTLINE = 255  # the index of outlines in the palette

_TINY = 512  # smaller films are enlarged by a whole number
_OPACITY = 0.6  # of the highest score; the film must stay readable beneath
_LEVELS = 254  # indices of the scale; 0 is transparent
OUTLINE_COLOUR = (0, 255, 255)  # cyan: neither grey nor in the colour map


def display_shape(
    shape: tuple[int, int], spacing_mm: tuple[float, float] | None, long_side: int = LONG_SIDE
) -> tuple[int, int]:
    """The (rows, columns) at which an image of ``shape`` is drawn, in square pixels.

    Images over ``long_side`` are scaled down to it; tiny ones are enlarged by a whole number.
    """
    step = spacing_mm or (1.0, 1.0)
    rows, cols = (n * s / min(step) for n, s in zip(shape, step, strict=True))
    longest = max(rows, cols)
    scale = long_side / longest if longest > long_side else max(1, int(_TINY / longest))
    return max(1, round(rows * scale)), max(1, round(cols * scale))


def layer(
    radiograph: Radiograph,
    heatmap: Heatmap,
    shape: tuple[int, int],
    *,
    display_range: tuple[float, float],
    marks: Sequence[Mark],
) -> NDArray[np.uint8]:
    """The layer over the film, drawn at ``shape``: (rows, columns) uint8 indices of the palette.

    Arguments are those of :func:`overlay`; 0 is transparent, :data:`OUTLINE` runs along the inner
    edge of each mark, or around a mark that is too small for that.
    """
    if heatmap.values.shape != radiograph.shape:
        raise ImageError(
            f"the heatmap has {heatmap.values.shape} pixels (row, col), the image "
            f"{radiograph.shape}: it belongs to another image, screen this one again"
        )
    index = levels(_resampled(heatmap.values, shape), display_range)
    for mark in reversed(marks):
        rows, cols = extent(mark, radiograph.shape, shape)
        room = 3 * outline_width(shape)
        mask = np.pad(_drawn(mark, radiograph.shape, shape), room)
        edge = _edge(mask, outline_width(shape))
        # The padded edge may extend beyond the film.
        top, left = max(room - rows.start, 0), max(room - cols.start, 0)
        part = index[
            max(rows.start - room, 0) : rows.stop + room,
            max(cols.start - room, 0) : cols.stop + room,
        ]
        part[edge[top : top + part.shape[0], left : left + part.shape[1]]] = OUTLINE
    return index


def levels(values: NDArray[np.float32], display_range: tuple[float, float]) -> NDArray[np.uint8]:
    """Place scores of any shape on the colour scale: uint8 in 0 (low end, NaN) … 254 (high end)."""
    low, high = display_range
    if not low < high:
        raise ValueError(f"a display range must rise, got {low:g} … {high:g}")
    share = np.nan_to_num(np.clip((values - low) / (high - low), 0, 1), nan=0)
    index: NDArray[np.uint8] = np.rint(_LEVELS * share).astype(np.uint8)
    return index


@cache
def palette() -> NDArray[np.uint8]:
    """Colour and opacity of each index: (256, 4) uint8 RGBA.

    Plasma, because none of its colours is grey or white and could pass for film; opacity grows in
    proportion to the score.
    """
    share = np.linspace(0, 1, _LEVELS + 1)
    rgba = 255 * np.asarray(matplotlib.colormaps["plasma"](share))
    rgba[:, 3] *= _OPACITY * share
    colours: NDArray[np.uint8] = np.rint(np.vstack([rgba, [*OUTLINE_COLOUR, 255]])).astype(np.uint8)
    colours.flags.writeable = False
    return colours


def film_grey(radiograph: Radiograph, shape: tuple[int, int]) -> NDArray[np.uint8]:
    """The film alone, drawn at ``shape``: (rows, columns) uint8, brighter = denser."""
    grey: NDArray[np.uint8] = np.rint(255 * _resampled(radiograph.pixels, shape)).astype(np.uint8)
    return grey


def blend(grey: NDArray[np.uint8], index: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Lay the colours of ``index`` (H, W) over ``grey`` (H, W): (H, W, 3) uint8."""
    rgba = palette()[index].astype(np.float32)
    opacity = rgba[..., 3:] / 255
    mixed = (1 - opacity) * grey[..., None] + opacity * rgba[..., :3]
    picture: NDArray[np.uint8] = np.rint(mixed).astype(np.uint8)
    return picture


def _resampled(values: NDArray[np.float32], shape: tuple[int, int]) -> NDArray[np.float32]:
    """Resample (H, W) to ``shape``, edge on edge; NaN pixels don't affect their neighbours."""
    times = shape[0] // values.shape[0], shape[1] // values.shape[1]
    if (values.shape[0] * times[0], values.shape[1] * times[1]) == shape:
        return values.repeat(times[0], 0).repeat(times[1], 1)
    known = np.isfinite(values)
    total, weight = (
        np.asarray(Image.fromarray(part).resize(shape[::-1], Image.Resampling.BILINEAR))
        for part in (np.where(known, values, np.float32(0)), known.astype(np.float32))
    )
    seen = weight >= 0.5
    drawn = np.full(shape, np.nan, np.float32)
    np.divide(total, weight, out=drawn, where=seen)
    return drawn


def extent(mark: Mark, source: tuple[int, int], shape: tuple[int, int]) -> tuple[slice, slice]:
    """The rows and columns that the box of a mark has at ``shape``; one of each at least."""
    x, y, width, height = mark.box
    found = []
    for first, length, old, new in (
        (y, height, source[0], shape[0]),
        (x, width, source[1], shape[1]),
    ):
        start = min(round(first * new / old), new - 1)
        found.append(slice(start, max(round((first + length) * new / old), start + 1)))
    return found[0], found[1]


def _drawn(mark: Mark, source: tuple[int, int], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """The pixels of a mark within its :func:`extent`, by the source pixel at their centre."""
    lines = []
    for part, first, old, new in zip(
        extent(mark, source, shape), (mark.row, mark.col), source, shape, strict=True
    ):
        middles = (np.arange(part.start, part.stop) + 0.5) * old / new
        lines.append((middles.astype(np.int64) - first).clip(0, None))
    rows, cols = (line.clip(max=n - 1) for line, n in zip(lines, mark.mask.shape, strict=True))
    drawn = mark.mask[np.ix_(rows, cols)]
    return drawn if drawn.any() else np.ones_like(drawn)


def _edge(mask: NDArray[np.bool_], thickness: int) -> NDArray[np.bool_]:
    """The inner edge of a mask, or an outline at some distance if that edge covers half of it.

    ``mask`` (rows, columns) bool is False along its border, for three times ``thickness``.
    """
    square = np.ones((3, 3), np.bool_)
    inner: NDArray[np.bool_] = ndimage.binary_erosion(mask, square, thickness)
    if 2 * inner.sum() >= mask.sum():
        return mask & ~inner
    outer: NDArray[np.bool_] = ndimage.binary_dilation(mask, square, 3 * thickness)
    return outer & ~ndimage.binary_dilation(mask, square, 2 * thickness)


def outline_width(shape: tuple[int, int]) -> int:
    """How many pixels wide an outline is in a picture of ``shape``."""
    return max(1, round(max(shape) / 700))
