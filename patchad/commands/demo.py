"""The whole way on phantoms made here: train, screen, evaluate, export."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from patchad.commands.evaluate import evaluate, summary
from patchad.commands.export import export
from patchad.commands.screen import screen_run
from patchad.commands.train import train
from patchad.engine.screener import ScreenOptions
from patchad.export import DEFAULT_KINDS
from patchad.files.claim import claimed
from patchad.methods.configure import read_config
from patchad.phantoms.phantom import phantom_set
from patchad.progress import Progress, silent
from patchad.read.manifest import read_manifest
from patchad.store.layouts import DEMO

# In a chest the step from lung to bone drowns what local contrast still shows.
INTENSITIES: Mapping[Literal["breast", "chest"], str] = {"breast": "voi", "chest": "local"}


@dataclass(frozen=True)
class Demo:
    """What the demo made: the evaluation of each study by body part, and its folder."""

    out: Path
    evaluations: Mapping[str, Mapping[str, Any]]

    def lines(self) -> list[str]:
        """The lines to show the user."""
        lines = ["These figures were measured on phantoms: they mean nothing for patients."]
        for body_part, evaluation in self.evaluations.items():
            folder = self.out / body_part
            lines += [
                "",
                f"{body_part}:",
                *(f"  {line}" for line in summary(evaluation)),
                f"  open {folder / 'screening' / 'report.html'}",
                f"  model {folder / 'model'}, phantoms {folder / 'phantoms'} (DICOM)",
            ]
        return lines


def demo(
    out: Path,
    *,
    seed: int,
    device: torch.device,
    overwrite: bool = False,
    progress: Progress = silent,
) -> Demo:
    """Make phantoms, train on the negative ones, screen the test ones, evaluate and export.

    Raises:
        OutputError: ``out`` is not empty, in use, or cannot be written.
    """
    with claimed(out, DEMO, {"seed": seed}, command="demo", overwrite=overwrite):
        return _demo(out, seed, device, overwrite, progress)


def _demo(out: Path, seed: int, device: torch.device, overwrite: bool, progress: Progress) -> Demo:
    evaluations: dict[str, Mapping[str, Any]] = {}
    for body_part, intensity in INTENSITIES.items():
        folder = out / body_part
        progress(f"{body_part}: drawing phantoms", 0, 1, math.nan)
        manifest, regions = phantom_set(folder / "phantoms", body_part=body_part, seed=seed)
        model, run = folder / "model", folder / "screening"
        config = read_config(
            "demo",
            [f"preprocessing.body_part={body_part}", f"preprocessing.intensity={intensity}"],
        )

        def told(stage: str, done: int, total: int, value: float, part: str = body_part) -> None:
            progress(f"{part}: {stage}", done, total, value)

        # What is in these folders still are files of the user's: the demo's own were deleted.
        train(
            manifest,
            model,
            config,
            device=device,
            seed=seed,
            overwrite=overwrite,
            progress=told,
        )
        films = [row.path for row in read_manifest(manifest) if row.split == "test"]
        pictures = tuple(kind for kind in DEFAULT_KINDS if kind != "report")  # it comes last
        screen_run(
            films,
            model,
            run,
            ScreenOptions(pictures),
            device=device,
            overwrite=overwrite,
            progress=told,
        )
        evaluations[body_part] = evaluate(run, manifest, regions, None, seed=seed, device=device)
        export(run, ("report",))
    return Demo(out, evaluations)
