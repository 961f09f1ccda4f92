"""The method of Wei et al. 2018: its network by hand, its score, and what happens to bad seeds."""

import logging
import re
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from builders import CPU, fitted, prepared, run_with, same, setting_with, state, training_set
from torch import Tensor, nn

from patchad.errors import RequestError, TrainingError
from patchad.learn.fitting import Fitted, build
from patchad.learn.run import Run
from patchad.learn.training_set import TrainingSet
from patchad.methods import method_of
from patchad.methods.configure import read_config
from patchad.methods.parts.collapse import is_dead
from patchad.methods.reconstruction import wei2018
from patchad.methods.reconstruction.wei2018 import Config
from patchad.prepare.preprocess import Preprocessing

# Leaky, so that nothing here hangs on which seeds of ReLU are dead on this version of torch
SHORT = Config(epochs=3, batch_size=8, patches_per_epoch=20, activation="leaky_relu")
LONGER = Config(6, 16, learning_rate=3e-3, activation="leaky_relu", patches_per_epoch=480)


@pytest.fixture(scope="module")
def waves() -> TrainingSet:
    """Smooth images: a patch is far from its own mean, and easy to redraw."""
    rows, cols = np.mgrid[:96, :96]
    films = []
    for angle in np.linspace(0, 3, 8):
        wave = np.sin((rows * np.cos(angle) + cols * np.sin(angle)) / 12)
        films.append(prepared((0.55 + 0.35 * wave).astype(np.float32)))
    return training_set(films)


def fit(config: Config, data: TrainingSet, seed: int = 0, **rest: Any) -> Fitted:
    return fitted("wei2018", config, data, run_with(seed, **rest))


def module(activation: wei2018.Activation, seed: int) -> nn.Module:
    return build(method_of("wei2018"), Config(activation=activation), setting_with(), seed)


def patches_of(data: TrainingSet, count: int, seed: int) -> Tensor:
    return data.bank.cut(data.bank.draw(count, torch.Generator().manual_seed(seed)))


def test_layers_have_the_shapes_of_the_paper() -> None:
    network = wei2018.autoencoder("relu")
    shapes: list[tuple[int, ...]] = []
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            layer.register_forward_hook(lambda _, __, out: shapes.append(tuple(out.shape[1:])))
    with torch.inference_mode():
        network(torch.rand(1, 1, 128, 128))
    assert shapes == [
        (2, 64, 64), (4, 32, 32), (8, 16, 16), (16, 8, 8), (32, 4, 4),
        (16, 8, 8), (8, 16, 16), (4, 32, 32), (2, 64, 64), (1, 128, 128),
    ]  # fmt: skip


def test_parameters_are_counted_by_hand() -> None:
    widths = [1, 2, 4, 8, 16, 32, 16, 8, 4, 2, 1]  # eleven layers, the input among them
    by_hand = [9 * i * o + o for i, o in pairwise(widths)]
    assert by_hand == [20, 76, 296, 1168, 4640, 4624, 1160, 292, 74, 19]
    counts = [values.numel() for values in wei2018.autoencoder("relu").parameters()]
    assert [sum(pair) for pair in zip(counts[::2], counts[1::2], strict=True)] == by_hand
    assert sum(counts) == 12_369


@pytest.mark.parametrize(("activation", "kind"), [("relu", nn.ReLU), ("leaky_relu", nn.LeakyReLU)])
def test_nine_activations_and_a_linear_end(
    activation: wei2018.Activation, kind: type[nn.Module]
) -> None:
    network = wei2018.autoencoder(activation)
    assert sum(isinstance(module, kind) for module in network.modules()) == 9
    with torch.no_grad():
        for values in network.parameters():
            values.zero_()
        values.fill_(-0.25)
    assert network(torch.rand(1, 1, 32, 32)).unique().tolist() == [-0.25]


def test_weights_depend_on_the_seed_alone() -> None:
    one, two, other = (module("relu", seed).state_dict() for seed in (4, 4, 5))
    names = [name for name in one if name.endswith("weight")]
    assert all(torch.equal(one[name], two[name]) for name in names)
    assert not any(torch.equal(one[name], other[name]) for name in names)


def test_score_is_the_root_mean_squared_error_by_hand() -> None:
    trained = module("relu", 0)
    with torch.no_grad():
        for values in trained.parameters():
            values.zero_()
        values.fill_(0.5)  # every reconstruction is 0.5
    patches = torch.full((3, 1, 32, 32), 0.5)
    patches[1] = 0.8
    patches[2, 0, :16] = 1.0  # half of the pixels off by 0.5, a quarter by 0.3
    patches[2, 0, 16:, :16] = 0.2
    with torch.inference_mode():
        scores = trained(patches)
    assert scores.tolist() == pytest.approx([0, 0.3, (0.25 / 2 + 0.09 / 4) ** 0.5], abs=1e-6)


def test_training_beats_the_own_mean_and_ranks_a_foreign_patch_higher(
    waves: TrainingSet, caplog: pytest.LogCaptureFixture
) -> None:
    stages: list[tuple[str, int, int]] = []
    with caplog.at_level(logging.WARNING):
        run = run_with(progress=lambda *said: stages.append(said[:3]))
        found = fitted("wei2018", LONGER, waves, run)
    assert stages == [("training", epoch, 6) for epoch in range(1, 7)]
    assert not caplog.records
    assert (found.seed, run.notes, found.pooling) == (0, [], "")
    assert not any(p.requires_grad for p in found.module.parameters())
    patches = patches_of(waves, 50, 1)
    noise = torch.rand(50, 1, 32, 32, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        normal, foreign = found.module(patches), found.module(noise)
    own_mean = patches.std((1, 2, 3), correction=0)
    assert float(normal.mean()) < 0.8 * float(own_mean.mean())
    assert float(foreign.min()) > float(normal.max())


def kill(monkeypatch: pytest.MonkeyPatch, *dead: int) -> None:
    """Let the networks of these tries have a third layer that lets nothing through, ever."""
    make, tries = wei2018.autoencoder, iter(range(99))

    def broken(activation: wei2018.Activation) -> nn.Module:
        network = make(activation)
        if next(tries) in dead:
            list(network.parameters())[4].requires_grad_(False).zero_()
        return network

    monkeypatch.setattr(wei2018, "autoencoder", broken)


def test_a_dead_seed_is_noticed_at_once_and_another_tried(
    waves: TrainingSet, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = state(fit(SHORT, waves, seed=1_000_000).module)
    kill(monkeypatch, 0)
    stages: list[tuple[str, int]] = []
    run = run_with(progress=lambda *said: stages.append(said[:2]))
    with caplog.at_level(logging.WARNING):
        found = fitted("wei2018", SHORT, waves, run)
    assert stages == [("training, try 2", epoch) for epoch in (1, 2, 3)]
    assert found.seed == 1_000_000
    assert run.notes[0].startswith("Try 1 of 3, seed 0, was given up; dead after epoch 1")
    assert run.notes[0] in caplog.messages
    assert same(state(found.module), expected)


def test_a_restarted_training_resumes_in_its_second_try(
    waves: TrainingSet, monkeypatch: pytest.MonkeyPatch, tmp_path
) -> None:
    def stop(stage: str, done: int, total: int, value: float) -> None:
        if stage.endswith("try 2") and done == 2:
            raise KeyboardInterrupt

    kill(monkeypatch, 0, 2)  # the first try, and that of the training that is interrupted
    file = tmp_path / "checkpoint.safetensors"
    runs = [run_with() for _ in range(2)]
    whole = fitted("wei2018", SHORT, waves, runs[0])
    with pytest.raises(KeyboardInterrupt):
        fit(SHORT, waves, checkpoint=file, progress=stop)
    runs[1] = replace(runs[1], checkpoint=file)
    resumed = fitted("wei2018", SHORT, waves, runs[1])
    assert same(state(resumed.module), state(whole.module))
    assert resumed.seed == whole.seed
    assert runs[1].notes == runs[0].notes


def test_three_dead_seeds_end_training_with_advice(
    waves: TrainingSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    kill(monkeypatch, 0, 1, 2)
    with pytest.raises(TrainingError, match="wei2018_leaky") as caught:
        fit(SHORT, waves, seed=5)
    for seed in (5, 1_000_005, 2_000_005):
        assert f"seed {seed}," in str(caught.value)
    assert "epochs or" not in str(caught.value)


@pytest.mark.parametrize(("activation", "dead"), [("relu", True), ("leaky_relu", False)])
def test_units_far_below_zero_are_dead_unless_they_leak(
    waves: TrainingSet, activation: wei2018.Activation, dead: bool
) -> None:
    network = module(activation, 1).network
    with torch.no_grad():
        list(network.parameters())[5].fill_(-100)  # biases of the third layer
    patches = patches_of(waves, 4, 0)
    assert is_dead(network, next(network.parameters()), patches) == dead


def test_a_short_training_is_undertrained_and_says_so(
    waves: TrainingSet, caplog: pytest.LogCaptureFixture
) -> None:
    run = run_with()
    with caplog.at_level(logging.WARNING):
        assert fitted("wei2018", SHORT, waves, run).seed == 0
    assert run.notes[0].startswith("Undertrained, after only 9 steps: RMSE 0.")
    assert run.notes == caplog.messages


@pytest.mark.parametrize(
    ("gain", "kind", "advice"),
    [(1.0, "dead", "use --config wei2018_leaky"), (3.0, "undertrained", "raise wei2018.epochs")],
)
def test_a_long_training_that_is_no_better_than_the_own_mean_is_given_up(
    waves: TrainingSet, monkeypatch: pytest.MonkeyPatch, gain: float, kind: str, advice: str
) -> None:
    # Nothing is learnt in 9 steps so small; with a gain of 1 reconstructions are hardly different
    config = replace(SHORT, learning_rate=1e-9)
    make: Callable[[wei2018.Activation], nn.Module] = wei2018.autoencoder

    def amplified(activation: wei2018.Activation) -> nn.Module:
        network = make(activation)
        with torch.no_grad():
            for values in list(network.parameters())[::2]:
                values *= gain
        return network

    monkeypatch.setattr(wei2018, "autoencoder", amplified)
    monkeypatch.setattr(
        "patchad.methods.parts.collapse._JUDGED_AFTER", {"dead": 9, "undertrained": 9}
    )  # all steps
    with pytest.raises(TrainingError) as caught:
        fit(config, waves)
    message = str(caught.value)
    assert f"Try 3 of 3, seed 2000000, was given up; {kind} at the end: RMSE" in message
    assert advice in message.lower()
    assert message.count(" or use --config") + message.count(" or raise") == 0


def test_patch_sizes_that_cannot_be_halved_five_times_are_refused(waves: TrainingSet) -> None:
    for size in (0, 16, 100):
        with pytest.raises(RequestError, match=f"multiple of 32; got {size}"):
            fit(SHORT, waves, setting=setting_with(patch_size=size, stride=1))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0),
        ("batch_size", 0),
        ("patches_per_epoch", 0),
        ("restarts", 0),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("betas", (0.9, 1.0)),
        ("activation", "gelu"),
    ],
)
def test_a_wrong_setting_is_named(name: str, value: object) -> None:
    with pytest.raises(RequestError, match=rf"wei2018\.{name} .*{re.escape(str(value))}"):
        replace(SHORT, **{name: value})


def test_packaged_configurations_are_the_papers_but_for_the_leak() -> None:
    paper, leaky = (read_config(name) for name in ("wei2018", "wei2018_leaky"))
    assert paper.options == Config(500, 200, 1e-3, (0.9, 0.999), "relu", None, 3) == Config()
    assert leaky == replace(paper, options=replace(paper.options, activation="leaky_relu"))
    assert (paper.split.held_out, paper.split.by) == (0.1, "patient")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_a_gpu_trains_and_scores_as_a_cpu_does(waves: TrainingSet) -> None:
    run = Run(0, torch.device("cuda"), setting_with())
    trained = fitted("wei2018", LONGER, waves, run).module
    assert run.notes == []  # not undertrained
    patches = patches_of(waves, 20, 0)
    with torch.inference_mode():
        on_gpu = trained(patches.cuda()).cpu()
        on_cpu = trained.to(CPU)(patches)
    torch.testing.assert_close(on_gpu, on_cpu, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize(
    ("intensity", "unit"),
    [
        ("voi", "RMSE of intensity [0, 1]"),
        ("percentiles", "RMSE of intensity [0, 1] between percentiles of the foreground"),
        ("local", "RMSE of local contrast (0.1 is one local standard deviation)"),
    ],
)
def test_the_score_unit_says_what_the_intensity_was(intensity, unit) -> None:
    setting = setting_with(preprocessing=Preprocessing(intensity=intensity))
    assert build(method_of("wei2018"), Config(), setting, 0).unit == unit
