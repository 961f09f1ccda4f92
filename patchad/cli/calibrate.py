"""The command `patchad calibrate`."""

from pathlib import Path
from typing import Annotated

import typer

from patchad.cli.checks import check_device, check_inputs, check_model
from patchad.cli.console import exit_if_failed, print_result, reporting
from patchad.cli.options import (
    MAX_PIXELS,
    AllowMismatch,
    Device,
    MaxPixels,
    Overwrite,
    Spacing,
    Timeout,
    spacing_of,
)


def calibrate(
    model: Annotated[Path, typer.Argument(help="Folder of a trained model; it is not changed.")],
    on: Annotated[Path, typer.Option("--on", help="A manifest, or a folder of negatives.")],
    out: Annotated[Path, typer.Option(help="The model folder to write.")],
    device: Device = "auto",
    spacing: Spacing = None,
    allow_mismatch: AllowMismatch = False,
    max_pixels: MaxPixels = MAX_PIXELS,
    timeout: Timeout = 120.0,
    overwrite: Overwrite = False,
) -> None:
    """Calibrate a model on another site's negatives, without training."""
    with reporting() as progress:
        given = spacing_of(spacing)
        check_device(device)
        check_inputs([on])
        check_model(model)
        from patchad.commands.calibrate import told_of
        from patchad.commands.recalibrate import recalibrate
        from patchad.device import choose_device
        from patchad.model.card import card_as_dict
        from patchad.prepare.workers import Limits

        made = recalibrate(
            model,
            on,
            out,
            device=choose_device(device),
            spacing_mm=given,
            limits=Limits(max_pixels, timeout),
            allow_mismatch=allow_mismatch,
            overwrite=overwrite,
            progress=progress,
        )
        print_result(
            {**card_as_dict(made.card), "failed": made.failed},
            [
                *told_of(made.card),
                f"model: {out}",
                f"next: patchad screen IMAGES --model {out}",
            ],
        )
    exit_if_failed(made.failed)
