import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from patchad.core.grid import PatchGrid
from patchad.core.image import Foreground
from patchad.errors import ModelError, TrainingError
from patchad.methods.parts.chest_frame import (
    SIDE,
    Registered,
    Registration,
    _fit,
    find_lungs,
    fit_registration,
    pool_patches,
    shrink,
)
from patchad.phantoms.phantom import chest
from patchad.prepare.preprocess import Prepared
from patchad.prepare.resize import resize

SHAPE = (192, 160)


def film(seed, shape=SHAPE):
    phantom = chest(np.random.default_rng(seed), shape=shape, spacing_mm=0.42 * 1024 / shape[0])
    return Prepared(phantom.pixels, Foreground(phantom.foreground, "", 0.0), 0.5, None)


def moved(image, scale, shift):
    """The film seen through ``scale`` · t + ``shift`` in each direction, edges repeated."""
    values = image.pixels
    for axis in (0, 1):
        n = values.shape[axis]
        frame = ((np.arange(n) + 0.5) / n * 2 - 1) * scale[axis] + shift[axis]
        at = ((frame + 1) * n / 2 - 0.5).clip(0, n - 1)
        values = np.apply_along_axis(
            lambda line, at=at, n=n: np.interp(at, np.arange(n), line), axis, values
        )
    mask = np.ones(values.shape, bool)
    return Prepared(values.astype(np.float32), Foreground(mask, "", 0.0), 0.5, None)


@pytest.fixture(scope="module")
def registration():
    torch.set_num_threads(1)
    return _fit([shrink(film(seed)) for seed in range(8)])[0]


@pytest.mark.parametrize(
    ("scale", "shift"), [((1.0, 1.0), (0.12, -0.1)), ((1.12, 0.92), (0.0, 0.05))]
)
def test_a_moved_film_registers_back_within_two_pixels_at_64(registration, scale, shift):
    still = registration.register(film(30)).affine
    found = registration.register(moved(film(30), scale, shift)).affine
    # The moved film holds at t what the film holds at scale · t + shift, so that the way into the
    # moved one and then into the film is the way into the film.
    for axis in (0, 1):
        t = np.array([-0.6, 0.0, 0.6])  # where the lungs' sides are, and the middle
        through = scale[axis] * (found[axis] * t + found[2 + axis]) + shift[axis]
        direct = still[axis] * t + still[2 + axis]
        assert np.abs(through - direct).max() * 32 < 2  # the frame's half is 32 pixels at 64


def test_brightness_and_contrast_make_no_difference(registration):
    image = film(31)
    other = Prepared(0.2 + 0.5 * image.pixels, image.foreground, 0.5, None)
    one, two = (registration.register(x) for x in (image, other))
    assert np.allclose(one.pixels, two.pixels, atol=1e-3)
    assert np.allclose(one.affine, two.affine, atol=1e-3)


def test_a_bright_square_goes_to_the_frame_and_back_to_where_it_was():
    pixels = np.zeros((120, 100), np.float32)
    pixels[40:52, 60:70] = 1
    image = Prepared(pixels, Foreground(np.ones(pixels.shape, bool), "", 0.0), 0.5, None)
    affine = (1.2, 0.8, 0.1, -0.05)
    # In the frame, the square's edges e lie at (e' - shift) / scale, e' from -1 to 1.
    frame = np.zeros((SIDE, SIDE), np.float32)
    edges = []
    for axis, (low, high, n) in enumerate(((40, 52, 120), (60, 70, 100))):
        ends = (np.array([low, high]) / n * 2 - 1 - affine[2 + axis]) / affine[axis]
        edges.append(np.rint((ends + 1) / 2 * SIDE).astype(int))
    frame[edges[0][0] : edges[0][1], edges[1][0] : edges[1][1]] = 1
    back = Registered(frame, frame > 0, affine).to_film(frame, (120, 100))
    rows, cols = np.nonzero(back > 0.5)
    assert (rows.min(), rows.max() + 1) == (40, 52)
    assert (cols.min(), cols.max() + 1) == (60, 70)
    assert image.pixels[back > 0.5].all()


def test_the_identity_brings_cells_to_their_pixels():
    cells = np.arange(16, dtype=np.float32).reshape(4, 4)
    same = Registered(np.zeros((SIDE, SIDE), np.float32), np.ones((SIDE, SIDE), bool), (1, 1, 0, 0))
    assert np.array_equal(same.to_film(cells, (4, 4)), cells)
    # Twice as fine: pixel centres lie a quarter of a cell before and after the cell's.
    assert same.to_film(cells, (8, 4))[:, 0].tolist() == [0, 1, 3, 5, 7, 9, 11, 12]


def test_pixels_of_the_frame_are_those_of_the_film(registration):
    image = film(32)
    found = registration.register(image)
    there = found.to_film(found.pixels, image.pixels.shape)
    small, _ = shrink(image)
    own = resize(small, image.pixels.shape)
    middle = np.s_[40:-40, 40:-40]
    assert np.corrcoef(there[middle].ravel(), own[middle].ravel())[0, 1] > 0.99


def test_the_lungs_of_phantoms_are_found(registration):
    lungs = registration.lungs
    assert 0.08 < lungs.mean() < 0.45
    assert not lungs[:, SIDE // 2 - 4 : SIDE // 2 + 4].any()  # the spine
    assert lungs[:, : SIDE // 2].any()
    assert lungs[:, SIDE // 2 :].any()
    grown = registration.near_lungs(2)
    assert grown[lungs].all()
    assert grown.sum() > lungs.sum()


def test_lungs_are_the_valleys_of_rows_and_air_outside_is_none():
    template = np.full((SIDE, SIDE), 0.8, np.float32)
    template[:, :20] = template[:, -20:] = 0.0  # air, which reaches the border
    template[60:180, 50:110] = 0.2
    template[70:190, 150:200] = 0.3
    lungs = find_lungs(template)
    assert lungs[100, 80]
    assert lungs[100, 170]
    assert lungs.sum() == pytest.approx(120 * 60 + 120 * 50, rel=0.02)


def test_a_template_without_lungs_is_refused():
    with pytest.raises(TrainingError, match="no lungs"):
        find_lungs(np.full((SIDE, SIDE), 0.5, np.float32))


def test_the_fit_of_a_set_is_kept_and_the_same_again():
    class Films(SimpleNamespace):
        __hash__ = object.__hash__

        def __len__(self):
            return 3

        def film(self, number):
            self.read.append(number)
            return film(number)

    data, again = Films(read=[]), Films(read=[])
    first, films = fit_registration(data)
    assert fit_registration(data)[0] is first
    assert data.read == [0, 1, 2]
    other, _ = fit_registration(again)
    assert np.array_equal(first.template, other.template)
    assert np.array_equal(first.lungs, other.lungs)
    # Scales and shifts are about the mean film's, which stays where it is.
    affines = np.array([one.affine for one in films])
    assert np.allclose(np.log(affines[:, :2]).mean(0), 0, atol=1e-6)
    assert np.allclose(affines[:, 2:].mean(0), 0, atol=1e-6)


def test_a_registration_comes_back_from_its_tensors(registration):
    back = Registration.of(registration.tensors())
    assert np.array_equal(back.template, registration.template)
    assert np.array_equal(back.lungs, registration.lungs)
    with pytest.raises(ModelError, match="template"):
        Registration.of({})


def test_patches_take_the_mean_near_the_lungs_and_others_the_lowest():
    values = np.full((8, 12), np.nan, np.float32)
    values[:4, :2] = 3.0
    values[4:, :4] = [[1, 1, 5, 5]] * 4
    pooled = pool_patches(values, PatchGrid((8, 12), 4, 4), -7.0)
    assert pooled.tolist() == [3.0, -7.0, -7.0, 3.0, -7.0, -7.0]
    assert math.isfinite(pooled.sum())
