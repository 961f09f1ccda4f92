import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from patchad.core.grid import PatchGrid
from patchad.core.image import Foreground
from patchad.errors import ModelError, RequestError
from patchad.learn.patch_bank import PatchBank
from patchad.learn.training_set import PackedMask, TrainingSet
from patchad.lesions.shapes import insert, opacity
from patchad.methods import load
from patchad.methods.density import position_gaussian
from patchad.methods.density.position_gaussian import (
    Config,
    PlaceModel,
    cells_of,
    describe,
    fit_places,
)
from patchad.model.card import ModelCard, TrainingData
from patchad.model.folder import read_model, save
from patchad.phantoms.phantom import chest
from patchad.prepare.preprocess import Prepared, Preprocessing

SHAPE = (208, 176)
SPACING = 0.42 * 1024 / SHAPE[0]
GRID = PatchGrid(SHAPE, 26, 13)
CPU = torch.device("cpu")


def film(seed):
    phantom = chest(np.random.default_rng(seed), shape=SHAPE, spacing_mm=SPACING)
    return Prepared(phantom.pixels, Foreground(phantom.foreground, "", 0.0), 0.5, None)


def training_set(seeds):
    films = [film(seed) for seed in seeds]
    corner = np.zeros((1, 2), np.int64)
    bank = PatchBank.of(((one.pixels, corner) for one in films), 26, CPU)
    return TrainingSet(bank, 1, tuple(PackedMask.of(one) for one in films))


def draft(method):
    data = TrainingData("", 0, 0, "", (), None, (0, 1))
    return ModelCard(method, {}, Preprocessing(body_part="chest"), 26, 13, "mean", 0.5, "", 0, data)


def with_opacity(seed, lungs_on_film, diameter_mm=70.0, amplitude=0.25):
    """A film and its twin with a consolidation in a lung."""
    clean = film(seed)
    rng = np.random.default_rng(seed)
    rows, cols = np.nonzero(lungs_on_film)
    at = int(rng.integers(len(rows)))
    lesion = opacity(rng, diameter_mm=diameter_mm, spacing_mm=(SPACING, SPACING))
    pixels, _ = insert(
        clean.pixels, lungs_on_film, lesion, (int(rows[at]), int(cols[at])), amplitude=amplitude
    )
    return clean, replace(clean, pixels=pixels)


@pytest.fixture(scope="module")
def data():
    torch.set_num_threads(1)
    return training_set(range(100, 124))


@pytest.fixture(scope="module")
def detector(data):
    return position_gaussian.fit(
        Config(), data, card=draft("position_gaussian"), seed=0, device=CPU
    )


def test_a_gaussian_of_two_cells_has_the_distance_of_the_formula():
    # Independent features of deviation 2: the covariance of z is I, so white = z / √(1 + ridge).
    rng = np.random.default_rng(0)
    features = 5 + 2 * rng.standard_normal((400, 32, 32, 4)).astype(np.float32)
    places = fit_places(features, smooth_cells=3.0, ridge=0.05)
    assert np.allclose(places.mean, 5, atol=0.5)
    assert np.allclose(places.deviation, 2, atol=0.4)
    z = np.zeros((32, 32, 4), np.float32)
    z[3, 7] = 3  # 3 in each of four features: √(4 · 9 / 4) = 3
    distance = places.distance(z)
    assert distance[3, 7] == pytest.approx(3 / math.sqrt(1.05), rel=0.05)
    assert distance[0, 0] == 0


def test_contrast_and_noise_of_a_film_leave_texture_features_alone():
    rng = np.random.default_rng(1)
    pixels = 100 * rng.standard_normal((256, 256)).astype(np.float32)
    lungs = np.zeros((256, 256), bool)
    lungs[64:192, 64:192] = True
    one, two = describe(pixels, lungs), describe(3 * pixels, lungs)
    assert one.shape == (32, 32, position_gaussian.FEATURES)
    assert np.allclose(one[..., :-2], two[..., :-2], atol=0.01)
    assert np.allclose(3 * one[..., -2:], two[..., -2:], atol=1e-2)
    assert np.allclose(one[cells_of(lungs)][:, :-2].mean(0), 0, atol=1e-4)


def test_features_of_the_mirror_image_are_mirrored():
    rng = np.random.default_rng(2)
    pixels = rng.standard_normal((256, 256)).astype(np.float32)
    lungs = np.ones((256, 256), bool)
    one = describe(pixels, lungs)
    two = describe(np.ascontiguousarray(pixels[:, ::-1]), lungs)[:, ::-1]
    energy = [0, 1, 3, 2]  # down, right, and the two diagonals, which change places
    assert np.allclose(one[..., :4], two[..., energy], atol=1e-3)
    assert np.allclose(one[..., -2:], two[..., -2:], atol=1e-4)


def test_a_response_speaks_near_the_lungs_and_is_finite_in_patches(detector):
    image = film(7)
    response = detector.respond(image, GRID)
    spoken = np.isfinite(response.map)
    assert response.map.dtype == np.float32
    assert response.map.shape == SHAPE
    assert 0.1 < spoken.mean() < 0.7
    assert not spoken[~image.foreground.mask].any()
    assert np.isfinite(response.patches).all()
    assert response.patches.min() >= detector.lowest - 1e-6
    assert response.image == pytest.approx(np.nanmean(response.map), rel=0.05)


def test_negatives_have_a_distance_near_one(detector):
    scores = [detector.respond(film(seed), GRID).image for seed in range(100, 106)]
    assert np.allclose(scores, 1, atol=0.35)


def test_a_planted_opacity_outranks_its_twin(detector):
    wins = []
    for seed in range(12):
        near = detector.registration.register(film(seed))
        lungs = near.to_film(detector.registration.lungs.astype(np.float32), SHAPE) >= 0.5
        clean, ill = with_opacity(seed, lungs)
        wins.append(detector.respond(ill, GRID).image > detector.respond(clean, GRID).image)
    assert np.mean(wins) >= 0.9


def test_it_comes_back_the_same_from_its_folder(detector, tmp_path: Path):
    save(detector, tmp_path)
    back = load(tmp_path, CPU)
    one, two = detector.respond(film(3), GRID), back.respond(film(3), GRID)
    assert np.array_equal(one.map, two.map, equal_nan=True)
    assert np.array_equal(one.patches, two.patches)
    assert one.image == two.image
    assert "lungs" in back.card.patch_pooling
    card, tensors = read_model(tmp_path)
    del tensors["places.mean"]
    with pytest.raises(ModelError, match="train anew"):
        position_gaussian.restore(card, tensors, CPU)


def test_a_fit_is_the_same_again(detector):
    again = position_gaussian.fit(
        Config(), training_set(range(100, 124)), card=draft("position_gaussian"), seed=0, device=CPU
    )
    for name, tensor in detector.tensors().items():
        assert torch.equal(tensor, again.tensors()[name]), name


def test_senseless_options_are_refused():
    with pytest.raises(RequestError, match="ridge"):
        Config(ridge=0)


def test_a_model_without_places_is_refused():
    with pytest.raises(ModelError):
        PlaceModel.of({})
