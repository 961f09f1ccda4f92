"""The command `patchad compare`."""

from pathlib import Path
from typing import Annotated

import typer

from patchad.cli.checks import check_device, check_run, check_table
from patchad.cli.console import print_result, reporting
from patchad.cli.options import Device, Overwrite
from patchad.errors import RequestError


def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN…", help="Run folders, two or more; others are compared with the first."
        ),
    ],
    truth: Annotated[Path, typer.Option(help="A manifest with labels.")],
    regions: Annotated[
        Path | None, typer.Option(help="Positions of lesions: boxes or masks, as CSV.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Output folder.")] = Path("comparison"),
    only_common: Annotated[
        bool,
        typer.Option("--only-common", help="Leave out images that not every run has scored."),
    ] = False,
    overwrite: Overwrite = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap.")] = 0,
    device: Device = "auto",
) -> None:
    """Compare runs over the same images: one table, with differences paired by patient."""
    with reporting() as progress:
        check_device(device)
        for run in runs:
            check_run(run)
        if len(runs) < 2:
            raise RequestError("a comparison takes two runs or more: name another run folder")
        check_table(truth, "a manifest with labels")
        if regions is not None:
            check_table(regions, "a table of regions")
        from patchad.commands.compare import compare as compare_runs
        from patchad.commands.compare_words import summary
        from patchad.device import choose_device

        found = compare_runs(
            runs,
            truth,
            regions,
            out,
            only_common=only_common,
            overwrite=overwrite,
            seed=seed,
            device=choose_device(device),
            progress=progress,
        )
        print_result(found.result, [*summary(found.result), f"results: {out}"])
