"""ResNet-18 for one channel: its features, ImageNet weights by path, and NSA's decoder.

K. He, X. Zhang, S. Ren, J. Sun: Deep residual learning for image recognition. CVPR 2016,
https://arxiv.org/abs/1512.03385; MONAI's, with the strides that torchvision's has.
"""

from itertools import pairwise

import torch
from monai.networks.nets.resnet import ResNet
from torch import Tensor, nn
from torch.nn import functional

from patchad.errors import RequestError
from patchad.methods.parts.weights import fault_of, read_weights

PUBLISHED = (64, 128, 256, 512)  # channels of the four layers
SHRINKS = 32  # side of a picture / side of the last layer
_GREY = (0.449, 0.226)  # mean and standard deviation of ImageNet's pixels, over its three channels


class ResNet18(nn.Module):
    """Pictures (N, 1, h, w) in [0, 1] → maps (N, C, h / 32, w / 32), rounded up.

    ``channels`` of the four layers.
    """

    def __init__(self, channels: tuple[int, int, int, int] = PUBLISHED) -> None:
        super().__init__()
        self.network = ResNet(
            "basic",
            [2, 2, 2, 2],
            [*channels],
            spatial_dims=2,
            n_input_channels=1,
            conv1_t_stride=2,  # as torchvision; MONAI's default is 1
            feed_forward=False,
            bias_downsample=False,
        )

    def forward(self, pictures: Tensor) -> Tensor:
        """The last layer's maps."""
        net, (mean, deviation) = self.network, _GREY
        found = net.maxpool(net.act(net.bn1(net.conv1((pictures - mean) / deviation))))
        for layer in (net.layer1, net.layer2, net.layer3, net.layer4):
            found = layer(found)
        answer: Tensor = found
        return answer

    def pooled(self, pictures: Tensor) -> Tensor:
        """The means of the maps: (N, C)."""
        maps: Tensor = self(pictures)
        return maps.mean((2, 3))


class Outliner(nn.Module):
    """NSA's network: pictures (N, 1, S, S) in [0, 1] → logits (N, 1, S, S).

    ResNet-18, two 1 × 1 convolutions to a quarter of its channels, three transposed blocks, each
    twice as large, enlarged twice more; as in the released code, without batch norm in the 1 × 1
    convolutions. S is a multiple of 32.
    """

    def __init__(self, channels: tuple[int, int, int, int]) -> None:
        super().__init__()
        first, second, third, last = channels
        self.encoder = ResNet18(channels)
        self.narrow = nn.Sequential(
            *(nn.Conv2d(last, third, 1, bias=False), nn.ReLU()),
            *(nn.Conv2d(third, second, 1, bias=False), nn.ReLU()),
        )
        sizes = (second, first, max(first // 2, 1), max(first // 4, 1))
        self.up = nn.Sequential(*(_Enlarging(a, b) for a, b in pairwise(sizes)))
        self.last = nn.ConvTranspose2d(sizes[-1], 1, 7, 2, 3, output_padding=1, bias=False)
        for part in (self.narrow, self.up):
            for layer in part.modules():
                if isinstance(layer, nn.Conv2d):
                    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, pictures: Tensor) -> Tensor:
        """The logit of each pixel."""
        found = self.up(self.narrow(self.encoder(pictures)))
        found = functional.interpolate(found, scale_factor=2.0, mode="bilinear", align_corners=True)
        logits: Tensor = self.last(found)
        return logits


class _Enlarging(nn.Module):
    """A residual block that makes its maps twice as large."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.ConvTranspose2d(inputs, outputs, 3, 2, 1, output_padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.short = nn.Sequential(
            nn.ConvTranspose2d(inputs, outputs, 1, 2, output_padding=1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, given: Tensor) -> Tensor:
        return functional.relu(self.body(given) + self.short(given))


def load_imagenet(network: ResNet18, path: str, option: str) -> None:
    """Put torchvision's ImageNet weights of ResNet-18 into ``network``.

    Its first convolution takes three channels, whose kernels are added up, since a grey picture has
    three equal ones. The last, dense layer is left out.

    Args:
        network: with the published channels.
        path: a safetensors file with torchvision's names of tensors.
        option: the name of the option that gave the path, for messages.

    Raises:
        RequestError: the file is none such.
    """
    given = _read(path, option)
    first = given.get("conv1.weight")
    if first is not None and first.ndim == 4 and first.shape[1] == 3:
        given["conv1.weight"] = first.sum(1, keepdim=True)
    own = network.network.state_dict()
    counts = {key for key in own if key.endswith("num_batches_tracked")}  # old files lack them
    missing = sorted(own.keys() - given.keys() - counts)
    foreign = sorted(given.keys() - own.keys())
    if missing or foreign:
        what = f"lacks {missing[0]}" if missing else f"has {foreign[0]}, which is foreign to it"
        raise RequestError(
            f"{option}: {path} {what}: give the weights of torchvision's resnet18 "
            "(model.state_dict()) as safetensors"
        )
    for key, tensor in given.items():
        if tensor.shape != own[key].shape:
            raise RequestError(
                f"{option}: {key} in {path} is {tuple(tensor.shape)}, but {tuple(own[key].shape)} "
                "is needed: give the weights of torchvision's resnet18, and leave the method's "
                "channels as published"
            )
        if fault := fault_of(key, tensor):
            raise RequestError(f"{option}: {path} can't be used: {fault}")
    network.network.load_state_dict({**own, **given})


def _read(path: str, option: str) -> dict[str, Tensor]:
    """The file's tensors but for the dense layer's, float32."""
    return {
        key: tensor.to(torch.float32) if tensor.is_floating_point() else tensor
        for key, tensor in read_weights(path, option).items()
        if not key.startswith("fc.")
    }
