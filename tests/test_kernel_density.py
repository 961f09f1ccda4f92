"""Densities of codes, and the two detectors that stand on them."""

import math

import numpy as np
import pytest
import torch
from builders import fitted, on_cpu, prepared, run_with, setting_with, training_set
from sklearn.neighbors import KernelDensity as Estimate

from patchad.errors import RequestError, TrainingError
from patchad.learn.checkpoint import epoch_generator
from patchad.learn.fitting import build
from patchad.learn.run import GivenUp
from patchad.methods import method_of
from patchad.methods.configure import read_config
from patchad.methods.density import kde
from patchad.methods.parts.kernel_density import _BANDWIDTHS, KernelDensity, choose_bandwidth
from patchad.methods.reconstruction import jahan2022
from patchad.methods.reconstruction.jahan2022 import Ranks, split
from patchad.model.method import setting_of

FIRST = np.random.default_rng(0).normal(3, 2, (40, 5))


@pytest.mark.parametrize("count", [40, 64])
def test_the_density_is_that_of_scikit_learn(count: int) -> None:
    density = KernelDensity(count, 5)
    density.learn(torch.from_numpy(FIRST).float(), run_with(), epoch_generator(0, 0))
    far = np.random.default_rng(1).normal(3, 6, (7, 5)).astype(np.float32)
    expected = Estimate(bandwidth=density.bandwidth.item()).fit(FIRST).score_samples(far)
    np.testing.assert_allclose(density(torch.from_numpy(far)), expected, rtol=1e-5)
    assert {n: t.shape for n, t in density.state_dict().items()} == {
        "codes": (count, 5), "weights": (count,), "bandwidth": ()
    }  # fmt: skip


def test_of_too_many_codes_some_are_kept_and_that_is_noted() -> None:
    density, run = KernelDensity(8, 5), run_with()
    density.learn(torch.from_numpy(FIRST).float(), run, epoch_generator(0, 0))
    rows = {tuple(row) for row in FIRST.astype(np.float32).tolist()}
    kept = {tuple(row) for row in density.codes.tolist()}
    assert len(kept) == 8
    assert kept <= rows
    assert run.notes == ["The density has 8 of the 40 negatives as its kernels."]
    np.testing.assert_allclose(density.weights, -math.log(8))


def test_the_bandwidth_is_the_likeliest_for_codes_left_out() -> None:
    codes = FIRST[:20]
    spread = math.sqrt(codes.var(0).mean())
    totals = []
    for bandwidth in spread * _BANDWIDTHS:
        total = 0.0
        for fold in range(5):
            out = range(4 * fold, 4 * fold + 4)
            kept = [n for n in range(20) if n not in out]
            for n in out:
                kernels = [
                    math.exp(-((codes[n] - codes[k]) ** 2).sum() / (2 * bandwidth**2)) for k in kept
                ]
                density = sum(kernels) / 16 / (bandwidth * math.sqrt(2 * math.pi)) ** 5
                total += math.log(max(density, 1e-300))
        totals.append(total)
    expected = spread * _BANDWIDTHS[int(np.argmax(totals))]
    assert choose_bandwidth(codes) == pytest.approx(expected)
    assert 0 < int(np.argmax(totals)) < len(_BANDWIDTHS) - 1


def test_codes_without_a_density_are_refused() -> None:
    for name in ("kde", "jahan2022"):  # before anything is trained
        config = read_config(name, [f"{name}.kernels=1"])
        with pytest.raises(RequestError, match="2 kernels at least, got kernels = 1"):
            build(method_of(name), config.options, setting_of(config), 0)
    with pytest.raises(GivenUp, match="the codes of all training films are the same"):
        choose_bandwidth(np.ones((5, 3)))
    with pytest.raises(TrainingError, match="needs two training films at least, got 1"):
        choose_bandwidth(FIRST[:1])


def test_the_density_of_a_film_is_that_of_its_code() -> None:
    config = kde.Config(side=16, channels=(2, 3, 4), hidden=5, code=3, kernels=10)
    module = kde.build(config, setting_with()).eval()
    squares = torch.rand(9, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        codes = module.network.encoder(squares * 2 - 1)
    module.density.learn(codes, run_with(), epoch_generator(0, 0))
    film = on_cpu(prepared(np.random.default_rng(1).random((16, 16)).astype(np.float32)))
    grid = setting_with(patch_size=8, stride=8).grid((16, 16))
    with torch.inference_mode():
        response = module(film, grid)
        code = module.network.encoder(film.pixels[None, None] * 2 - 1).double().numpy()
    estimate = Estimate(bandwidth=module.density.bandwidth.item()).fit(codes.double().numpy())
    assert response.image is not None
    assert response.map is not None
    assert response.image.item() == pytest.approx(-estimate.score_samples(code)[0], rel=1e-4)
    signed = (film.pixels[None, None] * 2 - 1).requires_grad_(True)
    (gradient,) = torch.autograd.grad(module.rarity(signed).sum(), signed)
    np.testing.assert_allclose(response.map, gradient[0, 0].abs(), rtol=1e-4, atol=1e-7)
    top = gradient[0, 0, :8, :8].abs().mean().item()
    assert response.patches[0].item() == pytest.approx(top, rel=1e-4)


def test_the_published_network_has_as_many_parameters_as_published() -> None:
    network = jahan2022.Network(jahan2022.Config(channels=3))
    counted = [t.numel() for t in network.state_dict().values() if t.is_floating_point()]
    assert sum(counted) == 2_127_203  # Keras counts the moments of batch norm too
    pictures = torch.zeros(2, 1, 128, 128)
    assert network(pictures).shape == (2, 3, 128, 128)
    assert network.encode(pictures).shape == (2, 128)


def test_ranks_are_shares_of_the_sample_and_go_on_beyond_it() -> None:
    sample = torch.arange(101.0)
    ranks = Ranks()
    ranks.learn(sample)
    within = torch.tensor([0.0, 25.0, 50.5, 99.0, 100.0])
    np.testing.assert_allclose(ranks(within), within / 100, atol=1e-6)
    spread = float(np.arange(101).std())
    beyond = ranks(torch.tensor([100 + spread, 100 + 3 * spread, -2 * spread]))
    np.testing.assert_allclose(beyond, [2, 4, -2], rtol=1e-5)
    far = ranks(torch.tensor([1e4, 1.001e4]))
    assert far[1] > far[0]


def test_ranks_are_the_empirical_distribution_function() -> None:
    sample = np.random.default_rng(0).gamma(2, size=4000)
    ranks = Ranks()
    ranks.learn(torch.from_numpy(sample))
    values = np.quantile(sample, [0.01, 0.3, 0.77, 0.999])
    expected = [(sample <= value).mean() for value in values]
    np.testing.assert_allclose(ranks(torch.from_numpy(values).float()), expected, atol=1e-3)


def test_ties_rank_as_high_as_the_last_of_them() -> None:
    ranks = Ranks()
    ranks.learn(torch.tensor([1.0, 2.0, 2.0, 2.0, 3.0]))
    assert ranks(torch.tensor([2.0])).item() == pytest.approx(0.75)
    ranks.learn(torch.tensor([2.0, 2.0]))
    assert ranks(torch.tensor([2.0])).item() == 1
    assert torch.isfinite(ranks(torch.tensor([1.0, 3.0]))).all()


def test_either_member_is_enough() -> None:
    config = jahan2022.Config(side=16, filters=(2, 3), code=3, kernels=4)
    module = jahan2022.build(config, setting_with()).eval()
    film = on_cpu(prepared(np.random.default_rng(1).random((16, 16)).astype(np.float32)))
    grid = setting_with(patch_size=8, stride=8).grid((16, 16))
    with torch.inference_mode():
        pictures = film.pixels[None, None]
        error, rarity = module.maps(pictures).mean(), module.rarity(pictures)[0]
        expected = ((module.network(pictures) - pictures) ** 2)[0, 0]
        scores = []
        for off in ((0.0, -5.0), (-5.0, 0.0), (-5.0, -5.0)):
            module.of_errors.learn(torch.linspace(-1, 1, 11) + error - off[0])
            module.of_rarity.learn(torch.linspace(-1, 1, 11) + rarity - off[1])
            response = module(film, grid)
            assert response.image is not None
            scores.append(response.image.item())
    np.testing.assert_allclose(scores[:2], 0.5, atol=1e-4)
    assert scores[2] < -5
    np.testing.assert_allclose(response.map, expected, rtol=1e-5)


def test_ranks_are_of_films_that_were_not_trained_on() -> None:
    trained, held = split(100, 0.3, epoch_generator(0, 0))
    assert len(held) == 30
    assert sorted(trained.tolist() + held.tolist()) == list(range(100))
    assert not torch.equal(held, split(100, 0.3, epoch_generator(1, 0))[1])
    assert [len(part) for part in split(4, 0.01, epoch_generator(0, 0))] == [2, 2]
    with pytest.raises(TrainingError, match=r"2 films to train on and 2 for ranks, got 3.*= 0\.3"):
        split(3, 0.3, epoch_generator(0, 0))
    films = [prepared(np.random.default_rng(n).random((32, 32))) for n in range(6)]
    config = jahan2022.Config(side=16, filters=(2, 3), code=3, kernels=4, epochs=3)
    module = fitted("jahan2022", config, training_set(films)).module
    others = split(6, 0.3, epoch_generator(0, 0))[1]
    errors = []
    for number in others.tolist():
        film = on_cpu(training_set(films).film(number))
        with torch.inference_mode():
            errors.append(module.maps(jahan2022.square(film, 16)).mean().item())
    ends = module.of_errors.quantiles[[0, -1]].tolist()
    assert ends == pytest.approx(sorted(errors))


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_some_films_must_be_held_out_and_some_not(share: float) -> None:
    with pytest.raises(RequestError, match=r"held_out must lie between 0 and 1"):
        jahan2022.Config(held_out=share)
