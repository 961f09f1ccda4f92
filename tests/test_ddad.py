"""DDAD: its scores against NumPy, its networks, what it needs, and a training by command."""

import itertools
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from builders import CPU, fitted, prepared, run_with, same, setting_with, state, training_set

import patchad
from patchad.commands.train import train
from patchad.errors import RequestError, TrainingError
from patchad.learn.fitting import Fitted, build
from patchad.learn.run import Run
from patchad.learn.training_set import TrainingSet
from patchad.methods import load
from patchad.methods.configure import read_config
from patchad.methods.parts.refining import Refiner, RefinerTraining, fit_refiner, found_pasted
from patchad.methods.reconstruction import aeu, ddad
from patchad.methods.reconstruction.ddad import METHOD, Config, Ddad, error, inter, intra
from patchad.model.method import Method
from patchad.model.options import parse

SIDE = 16
TINY = {"side": SIDE, "channels": [4, 8], "hidden": 16, "code": 4, "epochs": 2, "networks": 2}
SCORES = ("rec", "ensemble_rec", "intra", "inter", "r_intra", "r_dual")
REFINED = ("r_intra", "r_dual")


def config_with(**options: object) -> Config:
    if options.get("score") in REFINED:
        options = {"asr_epochs": 2, "asr_channels": 16, **options}
    if options.get("score") == "rec":
        options = {"networks": 3, **options}
    return parse(Config, {**TINY, **options}, "ddad.")


@cache
def films(unlabelled: bool = True) -> TrainingSet:
    def some(seed: int) -> TrainingSet:
        rng = np.random.default_rng(seed)
        row = np.linspace(0, 1, 32, dtype=np.float32)
        shades = [np.outer(row ** rng.uniform(0.5, 2), row[::-1]) for _ in range(6)]
        return training_set([prepared(one.astype(np.float32)) for one in shades])

    return replace(some(0), unlabelled=some(1) if unlabelled else None)


@cache
def trained(score: str, backbone: str = "ae") -> Ddad:
    module = fitted("ddad", config_with(score=score, backbone=backbone), films()).module
    assert isinstance(module, Ddad)
    return module


def test_scores_are_as_a_slow_loop_has_them() -> None:
    rng = np.random.default_rng(0)
    x, b, a = rng.random((2, 3, 4)), rng.random((5, 2, 3, 4)), rng.random((5, 2, 3, 4))
    variance = rng.uniform(0.1, 2, (2, 3, 4))
    rec, spread, between = (np.zeros((2, 3, 4)) for _ in range(3))
    for at in itertools.product(range(2), range(3), range(4)):
        mean_b, mean_a = (sum(one[k][at] for k in range(5)) / 5 for one in (b, a))
        rec[at] = (x[at] - mean_b) ** 2
        spread[at] = (sum((b[k][at] - mean_b) ** 2 for k in range(5)) / 5) ** 0.5
        between[at] = abs(mean_a - mean_b)
    tx, tb, ta, tv = (torch.from_numpy(one) for one in (x, b, a, variance))
    sigma = variance**0.5
    for found, expected in [
        (error(tx, tb, None), rec),
        (error(tx, tb, tv), rec / variance),
        (intra(tb, None), spread),
        (intra(tb, tv), spread / sigma),
        (inter(ta, tb, None), between),
        (inter(ta, tb, tv), between / sigma),
    ]:
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-10)


def test_the_spread_of_equal_networks_is_zero_and_of_two_is_half_their_distance() -> None:
    one = torch.tensor([[[1.0, 2.0]]])
    assert intra(torch.stack([one, one]), None).tolist() == [[[0.0, 0.0]]]
    assert intra(torch.stack([one, one + 3]), None).tolist() == [[[1.5, 1.5]]]


@pytest.mark.parametrize("backbone", ["ae", "memae", "aeu"])
@pytest.mark.parametrize("score", SCORES)
def test_maps_are_the_formulas_of_its_own_networks(score: str, backbone: str) -> None:
    module = trained(score, backbone)
    squares = torch.rand(3, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    pictures = squares * 2 - 1
    with torch.no_grad():
        found = module.maps(squares).numpy()
        b, s = _redrawn(module.normal.members, pictures)
        a = b if module.mixed is None else _redrawn(module.mixed.members, pictures)[0]
    assert len(b) == (1 if score == "rec" else 2)
    variance = np.exp(s).mean(0) if backbone == "aeu" else np.ones_like(b[0])
    expected = {
        "rec": (pictures[:, 0].numpy() - b[0]) ** 2 / variance,
        "ensemble_rec": (pictures[:, 0].numpy() - b.mean(0)) ** 2 / variance,
        "intra": b.std(0) / np.sqrt(variance),
        "inter": np.abs(a.mean(0) - b.mean(0)) / np.sqrt(variance),
    }
    if score in REFINED:
        inputs = [expected["inter"]] * (score == "r_dual") + [expected["intra"]]
        assert module.refiner is not None
        with torch.no_grad():
            logits = module.refiner(torch.from_numpy(np.stack(inputs, 1))).numpy()
        expected[score] = 1 / (1 + np.exp(logits[:, 0] - logits[:, 1]))
    assert found.dtype == np.float32
    assert found.shape == (3, SIDE, SIDE)
    assert np.ptp(found) > 0
    np.testing.assert_allclose(found, expected[score], rtol=2e-4, atol=1e-5)


def _redrawn(members: torch.nn.ModuleList, pictures: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Reconstructions and s, (K, N, S, S) each, s 0 where the backbone has none."""
    both = []
    for member in members:
        out = member.network(pictures)
        mean = (out[0] if isinstance(out, tuple) else out).numpy()
        s = mean[:, 1].clip(-aeu.CLAMP, aeu.CLAMP) if mean.shape[1] == 2 else 0 * mean[:, 0]
        both.append((mean[:, 0], s))
    means, uncertainties = zip(*both, strict=True)
    return np.stack(means), np.stack(uncertainties)


@pytest.mark.parametrize("score", SCORES)
def test_only_comparisons_with_unlabelled_films_need_them(score: str) -> None:
    config = config_with(score=score)
    needed = score in ("inter", "r_dual")
    assert METHOD.needs_with(config).unlabelled == needed
    assert (trained(score).mixed is not None) == needed
    assert (trained(score).refiner is not None) == (score in REFINED)
    if needed:
        with pytest.raises(RequestError, match="ddad learns from unlabelled films too"):
            fitted("ddad", config, films(unlabelled=False))
    else:
        alone = fitted("ddad", config, films(unlabelled=False)).module
        assert same(state(alone), state(trained(score)))


def test_networks_differ_and_those_of_negatives_hang_on_the_seed_alone() -> None:
    module, spread = trained("inter"), trained("intra")
    assert module.mixed is not None
    every = [state(one) for one in (*module.normal.members, *module.mixed.members)]
    assert not any(same(one, other) for one, other in itertools.combinations(every, 2))
    assert same(state(module.normal), state(spread.normal))
    neighbour = fitted("ddad", config_with(score="intra"), films(), run_with(1)).module
    assert isinstance(neighbour, Ddad)
    own = [state(one) for one in spread.normal.members]
    others = [state(one) for one in neighbour.normal.members]
    assert not any(same(one, other) for one, other in itertools.product(own, others))


def test_killed_in_one_network_after_another_it_ends_bit_equal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("patchad.learn.loop._EPOCH", 2)  # so that a network has two checkpoints
    config = config_with(score="r_dual", epochs=4, batch_size=6, asr_epochs=4)
    whole = state(fitted("ddad", config, films()).module)
    told: list[tuple[str, int, int]] = []
    run = run_with(checkpoint=tmp_path / "training.safetensors")
    for stopped in ("b2: training", "a1: training", "asr: training"):

        def kill(stage: str, done: int, total: int, value: float, stopped: str = stopped) -> None:
            told.append((stage, done, total))
            if stage == stopped and done == 1:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            fitted("ddad", config, films(), replace(run, progress=kill))
        assert told[-1][:2] == (stopped, 1)
        assert told[-1][2] > 1
    assert same(state(fitted("ddad", config, films(), run).module), whole)


def test_a_network_that_dies_starts_again_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    def dead(*_: object) -> bool:
        asked.append(True)
        return len(asked) == 2  # the second network's first try

    monkeypatch.setattr("patchad.methods.parts.autoencoding.is_dead", dead)
    run = run_with()
    module = fitted("ddad", config_with(score="intra"), films(), run).module
    assert isinstance(module, Ddad)
    given_up = [note for note in run.notes if "given up" in note]
    assert len(given_up) == 1
    assert given_up[0].startswith("b2: Try 1 of 3")
    first, second = (state(one) for one in module.normal.members)
    assert same(first, state(trained("intra").normal.members[0]))
    assert not same(second, state(trained("intra").normal.members[1]))


def test_a_network_that_always_dies_is_told_with_the_options_of_ddad(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("patchad.methods.parts.autoencoding.judge", _give_up)
    with pytest.raises(TrainingError, match=r"Raise ddad\.epochs or ddad\.learning_rate"):
        fitted("ddad", config_with(score="intra"), films())


def _give_up(run: object, redraw: object, probe: object, steps: int, dead: str, longer: str):
    from patchad.learn.run import GivenUp

    raise GivenUp("undertrained", longer)


def test_a_change_that_only_unlabelled_films_show_scores_in_inter() -> None:
    """Squares of one brightness; unlabelled ones have a bright quarter now and then."""
    rng = np.random.default_rng(0)

    def film(spoilt: bool) -> np.ndarray:
        pixels = np.full((32, 32), rng.uniform(0.2, 0.4), np.float32)
        pixels[:, ::4] += 0.1
        if spoilt:
            pixels[16:, :16] = 0.9
        return pixels

    negatives = [prepared(film(False)) for _ in range(16)]
    others = [prepared(film(number % 2 == 0)) for number in range(16)]
    data = replace(training_set(negatives), unlabelled=training_set(others))
    config = config_with(score="inter", epochs=60, batch_size=16, learning_rate=5e-3)
    module = fitted("ddad", config, data).module
    assert isinstance(module, Ddad)
    untouched = torch.from_numpy(film(False))[None, None, ::2, ::2].contiguous()
    planted = untouched.clone()
    planted[..., 8:, :8] = 0.9
    with torch.no_grad():
        before, after = module.maps(untouched)[0], module.maps(planted)[0]
    quarter = (slice(8, None), slice(None, 8))
    assert after[quarter].mean() > 2 * before[quarter].mean()
    assert after.mean() > before.mean()  # the image score


def test_the_refining_network_finds_what_its_input_shows() -> None:
    """Of discrepancies that are the picture itself: a foreign patch in flat films is an edge."""
    pictures = torch.linspace(-1, 1, 8)[:, None, None, None].expand(8, 1, SIDE, SIDE).contiguous()
    torch.manual_seed(0)
    refiner = Refiner(1, 8)
    training = RefinerTraining(80, 4, 1e-2, 1e-4, (0.5, 0.999), "give up")
    run = run_with()
    fit_refiner(refiner, lambda seen: seen, pictures, training, run)
    assert run.notes == []
    assert found_pasted(refiner, lambda seen: seen, pictures, 1) > 0.7


def test_a_refining_network_that_finds_nothing_is_an_error_or_noted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("patchad.methods.parts.refining._JUDGED_AFTER", 24)
    pictures = torch.rand(8, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    blind = torch.zeros_like  # whatever is pasted, it sees the same

    def train_for(epochs: int) -> list[str]:
        torch.manual_seed(0)
        run = run_with()
        training = RefinerTraining(epochs, 2, 1e-4, 1e-4, (0.5, 0.999), "take another score")
        fit_refiner(Refiner(1, 2), blind, pictures, training, run)
        return run.notes

    (note,) = train_for(5)
    assert "Undertrained, after only 20 steps" in note
    assert "AUROC 0.50" in note
    with pytest.raises(TrainingError, match=r"AUROC 0\.50, not 0\.6: take another score"):
        train_for(6)


def test_the_refining_network_is_as_published() -> None:
    counts = {
        inputs: sum(p.numel() for p in Refiner(inputs, 128).parameters()) for inputs in (1, 2)
    }
    # by hand: weights and biases of three convolutions, and of two norms
    assert counts == {
        inputs: (inputs * 9 + 1) * 128 + (128 * 9 + 1) * 128 + (128 * 9 + 1) * 2 + 4 * 128
        for inputs in (1, 2)
    }


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"score": "intra", "networks": 1}, r"ddad\.networks must be at least 2; got 1"),
        ({"slots": 5}, r"ddad\.slots is for backbone = memae.*change ddad\.backbone"),
        ({"asr_batch_size": 4}, r"ddad\.asr_batch_size is for score = r_intra or r_dual"),
        ({"score": "rec", "networks": 2}, r"ddad\.networks is for any score but rec"),
        ({"score": "best"}, r"ddad\.score: Input should be 'rec'"),
    ],
)
def test_options_that_would_be_ignored_are_refused(options: dict[str, object], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        parse(Config, options, "ddad.")


def test_a_side_that_cannot_be_halved_is_refused_by_its_own_name() -> None:
    with pytest.raises(RequestError, match=r"ddad\.side must be a multiple of 4; got 18"):
        METHOD.build(config_with(side=18), setting_with())


def test_one_film_has_no_other_to_paste_from() -> None:
    one = training_set([prepared(np.ones((32, 32), np.float32))])
    with pytest.raises(TrainingError, match="there is only one: give more"):
        fitted("ddad", config_with(score="r_intra"), one)


@pytest.mark.parametrize(
    ("name", "score"), [("ddad", "inter"), *((f"ddad_{s}", s) for s in ("intra", *REFINED))]
)
def test_packaged_names_are_one_score_each(name: str, score: str) -> None:
    config = read_config(name)
    assert config.options == Config(score=score)
    assert config.preprocessing.body_part == "chest"
    quick = read_config(name, quick=True).options
    assert quick == Config(score=score, epochs=50, asr_channels=32, asr_epochs=50)


def by_command(study, folder: Path, score: str) -> Path:
    """The study's manifest with its test films unlabelled, and a model of it."""
    table = pd.read_csv(study.manifest)
    table["path"] = [str(study.manifest.parent / path) for path in table["path"]]
    table.loc[table["split"] == "test", "split"] = "unlabelled"
    table.to_csv(folder / "manifest.csv", index=False)
    options = {**TINY, "score": score, **({"asr_epochs": 2} if score in REFINED else {})}
    changes = [f"ddad.{key}={value!r}".replace("'", '"') for key, value in options.items()]
    usual = ["patch_size=32", "stride=16", "split.held_out=0.4", "calibration.folds=0",
             "preprocessing.spacing_mm=0.8", "preprocessing.body_part=breast"]  # fmt: skip
    config = read_config("ddad", usual + changes)
    train(folder / "manifest.csv", folder / "model", config, device=CPU)
    return folder / "model"


@pytest.mark.parametrize("score", ["inter", "r_dual"])
def test_a_manifest_with_unlabelled_films_trains_by_command(
    study, tmp_path: Path, score: str
) -> None:
    detector = load(by_command(study, tmp_path, score), CPU)
    assert "8 unlabelled images were used for training too." in detector.card.notes
    assert detector.card.score_unit == detector.module.unit
    film = Path(pd.read_csv(tmp_path / "manifest.csv")["path"][0])
    result = patchad.screen(film, detector)
    assert np.isfinite(result.heatmap.values).any()
    assert np.isfinite(result.score)


@pytest.mark.parametrize(("score", "trainings"), [("rec", 1), ("intra", 3), ("inter", 6)])
def test_the_pace_counts_all_networks(
    score: str, trainings: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[int] = []

    def fit(method: Method, config: object, _: TrainingSet, run: Run) -> Fitted:
        told.append(run.repeats)
        return Fitted(build(method, config, run.setting, run.seed), run.seed)

    monkeypatch.setattr(ddad, "fit", fit)
    config = config_with(score=score, networks=3)
    ddad.learn(ddad.build(config, setting_with()), config, films(), run_with(0, repeats=2))
    assert told == [2 * trainings] * trainings
