"""What every method keeps to, whoever wrote it."""

import json
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import (
    CHEST,
    CPU,
    chest_film,
    kept_on_device,
    prepared,
    run_with,
    same,
    setting_with,
    state,
    training_set,
)

import patchad.engine.screener as screening
from patchad.core.host import to_host
from patchad.engine.screener import Screener
from patchad.errors import ModelError, RequestError
from patchad.learn.fitting import Fitted, build, fit
from patchad.learn.training_set import TrainingSet
from patchad.methods import METHODS, all_methods, method_of, restore
from patchad.methods.configure import read_config
from patchad.model.card import ModelCard, TrainingData
from patchad.model.configurations import packaged
from patchad.model.detector import Detector
from patchad.model.folder import load_into
from patchad.model.method import Setting
from patchad.model.options import parse
from patchad.phantoms.phantom import mammogram
from patchad.prepare.preprocess import Prepared

# What a method is told to be quick; one that isn't here is quick by itself.
QUICK = {
    "wei2018": {
        "epochs": 2, "batch_size": 8, "patches_per_epoch": 20, "activation": "leaky_relu",
    },
    "synthetic_lesions": {"steps": 40, "batch_size": 2},
    "dae": {"channels": [4, 8], "steps": 20, "batch_size": 2},
    "synthetic_opacities": {"copies": 1},
    "ae": {"side": 32, "channels": [4, 8, 8, 8], "hidden": 32, "epochs": 40, "batch_size": 3},
    "memae": {"side": 32, "channels": [4, 8, 8, 8], "hidden": 32, "epochs": 40, "batch_size": 3},
    "aeu": {"side": 32, "channels": [4, 8, 8, 8], "hidden": 32, "epochs": 40, "batch_size": 3},
    "vae": {"side": 32, "channels": [4, 8, 8, 8], "hidden": 32, "epochs": 40, "batch_size": 3},
    "ceae": {"side": 32, "channels": [4, 8, 8, 8], "hidden": 32, "epochs": 40, "batch_size": 3},
    "cevae": {"side": 32, "channels": [4, 8, 8, 8], "hidden": 32, "epochs": 40, "batch_size": 3},
    "vanhetreve2023": {"epochs": 100, "batch_size": 3},
    "jahan2022": {"side": 32, "filters": [4, 4, 8], "code": 8, "kernels": 8, "epochs": 40},
    "kde": {
        "side": 32, "channels": [4, 8, 8, 8], "hidden": 32, "kernels": 8, "epochs": 40,
        "batch_size": 3,
    },
    "calcification": {"clusters": 2},
    "fpi": {
        "side": 32, "width": 1, "epochs": 60, "batch_size": 4, "learning_rate": 3e-3,
    },
    "pii": {
        "side": 32, "width": 1, "epochs": 60, "batch_size": 4, "learning_rate": 3e-3,
    },
    "nsa": {"side": 37, "crop": 32, "channels": [4, 8, 8, 8], "epochs": 30, "batch_size": 4},
    "cutpaste": {
        "channels": [4, 8, 8, 16], "head": [16, 8], "steps": 30, "batch_size": 4,
        "density_patches": 60,
    },
    "cutpaste_e2e": {
        "side": 37, "crop": 32, "channels": [4, 8, 8, 8], "epochs": 30, "batch_size": 4,
    },
    "ssim_ae": {"code": 8, "epochs": 2, "patches_per_epoch": 40, "batch_size": 8},
    "vqvae2": {
        "side": 32, "channels": 8, "blocks": 1, "block_channels": 4, "codes": 16, "length": 4,
        "epochs": 20, "batch_size": 3, "learning_rate": 3e-3,
    },
    "draem": {
        "side": 32, "redraw_width": 1, "outline_width": 2, "epochs": 20, "batch_size": 3,
    },
    "l2_ae": {"code": 8, "epochs": 2, "patches_per_epoch": 40, "batch_size": 8},
    "students": {
        "fields": [17], "side": 48, "width": 4, "students": 2, "teacher_steps": 10,
        "teacher_batch": 16, "epochs": 10, "learning_rate": 1e-2,
    },
    "nearest_neighbour": {
        "samples": 60, "width": 8, "teacher_steps": 30, "teacher_batch": 8, "teacher_rate": 3e-3,
    },
    "oc_svm": {
        "samples": 60, "width": 8, "teacher_steps": 30, "teacher_batch": 8, "teacher_rate": 3e-3,
    },
    "k_means": {
        "centres": 5, "samples": 60, "width": 8, "teacher_steps": 30, "teacher_batch": 8,
        "teacher_rate": 3e-3,
    },
    "cnn_dictionary": {
        "features": "teacher", "words": 5, "samples": 60, "width": 8, "teacher_steps": 30,
        "teacher_batch": 8, "teacher_rate": 3e-3,
    },
    "deep_svdd": {
        "boundary": "soft", "warm_up": 1, "channels": [4, 8, 8], "code": 16, "pretraining": 2,
        "epochs": 3, "batch_size": 10, "patches_per_epoch": 30, "learning_rate": 1e-3,
    },
    "fused": {
        "smoothing": 0.2,
        "members": {
            "one": {"method": "wei2018", "options": {
                "epochs": 1, "batch_size": 8, "patches_per_epoch": 8, "activation": "leaky_relu"}},
            "other": {"method": "wei2018", "weight": 0.5, "options": {
                "epochs": 2, "batch_size": 8, "patches_per_epoch": 8, "activation": "leaky_relu"}},
        },
    },
    "fanogan": {"width": 1, "code": 8, "batch_size": 2, "steps": 2, "critic_steps": 1,
        "encoder_steps": 8, "encoder_learning_rate": 1e-2},
    "anogan": {"width": 2, "code": 8, "batch_size": 4, "steps": 10, "iterations": 3, "rate": 0.1},
    "ali": {"width": 1, "code": 8, "hidden": 8, "batch_size": 2, "steps": 5},
    "advae": {"width": 1, "code": 8, "batch_size": 2, "steps": 5, "critic_steps": 1},
    "a_d": {"width": 1, "code": 8, "batch_size": 2, "steps": 3, "critic_steps": 1},
    "aae": {
        "side": 32, "channels": [4, 8, 8, 8], "hidden": 32, "epochs": 25, "batch_size": 3,
        "critic_steps": 2,
    },
    "caae": {
        "side": 32, "channels": [4, 8, 8, 8], "hidden": 32, "epochs": 25, "batch_size": 3,
        "critic_steps": 2,
    },
    "anovaegan": {
        "side": 32, "channels": [4, 8, 8, 8], "hidden": 32, "epochs": 25, "batch_size": 3,
        "critic_steps": 1, "learning_rate": 0.002,
    },
    "ganomaly": {"side": 32, "width": 4, "code": 8, "epochs": 25, "batch_size": 3},
    "igd": {
        "side": 32, "width": 2, "code": 8, "levels": 2, "epochs": 8, "batch_size": 2,
        "refresh": 3, "learning_rate": 0.003,
    },
    "ddad": {
        "networks": 1, "side": 16, "channels": [4, 8], "hidden": 8, "epochs": 10, "batch_size": 8,
    },
}  # fmt: skip
BREAST = setting_with(stride=16)


def setting_of(name: str) -> Setting:
    method = method_of(name)
    setting = BREAST if "breast" in method.needs.body_parts else CHEST
    return replace(setting, **method.setting)


@cache
def films_of(setting: Setting) -> TrainingSet:
    """Negatives, and unlabelled films: others of their kind, of which every second has a spot."""
    if setting.preprocessing.body_part == "chest":
        films, others = ([chest_film(seed) for seed in seeds] for seeds in (range(6), range(6, 10)))
    else:
        films, others = ([breast(seed) for seed in seeds] for seeds in (range(4), range(4, 8)))
    others[1::2] = [spot(film, setting)[0] for film in others[1::2]]
    known, unlabelled = (training_set(some, setting.patch_size) for some in (films, others))
    return replace(known, unlabelled=unlabelled)


def breast(seed: int) -> Prepared:
    one = mammogram(np.random.default_rng(seed), shape=(320, 256), spacing_mm=0.5)
    return prepared(one.pixels, one.foreground, (0.5, 0.5))


class Untouched:
    """Unlabelled films that nobody may look at."""

    def __getattribute__(self, name: str) -> object:
        raise AssertionError("a method that does not need unlabelled films looked at them")


def config_of(name: str) -> object:
    return parse(method_of(name).config, QUICK.get(name, {}), f"{name}.")


def data_of(name: str) -> TrainingSet:
    """What the method is given: unlabelled films are there, but for those that need them alone."""
    data = films_of(setting_of(name))
    if method_of(name).needs_with(config_of(name)).unlabelled:
        return data
    return replace(data, unlabelled=Untouched())


def fitted(name: str, **rest: object) -> Fitted:
    run = run_with(3, setting_of(name), **rest)
    return fit(method_of(name), config_of(name), data_of(name), run)


@cache
def once(name: str) -> Fitted:
    """A fit of the method that several tests look at, and don't change."""
    return fitted(name)


def detector_of(name: str, one: Fitted) -> Detector:
    setting, method, options = setting_of(name), method_of(name), config_of(name)
    card = ModelCard(
        method=name,
        config={"method": name, name: json.loads(json.dumps(options, default=vars))},
        score_unit=one.unit,
        seed=one.seed,
        data=TrainingData("ab", 3, 2, "by patient", ("MG",), (0.5, 0.5), (0.3, 0.6)),
        **vars(setting),
    )
    return Detector(card, method, options, one.module)


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


def spot(image: Prepared, setting: Setting) -> tuple[Prepared, int]:
    """The film with a bright disc in a patch of tissue, or of a lung; that patch's number."""
    shape = image.pixels.shape
    grid = setting.grid((shape[0], shape[1]))
    boxes = grid.boxes(shape)
    middles = boxes[:, :2] + boxes[:, 2:] / 2
    wanted = np.multiply(shape, (0.45, 0.28) if setting.preprocessing.body_part == "chest" else 0.5)
    number = int(np.abs(middles - wanted).sum(1).argmin())
    row, col = middles[number]
    rows, cols = np.ogrid[: shape[0], : shape[1]]
    away = np.hypot(rows - row, cols - col)
    disc = np.clip(1.5 - away / (0.2 * setting.patch_size), 0, 1).astype(np.float32)
    return replace(image, pixels=image.pixels + (np.float32(0.95) - image.pixels) * disc), number


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
