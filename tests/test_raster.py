import contextlib
import io
import struct
import tarfile
import zlib

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from patchad.errors import ImageError, NotARadiographError
from patchad.read.raster import format_of, read_raster

GREY8 = np.array([[0, 1, 128], [254, 255, 51]], np.uint8)
GREY16 = np.array([[0, 1, 4095], [4096, 65535, 13107]], np.uint16)
FLOAT = np.array([[0, 0.25, 0.5], [0.75, 1, 1e-3]], np.float32)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "film"


def png(path, pixels):
    path.write_bytes(imagecodecs.png_encode(pixels))
    return path


def tiff(path, pixels, **options):
    tifffile.imwrite(path, pixels, **options)
    return path


# --- values --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("pixels", "full"), [(GREY8, 255), (GREY16, 65535)])
@pytest.mark.parametrize("write", [png, tiff])
def test_integers_are_scaled_by_the_range_of_their_type(path, write, pixels, full):
    radiograph = read_raster(write(path, pixels))
    np.testing.assert_allclose(radiograph.pixels, pixels / full, rtol=1e-6)
    assert f"scale: 0 to {full} became 0 to 1" in radiograph.source.reading
    assert radiograph.spacing_mm is None


def test_sixteen_bits_keep_every_grey_value(path):
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    for write in (png, tiff):
        assert len(np.unique(read_raster(write(path, ramp)).pixels)) == 65536


def test_jpeg_of_eight_and_twelve_bits(path):
    path.write_bytes(imagecodecs.jpeg8_encode(np.full((16, 16), 100, np.uint8), level=100))
    np.testing.assert_allclose(read_raster(path).pixels, 100 / 255, atol=1.5 / 255)
    twelve = imagecodecs.jpeg8_encode(np.full((16, 16), 1000, np.uint16), 100, bitspersample=12)
    path.write_bytes(twelve)
    np.testing.assert_allclose(read_raster(path).pixels, 1000 / 4095, atol=1.5 / 4095)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"P5 2 1 255\n\x00\xff", [[0, 1]]),
        (b"P5\n# a film\n2 1\n# largest\n255\n\x00\x33", [[0, 0.2]]),
        (b"P5 2 1 100\n\x00\x32", [[0, 0.5]]),
        (b"P5 2 1 1000\n\x00\x00\x01\xf4", [[0, 0.5]]),
        (b"P5 1 2 65535\n\xff\xff\x33\x33", [[1], [0.2]]),
        (b"P5 2 1 255\n\n\x20", [[10 / 255, 32 / 255]]),  # pixels that look like white space
        (b"P2 2 1 4095\n4095\n 819", [[1, 0.2]]),
        (b"P2 # a film\n2 1 10 # largest\n5 # half\n10", [[0.5, 1]]),
    ],
)
def test_graymaps_of_any_largest_value(path, content, expected):
    path.write_bytes(content)
    np.testing.assert_allclose(read_raster(path).pixels, expected, rtol=1e-6)


@pytest.mark.parametrize("options", [{}, {"tile": (16, 16), "compression": "zlib"}])
@pytest.mark.parametrize("pixels", [GREY8, GREY16, FLOAT], ids=["8", "16", "float"])
def test_tiff_stripped_and_tiled(path, pixels, options):
    big = np.tile(pixels, (20, 30))
    full = 1 if pixels is FLOAT else np.iinfo(pixels.dtype).max
    np.testing.assert_allclose(
        read_raster(tiff(path, big, **options)).pixels, big / full, rtol=1e-6
    )


def test_tiff_of_twelve_bits_has_its_own_range(path):
    packed = imagecodecs.packints_encode(np.array([4095, 819], np.uint16), 12)
    entries = [(256, 2), (257, 1), (258, 12), (259, 1), (262, 1), (273, 200), (277, 1), (278, 1)]
    entries.append((279, len(packed)))
    header = struct.pack("<2sHIH", b"II", 42, 8, len(entries))
    header += b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    path.write_bytes((header + b"\0" * 4).ljust(200, b"\0") + packed)
    np.testing.assert_allclose(read_raster(path).pixels, [[1, 0.2]], rtol=1e-6)


@pytest.mark.parametrize("pixels", [GREY8, GREY16, FLOAT], ids=["8", "16", "float"])
def test_miniswhite_is_turned_over(path, pixels):
    full = 1 if pixels is FLOAT else np.iinfo(pixels.dtype).max
    radiograph = read_raster(tiff(path, pixels, photometric="miniswhite"))
    np.testing.assert_allclose(radiograph.pixels, 1 - pixels / full, atol=1e-6)
    assert "MINISWHITE: inverted" in radiograph.source.reading


@pytest.mark.parametrize("pixels", [GREY8, GREY16], ids=["8", "16"])
def test_grey_stored_as_colour_is_grey_at_its_full_depth(path, pixels):
    full = np.iinfo(pixels.dtype).max
    opaque = np.full_like(pixels, full)
    for stack in ([pixels, opaque], [pixels] * 3, [pixels] * 3 + [opaque]):
        radiograph = read_raster(png(path, np.dstack(stack)))
        np.testing.assert_allclose(radiograph.pixels, pixels / full, rtol=1e-6)
        assert f"grey, stored in {len(stack)} channels" in radiograph.source.reading
    for planar in ("contig", "separate"):
        stack = np.dstack([pixels] * 3) if planar == "contig" else np.stack([pixels] * 3)
        tiff(path, stack, photometric="rgb", planarconfig=planar)
        np.testing.assert_allclose(read_raster(path).pixels, pixels / full, rtol=1e-6)


def test_a_reduced_copy_beside_the_image_is_passed_over(path):
    with tifffile.TiffWriter(path) as writer:
        writer.write(GREY16, metadata=None)
        writer.write(GREY16[:1, :1], subfiletype=1, metadata=None)
    np.testing.assert_allclose(read_raster(path).pixels, GREY16 / 65535, rtol=1e-6)


def test_the_spacing_is_the_given_one_and_never_that_of_resolution_tags(path):
    tiff(path, GREY16, resolution=(100, 100), resolutionunit="CENTIMETER")
    assert read_raster(path).spacing_mm is None
    radiograph = read_raster(path, (0.2, 0.1))
    assert radiograph.spacing_mm == (0.2, 0.1)
    assert "spacing: given by the user" in radiograph.source.reading


def test_the_digest_is_of_pixels_and_shape(path):
    first = read_raster(png(path, GREY8)).source.digest
    assert read_raster(tiff(path, GREY8)).source.digest == first
    assert read_raster(png(path, GREY8.reshape(3, 2))).source.digest != first


# --- what is refused -----------------------------------------------------------------------------


def with_pillow(mode, **options):
    def write(path):
        Image.fromarray(GREY8).convert(mode).save(path, "PNG", **options)

    return write


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: png(path, np.dstack([GREY8, GREY8, 255 - GREY8])), "a colour image"),
        (lambda path: png(path, np.dstack([GREY8, GREY8])), "transparent"),
        (with_pillow("P"), "a palette"),
        (with_pillow("1"), "1 bit a pixel"),
        (lambda path: path.write_bytes(b"P4 8 1\n\xff"), "bitmap"),
        (lambda path: path.write_bytes(b"P6 1 1 255\n\1\2\3"), "pixmap"),
        (lambda path: path.write_bytes(b"P5 1 1 1\n\1"), "two grey levels"),
        (lambda path: path.write_bytes(b"P5 1 1 255\n\1P5 1 1 255\n\1"), "several images"),
        (lambda path: tiff(path, np.stack([GREY8] * 2), photometric="minisblack"), "2 pages"),
        (lambda path: tiff(path, GREY8 > 3), "1 bit a pixel"),
        (
            lambda path: tiff(
                path, GREY8, photometric="palette", colormap=np.zeros((3, 256), np.uint16)
            ),
            "PALETTE",
        ),
        (
            lambda path: path.write_bytes(
                imagecodecs.jpeg8_encode(np.dstack([GREY8, GREY8, 255 - GREY8]), level=100)
            ),
            "a colour image",
        ),
        (
            lambda path: Image.fromarray(GREY8).convert("CMYK").save(path, "JPEG"),
            "a JPEG of 4 colours",
        ),
        (
            lambda path: Image.fromarray(GREY8).save(
                path, "PNG", save_all=True, append_images=[Image.fromarray(255 - GREY8)]
            ),
            "animated",
        ),
    ],
)
def test_other_pictures_are_no_radiographs(path, write, message):
    write(path)
    with pytest.raises(NotARadiographError, match=message):
        read_raster(path)


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.array([[0.5, np.nan]], np.float32), "NaN or infinite"),
        (np.array([[0.5, np.inf]], np.float32), "NaN or infinite"),
        (np.array([[0, 4095]], np.float32), r"these lie in \[0, 4095\]"),
        (np.array([[-0.1, 1]], np.float32), r"these lie in \[-0.1, 1\]"),
        (np.array([[-1, 1]], np.int16), "the scale of int16"),
        (np.array([[0, 1]], np.uint32), "the scale of uint32"),
    ],
)
def test_tiff_values_without_a_scale_are_refused(path, pixels, message):
    with pytest.raises(ImageError, match=message) as caught:
        read_raster(tiff(path, pixels))
    assert not isinstance(caught.value, NotARadiographError)


@pytest.mark.parametrize(
    "content",
    [
        b"P5 2 2 255\n\1\2\3",
        b"P5 2 2 65535\n\1\2\3",
        b"P5 2 x",
        b"P5 1 1 70000\n\1\1\1",
        b"P5 1 1 0\n\0",
        b"P5 1 1 100\n\xff",
        b"P2 2 1 255\n1",
        b"P2 1 1 255\nred",
        b"P2 1 1 255\n99999999999999999999",
        b"P5 0 1 255\n",
    ],
)
def test_damaged_graymaps(path, content):
    path.write_bytes(content)
    with pytest.raises(ImageError, match=r"damaged|no pixels"):
        read_raster(path)


def noise():
    return np.random.default_rng(0).integers(0, 65536, (40, 50)).astype(np.uint16)


FILES = {
    "png": lambda path: png(path, noise()),
    "jpeg": lambda path: path.write_bytes(
        imagecodecs.jpeg8_encode((noise() >> 8).astype(np.uint8))
    ),
    "tiff": lambda path: tiff(path, noise()),
    "tiled": lambda path: tiff(path, noise(), tile=(16, 16), compression="zlib"),
    "lzw": lambda path: tiff(path, noise(), compression="lzw"),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_file_that_is_cut_off_is_an_error(path, kind):
    FILES[kind](path)
    whole = path.read_bytes()
    read_raster(path)
    for part in (0.02, 0.3, 0.6, 0.9):
        path.write_bytes(whole[: int(len(whole) * part)])
        with pytest.raises(ImageError):
            read_raster(path)


def test_a_changed_png_is_noticed_by_its_checksum(path):
    content = bytearray(png(path, noise()).read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(ImageError, match="the PNG image is damaged"):
        read_raster(path)


@pytest.mark.parametrize("kind", FILES)
@settings(max_examples=60)
@given(st.data())
def test_bytes_changed_anywhere_give_an_image_or_an_image_error(kind, tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / f"changed.{kind}"
    whole = path.with_suffix(f".{kind}.whole")
    if not whole.exists():
        FILES[kind](whole)
    content = bytearray(whole.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, min(len(content) - 1, 300)))] = data.draw(
            st.integers(0, 255)
        )
    path.write_bytes(content)
    with contextlib.suppress(ImageError):
        read_raster(path)


def huge_png(rows, columns):
    body = b"IHDR" + struct.pack(">IIBBBBB", columns, rows, 8, 0, 0, 0, 0)
    chunk = struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    return b"\x89PNG\r\n\x1a\n" + chunk + b"\0" * 20


@pytest.mark.parametrize(
    "content",
    [huge_png(30000, 30000), b"P5 30000 30000 255\n", b"P2 999999999 999999999 255\n"],
)
def test_a_bomb_is_refused_by_its_header(path, content):
    path.write_bytes(content)
    with pytest.raises(ImageError, match="more than the 100,000,000"):
        read_raster(path)


@pytest.mark.parametrize("kind", FILES)
def test_the_cap_holds_for_every_format(path, kind):
    FILES[kind](path)
    with pytest.raises(ImageError, match="40 × 50 pixels"):
        read_raster(path, max_pixels=1999)


@pytest.mark.parametrize("text", [b"P2 2 2 9\n1 2 3", b"P2 2 2 9\n1 2 3 4" + b" " * 70000])
def test_text_that_does_not_match_its_header(path, text):
    path.write_bytes(text)
    with pytest.raises(ImageError, match=r"holds 3 of 4 pixels|more than 12 characters a pixel"):
        read_raster(path)


def test_other_content_and_missing_files(tmp_path):
    (tmp_path / "a.png").write_bytes(b"hello")
    with pytest.raises(ImageError, match="neither PNG, JPEG, TIFF nor PGM"):
        read_raster(tmp_path / "a.png")
    with pytest.raises(ImageError, match="cannot be read: No such file"):
        read_raster(tmp_path / "b.png")


def test_formats_by_their_first_bytes():
    assert format_of(b"P5\n1 1") == "PNM"
    assert format_of(b"P5ABC") == ""
    assert format_of(b"MM\0*") == format_of(b"II+\0") == "TIFF"
    assert format_of(b"") == ""


# --- real files ----------------------------------------------------------------------------------


@pytest.mark.real
def test_chest_radiographs_of_the_nih(real_data):
    paths = sorted((real_data / "nih-cxr" / "images").glob("*.png"))[:4]
    assert paths
    for path in paths:
        radiograph = read_raster(path)
        assert radiograph.shape == (1024, 1024)
        grey = np.asarray(Image.open(path).convert("L"), np.float64) / 255
        np.testing.assert_allclose(radiograph.pixels, grey, atol=1e-6)


@pytest.mark.real
def test_films_of_mini_mias(real_data, path):
    with tarfile.open(real_data / "mini-mias" / "all-mias.tar.gz") as tar:
        for name in ("mdb001.pgm", "mdb002.pgm"):
            content = tar.extractfile(name).read()
            path.write_bytes(content)
            radiograph = read_raster(path, (0.2, 0.2))
            assert radiograph.shape == (1024, 1024)
            grey = np.asarray(Image.open(io.BytesIO(content)), np.float64) / 255
            np.testing.assert_allclose(radiograph.pixels, grey, atol=1e-6)
