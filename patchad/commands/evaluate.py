"""Measure a run against the truth, without bias.

Thresholds come from the model's card, never from these data; intervals are by patient; a missing
class gives no figure; and the method is compared with the trivial baselines everywhere.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError

from patchad.core.baselines import BASELINES
from patchad.errors import RequestError
from patchad.evaluation.definitions import definitions
from patchad.evaluation.drawn import (
    Drawn,
    collect_marks,
    marks_section,
    rarity_table,
    resolution_of,
)
from patchad.evaluation.estimate import Section
from patchad.evaluation.figures import (
    patch_threshold_section,
    pixel_section,
    sections_of,
    threshold_section,
)
from patchad.evaluation.files import as_text, write_pictures, write_tables
from patchad.evaluation.judged import METHOD, SCORERS, Samples, collect
from patchad.evaluation.metrics import resample
from patchad.evaluation.pixels import tally_pixels
from patchad.evaluation.seen import seen_notes
from patchad.evaluation.truth import match_truth
from patchad.export.report import write_report
from patchad.files.claim import claimed
from patchad.files.clearing import clear
from patchad.files.whole import write_whole
from patchad.model.calibration import Calibration
from patchad.read.manifest import read_manifest, read_regions
from patchad.store.layouts import EVALUATION, RUN, open_run
from patchad.store.run import Run, read_run
from patchad.version import __version__

_Sections = dict[str, Section]
_THRESHOLDS = {"patch": "patch_threshold", "image": "image_threshold", "patient": "image_threshold"}
_CALIBRATION = TypeAdapter(Calibration)


def evaluate(
    run_folder: Path,
    truth: Path,
    regions: Path | None,
    out: Path | None,
    *,
    only_screened: bool = False,
    seed: int = 0,
    resamples: int = 1000,
    device: torch.device,
) -> dict[str, Any]:
    """Judge a run and write ``evaluation.json``, pictures and tables.

    Args:
        run_folder: from ``patchad screen``.
        truth: a manifest with labels; see :func:`patchad.evaluation.truth.match_truth`.
        regions: the lesions' positions; without them, only image figures are defined.
        out: a new or empty folder; by default ``evaluation`` in the run, replaced if it exists.
        only_screened: judge the rows of the truth that have an image in the run, and report
            the others.
        seed: of the bootstrap.
        resamples: of the bootstrap.
        device: where figures are computed; the CPU instead of MPS, which has no float64.

    Returns:
        The content of ``evaluation.json``.

    Raises:
        RequestError: the run, the truth or the regions are wrong or don't fit together.
        OutputError: ``out`` is not empty, or it or the run is in use or cannot be written.
    """
    if device.type == "mps":
        device = torch.device("cpu")
    own = run_folder / "evaluation"
    if out is None or (own.exists() and out.exists() and out.samefile(own)):
        with open_run(run_folder, "evaluate") as run:
            judged = _judge(run, truth, regions, only_screened, seed, resamples, device)
            clear(run_folder, RUN, "evaluation")  # files of an older patchad are not rewritten
            _write(own, judged, run)
            if (run_folder / "report.html").exists():
                write_report(run_folder)  # which then shows the evaluation
        return judged.result
    run = read_run(run_folder)
    request = {"run": str(run_folder), "truth": str(truth), "seed": seed}
    apart = [run_folder, truth, *([regions] if regions else [])]
    with claimed(out, EVALUATION, request, command="evaluate", apart=apart):
        judged = _judge(run, truth, regions, only_screened, seed, resamples, device)
        _write(out, judged, run)
    return judged.result


@dataclass(frozen=True, eq=False)
class _Judged:
    """The content of ``evaluation.json``, and the data of the pictures."""

    result: dict[str, Any]
    whole: Mapping[str, _Sections]
    samples: Samples
    drawn: Drawn


def _write(folder: Path, judged: _Judged, run: Run) -> None:
    write_tables(folder, judged.result, judged.drawn.marks)
    write_pictures(folder, judged.result, judged.whole, judged.samples, run.settings["card"])
    text = json.dumps(judged.result, indent=2, allow_nan=False)
    write_whole(folder / "evaluation.json", text + "\n")


def _judge(
    run: Run,
    truth: Path,
    regions: Path | None,
    only_screened: bool,
    seed: int,
    resamples: int,
    device: torch.device,
) -> _Judged:
    marked = None if regions is None else read_regions(regions)
    judged = match_truth(run, read_manifest(truth), marked, only_screened=only_screened)
    samples = collect(run, judged)
    weights = resample(judged.patients, resamples, seed=seed, device=device)
    calibration = run.settings["card"]["calibration"]

    whole = {scorer: sections_of(samples, scorer, weights) for scorer in SCORERS}
    kinds = sorted(set(samples.lesions["kind"]))
    by_kind = {
        kind: {scorer: sections_of(samples, scorer, weights, kind) for scorer in SCORERS}
        for kind in kinds
    }
    images = samples.images
    highest = images.groupby("patient")[[METHOD, "positive"]].max()
    thresholds = {
        "patch": patch_threshold_section(samples, calibration["patch_threshold"], weights),
        "image": threshold_section(
            images[METHOD].to_numpy(),
            images["positive"].to_numpy(),
            images["patient"].to_numpy(),
            calibration["image_threshold"],
            weights,
        ),
        "patient": threshold_section(
            highest[METHOD].to_numpy(),
            highest["positive"].to_numpy(bool),
            highest.index.to_numpy(),
            calibration["image_threshold"],
            weights,
        ),
    }
    drawn = collect_marks(run, judged)
    marks = {
        kind: marks_section(drawn, images, samples.lesions, weights, kind) for kind in ("", *kinds)
    }
    rarity = rarity_table(drawn, images, resolution_of(calibration), weights)
    known = _calibration_of(run)
    pixels = tally_pixels(run, judged, samples.patches[METHOD].to_numpy(), known, device)
    notes = [*judged.left_out, *judged.notes, *seen_notes(run, judged)]
    if pixels is None and len(samples.lesions):
        notes.append("No pixel figures: heatmaps are missing (patchad export --write heatmap).")
    result = {
        "patchad": __version__,
        "run": str(run.folder),
        "truth": str(truth),
        "regions": None if regions is None else str(regions),
        "method": run.settings["card"]["method"],
        "model": run.settings["card"]["digest"],
        "seed": seed,
        "resamples": resamples,
        "definitions": definitions(calibration),
        "notes": notes,
        "counts": dict(judged.counts),
        **_json(whole[METHOD]),
        "marks": {**_json(marks)[""], "rarity": rarity},
        "threshold": {
            name: {"value": calibration[_THRESHOLDS[name]], "from": "card", **section}
            for name, section in _json(thresholds).items()
        },
        "pixel": None if pixels is None else _json({"": pixel_section(pixels, weights)})[""],
        "by_kind": {
            kind: {
                **_json(sections[METHOD]),
                "marks": _json(marks)[kind],
                "baselines": {name: _json(sections[name]) for name in BASELINES},
            }
            for kind, sections in by_kind.items()
        },
        "baselines": {name: _beside(whole[METHOD], whole[name]) for name in BASELINES},
    }
    return _Judged(result, whole, samples, drawn)


def summary(result: Mapping[str, Any]) -> list[str]:
    """``evaluation.json`` for the terminal: the method and its baselines, a line each."""
    counts = result["counts"]
    lines = [
        f"{counts['images']} images ({counts['positive_images']} positive) of "
        f"{counts['patients']} patients; {result['patch']['counts']['positives']} positive and "
        f"{result['patch']['counts']['negatives']} negative patches",
        f"{'AUROC':<16} {'patch':<20} {'within images':<20} {'image':<20} patient",
    ]
    for name, sections in {result["method"]: result, **result["baselines"]}.items():
        patch, image, patient = (sections[level] for level in ("patch", "image", "patient"))
        figures = (patch["auroc"], patch["within_image_auroc"], image["auroc"], patient["auroc"])
        lines.append(f"{name:<16} " + " ".join(f"{as_text(f):<20}" for f in figures).rstrip())
    unbeaten = [n for n, sections in result["baselines"].items() if sections["beaten"] is not True]
    lines += _marks_summary(result["marks"])
    if unbeaten:
        lines.append(f"not shown to beat (patch AUROC, paired by patient): {', '.join(unbeaten)}")
    for level in ("image", "patient"):
        point = result["threshold"][level]
        lines.append(
            f"at the model's image threshold {point['value']:.4g}, {level}s: sensitivity "
            f"{as_text(point['sensitivity'])}, specificity {as_text(point['specificity'])}"
        )
    return [*lines, *result["notes"]]


def _marks_summary(marks: Mapping[str, Any]) -> list[str]:
    line = f"marks: {as_text(marks['marks_a_negative_image'])} a negative image"
    if marks["counts"]["lesions"]:
        line += (
            f", on {as_text(marks['lesions_marked'])} of {marks['counts']['lesions']} lesions; "
            f"{as_text(marks['precision'])} of all marks lie on one"
        )
    tenth = [row for row in marks["rarity"] if row["expected"] == 0.1]
    if tenth and tenth[0]["observed"]["value"] is not None:
        seen = as_text(tenth[0]["observed"])
        line += f"; marks as rare as 1 in 10 normal films: {seen} a negative image (0.10 promised)"
    return [line]


def _calibration_of(run: Run) -> Calibration:
    try:
        return _CALIBRATION.validate_python(run.settings["card"]["calibration"])
    except (ValidationError, LookupError, TypeError):
        raise RequestError(
            f"the card in {run.folder} is not one that patchad {__version__} can read: screen again"
        ) from None


def _json(sections: _Sections) -> dict[str, dict[str, Any]]:
    return {
        level: {
            **{name: figure.as_json() for name, figure in section.figures.items()},
            "counts": dict(section.counts),
        }
        for level, section in sections.items()
    }


def _beside(method: _Sections, baseline: _Sections) -> dict[str, Any]:
    """A baseline's figures, and by how much the method exceeds each, paired by patient."""
    excess = {
        level: {
            name: figure.minus(baseline[level].figures[name]).as_json()
            for name, figure in section.figures.items()
        }
        for level, section in method.items()
    }
    low = excess["patch"]["auroc"]["ci95"][0]
    return {
        **_json(baseline),
        "method_minus_baseline": excess,
        "beaten": None if low is None else low > 0,
    }
