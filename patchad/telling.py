"""How the command line tells of work that goes on, and of its results."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from patchad.progress import Progress


@contextmanager
def shown_progress(err: Console, *, quiet: bool) -> Iterator[Progress]:
    """A bar on a terminal; elsewhere a plain line at each tenth of the way."""
    if quiet:
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


def as_lines(content: Mapping[str, Any], indent: str = "") -> list[str]:
    """A result in words, a line a value."""
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
