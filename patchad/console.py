"""How the command line speaks: progress, results, errors and exit codes."""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from patchad.errors import PatchadError
from patchad.progress import Progress

# Exit codes, promised to users: some inputs failed; the request is wrong; stopped by Ctrl-C.
SOME_FAILED, REFUSED, INTERRUPTED = 1, 2, 130


@dataclass
class Voice:
    """How loud to be, whether results are told as JSON, and what was typed; set at the start."""

    quiet: bool = False
    json: bool = False
    command: tuple[str, ...] = ()


log = logging.getLogger(__name__)
voice = Voice()
err = Console(stderr=True, highlight=False, soft_wrap=True)


@contextmanager
def spoken() -> Iterator[Progress]:
    """Errors become messages and exit codes; gives the progress bar of a command."""
    try:
        with _progress() as progress:
            yield progress
    except PatchadError as error:
        err.print(f"patchad: {error}", markup=False)
        raise typer.Exit(REFUSED) from None
    except Exception as error:
        log.debug("the way to the fault", exc_info=error)
        said = f"patchad: unexpected {type(error).__name__}: {error}"
        err.print(f"{said}\nThis is a fault of patchad: please report it with -v.", markup=False)
        raise typer.Exit(REFUSED) from None
    except KeyboardInterrupt:
        err.print("patchad: stopped; go on with the same command and --resume", markup=False)
        raise typer.Exit(INTERRUPTED) from None


@contextmanager
def _progress() -> Iterator[Progress]:
    """A bar on a terminal; elsewhere a plain line at each tenth of the way."""
    if voice.quiet:
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

        def say(stage: str, done: int, total: int, value: float) -> None:
            if done == total or done * 10 // total > (done - 1) * 10 // total:
                err.print(f"{_labelled(stage, value)} {done}/{total}", markup=False)

        yield say


def _labelled(stage: str, value: float) -> str:
    return stage if value != value else f"{stage} ({value:.5g})"


def tell(result: Mapping[str, Any], lines: Sequence[str]) -> None:
    """Print a command's result: as JSON if that was asked for, else in words."""
    if voice.json:
        print(json.dumps(result, indent=2, default=str))
    else:
        print("\n".join(lines))


def finish(failed: Sequence[tuple[str, str]]) -> None:
    """Name what failed, and exit accordingly."""
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
