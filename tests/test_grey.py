import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from patchad.errors import ImageError, NotARadiographError, RequestError
from patchad.prepare.preprocess import Preprocessing
from patchad.read.grey import Reading, check_levels, depth_note, depth_of, divided
from patchad.read.raster import read_raster
from patchad.read.read import read_radiograph


@pytest.fixture
def path(tmp_path):
    return tmp_path / "film"


# --- depth ---------------------------------------------------------------------------------------

WRITERS = {
    "png": lambda path, pixels: path.write_bytes(imagecodecs.png_encode(pixels)),
    "tiff": tifffile.imwrite,
    "pgm": lambda path, pixels: path.write_bytes(
        b"P5 %d %d 65535\n" % pixels.shape[::-1] + pixels.astype(">u2").tobytes()
    ),
    "text": lambda path, pixels: path.write_bytes(
        b"P2 %d %d 65535\n" % pixels.shape[::-1] + b" ".join(b"%d" % n for n in pixels.ravel())
    ),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
@pytest.mark.parametrize(
    ("highest", "bits"),
    [(255, 8), (256, 10), (1023, 10), (1024, 12), (4095, 12), (4096, 14), (16383, 14), (16384, 16)],
)
def test_a_16_bit_file_is_as_deep_as_its_highest_value_needs(path, write, highest, bits):
    write(path, np.array([[0, 100, highest]], np.uint16))
    radiograph = read_raster(path)
    expected = np.array([[0, 100, highest]]) / (2**bits - 1)
    np.testing.assert_allclose(radiograph.pixels, expected, rtol=1e-6)
    assert radiograph.source.guessed_bits == bits
    said = f"depth guessed: {bits} bits, by the highest value {highest} in a 16-bit file"
    told = [caution for caution in radiograph.source.cautions if caution.startswith(said)]
    assert len(told) == (bits < 16)
    assert any("--bits" in caution for caution in told) == (bits < 16)
    noted = [note for note in radiograph.source.reading if note.startswith("depth:")]
    assert len(noted) == (bits < 16)


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_what_the_user_says_of_the_depth_is_used_and_no_guess(path, write):
    write(path, np.array([[0, 512, 1023]], np.uint16))  # would be taken for 10 bits
    radiograph = read_raster(path, bits=12)
    np.testing.assert_allclose(radiograph.pixels, [[0, 512 / 4095, 1023 / 4095]], rtol=1e-6)
    assert (radiograph.source.cautions, radiograph.source.guessed_bits) == ((), None)
    assert "depth: 12 bits, given by the user" in radiograph.source.reading
    write(path, np.array([[0, 5000]], np.uint16))
    with pytest.raises(
        ImageError, match="has the value 5000, more than the 4095 of 12 bits: use --bits 14"
    ):
        read_raster(path, bits=12)


def test_files_that_say_their_depth_are_believed(path):
    path.write_bytes(imagecodecs.png_encode(np.array([[0, 100]], np.uint8)))
    assert read_raster(path, bits=12).pixels.max() == np.float32(100 / 255)
    path.write_bytes(b"P5 1 1 4095\n\0\x64")
    assert read_raster(path, bits=10).pixels.max() == np.float32(100 / 4095)
    path.write_bytes(imagecodecs.jpeg8_encode(np.full((16, 16), 900, np.uint16), bitspersample=12))
    radiograph = read_raster(path)
    np.testing.assert_allclose(radiograph.pixels, 900 / 4095, atol=2 / 4095)
    assert (radiograph.source.cautions, radiograph.source.guessed_bits) == ((), None)


def test_miniswhite_of_twelve_bits_is_turned_over_within_them(path):
    tifffile.imwrite(path, np.array([[0, 4095]], np.uint16), photometric="miniswhite")
    np.testing.assert_allclose(read_raster(path).pixels, [[1, 0]])


@given(st.integers(0, 65535))
def test_the_depth_is_the_least_that_holds_the_highest(highest):
    bits = depth_of(highest, Reading())
    assert highest < 2**bits
    assert all(highest >= 2**less for less in (8, 10, 12, 14, 16) if less < bits)


@pytest.mark.parametrize("bits", [0, 7, 17])
def test_a_depth_that_cannot_be_is_a_wrong_request(bits):
    with pytest.raises(RequestError, match="8 to 16"):
        Preprocessing(bits=bits)


def test_guesses_that_differ_are_told():
    assert depth_note([None, 12, 12, None]) == depth_note([]) == ()
    (note,) = depth_note([12, None, 10, 12])
    assert "differ: 10 bits in 1, 12 bits in 2." in note


@given(st.integers(1, 65535), st.data())
def test_division_gives_the_nearest_float(full, data):
    values = np.array([[data.draw(st.integers(0, full)), full]])
    exact = (values / np.float64(full)).astype(np.float32)
    np.testing.assert_array_equal(divided(values, full, Reading()), exact)


# --- levels --------------------------------------------------------------------------------------


def levels(count, shape=(40, 40)):
    """An image of so many grey levels, the rarest of them in one pixel."""
    pixels = np.zeros(shape, np.float32)
    pixels.ravel()[-count:] = np.arange(count) / count
    return pixels


@pytest.mark.parametrize("count", [2, 4, 15])
def test_a_handful_of_grey_levels_is_no_film(count):
    with pytest.raises(NotARadiographError, match=f"an image of {count} grey levels"):
        check_levels(levels(count))


def test_what_is_not_a_label_map():
    check_levels(levels(16))
    check_levels(np.full((40, 40), 0.5, np.float32))  # what is wrong with it is said elsewhere
    check_levels(levels(2, (15, 15)))  # too small to tell
    check_levels(levels(16, (2000, 2000)))


@pytest.mark.parametrize("write", [*WRITERS.values()][:2], ids=[*WRITERS][:2])
def test_label_masks_are_skipped_in_every_format(path, write):
    mask = np.zeros((64, 64), np.uint8)
    mask[10:20, 10:20], mask[30:40, 30:40], mask[50:, 50:] = 1, 2, 255
    write(path, mask)
    with pytest.raises(NotARadiographError, match="an image of 4 grey levels"):
        read_radiograph(path)
