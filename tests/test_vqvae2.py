"""Codes that follow vectors, and the autoencoder of two levels."""

import math

import numpy as np
import pytest
import torch
from builders import chest_film, fitted, run_with, setting_with, training_set

from patchad.errors import RequestError
from patchad.methods.parts.quantiser import Quantiser, perplexity
from patchad.methods.reconstruction import vqvae2

TINY = vqvae2.Config(
    side=16, channels=4, blocks=1, block_channels=2, codes=8, length=3, epochs=2, batch_size=2
)


def quantiser(codes, decay=0.9):
    found = Quantiser(len(codes), len(codes[0]), decay)
    found.codes.copy_(torch.tensor(codes))
    found.counts.fill_(1.0)
    found.sums.copy_(found.codes)
    return found


def test_the_nearest_code_is_that_of_a_slow_loop():
    rng = np.random.default_rng(0)
    values, codes = rng.normal(size=(2, 3, 4, 5)), rng.normal(size=(7, 3))
    module = quantiser(codes.tolist()).eval()
    inputs = torch.tensor(values, dtype=torch.float32)
    found, apart = module(inputs)
    total = 0.0
    for n in range(2):
        for i in range(4):
            for j in range(5):
                away = ((codes - values[n, :, i, j]) ** 2).sum(1)
                np.testing.assert_allclose(found[n, :, i, j].numpy(), codes[away.argmin()], 1e-4)
                assert module.nearest(inputs)[n, i, j] == away.argmin()
                total += away.min()
    assert apart.item() == pytest.approx(total / values.size, rel=1e-4)


def test_the_gradient_passes_as_if_codes_were_values():
    module = quantiser([[0.0, 0.0], [1.0, 1.0]])
    values = torch.rand(1, 2, 2, 2, requires_grad=True)
    weights = torch.rand(1, 2, 2, 2)
    found, _ = module(values)
    (gradient,) = torch.autograd.grad((found * weights).sum(), values)
    torch.testing.assert_close(gradient, weights)


def test_codes_follow_their_vectors_by_hand():
    """Vectors 1 and 3 are nearest to code 2, none to code -9: counts 0.9 + 0.2, sums 1.8 + 0.4."""
    module = quantiser([[2.0], [-9.0]])
    values = torch.tensor([1.0, 3.0]).reshape(1, 1, 1, 2)
    module(values)
    np.testing.assert_allclose(module.counts.numpy(), [1.1, 0.9], rtol=1e-6)
    np.testing.assert_allclose(module.sums.numpy(), [[2.2], [-8.1]], rtol=1e-6)
    np.testing.assert_allclose(module.codes.numpy(), [[2.0], [-9.0]], rtol=1e-4)
    module(values + 4.0)  # 5 and 7 too
    np.testing.assert_allclose(module.counts.numpy(), [1.19, 0.81], rtol=1e-6)
    np.testing.assert_allclose(module.codes.numpy(), [[3.18 / 1.19], [-9.0]], rtol=1e-4)


def test_codes_stay_when_scoring():
    module = quantiser([[2.0], [-9.0]]).eval()
    module(torch.rand(1, 1, 4, 4), torch.rand(2))
    assert module.codes.tolist() == [[2.0], [-9.0]]
    assert module.counts.tolist() == [1.0, 1.0]


def test_codes_start_at_vectors_of_the_first_step():
    module = Quantiser(4, 2, 0.99)
    values = torch.arange(16.0).reshape(1, 2, 2, 4)  # 8 vectors, two for each code
    found, apart = module(values, torch.tensor([0.0, 0.4, 0.6, 0.99]))
    flat = values.reshape(2, 8).T
    expected = flat[[0, 2, 5, 7]]
    assert set(map(tuple, found.movedim(1, -1).reshape(8, 2).tolist())) <= set(
        map(tuple, expected.tolist())
    )
    assert apart > 0
    # Each starts with 5 % of a fair count of 2, of which 99 % are left, + 1 % of 8 vectors.
    assert module.counts.sum().item() == pytest.approx(0.99 * 4 * 0.1 + 0.08, rel=1e-5)
    assert (module.counts >= 0.099).all()


def test_a_dead_code_starts_again_and_a_used_one_does_not():
    module = quantiser([[0.5], [-9.0]])
    values = torch.linspace(0, 1, 16).reshape(1, 1, 4, 4)
    chance = torch.tensor([0.0, 0.5])
    module(values, chance)
    used = module.codes[0].item()
    assert 0.4 < used < 0.6
    assert module.codes[1].item() == pytest.approx(-9, rel=1e-4)  # its count is still 0.9
    for _ in range(100):
        module(values, chance)
    assert module.codes.min() > 0
    assert module.codes.max() < 1
    assert perplexity(module.nearest(values), 2).item() > 1.5


def test_perplexity_by_hand():
    which = torch.tensor([[0, 0], [1, 3]])
    expected = math.exp(0.5 * math.log(2) + 2 * 0.25 * math.log(4))
    assert perplexity(which, 5).item() == pytest.approx(expected)
    assert perplexity(torch.zeros(4, dtype=torch.int64), 5).item() == pytest.approx(1)
    assert perplexity(torch.arange(6), 6).item() == pytest.approx(6, rel=1e-5)


def test_the_levels_lie_at_a_quarter_and_an_eighth():
    module = vqvae2.build(vqvae2.Config(side=64), setting_with()).eval()
    pictures = torch.rand(2, 1, 64, 64) * 2 - 1
    coarse, fine = module.network.chosen(pictures)
    assert coarse.shape == (2, 8, 8)
    assert fine.shape == (2, 16, 16)
    redrawn, apart = module.network(pictures)
    assert redrawn.shape == pictures.shape
    assert apart > 0
    maps = module.maps((pictures + 1) / 2)
    expected = (pictures - redrawn).square()[:, 0]
    torch.testing.assert_close(maps, expected, rtol=1e-3, atol=1e-4)


def test_the_loss_is_the_error_and_the_distance():
    module = vqvae2.build(TINY, setting_with()).eval()
    pictures = torch.rand(2, 1, 16, 16) * 2 - 1
    redrawn, apart = module.network(pictures)
    expected = (redrawn - pictures).square().mean() + 0.25 * apart
    torch.testing.assert_close(module.loss(pictures, torch.rand(2, 8)), expected)


def test_a_side_that_cannot_be_halved_is_refused():
    with pytest.raises(RequestError, match=r"vqvae2 halves its square 3 times.*got 60"):
        vqvae2.build(vqvae2.Config(side=60), setting_with())


def test_codes_hardly_in_use_are_noted(monkeypatch):
    monkeypatch.setattr(vqvae2, "perplexity", lambda *_: torch.tensor(1.5))
    run = run_with()
    fitted("vqvae2", TINY, training_set([chest_film(seed) for seed in range(3)]), run)
    found = [note for note in run.notes if "hardly any are in use" in note]
    assert found == [
        f"Of the 8 codes of the {level} level hardly any are in use (perplexity 1.5)."
        for level in ("coarse", "fine")
    ]
