"""The command line: a command is parse, one call, print, exit code."""

import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated

import typer

from patchad.arguments import (
    MAX_PIXELS,
    USUAL_KINDS,
    VOIS,
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
    Voi,
    Write,
)
from patchad.console import as_lines, finish, spoken, tell, voice
from patchad.errors import RequestError
from patchad.export import KINDS
from patchad.version import __version__

app = typer.Typer(
    name="patchad",
    help="One-class screening of mammograms and chest X-rays. Research use only: not a medical "
    "device.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def _options(
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Warnings and errors only.")] = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Say more.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON; logs go to standard error.")
    ] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    voice.quiet, voice.json = quiet, as_json
    level = logging.WARNING if quiet else logging.DEBUG if verbose else logging.INFO
    logging.basicConfig(format="%(message)s", stream=sys.stderr, level=logging.WARNING, force=True)
    logging.getLogger("patchad").setLevel(level)
    if version:
        print(__version__)
        raise typer.Exit


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Where to put everything.")] = Path("demo"),
    seed: Annotated[int, typer.Option(min=0, help="Decides the phantoms and the training.")] = 0,
    device: Device = "auto",
    overwrite: Overwrite = False,
) -> None:
    """The whole way on phantoms made here: train, screen, evaluate, export."""
    with spoken() as progress:
        from patchad.device import choose_device
        from patchad.verbs.demo import demo as run_demo

        shown = run_demo(
            out,
            seed=seed,
            device=choose_device(device),
            overwrite=overwrite,
            progress=progress,
        )
        tell(shown.evaluations, shown.lines())


@app.command()
def train(
    source: Annotated[Path, typer.Argument(help="A manifest, or a folder of negatives.")],
    model: Model = Path("model"),
    config: Annotated[
        list[str] | None,
        typer.Option(
            help="A packaged configuration or a TOML file; mammography and chest are recommended. "
            "Of several the best on unlabelled images is kept. Default: wei2018."
        ),
    ] = None,
    override: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a key, e.g. wei2018.epochs=5."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Decides split, patches and weights.")] = 0,
    device: Device = "auto",
    spacing: Spacing = None,
    voi: Annotated[
        str | None,
        typer.Option(metavar="|".join(VOIS), help="What scales the grey of DICOM files."),
    ] = None,
    max_pixels: MaxPixels = MAX_PIXELS,
    timeout: Timeout = 120.0,
    resume: Resume = False,
    overwrite: Overwrite = False,
) -> None:
    """Train a detector on negative images alone."""
    with spoken() as progress:
        overrides = [*(override or ())]
        if voi is not None:
            _one_of("--voi", voi, VOIS)
            overrides.append(f"preprocessing.voi={voi}")
        from patchad.config import read_config
        from patchad.detector import card_as_dict
        from patchad.device import choose_device
        from patchad.io.workers import Limits
        from patchad.verbs.select import train_best

        configs = {Path(name).stem: read_config(name, overrides) for name in config or ["wei2018"]}
        trained = train_best(
            source,
            model,
            configs,
            device=choose_device(device),
            seed=seed,
            spacing_mm=_spacing(spacing),
            limits=Limits(max_pixels, timeout),
            resume=resume,
            overwrite=overwrite,
            progress=progress,
        )
        data, calibration = trained.card.data, trained.card.calibrated
        tell(
            card_as_dict(trained.card),
            [
                f"{trained.card.method}: trained on {data.images} negative images of "
                f"{data.patients} patients, calibrated on {data.calibration_images}",
                *trained.card.notes,
                *calibration.statements,
                f"model: {model}",
                f"next: patchad screen IMAGES --model {model}",
            ],
        )
    finish(trained.failed)


@app.command()
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
    allow_mismatch: Annotated[
        bool,
        typer.Option(
            "--allow-mismatch", help="Screen images unlike the training images; recorded."
        ),
    ] = False,
    voi: ModelVoi = None,
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
    with spoken() as progress:
        kinds, given = _kinds(write), _spacing(spacing)
        if voi is not None:
            _one_of("--voi", voi, VOIS)
        _one_of("--frames", frames, ("one", "all"))
        from patchad.device import choose_device
        from patchad.export.marks_table import run_in_words
        from patchad.io.workers import Limits
        from patchad.verbs.screen import ScreenOptions
        from patchad.verbs.screen_run import screen_run

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
            {"out": str(out), **run.settings, "flagged": flagged},
            [
                f"{counts['ok']} screened, {flagged} flagged, {counts['failed']} failed, "
                f"{counts['skipped']} skipped; {run_in_words(run)}",
                f"results: {out}" + (f", open {out / 'report.html'}" if "report" in kinds else ""),
            ],
        )
    finish([(row.path, row.reason) for row in run.rows if row.status == "failed"])


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="A run folder, from patchad screen.")],
    truth: Annotated[Path, typer.Option(help="A manifest with labels.")],
    regions: Annotated[
        Path | None, typer.Option(help="Where the lesions are: boxes or masks, as CSV.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Where to write; evaluation/ in the run by default.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap.")] = 0,
    device: Device = "auto",
) -> None:
    """Measure a run against the truth: ROC, PR, FROC, with intervals by patient."""
    with spoken():
        from patchad.device import choose_device
        from patchad.verbs.evaluate import evaluate as evaluate_run
        from patchad.verbs.evaluate import summary

        result = evaluate_run(run, truth, regions, out, seed=seed, device=choose_device(device))
        tell(result, [*summary(result), f"results: {out or run / 'evaluation'}"])


@app.command()
def selftest(
    model: Annotated[Path, typer.Argument(help="Folder of a trained model.")],
    on: Annotated[Path, typer.Option("--on", help="A manifest, or a folder of negatives.")],
    out: Annotated[Path, typer.Option(help="Where to write.")] = Path("selftest"),
    images: Annotated[int, typer.Option(min=1, help="How many negatives to draw.")] = 20,
    seed: Annotated[int, typer.Option(min=0, help="Of images, lesions and places.")] = 0,
    device: Device = "auto",
    spacing: Spacing = None,
    overwrite: Overwrite = False,
) -> None:
    """Draw lesions into your own negatives: how small and how faint does a model find them?"""
    with spoken() as progress:
        from patchad.device import choose_device
        from patchad.verbs.selftest import selftest as test_model
        from patchad.verbs.selftest import summary

        result = test_model(
            model,
            on,
            out,
            images=images,
            seed=seed,
            device=choose_device(device),
            spacing_mm=_spacing(spacing),
            overwrite=overwrite,
            progress=progress,
        )
        tell(result, [*summary(result), f"results: {out}"])
    finish([(path, reason) for path, reason in result["failed"]])


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="A run folder, from patchad screen.")],
    write: Write,
    deidentify: Deidentify = False,
    invent_geometry: InventGeometry = False,
) -> None:
    """Write pictures and reports from a run's stored scores, without inference."""
    with spoken() as progress:
        kinds = _kinds(write)
        from patchad.verbs.export import export as export_run

        exported = export_run(
            run, kinds, deidentify=deidentify, invent_geometry=invent_geometry, progress=progress
        )
        tell(
            {"written": exported.written, "failed": [list(fault) for fault in exported.failed]},
            [f"{', '.join(kinds)} written to {run}"],
        )
    finish(exported.failed)


@app.command()
def push(
    run: Annotated[Path, typer.Argument(help="A run folder, from patchad screen.")],
    to: Annotated[
        str,
        typer.Option(metavar="AET@HOST:PORT|URL", help="C-STORE, or https://…/dicom-web: STOW-RS."),
    ],
) -> None:
    """Send a run's DICOM objects to a PACS; what it has accepted is not sent again."""
    with spoken() as progress:
        from patchad.verbs.push import push as push_run

        pushed = push_run(run, to, progress=progress)
        tell(
            asdict(pushed),
            [
                f"{pushed.accepted} accepted by {pushed.to}, {len(pushed.failed)} not, "
                f"{pushed.before} accepted before",
                *pushed.notes,
            ],
        )
    finish(pushed.failed)


@app.command()
def inspect(
    path: Annotated[Path, typer.Argument(help="An image, or a model folder.")],
    body_part: Annotated[str, typer.Option(help="breast or chest.")] = "breast",
    spacing: Spacing = None,
    voi: Voi = "auto",
    max_pixels: MaxPixels = MAX_PIXELS,
    timeout: Timeout = 120.0,
) -> None:
    """Show what patchad reads in an image, or a model's card."""
    with spoken():
        from patchad.io.workers import Limits
        from patchad.verbs.inspect import inspect as inspect_path

        _one_of("--voi", voi, VOIS)
        found = inspect_path(
            path,
            body_part=body_part,
            spacing_mm=_spacing(spacing),
            voi=voi,  # type: ignore[arg-type]
            limits=Limits(max_pixels, timeout),
        )
        tell(found, as_lines(found))


@app.command()
def methods() -> None:
    """The methods: their papers, what each needs and gives."""
    with spoken():
        from patchad.methods import about

        found = [asdict(method) for method in about()]
        tell(
            {"methods": found},
            [line for method in found for line in ("", *as_lines(method))][1:],
        )


def main() -> None:
    """Run the command line."""
    voice.command = ("patchad", *sys.argv[1:])
    if isinstance(sys.stdout, TextIOWrapper):  # a folder's name may be no UTF-8
        sys.stdout.reconfigure(errors="backslashreplace")
    app()


def _kinds(text: str) -> tuple[str, ...]:
    kinds = tuple(dict.fromkeys(kind.strip() for kind in text.split(",") if kind.strip()))
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds:
        raise RequestError(f"--write takes some of {','.join(KINDS)}; got {text!r}")
    return kinds


def _one_of(option: str, text: str, allowed: Sequence[str]) -> None:
    if text not in allowed:
        raise RequestError(f"{option} takes one of {', '.join(allowed)}; got {text!r}")


def _spacing(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        numbers = [float(part) for part in text.split(",")]
        row, col = numbers * 2 if len(numbers) == 1 else numbers
    except ValueError:
        row = col = -1.0
    if not (0 < row < float("inf") and 0 < col < float("inf")):
        raise RequestError(f"--spacing-mm is millimetres, one number or ROW,COL; got {text!r}")
    return row, col
