import os
import signal
import time

import imagecodecs
import numpy as np
import pytest

from patchad.errors import ImageError, NotARadiographError, RequestError
from patchad.prepare import workers
from patchad.prepare.preprocess import Preprocessing
from patchad.prepare.workers import (
    Fault,
    How,
    Limits,
    Ready,
    fault_of,
    read_ahead,
    read_one,
    readers,
)
from patchad.read.manifest import ManifestRow

HOW = How(Preprocessing(body_part="chest"), limits=Limits(seconds=30))
GREY = np.add.outer(np.arange(40), np.arange(30)).astype(np.uint8)


def write(path):
    path.write_bytes(imagecodecs.png_encode(GREY))
    return ManifestRow(path)


def serve_badly(link, how):
    """A process whose decoder dies or hangs on files of such names."""
    read = workers._read

    def badly(entry, how):
        match entry.path.stem:
            case "crash":
                os.kill(os.getpid(), signal.SIGSEGV)
            case "panic":
                raise SystemExit(3)  # no Exception, as the panics of Rust are none
            case "hang":
                time.sleep(600)
            case "flood":
                print("Doe^Jane" * 1000, flush=True)
                os.write(2, b"Doe^Jane")
        return read(entry, how)

    workers._read = badly
    serve(link, how)


serve = workers._serve


def test_images_come_in_order_with_what_was_prepared(tmp_path):
    rows = [write(tmp_path / f"{n}.png") for n in range(5)]
    answers = list(read_ahead(rows, HOW))
    assert [row for row, _ in answers] == rows
    for row, ready in answers:
        assert isinstance(ready, Ready)
        assert ready.radiograph.source.path == str(row.path)
        np.testing.assert_allclose(ready.radiograph.pixels, GREY / 255, rtol=1e-6)
        assert ready.prepared.pixels.shape == GREY.shape
        assert ready.seconds > 0


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_decoder_that_dies_or_hangs_costs_its_file_only(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(workers, "_serve", serve_badly)
    names = ["a", "crash", "b", "panic", "hang", "c", "flood", "none"]
    rows = [write(tmp_path / f"{name}.png") for name in names]
    rows[-1].path.unlink()
    how = How(HOW.preprocessing, limits=Limits(seconds=3))
    answers = {row.path.stem: answer for row, answer in read_ahead(rows, how)}
    assert list(answers) == names
    good = {name for name, answer in answers.items() if isinstance(answer, Ready)}
    assert good == {"a", "b", "c", "flood"}
    reasons = {n: a.reason for n, a in answers.items() if isinstance(a, Fault)}
    assert "died of SIGSEGV" in reasons["crash"]
    assert "ended with code 3" in reasons["panic"]
    assert "took more than 3 s" in reasons["hang"]
    assert "No such file" in reasons["none"]
    assert {a.status for a in answers.values() if isinstance(a, Fault)} == {"failed"}
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_processes_are_kept_from_pass_to_pass(tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "_serve", serve_badly)
    rows = [write(tmp_path / f"{name}.png") for name in ("a", "crash", "b")]
    with readers(HOW) as ahead:
        for _ in range(2):
            answers = [answer for _, answer in ahead(rows)]
            assert [isinstance(answer, Ready) for answer in answers] == [True, False, True]
            kept = workers._CONTEXT.active_children()
            assert 1 <= len(kept) <= 2
    assert workers._CONTEXT.active_children() == []


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_one_image_is_read_or_its_fault_raised(tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "_serve", serve_badly)
    assert read_one(write(tmp_path / "a.png"), HOW).radiograph.shape == GREY.shape
    with pytest.raises(ImageError, match="died of SIGSEGV"):
        read_one(write(tmp_path / "crash.png"), HOW)


def test_a_process_that_cannot_start_is_a_wrong_request(tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "_serve", os.abort)  # takes no arguments: it dies at once
    with pytest.raises(RequestError, match="did not start"):
        list(read_ahead([write(tmp_path / "a.png")], HOW))


def test_no_process_is_left_behind(tmp_path):
    rows = [write(tmp_path / f"{n}.png") for n in range(6)]
    reading = read_ahead(rows, HOW)
    next(reading)
    reading.close()  # as when the run is stopped
    assert workers._CONTEXT.active_children() == []


def test_what_is_said_of_faults_quotes_nothing_foreign():
    assert fault_of(NotARadiographError("a CT")) == Fault("skipped", "a CT")
    assert fault_of(ImageError("cut off")) == Fault("failed", "cut off")
    assert "not enough memory" in fault_of(MemoryError()).reason
    try:
        raise ValueError("Doe^Jane")
    except ValueError as error:
        fault = fault_of(error)
    assert fault.reason == "unexpected ValueError: run with -v and report it to patchad"
    assert "test_workers.py" in fault.trace
    assert fault.trace.endswith("ValueError")


@pytest.mark.parametrize("limits", [(0, 1.0), (1, 0.0), (1, float("nan")), (1, float("inf"))])
def test_limits_that_cannot_be(limits):
    with pytest.raises(RequestError, match=r"--max-pixels|--timeout"):
        Limits(*limits)
