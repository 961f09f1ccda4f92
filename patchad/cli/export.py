"""The command `patchad export`."""

from pathlib import Path
from typing import Annotated

import typer

from patchad.cli.checks import check_run
from patchad.cli.console import exit_if_failed, print_result, reporting
from patchad.cli.options import Deidentify, InventGeometry, Write, kinds_of


def export(
    run: Annotated[Path, typer.Argument(help="A run folder, from patchad screen.")],
    write: Write,
    deidentify: Deidentify = False,
    invent_geometry: InventGeometry = False,
) -> None:
    """Write pictures and reports from a run's stored scores, without inference."""
    with reporting() as progress:
        kinds = kinds_of(write)
        check_run(run)
        from patchad.commands.export import export as export_run

        exported = export_run(
            run, kinds, deidentify=deidentify, invent_geometry=invent_geometry, progress=progress
        )
        print_result(
            {"written": exported.written, "failed": [list(fault) for fault in exported.failed]},
            [f"{', '.join(kinds)} written to {run}"],
        )
    exit_if_failed(exported.failed)
