"""The two networks of DRAEM: one redraws a picture without anomalies, the other outlines them.

As in the code of V. Zavrtanik, M. Kristan, D. Skočaj: DRAEM, ICCV 2021,
https://arxiv.org/abs/2108.07610. Channels are multiples of a width.
"""

import torch
from torch import Tensor, nn

SHRINKS = 2**5  # a side is a multiple of this
_REDRAW_DOWN, _REDRAW_UP = (1, 2, 4, 8, 8), (4, 2, 1, 1)
_OUTLINE_DOWN, _OUTLINE_UP = (1, 2, 4, 8, 8, 8), (8, 4, 2, 1, 1)
_SPREAD = 0.02  # of the weights at the start


class Redraw(nn.Module):
    """Pictures (N, 1, S, S) → the same shape, linear. Without skips: no anomaly passes by."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.down = _encoder(1, width, _REDRAW_DOWN)
        layers: list[nn.Module] = []
        channels = width * _REDRAW_DOWN[-1]
        for after in _REDRAW_UP:
            layers += [*_doubled(channels, channels), *_layer(channels, channels)]
            layers += _layer(channels, width * after)
            channels = width * after
        self.up = nn.Sequential(*layers, nn.Conv2d(channels, 1, 3, padding=1))
        _start(self)

    def forward(self, pictures: Tensor) -> Tensor:
        """The pictures as they should be."""
        for level in self.down:
            pictures = level(pictures)
        redrawn: Tensor = self.up(pictures)
        return redrawn


class Outline(nn.Module):
    """A reconstruction and its picture (N, 2, S, S) → logits of normal and anomalous pixels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.down = _encoder(2, width, _OUTLINE_DOWN)
        self.doubled, self.joined = nn.ModuleList(), nn.ModuleList()
        channels = width * _OUTLINE_DOWN[-1]
        for after, skipped in zip(_OUTLINE_UP, _OUTLINE_DOWN[-2::-1], strict=True):
            self.doubled.append(nn.Sequential(*_doubled(channels, width * after)))
            channels = width * after
            both = channels + width * skipped
            self.joined.append(nn.Sequential(*_layer(both, channels), *_layer(channels, channels)))
        self.last = nn.Conv2d(channels, 2, 3, padding=1)
        _start(self)

    def forward(self, seen: Tensor) -> Tensor:
        """The logits (N, 2, S, S)."""
        levels: list[Tensor] = []
        for level in self.down:
            seen = level(seen)
            levels.append(seen)
        steps = zip(self.doubled, self.joined, levels[-2::-1], strict=True)
        for doubled, joined, skipped in steps:
            seen = joined(torch.cat([doubled(seen), skipped], 1))
        logits: Tensor = self.last(seen)
        return logits


def _encoder(inputs: int, width: int, levels: tuple[int, ...]) -> nn.ModuleList:
    """Levels of two layers each, halved by maxima between."""
    found = nn.ModuleList()
    for number, level in enumerate(levels):
        outputs = width * level
        halved = [nn.MaxPool2d(2)] if number else []
        found.append(nn.Sequential(*halved, *_layer(inputs, outputs), *_layer(outputs, outputs)))
        inputs = outputs
    return found


def _doubled(inputs: int, outputs: int) -> list[nn.Module]:
    return [
        nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
        *_layer(inputs, outputs),
    ]


def _layer(inputs: int, outputs: int) -> list[nn.Module]:
    """As in the code, but for the bias, which batch norm takes off again."""
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]


def _start(network: nn.Module) -> None:
    """Weights as the code starts them: N(0, 0.02), those of batch norm N(1, 0.02)."""
    for part in network.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.normal_(part.weight, 0.0, _SPREAD)
        elif isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.weight, 1.0, _SPREAD)
