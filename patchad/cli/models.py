"""The commands that make a model, try it, or show what there is."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from patchad.cli.checks import check_device, check_inputs, check_inspected, check_model
from patchad.cli.console import as_lines, finish, spoken, tell
from patchad.cli.options import (
    MAX_PIXELS,
    VOIS,
    Bits,
    Config,
    Device,
    MaxPixels,
    Model,
    Overwrite,
    Resume,
    Spacing,
    Timeout,
    TrainVoi,
    Voi,
    one_of,
    spacing_of,
)
from patchad.model.configurations import DEFAULT


def demo(
    out: Annotated[Path, typer.Option(help="Where to put everything.")] = Path("demo"),
    seed: Annotated[int, typer.Option(min=0, help="Decides the phantoms and the training.")] = 0,
    device: Device = "auto",
    overwrite: Overwrite = False,
) -> None:
    """The whole way on phantoms made here: train, screen, evaluate, export."""
    with spoken() as progress:
        check_device(device)
        from patchad.commands.demo import demo as run_demo
        from patchad.device import choose_device

        shown = run_demo(
            out,
            seed=seed,
            device=choose_device(device),
            overwrite=overwrite,
            progress=progress,
        )
        tell(shown.evaluations, shown.lines())


def train(
    source: Annotated[Path, typer.Argument(help="A manifest, or a folder of negatives.")],
    model: Model = Path("model"),
    config: Config = None,
    override: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a key, e.g. wei2018.epochs=5."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Decides split, patches and weights.")] = 0,
    device: Device = "auto",
    spacing: Spacing = None,
    voi: TrainVoi = None,
    bits: Bits = None,
    max_pixels: MaxPixels = MAX_PIXELS,
    timeout: Timeout = 120.0,
    resume: Resume = False,
    overwrite: Overwrite = False,
) -> None:
    """Train a detector on negative images alone."""
    with spoken(resumes=True) as progress:
        overrides = [*(override or ())]
        if voi is not None:
            one_of("--voi", voi, VOIS)
            overrides.append(f"preprocessing.voi={voi}")
        if bits is not None:
            overrides.append(f"preprocessing.bits={bits}")
        names, given = config or [DEFAULT], spacing_of(spacing)
        check_device(device)
        check_inputs([source])
        from patchad.methods.configure import check_config, read_config

        for name in names:
            check_config(name, overrides)
        from patchad.commands.calibrate import told_of
        from patchad.commands.select import train_best
        from patchad.device import choose_device
        from patchad.model.card import card_as_dict
        from patchad.prepare.workers import Limits

        configs = {Path(name).stem: read_config(name, overrides) for name in names}
        trained = train_best(
            source,
            model,
            configs,
            device=choose_device(device),
            seed=seed,
            spacing_mm=given,
            limits=Limits(max_pixels, timeout),
            resume=resume,
            overwrite=overwrite,
            progress=progress,
        )
        data = trained.card.data
        tell(
            {**card_as_dict(trained.card), "failed": trained.failed},
            [
                f"{trained.card.method}: trained on {data.images} negative images of "
                f"{data.patients} patients",
                *trained.card.notes,
                *told_of(trained.card),
                f"model: {model}",
                f"next: patchad screen IMAGES --model {model}",
            ],
        )
    finish(trained.failed)


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
    """Draw lesions into your own negatives: how small and how faint does a model find them?"""
    with spoken() as progress:
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
        tell(result, [*summary(result), f"results: {out}"])
    finish([(path, reason) for path, reason in result["failed"]])


def inspect(
    path: Annotated[Path, typer.Argument(help="An image, or a model folder.")],
    body_part: Annotated[str, typer.Option(help="breast or chest.")] = "breast",
    spacing: Spacing = None,
    voi: Voi = "auto",
    bits: Bits = None,
    max_pixels: MaxPixels = MAX_PIXELS,
    timeout: Timeout = 120.0,
) -> None:
    """Show what patchad reads in an image, or a model's card."""
    with spoken():
        one_of("--voi", voi, VOIS)
        one_of("--body-part", body_part, ("breast", "chest"))
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
        tell(found, as_lines(found))


def methods() -> None:
    """The methods: their papers, what each needs and gives."""
    with spoken():
        from patchad.methods import about

        found = [asdict(method) for method in about()]
        tell(
            {"methods": found},
            [line for method in found for line in ("", *as_lines(method))][1:],
        )
