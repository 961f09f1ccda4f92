import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from patchad.prepare.resize import resize, resize_tensor
from patchad.prepare.smoothing import gaussian, masked_gaussians, reach, spectrum_of

MODES = {"zero": "constant", "nearest": "nearest"}
SIGMAS = [(1.0, 1.0), (2.5, 7.0), (16.0, 3.0), (64.0, 64.0), (0.0, 5.0)]


def film(*shape: int, seed: int = 0, level: float = 0.0) -> np.ndarray:
    """Smooth structure, a step and noise, in [0, 1] above ``level``: float32."""
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.random(shape), [0] * (len(shape) - 2) + [8, 8])
    smooth = (smooth - smooth.min()) / max(np.ptp(smooth), 1e-9)
    smooth[..., : shape[-1] // 3] += 0.5
    return (level + smooth / 2 + rng.random(shape) / 100).astype(np.float32)


def scipy_gaussian(values, sigma, order=(0, 0), border="zero", truncate=3.0):
    return ndimage.gaussian_filter(
        values.astype(np.float64), sigma, order=order, mode=MODES[border], truncate=truncate
    )


def assert_close(found: torch.Tensor, expected: np.ndarray, least: float = 0.0) -> None:
    extent = max(float(np.ptp(expected)), least)
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-5 * extent)


@pytest.mark.parametrize("border", MODES)
@pytest.mark.parametrize("shape", [(300, 211), (40, 25), (1, 7), (3, 1)])
def test_every_gaussian_of_one_spectrum_is_scipy_s(border, shape) -> None:
    values = film(*shape)
    whole = spectrum_of(torch.from_numpy(values), (reach(64), reach(64)), border=border)
    for sigma in SIGMAS:
        found = whole.gaussian(sigma)
        assert found.dtype == torch.float32
        assert_close(found, scipy_gaussian(values, sigma, border=border), np.ptp(values))


@pytest.mark.parametrize("border", MODES)
@pytest.mark.parametrize("order", [(1, 0), (0, 1), (1, 1), (2, 0), (0, 2), (2, 1)])
def test_derivatives_are_scipy_s(border, order) -> None:
    values = film(120, 90)
    found = gaussian(torch.from_numpy(values), (3.0, 2.0), order=order, border=border)
    assert_close(found, scipy_gaussian(values, (3.0, 2.0), order, border))


@settings(max_examples=40)
@given(
    shape=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    sigma=st.tuples(st.floats(0.2, 30), st.floats(0.2, 30)),
    truncate=st.sampled_from([1.0, 3.0, 4.0]),
    border=st.sampled_from(sorted(MODES)),
)
def test_any_size_and_width(shape, sigma, truncate, border) -> None:
    values = np.random.default_rng(0).random(shape, np.float32)
    found = gaussian(torch.from_numpy(values), sigma, border=border, truncate=truncate)
    assert_close(found, scipy_gaussian(values, sigma, border=border, truncate=truncate), 1.0)


def test_a_batch_is_its_films() -> None:
    values = film(3, 50, 40)
    found = gaussian(torch.from_numpy(values), (4.0, 2.0), border="nearest")
    for one, expected in zip(found, values, strict=True):
        assert_close(one, scipy_gaussian(expected, (4.0, 2.0), border="nearest"))


def test_small_differences_on_a_bright_film_keep_their_digits() -> None:
    values = film(200, 160, level=1000.0)
    found = gaussian(torch.from_numpy(values), (5.0, 5.0), border="nearest")
    # float32 itself rounds 1000 to 6e-5.
    expected = scipy_gaussian(values, (5.0, 5.0), border="nearest")
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-4)


def test_float64_stays_float64() -> None:
    values = film(64, 64).astype(np.float64)
    found = gaussian(torch.from_numpy(values), (3.0, 3.0))
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found.numpy(), scipy_gaussian(values, (3.0, 3.0)), atol=1e-13)


def test_lengths_that_are_padded_further() -> None:
    values = film(1024 - 3, 20)
    assert_close(gaussian(torch.from_numpy(values), (1.0, 1.0)), scipy_gaussian(values, (1, 1)))


def test_a_kernel_wider_than_the_padding_is_refused() -> None:
    narrow = spectrum_of(torch.zeros(9, 9), (reach(2), reach(2)), border="zero")
    with pytest.raises(ValueError, match=r"5 pixels reaches 15 pixels.*padded by 6"):
        narrow.gaussian((2.0, 5.0))
    with pytest.raises(ValueError, match="order 0, 1 or 2, not 3"):
        narrow.gaussian((2.0, 2.0), (3, 0))


def test_masked_gaussians_are_quotients() -> None:
    values = film(300, 211, level=0.2)
    mask = np.zeros(values.shape, bool)
    mask[30:140, 100:211] = True
    mask[200:202, 5:40] = True  # a thin strand
    mask[290, 3] = True  # and a pixel by itself
    unknown = torch.from_numpy(np.where(mask, values, np.float32(np.nan)))
    found = masked_gaussians(unknown, torch.from_numpy(mask), SIGMAS)
    assert len(found) == len(SIGMAS)
    for sigma, mean in zip(SIGMAS, found, strict=True):
        weight = scipy_gaussian(mask, sigma)
        total = scipy_gaussian(np.where(mask, values, 0), sigma)
        expected = np.divide(total, weight, out=np.zeros_like(total), where=weight > 1e-6)
        assert mean.dtype == torch.float32
        assert_close(mean, expected)
        assert (mean[torch.from_numpy(weight == 0)] == 0).all()


def test_a_constant_under_a_mask_stays_that_constant() -> None:
    mask = torch.zeros(40, 40, dtype=torch.bool)
    mask[5:20, 3:30] = True
    (mean,) = masked_gaussians(torch.full((40, 40), 0.3), mask, [(2.0, 2.0)])
    assert mean[mask].numpy() == pytest.approx(0.3, rel=1e-6)


def test_masked_gaussians_of_nothing() -> None:
    empty = torch.zeros(8, 8, dtype=torch.bool)
    (mean,) = masked_gaussians(torch.ones(8, 8), empty, [(2.0, 2.0)])
    assert (mean == 0).all()
    assert masked_gaussians(torch.ones(8, 8), empty, []) == []


@pytest.mark.parametrize("shape", [(40, 25), (200, 333), (90, 70), (1, 1), (91, 30), (90, 71)])
def test_resized_as_by_pillow(shape) -> None:
    values = film(90, 70)
    expected = resize(values, shape)
    found = resize_tensor(torch.from_numpy(values), shape)
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-4)
    both = resize_tensor(torch.from_numpy(np.stack([values, values + 1])), shape)
    assert both.shape == (2, *shape)
    np.testing.assert_allclose(both[1].numpy(), expected + 1, rtol=0, atol=1e-4)
