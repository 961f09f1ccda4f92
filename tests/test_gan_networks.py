"""The networks of the GANs of patches."""

import math

import numpy as np
import pytest
import torch
from builders import setting_with
from torch import nn

from patchad.errors import RequestError
from patchad.learn.fitting import build
from patchad.methods import method_of
from patchad.methods.parts import dcgan
from patchad.methods.parts.residual_networks import (
    Critic,
    DownBlock,
    Encoder,
    Generator,
    UpBlock,
    check_patch_size,
    layer_norm,
)

NAMES = ("fanogan", "anogan", "ali", "advae", "a_d")


def test_the_published_sizes() -> None:
    critic = Critic(64, 64)
    assert critic.down.features == 8192
    blocks = [conv for m in critic.down.blocks for conv in (m.convolutions[1],)]
    assert [b.out_channels for b in blocks] == [128, 256, 512, 512]
    generator = Generator(64, 64, 128)
    assert generator.dense.out_features == 8192
    assert [b.convolutions[0].out_channels for b in generator.blocks] == [512, 256, 128, 64]
    assert sum(p.numel() for p in critic.parameters()) == pytest.approx(7.5e6, rel=0.15)


@pytest.mark.parametrize("side", [16, 32, 64, 128])
def test_networks_suit_powers_of_two(side: int) -> None:
    made = Generator(side, 1, 5).eval()(torch.randn(2, 5))
    assert made.shape == (2, 1, side, side)
    assert made.abs().max() <= 1
    assert Critic(side, 1)(made).shape == (2, 1)
    codes = Encoder(side, 1, 5).eval()(made * 1000)
    assert codes.shape == (2, 5)
    assert codes.abs().max() <= 1
    assert Encoder(side, 1, 5, bounded=False).eval()(made * 1000).abs().max() > 1
    assert dcgan.Generator(side, 1, 5).eval()(torch.randn(2, 5)).shape == (2, 1, side, side)
    assert dcgan.Discriminator(side, 1).eval()(made).shape == (2, 1)


@pytest.mark.parametrize("side", [8, 48, 100])
def test_other_patch_sizes_are_refused(side: int) -> None:
    with pytest.raises(
        RequestError, match=f"patch_size must be a power of two from 16; got {side}"
    ):
        check_patch_size(side, "fanogan")
    for name in NAMES:
        with pytest.raises(RequestError, match="patch_size"):
            build(method_of(name), method_of(name).config(), setting_with(patch_size=side), 0)


def test_layer_norm_is_over_channels_rows_and_columns() -> None:
    x = torch.rand(2, 3, 4, 5) * torch.tensor([1.0, 9.0]).reshape(2, 1, 1, 1)
    found = layer_norm(3)(x).detach().numpy()
    for sample, own in zip(x.numpy(), found, strict=True):
        expected = (sample - sample.mean()) / np.sqrt(sample.var() + 1e-5)
        np.testing.assert_allclose(own, expected, rtol=1e-4, atol=1e-5)


def convolved(maps: np.ndarray, layer: nn.Conv2d) -> np.ndarray:
    """A convolution (C, H, W) by loops over outputs, with zeros around."""
    weight = layer.weight.detach().numpy().astype(float)
    pad = weight.shape[-1] // 2
    wide = np.pad(maps, [(0, 0), (pad, pad), (pad, pad)])
    found = np.zeros((len(weight), *maps.shape[1:]))
    for row in range(maps.shape[1]):
        for col in range(maps.shape[2]):
            window = wide[:, row : row + 2 * pad + 1, col : col + 2 * pad + 1]
            found[:, row, col] = (weight * window).sum((1, 2, 3))
    if layer.bias is not None:
        found += layer.bias.detach().numpy()[:, None, None]
    return found


def halved(maps: np.ndarray) -> np.ndarray:
    c, h, w = maps.shape
    return maps.reshape(c, h // 2, 2, w // 2, 2).mean((2, 4))


def doubled(maps: np.ndarray) -> np.ndarray:
    return maps.repeat(2, 1).repeat(2, 2)


def test_blocks_are_as_published() -> None:
    x = torch.randn(1, 2, 4, 4)
    own = x[0].numpy().astype(float)
    for kind in (DownBlock, UpBlock):
        block = kind(2, 3, lambda _: nn.Identity())
        for layer in (*block.convolutions, block.beside):
            if layer.bias is not None:
                nn.init.normal_(layer.bias)
        first, second = block.convolutions
        hidden = np.maximum(own, 0)
        if kind is DownBlock:
            # First as wide as the input, means after the second; beside it, means come first.
            hidden = convolved(np.maximum(convolved(hidden, first), 0), second)
            expected = halved(hidden) + convolved(halved(own), block.beside)
        else:
            hidden = convolved(doubled(hidden), first)
            expected = convolved(np.maximum(hidden, 0), second)
            expected += convolved(doubled(own), block.beside)
        np.testing.assert_allclose(block(x)[0].detach().numpy(), expected, rtol=1e-4, atol=1e-5)
        assert first.bias is None


def test_weights_start_as_published() -> None:
    first, second = DownBlock(64, 128, layer_norm).convolutions
    assert first.weight.std().item() == pytest.approx(math.sqrt(4 / (9 * 128)), rel=0.03)
    assert second.weight.std().item() == pytest.approx(math.sqrt(4 / (9 * 192)), rel=0.03)
    assert not second.bias.any()
    dense = Generator(64, 16, 128).dense
    assert dense.weight.std().item() == pytest.approx(math.sqrt(2 / (128 + 2048)), rel=0.03)


def test_dcgan_has_as_many_parameters_as_published() -> None:
    # PyTorch's example has 3,574,656 and 2,763,520 for one channel, without the biases of the
    # outermost layers: 1 of the generator, 64 + 1 of the discriminator.
    assert sum(p.numel() for p in dcgan.Generator(64, 64, 100).parameters()) == 3_574_657
    assert sum(p.numel() for p in dcgan.Discriminator(64, 64).parameters()) == 2_763_585
    assert dcgan.Generator(64, 64, 100).layers[0].weight.std().item() == pytest.approx(
        0.02, rel=0.02
    )
