"""One configuration with one seed, trained and screened fold by fold in a process of its own.

So its peak memory is its own, and a crash or too little memory costs this configuration alone.
"""

import json
import logging
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from film_store import FilmStore
from folds import Fold
from pooled_run import Scale, pool_runs
from study import say

from patchad.commands.screen import screen_run
from patchad.commands.train import train
from patchad.engine.screener import ScreenOptions
from patchad.errors import PatchadError, RequestError
from patchad.files.whole import write_whole
from patchad.model.config import Config
from patchad.model.trained_on import among
from patchad.store.run import read_run

DONE = "done.json"
_PRELOADED = ["patchad.commands.train", "patchad.commands.screen"]
_PER_MIB = 1024 if sys.platform != "darwin" else 1024**2  # of ru_maxrss
log = logging.getLogger("study")


@dataclass(frozen=True)
class Task:
    """What a process does: ``folds`` of a seed with one configuration, in ``folder``."""

    name: str
    config: Config
    seed: int
    folds: tuple[Fold, ...]
    folder: Path
    films: FilmStore
    device: str

    @property
    def pooled(self) -> Path:
        """The run of all folds together."""
        return self.folder / "pooled"


@dataclass(frozen=True)
class Done:
    """What came of a task: ``reason`` says why it failed, empty if it didn't.

    ``training`` are seconds of each fold, ``training_cpu`` those of the CPU, ``image`` seconds an
    image to read, score and write, ``peak_mib`` the most memory of the process, ``fold_images`` the
    images of each fold, ``scored`` and ``images`` how many have a score, and how many there are.
    """

    reason: str = ""
    training: tuple[float, ...] = ()
    training_cpu: tuple[float, ...] = ()
    image: float = float("nan")
    peak_mib: float = float("nan")
    device_mib: float = 0.0
    scored: int = 0
    images: int = 0
    fold_images: tuple[tuple[str, ...], ...] = ()
    notes: tuple[str, ...] = ()


def run_task(task: Task) -> Done:
    """Do a task in a new process, unless it was done; a failure is a reason, never an error."""
    known = read_done(task.folder)
    if known is not None and not known.reason:
        return known
    (task.folder / DONE).unlink(missing_ok=True)
    # One server imports the libraries once; each process begins as a copy of it.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    process = context.Process(target=_work, args=(task,))
    process.start()
    process.join()
    done = read_done(task.folder)
    if done is not None:
        return done
    code = process.exitcode or 0
    how = f"died of {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    done = Done(reason=f"its process {how}: perhaps there was too little memory")
    _write(task.folder, done)
    return done


def require_same(tasks: Sequence[Task]) -> None:
    """Refuse to take over what was finished with another configuration of the same name.

    Raises:
        RequestError: a finished task had another.
    """
    for task in tasks:
        done = read_done(task.folder)
        if done is None or done.reason:
            continue
        then = _flat(read_run(task.pooled).settings["card"]["config"])
        now = _flat(json.loads(json.dumps(task.config.as_dict())))
        apart = [key for key in sorted({*then, *now}) if then.get(key) != now.get(key)]
        if apart:
            key = apart[0]
            raise RequestError(
                f"{task.name} of seed {task.seed} was finished with another configuration "
                f"({key}: {then.get(key)} then, {now.get(key)} now): give it another name, or "
                "choose another --out"
            )


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Tables as one, keys dotted."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def read_done(folder: Path) -> Done | None:
    """What came of the task in a folder; None if it has not ended."""
    try:
        content = json.loads((folder / DONE).read_text("utf-8"))
    except FileNotFoundError:
        return None
    content["fold_images"] = tuple(map(tuple, content["fold_images"]))
    return Done(**{k: tuple(v) if isinstance(v, list) else v for k, v in content.items()})


def _work(task: Task) -> None:
    """The process: every fold, then all of them pooled."""
    logging.basicConfig(format="%(message)s", level=logging.ERROR)  # warnings are in the cards
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        done = _all_folds(task)
    except PatchadError as error:
        done = Done(reason=str(error))
    except Exception as error:  # a fault of one method must not end the study
        write_whole(task.folder / "fault.txt", traceback.format_exc())
        done = Done(reason=f"unexpected {type(error).__name__}: {error}; see fault.txt")
    _write(task.folder, done)


def _end_with_parent() -> None:
    """Wait until the study ends, in any way; then end this process."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _all_folds(task: Task) -> Done:
    device = torch.device(task.device)
    runs, training, notes = [], [], []
    for number, fold in enumerate(task.folds, start=1):
        own = task.folder / f"fold{number}"
        told = say(f"{task.name}, seed {task.seed}, fold {number}")
        training.append(_train(task, fold, own, device))
        if not (own / "run" / "run.json").exists():  # which is written last
            screen_run(
                [fold.test],
                own / "model",
                own / "run",
                ScreenOptions(kinds=(), allow_mismatch=True),
                device=device,
                resume=True,
                read_with=task.films.readers,
                progress=told,
            )
        # Dense maps are always written, and would take hundreds of gigabytes.
        shutil.rmtree(own / "run" / "heatmaps", ignore_errors=True)
        run = read_run(own / "run")
        runs.append(run)
        card = run.settings["card"]
        notes += [f"fold {number}: {note}" for note in card["notes"]]
        digests = [row.digest for row in run.rows]
        seen = sum(among(card["data"]["trained_on"], digests))
        if seen:
            notes.append(f"fold {number}: {seen} judged images have the pixels of trained ones")
    if not (task.pooled / "run.json").exists():
        pool_runs(runs, task.pooled, [Scale.of_any(run) for run in runs])
    pooled = read_run(task.pooled)
    rows = [row for row in pooled.rows if row.score is not None]
    own_peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / _PER_MIB
    on_device = torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else 0.0
    return Done(
        training=tuple(wall for wall, _ in training),
        training_cpu=tuple(cpu for _, cpu in training),
        image=sum(row.seconds or 0.0 for row in rows) / max(len(rows), 1),
        peak_mib=round(own_peak, 1),
        device_mib=round(on_device, 1),
        scored=len(rows),
        images=len(pooled.rows),
        fold_images=tuple(tuple(row.path for row in run.rows) for run in runs),
        notes=tuple(notes),
    )


def _train(task: Task, fold: Fold, own: Path, device: torch.device) -> tuple[float, float]:
    """Train a fold's model; the seconds it took or had taken before, by the clock and of the CPU.

    Those of the CPU don't count processes that read new films.
    """
    clock = own / "training.json"
    if clock.exists() and (own / "model" / "card.json").exists():
        known = json.loads(clock.read_text("utf-8"))
        return float(known["seconds"]), float(known["cpu_seconds"])
    start, worked = time.monotonic(), time.process_time()
    train(
        fold.training,
        own / "model",
        task.config,
        device=device,
        seed=task.seed,
        resume=True,
        read_with=task.films.readers,
    )
    seconds = round(time.monotonic() - start, 2), round(time.process_time() - worked, 2)
    took = dict(zip(("seconds", "cpu_seconds"), seconds, strict=True))
    write_whole(clock, json.dumps(took) + "\n")
    return seconds


def _write(folder: Path, done: Done) -> None:
    write_whole(folder / DONE, json.dumps(asdict(done)) + "\n")


def failures(done: Sequence[Done]) -> str:
    """The reasons of the seeds that failed, each once."""
    return "; ".join(dict.fromkeys(one.reason for one in done if one.reason))
