"""The command `patchad screen`."""

from pathlib import Path
from typing import Annotated

import typer

from patchad.cli.checks import check_device, check_inputs, check_model
from patchad.cli.console import exit_if_failed, output, print_result, reporting
from patchad.cli.options import (
    MAX_PIXELS,
    USUAL_KINDS,
    VOIS,
    AllowMismatch,
    Bits,
    Deidentify,
    Device,
    InventGeometry,
    MaxPixels,
    Model,
    ModelVoi,
    Overwrite,
    Resume,
    Spacing,
    Timeout,
    TwoBreasts,
    Write,
    kinds_of,
    require_one_of,
    spacing_of,
)


def screen(
    inputs: Annotated[
        list[Path], typer.Argument(metavar="INPUT…", help="Images, folders or manifests.")
    ],
    model: Model = Path("model"),
    out: Annotated[Path, typer.Option(help="The run folder to write.")] = Path("screening"),
    write: Write = USUAL_KINDS,
    stride: Annotated[
        int | None, typer.Option(help="Pixels between patches; the model's by default.")
    ] = None,
    device: Device = "auto",
    spacing: Spacing = None,
    allow_mismatch: AllowMismatch = False,
    voi: ModelVoi = None,
    bits: Bits = None,
    frames: Annotated[
        str, typer.Option(metavar="one|all", help="all: each frame of multi-frame images.")
    ] = "one",
    max_pixels: MaxPixels = MAX_PIXELS,
    timeout: Timeout = 120.0,
    deidentify: Deidentify = False,
    invent_geometry: InventGeometry = False,
    two_breasts: TwoBreasts = False,
    resume: Resume = False,
    overwrite: Overwrite = False,
) -> None:
    """Screen images with a trained model."""
    with reporting(resumes=True) as progress:
        kinds, given = kinds_of(write), spacing_of(spacing)
        if voi is not None:
            require_one_of("--voi", voi, VOIS)
        require_one_of("--frames", frames, ("one", "all"))
        check_device(device)
        check_inputs(inputs)
        check_model(model, stride)
        from patchad.commands.screen import screen_run
        from patchad.device import choose_device
        from patchad.engine.screener import ScreenOptions
        from patchad.prepare.workers import Limits
        from patchad.store.marks_table import run_in_words

        run = screen_run(
            inputs,
            model,
            out,
            ScreenOptions(
                kinds,
                stride,
                given,
                allow_mismatch,
                voi,  # type: ignore[arg-type]
                frames,  # type: ignore[arg-type]
                deidentify,
                invent_geometry,
                two_breasts,
                bits,
            ),
            device=choose_device(device),
            limits=Limits(max_pixels, timeout),
            resume=resume,
            overwrite=overwrite,
            command=output.command,
            progress=progress,
        )
        counts, flagged = run.settings["counts"], sum(bool(row.flagged) for row in run.rows)
        print_result(
            {"out": str(out), **run.settings, "flagged": flagged, "images": run.rows},
            [
                f"{counts['ok']} screened, {flagged} flagged, {counts['failed']} failed, "
                f"{counts['skipped']} skipped; {run_in_words(run)}",
                f"results: {out}" + (f", open {out / 'report.html'}" if "report" in kinds else ""),
            ],
        )
    exit_if_failed([(row.path, row.reason) for row in run.rows if row.status == "failed"])
