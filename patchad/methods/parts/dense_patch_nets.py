"""Networks that describe a patch of 17, 33 or 65 pixels, or every pixel of a picture by its patch.

P. Bergmann, M. Fauser, D. Sattlegger, C. Steger: Uninformed students: student-teacher anomaly
detection with discriminative latent embeddings. CVPR 2020, https://arxiv.org/abs/1911.02357.

Convolutions without padding, leaky ReLU of slope 0.005 between them, maxima over 2 × 2. The paper's
table seems to print kernels that don't fit the first field and the last; these are those of public
code. Of 33 and 65 pixels, 32 and 60 reach the output: a maximum leaves out an odd line. Every pixel
is described at once by maxima of stride 1 with the dilation doubled behind each, which gives what
the network gives for each patch alone.
"""

from collections.abc import Iterator, Mapping
from typing import Literal, get_args

from torch import Tensor, nn
from torch.nn import functional as F

Field = Literal[17, 33, 65]  # side of the patch that describes a pixel
FIELDS: tuple[int, ...] = get_args(Field)

_SLOPE = 5e-3
# Convolutions (channels in widths, kernel); None halves by maxima. The paper's width is 128.
_LAYERS: Mapping[int, tuple[tuple[int, int] | None, ...]] = {
    17: ((1, 6), (2, 5), (2, 5), (1, 4)),
    33: ((1, 5), None, (2, 5), None, (2, 2), (1, 4)),
    65: ((1, 5), None, (1, 5), None, (1, 5), None, (2, 4), (1, 1)),
}


def reach(field: int) -> int:
    """How many pixels a side really reach the output: 17, 32, 60."""
    seen, step = 1, 1
    for layer in _LAYERS[field]:
        seen += ((layer[1] if layer else 2) - 1) * step
        step *= 1 if layer else 2
    return seen


class PatchNet(nn.Module):
    """The network of a ``field``; a descriptor has ``width`` numbers."""

    def __init__(self, field: int, width: int) -> None:
        super().__init__()
        self.layers = _LAYERS[field]
        self.reach = reach(field)
        channels, made = 1, []
        for layer in self.layers:
            if layer:
                made.append(nn.Conv2d(channels, layer[0] * width, layer[1]))
                channels = layer[0] * width
        self.convolutions = nn.ModuleList(made)

    def forward(self, patches: Tensor) -> Tensor:
        """Patches (N, 1, S, S) → (N, width, h, w), 1 × 1 if S is the field or its reach.

        Larger patches have a descriptor every 1, 4 or 8 pixels.
        """
        for convolution, _ in self._steps():
            if convolution is None:
                patches = F.max_pool2d(patches, 2)
            else:
                patches = self._bent(convolution(patches), convolution)
        return patches

    def dense(self, pictures: Tensor) -> Tensor:
        """The descriptor of every pixel: (N, 1, H, W) → (N, width, H, W).

        It is that of the patch of ``reach`` pixels around it, one more above and to the left where
        they are even; beyond the border pictures are mirrored, so sides must exceed half the reach.
        """
        before, after = self.reach // 2, (self.reach - 1) // 2
        found = F.pad(pictures, (before, after, before, after), mode="reflect")
        for convolution, step in self._steps():
            if convolution is None:
                found = F.max_pool2d(found, 2, stride=1, dilation=step)
            else:
                weight, bias = convolution.weight, convolution.bias
                found = self._bent(F.conv2d(found, weight, bias, dilation=step), convolution)
        return found

    def _steps(self) -> Iterator[tuple[nn.Conv2d | None, int]]:
        """Each layer (None: maxima), and how far apart in pixels what it sees would lie."""
        step, number = 1, 0
        for layer in self.layers:
            if layer is None:
                yield None, step
                step *= 2
            else:
                convolution = self.convolutions[number]
                assert isinstance(convolution, nn.Conv2d)
                yield convolution, step
                number += 1

    def _bent(self, values: Tensor, convolution: nn.Conv2d) -> Tensor:
        """Leaky ReLU behind every convolution but the last."""
        return values if convolution is self.convolutions[-1] else F.leaky_relu(values, _SLOPE)
