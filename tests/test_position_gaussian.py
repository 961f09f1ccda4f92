import math

import numpy as np
import pytest
import torch
from builders import (
    CHEST,
    CHEST_SHAPE,
    chest_film,
    kept_on_device,
    on_cpu,
    run_with,
    training_set,
    with_opacity,
)

from patchad.errors import RequestError
from patchad.learn.fitting import fit
from patchad.methods.density import position_gaussian
from patchad.methods.density.position_gaussian import (
    FEATURES,
    METHOD,
    Config,
    Places,
    cell_means,
    cells_of,
    describe,
)
from patchad.methods.parts.chest_frame import to_film

GRID = CHEST.grid(CHEST_SHAPE)


@pytest.fixture(scope="module")
def data():
    torch.set_num_threads(1)
    return training_set([chest_film(seed) for seed in range(100, 124)])


@pytest.fixture(scope="module")
def module(data):
    return fit(METHOD, Config(), data, run_with(0, CHEST)).module


def test_a_gaussian_of_two_cells_has_the_distance_of_the_formula():
    # Independent features of deviation 2: the covariance of z is I, so white = z / √(1 + ridge).
    rng = np.random.default_rng(0)
    features = 5 + 2 * rng.standard_normal((200, 32, 32, FEATURES)).astype(np.float32)
    places = Places()
    places.fit(features, smooth_cells=3.0, ridge=0.05)
    assert torch.allclose(places.mean, torch.tensor(5.0), atol=0.75)
    assert torch.allclose(places.deviation, torch.tensor(2.0), atol=0.5)
    z = torch.zeros(32, 32, FEATURES)
    z[3, 7, :4] = 3  # 3 in each of four features: √(4 · 9 / F)
    distance = places.distance(z)
    assert distance[3, 7] == pytest.approx(6 / math.sqrt(1.05 * FEATURES), rel=0.1)
    assert distance[0, 0] == 0
    assert torch.allclose(places.z(places.mean + places.deviation), torch.ones(()), atol=1e-5)
    assert places.z(places.mean + 100 * places.deviation).max() == 8


def test_cells_are_means_of_8_by_8_pixels():
    rows = torch.arange(256.0)[:, None].expand(256, 256)
    assert cell_means(rows)[:, 5].tolist() == [8 * cell + 3.5 for cell in range(32)]
    assert torch.equal(cell_means(rows[None])[0], cell_means(rows))
    mask = torch.zeros(256, 256, dtype=torch.bool)
    mask[8:12, 16:24] = mask[16:19, 16:24] = True  # half of one cell, less of another
    assert cells_of(mask).nonzero().tolist() == [[1, 2]]


def test_contrast_and_noise_of_a_film_leave_texture_features_alone():
    pixels = 100 * torch.randn(256, 256, generator=torch.Generator().manual_seed(1))
    lungs = torch.zeros(256, 256, dtype=torch.bool)
    lungs[64:192, 64:192] = True
    one, two = describe(pixels, lungs), describe(3 * pixels, lungs)
    assert one.shape == (32, 32, FEATURES)
    assert torch.allclose(one[..., :-2], two[..., :-2], atol=0.01)
    assert torch.allclose(3 * one[..., -2:], two[..., -2:], atol=1e-2)
    assert torch.allclose(one[cells_of(lungs)][:, :-2].mean(0), torch.zeros(()), atol=1e-4)


def test_features_of_the_mirror_image_are_mirrored():
    pixels = torch.randn(256, 256, generator=torch.Generator().manual_seed(2))
    lungs = torch.ones(256, 256, dtype=torch.bool)
    one, two = describe(pixels, lungs), describe(pixels.flip(1), lungs).flip(1)
    energy = [0, 1, 3, 2]  # down, right, and the two diagonals, which change places
    assert torch.allclose(one[..., :4], two[..., energy], atol=1e-3)
    assert torch.allclose(one[..., -2:], two[..., -2:], atol=1e-4)


def test_waves_have_the_energies_of_their_slopes():
    # cos(k c) smoothed by σ, times σ, has slopes of amplitude σ k · exp(-(k σ)² / 2); a cell holds
    # whole periods of their squares, whose mean is half that amplitude's square.
    waves = [2 * math.pi / period for period in (16, 8)]
    line = torch.cat([torch.cos(k * torch.arange(128.0)) for k in waves])
    found = describe(line.expand(256, 256), torch.ones(256, 256, dtype=torch.bool))[10]
    for scale, sigma in enumerate((1.0, 2.0)):
        left, right = (
            math.log((sigma * k * math.exp(-((k * sigma) ** 2) / 2)) ** 2 / 2 + 1e-5) for k in waves
        )
        right_slope = found[:, 4 * scale + 1]
        assert right_slope[8] - right_slope[24] == pytest.approx(left - right, abs=0.05)


def test_a_response_speaks_near_the_lungs_and_is_finite_in_patches(module):
    film = on_cpu(chest_film(7))
    response = module(film, GRID)
    known = response.map.isfinite()
    assert response.map.dtype == response.patches.dtype == torch.float32
    assert response.map.shape == CHEST_SHAPE
    assert 0.1 < known.float().mean() < 0.7
    assert not known[~film.mask].any()
    assert response.patches.isfinite().all()
    assert response.patches.min() >= module.lowest - 1e-6
    assert response.image.item() == pytest.approx(response.map.nanmean().item(), rel=0.05)
    assert "lungs" in module.pooling


def test_a_film_without_foreground_has_the_lowest_image_score(module):
    film = on_cpu(chest_film(7))
    film.mask[:] = False
    response = module(film, GRID)
    assert response.image == module.lowest
    assert response.map.isnan().all()


def test_negatives_have_a_distance_near_one(module):
    scores = [module(on_cpu(chest_film(seed)), GRID).image for seed in range(100, 106)]
    assert torch.allclose(torch.stack(scores), torch.ones(()), atol=0.35)


def test_a_planted_opacity_outranks_its_twin(module):
    wins = []
    for seed in range(12):
        clean = on_cpu(chest_film(seed))
        affine = module.registration.register(clean).affine
        lungs = to_film(module.registration.lungs.float(), affine, CHEST_SHAPE) >= 0.5
        ill = on_cpu(with_opacity(chest_film(seed), lungs.numpy(), seed))
        wins.append(bool(module(ill, GRID).image > module(clean, GRID).image))
    assert np.mean(wins) >= 0.9


def test_it_comes_back_the_same_from_its_tensors_and_keeps_to_the_device(module):
    back = METHOD.build(Config(), CHEST)
    back.load_state_dict(module.state_dict())
    one, film = module(on_cpu(chest_film(3)), GRID), on_cpu(chest_film(3))
    with torch.inference_mode(), kept_on_device():
        two = back(film, GRID)
    assert torch.equal(one.map.nan_to_num(-1), two.map.nan_to_num(-1))
    assert torch.equal(one.patches, two.patches)
    assert torch.equal(one.image, two.image)


def test_a_fit_is_the_same_again_whatever_the_seed(module):
    films = [chest_film(seed) for seed in range(100, 124)]
    again = fit(METHOD, Config(), training_set(films), run_with(5, CHEST)).module
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_members_with_one_template_describe_a_film_once(module, monkeypatch):
    counted = []
    monkeypatch.setattr(
        position_gaussian, "describe", lambda *args: counted.append(1) or describe(*args)
    )
    back = METHOD.build(Config(), CHEST)
    back.load_state_dict(module.state_dict())
    film = on_cpu(chest_film(4))
    module(film, GRID), back(film, GRID)
    assert len(counted) == 1


def test_senseless_options_are_refused():
    with pytest.raises(RequestError, match="ridge"):
        Config(ridge=0)
