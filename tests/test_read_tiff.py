"""How TIFF is laid out: what of it is parsed, and what isn't."""

import struct

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from patchad.errors import ImageError, NotARadiographError
from patchad.read.raster import read_raster

GREY = np.random.default_rng(0).integers(0, 256, (37, 53)).astype(np.uint8)
DEEP = np.random.default_rng(1).integers(0, 65536, (37, 53)).astype(np.uint16)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "film.tif"


@settings(max_examples=40)
@given(
    dtype=st.sampled_from(["u1", "u2", "f4", "f8", "f2"]),
    options=st.fixed_dictionaries(
        {
            "compression": st.sampled_from([None, "lzw", "deflate", "packbits", "zstd"]),
            "byteorder": st.sampled_from("<>"),
            "bigtiff": st.booleans(),
        },
        optional={
            "tile": st.sampled_from([(16, 16), (64, 128)]),
            "rowsperstrip": st.integers(1, 60),
            "description": st.just("x" * 5000),
        },
    ),
    predictor=st.booleans(),
)
def test_every_layout_gives_the_same_pixels(tmp_path_factory, dtype, options, predictor):
    path = tmp_path_factory.getbasetemp() / "layout.tif"
    pixels = {"u1": GREY, "u2": DEEP}.get(dtype, (DEEP / 65535).astype(dtype))
    if "tile" in options:
        options.pop("rowsperstrip", None)
    if options["compression"] in ("lzw", "deflate", "zstd") and dtype != "f2":
        options["predictor"] = predictor
    tifffile.imwrite(path, pixels, **options)
    full = {"u1": 255, "u2": 65535}.get(dtype, 1)
    expected = (pixels.astype(np.float64) / full).astype(np.float32)
    np.testing.assert_array_equal(read_raster(path).pixels, expected)


def test_jpeg_in_tiff(path):
    smooth = np.add.outer(np.arange(64), np.arange(64)).astype(np.uint8)
    for layout in ({"rowsperstrip": 16}, {"tile": (32, 32)}):
        tifffile.imwrite(path, smooth, compression="jpeg", compressionargs={"level": 95}, **layout)
        np.testing.assert_allclose(read_raster(path).pixels, smooth / 255, atol=4 / 255)


def test_a_codec_that_trusts_its_data_is_named(path):
    tifffile.imwrite(path, GREY, compression="jpeg2000")
    with pytest.raises(ImageError, match=r"compressed by .*2000.*: save it with LZW, Deflate or"):
        read_raster(path)


def test_a_vendors_tables_are_not_parsed(path):
    """The dialects that tifffile knows by their tags: a damaged one is as good as none."""
    for tag in (34412, 33628, 50838, 51123, 34665, 330):  # LSM, STK, ImageJ, MicroManager, Exif …
        tifffile.imwrite(path, GREY, metadata=None, extratags=[(tag, 4, 3, (1, 2, 3), True)])
        np.testing.assert_allclose(read_raster(path).pixels, GREY / 255, rtol=1e-6)


def test_pages_are_counted_and_loops_end(path):
    with tifffile.TiffWriter(path) as writer:
        for _ in range(3):
            writer.write(GREY, metadata=None)
    with pytest.raises(NotARadiographError, match="a TIFF of 3 pages"):
        read_raster(path)
    with tifffile.TiffWriter(path) as writer:
        for _ in range(70):
            writer.write(GREY[:2, :2], metadata=None)
    with pytest.raises(NotARadiographError, match="a TIFF of more than 64 pages"):
        read_raster(path)
    tifffile.imwrite(path, GREY, metadata=None)
    content = bytearray(path.read_bytes())
    (first,) = struct.unpack_from("<I", content, 4)
    (count,) = struct.unpack_from("<H", content, first)
    struct.pack_into("<I", content, first + 2 + 12 * count, first)  # it is followed by itself
    path.write_bytes(content)
    np.testing.assert_allclose(read_raster(path).pixels, GREY / 255, rtol=1e-6)


@pytest.mark.parametrize("bigtiff", [False, True])
@pytest.mark.parametrize("byteorder", "<>")
def test_reduced_copies_are_told_in_every_layout(path, byteorder, bigtiff):
    with tifffile.TiffWriter(path, byteorder=byteorder, bigtiff=bigtiff) as writer:
        writer.write(GREY[::4, ::4], subfiletype=1, metadata=None)
        writer.write(GREY, metadata=None)
    np.testing.assert_allclose(read_raster(path).pixels, GREY / 255, rtol=1e-6)
    with tifffile.TiffWriter(path, byteorder=byteorder, bigtiff=bigtiff) as writer:
        writer.write(GREY, subfiletype=1, metadata=None)  # the only one there is
    np.testing.assert_allclose(read_raster(path).pixels, GREY / 255, rtol=1e-6)


def test_a_strip_that_holds_another_size_is_refused(path):
    tifffile.imwrite(path, GREY, compression="deflate", metadata=None)
    packed = imagecodecs.zlib_encode(bytes(GREY.size * 2))
    content = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        entry = file.pages[0].tags[279].offset + 8
        struct.pack_into("<I", content, file.pages[0].tags[273].offset + 8, len(content))
    struct.pack_into("<I", content, entry, len(packed))
    path.write_bytes(content + packed)
    with pytest.raises(ImageError, match="the TIFF image is damaged"):
        read_raster(path)
