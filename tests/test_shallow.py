"""Shallow detectors on descriptors of patches: neighbours, a support vector machine, centres."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import fitted, prepared, run_with, setting_with, state, training_set
from monai.networks.nets.resnet import resnet18
from safetensors.torch import save_file
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler
from sklearn.svm import OneClassSVM
from torch import Tensor
from torch.nn import functional as F

from patchad.errors import RequestError, TrainingError
from patchad.learn.checkpoint import epoch_generator
from patchad.learn.training_set import TrainingSet
from patchad.methods import method_of
from patchad.methods.configure import read_config
from patchad.methods.density import cnn_dictionary, k_means, nearest_neighbour, oc_svm
from patchad.methods.parts.components import Components
from patchad.methods.parts.descriptors import Descriptors, by_patch
from patchad.methods.parts.neighbours import nearest, radial_sum

SMALL = {"width": 4, "teacher_steps": 10, "teacher_batch": 6, "teacher_rate": 1e-2, "samples": 40}
SETTING = setting_with(patch_size=64, stride=32)


def films(size: int = 64) -> TrainingSet:
    rng = np.random.default_rng(0)
    return training_set(
        [prepared(rng.random((100, 90)).astype(np.float32)) for _ in range(2)], size
    )


def points(count: int, seed: int) -> Tensor:
    return torch.tensor(np.random.default_rng(seed).normal(size=(count, 5)), dtype=torch.float32)


def test_nearest_ones_are_scikit_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, known = points(30, 0), points(100, 1)
    asked[0] = known[3]
    expected, _ = NearestNeighbors(n_neighbors=4).fit(known.numpy()).kneighbors(asked.numpy())
    np.testing.assert_allclose(nearest(asked, known, 4).numpy(), expected, rtol=1e-5, atol=1e-7)
    assert nearest(asked, known, 1)[0] == 0  # exactly, far from the origin too
    assert nearest(asked + 1000, known + 1000, 1)[0] == 0
    np.testing.assert_allclose(nearest(asked, known[:2], 2).shape, (30, 2))
    monkeypatch.setattr("patchad.methods.parts.neighbours._AT_ONCE", 7)
    np.testing.assert_allclose(nearest(asked, known, 4).numpy(), expected, rtol=1e-5, atol=1e-7)


def test_kernels_are_summed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, centres, weights = points(9, 0), points(4, 1), points(4, 2)[:, 0]
    expected = [
        sum(
            w * np.exp(-0.3 * ((a - c) ** 2).sum())
            for c, w in zip(centres.numpy(), weights.numpy(), strict=True)
        )
        for a in asked.numpy()
    ]
    monkeypatch.setattr("patchad.methods.parts.neighbours._AT_ONCE", 4)
    found = radial_sum(asked, centres, weights, torch.tensor(0.3))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5)


def test_components_are_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    samples = (rng.normal(size=(60, 3)) @ rng.normal(size=(3, 6)) + 5).astype(np.float32)
    samples += rng.normal(size=samples.shape).astype(np.float32) * 0.01
    components = Components(6, 0.95)
    found = components.learn(samples)
    scaled = StandardScaler().fit_transform(samples)
    pca = PCA(0.95, svd_solver="full").fit(scaled)
    kept = pca.n_components_
    assert 1 < kept < 6
    np.testing.assert_allclose(found[:, :kept], pca.transform(scaled), atol=1e-4)
    assert not found[:, kept:].any()
    everything = Components(6, 1.0)
    everything.learn(samples)
    assert everything.axes.abs().sum(0).count_nonzero() == 6
    few = Components(6, 1.0).learn(samples[:4])  # of fewer samples than dimensions
    assert few.shape == (4, 6)
    assert np.isfinite(few).all()


def test_a_support_vector_machine_decides_as_scikit_learns() -> None:
    train, test = points(80, 0).numpy(), points(25, 1)
    machine = OneClassSVM(nu=0.3, gamma=0.2).fit(train)
    module = oc_svm.build(oc_svm.Config(samples=80, nu=0.3, width=5), SETTING)
    module.keep(machine)
    total = machine.dual_coef_.sum()
    assert len(machine.support_vectors_) < 80  # so that some of the buffer is empty
    np.testing.assert_allclose(
        module.outside(test).numpy() * total,
        -machine.decision_function(test.numpy()),
        rtol=1e-4,
        atol=1e-4,
    )
    assert module.coefficients.sum().item() == pytest.approx(1)


def test_a_machine_is_that_of_the_descriptors_of_negatives() -> None:
    module = fitted("oc_svm", oc_svm.Config(**SMALL), films(), run_with(0, SETTING)).module
    patches = torch.rand(3, 1, 64, 64)
    with torch.no_grad():
        expected = module.outside(module.descriptors(patches))
        torch.testing.assert_close(module(patches), expected)
    used = int(module.coefficients.count_nonzero())
    assert 0.5 * 40 <= used <= 40
    # ν: about half of the training descriptors lie outside
    assert 0.3 <= (module.outside(module.vectors[:used]) >= -1e-6).float().mean() <= 1


def test_known_descriptors_have_distance_0_and_others_more() -> None:
    data = films()
    config = nearest_neighbour.Config(**SMALL)
    module = fitted("nearest_neighbour", config, data, run_with(0, SETTING)).module
    drawn = data.bank.cut(data.bank.draw(40, epoch_generator(0, 0)))
    with torch.no_grad():
        seen = module.descriptors.components(module.descriptors.middle(drawn))
        torch.testing.assert_close(seen, module.known)
        assert module(drawn).abs().max() < 1e-4
        assert module(1 - drawn).min() > 0.01


def test_centres_are_those_of_k_means() -> None:
    config = k_means.Config(centres=4, **SMALL)
    module = fitted("k_means", config, films(), run_with(5, SETTING)).module
    other = nearest_neighbour.Config(**SMALL)
    known = fitted("nearest_neighbour", other, films(), run_with(5, SETTING)).module.known
    best = KMeans(4, n_init=1, random_state=5).fit(known.numpy())
    np.testing.assert_allclose(module.centres.numpy(), best.cluster_centers_, atol=1e-5)
    patches = torch.rand(3, 1, 64, 64)
    with torch.no_grad():
        expected = best.transform(module.descriptors(patches).numpy()).min(1)
        np.testing.assert_allclose(module(patches).numpy(), expected, rtol=1e-4)


def test_a_larger_patch_has_the_mean_of_its_descriptors() -> None:
    torch.manual_seed(0)
    seen = Descriptors(4, 0.95)
    patches = torch.rand(2, 1, 80, 80)  # room for 3 × 3, 8 pixels apart, 2 spare pixels before
    raw = seen.raw(patches).reshape(2, 3, 3, 4)
    alone = seen.raw(patches[..., 2 + 8 : 2 + 8 + 60, 2 + 16 : 2 + 16 + 60])
    torch.testing.assert_close(raw[:, 1, 2], alone)
    torch.testing.assert_close(seen.middle(patches), seen.raw(patches[..., 10:70, 10:70]))
    scores = torch.arange(18.0)
    assert by_patch(scores, patches).tolist() == [4.0, 13.0]
    assert len(seen.raw(torch.rand(5, 1, 64, 64))) == 5


@pytest.mark.parametrize("method", [nearest_neighbour, oc_svm, k_means, cnn_dictionary])
def test_small_patches_are_refused(method) -> None:
    teacher = {"features": "teacher"} if method is cnn_dictionary else {}
    with pytest.raises(RequestError, match=r"patch_size must be at least 60; got 59"):
        method.build(method.Config(**teacher), setting_with(patch_size=59))
    enough = {**SMALL, **teacher, "samples": 100}
    method.build(method.Config(**enough), replace(SETTING, patch_size=60))


def test_any_seed_finds_centres() -> None:
    seed = 2**32 + 5  # which scikit-learn doesn't take
    for name, config in (
        ("k_means", k_means.Config(**SMALL, centres=3)),
        ("cnn_dictionary", cnn_dictionary.Config(**SMALL, features="teacher", words=3)),
    ):
        assert fitted(name, config, films(), run_with(seed, SETTING)).seed == seed


def test_what_cannot_be_done_is_refused() -> None:
    with pytest.raises(RequestError, match=r"oc_svm\.nu must be more than 0"):
        oc_svm.build(oc_svm.Config(nu=0.0), SETTING)
    with pytest.raises(RequestError, match=r"k_means\.centres or more, got 5 and 6"):
        k_means.build(k_means.Config(samples=5, centres=6), SETTING)
    alone = k_means.Config(**{**SMALL, "teacher_batch": 1}, centres=3)
    with pytest.raises(RequestError, match="teacher_batch must be 2 or more, got 1"):
        fitted("k_means", alone, films(), run_with(0, SETTING))
    teacher = cnn_dictionary.Config(features="teacher", words=3, nearest=4)
    with pytest.raises(RequestError, match=r"got 4, 3 and 50000"):
        cnn_dictionary.build(teacher, SETTING)


@pytest.mark.parametrize("name", ["oc_svm", "k_means", "nearest_neighbour"])
def test_a_teacher_that_says_nothing_is_refused(name: str, tmp_path: Path) -> None:
    plain = fitted(
        "nearest_neighbour", nearest_neighbour.Config(**SMALL), films(), run_with(0, SETTING)
    ).module
    file, own = tmp_path / "weights.safetensors", method_of(name).config
    config = own(**SMALL, weights=str(file), **({"centres": 3} if name == "k_means" else {}))
    teacher = {key: t for key, t in state(plain).items() if "convolutions" in key}
    save_file({key: torch.zeros_like(t) for key, t in teacher.items()}, file)
    with pytest.raises(TrainingError, match=r"all 40 training patches are the same.*more samples"):
        fitted(name, config, films(), run_with(0, SETTING))
    save_file({key: t * 1e30 for key, t in teacher.items()}, file)
    with pytest.raises(TrainingError, match="features of training patches are not numbers"):
        fitted(name, config, films(), run_with(0, SETTING))


def test_a_teacher_of_another_method_serves(tmp_path: Path) -> None:
    config = nearest_neighbour.Config(**SMALL)
    first = fitted("nearest_neighbour", config, films(), run_with(0, SETTING)).module
    file = tmp_path / "weights.safetensors"
    save_file(state(first), file)
    given = replace(config, weights=str(file))
    second = fitted("nearest_neighbour", given, films(), run_with(9, SETTING)).module
    for one, other in zip(
        first.descriptors.teacher.parameters(),
        second.descriptors.teacher.parameters(),
        strict=True,
    ):
        assert torch.equal(one, other)
    assert not torch.equal(first.known, second.known)


def plain_resnet18(weights: dict[str, Tensor], pictures: Tensor) -> Tensor:
    """The last means of torchvision's ResNet-18, written out: (N, 3, S, S) → (N, 512)."""

    def normed(values: Tensor, name: str) -> Tensor:
        names = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(values, *(weights[f"{name}.{one}"] for one in names))

    x = F.conv2d(pictures, weights["conv1.weight"], stride=2, padding=3)
    x = F.max_pool2d(normed(x, "bn1").relu(), 3, 2, 1)
    for layer in range(1, 5):
        for block in range(2):
            name = f"layer{layer}.{block}"
            stride = 2 if layer > 1 and block == 0 else 1
            y = F.conv2d(x, weights[f"{name}.conv1.weight"], stride=stride, padding=1)
            y = normed(y, f"{name}.bn1").relu()
            y = normed(F.conv2d(y, weights[f"{name}.conv2.weight"], padding=1), f"{name}.bn2")
            if stride == 2:
                x = F.conv2d(x, weights[f"{name}.downsample.0.weight"], stride=2)
                x = normed(x, f"{name}.downsample.1")
            x = (x + y).relu()
    return x.mean((2, 3))


@pytest.fixture(scope="module")
def imagenet() -> dict[str, Tensor]:
    """Weights as torchvision names and shapes them, those of its last layer included."""
    torch.manual_seed(0)
    made = resnet18(
        spatial_dims=2, n_input_channels=3, num_classes=1000, bias_downsample=False
    ).state_dict()
    given = {k: t.clone() for k, t in made.items() if not k.endswith("num_batches_tracked")}
    for name in given:
        if "running_mean" in name:
            given[name].normal_(0, 0.1)
        elif "running_var" in name:
            given[name].uniform_(0.5, 2)
    assert given["conv1.weight"].shape == (64, 3, 7, 7)
    assert given["layer2.0.downsample.0.weight"].shape == (128, 64, 1, 1)
    return given


def test_features_are_those_of_torchvisions_resnet18(
    imagenet: dict[str, Tensor], tmp_path: Path
) -> None:
    file = tmp_path / "resnet18.safetensors"
    save_file(imagenet, file)
    config = cnn_dictionary.Config(weights=str(file), samples=20, words=4, nearest=2)
    run = run_with(3, SETTING)
    module = fitted("cnn_dictionary", config, films(), run).module
    assert run.notes == []
    patches = torch.rand(3, 1, 64, 64)
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    coloured = (patches.expand(-1, 3, -1, -1) - torch.tensor(mean)[:, None, None]).float()
    coloured = coloured / torch.tensor(deviation)[:, None, None].float()
    with torch.no_grad():
        expected = plain_resnet18(imagenet, coloured)
        np.testing.assert_allclose(
            module.descriptors.raw(patches).numpy(), expected.numpy(), rtol=1e-3, atol=1e-4
        )
        seen = module.descriptors(patches)
        apart = np.linalg.norm(seen.numpy()[:, None] - module.words.numpy(), axis=2)
        np.testing.assert_allclose(
            module(patches).numpy(), np.sort(apart, 1)[:, :2].mean(1), rtol=1e-4
        )


def test_imagenet_weights_are_asked_for(imagenet: dict[str, Tensor], tmp_path: Path) -> None:
    config = read_config("cnn_dictionary").options
    with pytest.raises(RequestError, match=r"never downloaded: give cnn_dictionary\.weights"):
        cnn_dictionary.build(config, SETTING)
    with pytest.raises(RequestError, match=r"at least 32; got 31"):
        cnn_dictionary.build(replace(config, weights="file"), replace(SETTING, patch_size=31))
    file = tmp_path / "resnet18.safetensors"
    save_file({k: t for k, t in imagenet.items() if "layer3" not in k}, file)
    with pytest.raises(RequestError, match=r"cnn_dictionary\.weights.*layer3.* and \d+ more"):
        fitted(
            "cnn_dictionary",
            replace(config, weights=str(file), samples=20),
            films(),
            run_with(0, SETTING),
        )


def test_a_variant_is_noted() -> None:
    config = cnn_dictionary.Config(features="teacher", words=4, **SMALL)
    run = run_with(0, SETTING)
    fitted("cnn_dictionary", config, films(), run)
    assert run.notes == [
        "Not as published: features are of a teacher, not of a ResNet-18 of ImageNet."
    ]
