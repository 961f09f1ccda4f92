"""The commands that make a run of images, judge it, and hand it on."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from patchad.cli.checks import check_device, check_inputs, check_model, check_run, check_table
from patchad.cli.console import finish, spoken, tell, voice
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
    one_of,
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
    with spoken(resumes=True) as progress:
        kinds, given = kinds_of(write), spacing_of(spacing)
        if voi is not None:
            one_of("--voi", voi, VOIS)
        one_of("--frames", frames, ("one", "all"))
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
            command=voice.command,
            progress=progress,
        )
        counts, flagged = run.settings["counts"], sum(bool(row.flagged) for row in run.rows)
        tell(
            {"out": str(out), **run.settings, "flagged": flagged, "images": run.rows},
            [
                f"{counts['ok']} screened, {flagged} flagged, {counts['failed']} failed, "
                f"{counts['skipped']} skipped; {run_in_words(run)}",
                f"results: {out}" + (f", open {out / 'report.html'}" if "report" in kinds else ""),
            ],
        )
    finish([(row.path, row.reason) for row in run.rows if row.status == "failed"])


def evaluate(
    run: Annotated[Path, typer.Argument(help="A run folder, from patchad screen.")],
    truth: Annotated[Path, typer.Option(help="A manifest with labels.")],
    regions: Annotated[
        Path | None, typer.Option(help="Where the lesions are: boxes or masks, as CSV.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Where to write; evaluation/ in the run by default.")
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
    with spoken():
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
        tell(result, [*summary(result), f"results: {out or run / 'evaluation'}"])


def export(
    run: Annotated[Path, typer.Argument(help="A run folder, from patchad screen.")],
    write: Write,
    deidentify: Deidentify = False,
    invent_geometry: InventGeometry = False,
) -> None:
    """Write pictures and reports from a run's stored scores, without inference."""
    with spoken() as progress:
        kinds = kinds_of(write)
        check_run(run)
        from patchad.commands.export import export as export_run

        exported = export_run(
            run, kinds, deidentify=deidentify, invent_geometry=invent_geometry, progress=progress
        )
        tell(
            {"written": exported.written, "failed": [list(fault) for fault in exported.failed]},
            [f"{', '.join(kinds)} written to {run}"],
        )
    finish(exported.failed)


def push(
    run: Annotated[Path, typer.Argument(help="A run folder, from patchad screen.")],
    to: Annotated[
        str,
        typer.Option(metavar="AET@HOST:PORT|URL", help="C-STORE, or https://…/dicom-web: STOW-RS."),
    ],
) -> None:
    """Send a run's DICOM objects to a PACS; what it has accepted is not sent again."""
    with spoken() as progress:
        check_run(run)
        from patchad.commands.push import once
        from patchad.commands.push import push as push_run

        pushed = push_run(run, to, progress=progress)
        tell(
            asdict(pushed),
            [
                f"{pushed.accepted} accepted by {pushed.to}, {len(pushed.failed)} not, "
                f"{pushed.before} accepted before",
                *pushed.notes,
            ],
        )
    finish(once(pushed.failed))
