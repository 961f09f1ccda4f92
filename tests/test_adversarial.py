"""What adversarial methods share: the Wasserstein critic's loss, and signs of collapse."""

import math

import numpy as np
import pytest
import torch

from patchad.errors import TrainingError
from patchad.learn.run import GivenUp
from patchad.methods.parts.adversarial import (
    collapsed,
    critic_loss,
    frozen,
    given_up_if_lost,
    gradient_penalty,
    spread,
)


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


def test_the_critic_loss_is_of_float32_under_autocast() -> None:
    torch.manual_seed(0)
    critic = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    given = torch.rand(8, 4), torch.rand(8, 4), torch.rand(8)
    plain = critic_loss(critic, *given)
    with torch.autocast("cpu", torch.bfloat16):
        assert critic(given[0]).dtype == torch.bfloat16
        found = critic_loss(critic, *given)
        critic_loss(critic, given[0], given[1].bfloat16(), given[2]).backward()
    assert found.item() == plain.item()


def test_spread_by_hand() -> None:
    assert spread(torch.tensor([[1.0, 0.0], [3.0, 0.0]])).item() == pytest.approx(math.sqrt(0.5))


def slope(steepness: float) -> torch.nn.Linear:
    """A critic of samples (N, 4): ``steepness`` × their mean, so that ‖∇D‖ = steepness / 2."""
    critic = torch.nn.Linear(4, 1, bias=False)
    torch.nn.init.constant_(critic.weight, steepness / 4)
    return critic


@pytest.mark.parametrize(
    ("fake", "critic", "words"),
    [
        (torch.eye(4) * 2, slope(1.0), ""),
        (torch.ones(4, 4) + 1e-3 * torch.eye(4), slope(1.0), "nearly one picture"),
        (torch.eye(4) * math.nan, slope(1.0), "no number"),
        (torch.eye(4) - 200, slope(1.0), "by 200, more than 50"),
        (torch.eye(4), slope(22.2), r"penalty is 102, more than 100"),  # (11.1 - 1)² = 102.01
    ],
)
def test_a_collapse_is_noticed(fake: torch.Tensor, critic: torch.nn.Linear, words: str) -> None:
    real, share = torch.eye(4), torch.tensor([0.0, 0.3, 0.6, 0.9])
    found = collapsed(real, fake, critic, share)
    assert words in found
    assert bool(words) == bool(found)


def test_without_a_penalty_a_steep_critic_is_no_fault() -> None:
    assert collapsed(torch.eye(4), torch.eye(4), slope(30.0)) == ""


def test_gradients_pass_through_what_is_frozen() -> None:
    network = torch.nn.Linear(2, 1)
    network.bias.requires_grad_(False)
    x = torch.ones(1, 2, requires_grad=True)
    with frozen(network):
        (gradient,) = torch.autograd.grad(network(x).sum(), x)
        assert not any(p.requires_grad for p in network.parameters())
    assert torch.equal(gradient, network.weight)
    assert [p.requires_grad for p in network.parameters()] == [True, False]


def test_weights_that_are_no_numbers_let_another_seed_try() -> None:
    sound, lost = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    torch.nn.init.constant_(lost.bias, math.nan)
    with pytest.raises(TrainingError, match="memory"), given_up_if_lost(sound):
        raise TrainingError("too little memory")
    with pytest.raises(GivenUp, match="became nan"), given_up_if_lost(sound, lost):
        raise TrainingError("the loss became nan")
