"""The residual networks of f-AnoGAN: generator, critic and encoder of square patches.

T. Schlegl et al., f-AnoGAN, Medical Image Analysis 54:30-44, 2019, after the networks for 64 × 64
of I. Gulrajani et al., Improved training of Wasserstein GANs, NeurIPS 2017. Shapes below for
patches of 64; other powers of two have as many blocks as lead to 4 × 4. Weights start as in the
published code: uniform with zero biases, after He (its mean of fan in and fan out) in the blocks,
after Glorot elsewhere. Batch norm has PyTorch's momentum and ε.
"""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from patchad.errors import RequestError

_BASE = 4  # side of the smallest maps
_WIDEST = 8  # channels of the widest maps, in multiples of the width

Norm = Callable[[int], nn.Module]
Layer = TypeVar("Layer", nn.Conv2d, nn.Linear)


def check_patch_size(size: int, name: str) -> None:
    """Refuse patches that cannot be halved down to 4 × 4 (RequestError)."""
    if size < 4 * _BASE or size & (size - 1):
        raise RequestError(
            f"{name} halves a patch down to {_BASE} × {_BASE}, so patch_size must be a power of "
            f"two from {4 * _BASE}; got {size} (the paper's is 64)"
        )


def layer_norm(channels: int) -> nn.Module:
    """Over channels, rows and columns of each sample, with a gain and a shift for each channel."""
    return nn.GroupNorm(1, channels)


class Generator(nn.Module):
    """Codes (N, ``code``) → patches (N, 1, S, S) in (-1, 1): dense, four up-blocks, tanh."""

    def __init__(self, size: int, width: int, code: int, norm: Norm = nn.BatchNorm2d) -> None:
        super().__init__()
        count = _blocks(size)
        channels = [width * min(_WIDEST, 2**k) for k in range(count, -1, -1)]  # 8, 8, 4, 2, 1
        self.shape = (channels[0], _BASE, _BASE)
        self.dense = _started(nn.Linear(code, math.prod(self.shape)))
        self.blocks = nn.Sequential(*(UpBlock(a, b, norm) for a, b in pairwise(channels)))
        self.last = nn.Sequential(
            norm(width), nn.ReLU(), _started(nn.Conv2d(width, 1, 3, padding=1), he=True), nn.Tanh()
        )

    def forward(self, codes: Tensor) -> Tensor:
        """The patch of each code."""
        found: Tensor = self.last(self.blocks(self.dense(codes).unflatten(1, self.shape)))
        return found


class Down(nn.Module):
    """Patches (N, 1, S, S) → features (N, ``features``): a convolution, four down-blocks."""

    def __init__(self, size: int, width: int, norm: Norm) -> None:
        super().__init__()
        count = _blocks(size)
        channels = [width * min(_WIDEST, 2**k) for k in range(count + 1)]  # 1, 2, 4, 8, 8
        self.first = _started(nn.Conv2d(1, width, 3, padding=1))
        self.blocks = nn.Sequential(*(DownBlock(a, b, norm) for a, b in pairwise(channels)))
        self.features = channels[-1] * _BASE**2

    def forward(self, patches: Tensor) -> Tensor:
        """The features, row by row of each channel."""
        found: Tensor = self.blocks(self.first(patches)).flatten(1)
        return found


class Critic(nn.Module):
    """Patches (N, 1, S, S) → values (N, 1); layer norm, as the gradient penalty asks for.

    ``down`` gives the features f that f-AnoGAN compares.
    """

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.down = Down(size, width, layer_norm)
        self.dense = _started(nn.Linear(self.down.features, 1))

    def forward(self, patches: Tensor) -> Tensor:
        """The critic's value of each patch: high for real ones."""
        found: Tensor = self.dense(self.down(patches))
        return found


class Encoder(nn.Module):
    """Patches (N, 1, S, S) → codes (N, ``code``), within ± 1 by tanh unless ``bounded`` is off."""

    def __init__(self, size: int, width: int, code: int, *, bounded: bool = True) -> None:
        super().__init__()
        self.down = Down(size, width, nn.BatchNorm2d)
        self.dense = _started(nn.Linear(self.down.features, code))
        self.bounded = bounded

    def forward(self, patches: Tensor) -> Tensor:
        """The code of each patch."""
        codes: Tensor = self.dense(self.down(patches))
        return codes.tanh() if self.bounded else codes


class UpBlock(nn.Module):
    """Twice the side: norm, ReLU, repeated pixels, 3 × 3, norm, ReLU, 3 × 3; 1 × 1 beside it."""

    def __init__(self, inputs: int, outputs: int, norm: Norm) -> None:
        super().__init__()
        self.norms = nn.ModuleList([norm(inputs), norm(outputs)])
        self.convolutions = nn.ModuleList(
            [
                _started(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), he=True),
                _started(nn.Conv2d(outputs, outputs, 3, padding=1), he=True),
            ]
        )
        self.beside = _started(nn.Conv2d(inputs, outputs, 1))

    def forward(self, maps: Tensor) -> Tensor:
        """(N, ``inputs``, S, S) → (N, ``outputs``, 2 S, 2 S)."""
        found = F.relu(self.norms[0](maps))
        found = self.convolutions[0](_doubled(found))
        found = self.convolutions[1](F.relu(self.norms[1](found)))
        # A 1 × 1 convolution of repeated pixels repeats its own.
        beside = _doubled(self.beside(maps))
        return torch.add(beside, found)


class DownBlock(nn.Module):
    """Half the side: norm, ReLU, 3 × 3, norm, ReLU, 3 × 3, means of 2 × 2; 1 × 1 beside it."""

    def __init__(self, inputs: int, outputs: int, norm: Norm) -> None:
        super().__init__()
        self.norms = nn.ModuleList([norm(inputs), norm(inputs)])
        self.convolutions = nn.ModuleList(
            [
                _started(nn.Conv2d(inputs, inputs, 3, padding=1, bias=False), he=True),
                _started(nn.Conv2d(inputs, outputs, 3, padding=1), he=True),
            ]
        )
        self.beside = _started(nn.Conv2d(inputs, outputs, 1))

    def forward(self, maps: Tensor) -> Tensor:
        """(N, ``inputs``, S, S) → (N, ``outputs``, S / 2, S / 2)."""
        found = self.convolutions[0](F.relu(self.norms[0](maps)))
        found = self.convolutions[1](F.relu(self.norms[1](found)))
        beside: Tensor = self.beside(F.avg_pool2d(maps, 2))
        return F.avg_pool2d(found, 2) + beside


def _doubled(maps: Tensor) -> Tensor:
    return F.interpolate(maps, scale_factor=2.0, mode="nearest")


def _blocks(size: int) -> int:
    return (size // _BASE).bit_length() - 1


def _started(layer: Layer, *, he: bool = False) -> Layer:
    """The layer with its first weights, of variance 4 (He) or 2 over fan in + fan out."""
    nn.init.xavier_uniform_(layer.weight, gain=math.sqrt(2) if he else 1.0)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
