"""The small autoencoder whose images are unusual on either side."""

import math

import numpy as np
import pytest
import torch
from builders import fitted, on_cpu, prepared, setting_with, training_set

from patchad.methods.parts.whole_film import square
from patchad.methods.reconstruction.vanhetreve2023 import Config, Network, VanHetReve2023, unusual


def test_the_network_is_the_tutorials() -> None:
    network = Network()
    assert sum(p.numel() for p in network.parameters()) == 4385  # as Keras counts them
    shapes = []
    pictures = torch.zeros(1, 1, 28, 28)
    for layer in network.layers:
        pictures = layer(pictures)
        shapes.append(tuple(pictures.shape[1:]))
    assert (8, 4, 4) in shapes  # the code
    assert shapes[-1] == (1, 28, 28)
    assert all((layer.bias == 0).all() for layer in network.layers[::3] if hasattr(layer, "bias"))


def test_both_sides_of_the_mean_are_unusual() -> None:
    found = unusual(torch.tensor([0.5, 0.7, 0.3]), torch.tensor(0.5), torch.tensor(0.1))
    np.testing.assert_allclose(found, [0, 2, 2], rtol=1e-5)


def test_the_map_is_the_cross_entropy_of_each_pixel() -> None:
    module = VanHetReve2023()
    pictures = torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        redrawn = module.redraw(pictures).double().numpy()
        found, loss = module.maps(pictures), module.loss(pictures, pictures)
    x = pictures.double().numpy()
    expected = -(x * np.log(redrawn) + (1 - x) * np.log(1 - redrawn))
    np.testing.assert_allclose(found, expected[:, 0], rtol=1e-5)
    assert loss.item() == pytest.approx(expected.mean(), rel=1e-5)


def test_scores_are_deviations_of_training_errors() -> None:
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 1, 40, dtype=np.float32)[None].repeat(40, 0)
    films = training_set([prepared(ramp * rng.random() * 0.9 + 0.05) for _ in range(8)])
    module = fitted("vanhetreve2023", Config(epochs=150, batch_size=4), films).module
    grid = setting_with().grid((40, 40))
    scores, errors = [], []
    for number in range(8):
        film = on_cpu(films.film(number))
        with torch.inference_mode():
            response = module(film, grid)
            errors.append(module.maps(square(film, 28)).mean().item())
        assert response.image is not None
        scores.append(response.image.item())
    expected = np.abs(np.array(errors) - np.mean(errors)) / np.std(errors)
    np.testing.assert_allclose(scores, expected, rtol=1e-3, atol=1e-4)
    assert math.sqrt(np.mean(np.square(scores))) == pytest.approx(1, rel=1e-3)
