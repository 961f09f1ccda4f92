"""The GANs of patches: their losses, scores, and how they are trained."""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import prepared, run_with, same, setting_with, state, training_set
from torch import Tensor, nn

from patchad.errors import TrainingError
from patchad.learn.fitting import build, fit
from patchad.learn.loop import Step
from patchad.learn.training_set import TrainingSet
from patchad.methods import method_of
from patchad.methods.adversarial import a_d, advae, ali, anogan, fanogan
from patchad.methods.parts import patch_gan
from patchad.methods.parts.patch_gan import cut_mirrored, draw_mirrored, judge_redrawing

SETTING = setting_with(patch_size=16, stride=16)
TINY = {"width": 1, "code": 4, "batch_size": 2}
SHORT = {**TINY, "steps": 4, "critic_steps": 2}
NAMES = ("fanogan", "anogan", "ali", "advae", "a_d")


@pytest.fixture
def data() -> TrainingSet:
    rng = np.random.default_rng(0)
    films = [rng.uniform(size=(40, 36)).astype(np.float32) for _ in range(3)]
    return training_set([prepared(film) for film in films], 16)


def patches(count: int = 3, side: int = 16) -> Tensor:
    return torch.rand(count, 1, side, side, generator=torch.Generator().manual_seed(1))


def module(name: str, **options: Any) -> Any:
    return build(method_of(name), method_of(name).config(**{**TINY, **options}), SETTING, 0).eval()


def test_half_the_patches_are_mirrored(data: TrainingSet) -> None:
    drawn = draw_mirrored(data.bank, 1000, torch.Generator().manual_seed(0))
    assert 450 < drawn[1].sum() < 550
    whole = data.bank.cut(drawn[0]) * 2 - 1
    found = cut_mirrored(data.bank, drawn)
    for patch, own, mirrored in zip(found[:20], whole[:20], drawn[1, :20], strict=True):
        assert torch.equal(patch, own.flip(-1) if mirrored else own)


class Recorder:
    """In place of the loop: the names of what steps, without any step."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.losses: dict[str, Tensor] = {}

    def __call__(self, run: object, networks: object, optimisers: object, **rest: Any) -> None:
        step = Step(0, 0, 1, torch.Generator().manual_seed(0))
        pending: Iterator[tuple[str, Tensor]] = rest["losses"](rest["draw"](step), step)
        for name, loss in pending:
            self.names.append(name)
            self.losses[name] = loss


@pytest.mark.parametrize(
    ("name", "options", "names"),
    [
        ("fanogan", {"critic_steps": 3}, ["critic"] * 3 + ["generator"]),
        ("a_d", {"critic_steps": 2}, ["critic"] * 2 + ["generator"]),
        ("advae", {"critic_steps": 2}, ["critic"] * 2 + ["autoencoder"]),
        ("advae", {"adversarial_weight": 0.0}, ["autoencoder"]),
        ("ali", {}, ["discriminator", "pairs"]),
        ("anogan", {}, ["discriminator", "generator"]),
        ("anogan", {"generator": "fanogan"}, ["critic"] * 5 + ["generator"]),
    ],
)
def test_who_steps_when(
    name: str,
    options: dict[str, Any],
    names: list[str],
    data: TrainingSet,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recorder = Recorder()
    monkeypatch.setattr(patch_gan, "train", recorder)
    monkeypatch.setattr(fanogan, "train", lambda *_, **__: None)
    method = method_of(name)
    config = method.config(**{**TINY, "steps": 300, **options})
    method.learn(module(name, **options), config, data, run_with(0, SETTING))
    assert recorder.names == names
    assert all(loss.ndim == 0 and loss.requires_grad for loss in recorder.losses.values())


def test_the_critic_has_no_gradient_in_the_generators_step(
    data: TrainingSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = module("a_d")
    seen: list[bool] = []

    def loop(run: object, networks: object, optimisers: object, **rest: Any) -> None:
        step = Step(0, 0, 1, torch.Generator().manual_seed(0))
        for name, loss in rest["losses"](rest["draw"](step), step):
            if name == "generator":
                wanted = [*own.generator.parameters()]
                assert all(g.any() for g in torch.autograd.grad(loss, wanted)[-4:])
                seen.extend(p.requires_grad for p in own.critic.parameters())

    monkeypatch.setattr(patch_gan, "train", loop)
    a_d.learn(own, a_d.Config(**TINY), data, run_with(0, SETTING))
    assert seen
    assert not any(seen)
    assert all(p.requires_grad for p in own.critic.parameters())


@pytest.mark.parametrize("encoder", ["izi_f", "izi", "ziz"])
def test_the_score_of_fanogan_by_hand(encoder: str) -> None:
    own = module("fanogan", encoder=encoder, kappa=3.0)
    x = patches()
    with torch.no_grad():
        signed = 2 * x - 1
        redrawn = own.generator(own.encoder(signed))
        one, other = own.critic.down(signed), own.critic.down(redrawn)
    expected = [float(((a - b) ** 2).mean()) for a, b in zip(signed, redrawn, strict=True)]
    if encoder == "izi_f":
        for n in range(3):
            difference = one[n].numpy() - other[n].numpy()
            expected[n] += 3 * float(np.mean(difference.astype(float) ** 2))
    np.testing.assert_allclose(own(x).detach().numpy(), expected, rtol=1e-5)
    assert ("critic's features" in own.unit) == (encoder == "izi_f")


@pytest.mark.parametrize("encoder", ["izi_f", "izi", "ziz"])
def test_the_encoders_loss_by_hand(
    encoder: str, data: TrainingSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder()
    monkeypatch.setattr(patch_gan, "train", lambda *_, **__: None)
    monkeypatch.setattr(fanogan, "train", recorder)
    own = module("fanogan", encoder=encoder)
    config = fanogan.Config(**TINY, encoder=encoder, steps=300)
    fanogan.learn(own, config, data, run_with(0, SETTING))
    chance = torch.Generator().manual_seed(0)
    with torch.no_grad():
        if encoder == "ziz":
            codes = torch.randn(2, 4, generator=chance)
            expected = (own.encoder(own.generator(codes)) - codes).square().mean()
        else:
            x = cut_mirrored(data.bank, draw_mirrored(data.bank, 2, chance))
            expected = own(x / 2 + 0.5).mean()
    assert recorder.losses["rmsprop"].item() == pytest.approx(expected.item(), rel=1e-5)


def fitted(name: str, data: TrainingSet, options: dict[str, Any], **rest: Any) -> Any:
    config = method_of(name).config(**options)
    return fit(method_of(name), config, data, run_with(3, SETTING, **rest)).module


def test_the_encoder_leaves_the_gan_as_it_was(data: TrainingSet) -> None:
    options = {**SHORT, "encoder_steps": 3}
    one = fitted("fanogan", data, options)
    other = fitted("fanogan", data, {**options, "encoder": "izi", "encoder_steps": 5})
    gan = fitted("a_d", data, SHORT)
    assert same(state(one.generator), state(other.generator))
    assert same(state(one.critic), state(other.critic))
    assert not same(state(one.encoder), state(other.encoder))
    assert gan.critic.dense.weight.shape == one.critic.dense.weight.shape


@pytest.mark.parametrize("stage", ["training", "encoder: training"])
def test_fanogan_resumes_in_either_stage(
    stage: str, data: TrainingSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patch_gan, "EPOCH", 2)
    monkeypatch.setattr(fanogan, "EPOCH", 2)
    options = {**SHORT, "encoder_steps": 6}
    whole = fitted("fanogan", data, options)
    seen: list[tuple[str, int]] = []

    def kill(name: str, done: int, total: int, value: float) -> None:
        seen.append((name, done))
        if (name, done) == (stage, 1):
            raise KeyboardInterrupt

    file = tmp_path / "training.safetensors"
    with pytest.raises(KeyboardInterrupt):
        fitted("fanogan", data, options, checkpoint=file, progress=kill)
    assert seen[-1] == (stage, 1)
    resumed: list[tuple[str, int]] = []
    again = fitted(
        "fanogan",
        data,
        options,
        checkpoint=file,
        progress=lambda name, done, *_: resumed.append((name, done)),
    )
    assert same(state(again), state(whole))
    assert ("training", 1) not in resumed or stage == "training"


def test_a_collapse_is_tried_again_and_then_an_error(
    data: TrainingSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patch_gan, "JUDGED_AFTER", 1)
    monkeypatch.setattr(patch_gan, "collapsed", lambda *_: "one picture")
    with pytest.raises(TrainingError, match=r"Try 2 of 2, seed 1000003.*collapsed after epoch 1"):
        fitted("a_d", data, {**SHORT, "restarts": 2})


def test_a_short_training_is_noted_only(data: TrainingSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patch_gan, "collapsed", lambda *_: "one picture")
    notes: list[str] = []
    fitted("a_d", data, SHORT, notes=notes)
    assert notes == ["Undertrained, after only 4 steps: one picture."]


def test_a_lost_network_is_tried_again(data: TrainingSet) -> None:
    with pytest.raises(TrainingError, match=r"Try 3 of 3.*loss became nan") as caught:
        fitted("a_d", data, {**SHORT, "learning_rate": 1e30})
    assert "Try 1 of 3" in str(caught.value)


def test_what_is_redrawn_is_judged() -> None:
    run, pictures = run_with(), torch.rand(8, 1, 4, 4)
    judge_redrawing(run, lambda x: x + 0.01, pictures, 500)
    assert run.notes == []
    judge_redrawing(run, lambda x: x + 5, pictures, 500)
    assert "not below" in run.notes[0]
    one = lambda x: torch.zeros_like(x)  # noqa: E731
    judge_redrawing(run, one, pictures, 10)
    with pytest.raises(Exception, match="nearly one picture"):
        judge_redrawing(run, one, pictures, 500)


def test_a_critics_score_is_turned() -> None:
    own = module("a_d")
    x = patches()
    np.testing.assert_allclose(
        own(x).detach().numpy(), -own.critic(2 * x - 1)[:, 0].detach().numpy()
    )


def test_without_its_critic_advae_is_an_autoencoder(data: TrainingSet) -> None:
    plain = module("advae", adversarial_weight=0.0)
    assert plain.critic is None
    x = patches()
    redrawn = plain.network(2 * x - 1).detach()
    expected = [float(((2 * a - 1 - b) ** 2).mean()) for a, b in zip(x, redrawn, strict=True)]
    np.testing.assert_allclose(plain(x).detach().numpy(), expected, rtol=1e-5)


def test_the_loss_of_advae_by_hand(data: TrainingSet, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder()
    monkeypatch.setattr(patch_gan, "train", recorder)
    own = module("advae", adversarial_weight=0.5)
    config = advae.Config(**TINY, critic_steps=1, adversarial_weight=0.5, steps=300)
    advae.learn(own, config, data, run_with(0, SETTING))
    drawn = draw_mirrored(data.bank, 4, torch.Generator().manual_seed(0))
    x = cut_mirrored(data.bank, drawn)[2:]
    redrawn = own.network(x)
    expected = (redrawn - x).square().mean() - 0.5 * own.critic(redrawn).mean()
    assert recorder.losses["autoencoder"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_pairs_are_told_apart_by_cross_entropy() -> None:
    encoded, generated = torch.tensor([[2.0], [-1.0]]), torch.tensor([[0.5], [3.0]])
    logits, kinds = torch.cat([encoded, generated]), torch.tensor([[1.0], [1.0], [0.0], [0.0]])
    expected = 2 * nn.functional.binary_cross_entropy_with_logits(logits, kinds)
    assert ali.told_apart(encoded, generated).item() == pytest.approx(expected.item(), rel=1e-6)
    slow = sum(math.log(1 + math.exp(-v)) for v in (2.0, -1.0)) / 2
    slow += sum(math.log(1 + math.exp(v)) for v in (0.5, 3.0)) / 2
    assert ali.told_apart(encoded, generated).item() == pytest.approx(slow, rel=1e-6)


def test_codes_are_drawn_from_the_inferred_normal() -> None:
    own = module("ali", hidden=4)
    x, noise = patches(2) * 2 - 1, torch.tensor([[0.0] * 4, [1.0, -1.0, 2.0, 0.5]])
    with torch.no_grad():
        mean, log_sigma = own.pairs.infer(x)
        drawn = own.pairs.draw(x, noise)
        assert torch.equal(drawn[0], mean[0])
        expected = mean[1].numpy() + noise[1].numpy() * np.exp(log_sigma[1].numpy())
        np.testing.assert_allclose(drawn[1].numpy(), expected, rtol=1e-5)
        nn.init.constant_(own.pairs.encoder.dense.bias, 100.0)
        assert own.pairs.infer(x)[1].max() == 4.0


def test_the_distance_of_anogan_by_hand() -> None:
    x, made = torch.tensor([[[[1.0, -1.0]]]]), torch.tensor([[[[0.5, 1.0]]]])
    f, made_f = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[1.0, 0.0, 7.0]])
    found = anogan.distance(x, made, f, made_f, 0.1)
    assert found.item() == pytest.approx(0.9 * 2.5 + 0.1 * 6.0)


def test_the_search_is_that_of_adam() -> None:
    target = torch.randn(3, 4)
    distances = lambda z: ((z - target).abs() ** 3).sum(1)  # noqa: E731
    start = torch.zeros(3, 4)
    found = anogan.descend(distances, start, 30, 0.1)
    slow = start.clone().requires_grad_(True)
    adam = torch.optim.Adam([slow], 0.1)
    for _ in range(30):
        adam.zero_grad()
        distances(slow).sum().backward()
        adam.step()
    np.testing.assert_allclose(found.numpy(), slow.detach().numpy(), rtol=1e-4, atol=1e-6)
    assert not start.any()
    assert bool((distances(found) < distances(start)).all())


@pytest.mark.parametrize("generator", ["dcgan", "fanogan"])
def test_a_search_hangs_on_its_own_patch_alone(generator: str) -> None:
    own = module("anogan", generator=generator, iterations=10, rate=0.05)
    for parameter in own.parameters():  # as a restored detector is
        parameter.requires_grad_(False)
    x = patches(35)
    with torch.inference_mode():
        together = own(x)
        assert torch.equal(own(x.flip(0)), together.flip(0))
        for number in (0, 34):
            assert torch.equal(own(x[number : number + 1])[0], together[number])
        own.iterations = 1
        shorter = own(x)
    assert together.mean() < shorter.mean()


@pytest.mark.parametrize(
    ("options", "code", "rate", "betas"),
    [
        ({}, 100, 2e-4, (0.5, 0.999)),
        ({"generator": "fanogan"}, 128, 1e-4, (0.0, 0.9)),
        ({"code": 7, "learning_rate": 1e-3, "betas": (0.1, 0.2)}, 7, 1e-3, (0.1, 0.2)),
    ],
)
def test_each_generator_is_trained_as_published(
    options: dict[str, Any], code: int, rate: float, betas: tuple[float, float]
) -> None:
    found = anogan.Config(**options).schedule
    assert (found.code, found.learning_rate, found.betas) == (code, rate, betas)


@pytest.mark.parametrize("name", NAMES)
def test_the_quick_settings_are_valid_and_narrower(name: str) -> None:
    method = method_of(name)
    quick = replace(method.config(), **method.quick)
    assert quick.width < method.config().width
    assert quick.steps <= 2000
    assert method.setting == {"patch_size": 64, "stride": 32}
