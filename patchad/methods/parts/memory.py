"""A memory of prototype codes, by which a code is replaced before it is decoded.

D. Gong et al.: Memorizing normality to detect anomaly: memory-augmented deep autoencoder for
unsupervised anomaly detection. ICCV 2019, https://arxiv.org/abs/1904.02639.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_EPSILON = 1e-12  # of the published code


class Memory(nn.Module):
    """``slots`` prototypes of codes of length C: ``prototypes`` (slots, C)."""

    def __init__(self, slots: int, code: int, shrink: float) -> None:
        super().__init__()
        self.shrink = shrink
        bound = 1 / math.sqrt(code)
        self.prototypes = nn.Parameter(torch.empty(slots, code).uniform_(-bound, bound))

    def forward(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Codes (N, C) → their mixtures of prototypes (N, C), and the weights (N, slots).

        All in float32, under autocast too, which would take products of matrices in bfloat16.
        """
        with torch.autocast(codes.device.type, enabled=False):
            weights = address(codes.float(), self.prototypes, self.shrink)
            return weights @ self.prototypes, weights


def address(codes: Tensor, prototypes: Tensor, shrink: float) -> Tensor:
    """The weight of each prototype: (N, C) and (n, C) → (N, n), rows that add up to 1.

    The softmax of their products (the paper has cosines, the published code products), hard-shrunk
    where ``shrink`` > 0: relu(w − λ) · w / (|w − λ| + ε), divided by its sum.
    """
    weights = F.softmax(codes @ prototypes.T, dim=1)
    if shrink > 0:
        apart = weights - shrink
        weights = F.normalize(apart.relu() * weights / (apart.abs() + _EPSILON), p=1, dim=1)
    return weights


def entropy(weights: Tensor) -> Tensor:
    """Mean entropy of the rows of ``weights`` (N, n), in nats: a scalar."""
    return -(weights * (weights + _EPSILON).log()).sum(1).mean()
