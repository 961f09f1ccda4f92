"""The Wasserstein critic's loss, by hand."""

import math

import numpy as np
import pytest
import torch

from patchad.methods.parts.adversarial import critic_loss, gradient_penalty, spread


def test_the_penalty_of_a_linear_critic_is_that_of_its_weights() -> None:
    weights = torch.tensor([[1.0, 2.0], [2.0, 4.0]])  # ‖w‖ = 5
    critic = lambda x: (x * weights).sum((1, 2, 3))  # noqa: E731
    real, fake = torch.rand(3, 1, 2, 2), torch.rand(3, 1, 2, 2)
    penalty = gradient_penalty(critic, real, fake, torch.tensor([0.0, 0.3, 0.9]))
    assert penalty.item() == pytest.approx((5 - 1) ** 2)


def test_points_lie_between_fake_and_real() -> None:
    critic = lambda x: x.square().sum((1, 2)) / 2  # ∇D(x) = x  # noqa: E731
    real, fake = torch.full((2, 1, 4), 3.0), torch.full((2, 1, 4), 1.0)
    penalty = gradient_penalty(critic, real, fake, torch.tensor([0.0, 0.5]))
    norms = np.array([1.0, 2.0]) * math.sqrt(4)  # over all four pixels
    assert penalty.item() == pytest.approx(float(((norms - 1) ** 2).mean()))


def test_the_loss_rises_with_fakes_that_the_critic_prefers() -> None:
    critic = lambda x: x.sum(1)  # ‖∇D‖ = √2  # noqa: E731
    real, fake = torch.tensor([[0.0, 1.0]]), torch.tensor([[2.0, 3.0]])
    loss = critic_loss(critic, real, fake, torch.tensor([0.5]))
    assert loss.item() == pytest.approx(5 - 1 + 10 * (math.sqrt(2) - 1) ** 2)


def test_fakes_get_no_gradient_from_the_critic() -> None:
    fake = torch.ones(2, 2, requires_grad=True)
    critic_loss(torch.nn.Linear(2, 1), torch.zeros(2, 2), fake, torch.rand(2)).backward()
    assert fake.grad is None


def test_spread_by_hand() -> None:
    assert spread(torch.tensor([[1.0, 0.0], [3.0, 0.0]])).item() == pytest.approx(math.sqrt(0.5))
