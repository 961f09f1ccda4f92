"""The film with the heatmap over it, for the eye.

One colour scale a model: its ends come from the card, never from the image, so that a normal film
looks calm. A picture is built from an index image into :func:`palette`, which also makes the layer
that ``report.html`` lays over the film.
"""

import textwrap
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from patchad.core.image import Heatmap, Radiograph
from patchad.engine.marks import Mark
from patchad.errors import ImageError
from patchad.files.whole import write_whole

LONG_SIDE = 2048  # pixels of the film in the picture, at most
OUTLINE = 255  # the index of outlines in the palette
RESEARCH = "Research use only. Not for diagnosis."

_TINY = 512  # films below are enlarged by a whole number
_OPACITY = 0.6  # of the highest score; the film must stay readable beneath
_LEVELS = 254  # indices of the scale; 0 is transparent
_OUTLINE_COLOUR = (0, 255, 255)  # cyan: neither grey nor in the colour map
_BACKGROUND, _INK, _FAINT = (16, 16, 16), (235, 235, 235), (160, 160, 160)


def overlay(
    radiograph: Radiograph,
    heatmap: Heatmap,
    *,
    display_range: tuple[float, float],
    threshold: float | None,
    marks: Sequence[Mark],
    labels: Sequence[str] = (),
    caption: Sequence[str] = (),
) -> NDArray[np.uint8]:
    """Draw the film with its heatmap, a colour bar to the right and the caption beneath.

    Args:
        radiograph: the film; its spacing gives the aspect.
        heatmap: (H, W) as the film; NaN and values below ``display_range`` stay transparent.
        display_range: the scores at the ends of the colour scale, from the card.
        threshold: of what is marked, in the unit of the heatmap; None where marks have another.
        marks: are outlined, the first on top of the others.
        labels: what is written beside each mark.
        caption: lines of text; file or SOP names, never a patient's.

    Returns:
        (h, w, 3) uint8 RGB. The film fills its top-left corner, of :func:`display_shape`.

    Raises:
        ImageError: the heatmap is of another size than the film.
    """
    shape = display_shape(radiograph.shape, radiograph.step)
    index = layer(radiograph, heatmap, shape, display_range=display_range, marks=marks)
    film = blend(film_grey(radiograph, shape), index)

    ink = _Ink.of_height(max(shape))
    bar = _colour_bar(ink, shape[0], heatmap.unit, display_range, threshold)
    width = max(shape[1] + bar.width, 36 * ink.advance)
    text = _caption(ink, width, [*caption, RESEARCH])
    canvas = Image.new("RGB", (width, max(shape[0], bar.height) + text.height), _BACKGROUND)
    canvas.paste(Image.fromarray(film), (0, 0))
    canvas.paste(bar, (shape[1], 0))
    canvas.paste(text, (0, canvas.height - text.height))
    _label(canvas, ink, [_extent(mark, radiograph.shape, shape) for mark in marks], shape, labels)
    return np.asarray(canvas)


def write_overlay(path: Path, picture: NDArray[np.uint8]) -> None:
    """Write the picture of :func:`overlay`, (h, w, 3) uint8 RGB, as PNG.

    Raises:
        OutputError: the file cannot be written.
    """
    image = Image.fromarray(picture)
    write_whole(path, lambda aside: image.save(aside, "PNG", compress_level=3))


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
    """What lies over the film, drawn at ``shape``: (rows, columns) uint8 indices of the palette.

    Arguments are those of :func:`overlay`; 0 is transparent, :data:`OUTLINE` runs along the inner
    edge of each mark, or around one that it would cover.
    """
    if heatmap.values.shape != radiograph.shape:
        raise ImageError(
            f"the heatmap has {heatmap.values.shape} pixels (row, col), the image "
            f"{radiograph.shape}: it belongs to another image, screen this one again"
        )
    index = levels(_resampled(heatmap.values, shape), display_range)
    for mark in reversed(marks):
        rows, cols = _extent(mark, radiograph.shape, shape)
        room = 3 * _thickness(shape)
        mask = np.pad(_drawn(mark, radiograph.shape, shape), room)
        edge = _edge(mask, _thickness(shape))
        # The edge may reach out of the film by the room that it was given.
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
    colours: NDArray[np.uint8] = np.rint(np.vstack([rgba, [*_OUTLINE_COLOUR, 255]])).astype(
        np.uint8
    )
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
    """Resample (H, W) to ``shape``, edge on edge; NaN pixels say nothing to their neighbours."""
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


def _extent(mark: Mark, source: tuple[int, int], shape: tuple[int, int]) -> tuple[slice, slice]:
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
    """The pixels of a mark within its :func:`_extent`, by the source pixel at their middle."""
    lines = []
    for part, first, old, new in zip(
        _extent(mark, source, shape), (mark.row, mark.col), source, shape, strict=True
    ):
        middles = (np.arange(part.start, part.stop) + 0.5) * old / new
        lines.append((middles.astype(np.int64) - first).clip(0, None))
    rows, cols = (line.clip(max=n - 1) for line, n in zip(lines, mark.mask.shape, strict=True))
    drawn = mark.mask[np.ix_(rows, cols)]
    return drawn if drawn.any() else np.ones_like(drawn)


def _edge(mask: NDArray[np.bool_], thickness: int) -> NDArray[np.bool_]:
    """The inner edge of a mask; around it, with some distance, where that would cover half of it.

    ``mask`` (rows, columns) bool is False along its border, for three times ``thickness``.
    """
    square = np.ones((3, 3), np.bool_)
    inner: NDArray[np.bool_] = ndimage.binary_erosion(mask, square, thickness)
    if 2 * inner.sum() >= mask.sum():
        return mask & ~inner
    outer: NDArray[np.bool_] = ndimage.binary_dilation(mask, square, 3 * thickness)
    return outer & ~ndimage.binary_dilation(mask, square, 2 * thickness)


def _thickness(shape: tuple[int, int]) -> int:
    return max(1, round(max(shape) / 700))


class _Ink(NamedTuple):
    """A fixed-width font, so that text can be wrapped by counting characters."""

    font: ImageFont.FreeTypeFont
    advance: int  # pixels a character is wide
    line: int  # pixels from line to line

    @classmethod
    def of_height(cls, long_side: int) -> "_Ink":
        size = max(13, round(long_side / 80))
        path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSansMono.ttf"
        font = ImageFont.truetype(str(path), size)
        return cls(font, int(np.ceil(font.getlength("0"))), round(1.4 * size))

    def wrap(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(text, max(8, width // self.advance))


def _caption(ink: _Ink, width: int, lines: Sequence[str]) -> Image.Image:
    """The text beneath the film; its last line is small print."""
    wrapped = [ink.wrap(line, width - 2 * ink.advance) for line in lines]
    count = sum(map(len, wrapped))
    image = Image.new("RGB", (width, (count + 1) * ink.line), _BACKGROUND)
    draw = ImageDraw.Draw(image)
    y = ink.line // 2
    for number, parts in enumerate(wrapped):
        colour = _FAINT if number == len(wrapped) - 1 else _INK
        for part in parts:
            draw.text((ink.advance, y), part, colour, ink.font)
            y += ink.line
    return image


def _colour_bar(
    ink: _Ink, height: int, unit: str, display_range: tuple[float, float], threshold: float | None
) -> Image.Image:
    """The colour scale with ticks, at least ``height`` pixels high, and any threshold.

    Its ground runs from black to white, so that it shows the colours as on dark and bright film.
    """
    low, high = display_range
    width = 17 * ink.advance
    heading = ink.wrap(unit, width - 2 * ink.advance)
    top = ink.line * (len(heading) + 2)
    length = int(np.clip(height - top - 2 * ink.line, 10 * ink.line, 30 * ink.line))
    image = Image.new("RGB", (width, max(height, top + length + 2 * ink.line)), _BACKGROUND)
    draw = ImageDraw.Draw(image)
    for number, part in enumerate(heading):
        draw.text((ink.advance, ink.line * (number + 0.5)), part, _INK, ink.font)
    ramp = np.linspace(high, low, length, dtype=np.float32)
    breadth = 3 * ink.advance
    ground = np.tile(np.linspace(0, 255, breadth).astype(np.uint8), (length, 1))
    colours = blend(ground, np.tile(levels(ramp, display_range)[:, None], (1, breadth)))
    image.paste(Image.fromarray(colours), (ink.advance, top))
    right = ink.advance + breadth

    def place(value: float) -> float:
        return top + (high - value) / (high - low) * (length - 1)

    taken: list[float] = []
    mark = -np.inf
    if threshold is not None:
        mark = float(np.clip(place(threshold), top, top + length - 1))
        outside = " ↑" if threshold > high else " ↓" if threshold < low else ""
        line = [ink.advance, mark, right + ink.advance, mark]
        draw.line(line, _OUTLINE_COLOUR, ink.line // 8 + 1)
        draw.text(
            (right + 1.5 * ink.advance, mark),
            f"{threshold:.4g}{outside}\nthreshold",
            _OUTLINE_COLOUR,
            ink.font,
            anchor="lm",
            spacing=0,
        )
    # The ends first: they are the range; then round values where there is room.
    inner = [v for v in MaxNLocator(5).tick_values(low, high) if low < v < high]
    for value in (high, low, *inner):
        y = place(value)
        if abs(y - mark) > 1.5 * ink.line and all(abs(y - other) > ink.line for other in taken):
            taken.append(y)
            draw.line([right, y, right + ink.advance // 2, y], _INK)
            draw.text((right + 1.5 * ink.advance, y), f"{value:.4g}", _INK, ink.font, anchor="lm")
    return image


def _label(
    canvas: Image.Image,
    ink: _Ink,
    extents: Sequence[tuple[slice, slice]],
    shape: tuple[int, int],
    labels: Sequence[str],
) -> None:
    """Write each label over its mark, else under it or in it; one that finds no room is left out.

    A label covers no earlier one, and no mark of an earlier one.
    """
    draw = ImageDraw.Draw(canvas)
    taken: list[tuple[int, int, int, int]] = []
    for (rows, cols), text in zip(extents, labels, strict=False):
        height, width = ink.line, ink.advance * (len(text) + 1)
        gap = 3 * _thickness(shape)
        col = max(min(cols.start, shape[1] - width), 0)
        for row in (rows.start - gap - height, rows.stop + gap, rows.start):
            box = (row, col, row + height, col + width)
            if row < 0 or box[2] > shape[0] or box[3] > shape[1]:
                continue
            if any(_overlap(box, other) for other in taken):
                continue
            draw.rectangle((col, row, col + width - 1, row + height - 1), _BACKGROUND)
            draw.text((col + width / 2, row + height / 2), text, _OUTLINE_COLOUR, ink.font, "mm")
            taken.append(box)
            break
        taken.append((rows.start, cols.start, rows.stop, cols.stop))


def _overlap(one: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> bool:
    """Whether two boxes (first row, first col, end row, end col) share a pixel."""
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
