"""The method of Wei et al. 2018: its network by hand, its score, and what happens to bad seeds."""

import logging
import re
import tomllib
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from patchad import methods
from patchad.core.grid import PatchGrid
from patchad.errors import ModelError, RequestError, TrainingError
from patchad.learn.training_set import PatchBank, TrainingSet
from patchad.methods.reconstruction import wei2018
from patchad.methods.reconstruction.wei2018 import Config, Wei2018, build_network
from patchad.model import detector as models
from patchad.model.detector import ModelCard, PatchDetector, TrainingData
from patchad.prepare.preprocess import Preprocessing

CPU = torch.device("cpu")
CONFIGS = Path(__file__).parents[1] / "configs"
# Leaky, so that nothing here hangs on which seeds of ReLU are dead on this version of torch
SHORT = Config(epochs=3, batch_size=8, patches_per_epoch=20, activation="leaky_relu")

CARD = ModelCard(
    method="wei2018",
    config={"method": "wei2018", "stride": 16},
    preprocessing=Preprocessing(),
    patch_size=32,
    stride=16,
    weighting="gaussian",
    min_foreground=0.5,
    score_unit="",
    seed=0,
    data=TrainingData("ab", 3, 2, "by patient", ("MG",), (0.2, 0.2), (0.3, 0.6)),
    notes=("from the draft",),
)


@pytest.fixture(scope="module")
def waves() -> TrainingSet:
    """Smooth images: a patch is far from its own mean, and easy to redraw."""
    rows, cols = np.mgrid[:96, :96]
    parts = []
    for angle in np.linspace(0, 3, 8):
        wave = np.sin((rows * np.cos(angle) + cols * np.sin(angle)) / 12)
        grid = PatchGrid((96, 96), 32, 4)
        parts.append(((0.55 + 0.35 * wave).astype(np.float32), grid.corners))
    return TrainingSet(PatchBank.of(parts, 32, CPU), 72)


def fit(config: Config, data: TrainingSet, seed: int = 0, **rest: Any) -> PatchDetector:
    return wei2018.fit(config, data, card=CARD, seed=seed, device=CPU, **rest)


def same(one: PatchDetector, other: PatchDetector) -> bool:
    tensors = other.tensors()
    return all(torch.equal(tensor, tensors[name]) for name, tensor in one.tensors().items())


def test_layers_have_the_shapes_of_the_paper() -> None:
    network = build_network("relu", 0)
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
    counts = [values.numel() for values in build_network("relu", 0).parameters()]
    assert [sum(pair) for pair in zip(counts[::2], counts[1::2], strict=True)] == by_hand
    assert sum(counts) == 12_369


@pytest.mark.parametrize(("activation", "kind"), [("relu", nn.ReLU), ("leaky_relu", nn.LeakyReLU)])
def test_nine_activations_and_a_linear_end(
    activation: wei2018.Activation, kind: type[nn.Module]
) -> None:
    network = build_network(activation, 0)
    assert sum(isinstance(module, kind) for module in network.modules()) == 9
    with torch.no_grad():
        for values in network.parameters():
            values.zero_()
        values.fill_(-0.25)
    assert network(torch.rand(1, 1, 32, 32)).unique().tolist() == [-0.25]


def test_weights_depend_on_the_seed_alone() -> None:
    one, two, other = (build_network("relu", seed).state_dict() for seed in (4, 4, 5))
    names = [name for name in one if name.endswith("weight")]
    assert all(torch.equal(one[name], two[name]) for name in names)
    assert not any(torch.equal(one[name], other[name]) for name in names)


def test_score_is_the_root_mean_squared_error_by_hand() -> None:
    network = build_network("relu", 0)
    with torch.no_grad():
        for values in network.parameters():
            values.zero_()
        values.fill_(0.5)  # every reconstruction is 0.5
    patches = torch.full((3, 1, 32, 32), 0.5)
    patches[1] = 0.8
    patches[2, 0, :16] = 1.0  # half of the pixels off by 0.5, a quarter by 0.3
    patches[2, 0, 16:, :16] = 0.2
    with torch.inference_mode():
        scores = Wei2018(CARD, network).score(patches)
    assert scores.tolist() == pytest.approx([0, 0.3, (0.25 / 2 + 0.09 / 4) ** 0.5], abs=1e-6)


def test_training_beats_the_own_mean_and_ranks_a_foreign_patch_higher(
    waves: TrainingSet, caplog: pytest.LogCaptureFixture
) -> None:
    config = Config(6, 16, learning_rate=3e-3, activation="leaky_relu", patches_per_epoch=480)
    stages: list[tuple[str, int, int]] = []
    with caplog.at_level(logging.WARNING):
        detector = fit(config, waves, progress=lambda *said: stages.append(said[:3]))
    assert stages == [("training", epoch, 6) for epoch in range(1, 7)]
    assert not caplog.records
    card = detector.card
    assert (card.seed, card.notes, card.calibration) == (0, ("from the draft",), None)
    assert "RMSE" in card.score_unit
    patches = waves.bank.draw(50, torch.Generator().manual_seed(1))
    noise = torch.rand(50, 1, 32, 32, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        normal, foreign = detector.score(patches), detector.score(noise)
    own_mean = patches.std((1, 2, 3), correction=0)
    assert float(normal.mean()) < 0.8 * float(own_mean.mean())
    assert float(foreign.min()) > float(normal.max())


def test_a_model_comes_back_from_its_folder_with_the_same_scores(
    waves: TrainingSet, tmp_path: Path
) -> None:
    detector = fit(SHORT, waves)
    models.save(detector, tmp_path)
    loaded = methods.load(tmp_path, CPU)
    patches = waves.bank.draw(9, torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(loaded.score(patches), detector.score(patches))
    assert loaded.card.config == {
        "method": "wei2018",
        "stride": 16,
        "wei2018": {**asdict(SHORT), "betas": [0.9, 0.999]},
    }


def test_foreign_weights_are_no_model() -> None:
    card = replace(CARD, config={"wei2018": asdict(SHORT)})
    with pytest.raises(ModelError, match="train anew"):
        wei2018.restore(card, {"some": torch.zeros(3)}, CPU)
    with pytest.raises(ModelError, match="train anew"):
        wei2018.restore(CARD, build_network("relu", 0).state_dict(), CPU)


def test_one_seed_gives_one_model(waves: TrainingSet) -> None:
    assert same(fit(SHORT, waves), fit(SHORT, waves))
    assert not same(fit(SHORT, waves), fit(SHORT, waves, seed=1))


def test_a_training_interrupted_in_fit_resumes_to_the_same_model(
    waves: TrainingSet, tmp_path: Path
) -> None:
    def stop(stage: str, done: int, total: int, value: float) -> None:
        if done == 2:
            raise KeyboardInterrupt

    file = tmp_path / "checkpoint.safetensors"
    with pytest.raises(KeyboardInterrupt):
        fit(SHORT, waves, checkpoint=file, progress=stop)
    seen: list[int] = []
    resumed = fit(SHORT, waves, checkpoint=file, progress=lambda *said: seen.append(said[1]))
    assert seen == [2, 3]
    assert same(resumed, fit(SHORT, waves))


@pytest.mark.parametrize("change", ["config", "seed", "data", "preprocessing"])
def test_a_checkpoint_of_another_request_is_refused(
    waves: TrainingSet, tmp_path: Path, change: str
) -> None:
    file = tmp_path / "checkpoint.safetensors"
    fit(SHORT, waves, checkpoint=file)
    config = replace(SHORT, learning_rate=2e-3) if change == "config" else SHORT
    data = replace(CARD.data, digest="cd") if change == "data" else CARD.data
    kept = Preprocessing("chest") if change == "preprocessing" else Preprocessing()
    card = replace(CARD, data=data, preprocessing=kept)
    seed = 1 if change == "seed" else 0
    with pytest.raises(RequestError, match="another configuration"):
        wei2018.fit(config, waves, card=card, seed=seed, device=CPU, checkpoint=file)


def kill(monkeypatch: pytest.MonkeyPatch, *seeds: int) -> None:
    """Let networks of these seeds have a third layer that lets nothing through, ever."""
    build = wei2018.build_network

    def broken(activation: wei2018.Activation, seed: int) -> nn.Module:
        network = build(activation, seed)
        if seed in seeds:
            list(network.parameters())[4].requires_grad_(False).zero_()
        return network

    monkeypatch.setattr(wei2018, "build_network", broken)


def test_a_dead_seed_is_noticed_at_once_and_another_tried(
    waves: TrainingSet, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = fit(SHORT, waves, seed=1_000_000).tensors()
    kill(monkeypatch, 0)
    stages: list[tuple[str, int]] = []
    with caplog.at_level(logging.WARNING):
        detector = fit(SHORT, waves, progress=lambda *said: stages.append(said[:2]))
    assert stages == [("training", 1), *(("training, try 2", epoch) for epoch in (1, 2, 3))]
    assert detector.card.seed == 1_000_000
    note = detector.card.notes[1]
    assert note.startswith("Try 1 of 3, seed 0, was given up; dead after epoch 1")
    assert note in caplog.messages
    assert all(torch.equal(t, expected[name]) for name, t in detector.tensors().items())


def test_a_restarted_training_resumes_in_its_second_try(
    waves: TrainingSet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def stop(stage: str, done: int, total: int, value: float) -> None:
        if stage.endswith("try 2") and done == 2:
            raise KeyboardInterrupt

    kill(monkeypatch, 0)
    file = tmp_path / "checkpoint.safetensors"
    whole = fit(SHORT, waves)
    with pytest.raises(KeyboardInterrupt):
        fit(SHORT, waves, checkpoint=file, progress=stop)
    resumed = fit(SHORT, waves, checkpoint=file)
    assert same(resumed, whole)
    assert resumed.card == whole.card


def test_three_dead_seeds_end_training_with_advice(
    waves: TrainingSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    kill(monkeypatch, 5, 1_000_005, 2_000_005)
    with pytest.raises(TrainingError, match="wei2018_leaky") as caught:
        fit(SHORT, waves, seed=5)
    for seed in (5, 1_000_005, 2_000_005):
        assert f"seed {seed}," in str(caught.value)
    assert "epochs or" not in str(caught.value)


@pytest.mark.parametrize(("activation", "dead"), [("relu", True), ("leaky_relu", False)])
def test_units_far_below_zero_are_dead_unless_they_leak(
    waves: TrainingSet, activation: wei2018.Activation, dead: bool
) -> None:
    network = build_network(activation, 1)
    with torch.no_grad():
        list(network.parameters())[5].fill_(-100)  # biases of the third layer
    patches = waves.bank.draw(4, torch.Generator().manual_seed(0))
    assert wei2018.is_dead(network, patches) == dead


def test_a_short_training_is_undertrained_and_says_so(
    waves: TrainingSet, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        card = fit(SHORT, waves).card
    assert card.seed == 0
    assert card.notes[1].startswith("Undertrained, after only 9 steps: RMSE 0.")
    assert list(card.notes[1:]) == caplog.messages


@pytest.mark.parametrize(
    ("gain", "kind", "advice"),
    [(1.0, "dead", "use --config wei2018_leaky"), (3.0, "undertrained", "raise wei2018.epochs")],
)
def test_a_long_training_that_is_no_better_than_the_own_mean_is_given_up(
    waves: TrainingSet, monkeypatch: pytest.MonkeyPatch, gain: float, kind: str, advice: str
) -> None:
    # Nothing is learnt in 9 steps so small; with a gain of 1 reconstructions are hardly different
    config = replace(SHORT, learning_rate=1e-9)
    build = wei2018.build_network

    def amplified(activation: wei2018.Activation, seed: int) -> nn.Module:
        network = build(activation, seed)
        with torch.no_grad():
            for values in list(network.parameters())[::2]:
                values *= gain
        return network

    monkeypatch.setattr(wei2018, "build_network", amplified)
    monkeypatch.setattr(wei2018, "_JUDGED_AFTER", {"dead": 9, "undertrained": 9})  # all steps
    with pytest.raises(TrainingError) as caught:
        fit(config, waves)
    message = str(caught.value)
    assert f"Try 3 of 3, seed 2000000, was given up; {kind} at the end: RMSE" in message
    assert advice in message.lower()
    assert message.count(" or use --config") + message.count(" or raise") == 0


def test_patch_sizes_that_cannot_be_halved_five_times_are_refused(waves: TrainingSet) -> None:
    for size in (0, 16, 100):
        with pytest.raises(RequestError, match=f"multiple of 32; got {size}"):
            wei2018.fit(SHORT, waves, card=replace(CARD, patch_size=size), seed=0, device=CPU)


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


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(RequestError, match="no method 'wei2019': use one of wei2018"):
        methods.module_of("wei2019")


def test_packaged_configurations_are_the_papers_but_for_the_leak() -> None:
    contents = {
        name: tomllib.loads((CONFIGS / f"{name}.toml").read_text("utf-8"))
        for name in ("wei2018", "wei2018_leaky")
    }
    parsed = {
        name: TypeAdapter(Config).validate_python(content.pop("wei2018"))
        for name, content in contents.items()
    }
    assert parsed["wei2018"] == Config(500, 200, 1e-3, (0.9, 0.999), "relu", None, 3)
    assert parsed["wei2018_leaky"] == replace(parsed["wei2018"], activation="leaky_relu")
    assert contents["wei2018"] == contents["wei2018_leaky"]
    assert contents["wei2018"]["split"] == {"held_out": 0.1, "by": "patient"}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_a_gpu_trains_and_scores_as_a_cpu_does(waves: TrainingSet) -> None:
    device = torch.device("cuda")
    bank = waves.bank
    moved = PatchBank(32, *(t.to(device) for t in (bank.pixels, bank.starts, bank.widths)))
    config = Config(6, 16, learning_rate=3e-3, activation="leaky_relu", patches_per_epoch=480)
    trained = wei2018.fit(config, TrainingSet(moved, 72), card=CARD, seed=0, device=device)
    assert trained.card.notes == CARD.notes  # not undertrained
    patches = moved.draw(20, torch.Generator().manual_seed(0))
    on_cpu = wei2018.restore(trained.card, {n: t.cpu() for n, t in trained.tensors().items()}, CPU)
    with torch.inference_mode():
        scores: tuple[Tensor, Tensor] = trained.score(patches), on_cpu.score(patches.cpu())
    torch.testing.assert_close(scores[0].cpu(), scores[1], rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize(
    ("intensity", "unit"),
    [
        ("voi", "RMSE of intensity [0, 1]"),
        ("percentiles", "RMSE of intensity [0, 1] between percentiles of the foreground"),
        ("local", "RMSE of local contrast (0.1 is one local standard deviation)"),
    ],
)
def test_the_score_unit_says_what_the_intensity_was(waves: TrainingSet, intensity, unit) -> None:
    card = replace(CARD, preprocessing=Preprocessing(intensity=intensity))
    one = replace(SHORT, epochs=1)
    assert wei2018.fit(one, waves, card=card, seed=0, device=CPU).card.score_unit == unit
