"""The command `patchad manifest`."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from patchad.cli.checks import check_inputs
from patchad.cli.console import exit_if_failed, print_result, reporting
from patchad.cli.options import MAX_PIXELS, MaxPixels, Overwrite, Timeout


def manifest(
    folder: Annotated[Path, typer.Argument(help="A folder of images, searched recursively.")],
    out: Annotated[Path, typer.Option(help="The CSV file to write.")] = Path("manifest.csv"),
    salt: Annotated[
        str | None,
        typer.Option(
            envvar="PATCHAD_SALT",
            help="For the same pseudonyms again; by default a random one, not stored.",
        ),
    ] = None,
    max_pixels: MaxPixels = MAX_PIXELS,
    timeout: Timeout = 120.0,
    overwrite: Overwrite = False,
) -> None:
    """Write a first manifest from headers and folder names, to be completed."""
    with reporting() as progress:
        check_inputs([folder])
        from patchad.commands.manifest import list_images
        from patchad.prepare.workers import Limits

        listed = list_images(
            folder,
            out,
            salt=salt,
            limits=Limits(max_pixels, timeout),
            overwrite=overwrite,
            progress=progress,
        )
        labels = ", ".join(f"{count} {label}" for label, count in listed.labels.items())
        print_result(
            asdict(listed),
            [
                f"{listed.images} images of {listed.patients} patients ({labels}), "
                f"{len(listed.failed)} failed, {len(listed.skipped)} skipped",
                *listed.notes,
                f"manifest: {out}",
            ],
        )
    exit_if_failed(listed.failed)
