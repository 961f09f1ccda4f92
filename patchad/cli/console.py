"""What the command line prints: progress, results and errors; and its exit codes."""

import json
import logging
import math
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, is_dataclass
from functools import wraps
from inspect import Parameter, signature
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from patchad.errors import PatchadError
from patchad.files.whole import shown
from patchad.progress import Progress

# Exit codes, promised to users: some inputs failed; the request is wrong; stopped by Ctrl-C; and,
# as a shell reports SIGPIPE, the reader closed the output.
SOME_FAILED, REFUSED, INTERRUPTED, UNREAD = 1, 2, 130, 141

Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Warnings and errors only.")]
Verbose = Annotated[bool, typer.Option("-v", "--verbose", help="Print more.")]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print the result as JSON; logs go to standard error.")
]
_OPTIONS = {"quiet": Quiet, "verbose": Verbose, "as_json": AsJson}

_PACKAGE = Path(__file__).parents[1]


@dataclass
class Output:
    """How much is printed, and whether as JSON; set for each command.

    ``printed``: whether a result was printed. ``command`` is the whole command line.
    """

    quiet: bool = False
    verbose: bool = False
    json: bool = False
    printed: bool = False
    command: tuple[str, ...] = ()

    def begin(self, arguments: Sequence[str]) -> None:
        """Reset for a command. ``--json`` is found first, so that any error can be JSON too."""
        options = arguments[: arguments.index("--")] if "--" in arguments else arguments
        self.quiet = self.verbose = self.printed = False
        self.json, self.command = "--json" in options, ("patchad", *arguments)

    def add(self, *, quiet: bool, verbose: bool, as_json: bool) -> None:
        """Apply options given before or after the command's name."""
        self.quiet, self.verbose = self.quiet or quiet, self.verbose or verbose
        self.json = self.json or as_json
        level = logging.WARNING if self.quiet else logging.INFO
        logging.getLogger("patchad").setLevel(logging.DEBUG if self.verbose else level)


log = logging.getLogger(__name__)
output = Output()
err = Console(stderr=True, highlight=False, soft_wrap=True)


def with_output_options(command: Callable[..., None]) -> Callable[..., None]:
    """``command`` with ``--json``, ``-q`` and ``-v`` after its name too."""

    @wraps(command)
    def run(*, quiet: bool, verbose: bool, as_json: bool, **asked: Any) -> None:
        output.add(quiet=quiet, verbose=verbose, as_json=as_json)
        command(**asked)

    own = signature(command)
    more = [
        Parameter(name, Parameter.KEYWORD_ONLY, default=False, annotation=kind)
        for name, kind in _OPTIONS.items()
    ]
    run.__signature__ = own.replace(parameters=[*own.parameters.values(), *more])  # type: ignore[attr-defined]
    run.__annotations__ = {**command.__annotations__, **_OPTIONS}
    return run


@contextmanager
def reporting(*, resumes: bool = False) -> Iterator[Progress]:
    """Gives the progress bar of a command; turns errors into messages and exit codes.

    ``resumes``: the command continues with ``--resume`` where it was stopped.
    """
    try:
        with _progress() as progress:
            yield progress
    except typer.Exit:
        raise
    except PatchadError as error:
        print_error(str(error))
        raise typer.Exit(REFUSED) from None
    except OSError as error:
        log.debug("the way to the fault", exc_info=error)
        if error.strerror is None:
            print_error(f"the system refused ({type(error).__name__}{_place(error)})")
        else:
            where = shown(error.filename) if isinstance(error.filename, str) else "a file"
            print_error(
                f"{where} cannot be used ({error.strerror}): check who may read and write it, and "
                "whether the disk is full"
            )
        raise typer.Exit(REFUSED) from None
    except Exception as error:
        # its place, not its text, which may quote a header and so the patient
        log.debug("the way to the fault:\n%s", "".join(traceback.format_tb(error.__traceback__)))
        print_error(
            f"unexpected {type(error).__name__}{_place(error)}",
            "This is a fault of patchad: please report it with -v.",
        )
        raise typer.Exit(REFUSED) from None
    except KeyboardInterrupt:
        print_error(
            "stopped; continue with the same command and --resume" if resumes else "stopped"
        )
        raise typer.Exit(INTERRUPTED) from None


def _place(error: BaseException) -> str:
    """The last line of patchad in an error's traceback."""
    steps = traceback.extract_tb(error.__traceback__)
    own = [step for step in steps if Path(step.filename).is_relative_to(_PACKAGE)]
    if not own:
        return ""
    return f" at {Path(own[-1].filename).relative_to(_PACKAGE.parent)}:{own[-1].lineno}"


def print_error(why: str, hint: str = "") -> None:
    """Report why a command failed: on standard error, and as JSON if requested."""
    err.print("\n".join([f"patchad: {why}", *filter(None, [hint])]), markup=False)
    if output.json and not output.printed:
        _print(json.dumps({"error": why}, indent=2))


@contextmanager
def _progress() -> Iterator[Progress]:
    """A bar on a terminal; elsewhere a plain line at each tenth."""
    if output.quiet:
        yield lambda stage, done, total, value: None
    elif err.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        with Bar(*columns, TimeRemainingColumn(), console=err, transient=True) as bar:
            tasks: dict[str, Any] = {}

            def show(stage: str, done: int, total: int, value: float) -> None:
                if stage not in tasks:
                    tasks[stage] = bar.add_task(stage, total=total)
                bar.update(tasks[stage], completed=done, description=_labelled(stage, value))

            yield show
    else:

        def line(stage: str, done: int, total: int, value: float) -> None:
            if done == total or done * 10 // total > (done - 1) * 10 // total:
                err.print(f"{_labelled(stage, value)} {done}/{total}", markup=False)

        yield line


def _labelled(stage: str, value: float) -> str:
    return stage if value != value else f"{stage} ({value:.5g})"


def print_result(result: Mapping[str, Any], lines: Sequence[str]) -> None:
    """Print a command's result: as JSON if requested, else in words."""
    if output.json:
        _print(json.dumps(_plain(result), indent=2, allow_nan=False))
    else:
        _print("\n".join(lines))


def _print(text: str) -> None:
    """Print at once; end silently if the output was closed (``| head``)."""
    output.printed = True
    try:
        print(text, flush=True)
    except BrokenPipeError:
        close_output()
        raise typer.Exit(UNREAD) from None


def close_output() -> None:
    """Discard the remaining output, or Python would complain on exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # not every stream is a file
            os.dup2(nowhere, stream.fileno())


def _plain(value: Any) -> Any:
    """``value`` in a form for JSON: what is not finite is null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(part) for part in value]
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    return _plain(value.tolist()) if hasattr(value, "tolist") else str(value)  # NumPy's, paths


def exit_if_failed(failed: Sequence[tuple[str, str]]) -> None:
    """Print the failures, and exit with their code."""
    for path, reason in failed[:10]:
        err.print(f"failed: {path}: {reason}", markup=False)
    if len(failed) > 10:
        err.print(f"… and {len(failed) - 10} more, each with its reason", markup=False)
    if failed:
        raise typer.Exit(SOME_FAILED)


def as_lines(content: Mapping[str, Any], indent: str = "") -> list[str]:
    """A nested result as indented lines, long lists shortened."""
    lines = []
    for key, value in content.items():
        if isinstance(value, Mapping):
            lines += [f"{indent}{key}:", *as_lines(value, indent + "  ")]
        elif isinstance(value, list | tuple) and len(value) > 12:
            lines.append(f"{indent}{key}: {value[0]} … {value[-1]} ({len(value)} values)")
        elif isinstance(value, list | tuple):
            lines.append(f"{indent}{key}: {', '.join(map(str, value)) or 'none'}")
        else:
            lines.append(f"{indent}{key}: {'unknown' if value is None else value}")
    return lines
