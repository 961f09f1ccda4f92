"""AAE, constrained AAE, AnoVAEGAN, GANomaly and IGD: their losses and scores by hand."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import fitted, prepared, run_with, same, setting_with, state, training_set
from torch import Tensor, nn

from patchad.errors import RequestError, TrainingError
from patchad.learn.training_set import TrainingSet
from patchad.methods import method_of
from patchad.methods.adversarial import aae, anovaegan, caae, ganomaly, igd
from patchad.methods.parts import adversarial_autoencoding
from patchad.methods.parts.adversarial_autoencoding import code_critic, prior_loss, watch
from patchad.methods.parts.losses import most_levels, ms_ssim

TINY: dict[str, Any] = {
    "aae": {"side": 16, "channels": (2, 2), "hidden": 4, "code": 2, "critic_steps": 2},
    "caae": {"side": 16, "channels": (2, 2), "hidden": 4, "code": 2, "critic_steps": 2},
    "anovaegan": {"side": 16, "channels": (2, 2), "hidden": 4, "code": 2, "critic_steps": 2},
    "ganomaly": {"side": 16, "width": 2, "code": 4},
    "igd": {"side": 16, "width": 1, "code": 4, "levels": 1, "refresh": 2},
}


def films(count: int = 4) -> TrainingSet:
    rng = np.random.default_rng(5)
    return training_set([prepared(rng.random((32, 32)).astype(np.float32)) for _ in range(count)])


def tiny(name: str, **changes: Any) -> Any:
    return method_of(name).config(**{**TINY[name], "epochs": 6, "batch_size": 2, **changes})


# The codes' critic


def test_the_penalty_of_codes_is_taken_between_them_and_the_prior() -> None:
    rng = np.random.default_rng(0)
    codes, normal, share = rng.normal(size=(4, 3)), rng.normal(size=(4, 3)), rng.random(4)
    seen: list[Tensor] = []

    def critic(points: Tensor) -> Tensor:  # its slope is the point itself
        seen.append(points.detach())
        return points.square().sum(1) / 2

    found = prior_loss(critic, *(torch.tensor(part) for part in (codes, normal, share)), 7.0)
    between = share[:, None] * normal + (1 - share[:, None]) * codes
    gap = (codes**2).sum(1).mean() / 2 - (normal**2).sum(1).mean() / 2
    slopes = np.sqrt((between**2).sum(1))
    assert found.item() == pytest.approx(gap + 7 * ((slopes - 1) ** 2).mean(), rel=1e-6)
    apart = np.linalg.norm(normal - codes, axis=1)
    for end in (codes, normal):  # no point is beyond an end of its segment
        away = np.linalg.norm(seen[-1].numpy() - end, axis=1)
        assert (away <= apart).all()


@pytest.mark.parametrize(("method", "hidden"), [(aae, (50, 50)), (caae, (100, 50))])
def test_critics_of_codes_have_the_published_layers(method: Any, hidden: tuple[int, int]) -> None:
    config = method.Config()
    module = method.build(config, setting_with())
    sizes = [part.weight.shape for part in module.critic.modules() if isinstance(part, nn.Linear)]
    assert sizes == [(hidden[0], 16), (hidden[1], hidden[0]), (1, hidden[1])]
    assert (config.critic_steps, config.penalty, config.betas) == (20, 10.0, (0.5, 0.9))
    assert code_critic(3, (4,))(torch.zeros(5, 3)).shape == (5, 1)


@pytest.mark.parametrize("name", ["aae", "caae"])
def test_the_critic_steps_as_often_as_it_is_told_to(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[tuple[Tensor, Tensor]] = []

    def count(critic: Any, codes: Tensor, normal: Tensor, *rest: Any) -> Tensor:
        steps.append((codes, normal))
        return prior_loss(critic, codes, normal, *rest)

    monkeypatch.setattr(adversarial_autoencoding, "prior_loss", count)
    fitted(name, tiny(name, critic_steps=3, epochs=1), films())
    assert len(steps) == 2 * 3
    for (codes, normal), (same_codes, other) in zip(steps[::3], steps[1::3], strict=True):
        assert torch.equal(codes, same_codes)
        assert not torch.equal(normal, other)  # always new draws of the prior


def test_codes_must_return_from_the_reconstruction() -> None:
    pictures, redrawn = torch.zeros(2, 1, 2, 2), torch.full((2, 1, 2, 2), 0.5)
    codes = torch.tensor([[1.0, 0.0], [0.0, 0.0]], requires_grad=True)
    again = torch.tensor([[0.0, 0.0], [0.0, 2.0]], requires_grad=True)
    found = caae.constrained(pictures, redrawn, codes, again, 3.0)
    assert found.item() == pytest.approx(0.25 + 3 * (1 + 4) / 4)
    slopes = torch.autograd.grad(found, [codes, again])
    torch.testing.assert_close(slopes[0], torch.tensor([[1.5, 0.0], [0.0, -3.0]]))
    torch.testing.assert_close(slopes[1], -slopes[0])


def test_signs_are_asked_for_after_the_start_and_in_eval_mode() -> None:
    network = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1))
    modes: list[bool] = []

    def signs() -> str:
        modes.append(network.training)
        return "a sign"

    probe = torch.rand(3, 1, 4, 4)
    check = watch([network], network, probe, 100, signs)
    assert check(2) == ""
    assert check(3) == "collapsed after epoch 3: a sign"
    assert modes == [False]
    assert network.training
    with torch.no_grad():
        network[1].weight.zero_()
    assert "dead after epoch 1" in check(1)


@pytest.mark.parametrize("name", sorted(TINY))
def test_a_collapse_gives_a_try_up(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adversarial_autoencoding, "_SETTLED", 0)
    place = adversarial_autoencoding if name in ("aae", "caae") else method_module(name)
    monkeypatch.setattr(place, "collapsed", lambda *_: "nearly one picture")
    with pytest.raises(TrainingError, match=r"Try 2 of 2.*nearly one picture.*Lower .*rate"):
        fitted(name, tiny(name, restarts=2), films())


def method_module(name: str) -> Any:
    return {"anovaegan": anovaegan, "ganomaly": ganomaly, "igd": igd}[name]


# AnoVAEGAN


def test_decoder_and_critic_have_layer_norm() -> None:
    module = anovaegan.build(tiny("anovaegan"), setting_with())
    batch = (nn.BatchNorm1d, nn.BatchNorm2d)
    assert any(isinstance(part, batch) for part in module.network.encoder.modules())
    for network in (module.network.decoder, module.critic):
        assert not any(isinstance(part, batch) for part in network.modules())
    pictures = torch.rand(3, 1, 16, 16)
    alone = torch.cat([module.critic(one[None]) for one in pictures])
    torch.testing.assert_close(module.critic(pictures), alone)  # as the penalty asks


def test_layer_norm_is_over_all_axes_of_a_sample() -> None:
    network = nn.Sequential(nn.BatchNorm2d(2), nn.Sequential(nn.BatchNorm1d(3)))
    anovaegan.norm_by_layer(network)
    maps = np.random.default_rng(0).normal(size=(3, 2, 4, 4)).astype(np.float32)
    wanted = np.stack([(m - m.mean()) / math.sqrt(m.var() + 1e-5) for m in maps])
    found = network[0](torch.from_numpy(maps)).detach().numpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    assert isinstance(network[1][0], nn.LayerNorm)


def test_the_variational_loss_is_a_sum_over_pixels_and_dimensions() -> None:
    pictures, redrawn = torch.zeros(2, 1, 2, 2), torch.zeros(2, 1, 2, 2)
    redrawn[0] = -0.5
    mean = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    log_variance = torch.tensor([[0.0, 0.0], [math.log(2), 0.0]])
    found = anovaegan.variational_loss(pictures, redrawn, mean, log_variance, 2.0)
    divergences = np.array([0.5, (2 - math.log(2) - 1) / 2])
    assert found.item() == pytest.approx((4 * 0.5 + 2 * divergences.sum()) / 2)


# GANomaly


def test_ganomaly_has_the_published_size() -> None:
    module = ganomaly.build(ganomaly.Config(), setting_with())
    halvings = [1 * 64, 64 * 128, 128 * 256, 256 * 512]
    norms = 2 * (128 + 256 + 512)
    encoder = 16 * (sum(halvings) + 512 * 100) + norms
    decoder = encoder + 2 * 64  # a batch norm before its last layer too
    count = lambda part: sum(p.numel() for p in part.parameters())  # noqa: E731
    assert count(module.generator) == 2 * encoder + decoder
    assert count(module.discriminator) == encoder - 16 * 512 * 99
    weights = module.generator.encoder.features[2].weight
    assert weights.std().item() == pytest.approx(0.02, rel=0.02)
    norm = module.generator.encoder.features[3].weight
    assert norm.mean().item() == pytest.approx(1, abs=0.01)


def test_the_score_is_the_difference_of_codes_in_eval_mode_and_unscaled() -> None:
    found = ganomaly.difference(torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.zeros(2, 2))
    assert found.tolist() == [2.5, 0.0]
    module = ganomaly.build(tiny("ganomaly"), setting_with()).eval()
    squares = torch.rand(5, 1, 16, 16)
    maps, scores = module.maps(squares)
    redrawn, codes, again = module.generator(squares * 2 - 1)
    slow = ((codes - again).detach().numpy() ** 2).mean(1)
    np.testing.assert_allclose(scores.detach().numpy(), slow, rtol=1e-5)
    torch.testing.assert_close(maps, (squares * 2 - 1 - redrawn).abs()[:, 0])
    alone = torch.cat([module.maps(one[None])[1] for one in squares])
    torch.testing.assert_close(scores, alone)  # whatever else is scored beside it
    module.train()
    assert not torch.allclose(module.maps(squares)[1], module.maps(squares[:3])[1][:1])


def test_the_discriminator_learns_by_cross_entropy() -> None:
    real, fake = np.array([2.0, -1.0]), np.array([0.5, 3.0])
    p, q = (1 / (1 + np.exp(-part)) for part in (real, fake))
    wanted = (-np.log(p).mean() - np.log(1 - q).mean()) / 2
    found = ganomaly.discriminator_loss(torch.tensor(real), torch.tensor(fake))
    assert found.item() == pytest.approx(wanted, rel=1e-6)


def test_new_starts_hang_on_seed_and_count_alone() -> None:
    def network(seed: int, times: int) -> ganomaly.Discriminator:
        found = ganomaly.Discriminator(tiny("ganomaly"))
        for _ in range(times):
            found.renew(seed)
        assert found.renewed.item() == times
        return found

    twice = state(network(3, 2))
    again = network(3, 1)
    assert not same(state(again), twice)
    again.renew(3)
    assert same(state(again), twice)
    assert not same(state(network(4, 2)), twice)


def test_a_discriminator_that_wins_starts_anew_which_is_noted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = run_with(2)
    fitted("ganomaly", tiny("ganomaly"), films(), run)
    assert not any("started anew" in note for note in run.notes)
    monkeypatch.setattr(ganomaly, "WON", 1e3)
    module = fitted("ganomaly", tiny("ganomaly"), films(), run).module
    assert module.discriminator.renewed.item() == 6 * 2  # type: ignore[union-attr]
    assert any("won 12 times (loss below 1000) and started anew" in note for note in run.notes)


@pytest.mark.parametrize("name", sorted(TINY))
def test_killed_between_passes_it_resumes_bit_equal(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With new starts of GANomaly's discriminator, and IGD's Gaussian found anew, on the way."""
    monkeypatch.setattr("patchad.learn.loop._EPOCH", 4)  # two passes an epoch of the loop
    monkeypatch.setattr(ganomaly, "WON", 1e3)
    config, data = tiny(name, refresh=3) if name == "igd" else tiny(name), films()
    whole = state(fitted(name, config, data, run_with(1)).module)
    for at in (1, 2):

        def kill(stage: str, done: int, total: int, value: float, at: int = at) -> None:
            if stage == "training" and done == at:
                raise KeyboardInterrupt

        file = tmp_path / f"{at}.safetensors"
        with pytest.raises(KeyboardInterrupt):
            fitted(name, config, data, run_with(1, checkpoint=file, progress=kill))
        run = run_with(1, checkpoint=file)
        assert same(state(fitted(name, config, data, run).module), whole)


# IGD


def test_the_error_of_a_picture_is_absolute_when_it_is_scored() -> None:
    pictures = torch.zeros(1, 1, 16, 16)
    redrawn = torch.full((1, 1, 16, 16), 0.5)
    redrawn[..., ::2] = -0.5  # as much too bright as too dark
    assert igd.picture_error(pictures, redrawn, 0.0, 1).item() == pytest.approx(0.25)
    structural = 1 - ms_ssim(pictures, redrawn, 1, 2.0).item()
    found = igd.picture_error(pictures, redrawn, 0.85, 1).item()
    assert found == pytest.approx(0.85 * structural + 0.15 * 0.25)
    assert structural > 0.5
    assert igd.pixel_error(pictures, redrawn, 0.0).unique().tolist() == [0.25]
    assert igd.pixel_error(redrawn, redrawn, 0.85).abs().max().item() == pytest.approx(0, abs=1e-6)


def test_the_gaussian_of_codes_by_hand() -> None:
    codes = np.array([[0.5, 0.02, -0.03], [1.5, -0.02, -0.01]])
    centre = igd.centre_of(torch.tensor(codes))
    np.testing.assert_allclose(centre.numpy(), [1.0, 0.1, -0.1])
    assert igd.width_of(torch.tensor(codes), centre).item() == 1.0  # never below
    far = torch.tensor(codes * 10)
    slow = np.mean([((row - centre.numpy()) ** 2).sum() for row in codes * 10])
    assert igd.width_of(far, centre).item() == pytest.approx(slow)
    found = igd.gaussian_distance(far, centre, torch.tensor(20.0))
    wanted = [1 - math.exp(-((row - centre.numpy()) ** 2).sum() / 20) for row in codes * 10]
    np.testing.assert_allclose(found.numpy(), wanted)


def test_codes_are_mixed_and_the_critic_tells_their_shares() -> None:
    codes = torch.tensor([[1.0, 0.0], [3.0, 4.0], [5.0, 8.0]])
    shares = torch.tensor([[0.25], [0.5], [0.0]])
    found = igd.mixture(codes, shares)
    torch.testing.assert_close(found, torch.tensor([[4.0, 6.0], [3.0, 4.0], [1.0, 0.0]]))
    loss = igd.critic_loss(torch.tensor([[0.5], [0.5], [0.3]]), shares, torch.tensor([[0.2]]))
    assert loss.item() == pytest.approx((0.0625 + 0.09) / 3 + 0.04)


def test_levels_that_do_not_fit_a_square_are_refused() -> None:
    assert igd.Config().levels == most_levels(igd.Config().side) == 3
    with pytest.raises(RequestError, match=r"squares of 64 pixels have room for 3 .* not for 5"):
        igd.build(igd.Config(levels=5), setting_with())


@pytest.mark.parametrize("method", [ganomaly, igd])
def test_sides_that_cannot_be_halved_are_refused(method: Any) -> None:
    with pytest.raises(RequestError, match=r"\.side must be a power of two .* got 48"):
        method.build(method.Config(side=48), setting_with())


def test_the_gaussian_is_found_anew_and_training_goes_on_in_train_mode(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    happened: list[str] = []
    describe, mixture = igd.Describer.describe, igd.mixture

    def described(self: igd.Describer, *rest: Any) -> None:
        happened.append("found in training mode" if self.training else "found")
        describe(self, *rest)
        codes = torch.cat([self.encoder(some).detach() for some in torch.split(rest[0], 2)])
        torch.testing.assert_close(self.centre, igd.centre_of(codes))
        torch.testing.assert_close(self.sigma, igd.width_of(codes, self.centre))

    monkeypatch.setattr(igd.Describer, "describe", described)
    monkeypatch.setattr(igd, "mixture", lambda *it: happened.append("mixed") or mixture(*it))
    modes: list[bool] = []
    forward = igd.Describer.forward
    monkeypatch.setattr(
        igd.Describer, "forward", lambda self, x: modes.append(self.training) or forward(self, x)
    )
    fitted("igd", tiny("igd", epochs=5, refresh=2), films(), run_with(1))
    each = ["mixed"] * 2 * 2 * 2  # two passes of two steps, each mixing for critic and decoder
    found = "found in training mode"  # as the codes that the loss sees
    assert happened == [found, *each, found, *each, found, *each[:4]]
    assert all(modes[: 5 * 2 * 2])


def test_a_gaussian_that_tells_nothing_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_with(1)
    monkeypatch.setattr(igd, "_FAR", 0.0)
    fitted("igd", tiny("igd"), films(), run)
    assert any("lie far from their Gaussian" in note for note in run.notes)


def test_codes_that_are_all_one_are_a_collapse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adversarial_autoencoding, "_SETTLED", 0)
    monkeypatch.setattr(igd, "_ALIKE", 1e6)
    with pytest.raises(TrainingError, match="all films have one code"):
        fitted("igd", tiny("igd", restarts=1), films())


def test_the_rate_of_igd_falls_by_a_polynomial(monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    step = torch.optim.Adam.step

    def stepped(self: torch.optim.Adam, *rest: Any) -> Any:
        rates.append(self.param_groups[0]["lr"])
        return step(self, *rest)

    monkeypatch.setattr(torch.optim.Adam, "step", stepped)
    fitted("igd", tiny("igd", epochs=2), films())
    wanted: Iterator[float] = (1e-4 * (1 - number / 4) ** 0.9 for number in range(4))
    np.testing.assert_allclose(rates, np.repeat(list(wanted), 2))
