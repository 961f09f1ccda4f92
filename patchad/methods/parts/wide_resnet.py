"""A wide residual network that answers at each pixel: the one of FPI and PII.

S. Zagoruyko, N. Komodakis: Wide residual networks. BMVC 2016, https://arxiv.org/abs/1605.07146,
as the released code of FPI and PII extends it: five blocks down, four up, no skips between them.
"""

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional

HALVINGS = 4


class WideResNet(nn.Module):
    """(N, 1, S, S) → logits (N, 1, S, S), S a multiple of 16.

    Args:
        width: of the blocks, 4 as published: channels of 16, then 64, 128, 256, 256, 256 down (all
            but the first at half the size each) and 128, 64, 16, 1 up.

    Kernels start as He et al. have it, batch norm as PyTorch does.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        down = (16, 16 * width, 32 * width, 64 * width, 64 * width, 64 * width)
        up = (down[-1], down[2], down[1], down[0], 1)
        self.first = _convolution(1, down[0])
        self.down = nn.Sequential(
            *(
                Block(a, b, 1 if number == 0 else 0.5)
                for number, (a, b) in enumerate(pairwise(down))
            )
        )
        self.up = nn.Sequential(*(Block(a, b, 2) for a, b in pairwise(up)))

    def forward(self, pictures: Tensor) -> Tensor:
        """The logit of each pixel."""
        found: Tensor = self.up(self.down(self.first(pictures)))
        return found


class Block(nn.Module):
    """Two 3 × 3 convolutions, each after batch norm and ReLU, and a shortcut.

    ``factor`` of the size: 1; 0.5, by the first convolution's stride; 2, by repetition after it.
    The shortcut is a 1 × 1 convolution where the channels change, of what the first batch norm and
    ReLU gave; else the input, halved by means or doubled by repetition.
    """

    def __init__(self, inputs: int, outputs: int, factor: float) -> None:
        super().__init__()
        self.factor = factor
        stride = 2 if factor < 1 else 1
        self.norms = nn.ModuleList([nn.BatchNorm2d(inputs), nn.BatchNorm2d(outputs)])
        self.convolutions = nn.ModuleList(
            [_convolution(inputs, outputs, stride=stride), _convolution(outputs, outputs)]
        )
        self.short = _convolution(inputs, outputs, 1, stride) if inputs != outputs else None

    def forward(self, given: Tensor) -> Tensor:
        """(N, inputs, h, w) → (N, outputs, h', w')."""
        active = functional.relu(self.norms[0](given))
        found: Tensor = self._enlarged(self.convolutions[0](active))
        found = self.convolutions[1](functional.relu(self.norms[1](found)))
        if self.short is not None:
            short = self._enlarged(self.short(active))
        else:
            short = functional.avg_pool2d(given, 2) if self.factor < 1 else self._enlarged(given)
        both: Tensor = found + short
        return both

    def _enlarged(self, values: Tensor) -> Tensor:
        return functional.interpolate(values, scale_factor=2.0) if self.factor > 1 else values


def _convolution(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Conv2d:
    found = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    nn.init.kaiming_normal_(found.weight, nonlinearity="relu")
    return found
