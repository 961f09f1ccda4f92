"""Structural similarity and focal loss, against libraries and slow versions."""

import math

import numpy as np
import pytest
import torch
from monai.losses.focal_loss import FocalLoss
from monai.metrics.regression import MultiScaleSSIMMetric
from scipy.ndimage import gaussian_filter
from skimage.metrics import structural_similarity

from patchad.methods.parts.losses import focal_loss, most_levels, ms_ssim, ssim_loss, ssim_map


def pictures(shape=(3, 1, 64, 64), seed=0):
    """Smooth pictures, and the same with noise."""
    rng = np.random.default_rng(seed)
    one = np.clip(gaussian_filter(rng.normal(0.5, 1.5, shape), (0, 0, 3, 3)), 0, 1)
    other = np.clip(one + rng.normal(0, 0.05, shape), 0, 1)
    return one.astype(np.float32), other.astype(np.float32)


@pytest.mark.parametrize(("height", "width", "span"), [(64, 64, 1.0), (40, 23, 1.0), (32, 32, 2.0)])
def test_ssim_is_that_of_scikit_image(height, width, span):
    one, other = pictures((3, 1, height, width))
    found = ssim_map(torch.from_numpy(one), torch.from_numpy(other), span)
    assert found.shape == (3, 1, height, width)
    for n in range(3):
        _, expected = structural_similarity(
            one[n, 0].astype(np.float64),
            other[n, 0].astype(np.float64),
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=span,
            full=True,
        )
        np.testing.assert_allclose(found[n, 0].numpy(), expected, atol=2e-4)
    assert 0.02 < found.std() < 1
    loss = ssim_loss(torch.from_numpy(one), torch.from_numpy(other), span)
    assert loss.item() == pytest.approx(1 - found.mean().item())


def test_ssim_of_constant_pictures_by_hand():
    """Without contrast it is (2ab + c) / (a² + b² + c)."""
    flat = [torch.full((1, 1, 16, 16), value) for value in (0.4, 0.5, 0.8)]
    np.testing.assert_allclose(ssim_map(flat[1], flat[1]).numpy(), 1, atol=1e-5)
    np.testing.assert_allclose(ssim_map(flat[0], flat[2]).numpy(), 0.6401 / 0.8001, atol=1e-4)


def slow_ms_ssim(x, y, weights):
    total, product = sum(weights), 1.0
    for level, weight in enumerate(weights):
        if level:
            x, y = (a.reshape(a.shape[0] // 2, 2, -1, 2).mean((1, 3)) for a in (x, y))

        def mean(a):
            return gaussian_filter(a, 1.5, truncate=3.5)[5:-5, 5:-5]

        mx, my = mean(x), mean(y)
        cs = (2 * (mean(x * y) - mx * my) + 9e-4) / (
            mean(x * x) - mx**2 + mean(y * y) - my**2 + 9e-4
        )
        if level == len(weights) - 1:
            cs = cs * (2 * mx * my + 1e-4) / (mx**2 + my**2 + 1e-4)
        product *= max(cs.mean(), 0) ** (weight / total)
    return product


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_ms_ssim_is_that_of_a_slow_version(levels):
    one, other = pictures()
    found = ms_ssim(torch.from_numpy(one), torch.from_numpy(other), levels)
    weights = (0.0448, 0.2856, 0.3001)[:levels]
    expected = [
        slow_ms_ssim(x[0].astype(float), y[0].astype(float), weights)
        for x, y in zip(one, other, strict=True)
    ]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4)
    assert (found < 0.99).all()


def test_ms_ssim_of_five_levels_is_that_of_monai():
    one, other = (torch.from_numpy(part) for part in pictures((2, 1, 192, 192)))
    expected = MultiScaleSSIMMetric(2)._compute_tensor(one, other)[:, 0]
    np.testing.assert_allclose(ms_ssim(one, other).numpy(), expected.numpy(), rtol=1e-4)


def test_ms_ssim_has_a_gradient_where_nothing_is_similar():
    ramp = torch.linspace(0, 1, 32).expand(1, 1, 32, 32)
    other = (1 - ramp).clone().requires_grad_(True)
    ms_ssim(ramp, other, 2).sum().backward()
    assert other.grad is not None
    assert torch.isfinite(other.grad).all()


@pytest.mark.parametrize(("side", "levels"), [(10, 0), (11, 1), (22, 2), (64, 3), (176, 5)])
def test_as_many_levels_as_the_window_fits(side, levels):
    assert most_levels(side) == levels
    one = torch.rand(1, 1, side, side)
    if levels:
        assert ms_ssim(one, one, levels).item() == pytest.approx(1, abs=1e-5)
    if levels < 5:
        with pytest.raises(ValueError, match="smaller than 11 pixels"):
            ms_ssim(one, one, levels + 1)


def test_no_weights_for_six_levels():
    with pytest.raises(ValueError, match="1 to 5 levels, not for 6"):
        ms_ssim(torch.rand(1, 1, 512, 512), torch.rand(1, 1, 512, 512), 6)


def test_focal_loss_is_that_of_a_slow_loop():
    rng = np.random.default_rng(0)
    logits, target = rng.normal(0, 3, (2, 3, 4)), rng.integers(0, 3, (2, 4))
    smoothing, terms = 0.01, []
    for n in range(2):
        for k in range(4):
            shares = np.exp(logits[n, :, k]) / np.exp(logits[n, :, k]).sum()
            true = smoothing
            for c in range(3):
                true += shares[c] * (1 - smoothing if c == target[n, k] else smoothing / 2)
            terms.append(-((1 - true) ** 2) * math.log(true))
    found = focal_loss(torch.tensor(logits), torch.tensor(target), smoothing=smoothing)
    assert found.item() == pytest.approx(np.mean(terms), rel=1e-5)


def test_focal_loss_without_smoothing_is_that_of_monai():
    logits, target = torch.randn(2, 2, 8, 8), torch.randint(2, (2, 8, 8))
    expected = FocalLoss(to_onehot_y=True, gamma=2.0, use_softmax=True, reduction="sum")(
        logits, target[:, None]
    )
    found = focal_loss(logits, target, smoothing=0.0)  # that sums over classes and images
    assert found.item() == pytest.approx(expected.item() / 2, rel=1e-5)


def test_focal_loss_of_the_wrong_class_is_finite():
    logits = torch.tensor([[200.0, -200.0]], requires_grad=True)
    loss = focal_loss(logits, torch.tensor([1]))
    assert loss.item() == pytest.approx(-math.log(2e-5), rel=1e-3)
    assert focal_loss(logits, torch.tensor([0])).item() == pytest.approx(0, abs=1e-9)


def test_losses_are_float32_under_autocast():
    one, other = (torch.from_numpy(part) for part in pictures((1, 1, 32, 32)))
    with torch.autocast("cpu", torch.bfloat16):
        found = ssim_map(one, other), ms_ssim(one, other, 2)
        focal = focal_loss(torch.randn(1, 2, 4), torch.zeros(1, 4, dtype=torch.int64))
    assert focal.dtype == torch.float32
    for value, plain in zip(found, (ssim_map(one, other), ms_ssim(one, other, 2)), strict=True):
        assert torch.equal(value, plain)
