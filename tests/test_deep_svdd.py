"""Deep SVDD: its network, boundaries, centre, normalisation and collapse."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import fitted, prepared, run_with, same, setting_with, state, training_set
from torch import nn

from patchad.errors import RequestError, TrainingError
from patchad.learn.run import Run
from patchad.learn.training_set import TrainingSet
from patchad.methods.configure import read_config
from patchad.methods.density import deep_svdd
from patchad.methods.density.deep_svdd import (
    Config,
    Decoder,
    Encoder,
    away_from_zero,
    normalise,
    quantile_radius,
    soft_loss,
)

TINY = Config(
    channels=(2, 4, 4),
    code=16,
    pretraining=2,
    epochs=2,
    batch_size=8,
    patches_per_epoch=20,
    learning_rate=1e-3,
    warm_up=1,
)


def films() -> TrainingSet:
    rng = np.random.default_rng(0)
    return training_set([prepared(rng.random((48, 40)).astype(np.float32)) for _ in range(2)])


def test_the_networks_are_the_published_ones() -> None:
    encoder, decoder = (made(32, (32, 64, 128), 128) for made in (Encoder, Decoder))
    counts = [sum(p.numel() for p in net.parameters()) for net in (encoder, decoder)]
    filters = [25 * 1 * 32, 25 * 32 * 64, 25 * 64 * 128]
    assert counts[0] == sum(filters) + 128 * 16 * 128
    assert counts[1] == 25 * 8 * 128 + sum(filters[1:]) + filters[0]
    assert decoder(encoder(torch.rand(3, 1, 32, 32))).shape == (3, 1, 32, 32)
    no_bias = [
        m for m in [*encoder.modules(), *decoder.modules()] if getattr(m, "bias", None) is not None
    ]
    assert no_bias == []
    larger = Encoder(64, (32, 64, 128), 128)
    assert larger.dense.in_features == 128 * 8 * 8
    assert Decoder(64, (32, 64, 128), 128)(torch.rand(2, 128)).shape == (2, 1, 64, 64)


def test_an_encoder_is_its_layers_one_after_another() -> None:
    torch.manual_seed(0)
    encoder = Encoder(16, (2, 3, 4), 5).eval()
    layers: list[nn.Module] = []
    for convolution, norm in zip(encoder.convolutions, encoder.norms, strict=True):
        norm.running_mean.uniform_(-0.1, 0.1)
        layers += [convolution, norm, nn.LeakyReLU(0.01), nn.MaxPool2d(2)]
    patches = torch.rand(2, 1, 16, 16)
    expected = nn.Sequential(*layers, nn.Flatten(), encoder.dense)(patches)
    torch.testing.assert_close(encoder(patches), expected)


def test_patches_are_normalised_each() -> None:
    patch = np.array([[0.1, 0.2], [0.4, 0.9]])
    apart = patch - 0.4
    expected = apart / np.abs(apart).mean()  # 0.3, 0.2, 0, 0.5: 0.25
    np.testing.assert_allclose(expected, [[-1.2, -0.8], [0, 2]])
    patches = torch.tensor(np.stack([patch, patch * 0.5 + 0.3, np.full((2, 2), 0.7)]))[:, None]
    found = normalise(patches)[:, 0].numpy()
    np.testing.assert_allclose(found[0], expected)
    np.testing.assert_allclose(found[1], expected)
    np.testing.assert_allclose(found[2], 0, atol=1e-6)


def test_a_centre_keeps_away_from_zero() -> None:
    found = away_from_zero(torch.tensor([0.05, -0.05, 0.2, -0.2, 0.0, 0.1]))
    np.testing.assert_allclose(found.numpy(), [0.1, -0.1, 0.2, -0.2, 0.1, 0.1])


def test_the_soft_boundary_is_that_of_a_slow_loop() -> None:
    away, radius, nu = [0.5, 2.0, 9.0, 4.0], 1.5, 0.1
    expected = radius**2 + sum(max(0.0, d - radius**2) for d in away) / 4 / nu
    found = soft_loss(torch.tensor(away), torch.tensor(radius), nu)
    assert found.item() == pytest.approx(expected)
    squares = torch.arange(11.0).square()
    assert quantile_radius(squares, 0.1).item() == pytest.approx(9.0)
    assert quantile_radius(squares, 0.5).item() == pytest.approx(5.0)


def test_scores_are_squared_distances_of_codes() -> None:
    for boundary in ("hard", "soft"):
        module = deep_svdd.build(replace(TINY, boundary=boundary), setting_with()).eval()
        module.centre.fill_(0.5)
        module.radius.fill_(2.0)
        module.low.fill_(-3.0)
        module.high.fill_(5.0)
        patches = torch.rand(3, 1, 32, 32)
        with torch.no_grad():
            codes = module.encoder((normalise(patches) + 3) / 8)
            expected = ((codes - 0.5) ** 2).sum(1) - (4 if boundary == "soft" else 0)
            torch.testing.assert_close(module(patches), expected)
        assert ("less the squared radius" in module.unit) == (boundary == "soft")


def test_codes_are_drawn_to_the_centre() -> None:
    data = films()
    quick = replace(TINY, learning_rate=1e-2, milestone=30)
    module = fitted("deep_svdd", replace(quick, epochs=1), data).module
    longer = fitted("deep_svdd", replace(quick, epochs=30), data).module
    assert torch.equal(module.centre, longer.centre)
    assert (module.centre.abs() >= 0.1).all()
    probe = data.bank.cut(torch.arange(12))
    assert longer(probe).mean() < 0.3 * module(probe).mean()
    scaled = module.scaled(probe)
    assert scaled.min() > -0.3
    assert 0.5 < scaled.max() < 1.3


def test_a_soft_radius_starts_after_the_warm_up() -> None:
    soft = replace(TINY, boundary="soft", epochs=3, warm_up=2)
    run = run_with()
    module = fitted("deep_svdd", replace(soft, epochs=2), films(), run).module
    assert module.radius == 0
    assert "The radius is still 0" in run.notes[0]
    run = run_with()
    module = fitted("deep_svdd", soft, films(), run).module
    assert module.radius > 0
    assert run.notes == []
    assert fitted("deep_svdd", TINY, films()).module.radius == 0


@pytest.mark.parametrize("boundary", ["hard", "soft"])
def test_killed_in_either_training_it_ends_bit_equal(boundary: str, tmp_path: Path) -> None:
    config = replace(TINY, boundary=boundary, epochs=3)
    whole = state(fitted("deep_svdd", config, films()).module)
    for part in ("autoencoder", "svdd"):

        def kill(stage: str, done: int, total: int, value: float, part: str = part) -> None:
            if stage.startswith(part) and done == 2:
                raise KeyboardInterrupt

        file = tmp_path / part / "training.safetensors"
        with pytest.raises(KeyboardInterrupt):
            fitted("deep_svdd", config, films(), run_with(checkpoint=file, progress=kill))
        again = fitted("deep_svdd", config, films(), run_with(checkpoint=file)).module
        assert same(state(again), whole)


def test_codes_that_are_all_the_same_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    shrunk = Encoder.forward
    monkeypatch.setattr(Encoder, "forward", lambda self, x: shrunk(self, x) * 1e-6)
    with pytest.raises(TrainingError, match=r"Try 2 of 2.*all patches have the same code"):
        fitted("deep_svdd", replace(TINY, restarts=2), films())


def test_a_last_batch_of_one_is_left_out() -> None:
    fitted("deep_svdd", replace(TINY, patches_per_epoch=9), films())


def test_what_cannot_be_done_is_refused() -> None:
    with pytest.raises(RequestError, match=r"multiple of 8; got 60"):
        deep_svdd.build(TINY, setting_with(patch_size=60))
    with pytest.raises(RequestError, match=r"deep_svdd\.code must be a multiple of 16.*got 20"):
        deep_svdd.build(replace(TINY, code=20), setting_with())
    with pytest.raises(RequestError, match=r"deep_svdd\.nu must be more than 0"):
        deep_svdd.build(replace(TINY, nu=0.0), setting_with())
    with pytest.raises(RequestError, match="boundary"):
        read_config("deep_svdd", ["deep_svdd.boundary=firm"])


def test_the_defaults_are_published() -> None:
    config = Config()
    assert (config.channels, config.code, config.nu) == ((32, 64, 128), 128, 0.1)
    assert (config.pretraining, config.pretraining_milestone) == (350, 250)
    assert (config.epochs, config.milestone, config.batch_size) == (150, 50, 200)
    assert (config.learning_rate, config.decay) == (1e-4, 5e-7)


def test_a_try_that_was_given_up_is_not_made_again_on_resuming(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Killed within the second try's second training, it goes on there."""
    real = deep_svdd.train

    def train(run: Run, *networks: object, **rest: Any) -> None:
        own = rest.pop("health")

        def health(epoch: int) -> str:
            return "unlucky" if run.attempt == 0 and run.part == "svdd" else own(epoch)

        real(run, *networks, **rest, health=health)

    monkeypatch.setattr(deep_svdd, "train", train)
    whole = fitted("deep_svdd", TINY, films(), run_with(3))
    told: list[str] = []

    def kill(stage: str, done: int, total: int, value: float) -> None:
        if stage == "svdd: training, try 2":
            raise KeyboardInterrupt

    file = tmp_path / "training.safetensors"
    with pytest.raises(KeyboardInterrupt):
        fitted(
            "deep_svdd", TINY, films(), run_with(3, setting_with(), checkpoint=file, progress=kill)
        )
    run = run_with(
        3, setting_with(), checkpoint=file, progress=lambda stage, *_: told.append(stage)
    )
    again = fitted("deep_svdd", TINY, films(), run)
    assert {*told} == {"autoencoder: training, try 2", "svdd: training, try 2"}
    assert told.count("autoencoder: training, try 2") == 1  # as it was, not trained again
    assert same(state(again.module), state(whole.module))
    assert again.seed == whole.seed == 1_000_003
    assert sum("Try 1 of" in note for note in run.notes) == 1


def test_a_share_outside_a_hard_boundary_is_refused() -> None:
    with pytest.raises(RequestError, match=r"deep_svdd\.nu is for a soft boundary"):
        deep_svdd.build(replace(TINY, nu=0.05), setting_with())
    deep_svdd.build(replace(TINY, nu=0.05, boundary="soft"), setting_with())
