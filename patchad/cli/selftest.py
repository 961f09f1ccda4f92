"""The command `patchad selftest`."""

from pathlib import Path
from typing import Annotated

import typer

from patchad.cli.checks import check_device, check_inputs, check_model
from patchad.cli.console import exit_if_failed, print_result, reporting
from patchad.cli.options import (
    MAX_PIXELS,
    Bits,
    Device,
    MaxPixels,
    Overwrite,
    Spacing,
    Timeout,
    spacing_of,
)


def selftest(
    model: Annotated[Path, typer.Argument(help="Folder of a trained model.")],
    on: Annotated[Path, typer.Option("--on", help="A manifest, or a folder of negatives.")],
    out: Annotated[Path, typer.Option(help="Where to write.")] = Path("selftest"),
    images: Annotated[int, typer.Option(min=1, help="How many negatives to draw.")] = 20,
    seed: Annotated[int, typer.Option(min=0, help="Of images, lesions and places.")] = 0,
    device: Device = "auto",
    spacing: Spacing = None,
    bits: Bits = None,
    max_pixels: MaxPixels = MAX_PIXELS,
    timeout: Timeout = 120.0,
    overwrite: Overwrite = False,
) -> None:
    """Draw lesions into your own negatives: how small and faint a lesion does a model find?"""
    with reporting() as progress:
        given = spacing_of(spacing)
        check_device(device)
        check_inputs([on])
        check_model(model)
        from patchad.commands.selftest import selftest as test_model
        from patchad.commands.selftest_words import summary
        from patchad.device import choose_device
        from patchad.prepare.workers import Limits

        result = test_model(
            model,
            on,
            out,
            images=images,
            seed=seed,
            device=choose_device(device),
            spacing_mm=given,
            bits=bits,
            limits=Limits(max_pixels, timeout),
            overwrite=overwrite,
            progress=progress,
        )
        print_result(result, [*summary(result), f"results: {out}"])
    exit_if_failed([(path, reason) for path, reason in result["failed"]])
