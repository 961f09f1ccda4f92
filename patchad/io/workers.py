"""Images read and prepared in processes of their own.

A decoder that crashes, hangs or panics on a file takes its process along, not the run: the file
becomes a :class:`Fault`, and the next one gets a new process. What decoders print goes nowhere,
since it may quote the file.
"""

import multiprocessing
import os
import queue
import signal
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import Literal, TypeAlias

from patchad.errors import ImageError, NotARadiographError, RequestError
from patchad.image import Radiograph
from patchad.io.manifest import ManifestRow
from patchad.io.raster import MAX_PIXELS
from patchad.io.read import read_entry
from patchad.io.request import content_of
from patchad.preprocess import Prepared, Preprocessing, prepare

# A process of its own would import no torch: forking would copy the parent's threads and memory.
_CONTEXT = multiprocessing.get_context("spawn")
_START = 120.0  # seconds that a process may take to import what it needs
_LAST, _DYING = 0.2, 5.0  # seconds for its last breath: when it is told to end, when it dies


@dataclass(frozen=True)
class Limits:
    """What a file may cost. Neither changes the result of a file that stays within."""

    max_pixels: int = MAX_PIXELS  # rows × columns, checked before memory is taken
    seconds: float = 120.0  # for reading and preparing one image

    def __post_init__(self) -> None:
        if self.max_pixels < 1:
            raise RequestError(f"--max-pixels is 1 or more, got {self.max_pixels}")
        if not 0 < self.seconds < threading.TIMEOUT_MAX:
            raise RequestError(f"--timeout is a positive number of seconds, got {self.seconds:g}")


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True)
class How:
    """How the images of a run are read and prepared."""

    preprocessing: Preprocessing
    spacing_mm: tuple[float, float] | None = None
    limits: Limits = DEFAULT_LIMITS


@dataclass(frozen=True)
class Fault:
    """Why an image gave no result. ``trace`` is where a fault of patchad arose, without values.

    ``content`` is the SHA-256 of the file, empty where it could not be read.
    """

    status: Literal["failed", "skipped"]
    reason: str
    trace: str = ""
    content: str = ""


@dataclass(frozen=True, eq=False)
class Ready:
    """An image ready to be scored, the seconds that it took, and the SHA-256 of its file.

    The file is hashed before it is read: one that changes meanwhile no longer fits its digest.
    """

    radiograph: Radiograph
    prepared: Prepared
    seconds: float
    content: str = ""


def fault_of(error: BaseException) -> Fault:
    """What is said of an image that gave ``error``."""
    if isinstance(error, NotARadiographError):
        return Fault("skipped", str(error))
    if isinstance(error, ImageError):
        return Fault("failed", str(error))
    if isinstance(error, MemoryError):
        return Fault("failed", "not enough memory for this image: screen it alone, or shrink it")
    # The text of a foreign error may quote the file's content, and with it the patient.
    name = type(error).__name__
    trace = "".join(traceback.format_tb(error.__traceback__)) + name
    return Fault("failed", f"unexpected {name}: run with -v and report it to patchad", trace)


Ahead: TypeAlias = Callable[
    [Sequence[ManifestRow]], Generator[tuple[ManifestRow, Ready | Fault], None, None]
]


def read_ahead(
    entries: Sequence[ManifestRow], how: How, *, processes: int = 2
) -> Generator[tuple[ManifestRow, Ready | Fault], None, None]:
    """Each image with what came of it, in order; ``processes`` are read ahead of the caller.

    Raises:
        RequestError: no process can be started.
    """
    with readers(how, processes=processes) as ahead:
        yield from ahead(entries)


@contextmanager
def readers(how: How, *, processes: int = 2) -> Iterator[Ahead]:
    """What reads images as :func:`read_ahead` does, again and again with the same processes."""
    with _readers(how, processes) as read, ThreadPoolExecutor(processes) as threads:

        def ahead(
            entries: Sequence[ManifestRow],
        ) -> Generator[tuple[ManifestRow, Ready | Fault], None, None]:
            pending = [threads.submit(read, entry) for entry in entries[:processes]]
            try:
                for number, entry in enumerate(entries):
                    yield entry, pending.pop(0).result()
                    following = entries[number + processes :][:1]
                    pending += [threads.submit(read, later) for later in following]
            finally:
                for future in pending:
                    future.cancel()

        yield ahead


def read_one(entry: ManifestRow, how: How) -> Ready:
    """One image, read in a process of its own.

    Raises:
        ImageError: it gave no result; what crashed or hung included.
        RequestError: no process can be started.
    """
    ((_, read),) = read_ahead([entry], how, processes=1)
    return required(read)


def required(read: Ready | Fault) -> Ready:
    """The image; an ImageError with its reason where there is none."""
    if isinstance(read, Ready):
        return read
    raise (NotARadiographError if read.status == "skipped" else ImageError)(read.reason)


class _Process:
    """A process that reads images, one at a time."""

    def __init__(self, how: How) -> None:
        self._link, there = _CONTEXT.Pipe()
        self._process = _CONTEXT.Process(target=_serve, args=(there, how), daemon=True)
        self._process.start()
        there.close()
        try:
            started = self._link.poll(_START) and self._link.recv()
        except (EOFError, OSError):
            started = False
        if not started:
            self.end()
            raise RequestError(
                "the process that reads images did not start: in a script of your own, call "
                "patchad below `if __name__ == '__main__':`, and keep the script in a file"
            )

    def read(self, entry: ManifestRow, seconds: float) -> Ready | Fault:
        """What came of an image; the process is no longer alive where it died of it."""
        overtime = threading.Event()

        def end() -> None:
            overtime.set()
            self._process.kill()

        timer = threading.Timer(seconds, end)
        timer.start()
        answer: Ready | Fault | None = None
        try:
            self._link.send(entry)
            answer = self._link.recv()
        except (EOFError, OSError):
            self._process.join(_DYING)  # of itself, perhaps while it answered
        except MemoryError as error:
            self.end()
            return fault_of(error)
        finally:
            timer.cancel()
            timer.join()
        if answer is None or overtime.is_set():
            self.end()
        return answer or self._death(seconds if overtime.is_set() else None)

    def _death(self, seconds: float | None) -> Fault:
        if seconds is not None:
            return Fault(
                "failed",
                f"reading it took more than {seconds:g} s: the file is damaged, or needs longer "
                "(--timeout)",
            )
        code = self._process.exitcode or 0
        how = f"died of {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        return Fault(
            "failed", f"the process that read it {how}: the file is damaged, or needs more memory"
        )

    @property
    def alive(self) -> bool:
        return not self._link.closed and self._process.is_alive()

    def end(self) -> None:
        self._link.close()  # upon which an idle one ends by itself
        self._process.join(_LAST)
        self._process.kill()
        self._process.join()


def _serve(link: Connection, how: How) -> None:
    """What a process does: read images until the other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one who asked
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    link.send(True)
    while True:
        try:
            entry = link.recv()
        except EOFError:
            return
        link.send(_read(entry, how))


def _read(entry: ManifestRow, how: How) -> Ready | Fault:
    start = time.monotonic()
    content = content_of(entry.path)
    try:
        radiograph = read_entry(
            entry,
            how.spacing_mm,
            voi=how.preprocessing.voi,
            max_pixels=how.limits.max_pixels,
        )
        prepared = prepare(radiograph, how.preprocessing)
    except Exception as error:  # whatever a decoder throws at one file stays with that file
        return replace(fault_of(error), content=content)
    return Ready(radiograph, prepared, time.monotonic() - start, content)


@contextmanager
def _readers(how: How, processes: int) -> Iterator[Callable[[ManifestRow], Ready | Fault]]:
    """A function that reads an image in one of a few processes, started as they are needed."""
    idle: queue.SimpleQueue[_Process | None] = queue.SimpleQueue()
    started: list[_Process] = []  # those that are to be ended
    for _ in range(processes):
        idle.put(None)

    def read(entry: ManifestRow) -> Ready | Fault:
        process = idle.get()
        try:
            if process is None or not process.alive:
                if process is not None:
                    started.remove(process)
                process = None
                process = _Process(how)
                started.append(process)
            return process.read(entry, how.limits.seconds)
        finally:
            idle.put(process)

    try:
        yield read
    finally:
        for process in started:
            process.end()
