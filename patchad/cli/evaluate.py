"""The command `patchad evaluate`."""

from pathlib import Path
from typing import Annotated

import typer

from patchad.cli.checks import check_device, check_run, check_table
from patchad.cli.console import print_result, reporting
from patchad.cli.options import Device


def evaluate(
    run: Annotated[Path, typer.Argument(help="A run folder, from patchad screen.")],
    truth: Annotated[Path, typer.Option(help="A manifest with labels.")],
    regions: Annotated[
        Path | None, typer.Option(help="Positions of lesions: boxes or masks, as CSV.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Output folder; evaluation/ in the run by default.")
    ] = None,
    only_screened: Annotated[
        bool,
        typer.Option(
            "--only-screened", help="Leave out rows of the truth without an image in the run."
        ),
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap.")] = 0,
    device: Device = "auto",
) -> None:
    """Measure a run against the truth: ROC, PR, FROC, with intervals by patient."""
    with reporting():
        check_device(device)
        check_run(run)
        check_table(truth, "a manifest with labels")
        if regions is not None:
            check_table(regions, "a table of regions")
        from patchad.commands.evaluate import evaluate as evaluate_run
        from patchad.commands.evaluate import summary
        from patchad.device import choose_device

        result = evaluate_run(
            run,
            truth,
            regions,
            out,
            only_screened=only_screened,
            seed=seed,
            device=choose_device(device),
        )
        print_result(result, [*summary(result), f"results: {out or run / 'evaluation'}"])
