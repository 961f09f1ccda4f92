"""Images read and prepared in separate processes.

A decoder that crashes, hangs or panics on a file ends its process, not the run: the file becomes a
:class:`Fault`, and the next one gets a new process. Output of decoders is dropped, since it may
quote the file.
"""

import multiprocessing
import os
import queue
import signal
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from typing import Any, Generic, Literal, Protocol, TypeAlias, TypeVar

from patchad.core.image import Radiograph
from patchad.errors import ImageError, NotARadiographError, RequestError
from patchad.files.request import content_of
from patchad.prepare.preprocess import Prepared, Preprocessing, prepare
from patchad.read.caps import MAX_PIXELS, bounded
from patchad.read.dicom_identity import identity_of
from patchad.read.manifest import ManifestRow
from patchad.read.read import read_entry

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

# New processes import no torch; forking would copy the parent's threads and memory.
_CONTEXT = multiprocessing.get_context("spawn")
_START = 120.0  # seconds that a process may take to start
_DYING = 5.0  # seconds that a crashed process, or its thread here, may take to end


@dataclass(frozen=True)
class Limits:
    """Caps for a file. They don't change the result of a file within them."""

    max_pixels: int = MAX_PIXELS  # rows × columns, checked before memory is allocated
    seconds: float = 120.0  # for reading and preparing one image

    def __post_init__(self) -> None:
        if self.max_pixels < 1:
            raise RequestError(f"--max-pixels is 1 or more, got {self.max_pixels}")
        if not 0 < self.seconds < threading.TIMEOUT_MAX:
            raise RequestError(f"--timeout is a positive number of seconds, got {self.seconds:g}")


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True)
class How:
    """How the images of a run are read and prepared.

    With a ``secret``, DICOM files of rows without a patient get their hashed identity.
    """

    preprocessing: Preprocessing
    spacing_mm: tuple[float, float] | None = None
    limits: Limits = DEFAULT_LIMITS
    secret: bytes = b""

    def __call__(self, entry: ManifestRow) -> "Ready | Fault":
        """Read and prepare one image."""
        return _read(entry, self)


class Task(Protocol[T_co]):
    """The work of a process on each image; it is pickled, so it holds only values."""

    @property
    def limits(self) -> Limits:
        """The caps for one image."""

    def __call__(self, entry: ManifestRow) -> "T_co | Fault":
        """The result of one image."""


@dataclass(frozen=True)
class Fault:
    """Why an image gave no result. ``trace`` is where a bug of patchad raised, without values.

    ``content`` is the SHA-256 of the file, empty if it could not be read.
    """

    status: Literal["failed", "skipped"]
    reason: str
    trace: str = ""
    content: str = ""


@dataclass(frozen=True, eq=False)
class Ready:
    """An image ready to be scored, the seconds it took, and the SHA-256 of its file.

    The file is hashed before it is read, so a file that changes meanwhile doesn't match its digest.
    ``identity`` is that of :func:`patchad.read.dicom_identity.identity_of`, if requested.
    """

    radiograph: Radiograph
    prepared: Prepared
    seconds: float
    content: str = ""
    identity: Mapping[str, str] = field(default_factory=dict)


def fault_of(error: BaseException) -> Fault:
    """The fault of an image whose reading raised ``error``."""
    if isinstance(error, NotARadiographError):
        return Fault("skipped", str(error))
    if isinstance(error, ImageError):
        return Fault("failed", str(error))
    if isinstance(error, MemoryError):
        return Fault("failed", "not enough memory for this image: screen it alone, or shrink it")
    # The text of a library's error may quote the file's content, and so the patient.
    name = type(error).__name__
    trace = "".join(traceback.format_tb(error.__traceback__)) + name
    return Fault("failed", f"unexpected {name}: run with -v and report it to patchad", trace)


Ahead: TypeAlias = Callable[
    [Sequence[ManifestRow]], Generator[tuple[ManifestRow, Ready | Fault], None, None]
]


Readers: TypeAlias = Callable[["How"], AbstractContextManager[Ahead]]  # as :func:`readers`


def read_ahead(
    entries: Sequence[ManifestRow], task: Task[T], *, processes: int = 2
) -> Generator[tuple[ManifestRow, T | Fault], None, None]:
    """Each image with its result, in order; ``processes`` images are read ahead of the caller.

    Raises:
        RequestError: no process can be started.
    """
    with readers(task, processes=processes) as ahead:
        yield from ahead(entries)


@contextmanager
def readers(
    task: Task[T], *, processes: int = 2
) -> Iterator[
    Callable[[Sequence[ManifestRow]], Generator[tuple[ManifestRow, T | Fault], None, None]]
]:
    """A function that reads images like :func:`read_ahead`, reusing the same processes.

    When the block ends, in any way, the processes are killed at once.
    """
    pool = _Pool(task, processes)

    def ahead(
        entries: Sequence[ManifestRow],
    ) -> Generator[tuple[ManifestRow, T | Fault], None, None]:
        pending = [pool.submit(entry) for entry in entries[:processes]]
        for number, entry in enumerate(entries):
            yield entry, pending.pop(0).result()
            pending += [pool.submit(later) for later in entries[number + processes :][:1]]

    try:
        yield ahead
    finally:
        pool.end()


def read_one(entry: ManifestRow, how: How) -> Ready:
    """One image, read in a new process.

    Raises:
        ImageError: it gave no result, or crashed or hung the process.
        RequestError: no process can be started.
    """
    ((_, read),) = read_ahead([entry], how, processes=1)
    return required(read)


def required(read: Ready | Fault) -> Ready:
    """The image; an ImageError with the reason if there is none."""
    if isinstance(read, Ready):
        return read
    raise (NotARadiographError if read.status == "skipped" else ImageError)(read.reason)


class _Pool(Generic[T]):
    """A few processes that run ``task``, started when needed.

    A thread waits for each answer, so that the caller can be interrupted meanwhile. The threads are
    daemons, so that none of them keeps the interpreter from ending.
    """

    def __init__(self, task: Task[T], processes: int) -> None:
        self._task = task
        self._idle: queue.SimpleQueue[_Process | None] = queue.SimpleQueue()
        for _ in range(processes):
            self._idle.put(None)
        self._lock, self._ended = threading.Lock(), False
        self._started: set[_Process] = set()  # those to end
        self._threads: list[threading.Thread] = []

    def submit(self, entry: ManifestRow) -> "Future[T | Fault]":
        """The future result of an image. At most one may be open per process."""
        future: Future[T | Fault] = Future()
        thread = threading.Thread(target=self._answer, args=(entry, future), daemon=True)
        self._threads = [t for t in self._threads if t.is_alive()] + [thread]
        thread.start()
        return future

    def _answer(self, entry: ManifestRow, future: "Future[T | Fault]") -> None:
        process = self._idle.get()
        try:
            if process is None or not process.alive:
                if process is not None:
                    self._started.discard(process)
                process = None
                process = self._start()
            future.set_result(process.read(entry, self._task.limits.seconds))
        except BaseException as error:
            future.set_exception(error)
        finally:
            self._idle.put(process)

    def _start(self) -> "_Process":
        with self._lock:
            if self._ended:
                raise RequestError("reading was stopped")
            process = _Process(self._task)
            self._started.add(process)
        process.wait()
        return process

    def end(self) -> None:
        """Kill the processes, busy or not."""
        with self._lock:
            self._ended = True
        for process in self._started:
            process.kill()
        for thread in self._threads:
            thread.join(_DYING)
        for process in self._started:
            process.end()


class _Process:
    """A process that runs a task, one image at a time."""

    def __init__(self, task: Task[Any]) -> None:
        self._link, there = _CONTEXT.Pipe()
        self._process = _CONTEXT.Process(target=_serve, args=(there, task), daemon=True)
        with _uninterrupted():
            self._process.start()
        there.close()

    def wait(self) -> None:
        """Wait until it is ready.

        Raises:
            RequestError: it did not start.
        """
        try:
            started = self._link.poll(_START) and self._link.recv()
        except (EOFError, OSError):
            started = False
        if not started:
            self.end()
            raise RequestError(
                "the process that reads images did not start: in your own script, call "
                "patchad below `if __name__ == '__main__':`, and keep the script in a file"
            )

    def read(self, entry: ManifestRow, seconds: float) -> Any:
        """The result of an image; a process that died of it is no longer alive."""
        overtime = threading.Event()

        def end() -> None:
            overtime.set()
            self._process.kill()

        timer = threading.Timer(seconds, end)
        timer.daemon = True
        timer.start()
        answer: Any = None
        try:
            self._link.send(entry)
            answer = self._link.recv()
        except (EOFError, OSError):
            self._process.join(_DYING)  # on its own, perhaps while it answered
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

    def kill(self) -> None:
        """Kill it at once; a caller that waits for its answer gets none."""
        self._process.kill()

    def end(self) -> None:
        """Kill it, and wait until it is gone."""
        self._process.kill()
        self._process.join()
        self._link.close()


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Processes started here never get Ctrl-C, not even before they can ignore it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # its start would unblock the signals again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(link: Connection, task: Task[Any]) -> None:
    """The loop of a process: its task, image by image, until the other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    threading.Thread(target=_end_with_parent, daemon=True).start()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    link.send(True)
    while True:
        try:
            entry = link.recv()
        except EOFError:
            return
        if hasattr(signal, "setitimer"):
            # The parent kills it by then. If the parent is gone, and a decoder keeps the thread
            # that would notice from running, the system ends it.
            signal.setitimer(signal.ITIMER_REAL, task.limits.seconds + _DYING)
        link.send(task(entry))


def _end_with_parent() -> None:
    """Wait until the parent process ends, in any way; then end this one."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _read(entry: ManifestRow, how: How) -> Ready | Fault:
    start = time.monotonic()
    content = content_of(entry.path)
    try:
        with bounded(how.limits.max_pixels):
            radiograph = read_entry(
                entry,
                how.spacing_mm,
                voi=how.preprocessing.voi,
                bits=how.preprocessing.bits,
                max_pixels=how.limits.max_pixels,
            )
        prepared = prepare(radiograph, how.preprocessing)
        identity = {}
        if how.secret and not entry.patient_id:
            # hashed in this process, so that identifiers don't leave it
            identity = identity_of(entry.path, how.secret, max_pixels=how.limits.max_pixels)
    except Exception as error:  # an error of one file must not end the process
        return replace(fault_of(error), content=content)
    return Ready(radiograph, prepared, time.monotonic() - start, content, identity)
