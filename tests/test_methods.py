"""What every method keeps to, whoever wrote it."""

import json
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import CPU, kept_on_device, run_with, same, state
from method_cases import (
    Untouched,
    config_of,
    data_of,
    detector_of,
    films_of,
    fitted,
    once,
    setting_of,
    spot,
)

import patchad.engine.screener as screening
from patchad.core.host import to_host
from patchad.engine.screener import Screener
from patchad.errors import ModelError, RequestError
from patchad.learn.fitting import build, fit
from patchad.methods import METHODS, all_methods, method_of, restore
from patchad.methods.configure import read_config
from patchad.model.configurations import packaged
from patchad.model.folder import load_into


@pytest.mark.parametrize("name", METHODS)
def test_a_method_says_what_it_is(name: str) -> None:
    method = method_of(name)
    assert method.name == name
    assert method.paper
    assert method.needs.words
    assert method.gives.words
    assert set(method.needs.body_parts) <= {"breast", "chest"}
    assert method.needs.body_parts
    assert is_dataclass(method.config)
    assert method.config.__dataclass_params__.frozen  # type: ignore[attr-defined]


def test_all_are_listed_in_the_folder_of_their_family() -> None:
    assert [one.name for one in all_methods()] == list(METHODS)
    from patchad.methods import TABLE

    for one in all_methods():
        if one.family != "fusion":
            assert TABLE[one.name] == f"{one.family}/{one.name}"


def test_an_unknown_one_is_named() -> None:
    with pytest.raises(RequestError, match="no method 'nosuch': use one of wei2018"):
        method_of("nosuch")


@pytest.mark.parametrize("name", METHODS)
def test_one_seed_gives_one_model(name: str) -> None:
    assert same(state(fitted(name).module), state(once(name).module))


@pytest.mark.parametrize("name", METHODS)
def test_a_method_that_needs_unlabelled_films_is_refused_without(name: str) -> None:
    method, config, setting = method_of(name), config_of(name), setting_of(name)
    if method.needs_with(config).unlabelled:
        without = replace(films_of(setting), unlabelled=None)
        with pytest.raises(RequestError, match=f"{name} learns from unlabelled films too"):
            fit(method, config, without, run_with(3, setting))
    else:  # every other test gives it films that it may not look at
        assert isinstance(data_of(name).unlabelled, Untouched)


def stops(name: str) -> Iterator[int]:
    """Epochs after which a training can be killed: those it tells of."""
    epochs: set[int] = set()

    def listen(stage: str, done: int, total: int, value: float) -> None:
        if "training" in stage:
            epochs.add(done)

    fitted(name, progress=listen)
    yield from sorted(epochs)


@pytest.mark.parametrize("name", METHODS)
def test_killed_after_any_epoch_and_resumed_it_ends_bit_equal(name: str, tmp_path: Path) -> None:
    for at in stops(name):

        def kill(stage: str, done: int, total: int, value: float, at: int = at) -> None:
            if "training" in stage and done == at:
                raise KeyboardInterrupt

        file = tmp_path / f"{at}" / "training.safetensors"
        with pytest.raises(KeyboardInterrupt):
            fitted(name, checkpoint=file, progress=kill)
        assert list(file.parent.iterdir())
        assert same(state(fitted(name, checkpoint=file).module), state(once(name).module))


@pytest.mark.parametrize("name", METHODS)
def test_everything_learnt_is_saved_and_every_tensor_is_checked(name: str) -> None:
    one, setting = once(name), setting_of(name)
    tensors = state(one.module)

    skeleton = build(method_of(name), config_of(name), setting, 99)
    load_into(skeleton, tensors, name)
    assert same(state(skeleton), tensors)
    before = state(skeleton)
    for key, tensor in tensors.items():
        without = {k: t for k, t in tensors.items() if k != key}
        taller = torch.zeros((*tensor.shape, 2), dtype=tensor.dtype)
        other = tensor.to(torch.float64 if tensor.dtype != torch.float64 else torch.float32)
        for changed in (without, {**tensors, key: taller}, {**tensors, key: other}):
            with pytest.raises(ModelError, match="train again"):
                load_into(skeleton, changed, name)
    with pytest.raises(ModelError, match="foreign"):
        load_into(skeleton, {**tensors, "foreign": torch.zeros(1)}, name)
    assert same(state(skeleton), tensors)  # a refusal changes nothing
    assert same(state(skeleton), before)  # what is refused changes nothing
    load_into(skeleton, tensors, name)
    assert same(state(skeleton), tensors)


@pytest.mark.parametrize("name", METHODS)
def test_a_restored_detector_scores_alike(name: str) -> None:
    detector = detector_of(name, once(name))
    again = restore(detector.card, state(detector.module), CPU)
    film = films_of(setting_of(name)).film(0)
    first, second = (Screener(one).score(film) for one in (detector, again))
    np.testing.assert_array_equal(first.scores.values, second.scores.values)
    assert first.scores.scored.any()
    assert first.scores.values.dtype == np.float32
    assert (first.map is None) == (method_of(name).gives.kind == "patch")
    if first.map is not None:
        assert second.map is not None
        np.testing.assert_array_equal(first.map, second.map)
        assert first.map.shape == film.pixels.shape
        assert np.isfinite(first.map).any()
        assert method_of(name).gives.map
    if not method_of(name).gives.image:
        assert np.isnan(first.image)


@pytest.mark.parametrize("name", METHODS)
def test_scoring_stays_on_the_device(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the prepared image to scores, map, baselines and stitching, but for ``to_host``."""
    detector = detector_of(name, once(name))
    film = films_of(setting_of(name)).film(0)
    setting, method = setting_of(name), method_of(name)
    from patchad.core.baselines import patch_statistics
    from patchad.model.scoring import score
    from patchad.prepare.film import Film

    on_device = Film.of(film, CPU, method.needs_with(detector.options).before)
    with kept_on_device():
        answer = score(method, detector.module, setting, on_device, setting.grid(on_device.shape))
        dense = answer.dense(on_device, setting)
        patch_statistics(on_device.pixels, answer.grid)
    assert to_host(dense)[0].shape == film.pixels.shape
    assert screening.to_host is to_host  # the one function that brings results to the host


@pytest.mark.parametrize("name", METHODS)
def test_results_do_not_hang_on_what_is_scored_together(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    film = films_of(setting_of(name)).film(1)
    detector = detector_of(name, once(name))
    whole = Screener(detector).score(film).scores.values
    monkeypatch.setattr("patchad.model.scoring.AT_ONCE", 3)
    parts = Screener(detector).score(film).scores.values
    np.testing.assert_allclose(parts, whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_of_millimetres_says_that_they_are_needed(name: str) -> None:
    needs = method_of(name).needs_with(config_of(name))
    detector = detector_of(name, once(name))
    film = replace(films_of(setting_of(name)).film(0), spacing_mm=None)
    if needs.spacing:
        from patchad.errors import ImageError

        with pytest.raises(ImageError, match="spacing"):
            Screener(detector).score(film)
    else:
        assert Screener(detector).score(film).scores.scored.any()


@pytest.mark.parametrize("name", [name for name in METHODS if name != "fused"])
def test_every_method_can_be_named_as_a_configuration(name: str) -> None:
    config = read_config(name)
    assert config.method == name
    assert config.options == method_of(name).config()
    assert config.preprocessing.body_part in method_of(name).needs.body_parts


def test_two_seeds_of_one_method_stand_side_by_side() -> None:
    module = once("fused").module
    one, other = (state(member) for member in module.members)  # type: ignore[union-attr]
    assert one.keys() == other.keys()
    assert not same(one, other)
    assert "1 × one" in once("fused").pooling
    assert "0.5 × other" in once("fused").pooling


def test_the_stages_of_members_have_their_names() -> None:
    stages: list[str] = []
    fitted("fused", progress=lambda stage, *_: stages.append(stage))
    assert [*dict.fromkeys(stages)] == ["one: training", "other: training", "scale"]


@pytest.mark.parametrize("name", sorted(packaged()))
def test_a_packaged_configuration_is_whole_and_is_json(name: str) -> None:
    config = read_config(name)
    content = json.loads(json.dumps(config.as_dict()))
    assert content["method"] in METHODS
    assert set(content[content["method"]]) == {field.name for field in fields(config.options)}


@pytest.mark.parametrize("name", ["mammography", "chest"])
def test_recommended_members_can_be_set(name: str) -> None:
    members = read_config(name).options.members
    assert len(members) == 3
    for member in members:
        changed = read_config(name, [f"fused.members.{member}.weight=0.25"])
        assert changed.options.members[member].weight == 0.25


# Methods whose score does not rise for a bright spot after so short a fit, and the reason.
BLIND = {
    "calcification": "it seeks specks; its own test plants them",
    "a_d": "a critic tells what its generator makes from tissue, and need not know a bright spot",
    "ddad": "it compares reconstructions, which lose so small a spot; its own test plants larger",
    "cutpaste_e2e": "edges of pasted parts take hundreds of steps to learn; a disc is none",
    "draem": "it needs hundreds of steps to answer anything; its own test takes them",
}


@pytest.mark.parametrize("name", METHODS)
def test_a_bright_spot_scores_above_its_untouched_twin(name: str) -> None:
    setting = setting_of(name)
    untouched = films_of(setting).film(0)
    planted, number = spot(untouched, setting)
    screener = Screener(detector_of(name, once(name)))
    before, after = (screener.score(film).scores.values[number] for film in (untouched, planted))
    if name in BLIND:
        pytest.skip(BLIND[name])
    assert after > before
