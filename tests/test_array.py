from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import patchad
from patchad.errors import ImageError, MismatchError, RequestError
from patchad.read.array import radiograph_of
from patchad.read.read import read_radiograph

RAMP = np.arange(12).reshape(3, 4)


@pytest.mark.parametrize(
    ("array", "bits", "top"),
    [
        (RAMP.astype(np.uint8), None, 255),
        (RAMP.astype(np.uint8), 4, 15),
        (RAMP.astype(np.uint16), 12, 4095),
        (RAMP.astype(">u2"), 16, 65535),
        (RAMP.astype(np.uint32), 12, 4095),
        (RAMP / 16, None, 16),
        ((RAMP / 16).astype(np.float16), None, 16),
        (np.asfortranarray(RAMP.astype(np.float32) / 16)[:, ::-1], None, 16),
    ],
)
def test_values_are_shares_of_the_full_range(array, bits, top):
    found = radiograph_of(array, bits=bits, spacing_mm=(0.1, 0.2))
    expected = RAMP[:, ::-1] if array.strides[1] < 0 else RAMP
    np.testing.assert_allclose(found.pixels, expected / top, rtol=1e-6)
    assert found.spacing_mm == (0.1, 0.2)


def test_the_array_stays_its_owners():
    array = np.zeros((2, 2), np.float32)
    radiograph_of(array)
    array[0, 0] = 1  # neither frozen nor shared


def test_an_array_is_the_file_that_it_came_from(tmp_path: Path):
    array = np.random.default_rng(0).integers(0, 2**16, (5, 7), np.uint16)
    Image.fromarray(array).save(tmp_path / "a.png")
    file = read_radiograph(tmp_path / "a.png")
    held = radiograph_of(array, bits=16)
    np.testing.assert_array_equal(held.pixels, file.pixels)
    assert held.source.digest == file.source.digest


@pytest.mark.parametrize(
    ("array", "options", "said"),
    [
        (np.zeros((2, 2, 3)), {}, r"two axes, \(rows, columns\), got shape \(2, 2, 3\)"),
        (np.zeros((0, 2)), {}, r"got shape \(0, 2\)"),
        (RAMP, {}, "floats in .* or of unsigned integers, got int64"),
        (RAMP > 1, {}, "got bool"),
        (RAMP.astype(np.float32), {}, r"must lie in \[0, 1\], got \[0, 11\]"),
        (np.full((2, 2), np.nan), {}, r"must lie in \[0, 1\], got \[nan, nan\]"),
        (RAMP.astype(np.uint16), {}, "uint16 needs bits"),
        (RAMP.astype(np.uint16), {"bits": 3}, r"must lie in \[0, 7\], got \[0, 11\]"),
        (RAMP.astype(np.uint16), {"bits": 17}, r"bits lies in 1\.\.16 for uint16, got 17"),
        (RAMP / 16, {"bits": 12}, "bits is for arrays of unsigned integers"),
        (RAMP / 16, {"spacing_mm": (0.1, -1)}, "positive millimetres"),
    ],
)
def test_other_arrays_are_refused(array, options, said):
    with pytest.raises((ImageError, RequestError), match=said):
        radiograph_of(array, **options)


def test_an_array_is_screened_as_its_file_is(study):
    detector = patchad.load(study.model, "cpu")
    film = read_radiograph(next(study.folder.glob("P0007/*.dcm")))
    alone = patchad.screen(film, detector, allow_mismatch=True)
    held = np.array(film.pixels)
    found = patchad.screen(held, detector, spacing_mm=0.8, allow_mismatch=True)
    assert found.source.path == "array"
    assert found.heatmap.spacing_mm == (0.8, 0.8)
    assert found.score == pytest.approx(alone.score, rel=1e-5)
    np.testing.assert_allclose(found.heatmap.values, alone.heatmap.values, rtol=1e-4)
    with pytest.raises(MismatchError, match="pixel spacing unknown"):
        patchad.screen(held, detector)


@pytest.mark.parametrize(
    ("image", "options", "said"),
    [
        ([[0.1]], {}, "takes the path of an image, a NumPy array .* got list"),
        (radiograph_of(RAMP / 16), {"bits": 8}, "leave bits out"),
        (radiograph_of(RAMP / 16), {"spacing_mm": 0.1}, "has its own spacing_mm"),
        (RAMP / 16, {"stride": 99}, r"--stride lies in 1\.\.32"),
    ],
)
def test_what_cannot_be_screened_is_refused(study, image, options, said):
    detector = patchad.load(study.model, "cpu")
    with pytest.raises(RequestError, match=said):
        patchad.screen(image, detector, **options)
