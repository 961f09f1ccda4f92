"""What adversarial methods share: the Wasserstein critic's loss, and the signs of its collapse."""

from collections.abc import Callable

import torch
from torch import Tensor

Critic = Callable[[Tensor], Tensor]  # samples (N, …) → values (N,) or (N, 1)


def gradient_penalty(critic: Critic, real: Tensor, fake: Tensor, share: Tensor) -> Tensor:
    """Mean of (‖∇D‖₂ - 1)² at points between real and fake samples: a scalar.

    I. Gulrajani et al., Improved training of Wasserstein GANs, NeurIPS 2017,
    https://arxiv.org/abs/1704.00028.

    Args:
        critic: samples → their values.
        real: (N, …).
        fake: (N, …).
        share: (N,) in [0, 1), how far each point lies from the fake sample to the real one.

    The norm is over all axes of a sample. (Some public code takes it over image rows alone, or
    puts points outside the segment between the two.)
    """
    part = share.reshape(-1, *[1] * (real.ndim - 1))
    between = (part * real.detach() + (1 - part) * fake.detach()).requires_grad_(True)
    value = critic(between).sum()
    (gradient,) = torch.autograd.grad(value, between, create_graph=True)
    norm: Tensor = gradient.float().flatten(1).norm(dim=1)
    return (norm - 1).square().mean()


def critic_loss(
    critic: Critic, real: Tensor, fake: Tensor, share: Tensor, weight: float = 10.0
) -> Tensor:
    """E D(fake) - E D(real) + ``weight`` × the gradient penalty: a scalar; fakes are detached."""
    gap = critic(fake.detach()).float().mean() - critic(real).float().mean()
    return gap + weight * gradient_penalty(critic, real, fake, share)


def spread(pictures: Tensor) -> Tensor:
    """How far pictures (N, …) are from their mean, root mean square: a scalar."""
    return (pictures - pictures.mean(0)).square().mean().sqrt()
