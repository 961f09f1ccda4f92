"""The training loop: resumes bit-equal, feeds GANs, draws ahead, waits for no step."""

import math
import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from builders import run_with, same, state
from torch import Tensor, nn

from patchad.errors import ModelError, RequestError, TrainingError
from patchad.learn.checkpoint import Checkpoint, epoch_generator, state_of
from patchad.learn.loop import Step, cosine, equal_epochs, shuffled, train
from patchad.learn.run import GivenUp, Run


def network() -> nn.Module:
    torch.manual_seed(7)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 3))


class Killed(BaseException):
    """What stops a training in the middle."""


def autoencoder(run: Run, *, kill: int = -1, spoil: int = -1, **rest: object) -> nn.Module:
    """Four epochs of three steps; killed, or its loss no number, at a step."""
    net = network()

    def draw(step: Step) -> Tensor:
        return torch.rand(8, 3, generator=step.generator)

    def losses(batch: Tensor, step: Step) -> Iterator[tuple[str, Tensor]]:
        if step.number == kill:
            raise Killed
        loss = (net(batch) - batch).square().mean()
        yield "adam", loss * (math.nan if step.number == spoil else 1)

    optimisers = {"adam": torch.optim.Adam(net.parameters(), 0.05)}
    train(
        run, {"net": net}, optimisers, epochs=4, steps=3, draw=draw, losses=losses,
        rate=lambda number: 0.05 / (1 + number), **rest,
    )  # fmt: skip
    return net


@pytest.mark.parametrize("kill", [1, 3, 7, 11])  # within epochs 1, 2, 3 and 4
def test_a_killed_training_resumes_to_the_same_weights(tmp_path: Path, kill: int) -> None:
    told: list[tuple[str, int, int, float]] = []
    whole = autoencoder(run_with(5, progress=lambda *said: told.append(said)))
    assert [said[:3] for said in told] == [("training", epoch, 4) for epoch in (1, 2, 3, 4)]
    file = tmp_path / "file.safetensors"
    with pytest.raises(Killed):
        autoencoder(run_with(5, checkpoint=file, request="a"), kill=kill)
    assert file.exists() == (kill >= 3)
    again: list[tuple[str, int, int, float]] = []
    run = run_with(5, checkpoint=file, request="a", progress=lambda *said: again.append(said))
    assert same(state(autoencoder(run)), state(whole))
    assert again == told[max(kill // 3 - 1, 0) :]
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def gan(run: Run, kill: int = -1) -> dict[str, Tensor]:
    """A critic that takes two steps for each of its generator's, on numbers around 2."""
    torch.manual_seed(3)
    nets = {"generator": nn.Linear(2, 1), "critic": nn.Linear(1, 1)}
    optimisers = {name: torch.optim.RMSprop(net.parameters(), 0.01) for name, net in nets.items()}

    def draw(step: Step) -> tuple[Tensor, Tensor]:
        noise = torch.randn(3, 16, 2, generator=step.generator)
        return noise, 2 + torch.randn(2, 16, 1, generator=step.generator)

    def losses(batch: tuple[Tensor, Tensor], step: Step) -> Iterator[tuple[str, Tensor]]:
        if step.number == kill:
            raise Killed
        noise, real = batch
        for k in (0, 1):
            before = [p.clone() for p in nets["critic"].parameters()]
            fake = nets["generator"](noise[k]).detach()
            yield "critic", nets["critic"](fake).mean() - nets["critic"](real[k]).mean()
            moved = zip(before, nets["critic"].parameters(), strict=True)
            assert any(not torch.equal(old, new) for old, new in moved)  # it has stepped by now
        yield "generator", -nets["critic"](nets["generator"](noise[2])).mean()

    train(run, nets, optimisers, epochs=3, steps=4, draw=draw, losses=losses)
    return {f"{name}.{key}": t for name, net in nets.items() for key, t in state(net).items()}


def test_two_networks_take_turns_and_resume(tmp_path: Path) -> None:
    whole = gan(run_with(1))
    torch.manual_seed(3)
    start = nn.Linear(2, 1).state_dict()
    assert not torch.equal(whole["generator.bias"], start["bias"])
    run = run_with(1, checkpoint=tmp_path / "gan.safetensors")
    with pytest.raises(Killed):
        gan(run, kill=9)
    assert same(gan(run), whole)


def test_the_rate_is_that_of_the_step() -> None:
    net, seen = nn.Linear(1, 1), []
    optimiser = torch.optim.SGD(net.parameters(), 1.0)

    def losses(batch: None, step: Step) -> Iterator[tuple[str, Tensor]]:
        seen.append((step.number, step.index, step.epoch, optimiser.param_groups[0]["lr"]))
        yield "sgd", net(torch.ones(1, 1)).sum()

    train(
        run_with(), {"net": net}, {"sgd": optimiser}, epochs=2, steps=2,
        draw=lambda step: None, losses=losses, rate=lambda number: 0.5**number,
    )  # fmt: skip
    assert seen == [(0, 0, 1, 1.0), (1, 1, 1, 0.5), (2, 0, 2, 0.25), (3, 1, 2, 0.125)]


def test_one_batch_is_drawn_ahead_in_order_in_another_thread() -> None:
    net, drawn, own = nn.Linear(1, 1), [], threading.get_ident()
    ahead = threading.Event()

    def draw(step: Step) -> int:
        assert threading.get_ident() != own
        drawn.append(step.number)
        if step.number == 1:
            ahead.set()
        return step.number

    def losses(batch: int, step: Step) -> Iterator[tuple[str, Tensor]]:
        assert batch == step.number
        assert ahead.wait(10)  # the second batch is drawn while the first is used
        yield "sgd", net(torch.ones(1, 1)).sum()

    optimisers = {"sgd": torch.optim.SGD(net.parameters(), 0.1)}
    train(run_with(), {"net": net}, optimisers, epochs=2, steps=3, draw=draw, losses=losses)
    assert drawn == list(range(6))


def test_no_step_waits_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []

    def watched(name: str) -> None:
        real = getattr(Tensor, name)

        def read(self: Tensor, *args: object, **rest: object) -> object:
            reads.append(name)
            return real(self, *args, **rest)

        monkeypatch.setattr(Tensor, name, read)

    net = nn.Linear(3, 3)
    optimisers = {"sgd": torch.optim.SGD(net.parameters(), 0.1)}  # Adam reads its own step counter

    def losses(batch: Tensor, step: Step) -> Iterator[tuple[str, Tensor]]:
        yield "sgd", (net(batch) - batch).square().mean()

    for name in ("item", "__float__", "__bool__", "cpu", "numpy", "tolist"):
        watched(name)
    train(
        run_with(), {"net": net}, optimisers, epochs=4, steps=9, losses=losses,
        draw=lambda step: torch.rand(8, 3, generator=step.generator),
    )  # fmt: skip
    assert reads.count("__float__") == 4  # the mean of each epoch
    assert set(reads) == {"__float__"}


def test_a_fault_of_health_gives_the_try_up() -> None:
    with pytest.raises(GivenUp, match="it sleeps") as caught:
        autoencoder(run_with(), health=lambda epoch: "it sleeps" * (epoch == 2), remedy="wake it")
    assert caught.value.remedy == "wake it"


def test_a_loss_that_is_no_number_ends_training_and_keeps_the_last_epoch(tmp_path: Path) -> None:
    file = tmp_path / "file.safetensors"
    with pytest.raises(TrainingError, match=r"nan in epoch 2 of training: lower the learning rate"):
        autoencoder(run_with(checkpoint=file, request="a"), spoil=4)
    checkpoint = Checkpoint.read(file, "a")
    assert checkpoint is not None
    assert checkpoint.epoch == 1


def test_too_little_memory_says_what_to_set() -> None:
    def losses(batch: None, step: Step) -> Iterator[tuple[str, Tensor]]:
        raise torch.OutOfMemoryError
        yield

    net = nn.Linear(1, 1)
    optimisers = {"sgd": torch.optim.SGD(net.parameters(), 0.1)}
    with pytest.raises(TrainingError, match=r"too little memory.*batch_size"):
        train(
            run_with(), {"net": net}, optimisers, epochs=1, steps=1, draw=lambda s: None,
            losses=losses,
        )  # fmt: skip


def finished(file: Path) -> Checkpoint:
    run = replace(run_with(5, checkpoint=file, request="a", attempt=1), notes=["why"])
    autoencoder(run)
    checkpoint = Checkpoint.read(file, "a")
    assert checkpoint is not None
    return checkpoint


def test_a_checkpoint_says_where_the_training_stands(tmp_path: Path) -> None:
    no_utf8 = tmp_path / os.fsdecode(b"model\xff")
    checkpoint = finished(no_utf8 / "file.safetensors")
    assert (checkpoint.attempt, checkpoint.notes, checkpoint.epoch) == (1, ("why",), 4)
    names = {name for name in checkpoint.tensors if name.startswith("network/")}
    assert {"network/net/0.weight", "network/net/1.running_mean"} <= names
    assert float(checkpoint.tensors["optimiser/adam/0/step"]) == 12  # 4 epochs of 3 batches


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    finished(tmp_path / "file.safetensors")
    with pytest.raises(RequestError, match=r"another configuration.*--overwrite"):
        Checkpoint.read(tmp_path / "file.safetensors", "b")


def test_a_checkpoint_of_an_earlier_try_is_ignored(tmp_path: Path) -> None:
    file = tmp_path / "file.safetensors"
    finished(file)
    told = []
    later = run_with(
        5, checkpoint=file, request="a", attempt=2, progress=lambda *s: told.append(s[:2])
    )
    autoencoder(later)
    assert told[0] == ("training, try 3", 1)


def test_a_checkpoint_of_other_networks_is_refused(tmp_path: Path) -> None:
    checkpoint = finished(tmp_path / "file.safetensors")
    with pytest.raises(ModelError, match="delete it"):
        checkpoint.restore(tmp_path / "file.safetensors", {"other": nn.Linear(2, 2)}, {})


ENDLESS_HEADER = (
    b'{"__metadata__":{"training":"{\\"request\\":\\"a\\",\\"attempt\\":0,\\"notes\\":[],'
    b'\\"epoch\\":Infinity,\\"loss\\":0}"}}'
)
ENDLESS = len(ENDLESS_HEADER).to_bytes(8, "little") + ENDLESS_HEADER


@pytest.mark.parametrize("content", [b"", b"\x80\x04pickle", b"\x02\0\0\0\0\0\0\0{}", ENDLESS])
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match="delete it"):
        Checkpoint.read(tmp_path / "file.safetensors", "a")


def test_epochs_are_equal_and_not_too_short() -> None:
    hundreds = [equal_epochs(n, 100) for n in (500, 150, 40, 30, 7)]
    assert hundreds == [(5, 100), (3, 50), (2, 20), (1, 30), (1, 7)]
    fifties = [equal_epochs(n, 50)[1] for n in (400, 40, 75, 45, 1, 101)]
    assert fifties == [50, 10, 25, 45, 1, 101]


def test_a_cosine_falls_to_nothing() -> None:
    rate = cosine(0.4, 8)
    assert [rate(step) for step in (0, 4, 8)] == pytest.approx([0.4, 0.2, 0])


def test_networks_that_share_tensors_are_saved(tmp_path: Path) -> None:
    net = nn.Linear(2, 2)
    tensors = state_of({"part": net, "whole": nn.Sequential(net)}, {})
    Checkpoint("a", 0, (), 1, 0.0, tensors).write(tmp_path / "file.safetensors")
    found = Checkpoint.read(tmp_path / "file.safetensors", "a")
    assert found is not None
    assert torch.equal(found.tensors["network/part/bias"], net.bias)


def test_generators_differ_by_seed_and_epoch() -> None:
    first = [
        torch.rand(3, generator=epoch_generator(*of)) for of in [(0, 1), (0, 2), (1, 1), (0, 1)]
    ]
    assert torch.equal(first[0], first[3])
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], first[2])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_a_gpu_trains_in_mixed_precision_and_repeats_itself() -> None:
    device, kinds, ends = torch.device("cuda"), set(), []
    for _ in range(2):
        net = network().to(device)

        def losses(batch: Tensor, step: Step, net: nn.Module = net) -> Iterator[tuple[str, Tensor]]:
            found = net(batch.to(device, non_blocking=True))
            kinds.add(found.dtype)
            yield "adam", (found.float() - batch.to(device)).square().mean()

        optimisers = {"adam": torch.optim.Adam(net.parameters(), 0.01)}
        train(
            replace(run_with(), device=device), {"net": net}, optimisers, epochs=2, steps=3,
            draw=lambda step: torch.rand(8, 3, generator=step.generator), losses=losses,
        )  # fmt: skip
        ends.append(state(net))
    assert kinds == {torch.bfloat16}
    assert same(*ends)
    assert {tensor.dtype for tensor in ends[0].values() if tensor.is_floating_point()} == {
        torch.float32
    }


def test_each_example_comes_once_a_pass() -> None:
    epochs, steps, draw = shuffled(7, 3, 100)  # 3 + 3; one left over is not a batch
    assert (epochs, steps) == (4, 50)  # 25 passes of 2 steps are one epoch
    generator = torch.Generator().manual_seed(0)
    passes = [
        torch.cat([draw(Step(k, k, 1, generator)) for k in (2 * n, 2 * n + 1)]).tolist()
        for n in range(25)
    ]
    assert all(len(one) == 6 == len(set(one)) for one in passes)
    assert len({tuple(one) for one in passes}) > 20
    assert shuffled(8, 3, 100)[1] % 3 == 0
    assert shuffled(2, 64, 3)[:2] == (1, 3)


def test_a_prime_number_of_passes_is_not_one_epoch() -> None:
    """Whose end would be the first checkpoint."""
    assert shuffled(640, 64, 251)[:2] == (251, 10)
    assert shuffled(3136, 64, 997)[:2] == (997, 49)
    assert shuffled(640, 64, 2 * 251)[:2] == (251, 20)
    assert shuffled(3200, 64, 997)[:2] == (997, 50)  # a pass may be as long as it is
    assert shuffled(64_000, 64, 3)[:2] == (3, 1000)
    for count in (60, 100, 640, 4000):  # the published 250 passes have steps enough
        epochs, steps, _ = shuffled(count, 64, 250)
        assert epochs * steps == 250 * (count // 64 + (count % 64 > 1))
        assert 50 <= steps <= 125
