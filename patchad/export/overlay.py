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

from patchad.errors import ImageError
from patchad.image import Heatmap, Radiograph
from patchad.io.files import write_whole

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
    threshold: float,
    boxes: NDArray[np.float64],
    scores: NDArray[np.float32] | None = None,
    marked: NDArray[np.bool_] | None = None,
    caption: Sequence[str] = (),
) -> NDArray[np.uint8]:
    """Draw the film with its heatmap, a colour bar to the right and the caption beneath.

    Args:
        radiograph: the film; its spacing gives the aspect.
        heatmap: (H, W) as the film; NaN and values below ``display_range`` stay transparent.
        display_range: the scores at the ends of the colour scale, from the card.
        threshold: the patch threshold of the card, in the unit of the heatmap.
        boxes: (K, 4) float64 (row, col, height, width) in source pixels: the patches over the
            threshold. The outline of all together is drawn.
        scores: (K,) float32, the scores of ``boxes``: the highest one is drawn too, with its score.
        marked: (H, W) bool: of a dense map, the pixels over the threshold. They are outlined in
            place of ``boxes``, which then bound the regions.
        caption: lines of text; file or SOP names, never a patient's.

    Returns:
        (h, w, 3) uint8 RGB. The film fills its top-left corner, of :func:`display_shape`.

    Raises:
        ImageError: the heatmap is of another size than the film.
    """
    shape = display_shape(radiograph.shape, radiograph.step)
    index = layer(
        radiograph, heatmap, shape, display_range=display_range, boxes=boxes, marked=marked
    )
    thickness = _thickness(shape)
    highest = None
    if scores is not None and len(boxes):
        top = int(np.argmax(scores))
        highest = _pixels(boxes[top : top + 1], radiograph.shape, shape)[0]
        if marked is None:  # twice as thick as the outline of all
            index[_inner_edge(_union(highest[None], shape), 2 * thickness)] = OUTLINE
    film = blend(film_grey(radiograph, shape), index)

    ink = _Ink.of_height(max(shape))
    count = f"{len(boxes) or 'no'} {_named(len(boxes), marked is not None)}"
    below = f"{count} over the threshold {threshold:.4g}{', outlined' * bool(len(boxes))}"
    bar = _colour_bar(ink, shape[0], heatmap.unit, display_range, threshold)
    width = max(shape[1] + bar.width, 36 * ink.advance)
    text = _caption(ink, width, [*caption, below, RESEARCH])
    canvas = Image.new("RGB", (width, max(shape[0], bar.height) + text.height), _BACKGROUND)
    canvas.paste(Image.fromarray(film), (0, 0))
    canvas.paste(bar, (shape[1], 0))
    canvas.paste(text, (0, canvas.height - text.height))
    if scores is not None and highest is not None:
        _label(canvas, ink, highest, shape, f"{scores.max():.4g}")
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
    boxes: NDArray[np.float64],
    marked: NDArray[np.bool_] | None = None,
) -> NDArray[np.uint8]:
    """What lies over the film, drawn at ``shape``: (rows, columns) uint8 indices of the palette.

    Arguments are those of :func:`overlay`; 0 is transparent, :data:`OUTLINE` runs along the inner
    edge of what is ``marked``, or else of the union of ``boxes``.
    """
    if heatmap.values.shape != radiograph.shape:
        raise ImageError(
            f"the heatmap has {heatmap.values.shape} pixels (row, col), the image "
            f"{radiograph.shape}: it belongs to another image, screen this one again"
        )
    index = levels(_resampled(heatmap.values, shape), display_range)
    if marked is None:
        union = _union(_pixels(boxes, radiograph.shape, shape), shape)
    else:
        union = _resampled(marked.astype(np.float32), shape) >= 0.5
    index[_inner_edge(union, _thickness(shape))] = OUTLINE
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


def _pixels(
    boxes: NDArray[np.float64], source: tuple[int, int], shape: tuple[int, int]
) -> NDArray[np.int64]:
    """Boxes of the source as (first row, first col, end row, end col) at ``shape``: (K, 4)."""
    edges = np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]])
    pixels: NDArray[np.int64] = np.rint(edges * np.tile(np.divide(shape, source), 2)).astype(int)
    return np.clip(pixels, 0, np.tile(shape, 2))


def _union(edges: NDArray[np.int64], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """The pixels (rows, columns) bool of boxes."""
    union = np.zeros(shape, np.bool_)
    for r0, c0, r1, c1 in edges:
        union[r0:r1, c0:c1] = True
    return union


def _inner_edge(union: NDArray[np.bool_], thickness: int) -> NDArray[np.bool_]:
    """The pixels of ``union`` (rows, columns) bool that lie on its edge."""
    if not union.any():
        return union
    inner: NDArray[np.bool_] = ndimage.binary_erosion(union, np.ones((3, 3), bool), thickness)
    return union & ~inner


def _named(count: int, dense: bool) -> str:
    one, many = ("region", "regions") if dense else ("patch", "patches")
    return many if count > 1 else one


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
    ink: _Ink, height: int, unit: str, display_range: tuple[float, float], threshold: float
) -> Image.Image:
    """The colour scale with ticks and the threshold, at least ``height`` pixels high.

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

    mark = float(np.clip(place(threshold), top, top + length - 1))
    taken: list[float] = []
    outside = " ↑" if threshold > high else " ↓" if threshold < low else ""
    draw.line([ink.advance, mark, right + ink.advance, mark], _OUTLINE_COLOUR, ink.line // 8 + 1)
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
    canvas: Image.Image, ink: _Ink, box: NDArray[np.int64], shape: tuple[int, int], text: str
) -> None:
    """Write ``text`` over a box (first row, first col, end row, end col), or under it, or in it."""
    height, width = ink.line, ink.advance * (len(text) + 1)
    if width > shape[1] or 4 * height > shape[0]:
        return  # a film too small for it
    row, col = int(box[0]) - height, min(int(box[1]), shape[1] - width)
    if row < 0:
        row = int(box[2])
    if row + height > shape[0]:  # the box fills the film
        row = int(box[0])
    draw = ImageDraw.Draw(canvas)
    draw.rectangle((col, row, col + width - 1, row + height - 1), _BACKGROUND)
    middle = col + width / 2, row + height / 2
    draw.text(middle, text, _OUTLINE_COLOUR, ink.font, anchor="mm")
