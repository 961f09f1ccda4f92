"""Nets of patches, the teacher that is trained on negatives, and the students."""

import math
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import fitted, on_cpu, prepared, run_with, same, setting_with, state, training_set
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from patchad.errors import RequestError, TrainingError
from patchad.learn.training_set import TrainingSet
from patchad.methods.configure import read_config
from patchad.methods.distillation import students
from patchad.methods.distillation.students import Config, disagreement, regression, top_mean
from patchad.methods.parts import whole_film
from patchad.methods.parts.dense_patch_nets import FIELDS, PatchNet, reach
from patchad.methods.parts.moments import Moments, moments_of
from patchad.methods.parts.teacher import Windows, alike, correlation, cropped, triplet
from patchad.methods.parts.whole_film import square

TINY = Config(
    fields=(17,),
    side=24,
    width=4,
    students=2,
    teacher_steps=10,
    teacher_batch=6,
    teacher_rate=1e-2,
    epochs=2,
)


def films(count: int = 3) -> TrainingSet:
    rng = np.random.default_rng(0)
    return training_set([prepared(rng.random((32, 32)).astype(np.float32)) for _ in range(count)])


def test_the_nets_are_those_of_the_paper() -> None:
    sizes = {f: sum(p.numel() for p in PatchNet(f, 128).parameters()) for f in FIELDS}
    # c128k6 c256k5 c256k5 c128k4: 128 (36 + 1) + 256 (128 · 25 + 1) + …
    first = 128 * 37 + 256 * (128 * 25 + 1) + 256 * (256 * 25 + 1) + 128 * (256 * 16 + 1)
    second = 128 * 26 + 256 * (128 * 25 + 1) + 256 * (256 * 4 + 1) + 128 * (256 * 16 + 1)
    third = 128 * 26 + 2 * 128 * (128 * 25 + 1) + 256 * (128 * 16 + 1) + 128 * 257
    assert sizes == {17: first, 33: second, 65: third}


@pytest.mark.parametrize(("field", "seen"), [(17, 17), (33, 32), (65, 60)])
def test_a_pixel_is_described_by_its_patch(field: int, seen: int) -> None:
    assert reach(field) == seen
    torch.manual_seed(field)
    net = PatchNet(field, 3).double()
    picture = torch.rand(1, 1, 70, 66, dtype=torch.float64)
    dense = net.dense(picture)
    assert dense.shape == (1, 3, 70, 66)
    before = seen // 2
    for row, col in ((before, before), (33, 31), (70 - (seen + 1) // 2, 30)):
        top, left = row - before, col - before
        patch = picture[..., top : top + seen, left : left + seen]
        alone = net(patch)
        assert alone.shape == (1, 3, 1, 1)
        torch.testing.assert_close(alone[..., 0, 0], dense[..., row, col])
    assert net(torch.rand(1, 1, field, field, dtype=torch.float64)).shape == (1, 3, 1, 1)
    corner = F.pad(picture, (before,) * 4, mode="reflect")[..., :seen, :seen]
    torch.testing.assert_close(net(corner)[..., 0, 0], dense[..., 0, 0])


def test_windows_and_crops_are_those_of_the_squares() -> None:
    squares = torch.rand(3, 1, 10, 10)
    windows = Windows.around(squares, 5)
    padded = F.pad(squares, (2,) * 4, mode="reflect")
    assert windows.size == 5  # no room for shifts of 5 // 8
    each = 14 - 5 + 1
    found = windows.cut(torch.tensor([0, each**2 + 2 * each + 3, 3 * each**2 - 1]))
    torch.testing.assert_close(found[0], padded[0, :, :5, :5])
    torch.testing.assert_close(found[1], padded[1, :, 2:7, 3:8])
    torch.testing.assert_close(found[2], padded[2, :, 9:, 9:])
    drawn = windows.draw(1000, torch.Generator().manual_seed(0))
    assert drawn.min() >= 0
    assert 2.9 * each**2 < drawn.max() < 3 * each**2
    part = cropped(found, torch.tensor([[0, 0], [1, 2], [2, 1]]), 3)
    torch.testing.assert_close(part[1, 0], found[1, 0, 1:4, 2:5])


def test_the_triplet_loss_is_that_of_a_slow_loop() -> None:
    rng = np.random.default_rng(0)
    anchors, near = rng.normal(size=(5, 3)) / 2, rng.normal(size=(5, 3)) / 2
    total = 0.0
    for n in range(5):
        other = anchors[(n + 1) % 5]
        close = ((anchors[n] - near[n]) ** 2).sum()
        far = min(((anchors[n] - other) ** 2).sum(), ((near[n] - other) ** 2).sum())
        total += max(0.0, 1 + close - far)
    assert total > 0
    assert triplet(torch.tensor(anchors), torch.tensor(near)).item() == pytest.approx(total / 5)


def test_correlations_are_between_dimensions() -> None:
    values = np.random.default_rng(0).normal(size=(40, 4)) @ np.diag([1.0, 10.0, 0.1, 3.0])
    values[:, 3] += values[:, 1]
    pairs = np.corrcoef(values.T)[np.triu_indices(4, 1)] ** 2
    assert correlation(torch.tensor(values)).item() == pytest.approx(pairs.mean(), rel=1e-6)
    same_twice = torch.tensor(values[:, [0, 0]])
    assert correlation(same_twice).item() == pytest.approx(1.0, rel=1e-6)


def test_error_and_variance_are_those_of_a_slow_loop() -> None:
    rng = np.random.default_rng(1)
    guesses, taught = rng.normal(size=(3, 2, 4, 2, 2)), rng.normal(size=(2, 4, 2, 2))
    found = disagreement(torch.tensor(guesses), torch.tensor(taught)).numpy()
    for n, row, col in np.ndindex(2, 2, 2):
        each = guesses[:, n, :, row, col]
        mean = each.mean(0)
        error = ((mean - taught[n, :, row, col]) ** 2).sum()
        variance = (each**2).sum(1).mean() - (mean**2).sum()
        np.testing.assert_allclose(found[n, :, row, col], [error, variance])
    loss = regression(torch.tensor(guesses), torch.tensor(taught)).item()
    assert loss == pytest.approx(((guesses - taught) ** 2).sum() / 8)  # 2 pictures of 4 pixels


def test_moments_of_pictures_are_those_of_all_pixels() -> None:
    values = np.random.default_rng(2).normal(3, 2, size=(5, 2, 4, 6)).astype(np.float32)
    values[:, 1] = 7.0
    moments = Moments(2, 0.5)
    moments.learn([moments_of(torch.tensor(one)) for one in values])
    pixels = values.astype(np.float64).swapaxes(0, 1).reshape(2, -1)
    np.testing.assert_allclose(moments.mean.numpy(), pixels.mean(1), rtol=1e-5)
    np.testing.assert_allclose(moments.deviation.numpy(), [pixels[0].std(), 0.5], rtol=1e-5)
    scaled = moments(torch.tensor(values))
    assert scaled[:, 0].mean().item() == pytest.approx(0, abs=1e-5)
    assert not scaled[:, 1].any()


def test_the_image_score_is_the_mean_of_the_top() -> None:
    values = torch.arange(200.0).reshape(10, 20)
    everywhere = torch.ones(10, 20, dtype=torch.bool)
    assert top_mean(values, everywhere, 0.01).item() == 198.5
    assert top_mean(values, everywhere, 0.0).item() == 199  # one at least
    assert top_mean(values, everywhere, 1.0).item() == pytest.approx(99.5)
    assert top_mean(values, values < 100, 0.02).item() == 98.5


def test_a_map_is_the_mean_of_standardised_fields() -> None:
    torch.manual_seed(0)
    config = replace(TINY, fields=(17, 33))
    module = students.build(config, setting_with()).eval()
    for name, shift in (("17", 1.0), ("33", 2.0)):
        parts = module.scale(name).parts
        parts.mean.copy_(torch.tensor([shift, 0.5]))
        parts.deviation.copy_(torch.tensor([2.0, 4.0]))
    squares = torch.rand(2, 1, 24, 24)
    with torch.no_grad():
        one, two = (module.apart(name, squares * 2 - 1) for name in ("17", "33"))
        found = module.maps(squares)
    expected = [(p[:, 0] - s) / 2 + (p[:, 1] - 0.5) / 4 for p, s in ((one, 1.0), (two, 2.0))]
    torch.testing.assert_close(found, (expected[0] + expected[1]) / 2)


def test_training_films_have_mean_0_and_students_differ() -> None:
    data = films()
    module = fitted("students", TINY, data).module
    squares = whole_film.squares(data, run_with(), 24)
    with torch.no_grad():
        maps = module.maps(squares)
    assert maps.mean().item() == pytest.approx(0, abs=1e-4)
    one, other = (state(student) for student in module.scale("17").students)
    assert not same(one, other)


def test_killed_among_its_students_it_ends_bit_equal(tmp_path: Path) -> None:
    config, file = replace(TINY, fields=(17, 33)), tmp_path / "training.safetensors"
    whole = fitted("students", config, films())

    def kill(stage: str, done: int, total: int, value: float) -> None:
        if "students_33" in stage and done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fitted("students", config, films(), run_with(checkpoint=file, progress=kill))
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {
        f"{who}_{field}-training.safetensors"
        for who in ("teacher", "students")
        for field in (17, 33)
    }
    stages: list[str] = []
    again = run_with(checkpoint=file, progress=lambda stage, *_: stages.append(stage))
    assert same(state(fitted("students", config, films(), again).module), state(whole.module))


def test_a_teacher_that_describes_all_alike_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def constant(self: PatchNet, patches: Tensor) -> Tensor:
        return patches.new_zeros(len(patches), 4, 1, 1) + 0 * self.convolutions[0].weight.sum()

    monkeypatch.setattr(PatchNet, "forward", constant)
    with pytest.raises(TrainingError, match=r"Try 2 of 2.*17 pixels describes all patches alike"):
        fitted("students", replace(TINY, restarts=2), films())


def test_descriptors_alike_are_told_from_others() -> None:
    torch.manual_seed(0)
    net = PatchNet(17, 4)
    probe = torch.rand(8, 1, 17, 17)
    assert not alike(net, probe)
    with torch.no_grad():
        for parameter in net.convolutions[-1].parameters():
            parameter.mul_(1e-3)
    assert alike(net, probe)
    assert net.training


def test_undertrained_students_are_noted() -> None:
    run = run_with()
    fitted("students", replace(TINY, epochs=1, learning_rate=1e-9), films(), run)
    assert len(run.notes) == 1
    assert "Undertrained" in run.notes[0]
    assert "not below the 4 of the mean" in run.notes[0]


def test_correlations_are_of_float32_under_autocast() -> None:
    found = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        mixed = correlation(found)
    assert torch.equal(mixed, correlation(found))


def test_a_teacher_is_taken_from_a_file(tmp_path: Path) -> None:
    first = fitted("students", TINY, films()).module
    file = tmp_path / "weights.safetensors"
    save_file(state(first), file)  # as a model folder has it
    other = films(2)
    second = fitted("students", replace(TINY, weights=str(file)), other).module
    assert same(state(first.teachers), state(second.teachers))
    assert not same(state(first.scales), state(second.scales))


def test_a_file_without_the_teacher_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    save_file({"teachers.33.convolutions.0.weight": torch.zeros(1)}, file)
    with pytest.raises(
        RequestError, match=r"the teacher of 17.*convolutions\.0\.weight is missing"
    ):
        fitted("students", replace(TINY, weights=str(file)), films())
    save_file({"teachers.17.convolutions.0.weight": torch.zeros(1)}, file)
    with pytest.raises(RequestError, match=r"is \(1,\) instead of \(4, 1, 6, 6\)"):
        fitted("students", replace(TINY, weights=str(file)), films())
    file.write_bytes(b"PK\x03\x04 pickled by torch")
    with pytest.raises(RequestError, match=r"not a safetensors file.*convert them by safetensors"):
        fitted("students", replace(TINY, weights=str(file)), films())
    whole = state(students.build(TINY, setting_with()))
    first = "teachers.17.convolutions.0.weight"
    for changed, said in (
        (whole[first] * torch.nan, "NaN or infinity"),
        (whole[first].to(torch.complex64), "is of complex64"),
    ):
        save_file({**whole, first: changed}, file)
        with pytest.raises(RequestError, match=rf"convolutions\.0\.weight .*{said}"):
            fitted("students", replace(TINY, weights=str(file)), films())
    header = b'{"a":{"dtype":"F8_E8M0","shape":[2],"data_offsets":[0,2]}}'  # which torch can't name
    file.write_bytes(len(header).to_bytes(8, "little") + header + b"\0\0")
    with pytest.raises(RequestError, match=r"not a safetensors file that can be read"):
        fitted("students", replace(TINY, weights=str(file)), films())
    with pytest.raises(RequestError, match=r"not a safetensors file that can be read"):
        fitted("students", replace(TINY, weights="a\0b"), films())
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(RequestError, match="is not a file"):
        fitted("students", replace(TINY, weights=str(pipe)), films())
    with pytest.raises(RequestError, match=r"cannot be read \(No such file"):
        fitted("students", replace(TINY, weights=str(tmp_path / "none")), films())


def test_a_foreground_of_a_few_pixels_has_a_score() -> None:
    """In the square it is half of no pixel."""
    module = students.build(replace(TINY, over="foreground"), setting_with()).eval()
    pixels = np.random.default_rng(0).random((96, 80))
    mask = np.zeros(pixels.shape, bool)
    mask[40, 40] = True
    film = on_cpu(prepared(pixels, mask))
    with torch.inference_mode():
        response = module(film, setting_with().grid(film.shape))
        values = module.maps(square(film, TINY.side))[0]
    row, col = (int(40.5 * TINY.side / n) for n in pixels.shape)
    assert response.image == values[row, col]


def test_what_cannot_be_done_is_refused() -> None:
    with pytest.raises(RequestError, match=r"more than 30 pixels for a field of 65, got 30"):
        students.build(Config(side=30), setting_with())
    students.build(replace(TINY, fields=(65,), side=31), setting_with())
    with pytest.raises(RequestError, match=r"each once; got \(17, 17\)"):
        Config(fields=(17, 17))
    with pytest.raises(RequestError, match=r"students\.fields"):
        read_config("students", ["students.fields=[18]"])


@pytest.mark.parametrize("field", FIELDS)
def test_each_field_alone_is_a_configuration(field: int) -> None:
    config = read_config(f"students_{field}")
    assert config == replace(read_config("students"), options=Config(fields=(field,)))


def test_the_defaults_are_published() -> None:
    config = Config()
    assert (config.fields, config.side, config.width, config.students) == (
        (17, 33, 65),
        256,
        128,
        3,
    )
    assert (config.teacher_rate, config.learning_rate, config.decay) == (2e-4, 1e-4, 1e-5)
    assert math.isclose(config.top, 0.01)
