"""The shared autoencoder of whole films, with its memory and its uncertainty."""

import math

import numpy as np
import pytest
import torch
from builders import fitted, on_cpu, prepared, run_with, setting_with, training_set

from patchad.errors import RequestError, TrainingError
from patchad.learn.run import GivenUp
from patchad.methods import method_of
from patchad.methods.configure import read_config
from patchad.methods.parts.backbone import Backbone, check_side
from patchad.methods.parts.memory import Memory, address, entropy
from patchad.methods.parts.whole_film import respond, square
from patchad.methods.reconstruction import ae, aeu, memae
from patchad.methods.reconstruction.aeu import discounted
from patchad.model.options import parse


def test_the_network_has_as_many_parameters_as_published() -> None:
    network = Backbone(64, 16, (16, 32, 64, 64), 2048)
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(4.49e6, rel=2e-3)
    assert network.eval()(torch.zeros(2, 1, 64, 64)).shape == (2, 1, 64, 64)


def test_a_side_that_cannot_be_halved_is_refused() -> None:
    with pytest.raises(RequestError, match=r"ae halves its square 4 times.*multiple of 16; got 40"):
        check_side(40, "ae", 4)


def test_memory_is_addressed_as_a_slow_loop_does() -> None:
    rng = np.random.default_rng(0)
    codes, prototypes = rng.normal(size=(3, 4)), rng.normal(size=(5, 4))
    shrink = 0.15
    expected = np.zeros((3, 5))
    for n in range(3):
        raw = np.array([math.exp(codes[n] @ prototypes[k]) for k in range(5)])
        for k, weight in enumerate(raw / raw.sum()):
            expected[n, k] = max(weight - shrink, 0) * weight / (abs(weight - shrink) + 1e-12)
        expected[n] /= expected[n].sum()
    found = address(torch.tensor(codes), torch.tensor(prototypes), shrink)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)
    plain = address(torch.tensor(codes), torch.tensor(prototypes), 0.0)
    np.testing.assert_allclose(plain.sum(1).numpy(), 1)
    slow = [-sum(w * math.log(w + 1e-12) for w in row) for row in plain.tolist()]
    assert entropy(plain).item() == pytest.approx(float(np.mean(slow)))


def test_a_memory_starts_within_its_bound() -> None:
    prototypes = Memory(50, 16, 0.0).prototypes
    assert prototypes.abs().max() <= 0.25
    assert prototypes.abs().max() > 0.2


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        (torch.eye(2), ""),
        (torch.tensor([[0.9, 0.1], [0.8, 0.2]]), "the same nearest prototype"),
        (torch.tensor([[0.51, 0.49], [0.49, 0.51]]), "weigh nearly the same"),
    ],
)
def test_an_idle_memory_is_noticed(weights: torch.Tensor, words: str) -> None:
    found = memae.idle(weights)
    assert words in found
    assert bool(words) == bool(found)


def test_errors_are_discounted_by_their_variance() -> None:
    found = discounted(torch.tensor([2.0, 2.0]), torch.tensor([0.0, math.log(4.0)]))
    np.testing.assert_allclose(found.numpy(), [4.0, 1.0])


def test_certainty_is_bounded() -> None:
    module = aeu.build(aeu.Config(side=16, channels=(2,) * 4, hidden=4, code=2), setting_with())
    with torch.no_grad():
        for parameter in module.network.parameters():
            parameter.fill_(100.0)
        _, s = module.eval().predict(torch.ones(1, 1, 16, 16))
    assert s.abs().max() <= aeu.CLAMP


def test_a_map_lies_on_the_film_and_its_mean_is_the_image_score() -> None:
    mask = np.zeros((40, 80), bool)
    mask[:, :40] = True
    film = on_cpu(prepared(np.zeros((40, 80), np.float32), mask))
    values = torch.zeros(20, 20)
    values[5, 5] = 1.0
    grid = setting_with(patch_size=20, stride=20).grid((40, 80))
    response = respond(values, film, grid)
    assert response.image is not None
    assert response.map is not None
    assert response.image.item() == pytest.approx(1 / 400)
    top = np.unravel_index(np.nanargmax(response.map.numpy()), (40, 80))
    assert abs(top[0] + 0.5 - 5.5 * 2) <= 1
    assert abs(top[1] + 0.5 - 5.5 * 4) <= 2
    assert torch.isnan(response.map[:, 40:]).all()
    assert torch.isfinite(response.map[:, :40]).all()
    assert response.patches.shape == (8,)
    assert response.patches[:2].sum() > 0
    assert torch.isnan(response.patches[2:4]).all()
    over = respond(values, film, grid, "foreground").image
    assert over is not None
    assert over.item() == pytest.approx(1 / 200)


def test_members_share_a_film_resized() -> None:
    film = on_cpu(prepared(np.random.default_rng(0).random((40, 80)).astype(np.float32)))
    assert square(film, 20) is square(film, 20)
    assert square(film, 20).shape == (1, 1, 20, 20)


@pytest.mark.parametrize("method", [ae, memae, aeu])
def test_dead_networks_are_given_up(method, monkeypatch: pytest.MonkeyPatch) -> None:
    films = [
        prepared(np.random.default_rng(n).random((32, 32)).astype(np.float32)) for n in range(4)
    ]
    monkeypatch.setattr("patchad.methods.parts.autoencoding.is_dead", lambda *_: True)
    config = method.Config(side=16, channels=(2,) * 4, hidden=4, code=2, epochs=1, restarts=2)
    with pytest.raises(TrainingError, match=r"Try 2 of 2.*redraws every film as the same picture"):
        fitted(method.NAME, config, training_set(films))


def test_a_memory_is_addressed_in_float32_under_autocast() -> None:
    memory = Memory(9, 16, 0.0)
    codes = torch.randn(7, 16, generator=torch.Generator().manual_seed(0))
    plain = memory(codes)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = memory(codes)
    for one, other in zip(plain, mixed, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("steps", [999, 1000])
def test_an_idle_memory_starts_again(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a long training; another seed of a short one would be as idle."""
    monkeypatch.setattr(memae, "fit_autoencoder", lambda *_, **__: steps)
    config = memae.Config(side=16, channels=(2, 2), hidden=4, code=3, slots=5)
    module = memae.build(config, setting_with())
    torch.nn.init.zeros_(module.network.memory.prototypes)
    pictures, run = torch.rand(6, 1, 16, 16), run_with()
    if steps >= 1000:
        with pytest.raises(GivenUp, match="the memory does little: all of 6 films"):
            memae.fit_to(module, config, pictures, run)
        return
    memae.fit_to(module, config, pictures, run)
    assert "after only 999 steps: the memory does little" in run.notes[0]


TINY: dict[str, object] = {"side": 32, "channels": [4, 8, 8, 8], "hidden": 32, "epochs": 2}


@pytest.mark.parametrize(
    ("name", "options", "films"),
    [
        ("ae", TINY, 1),
        ("vae", {**TINY, "batch_size": 1}, 3),
        ("deep_svdd", {"pretraining": 1, "epochs": 1, "patches_per_epoch": 1}, 3),
        ("aae", {**TINY, "batch_size": 1}, 3),
    ],
)
def test_steps_of_one_example_are_refused_in_words(
    name: str, options: dict[str, object], films: int
) -> None:
    rng = np.random.default_rng(0)
    data = training_set([prepared(rng.random((64, 48))) for _ in range(films)])
    config = parse(method_of(name).config, options, f"{name}.")
    with pytest.raises(TrainingError, match=r"step of one example.*raise the batch_size"):
        fitted(name, config, data)


@pytest.mark.parametrize("name", ["ae", "memae", "aeu", "ceae", "cevae", "vae", "kde", "ddad"])
def test_options_that_no_network_has_are_refused(name: str) -> None:
    for wrong in ("channels=[]", "betas=[0.5, 1.0]", "betas=[-0.1, 0.9]", "betas=[nan, 0.9]"):
        with pytest.raises(RequestError, match=rf"{name}\.{wrong.partition('=')[0]}"):
            read_config(name, [f"{name}.{wrong}"])
    with pytest.raises(RequestError, match=r"jahan2022\.filters"):
        read_config("jahan2022", ["jahan2022.filters=[]"])


def test_a_network_that_is_given_up_has_a_remedy() -> None:
    rng = np.random.default_rng(0)
    data = training_set([prepared(rng.random((64, 48))) for _ in range(4)])
    config = parse(memae.Config, {**TINY, "shrink": 0.9, "restarts": 1}, "memae.")
    with pytest.raises(TrainingError, match=r"same picture\. Lower memae\.learning_rate, or give"):
        fitted("memae", config, data)
