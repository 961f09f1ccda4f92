"""The command `patchad train`."""

from pathlib import Path
from typing import Annotated

import typer

from patchad.cli.checks import check_device, check_inputs
from patchad.cli.console import exit_if_failed, print_result, reporting
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
    require_one_of,
    spacing_of,
)
from patchad.model.configurations import DEFAULT


def train(
    source: Annotated[Path, typer.Argument(help="A manifest, or a folder of negatives.")],
    model: Model = Path("model"),
    config: Config = None,
    override: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a key, e.g. wei2018.epochs=5."),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="The method's setting for two cores, not the paper's.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of split, patches and weights.")] = 0,
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
    with reporting(resumes=True) as progress:
        overrides = [*(override or ())]
        if voi is not None:
            require_one_of("--voi", voi, VOIS)
            overrides.append(f"preprocessing.voi={voi}")
        if bits is not None:
            overrides.append(f"preprocessing.bits={bits}")
        names, given = config or [DEFAULT], spacing_of(spacing)
        check_device(device)
        check_inputs([source])
        from patchad.methods.configure import check_config, read_config

        for name in names:
            check_config(name, overrides, quick=quick)
        from patchad.commands.calibrate import told_of
        from patchad.commands.select import train_best
        from patchad.device import choose_device
        from patchad.model.card import card_as_dict
        from patchad.prepare.workers import Limits

        configs = {Path(name).stem: read_config(name, overrides, quick=quick) for name in names}
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
        print_result(
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
    exit_if_failed(trained.failed)
