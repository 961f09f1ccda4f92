"""TIFF: grey images in strips or tiles, classic and BigTIFF.

tifffile reads every tag of every page, in many dialects. Here it gets the same file with a single
directory of the tags that give the place and format of the pixels: everything else (other pages,
nested directories, vendors' tables) is never parsed.
"""

import io
import logging
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from patchad.errors import ImageError, NotARadiographError
from patchad.read.caps import check_size, damaged
from patchad.read.codecs import jpeg_frame
from patchad.read.grey import Reading, check_channels, check_scale, scaled, unscaled

# without a handler, tifffile's logs would appear on the terminal
logging.getLogger("tifffile").addHandler(logging.NullHandler())

_SUBFILE = 254  # NewSubfileType; its lowest bit marks a reduced copy
# ImageWidth to PhotometricInterpretation, FillOrder, StripOffsets, SamplesPerPixel to
# StripByteCounts, PlanarConfiguration, Predictor, TileWidth to TileByteCounts, ExtraSamples,
# SampleFormat, JPEGTables
_KEPT = frozenset(
    {256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 317, 322, 323, 324, 325, 338, 339, 347}
)
_WIDTHS = {1: 1, 2: 1, 3: 2, 4: 4, 6: 1, 7: 1, 8: 2, 9: 4, 16: 8, 17: 8}  # bytes, by type
_MOST_PAGES, _MOST_TAGS, _MOST_VALUES = 64, 4096, 2**20  # values: numbers of one directory
# Codecs that never write more than the given size. Others trust the size in the compressed data.
_COMPRESSIONS = {
    1: "none", 5: "LZW", 7: "JPEG", 8: "Deflate", 32946: "Deflate", 32773: "PackBits", 50000: "ZSTD"
}  # fmt: skip


@dataclass(frozen=True)
class _Layout:
    """How a file is written: byte order, and the struct formats of classic or BigTIFF."""

    order: str
    number: str  # of the number of tags in a directory
    offset: str
    first: int  # where the first directory's offset is stored

    @property
    def entry(self) -> struct.Struct:
        return struct.Struct(f"{self.order}HH{self.offset}{self.offset}")


def read_tiff(content: bytes, reading: Reading, max_pixels: int) -> NDArray[np.float32]:
    """Grey (H, W) float32 in [0, 1]; MINISWHITE is inverted, float must lie there already.

    Raises:
        NotARadiographError: colour, palette, transparency, several pages, 1 to 7 bits.
        ImageError: it is damaged, too large, or its values have no known scale.
    """
    try:
        with tifffile.TiffFile(_one_directory(content)) as file:
            page = file.pages[0].aspage()
            _check(page, content, max_pixels)
            samples: NDArray[Any] = page.asarray(maxworkers=1)
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # tifffile and its codecs may raise anything on a damaged file
        damaged("TIFF", str(error))
    samples = np.moveaxis(samples, 0, -1) if page.axes == "SYX" else samples
    if samples.shape[:2] != (page.imagelength, page.imagewidth):
        damaged("TIFF", f"pixels of shape {samples.shape}")
    if samples.dtype.kind == "f":
        pixels = unscaled(samples, reading)
    else:
        pixels = scaled(samples, int(page.bitspersample), reading)
    if page.photometric == 0:
        reading.notes.append("MINISWHITE: inverted")
        np.subtract(1, pixels, out=pixels)
    return pixels


def _check(page: tifffile.TiffPage, content: bytes, max_pixels: int) -> None:
    """Refuse images that aren't grey, or would take too much memory to decode."""
    rows, columns, channels = page.imagelength, page.imagewidth, page.samplesperpixel
    check_size(rows, columns, max_pixels)
    check_channels(channels)
    if page.photometric not in (0, 1, 2) or page.axes not in ("YX", "YXS", "SYX"):
        kind = getattr(page.photometric, "name", page.photometric)
        raise NotARadiographError(
            f"a TIFF with photometric interpretation {kind} and axes {page.axes}: patchad "
            "reads single grey images"
        )
    dtype = page.dtype
    if dtype is None:
        raise ImageError(
            "the TIFF stores samples of an unknown kind: save as unsigned 8- or 16-bit integers"
        )
    if dtype.kind != "f":
        check_scale(dtype, int(page.bitspersample))
    # A tile may be larger than the image; a strip is cut to it.
    tile = (page.tilelength, page.tilewidth) if page.is_tiled else (1, columns)
    for size in ((rows, columns), tile):
        check_size(*size, max_pixels, pixel_bytes=channels * dtype.itemsize)
    if page.compression not in _COMPRESSIONS:
        kind = getattr(page.compression, "name", page.compression)
        raise ImageError(
            f"the TIFF is compressed by {kind}, which is not read: save it with LZW, Deflate or "
            "uncompressed"
        )
    if _COMPRESSIONS[page.compression] == "JPEG":
        most = (tile[0] if page.is_tiled else min(page.rowsperstrip, rows), tile[1])
        for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True):
            frame = jpeg_frame(content[offset : offset + count])
            if frame.rows > most[0] or frame.columns > most[1]:
                damaged(
                    "TIFF",
                    f"a part of {most[0]} × {most[1]} pixels holds {frame.rows} × {frame.columns}",
                )


def _one_directory(content: bytes) -> io.BytesIO:
    """The file with only the directory of its one image, and in it only the tags needed."""
    try:
        layout, first = _layout(content)
        pages = [*_directories(content, layout, first)]
    except struct.error:
        damaged("TIFF", "its directory is cut off")
    found = [tags for tags in pages if not _reduced(tags, layout)] or pages[:1]
    if not found:
        damaged("TIFF", "it has no directory")
    if len(found) > 1:
        raise NotARadiographError(
            f"a TIFF of {len(found)} pages: patchad reads single images; save each page as a file"
        )
    kept = {tag: entry for tag, entry in found[0].items() if tag in _KEPT}
    values = sum(layout.entry.unpack(entry)[2] for entry in kept.values())
    if values > _MOST_VALUES:
        damaged("TIFF", f"its directory claims {values:,} values")
    start = len(content) + len(content) % 2  # directories begin at even bytes
    changed = io.BytesIO(content)
    changed.seek(start)
    changed.write(struct.pack(layout.order + layout.number, len(kept)))
    changed.write(b"".join(kept[tag] for tag in sorted(kept)))
    changed.write(struct.pack(layout.order + layout.offset, 0))
    changed.seek(layout.first)
    changed.write(struct.pack(layout.order + layout.offset, start))
    changed.seek(0)
    return changed


def _layout(content: bytes) -> tuple[_Layout, int]:
    """The layout of a file, and where its first directory begins."""
    order = "<" if content[:1] == b"I" else ">"
    (version,) = struct.unpack_from(order + "H", content, 2)
    layout = _Layout(order, "H", "I", 4) if version == 42 else _Layout(order, "Q", "Q", 8)
    return layout, struct.unpack_from(order + layout.offset, content, layout.first)[0]


def _directories(content: bytes, layout: _Layout, start: int) -> Iterator[dict[int, bytes]]:
    """The raw entries of each directory, by tag."""
    number, size = struct.Struct(layout.order + layout.number), layout.entry.size
    seen = set[int]()
    while start and start not in seen:
        seen.add(start)
        if len(seen) > _MOST_PAGES:
            raise NotARadiographError(
                f"a TIFF of more than {_MOST_PAGES} pages: patchad reads single images"
            )
        (count,) = number.unpack_from(content, start)
        if count > _MOST_TAGS:
            damaged("TIFF", f"its directory claims {count} tags")
        begin = start + number.size
        (following,) = struct.unpack_from(
            layout.order + layout.offset, content, begin + count * size
        )
        entries = [content[begin + n * size : begin + (n + 1) * size] for n in range(count)]
        yield {layout.entry.unpack(entry)[0]: entry for entry in entries}
        start = following


def _reduced(tags: dict[int, bytes], layout: _Layout) -> bool:
    """Whether a directory describes a reduced copy of another image."""
    if _SUBFILE not in tags:
        return False
    kind = _WIDTHS.get(layout.entry.unpack(tags[_SUBFILE])[1], 4)
    offset = layout.entry.size - struct.calcsize(layout.offset)
    end = offset + min(kind, struct.calcsize(layout.offset))
    value = tags[_SUBFILE][offset:end]
    return bool(int.from_bytes(value, "little" if layout.order == "<" else "big") & 1)
