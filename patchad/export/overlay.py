"""The film with the heatmap over it: one picture with colour bar and caption."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from patchad.core.image import Heatmap, Radiograph
from patchad.engine.marks import Mark
from patchad.export.layer import (
    OUTLINE_COLOUR,
    blend,
    display_shape,
    extent,
    film_grey,
    layer,
    levels,
    outline_width,
)
from patchad.files.whole import write_whole

RESEARCH = "Research use only. Not for diagnosis."

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
        threshold: of the marks, in the unit of the heatmap; None if marks have another unit.
        marks: are outlined, the first on top of the others.
        labels: the text at each mark.
        caption: lines of text; file names or UIDs, never a patient's name.

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
    _label(canvas, ink, [extent(mark, radiograph.shape, shape) for mark in marks], shape, labels)
    return np.asarray(canvas)


def write_overlay(path: Path, picture: NDArray[np.uint8]) -> None:
    """Write the picture of :func:`overlay`, (h, w, 3) uint8 RGB, as PNG.

    Raises:
        OutputError: the file cannot be written.
    """
    image = Image.fromarray(picture)
    write_whole(path, lambda aside: image.save(aside, "PNG", compress_level=3))


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

    Its background runs from black to white, to show the colours on dark and on bright film.
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
        draw.line(line, OUTLINE_COLOUR, ink.line // 8 + 1)
        draw.text(
            (right + 1.5 * ink.advance, mark),
            f"{threshold:.4g}{outside}\nthreshold",
            OUTLINE_COLOUR,
            ink.font,
            anchor="lm",
            spacing=0,
        )
    # The ends of the range first, then round values if there is space.
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
    """Write each label above its mark, else below or inside; without space it is left out.

    A label never covers an earlier label or its mark.
    """
    draw = ImageDraw.Draw(canvas)
    taken: list[tuple[int, int, int, int]] = []
    for (rows, cols), text in zip(extents, labels, strict=False):
        height, width = ink.line, ink.advance * (len(text) + 1)
        gap = 3 * outline_width(shape)
        col = max(min(cols.start, shape[1] - width), 0)
        for row in (rows.start - gap - height, rows.stop + gap, rows.start):
            box = (row, col, row + height, col + width)
            if row < 0 or box[2] > shape[0] or box[3] > shape[1]:
                continue
            if any(_overlap(box, other) for other in taken):
                continue
            draw.rectangle((col, row, col + width - 1, row + height - 1), _BACKGROUND)
            draw.text((col + width / 2, row + height / 2), text, OUTLINE_COLOUR, ink.font, "mm")
            taken.append(box)
            break
        taken.append((rows.start, cols.start, rows.stop, cols.stop))


def _overlap(one: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> bool:
    """Whether two boxes (first row, first col, end row, end col) share a pixel."""
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
