"""The whole way on phantoms made here: train, screen, evaluate, export, compare.

The published autoencoder and the recommended configuration are shown side by side.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import jinja2
import torch

from patchad.commands.evaluate import evaluate
from patchad.commands.export import export
from patchad.commands.screen import screen_run
from patchad.commands.train import train
from patchad.engine.screener import ScreenOptions
from patchad.evaluation.files import as_text
from patchad.export import DEFAULT_KINDS
from patchad.files.claim import claimed
from patchad.files.whole import write_whole
from patchad.methods.configure import read_config
from patchad.phantoms.phantom import phantom_set
from patchad.progress import Progress, silent
from patchad.read.manifest import ManifestRow, read_manifest
from patchad.store.layouts import DEMO
from patchad.store.run import overlay_path, read_run

BodyPart = Literal["breast", "chest"]
TRAIN_PATIENTS, TEST_PATIENTS = 12, 12  # of each study, two films each: it takes minutes, no more

# What is shown of each body part, by the name of its folders: a configuration, and what is set.
# In a chest the step from lung to bone drowns what local contrast still shows the autoencoder.
SHOWN: Mapping[BodyPart, Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "breast": {"wei2018": ("demo", ()), "mammography": ("demo_mammography", ())},
    "chest": {
        "wei2018": ("demo", ("preprocessing.body_part=chest", "preprocessing.intensity=local")),
        "chest": ("demo_chest", ()),
    },
}
_PICTURED = 3  # films with a lesion that the page shows: the first ones, one of each kind
_NOTE = "These figures were measured on phantoms: they say nothing about patients."
_LEVELS = ("patch", "within images", "image", "patient")


@dataclass(frozen=True)
class Compared:
    """A line of the table: AUROC of a configuration, or of a baseline on what it was given.

    ``figures`` are texts, in the order of patches, patches within images, images, patients.
    """

    name: str
    baseline: bool
    figures: tuple[str, ...]


@dataclass(frozen=True)
class Demo:
    """What the demo made: its folder, and evaluations by body part and configuration."""

    out: Path
    evaluations: Mapping[str, Mapping[str, Mapping[str, Any]]]

    @property
    def page(self) -> Path:
        """The page that compares."""
        return self.out / "report.html"

    def lines(self) -> list[str]:
        """The lines to show the user."""
        lines = [_NOTE]
        for body_part, evaluations in self.evaluations.items():
            folder = self.out / body_part
            rows: list[tuple[str, ...]] = [("AUROC", *_LEVELS)]
            rows += [
                ("  " * row.baseline + row.name, *row.figures) for row in compared(evaluations)
            ]
            lines += ["", f"{body_part}: {counted(evaluations)}"]
            lines += [
                f"  {name:<20}" + "".join(f"{figure:<20}" for figure in figures).rstrip()
                for name, *figures in rows
            ]
            lines += [f"  phantoms {folder / 'phantoms'} (DICOM)"]
            lines += [
                f"  {name}: model {folder / f'model-{name}'}, run {folder / f'run-{name}'}"
                for name in evaluations
            ]
        return [*lines, "", f"open {self.page}"]


def demo(
    out: Path,
    *,
    seed: int,
    device: torch.device,
    overwrite: bool = False,
    progress: Progress = silent,
) -> Demo:
    """Make phantoms, train on the negative ones, screen the test ones, evaluate and compare.

    Raises:
        OutputError: ``out`` is not empty, in use, or cannot be written.
    """
    with claimed(out, DEMO, {"seed": seed}, command="demo", overwrite=overwrite):
        shown = Demo(
            out,
            {
                body_part: _study(out / body_part, body_part, seed, device, overwrite, progress)
                for body_part in SHOWN
            },
        )
        write_whole(shown.page, _page(shown))
        return shown


def compared(evaluations: Mapping[str, Mapping[str, Any]]) -> Iterator[Compared]:
    """Each configuration of a study, and the baselines beside it.

    Baselines that score alike under two configurations are given once, after the first.
    """
    given: set[Compared] = set()
    for name, evaluation in evaluations.items():
        yield Compared(name, False, _figures(evaluation))
        for baseline, sections in evaluation["baselines"].items():
            row = Compared(baseline, True, _figures(sections))
            if row not in given:
                given.add(row)
                yield row


def counted(evaluations: Mapping[str, Mapping[str, Any]]) -> str:
    """How many images were judged."""
    counts = next(iter(evaluations.values()))["counts"]
    return (
        f"{counts['images']} images ({counts['positive_images']} positive) of "
        f"{counts['patients']} patients"
    )


def _figures(sections: Mapping[str, Any]) -> tuple[str, ...]:
    patch, image, patient = (sections[level] for level in ("patch", "image", "patient"))
    figures = (patch["auroc"], patch["within_image_auroc"], image["auroc"], patient["auroc"])
    return tuple(as_text(figure) for figure in figures)


def _study(
    folder: Path,
    body_part: BodyPart,
    seed: int,
    device: torch.device,
    overwrite: bool,
    progress: Progress,
) -> dict[str, Mapping[str, Any]]:
    """The evaluations of one body part, by configuration."""
    progress(f"{body_part}: drawing phantoms", 0, 1, math.nan)
    manifest, regions = phantom_set(
        folder / "phantoms",
        body_part=body_part,
        train_patients=TRAIN_PATIENTS,
        test_patients=TEST_PATIENTS,
        seed=seed,
    )
    films = [row.path for row in _tested(manifest)]
    evaluations: dict[str, Mapping[str, Any]] = {}
    for name, (config, overrides) in SHOWN[body_part].items():

        def told(stage: str, done: int, total: int, value: float, name: str = name) -> None:
            progress(f"{body_part}, {name}: {stage}", done, total, value)

        model, run = folder / f"model-{name}", folder / f"run-{name}"
        # What is in these folders still are files of the user's: the demo's own were deleted.
        train(
            manifest,
            model,
            read_config(config, overrides),
            device=device,
            seed=seed,
            overwrite=overwrite,
            progress=told,
        )
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
        evaluations[name] = evaluate(run, manifest, regions, None, seed=seed, device=device)
        export(run, ("report",))
    return evaluations


def _tested(manifest: Path) -> list[ManifestRow]:
    return [row for row in read_manifest(manifest) if row.split == "test"]


def _page(shown: Demo) -> str:
    """The page that compares: a table and a few pictures a body part, and links to the runs."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    text = resources.files("patchad.commands").joinpath("demo.html.j2").read_text("utf-8")
    studies = [
        {
            "body_part": body_part,
            "counted": counted(evaluations),
            "rows": [*compared(evaluations)],
            "runs": {name: f"{body_part}/run-{name}/report.html" for name in evaluations},
            "pictures": [*_pictures(shown.out, body_part, [*evaluations])],
        }
        for body_part, evaluations in shown.evaluations.items()
    ]
    return environment.from_string(text).render(note=_NOTE, levels=_LEVELS, studies=studies)


def _pictures(out: Path, body_part: str, names: list[str]) -> Iterator[dict[str, str]]:
    """Of a few films with a lesion: each configuration's overlay, as a path from ``out``."""
    folder = out / body_part
    tested = _tested(folder / "phantoms" / "manifest.csv")
    first: dict[str, int] = {}
    for number, row in enumerate(tested):
        if row.label == "positive":
            first.setdefault(row.patient_id, number)
    for number in [*first.values()][:_PICTURED]:
        yield {
            name: overlay_path(
                folder / f"run-{name}", read_run(folder / f"run-{name}").rows[number].id
            )
            .relative_to(out)
            .as_posix()
            for name in names
        }
