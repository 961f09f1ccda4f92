"""Variational and context-encoding autoencoders: their losses, masks, gradients and scores."""

import math

import numpy as np
import pytest
import torch
from builders import run_with
from torch.distributions import Normal, kl_divergence

from patchad.methods.parts.variational import (
    Variational,
    divergence,
    input_gradient,
    note_collapse,
    sample,
)


def test_the_divergence_is_that_of_two_gaussians() -> None:
    rng = np.random.default_rng(0)
    mean, log_variance = torch.tensor(rng.normal(size=(2, 5, 3)))
    expected = kl_divergence(
        Normal(mean, (log_variance / 2).exp()), Normal(torch.zeros(()), torch.ones(()))
    )
    np.testing.assert_allclose(divergence(mean, log_variance), expected, rtol=1e-12)
    by_hand = divergence(torch.tensor([[2.0]]), torch.tensor([[math.log(4.0)]]))
    assert by_hand.item() == pytest.approx((4 + 4 - math.log(4) - 1) / 2)


def test_codes_are_drawn_from_their_gaussians() -> None:
    found = sample(torch.tensor([1.0]), torch.tensor([math.log(9.0)]), torch.tensor([-2.0]))
    assert found.item() == pytest.approx(1 - 2 * 3)


def test_a_collapsed_posterior_is_noted() -> None:
    run = run_with()
    note_collapse(run, torch.tensor([[0.0, 0.3], [0.0, -0.3]]), torch.zeros(2, 2))
    assert run.notes == []  # the second dimension has 0.045 nats
    note_collapse(run, torch.tensor([[0.0, 0.1], [0.0, -0.1]]), torch.zeros(2, 2))
    assert run.notes[0].startswith("The posterior collapsed: ")


def test_gradients_at_pixels_are_taken_where_films_are_scored() -> None:
    weights = torch.rand(1, 1, 4, 4, generator=torch.Generator().manual_seed(0))

    def scalar(pictures: torch.Tensor) -> torch.Tensor:
        return (weights * pictures**3).sum((1, 2, 3))

    with torch.inference_mode():
        pictures = torch.arange(32.0).reshape(2, 1, 4, 4) / 32
        assert pictures.is_inference()
        found = input_gradient(scalar, pictures)
        np.testing.assert_allclose(found, 3 * weights * pictures**2, rtol=1e-6)
    assert not found.requires_grad


def test_the_network_draws_from_the_mean() -> None:
    network = Variational(16, 3, (2, 3, 4), 5).eval()
    pictures = torch.rand(2, 1, 16, 16)
    mean, log_variance = network.encode(pictures)
    assert mean.shape == log_variance.shape == (2, 3)
    assert torch.equal(network(pictures), network.decode(mean))
    assert network(pictures).shape == pictures.shape
