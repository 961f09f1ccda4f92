"""Variational and context-encoding autoencoders: their losses, masks, gradients and scores."""

import math

import numpy as np
import pytest
import torch
from builders import CPU, chest_film, kept_on_device, on_cpu, run_with, setting_with, training_set
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from patchad.errors import RequestError
from patchad.learn.fitting import fit
from patchad.methods import method_of
from patchad.methods.parts.hidden_squares import HIDDEN, draw_squares, hide
from patchad.methods.parts.variational import (
    Variational,
    divergence,
    input_gradient,
    note_collapse,
    sample,
)
from patchad.methods.reconstruction import ceae, cevae, vae
from patchad.model.scoring import score

TINY = {"side": 16, "channels": (2, 3, 4), "hidden": 5, "code": 3}


def test_the_divergence_is_that_of_two_gaussians() -> None:
    rng = np.random.default_rng(0)
    mean, log_variance = torch.tensor(rng.normal(size=(2, 5, 3)))
    expected = kl_divergence(
        Normal(mean, (log_variance / 2).exp()), Normal(torch.zeros(()), torch.ones(()))
    )
    np.testing.assert_allclose(divergence(mean, log_variance), expected, rtol=1e-12)
    by_hand = divergence(torch.tensor([[2.0]]), torch.tensor([[math.log(4.0)]]))
    assert by_hand.item() == pytest.approx((4 + 4 - math.log(4) - 1) / 2)


def test_codes_are_drawn_from_their_gaussians() -> None:
    found = sample(torch.tensor([1.0]), torch.tensor([math.log(9.0)]), torch.tensor([-2.0]))
    assert found.item() == pytest.approx(1 - 2 * 3)


def test_a_collapsed_posterior_is_noted() -> None:
    run = run_with()
    note_collapse(run, torch.tensor([[0.0, 0.3], [0.0, -0.3]]), torch.zeros(2, 2))
    assert run.notes == []  # the second dimension has 0.045 nats
    note_collapse(run, torch.tensor([[0.0, 0.1], [0.0, -0.1]]), torch.zeros(2, 2))
    assert run.notes[0].startswith("The posterior collapsed: ")


def test_gradients_at_pixels_are_taken_where_films_are_scored() -> None:
    weights = torch.rand(1, 1, 4, 4, generator=torch.Generator().manual_seed(0))

    def scalar(pictures: Tensor) -> Tensor:
        return (weights * pictures**3).sum((1, 2, 3))

    with torch.inference_mode():
        pictures = torch.arange(32.0).reshape(2, 1, 4, 4) / 32
        assert pictures.is_inference()
        found = input_gradient(scalar, pictures)
        np.testing.assert_allclose(found, 3 * weights * pictures**2, rtol=1e-6)
    assert not found.requires_grad


def test_the_network_draws_from_the_mean() -> None:
    network = Variational(16, 3, (2, 3, 4), 5).eval()
    pictures = torch.rand(2, 1, 16, 16)
    mean, log_variance = network.encode(pictures)
    assert mean.shape == log_variance.shape == (2, 3)
    assert torch.equal(network(pictures), network.decode(mean))
    assert network(pictures).shape == pictures.shape


def pictures_of(count: int, side: int = 16) -> Tensor:
    return torch.rand(count, 1, side, side, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize(("side", "size"), [(64, 10), (128, 20)])
def test_a_square_is_hidden_as_a_slow_loop_hides_it(side: int, size: int) -> None:
    pictures = pictures_of(3, side)
    chance = draw_squares(3, 3, torch.Generator().manual_seed(0))
    chance[:, 0] = torch.tensor([0.1, 0.5, 0.9])  # one, two and three squares
    expected = pictures.clone()
    for n in range(3):
        for k in range(n + 1):
            row, col = (int(u * (side - size + 1)) for u in chance[n, 1 + 2 * k : 3 + 2 * k])
            expected[n, 0, row : row + size, col : col + size] = HIDDEN
    found = hide(pictures, chance, 0.024)
    assert torch.equal(found, expected)
    assert (found[0] != pictures[0]).sum() == size**2


def test_squares_reach_every_border_and_none_beyond() -> None:
    ends = torch.tensor([[0.0, 0.0, 0.0], [0.0, 1 - 2**-24, 1 - 2**-24]])
    found = hide(torch.zeros(2, 1, 16, 16), ends, 0.1)[:, 0]
    assert (found[0, :5, :5] == HIDDEN).all()
    assert (found[1, 11:, 11:] == HIDDEN).all()
    assert (found == HIDDEN).sum() == 50
    assert (hide(torch.zeros(1, 1, 16, 16), ends[:1], 1.0) == HIDDEN).all()


def test_the_loss_is_error_and_weighed_divergence() -> None:
    module = vae.build(vae.Config(**TINY, divergence=0.5), setting_with()).eval()
    pictures, noise = pictures_of(4), torch.linspace(-1, 1, 12).reshape(4, 3)
    with torch.no_grad():
        mean, log_variance = (part.numpy() for part in module.network.encode(pictures))
        codes = mean + np.exp(log_variance / 2) * noise.numpy()
        redrawn = module.network.decode(torch.from_numpy(codes)).numpy()
        found = module.loss(pictures, noise).item()
    total = 0.0
    for n in range(4):
        total += float(((redrawn[n] - pictures[n].numpy()) ** 2).mean()) / 4
        for c in range(3):
            m, v = float(mean[n, c]), math.exp(log_variance[n, c])
            total += 0.5 * (m * m + v - math.log(v) - 1) / 2 / 12
    assert found == pytest.approx(total, rel=1e-5)


def test_by_option_errors_are_multiplied_by_the_gradient_of_the_divergence() -> None:
    setting = setting_with()
    plain, weighed = (
        vae.build(vae.Config(**TINY, score=score), setting).eval()
        for score in ("error", "gradient")
    )
    weighed.load_state_dict(plain.state_dict())
    squares = pictures_of(2) / 2 + 0.5
    signed = (squares * 2 - 1).requires_grad_(True)
    mean, log_variance = plain.network.encode(signed)
    mean_divergence = (mean**2 + log_variance.exp() - log_variance - 1).sum() / 2 / 3
    (gradient,) = torch.autograd.grad(mean_divergence, signed)
    expected = plain.maps(squares) * gradient[:, 0].abs()
    np.testing.assert_allclose(
        weighed.maps(squares).detach(), expected.detach(), rtol=1e-4, atol=1e-9
    )
    assert "gradient of the divergence" in weighed.unit


def test_films_are_scored_by_gradients_on_the_device() -> None:
    films = training_set([chest_film(seed) for seed in range(4)])
    config = vae.Config(
        side=32, channels=(4, 8, 8, 8), hidden=32, epochs=10, batch_size=2, score="gradient"
    )
    run = run_with()
    module = fit(method_of("vae"), config, films, run).module
    assert not any(parameter.requires_grad for parameter in module.parameters())
    film = on_cpu(films.film(0))
    with kept_on_device():
        answer = score(vae.METHOD, module, run.setting, film, run.setting.grid(film.shape))
    assert answer.map is not None
    assert answer.image is not None
    assert answer.map.device == CPU
    assert torch.isfinite(answer.map[film.mask]).all()
    assert answer.map[film.mask].max() > 0
    assert not answer.map.requires_grad


def test_the_target_of_a_context_encoder_is_the_whole_picture() -> None:
    module = ceae.build(ceae.Config(**TINY), setting_with())
    module.network = torch.nn.Identity()  # redraws what it sees: all but what is hidden
    pictures = pictures_of(2)
    chance = draw_squares(2, 1, torch.Generator().manual_seed(0))
    hidden = hide(pictures, chance, 0.024) != pictures
    expected = (pictures[hidden] - HIDDEN).square().sum() / pictures.numel()
    assert module.loss(pictures, chance).item() == pytest.approx(expected.item())
    assert module.maps(pictures / 2 + 0.5).abs().max() < 1e-6  # scored with nothing hidden


def test_the_second_reconstruction_is_of_the_mean_and_whole() -> None:
    config = cevae.Config(**TINY, divergence=0.5, context=2.0)
    module = cevae.build(config, setting_with()).eval()
    pictures, noise = pictures_of(4), torch.ones(4, 3)
    places = draw_squares(4, 1, torch.Generator().manual_seed(0))
    own = vae.build(vae.Config(**TINY, divergence=0.5), setting_with()).eval()
    own.load_state_dict(module.state_dict())
    with torch.no_grad():
        completed = module.network(hide(pictures, places, 0.024))
        expected = own.loss(pictures, noise) + 2 * (completed - pictures).square().mean()
        found = module.loss(pictures, torch.cat([noise, places], 1))
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)


def test_both_terms_of_the_loss_are_in_the_gradient() -> None:
    module = cevae.build(cevae.Config(**TINY, divergence=0.5), setting_with()).eval()
    squares = pictures_of(2) / 2 + 0.5
    signed = (squares * 2 - 1).requires_grad_(True)
    mean, log_variance = module.network.encode(signed)
    redrawn = module.network.decode(mean)
    loss = (redrawn - signed).square().sum() + 0.5 * 256 * divergence(mean, log_variance).sum() / 3
    (gradient,) = torch.autograd.grad(loss, signed)
    expected = ((redrawn - signed) * gradient).abs()[:, 0]
    with torch.inference_mode():
        found = module.maps(squares)
    np.testing.assert_allclose(found, expected.detach(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", [vae, ceae, cevae])
def test_a_side_that_cannot_be_halved_is_refused(method) -> None:
    with pytest.raises(
        RequestError, match=rf"{method.NAME}\.side must be a multiple of 16; got 40"
    ):
        method.build(method.Config(side=40), setting_with())
