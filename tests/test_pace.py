"""What a user is told of a long training, and of one at the quick setting."""

from collections.abc import Iterator

import pytest
import torch
from builders import run_with
from torch import nn

from patchad.commands.pace import announce, in_words, quick_note
from patchad.learn import loop
from patchad.methods.configure import read_config


def test_a_long_training_is_announced_once(caplog: pytest.LogCaptureFixture) -> None:
    expect = announce(read_config("wei2018"), "cpu")
    expect(3600)
    assert not caplog.records
    expect(7 * 3600)
    expect(9 * 3600)
    (said,) = [record.getMessage() for record in caplog.records]
    assert "wei2018 takes about 7.0 hours on cpu, until " in said
    assert "--quick takes minutes on two cores (epochs 40 for 500)" in said
    assert "--resume continues" in said
    assert "folds" not in said


def test_only_what_is_quicker_is_advised(caplog: pytest.LogCaptureFixture) -> None:
    announce(read_config("wei2018", quick=True), "cpu")(90 * 3600)
    assert "--quick" not in caplog.text
    assert "about 4 days" in caplog.text
    announce(read_config("aeu"), "cpu")(7200)
    assert "--set calibration.folds=0 trains once, not 6 times" in caplog.text


def test_times_in_words() -> None:
    assert [in_words(hours * 3600) for hours in (1.2, 47, 50)] == [
        "about 1.2 hours", "about 47 hours", "about 2 days",
    ]  # fmt: skip


def test_a_card_says_that_it_was_quick() -> None:
    note = quick_note(read_config("wei2018", quick=True))
    assert "wei2018's quick setting for two cores (epochs 40 for 500)" in note
    assert not quick_note(read_config("wei2018"))
    assert not quick_note(read_config("wei2018", ["wei2018.epochs=41"]))
    assert not quick_note(read_config("convergence"))


def test_a_quick_card_lists_what_is_not_the_papers_whatever_else_was_set() -> None:
    mixed = read_config("students", ["students.epochs=3", "students.side=256"], quick=True)
    note = quick_note(mixed)
    assert "width 32 for 128" in note
    assert "epochs 3 for 100" in note
    assert "side" not in note
    assert "fields [17]" in quick_note(read_config("students_17", quick=True))
    assert not quick_note(read_config("students_17"))


@pytest.mark.parametrize("repeats", [1, 6])
def test_the_loop_tells_once_how_long_it_will_take(
    repeats: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 10_000, 8))  # 8 seconds a step: 3 steps pass the 20 seconds
    monkeypatch.setattr(loop.time, "monotonic", lambda: next(clock))
    told: list[float] = []
    network = nn.Linear(1, 1)

    def losses(drawn: object, step: loop.Step) -> Iterator[tuple[str, torch.Tensor]]:
        yield "sgd", network(torch.ones(1, 1)).sum()

    loop.train(
        run_with(expect=told.append, repeats=repeats),
        {"one": network},
        {"sgd": torch.optim.SGD(network.parameters(), 1e-3)},
        epochs=4,
        steps=5,
        draw=lambda step: None,
        losses=losses,
    )
    assert told == [8 * 20 * repeats]
