import numpy as np
import pytest
import torch
from builders import (
    CHEST,
    CHEST_SHAPE,
    CPU,
    chest_film,
    kept_on_device,
    on_cpu,
    run_with,
    training_set,
)
from scipy import ndimage

from patchad.errors import RequestError
from patchad.learn.fitting import fit
from patchad.methods.parts.chest_frame import to_film
from patchad.methods.reconstruction.dae import (
    METHOD,
    Config,
    coarse_noise,
    normalise,
    with_row,
)
from patchad.prepare.film import Film
from patchad.prepare.preprocess import Prepared
from patchad.prepare.resize import resize

SMALL = Config(channels=(4, 8, 8), steps=40, batch_size=8, learning_rate=5e-3)
GRID = CHEST.grid(CHEST_SHAPE)


@pytest.fixture(scope="module")
def data():
    torch.set_num_threads(1)
    return training_set([chest_film(seed) for seed in range(100, 112)])


@pytest.fixture(scope="module")
def trained(data):
    told = []
    own = run_with(0, CHEST, progress=lambda *words: told.append(words))
    return fit(METHOD, SMALL, data, own).module, told


@pytest.fixture(scope="module")
def module(trained):
    return trained[0]


def test_it_learns_to_take_the_noise_off(trained):
    losses = [value for stage, _, _, value in trained[1] if stage == "training"]
    assert len(losses) == 4  # epochs of ten steps
    assert losses[-1] < 0.6 * losses[0]


def test_local_normalisation_is_that_of_scipy():
    pixels = np.random.default_rng(0).standard_normal((256, 256)).astype(np.float32)
    small = resize(pixels, (128, 128)).astype(np.float64)
    apart = small - ndimage.gaussian_filter(small, 12, mode="nearest")
    variance = ndimage.gaussian_filter(np.square(apart), 12, mode="nearest")
    wanted = apart / (np.sqrt(variance) + 0.05)
    assert np.allclose(normalise(torch.from_numpy(pixels)).numpy(), wanted, atol=1e-3)


def test_local_normalisation_forgets_brightness_and_keeps_the_sign_of_spots():
    pixels = torch.randn(256, 256, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(normalise(pixels), normalise(pixels + 0.7), atol=1e-3)
    flat = torch.full((256, 256), 0.4)
    assert torch.allclose(normalise(flat), torch.zeros(()), atol=1e-5)
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


def test_a_response_speaks_near_the_lungs_and_is_finite_in_patches(module):
    film = on_cpu(chest_film(7))
    response = module(film, GRID)
    known = response.map.isfinite()
    assert response.map.shape == CHEST_SHAPE
    assert 0.1 < known.float().mean() < 0.7
    assert not known[~film.mask].any()
    assert response.patches.isfinite().all()
    assert response.image > 0


def test_the_lowest_is_that_of_the_training_maps(module):
    maps = [module(on_cpu(chest_film(seed)), GRID).map for seed in range(100, 112)]
    lowest = min(np.nanmin(one.numpy()) for one in maps)
    # The maps register anew, to the last template: nearly as in the fit.
    assert module.lowest.item() == pytest.approx(lowest, rel=0.2)


def test_a_bright_spot_in_a_lung_leaves_a_residual_there(module):
    image = chest_film(8)
    film = on_cpu(image)
    affine = module.registration.register(film).affine
    lungs = to_film(module.registration.lungs.float(), affine, CHEST_SHAPE) >= 0.5
    rows, cols = np.nonzero(lungs.numpy())
    row, col = rows[len(rows) // 3], cols[len(rows) // 3]
    y, x = np.ogrid[: CHEST_SHAPE[0], : CHEST_SHAPE[1]]
    spot = 0.3 * np.exp(-0.5 * ((y - row) ** 2 + (x - col) ** 2) / 6**2)
    pixels = (image.pixels + spot).clip(0, 1).astype(np.float32)
    ill = Film.of(Prepared(pixels, image.foreground, 0.5, None), CPU)
    rise = (module(ill, GRID).map - module(film, GRID).map).numpy()
    peak = np.unravel_index(np.nanargmax(rise), CHEST_SHAPE)
    assert np.hypot(peak[0] - row, peak[1] - col) < 10


def test_it_comes_back_the_same_from_its_tensors_and_keeps_to_the_device(module):
    back = METHOD.build(SMALL, CHEST).eval()
    back.load_state_dict(module.state_dict())
    one, film = module(on_cpu(chest_film(3)), GRID), on_cpu(chest_film(3))
    with torch.inference_mode(), kept_on_device():
        two = back(film, GRID)
    assert torch.equal(one.map.nan_to_num(-9), two.map.nan_to_num(-9))
    assert torch.equal(one.patches, two.patches)
    assert torch.equal(one.image, two.image)


def test_killed_and_resumed_it_ends_as_if_it_had_run_through(data, module, tmp_path):
    def progress(stage, done, total, value):
        if stage == "training" and done == 2:
            raise KeyboardInterrupt

    file = tmp_path / "checkpoint"
    with pytest.raises(KeyboardInterrupt):
        fit(METHOD, SMALL, data, run_with(0, CHEST, progress=progress, checkpoint=file))
    told = []
    own = run_with(0, CHEST, progress=lambda *words: told.append(words[:2]), checkpoint=file)
    resumed = fit(METHOD, SMALL, data, own).module.state_dict()
    assert [done for stage, done in told if stage == "training"] == [2, 3, 4]
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, resumed[name]), name


def test_another_seed_gives_other_weights_in_the_same_frame(data):
    short = Config(channels=(4, 8), steps=2, batch_size=2)
    one, other = (fit(METHOD, short, data, run_with(s, CHEST)).module for s in (0, 1))
    tensors = other.network.state_dict()
    assert not all(torch.equal(t, tensors[n]) for n, t in one.network.state_dict().items())
    assert one.registration.key == other.registration.key


@pytest.mark.parametrize(
    "options", [{"steps": 0}, {"learning_rate": -1.0}, {"noise": 0.0}, {"channels": (8,)}]
)
def test_senseless_options_are_refused(options):
    with pytest.raises(RequestError, match=next(iter(options))):
        Config(**options)
