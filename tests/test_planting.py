"""Networks that learn from what is planted: their parts, their training, and their refusals."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import fitted, on_cpu, prepared, run_with, setting_with, training_set
from safetensors.torch import save_file
from sklearn.covariance import LedoitWolf
from sklearn.metrics import roc_auc_score
from torch import nn

from patchad.errors import RequestError, TrainingError
from patchad.learn.run import GivenUp
from patchad.learn.training_set import TrainingSet
from patchad.methods.configure import read_config
from patchad.methods.parts import outlining, patch_cloning, resnet18, twins
from patchad.methods.parts.density import LedoitWolfGaussian
from patchad.methods.parts.interpolation import standardised, upper_quartile
from patchad.methods.parts.outlining import Films
from patchad.methods.parts.resnet18 import Outliner, ResNet18, load_imagenet
from patchad.methods.parts.wide_resnet import Block, WideResNet
from patchad.methods.synthetic import cutpaste, cutpaste_e2e, fpi, nsa, pii

TINY = (4, 8, 8, 8)
SMALL = {
    "fpi": fpi.Config(side=32, width=1, epochs=2, batch_size=4, restarts=1),
    "pii": pii.Config(side=32, width=1, epochs=2, batch_size=4, restarts=1),
    "nsa": nsa.Config(side=37, crop=32, channels=TINY, epochs=2, batch_size=4, restarts=1),
    "cutpaste_e2e": cutpaste_e2e.Config(
        side=37, crop=32, channels=TINY, epochs=2, batch_size=4, restarts=1
    ),
    "cutpaste": cutpaste.Config(
        channels=TINY, head=(8, 4), steps=3, batch_size=2, density_patches=20, restarts=1
    ),
}


def films(count: int, seed: int = 0) -> TrainingSet:
    rng = np.random.default_rng(seed)
    return training_set([prepared(rng.random((48, 40)).astype(np.float32)) for _ in range(count)])


def test_networks_have_as_many_parameters_as_published() -> None:
    for network, millions in ((WideResNet(4), 4.2), (Outliner(resnet18.PUBLISHED), 11.5)):
        assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(
            millions, abs=0.05
        )


def test_a_block_adds_its_shortcut() -> None:
    given = torch.randn(2, 3, 4, 4)
    for factor, expected in ((1, given), (0.5, nn.functional.avg_pool2d(given, 2))):
        block = Block(3, 3, factor).eval()
        nn.init.zeros_(block.convolutions[1].weight)
        torch.testing.assert_close(block(given), expected)
    block = Block(3, 5, 2).eval()
    nn.init.zeros_(block.convolutions[1].weight)
    small = nn.functional.conv2d(torch.relu(block.norms[0](given)), block.short.weight)
    torch.testing.assert_close(block(given), small.repeat_interleave(2, 2).repeat_interleave(2, 3))


def test_an_outliner_answers_at_each_pixel() -> None:
    assert Outliner(TINY).eval()(torch.zeros(1, 1, 32, 64)).shape == (1, 1, 32, 64)


def test_distances_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    samples = rng.normal(size=(50, 8)) @ rng.normal(size=(8, 8)) * 0.01 + 3
    density = LedoitWolfGaussian(8)
    density.learn(samples.astype(np.float32))
    others = rng.normal(size=(7, 8)) * 0.02 + 3
    expected = np.sqrt(LedoitWolf().fit(samples).mahalanobis(others))
    found = density(torch.from_numpy(others.astype(np.float32))).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-3)
    with pytest.raises(GivenUp, match="the same features"):
        density.learn(np.full((5, 8), 0.3, np.float32))


def test_squares_are_standardised_each() -> None:
    rng = np.random.default_rng(0)
    squares = torch.from_numpy(rng.random((2, 1, 8, 8)).astype(np.float32))
    found = standardised(squares * torch.tensor([3.0, 0.1])[:, None, None, None] + 2).numpy()
    plain = squares.numpy()
    expected = (plain - plain.mean((2, 3), keepdims=True)) / plain.std((2, 3), keepdims=True)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert not standardised(torch.full((1, 1, 4, 4), 0.3)).isnan().any()


def test_the_upper_quartile_is_numpys() -> None:
    values = np.random.default_rng(0).random((9, 9)).astype(np.float32)
    assert upper_quartile(torch.from_numpy(values)).item() == pytest.approx(
        np.percentile(values, 75)
    )


def test_the_loss_is_the_mean_cross_entropy() -> None:
    logits, labels = torch.tensor([[0.0, 2.0]]), torch.tensor([[0.25, 1.0]])
    p = 1 / (1 + np.exp(-2))
    expected = (np.log(2) - np.log(p)) / 2
    assert outlining.cross_entropy(logits, labels).item() == pytest.approx(expected)


def test_classes_follow_one_another() -> None:
    logits = torch.tensor([[9.0, 0, 0], [9, 0, 0], [0, 9, 0], [0, 9, 0], [0, 0, 9], [0, 0, 9]])
    assert cutpaste.classification(logits, 3).item() == pytest.approx(0, abs=1e-3)
    assert cutpaste.classification(logits.flip(0), 3).item() == pytest.approx(6, abs=1e-2)


def test_the_area_under_the_curve_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.integers(0, 9, (2, 40))
    truth = np.repeat([1, 0], 40)
    expected = roc_auc_score(truth, np.concatenate([one, other]))
    assert twins.auroc(torch.from_numpy(one), torch.from_numpy(other)).item() == pytest.approx(
        expected
    )


def test_networks_that_find_nothing_are_given_up() -> None:
    assert twins.constant(torch.full((4, 8), 0.3), 300).startswith("collapsed after 300 steps")
    assert not twins.constant(torch.full((4, 8), 0.3), 299)
    assert not twins.constant(torch.rand(4, 8), 300)
    low, high = torch.zeros(5), torch.ones(5)
    run = run_with()
    twins.judge_twins(run, high, low, 2000, "")
    assert not run.notes
    twins.judge_twins(run, low, high, 1999, "")
    assert "AUROC 0.00" in run.notes[0]
    with pytest.raises(GivenUp, match="not told from untouched") as caught:
        twins.judge_twins(run, low, high, 2000, "more")
    assert caught.value.remedy == "more"


def test_scores_of_twins_are_means_where_something_was_planted() -> None:
    values = torch.tensor([[[[1.0, 2.0]]], [[[3.0, 5.0]]]])
    where = torch.tensor([[[[True, False]]], [[[False, False]]]])
    assert outlining.within(values, where).tolist() == [1.0]


def test_crops_turn_and_shift_a_little() -> None:
    ramp = np.linspace(0, 1, 256, dtype=np.float32)
    both = np.stack(np.broadcast_arrays(ramp[:, None], ramp))[:, None]
    taken = Films(torch.from_numpy(both), torch.ones(2, 1, 256, 256))
    which = np.arange(2).repeat(50)
    crops = patch_cloning.cropped(taken, which, np.random.default_rng(0), 224)
    for number, crop in enumerate(crops):
        assert crop.pixels.shape == (224, 224)
        assert crop.shown.all()
        axis = int(which[number])
        across = np.gradient(crop.pixels, axis=axis).mean() * 255
        along = np.gradient(crop.pixels, axis=1 - axis).mean() * 255
        assert np.hypot(across, along) == pytest.approx(1, abs=1e-3)  # neither larger nor smaller
        assert abs(np.rad2deg(np.arctan2(along, across))) <= 3.01
        assert abs(crop.pixels.mean() - 0.5) * 255 <= 3.01
        assert crop.pixels.min() > 0  # nothing beyond the film comes in
        assert crop.pixels.max() < 1


@pytest.mark.parametrize(("side", "crop"), [(37, 32), (256, 224), (73, 64), (100, 32)])
def test_crops_cover_the_square_from_its_middle_on(side: int, crop: int) -> None:
    places = patch_cloning.crop_places(side, crop)
    assert places[0] == ((side - crop) // 2,) * 2
    covered = np.zeros((side, side), int)
    for row, col in places:
        covered[row : row + crop, col : col + crop] += 1
    assert covered.min() == 1
    assert len(places) == 1 + math.ceil(side / crop) ** 2


def test_a_map_is_the_mean_of_the_crops_at_each_pixel() -> None:
    crops = torch.tensor([1.0, 2.0, 4.0])[:, None, None, None].expand(3, 2, 2, 2)
    found = patch_cloning.joined(crops, [(1, 1), (0, 0), (1, 0)], 3)
    expected = torch.tensor([[2, 2, torch.nan], [3, 7 / 3, 1], [4, 2.5, 1]])
    torch.testing.assert_close(found, expected.expand(2, 3, 3), equal_nan=True)


def test_the_rate_falls_from_the_first_to_the_last() -> None:
    rate = patch_cloning.falling(1e-3)(100)
    assert rate(0) == pytest.approx(1e-3)
    assert rate(50) == pytest.approx((1e-3 + 1e-6) / 2)
    assert rate(100) == pytest.approx(1e-6)


def test_nsa_sees_films_in_crops_as_large_as_it_learnt_from() -> None:
    module = nsa.build(SMALL["nsa"], setting_with()).eval()
    pixels = np.random.default_rng(0).random((37, 37)).astype(np.float32)
    seen = []
    module.network.register_forward_hook(lambda _, given, found: seen.append(given[0].shape[1:]))
    with torch.inference_mode():
        grid = setting_with(patch_size=37, stride=37).grid((37, 37))
        response = module(on_cpu(prepared(pixels)), grid)
        corners = [
            module.network(torch.from_numpy(pixels[row : row + 32, col : col + 32])[None, None])
            for row, col in ((2, 2), (0, 0), (5, 5))
        ]
    assert set(seen) == {(1, 32, 32)}
    middle, first, last = (one.sigmoid()[0, 0] for one in corners)
    assert response.image.item() == pytest.approx(middle.mean().item(), rel=1e-5)
    torch.testing.assert_close(response.map[0, :5], first[0, :5])  # no other crop is there
    torch.testing.assert_close(response.map[-1, -5:], last[-1, -5:])


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (
            lambda: fpi.build(fpi.Config(side=40), setting_with()),
            "fpi.side must be a multiple of 16",
        ),
        (lambda: pii.build(pii.Config(side=16), setting_with()), "32 at least; got 16"),
        (
            lambda: nsa.build(nsa.Config(crop=200), setting_with()),
            "nsa.crop must be a multiple of 32",
        ),
        (lambda: nsa.build(nsa.Config(side=230), setting_with()), "at least 250 for a crop of 224"),
        (
            lambda: cutpaste.build(cutpaste.Config(), setting_with(patch_size=31)),
            "patch_size must be at least 32; got 31",
        ),
        (lambda: cutpaste.Config(weights="x", channels=TINY), "leave cutpaste.channels"),
        (lambda: cutpaste.Config(density_patches=1), "at least 2"),
        (lambda: cutpaste.Config(head=()), "cutpaste.head needs one dense layer"),
    ],
)
def test_what_cannot_be_honoured_is_refused(build, said: str) -> None:
    with pytest.raises(RequestError) as caught:
        build()
    assert said in str(caught.value)


@pytest.mark.parametrize("name", ["fpi", "pii", "nsa"])
def test_one_film_has_nothing_to_exchange(name: str) -> None:
    with pytest.raises(TrainingError, match=f"{name} exchanges patches between films"):
        fitted(name, SMALL[name], films(1))


@pytest.mark.parametrize("name", ["fpi", "pii", "nsa"])
def test_films_in_which_nothing_can_be_planted_are_refused(name: str) -> None:
    alike = training_set([prepared(np.full((48, 40), 0.5, np.float32)) for _ in range(3)])
    with pytest.raises(TrainingError, match=f"no patch that {name} planted changed a film"):
        fitted(name, SMALL[name], alike)


@pytest.mark.parametrize("name", sorted(SMALL))
def test_without_unlabelled_films_it_is_refused(name: str) -> None:
    config = replace(SMALL[name], source="unlabelled")
    with pytest.raises(RequestError, match="split has rows of unlabelled"):
        fitted(name, config, films(3))


@pytest.mark.parametrize("name", ["nsa", "cutpaste", "cutpaste_e2e"])
def test_unlabelled_films_are_sources_and_never_planted_in(name: str, monkeypatch) -> None:
    config = replace(SMALL[name], source="unlabelled")
    texture = np.random.default_rng(0).random((3, 48, 40)).astype(np.float32) * 0.2
    dark = training_set([prepared(0.1 + one) for one in texture[:2]])
    grey = training_set([prepared(0.6 + one) for one in texture])
    seen: list[tuple[float, float]] = []

    module = cutpaste if name == "cutpaste" else patch_cloning
    for what in ("natural", "cut_paste", "scar"):
        plain = getattr(module, what, None)

        def watched(rng, target, source, *rest, plain=plain):
            means = [float(np.mean(getattr(one, "pixels", one))) for one in (target, source)]
            seen.append((means[0], means[1]))
            return plain(rng, target, source, *rest)

        if plain is not None:
            monkeypatch.setattr(module, what, watched)
    fitted(name, config, replace(grey, unlabelled=dark))
    assert seen
    np.testing.assert_allclose(seen, [(0.7, 0.2)] * len(seen), atol=0.04)
    seen.clear()
    fitted(name, replace(config, source="negatives"), replace(grey, unlabelled=dark))
    np.testing.assert_allclose(seen, [(0.7, 0.7)] * len(seen), atol=0.04)


@pytest.mark.parametrize(
    ("method", "plant"), [(fpi, "interpolate"), (pii, "interpolate_gradients")]
)
def test_interpolators_take_sources_from_where_they_are_told(method, plant, monkeypatch) -> None:
    up = np.tile(np.linspace(0, 1, 48, dtype=np.float32)[:, None], (1, 40))
    noise = np.random.default_rng(0).random((3, 48, 40)).astype(np.float32) * 0.2
    negatives = training_set([prepared(0.8 * up + one) for one in noise])
    unlabelled = training_set([prepared(0.8 * (1 - up) + one) for one in noise[:2]])
    seen = []
    plain = getattr(method, plant)

    def watched(rng, target, source):
        seen.append((target[0].mean() < target[-1].mean(), source[0].mean() < source[-1].mean()))
        return plain(rng, target, source)

    monkeypatch.setattr(method, plant, watched)
    data = replace(negatives, unlabelled=unlabelled)
    for source, expected in (("unlabelled", (True, False)), ("negatives", (True, True))):
        seen.clear()
        fitted(method.NAME, replace(SMALL[method.NAME], source=source), data)
        assert set(seen) == {expected}


@pytest.mark.parametrize("name", sorted(SMALL))
def test_each_has_a_configuration_with_unlabelled_sources(name: str) -> None:
    config = read_config(f"{name}_unlabelled")
    assert config.method == name
    assert config.options == replace(type(SMALL[name])(), source="unlabelled")


def weights_of_torchvision(path: Path) -> dict[str, torch.Tensor]:
    """Random ones, with three channels and a dense layer."""
    given = {key: torch.randn_like(t.float()) for key, t in ResNet18().network.state_dict().items()}
    given = {k: t for k, t in given.items() if not k.endswith("num_batches_tracked")}
    given["conv1.weight"] = torch.randn(64, 3, 7, 7)
    given |= {"fc.weight": torch.randn(1000, 512), "fc.bias": torch.randn(1000)}
    save_file(given, path)
    return given


def test_imagenet_weights_are_taken_with_their_first_kernels_added_up(tmp_path: Path) -> None:
    path = tmp_path / "resnet18.safetensors"
    given = weights_of_torchvision(path)
    network = ResNet18()
    load_imagenet(network, str(path), "cutpaste.weights")
    own = network.network.state_dict()
    torch.testing.assert_close(own["layer4.1.conv2.weight"], given["layer4.1.conv2.weight"])
    torch.testing.assert_close(
        own["layer2.0.downsample.1.bias"], given["layer2.0.downsample.1.bias"]
    )
    grey = torch.randn(1, 1, 14, 14)
    ours = nn.functional.conv2d(grey, own["conv1.weight"])
    theirs = nn.functional.conv2d(grey.repeat(1, 3, 1, 1), given["conv1.weight"])
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_other_weights_are_refused_with_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    given = weights_of_torchvision(path)
    for change, said in (
        ({"bn1.bias": torch.full((64,), torch.nan)}, r"bn1\.bias has NaN or infinity"),
        ({"layer5.weight": torch.zeros(1)}, "has layer5.weight"),
        ({"bn1.bias": torch.zeros(3)}, "bn1.bias in"),
    ):
        save_file({**given, **change}, path)
        with pytest.raises(RequestError, match=said):
            load_imagenet(ResNet18(), str(path), "cutpaste.weights")
    save_file({k: t for k, t in given.items() if k != "bn1.bias"}, path)
    with pytest.raises(RequestError, match=r"cutpaste\.weights: .* lacks bn1\.bias"):
        load_imagenet(ResNet18(), str(path), "cutpaste.weights")
    pickled = tmp_path / "resnet18.pth"
    pickled.write_bytes(b"\x80\x02not a tensor")
    with pytest.raises(RequestError, match=r"pickles, which may run code.*save_file"):
        load_imagenet(ResNet18(), str(pickled), "cutpaste.weights")
    with pytest.raises(RequestError, match="cannot be read"):
        load_imagenet(ResNet18(), str(tmp_path / "none"), "cutpaste.weights")


def test_pasted_patches_follow_the_whole_ones() -> None:
    bank = films(2).bank
    generator = torch.Generator().manual_seed(1)
    found = cutpaste.pasted(bank, bank, 5, 3, generator, same=True)
    assert found.shape == (15, 1, 32, 32)
    whole, rectangle, scarred = found.split(5)
    assert ((rectangle != whole).float().mean((1, 2, 3)) <= 0.17).all()
    assert ((rectangle != whole).flatten(1).any(1)).all()
    assert ((scarred != whole).float().mean((1, 2, 3)) < 0.05).all()
    assert len(cutpaste.pasted(bank, bank, 5, 2, generator, same=True)) == 10
