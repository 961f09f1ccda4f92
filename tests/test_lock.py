import json
import os
import shutil
import signal
import subprocess
import sys
import threading

import pytest

from patchad.errors import OutputError
from patchad.files.lock import LOCK, locked

HOLDER = """
import sys
from pathlib import Path
from patchad.files.lock import locked
with locked(Path(sys.argv[1]), "screen"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of ``tmp_path/run``."""
    folder = tmp_path / "run"
    folder.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout.readline() == b"held\n"
    yield folder, process
    process.kill()
    process.communicate()


def test_a_second_process_is_refused_and_told_who_holds_it(holder):
    folder, process = holder
    with (
        pytest.raises(
            OutputError, match=rf"run is in use by `patchad screen` \(process {process.pid} on .*"
        ),
        locked(folder, "export"),
    ):
        pytest.fail("two hold it")
    shutil.copytree(folder, folder.with_name("copy"))
    with locked(folder.with_name("copy"), "export"):  # a copy is nobody's yet
        pass


def test_the_lock_of_a_killed_process_is_gone(holder):
    folder, process = holder
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert json.loads((folder / LOCK).read_text())["pid"] == process.pid  # which says nothing now
    with locked(folder, "export"):
        assert json.loads((folder / LOCK).read_text())["pid"] == os.getpid()
    assert (folder / LOCK).read_text() == ""


def test_threads_of_one_process_exclude_each_other(tmp_path):
    faults = []

    def second():
        try:
            with locked(tmp_path, "export"):
                faults.append(None)
        except OutputError as error:
            faults.append(str(error))

    def tried():
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
        return faults.pop()

    with locked(tmp_path, "screen"):
        assert f"process {os.getpid()} on" in tried()
    assert tried() is None


def test_whoever_waits_for_a_deleted_lock_holds_nothing(tmp_path, monkeypatch):
    from patchad.files import lock

    opened = []

    def lose_it_first(file, path):
        if not opened:
            path.unlink()  # whoever held it before deleted the folder's lock
        opened.append(file)

    monkeypatch.setattr(lock, "_lock", lose_it_first)
    with locked(tmp_path, "screen"):
        assert len(opened) == 2
        assert (tmp_path / LOCK).stat().st_ino == os.fstat(opened[1]).st_ino


@pytest.mark.parametrize("said", ["", "{}", "[1]", '{"pid": 1, "host": "\\n", "command": "x"}'])
def test_what_the_file_says_is_only_told_if_it_is_sound(holder, said):
    folder, _ = holder
    (folder / LOCK).write_text(said)
    with pytest.raises(OutputError, match=r"run is in use: wait"), locked(folder, "export"):
        pytest.fail("two hold it")


def test_a_link_or_a_pipe_in_its_place_is_refused(tmp_path):
    (tmp_path / "thesis").write_text("years of work")
    (tmp_path / LOCK).symlink_to(tmp_path / "thesis")
    with pytest.raises(OutputError, match=r"lock cannot be opened"), locked(tmp_path, "screen"):
        pytest.fail("held")
    assert (tmp_path / "thesis").read_text() == "years of work"
    (tmp_path / LOCK).unlink()
    os.mkfifo(tmp_path / LOCK)
    with pytest.raises(OutputError, match="not a file"), locked(tmp_path, "screen"):
        pytest.fail("held")


def test_a_file_system_without_locks_is_warned_of(tmp_path, monkeypatch, caplog):
    import fcntl

    def no_locks(file, how):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with locked(tmp_path, "screen"):
        assert "has no locks: make sure" in caplog.text
