"""The generator and the discriminator of DCGAN, for square patches.

A. Radford, L. Metz, S. Chintala: Unsupervised representation learning with deep convolutional
generative adversarial networks. ICLR 2016, https://arxiv.org/abs/1511.06434. Shapes below for
patches of 64; other powers of two have as many layers as lead to 4 × 4. Weights start normal with
s.d. 0.02, the gains of batch norm so around 1.
"""

from itertools import pairwise

from torch import Tensor, nn

_BASE = 4
_WIDEST = 8
_SLOPE = 0.2  # of leaky units


class Generator(nn.Module):
    """Codes (N, ``code``) → patches (N, 1, S, S) in (-1, 1), by transposed convolutions."""

    def __init__(self, size: int, width: int, code: int) -> None:
        super().__init__()
        channels = _channels(size, width)[::-1]  # 8, 4, 2, 1 times the width
        layers: list[nn.Module] = [
            nn.ConvTranspose2d(code, channels[0], _BASE, bias=False),
            nn.BatchNorm2d(channels[0]),
            nn.ReLU(),
        ]
        for inputs, outputs in pairwise(channels):
            layers += [
                nn.ConvTranspose2d(inputs, outputs, 4, 2, 1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(),
            ]
        self.layers = nn.Sequential(
            *layers, nn.ConvTranspose2d(channels[-1], 1, 4, 2, 1), nn.Tanh()
        ).apply(_start)

    def forward(self, codes: Tensor) -> Tensor:
        """The patch of each code."""
        found: Tensor = self.layers(codes[:, :, None, None])
        return found


class Discriminator(nn.Module):
    """Patches (N, 1, S, S) → logits (N, 1), by strided convolutions; ``down`` gives features."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        channels = _channels(size, width)  # 1, 2, 4, 8 times the width
        layers: list[nn.Module] = [nn.Conv2d(1, channels[0], 4, 2, 1), nn.LeakyReLU(_SLOPE)]
        for inputs, outputs in pairwise(channels):
            layers += [
                nn.Conv2d(inputs, outputs, 4, 2, 1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.LeakyReLU(_SLOPE),
            ]
        self.down = nn.Sequential(*layers, nn.Flatten()).apply(_start)
        self.dense = nn.Linear(channels[-1] * _BASE**2, 1)
        self.dense.apply(_start)

    def forward(self, patches: Tensor) -> Tensor:
        """The logit of each patch: high for real ones."""
        found: Tensor = self.dense(self.down(patches))
        return found


def _channels(size: int, width: int) -> list[int]:
    """Of the maps from half the side down to 4 × 4."""
    count = (size // _BASE).bit_length() - 1
    return [width * min(_WIDEST, 2**k) for k in range(count)]


def _start(layer: nn.Module) -> None:
    if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
        nn.init.normal_(layer.weight, 0.0, 0.02)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    elif isinstance(layer, nn.BatchNorm2d):
        nn.init.normal_(layer.weight, 1.0, 0.02)
        nn.init.zeros_(layer.bias)
