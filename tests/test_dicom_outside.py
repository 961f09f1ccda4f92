import numpy as np
import pytest
from dicom_files import write

from patchad.errors import ImageError
from patchad.prepare.foreground import find_foreground
from patchad.prepare.preprocess import Preprocessing, prepare
from patchad.read.dicom import read_dicom

ROWS, COLUMNS = 8, 10
RISING = np.arange(80, dtype=np.uint16).reshape(ROWS, COLUMNS)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "film.dcm"


def outside(path, stored=RISING, **elements):
    return read_dicom(write(path, stored, **elements)).outside


def rectangle(kind, left, right, upper, lower):
    return {
        f"{kind}Shape": "RECTANGULAR",
        f"{kind}LeftVerticalEdge": left,
        f"{kind}RightVerticalEdge": right,
        f"{kind}UpperHorizontalEdge": upper,
        f"{kind}LowerHorizontalEdge": lower,
    }


def test_an_ordinary_film_is_film_throughout(path):
    assert outside(path) is None


def test_the_padding_value_alone_and_up_to_its_limit(path):
    mask = outside(path, PixelPaddingValue=3)
    np.testing.assert_array_equal(mask, RISING == 3)
    for ends in ((3, 7), (7, 3)):
        mask = outside(path, PixelPaddingValue=ends[0], PixelPaddingRangeLimit=ends[1])
        np.testing.assert_array_equal(mask, (RISING >= 3) & (RISING <= 7))
    assert "padding: 6.2% of the image left out" in read_dicom(path).source.reading


def test_padding_of_signed_pixels(path):
    stored = (RISING.astype(np.int16) - 2048).astype(np.int16)
    mask = outside(path, stored, PixelPaddingValue=-2048)
    np.testing.assert_array_equal(mask, stored == -2048)


def test_a_padding_value_beyond_the_stored_bits_is_not_taken_for_white(path):
    stored = RISING.copy()
    stored[0] = 4095
    assert outside(path, stored, PixelPaddingValue=65535) is None
    assert any("outside of the stored bits" in note for note in read_dicom(path).source.reading)


def test_nothing_but_padding_is_an_error(path):
    write(path, np.full((4, 4), 7, np.uint16), PixelPaddingValue=7)
    with pytest.raises(ImageError, match="every pixel is padding"):
        read_dicom(path)


@pytest.mark.parametrize("kind", ["Shutter", "Collimator"])
def test_rectangles_count_from_one_and_keep_their_edges(path, kind):
    mask = outside(path, **rectangle(kind, 3, 9, 2, 7))
    expected = np.ones((ROWS, COLUMNS), bool)
    expected[1:7, 2:9] = False
    np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize("kind", ["Shutter", "Collimator"])
def test_circles_and_polygons(path, kind):
    circle = {f"CenterOfCircular{kind}": [4, 5], f"RadiusOfCircular{kind}": 3}
    mask = outside(path, **{f"{kind}Shape": "CIRCULAR"}, **circle)
    row, col = np.ogrid[1 : ROWS + 1, 1 : COLUMNS + 1]
    np.testing.assert_array_equal(mask, np.hypot(row - 4, col - 5) > 3)
    # a rectangle as a polygon: corners (row, column)
    corners = [2, 3, 2, 9, 7, 9, 7, 3]
    mask = outside(path, **{f"{kind}Shape": "POLYGONAL", f"VerticesOfThePolygonal{kind}": corners})
    expected = np.ones((ROWS, COLUMNS), bool)
    expected[1:7, 2:9] = False
    np.testing.assert_array_equal(mask, expected)


def test_several_shapes_leave_what_all_of_them_leave(path):
    elements = rectangle("Shutter", 1, 5, 1, 8)
    elements["ShutterShape"] = ["RECTANGULAR", "CIRCULAR"]
    mask = outside(path, **elements, CenterOfCircularShutter=[4, 5], RadiusOfCircularShutter=3)
    row, col = np.ogrid[1 : ROWS + 1, 1 : COLUMNS + 1]
    np.testing.assert_array_equal(mask, (np.hypot(row - 4, col - 5) > 3) | (col > 5))


@pytest.mark.parametrize(
    ("elements", "note"),
    [
        ({"ShutterShape": "CIRCULAR"}, "shutter: not used, its numbers"),
        ({"ShutterShape": "STAR"}, "shutter: not used, its numbers"),
        (rectangle("Collimator", 9, 3, 2, 7), "collimator: not used, its numbers"),
        (rectangle("Collimator", 90, 93, 2, 7), "collimator: not used, it leaves nothing"),
        (
            {"ShutterShape": "POLYGONAL", "VerticesOfThePolygonalShutter": [1, 2, 3]},
            "shutter: not used, its numbers",
        ),
    ],
)
def test_covers_that_cannot_be_are_not_used_and_said(path, elements, note):
    radiograph = read_dicom(write(path, RISING, **elements))
    assert radiograph.outside is None
    assert any(note in said for said in radiograph.source.reading)


def test_what_lies_outside_is_no_foreground_and_pulls_at_nothing(path):
    # a chest whose left third is white padding
    stored = np.random.default_rng(0).integers(1500, 2500, (120, 90)).astype(np.uint16)
    stored[:, :30] = 4095
    radiograph = read_dicom(write(path, stored, PixelPaddingValue=4095, Modality="DX"))
    foreground = find_foreground(radiograph, "chest")
    assert not foreground.mask[:, :30].any()
    assert foreground.mask[:, 32:].all()
    prepared = prepare(radiograph, Preprocessing(body_part="chest"))
    assert prepared.pixels.max() < 0.7  # no white, not beside the body either
