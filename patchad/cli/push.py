"""The command `patchad push`."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from patchad.cli.checks import check_run
from patchad.cli.console import exit_if_failed, print_result, reporting


def push(
    run: Annotated[Path, typer.Argument(help="A run folder, from patchad screen.")],
    to: Annotated[
        str,
        typer.Option(metavar="AET@HOST:PORT|URL", help="C-STORE, or https://…/dicom-web: STOW-RS."),
    ],
) -> None:
    """Send a run's DICOM objects to a PACS; accepted objects are not sent again."""
    with reporting() as progress:
        check_run(run)
        from patchad.commands.push import once
        from patchad.commands.push import push as push_run

        pushed = push_run(run, to, progress=progress)
        print_result(
            asdict(pushed),
            [
                f"{pushed.accepted} accepted by {pushed.to}, {len(pushed.failed)} not, "
                f"{pushed.before} accepted before",
                *pushed.notes,
            ],
        )
    exit_if_failed(once(pushed.failed))
