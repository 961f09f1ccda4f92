"""The command that lists images, and what is looked at in tables before torch is loaded."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from patchad.arguments import MAX_PIXELS, MaxPixels, Overwrite, Timeout
from patchad.console import finish, spoken, tell


def manifest(
    folder: Annotated[Path, typer.Argument(help="A folder of images, searched through.")],
    out: Annotated[Path, typer.Option(help="The CSV file to write.")] = Path("manifest.csv"),
    salt: Annotated[
        str | None,
        typer.Option(
            envvar="PATCHAD_SALT",
            help="For the same pseudonyms again; by default a random one, kept nowhere.",
        ),
    ] = None,
    max_pixels: MaxPixels = MAX_PIXELS,
    timeout: Timeout = 120.0,
    overwrite: Overwrite = False,
) -> None:
    """Write a first manifest from headers and folder names, to be filled in."""
    with spoken() as progress:
        from patchad.io.workers import Limits
        from patchad.verbs.manifest import list_images

        listed = list_images(
            folder,
            out,
            salt=salt,
            limits=Limits(max_pixels, timeout),
            overwrite=overwrite,
            progress=progress,
        )
        labels = ", ".join(f"{count} {label}" for label, count in listed.labels.items())
        tell(
            asdict(listed),
            [
                f"{listed.images} images of {listed.patients} patients ({labels}), "
                f"{len(listed.failed)} failed, {len(listed.skipped)} skipped",
                *listed.notes,
                f"manifest: {out}",
            ],
        )
    finish(listed.failed)


def check_listed(inputs: Sequence[Path]) -> None:
    """Refuse manifests that can't be read, or name no image that is there.

    Nothing that takes seconds to load is needed for it.

    Raises:
        RequestError: says what is wrong with the first.
    """
    from patchad.io.manifest import is_manifest
    from patchad.io.read import find_images

    for path in inputs:
        if is_manifest(path) and path.is_file():
            find_images([path])
