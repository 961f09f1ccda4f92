"""A decoder that hangs doesn't keep patchad from ending, and doesn't outlive it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals")

# Opening hang.png hangs, in a way that lets other threads run or keeps them from it.
HANG = """
import os, pathlib, re, time
opened = pathlib.Path.open
def hanging(self, *arguments, **options):
    if self.name == "hang.png":
        with opened(self.with_name("pid"), "w") as file:
            file.write(str(os.getpid()) + "\\n")
        if os.environ["HANG"] == "busy":
            re.match("(a+)+$", "a" * 100 + "b")  # for longer than anybody waits
        time.sleep(1e6)
    return opened(self, *arguments, **options)
pathlib.Path.open = hanging
"""
COMMAND = [sys.executable, "-c", "from patchad.cli.app import main; main()"]


def start(tmp_path: Path, how: str, timeout: int) -> tuple[subprocess.Popen[str], int]:
    """The command, once one of its processes hangs; and that process."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(HANG)
    films = tmp_path / "films"
    films.mkdir()
    for name in ("a.png", "hang.png", "b.png"):
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(films / name)
    search = os.pathsep.join([str(tmp_path / "site"), *filter(None, sys.path)])
    out = tmp_path / "films.csv"
    command = [*COMMAND, "manifest", str(films), "--out", str(out), "--timeout", str(timeout)]
    running = subprocess.Popen(
        command,
        env={**os.environ, "PYTHONPATH": search, "HANG": how},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # a shell's background jobs ignore the signal, and so would their children
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    pid = films / "pid"
    wait_for(lambda: pid.exists() and pid.read_text().endswith("\n"))
    return running, int(pid.read_text())


def wait_for(condition) -> None:
    for _ in range(1200):
        if condition():
            return
        time.sleep(0.05)
    pytest.fail("this never happened")


def gone(pid: int) -> bool:
    """Whether a process has ended, perhaps without anybody having asked how."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.mark.parametrize("how", ["asleep", "busy"])
def test_ctrl_c_ends_a_hung_run(tmp_path, how):
    running, child = start(tmp_path, how, timeout=3600)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=60)
    assert running.returncode == 130
    assert "stopped" in err
    assert "Traceback" not in out + err
    assert gone(child)
    assert not (tmp_path / "films.csv").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_processes_end_with_the_one_that_started_them(tmp_path, number):
    running, child = start(tmp_path, "asleep", timeout=3600)
    running.send_signal(number)
    running.communicate(timeout=60)
    assert running.returncode == -number
    wait_for(lambda: gone(child))


def test_a_process_that_notices_nothing_ends_by_its_timeout(tmp_path):
    running, child = start(tmp_path, "busy", timeout=1)
    os.kill(running.pid, signal.SIGKILL)
    running.communicate(timeout=60)
    wait_for(lambda: gone(child))


def test_ctrl_c_for_all_of_a_terminal_leaves_no_traceback(tmp_path):
    """A terminal sends it to every process of the command, those that just start included."""
    films = tmp_path / "films"
    films.mkdir()
    for n in range(3):
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(films / f"{n}.png")
    code = """
import os, signal, sys
from patchad.prepare import workers
start = workers._CONTEXT.Process.start
def interrupted(self):
    start(self)
    os.kill(self.pid, signal.SIGINT)
workers._CONTEXT.Process.start = interrupted
from pathlib import Path
from patchad.read.read import find_images
from patchad.prepare.workers import read_ahead, How, Ready
from patchad.prepare.frames import every_frame
if __name__ == "__main__":
    print(len(every_frame(find_images([Path(sys.argv[1])]))))
"""
    (tmp_path / "script.py").write_text(code)
    search = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run(
        [sys.executable, str(tmp_path / "script.py"), str(films)],
        env={**os.environ, "PYTHONPATH": search},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.stdout, done.stderr) == ("3\n", "")
