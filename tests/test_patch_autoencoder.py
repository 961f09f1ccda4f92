"""The autoencoder of patches, by structural similarity and by squared error."""

import numpy as np
import pytest
import torch
from builders import fitted, prepared, run_with, setting_with, training_set
from scipy.ndimage import gaussian_filter
from skimage.metrics import structural_similarity
from torch import nn

from patchad.errors import RequestError, TrainingError
from patchad.learn.run import GivenUp
from patchad.methods.parts.collapse import judge
from patchad.methods.parts.losses import ssim_loss
from patchad.methods.parts.patch_autoencoder import network
from patchad.methods.reconstruction import l2_ae, ssim_ae

BOTH = pytest.mark.parametrize("method", [ssim_ae, l2_ae])


def count(inputs, outputs, kernel):
    return inputs * outputs * kernel**2 + outputs


def test_the_network_has_the_layers_of_the_paper():
    down = [(1, 32, 4), (32, 32, 4), (32, 32, 3), (32, 64, 4), (64, 64, 3)]
    down += [(64, 128, 4), (128, 64, 3), (64, 32, 3), (32, 100, 8)]
    up = [(b, a, kernel) for a, b, kernel in down]
    expected = sum(count(*layer) for layer in down + up)
    found = network(128, 100)
    assert sum(p.numel() for p in found.parameters()) == expected
    shapes = []
    for layer in found:
        layer.register_forward_hook(lambda _, __, out: shapes.append(tuple(out.shape[1:])))
    assert found(torch.rand(2, 1, 128, 128)).shape == (2, 1, 128, 128)
    assert (100, 1, 1) in shapes
    assert sum(isinstance(layer, nn.LeakyReLU) for layer in found) == 16
    convolutions = [layer for layer in found if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)]
    assert isinstance(found[list(found).index(convolutions[8]) + 1], nn.ConvTranspose2d)


@pytest.mark.parametrize("size", [16, 48, 64])
def test_the_network_adapts_to_the_patch(size):
    found = network(size, 5)(torch.rand(2, 1, size, size))
    assert found.shape == (2, 1, size, size)
    assert (found > 0).all()
    assert (found < 1).all()


@BOTH
@pytest.mark.parametrize("size", [8, 40])
def test_a_patch_that_cannot_be_halved_is_refused(method, size):
    with pytest.raises(RequestError, match=rf"patch_size must be a multiple of 16; got {size}"):
        method.build(method.Config(), setting_with(patch_size=size))


class Darker(nn.Module):
    def forward(self, patches):
        return patches * 0.5


@BOTH
def test_the_score_is_the_mean_of_the_map(method):
    module = method.build(method.Config(code=2), setting_with(patch_size=32))
    module.network = Darker()
    patches = np.clip(gaussian_filter(np.random.default_rng(0).random((2, 32, 32)), 1), 0, 1)
    found = module.maps(torch.from_numpy(patches[:, None]).float()).numpy()
    for patch, values in zip(patches, found, strict=True):
        expected = (patch / 2) ** 2
        if method is ssim_ae:
            options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
            expected = (
                1 - structural_similarity(patch, patch / 2, data_range=1.0, full=True, **options)[1]
            )
        np.testing.assert_allclose(values, expected, atol=1e-4)
    scores = module(torch.from_numpy(patches[:, None]).float())
    np.testing.assert_allclose(scores.numpy(), found.mean((1, 2)), rtol=1e-6)
    assert (scores > 0.01).all()


def smooth_films(number=4):
    rng = np.random.default_rng(0)
    films = gaussian_filter(rng.random((number, 96, 96)), (0, 6, 6))
    low, high = films.min(), films.max()
    return [prepared(((film - low) / (high - low)).astype(np.float32)) for film in films]


@BOTH
def test_training_lowers_its_own_loss(method):
    config = method.Config(
        code=16, epochs=6, patches_per_epoch=240, batch_size=8, learning_rate=1e-3
    )
    told = []
    run = run_with(progress=lambda stage, done, total, loss: told.append(loss))
    fitted(method.NAME, config, training_set(smooth_films()), run)
    assert len(told) == 6
    assert told[-1] < 0.9 * told[0]


@BOTH
def test_dead_networks_are_given_up(method, monkeypatch):
    monkeypatch.setattr("patchad.methods.parts.patch_autoencoder.is_dead", lambda *_: True)
    config = method.Config(code=2, epochs=1, patches_per_epoch=8, batch_size=8, restarts=2)
    with pytest.raises(TrainingError, match=r"Try 2 of 2.*redraws every patch as the same picture"):
        fitted(method.NAME, config, training_set(smooth_films()))


def test_similarity_is_judged_by_similarity():
    """Darkened, texture keeps its similarity better than its mean does, though not its level."""
    rng = np.random.default_rng(0)
    pictures = torch.from_numpy(0.5 + 0.1 * rng.standard_normal((4, 1, 32, 32))).float()
    run = run_with()
    judge(run, lambda x: x - 0.3, pictures, 5000, "dead", "longer", ("1 - SSIM", ssim_loss))
    with pytest.raises(GivenUp, match=r"RMSE 0\.3000 on training pictures, not below 0\.0997"):
        judge(run, lambda x: x - 0.3, pictures, 5000, "dead", "longer")
    assert run.notes == []
