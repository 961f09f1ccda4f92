"""The command `patchad inspect`."""

from pathlib import Path
from typing import Annotated

import typer

from patchad.cli.checks import check_inspected
from patchad.cli.console import as_lines, print_result, reporting
from patchad.cli.options import (
    MAX_PIXELS,
    VOIS,
    Bits,
    MaxPixels,
    Spacing,
    Timeout,
    Voi,
    require_one_of,
    spacing_of,
)


def inspect(
    path: Annotated[Path, typer.Argument(help="An image, or a model folder.")],
    body_part: Annotated[str, typer.Option(help="breast or chest.")] = "breast",
    spacing: Spacing = None,
    voi: Voi = "auto",
    bits: Bits = None,
    max_pixels: MaxPixels = MAX_PIXELS,
    timeout: Timeout = 120.0,
) -> None:
    """Show what patchad reads from an image, or a model's card."""
    with reporting():
        require_one_of("--voi", voi, VOIS)
        require_one_of("--body-part", body_part, ("breast", "chest"))
        check_inspected(path)
        from patchad.commands.inspect import inspect as inspect_path
        from patchad.prepare.workers import Limits

        found = inspect_path(
            path,
            body_part=body_part,
            spacing_mm=spacing_of(spacing),
            voi=voi,  # type: ignore[arg-type]
            bits=bits,
            limits=Limits(max_pixels, timeout),
        )
        print_result(found, as_lines(found))
