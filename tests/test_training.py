"""Patches from the bank, corners in the foreground, and a training that resumes to the same end."""

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from patchad.core.grid import PatchGrid
from patchad.errors import ModelError, RequestError, TrainingError
from patchad.learn.loop import Checkpoint, Schedule, epoch_generator, train_epochs
from patchad.learn.training_set import PatchBank, foreground_corners

CPU = torch.device("cpu")
SCHEDULE = Schedule(4, 20, 8, 1e-2, (0.9, 0.999))  # batches of 8, 8 and 4
STEP = 1 / 65535


def image(shape: tuple[int, int], seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


def mixed_bank(size: int = 8) -> tuple[PatchBank, list[NDArray[np.float32]]]:
    """A bank of a wide image, one smaller than a patch and a tall one; and its patches, cut."""
    parts, patches = [], []
    for seed, shape in enumerate([(20, 33), (5, 6), (40, 9)]):
        pixels, grid = image(shape, seed), PatchGrid(shape, size, 3)
        parts.append((pixels, grid.corners))
        patches.extend(grid.cut(pixels))
    return PatchBank.of(parts, size, CPU), patches


def test_drawn_patches_are_those_that_numpy_cuts() -> None:
    bank, patches = mixed_bank()
    assert len(bank) == len(patches)
    which = torch.randint(len(bank), (50,), generator=torch.Generator().manual_seed(3))
    drawn = bank.draw(50, torch.Generator().manual_seed(3))
    assert drawn.shape == (50, 1, 8, 8)
    assert drawn.dtype == torch.float32
    expected = np.stack([patches[k] for k in which])
    np.testing.assert_allclose(drawn[:, 0].numpy(), expected, rtol=0, atol=0.51 * STEP)


def test_sixteen_bit_values_pass_through_the_bank_unchanged() -> None:
    pixels = (np.array([[0, 1, 32767, 32768, 65534, 65535]]) / 65535).astype(np.float32)
    bank = PatchBank.of([(pixels, np.array([[0, c] for c in range(6)]))], 1, CPU)
    drawn = set(bank.draw(300, torch.Generator().manual_seed(0)).flatten().tolist())
    assert drawn == set(pixels.ravel().tolist())


def test_corners_are_drawn_uniformly_whatever_image_they_are_in() -> None:
    # 1 × 1 patches, each of its own value: 1 corner in the first image, 3 and 6 in the others
    values = np.arange(10, dtype=np.float32) / 10
    parts = []
    for part in np.split(values, [1, 4]):
        corners = np.stack([np.zeros(len(part), np.int64), np.arange(len(part))], axis=1)
        parts.append((part[None], corners))
    drawn = PatchBank.of(parts, 1, CPU).draw(20_000, torch.Generator().manual_seed(1)).flatten()
    counts = np.bincount(np.rint(drawn.numpy() * 10).astype(int), minlength=10)
    chi_squared = ((counts - 2000) ** 2 / 2000).sum()
    assert chi_squared < 27.9  # 99.9 % of chi-squared with 9 degrees of freedom


def test_the_bank_refuses_corners_outside_the_image() -> None:
    for corner in [(-1, 0), (0, 3), (3, 0)]:
        with pytest.raises(ValueError, match=r"\(0, 0\)\.\.\(2, 2\)"):
            PatchBank.of([(image((10, 10), 0), np.array([corner]))], 8, CPU)


def test_a_bank_without_any_corner_says_what_to_do() -> None:
    with pytest.raises(RequestError, match="lower min_foreground"):
        PatchBank.of([(image((10, 10), 0), np.empty((0, 2), np.int64))], 8, CPU)


@given(
    st.integers(1, 30),
    st.integers(1, 30),
    st.integers(1, 12),
    st.sampled_from([0.1, 0.5, 0.75, 1.0]),
    st.integers(0, 99),
)
def test_foreground_corners_are_all_those_with_enough_foreground(
    rows: int, cols: int, size: int, share: float, seed: int
) -> None:
    mask = image((rows, cols), seed) > 0.3
    every = PatchGrid((rows, cols), size, 1)
    expected = every.corners[every.means(mask).astype(np.float32) >= share]
    found = foreground_corners(mask, size, share, limit=900, rng=np.random.default_rng(0))
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, expected)


def test_foreground_corners_by_hand() -> None:
    mask = np.zeros((4, 5), bool)
    mask[1:3, 2:4] = True
    every = foreground_corners(mask, 2, 1.0, limit=9, rng=np.random.default_rng(0))
    assert every.tolist() == [[1, 2]]
    half = foreground_corners(mask, 2, 0.5, limit=9, rng=np.random.default_rng(0))
    assert half.tolist() == [[0, 2], [1, 1], [1, 2], [1, 3], [2, 2]]
    none = foreground_corners(np.zeros((4, 5), bool), 2, 0.5, limit=9, rng=np.random.default_rng(0))
    assert none.shape == (0, 2)


def test_limited_corners_are_distinct_and_cover_the_image() -> None:
    mask = np.ones((60, 60), bool)
    found = foreground_corners(mask, 10, 0.5, limit=500, rng=np.random.default_rng(0))
    assert len(np.unique(found, axis=0)) == 500
    # 500 of 51 × 51 places, mean 25: the standard error is 14.7 / sqrt(500) = 0.66
    assert np.abs(found.mean(0) - 25).max() < 3


def test_every_epoch_and_seed_has_patches_of_its_own() -> None:
    bank, _ = mixed_bank()
    drawn = [bank.draw(20, epoch_generator(s, e)) for s, e in [(0, 1), (0, 2), (1, 1), (0, 1)]]
    assert torch.equal(drawn[0], drawn[3])
    assert not torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def small_network() -> nn.Module:
    torch.manual_seed(7)
    return nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.Tanh(), nn.Conv2d(3, 1, 3, padding=1))


def squared_error(network: nn.Module, patches: Tensor) -> Tensor:
    return (network(patches) - patches).square().mean()


class Stopper:
    """A loss that is interrupted at its ``at``-th call, or not a number from there on."""

    def __init__(self, at: int, fault: type[BaseException] | None = KeyboardInterrupt) -> None:
        self.at, self.calls, self.fault = at, 0, fault

    def __call__(self, network: nn.Module, patches: Tensor) -> Tensor:
        self.calls += 1
        if self.calls == self.at and self.fault:
            raise self.fault
        return squared_error(network, patches) * (math.nan if self.calls >= self.at else 1)


@pytest.mark.parametrize("at", [2, 4, 8, 10])  # within epochs 1, 2, 3 and 4 (three steps each)
def test_a_killed_training_resumes_to_the_same_weights(tmp_path: Path, at: int) -> None:
    bank, _ = mixed_bank()
    whole = small_network()
    losses = list(train_epochs(whole, bank, loss=squared_error, schedule=SCHEDULE, seed=5))
    assert [epoch for epoch, _ in losses] == [1, 2, 3, 4]

    file = tmp_path / "training.safetensors"
    rest = {"schedule": SCHEDULE, "seed": 5, "checkpoint": file, "digest": "a"}
    with pytest.raises(KeyboardInterrupt):
        list(train_epochs(small_network(), bank, loss=Stopper(at), **rest))
    done = (at - 1) // 3  # whole epochs
    assert file.exists() == (done > 0)
    resumed = small_network()
    again = list(train_epochs(resumed, bank, loss=squared_error, **rest))
    assert again == losses[max(done - 1, 0) :]
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def finished(file: Path) -> Checkpoint:
    bank, _ = mixed_bank()
    rest = {"schedule": SCHEDULE, "seed": 5, "checkpoint": file, "digest": "a", "attempt": 1}
    list(train_epochs(small_network(), bank, loss=squared_error, notes=("why",), **rest))
    checkpoint = Checkpoint.read(file, "a")
    assert checkpoint is not None
    return checkpoint


def test_a_checkpoint_says_where_the_training_stands(tmp_path: Path) -> None:
    no_utf8 = tmp_path / os.fsdecode(b"model\xff")
    checkpoint = finished(no_utf8 / "file.safetensors")
    assert (checkpoint.attempt, checkpoint.notes, checkpoint.epoch) == (1, ("why",), 4)
    assert set(checkpoint.network) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    assert set(checkpoint.optimiser) == {
        f"{place}/{name}" for place in range(4) for name in ("step", "exp_avg", "exp_avg_sq")
    }
    assert float(checkpoint.optimiser["0/step"]) == 12  # 4 epochs of 3 batches


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    finished(tmp_path / "file.safetensors")
    with pytest.raises(RequestError, match=r"another configuration.*--overwrite"):
        Checkpoint.read(tmp_path / "file.safetensors", "b")


def test_a_checkpoint_of_an_earlier_try_is_ignored(tmp_path: Path) -> None:
    file = tmp_path / "file.safetensors"
    finished(file)
    bank, _ = mixed_bank()
    rest = {"schedule": SCHEDULE, "seed": 5, "checkpoint": file, "digest": "a", "attempt": 2}
    epochs = train_epochs(small_network(), bank, loss=squared_error, **rest)
    assert next(epochs)[0] == 1


@pytest.mark.parametrize("content", [b"", b"\x80\x04pickle", b"\x02\0\0\0\0\0\0\0{}"])
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match="delete it"):
        Checkpoint.read(tmp_path / "file.safetensors", "a")


def test_a_loss_that_is_no_number_ends_training_and_keeps_the_last_epoch(tmp_path: Path) -> None:
    file = tmp_path / "file.safetensors"
    bank, _ = mixed_bank()
    rest = {"schedule": SCHEDULE, "seed": 5, "checkpoint": file, "digest": "a"}
    with pytest.raises(TrainingError, match=r"nan in epoch 2: lower the learning rate \(0.01\)"):
        list(train_epochs(small_network(), bank, loss=Stopper(5, None), **rest))
    checkpoint = Checkpoint.read(file, "a")
    assert checkpoint is not None
    assert checkpoint.epoch == 1


def test_steps_count_the_last_short_batch() -> None:
    assert SCHEDULE.steps == 12


gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


@pytest.mark.gpu
@gpu
def test_a_gpu_draws_the_same_patches_as_the_cpu() -> None:
    parts = [(image((300, 200), 0), PatchGrid((300, 200), 32, 16).corners)]
    banks = [PatchBank.of(parts, 32, torch.device(kind)) for kind in ("cpu", "cuda")]
    on_cpu, on_gpu = (bank.draw(64, epoch_generator(0, 1)) for bank in banks)
    assert on_gpu.is_cuda
    assert torch.equal(on_cpu, on_gpu.cpu())


@pytest.mark.gpu
@gpu
def test_a_gpu_trains_in_mixed_precision_and_repeats_itself() -> None:
    device = torch.device("cuda")
    bank = PatchBank.of([(image((99, 99), 0), PatchGrid((99, 99), 32, 8).corners)], 32, device)
    kinds, ends = set(), []

    def loss(network: nn.Module, patches: Tensor) -> Tensor:
        output = network(patches)
        kinds.add(output.dtype)
        return (output.float() - patches).square().mean()

    for _ in range(2):
        network = small_network().to(device)
        list(train_epochs(network, bank, loss=loss, schedule=SCHEDULE, seed=0))
        ends.append(network.state_dict())
    assert kinds == {torch.bfloat16}
    assert all(torch.equal(tensor, ends[1][name]) for name, tensor in ends[0].items())
    assert {tensor.dtype for tensor in ends[0].values()} == {torch.float32}
