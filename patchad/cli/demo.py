"""The command `patchad demo`."""

from pathlib import Path
from typing import Annotated

import typer

from patchad.cli.checks import check_device
from patchad.cli.console import print_result, reporting
from patchad.cli.options import Device, Overwrite


def demo(
    out: Annotated[Path, typer.Option(help="Where to put everything.")] = Path("demo"),
    seed: Annotated[int, typer.Option(min=0, help="Seed of the phantoms and the training.")] = 0,
    device: Device = "auto",
    overwrite: Overwrite = False,
) -> None:
    """The whole way on phantoms made here: train, screen, evaluate, export."""
    with reporting() as progress:
        check_device(device)
        from patchad.commands.demo import demo as run_demo
        from patchad.device import choose_device

        shown = run_demo(
            out,
            seed=seed,
            device=choose_device(device),
            overwrite=overwrite,
            progress=progress,
        )
        print_result(shown.evaluations, shown.lines())
