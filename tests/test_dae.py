from pathlib import Path

import numpy as np
import pytest
import torch
from test_position_gaussian import CPU, GRID, SHAPE, draft, film, training_set

from patchad.errors import ModelError, RequestError
from patchad.methods import load
from patchad.methods.reconstruction import dae
from patchad.methods.reconstruction.dae import Config, coarse_noise, normalise, with_row
from patchad.model.folder import read_model, save

SMALL = Config(channels=(4, 8, 8), steps=40, batch_size=8, learning_rate=5e-3)


@pytest.fixture(scope="module")
def data():
    torch.set_num_threads(1)
    return training_set(range(100, 112))


@pytest.fixture(scope="module")
def trained(data):
    losses = []

    def progress(stage, done, total, value):
        if stage == "training":
            losses.append(value)

    detector = dae.fit(SMALL, data, card=draft("dae"), seed=0, device=CPU, progress=progress)
    return detector, losses


@pytest.fixture(scope="module")
def detector(trained):
    return trained[0]


def test_it_learns_to_take_the_noise_off(trained):
    losses = trained[1]
    assert len(losses) == SMALL.steps
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:3])


def test_local_normalisation_forgets_brightness_and_keeps_the_sign_of_spots():
    rng = np.random.default_rng(0)
    pixels = rng.standard_normal((256, 256)).astype(np.float32)
    assert np.allclose(normalise(pixels), normalise(pixels + 0.7), atol=1e-3)
    flat = np.full((256, 256), 0.4, np.float32)
    assert np.allclose(normalise(flat), 0, atol=1e-5)
    flat[100:110, 100:110] = 0.6
    assert normalise(flat)[52, 52] > 1


def test_noise_is_coarse_and_of_its_deviation():
    noise = coarse_noise(64, torch.Generator().manual_seed(0))
    assert noise.shape == (64, 128, 128)
    assert noise.mean().item() == pytest.approx(0, abs=0.02)
    # Bilinear enlargement averages: (2/3)² of the variance is left far from the grid's edge.
    assert noise.std().item() == pytest.approx(2 / 3, abs=0.05)
    neighbours = (noise[:, :, 1:] - noise[:, :, :-1]).square().mean().sqrt()
    assert neighbours < 0.3 * noise.std()


def test_the_row_is_a_channel():
    seen = with_row(torch.zeros(2, 5, 3))
    assert seen.shape == (2, 2, 5, 3)
    assert seen[1, 1, :, 0].tolist() == [-1, -0.5, 0, 0.5, 1]
    assert (seen[:, 0] == 0).all()


def test_a_response_speaks_near_the_lungs_and_is_finite_in_patches(detector):
    image = film(7)
    response = detector.respond(image, GRID)
    spoken = np.isfinite(response.map)
    assert response.map.shape == SHAPE
    assert 0.1 < spoken.mean() < 0.7
    assert not spoken[~image.foreground.mask].any()
    assert np.isfinite(response.patches).all()
    assert response.image > 0


def test_a_bright_spot_in_a_lung_leaves_a_residual_there(detector):
    image = film(8)
    found = detector.registration.register(image)
    lungs = found.to_film(detector.registration.lungs.astype(np.float32), SHAPE) >= 0.5
    rows, cols = np.nonzero(lungs)
    row, col = rows[len(rows) // 3], cols[len(rows) // 3]
    y, x = np.ogrid[: SHAPE[0], : SHAPE[1]]
    spot = 0.3 * np.exp(-0.5 * ((y - row) ** 2 + (x - col) ** 2) / 6**2)
    ill = type(image)(
        (image.pixels + spot).clip(0, 1).astype(np.float32), image.foreground, 0.5, None
    )
    rise = detector.respond(ill, GRID).map - detector.respond(image, GRID).map
    peak = np.unravel_index(np.nanargmax(rise), SHAPE)
    assert np.hypot(peak[0] - row, peak[1] - col) < 10


def test_it_comes_back_the_same_from_its_folder(detector, tmp_path: Path):
    save(detector, tmp_path)
    back = load(tmp_path, CPU)
    one, two = detector.respond(film(3), GRID), back.respond(film(3), GRID)
    assert np.array_equal(one.map, two.map, equal_nan=True)
    assert np.array_equal(one.patches, two.patches)
    assert one.image == two.image
    card, tensors = read_model(tmp_path)
    del tensors["lowest"]
    with pytest.raises(ModelError, match="train anew"):
        dae.restore(card, tensors, CPU)


def test_a_seed_gives_the_same_weights_and_another_others(data, detector):
    short = Config(channels=(4, 8, 8), steps=3, batch_size=4)
    one, same, other = (
        dae.fit(short, data, card=draft("dae"), seed=seed, device=CPU).tensors()
        for seed in (0, 0, 1)
    )
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)
    assert torch.equal(one["registration.lungs"], other["registration.lungs"])


@pytest.mark.parametrize(
    "options", [{"steps": 0}, {"noise": 0.0}, {"channels": (8,)}, {"learning_rate": -1.0}]
)
def test_senseless_options_are_refused(options):
    with pytest.raises(RequestError, match=next(iter(options))):
        Config(**options)
