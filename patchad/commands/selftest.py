"""What can a model find on one's own images? Draw lesions into negatives, and screen them.

Synthetic lesions of graded size and contrast are drawn into the pixels as read, so that the whole
chain is tested: foreground, resampling, intensity, scores, marks. No labels are needed.
"""

import json
import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from patchad.commands.selftest_files import draw, table
from patchad.commands.selftest_lesions import KINDS, Kind, Wanted, find_places, packed
from patchad.core.grid import PatchGrid
from patchad.core.image import PatchScores, Radiograph
from patchad.engine.marks import find_marks
from patchad.engine.mismatch import mismatches
from patchad.engine.screener import Screener
from patchad.errors import ImageError, MismatchError, NotARadiographError, RequestError
from patchad.evaluation.detail import (
    Level,
    Tried,
    half_found,
    levels_of,
    mark_threshold,
    marks_and_places,
)
from patchad.files.claim import claimed
from patchad.files.whole import write_whole
from patchad.lesions import shapes as synthesis
from patchad.methods import load
from patchad.model.card import card_as_dict
from patchad.model.detector import Detector
from patchad.model.trained_on import among
from patchad.prepare.foreground import find_foreground
from patchad.prepare.preprocess import prepare
from patchad.prepare.workers import DEFAULT_LIMITS, How, Limits, readers, required
from patchad.progress import Progress, silent
from patchad.read.manifest import ManifestRow, is_manifest
from patchad.read.read import find_images
from patchad.store.layouts import SELFTEST
from patchad.store.run import row_path
from patchad.version import __version__

log = logging.getLogger(__name__)

CONTRASTS = (0.5, 1.0, 2.0, 4.0)  # in standard deviations of the tissue around the lesion
FALSE_MARKS = 1.0  # an untouched image, on average: where lesions count as found
_LESIONS = 20  # at least, of each kind, size and contrast
_AROUND_MM = 12.8  # half the side of the square whose deviation is the unit of contrast
_APART = 2  # sides of a patch between lesions: no patch sees two, no mark silences another's
_PREFERRED = ("test", "validation", "unlabelled", "", "train")


@dataclass(frozen=True, eq=False)
class _Tested:
    """One image: the marks of the untouched film (M,), its lesions, how many lacked room."""

    marks: NDArray[np.float64]
    tried: list[Tried]
    screenings: int
    not_placed: int


def selftest(
    model: Path,
    on: Path,
    out: Path,
    *,
    images: int = 20,
    seed: int = 0,
    device: torch.device,
    spacing_mm: tuple[float, float] | None = None,
    bits: int | None = None,
    limits: Limits = DEFAULT_LIMITS,
    overwrite: bool = False,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Test a model on synthetic lesions in negatives; write table, figures and picture.

    Args:
        model: folder of a trained model.
        on: a manifest, whose negatives are taken (those of the split test first), or a folder all
            of whose images are taken as negatives.
        out: the folder to write ``selftest.json``, ``detail.csv`` and ``contrast_detail.png``.
        images: how many to draw from these; all where there are fewer.
        seed: decides the images, the lesions and their places.
        device: what to score on.
        spacing_mm: (row, col) for images that carry no pixel spacing.
        bits: the depth of 16-bit PNG, TIFF and PGM; None: as the card says.
        limits: what one image may cost to read.
        overwrite: replace a self-test that is there.
        progress: told of images done.

    Returns:
        What ``selftest.json`` holds.

    Raises:
        RequestError: no negatives, or none of them can be used.
        ModelError: the model folder cannot be used.
        OutputError: the folder cannot be written.
    """
    rows = _negatives(on, seed)
    detector = load(model, device)
    request = {"model": card_as_dict(detector.card)["digest"], "on": str(on), "seed": seed}
    apart = [model, on, *(row.path for row in rows)]
    with claimed(out, SELFTEST, request, command="selftest", overwrite=overwrite, apart=apart):
        result = measure(
            detector,
            rows,
            images=images,
            seed=seed,
            spacing_mm=spacing_mm,
            bits=bits,
            limits=limits,
            progress=progress,
        )
        result = {"patchad": __version__, "on": str(on), **result}
        write_whole(out / "detail.csv", pd.DataFrame(table(result)).to_csv(index=False))
        draw(out / "contrast_detail.png", result)
        write_whole(out / "selftest.json", json.dumps(result, indent=2, allow_nan=False) + "\n")
    return result


def measure(
    detector: Detector,
    rows: Sequence[ManifestRow],
    *,
    images: int,
    seed: int,
    spacing_mm: tuple[float, float] | None = None,
    bits: int | None = None,
    limits: Limits = DEFAULT_LIMITS,
    kinds: Sequence[Kind] | None = None,
    contrasts: Sequence[float] = CONTRASTS,
    lesions: int = _LESIONS,
    progress: Progress = silent,
) -> dict[str, Any]:
    """The figures of a self-test on the first ``images`` of ``rows`` that can be read.

    ``kinds`` are those of the model's body part unless given. Of each size and contrast at least
    ``lesions`` are drawn, spread evenly over the images.
    """
    card = detector.card
    kinds = KINDS[card.preprocessing.body_part] if kinds is None else kinds
    images = min(images, len(rows))
    wanted = [
        Wanted(kind, float(diameter), float(contrast))
        for kind in kinds
        for diameter in kind.diameters_mm
        for contrast in contrasts
    ] * math.ceil(lesions / images)
    used: list[ManifestRow] = []
    tested: list[_Tested] = []
    failed: list[tuple[str, str]] = []
    skipped: list[tuple[str, str]] = []
    digests: list[str] = []
    read_as = card.preprocessing if bits is None else replace(card.preprocessing, bits=bits)
    with readers(How(read_as, spacing_mm, limits)) as ahead:
        for row, read in ahead(rows):
            rng = np.random.default_rng([seed, len(used)])
            try:
                radiograph = required(read).radiograph
                tested.append(_test_image(detector, radiograph, wanted, rng))
            except ImageError as error:
                left_out = skipped if isinstance(error, NotARadiographError) else failed
                left_out.append((row_path(row.path), str(error)))
                continue
            used.append(row)
            digests.append(radiograph.source.digest)
            progress("self-test", len(used), images, math.nan)
            if len(used) == images:
                break
    tried = [one for image in tested for one in image.tried]
    if not tried:
        reasons = [reason for _, reason in (*failed, *skipped)]
        reason = reasons[0] if reasons else "no lesion fits into what of them is scored"
        raise RequestError(f"no image could be tested: {reason}")
    names = [kind.name for kind in kinds]
    threshold = mark_threshold([image.marks for image in tested], FALSE_MARKS)
    levels = levels_of(sorted(tried, key=lambda one: names.index(one.kind)), threshold)
    over = sum(int((image.marks > threshold).sum()) for image in tested)
    return {
        "method": card.method,
        "model": card_as_dict(card)["digest"],
        "seed": seed,
        "definitions": _DEFINITIONS,
        "notes": _notes(used, sum(among(card.data.trained_on, digests))),
        "counts": {
            "images": len(used),
            "screenings": sum(image.screenings for image in tested),
            "lesions": len(tried),
            "lesions_without_room": sum(image.not_placed for image in tested),
        },
        "images": [{"path": row_path(row.path), "split": row.split} for row in used],
        "threshold": threshold,
        "false_marks_an_image": over / len(used),
        "levels": [asdict(level) for level in levels],
        "half_found": _half_found(levels),
        "failed": [list(fault) for fault in failed],
        "skipped": [list(fault) for fault in skipped],
    }


def summary(result: Mapping[str, Any]) -> list[str]:
    """What a terminal shows of ``selftest.json``: a line each kind and size."""
    levels, counts, false = result["levels"], result["counts"], result["false_marks_an_image"]
    contrasts = sorted({level["contrast"] for level in levels})
    shares = {(x["kind"], x["diameter_mm"], x["contrast"]): f"{x['found']:.2f}" for x in levels}
    chance = sum(level["by_chance"] * level["n"] for level in levels) / counts["lesions"]
    least, most = (end(level["n"] for level in levels) for end in (min, max))
    lines = [
        f"{counts['lesions']} synthetic lesions in {counts['images']} negative images: share found "
        f"at {false:g} false mark{'s' * (false != 1)} an image, by contrast in local s.d.",
        f"{'':<34}" + "".join(f"{contrast:<7g}" for contrast in contrasts) + "half found at",
    ]
    for half in result["half_found"]:
        size = half["kind"], half["diameter_mm"]
        row = "".join(f"{shares.get((*size, contrast), '-'):<7}" for contrast in contrasts)
        lines.append(f"{size[0] + f', {size[1]:g} mm':<34}{row}{_half_in_words(half)}")
    return [
        *lines,
        f"{least if least == most else f'{least} to {most}'} lesions a figure; {chance:.2f} of "
        "their places are marked without them",
        *result["notes"],
    ]


def _negatives(on: Path, seed: int) -> list[ManifestRow]:
    """The negatives of ``on`` in the order in which they are taken: drawn, by split."""
    rows = find_images([on], strangers=False)
    if is_manifest(on):
        found = [row for row in rows if row.label == "negative"]
        if not found:
            raise RequestError(
                f"{on} has no row with label negative (of {len(rows)} rows): lesions are drawn "
                "into negatives, for there every other mark is a false one"
            )
        rows = found
    else:
        log.warning("%s is no manifest: all %d images are taken as negatives", on, len(rows))
    drawn = np.random.default_rng(seed).permutation(len(rows))
    return sorted((rows[n] for n in drawn), key=lambda row: _PREFERRED.index(row.split))


def _test_image(
    detector: Detector, radiograph: Radiograph, wanted: list[Wanted], rng: np.random.Generator
) -> _Tested:
    """Screen one image untouched, and with lesions until all that are wanted were drawn."""
    how = detector.card.preprocessing
    spacing = radiograph.spacing_mm or how.assumed(radiograph)
    if spacing is None:
        raise ImageError(
            "lesions are drawn in millimetres, and the file doesn't say its pixel spacing: give "
            "it by --spacing-mm, or by a column spacing_mm in the manifest"
        )
    if detector.card.data.spacing_mm is None and how.spacing_mm is None:
        # A model that knows no millimetres: here they only say how large to draw the lesions.
        radiograph = replace(radiograph, spacing_mm=None)
    scores = _screened(detector, radiograph, check=True)
    boxes = scores.grid.boxes(radiograph.shape)
    mask = find_foreground(radiograph, how.body_part).mask
    places = find_places(radiograph, mask, how.body_part, spacing)
    apart = boxes[0, 2] * _APART, boxes[0, 3] * _APART
    tried: list[Tried] = []
    screenings = 1
    for drawn in packed(rng, wanted, places, apart):
        pixels, regions = radiograph.pixels, []
        for one, centre in drawn:
            lesion = one.kind.draw(rng, diameter_mm=one.diameter_mm, spacing_mm=spacing)
            deviation = synthesis.local_deviation(
                radiograph.pixels, mask, centre, radius_mm=_AROUND_MM, spacing_mm=spacing
            )
            pixels, region = synthesis.insert(
                pixels, mask, lesion, centre, amplitude=one.contrast * deviation
            )
            regions.append(region)
        touched = _screened(detector, replace(radiograph, pixels=pixels))
        screenings += 1
        after = marks_and_places(touched.grid.boxes(radiograph.shape), touched.values, regions)
        before = marks_and_places(boxes, scores.values, regions)
        tried += [
            Tried(
                one.kind.name,
                one.diameter_mm,
                one.contrast,
                mark=float(after[0][n]),
                mark_without=float(before[0][n]),
                place=float(after[1][n]),
                place_without=float(before[1][n]),
            )
            for n, (one, _) in enumerate(drawn)
        ]
    values = scores.values.astype(np.float64)
    marks = values[find_marks(boxes, values)]
    return _Tested(marks, tried, screenings, len(wanted) - len(tried))


def _screened(detector: Detector, radiograph: Radiograph, *, check: bool = False) -> PatchScores:
    """The patch scores of an image as ``screen`` makes them; checked as there if asked for."""
    card = detector.card
    prepared = prepare(radiograph, card.preprocessing)
    if check and (faults := mismatches(radiograph, prepared, card)):
        raise MismatchError("; ".join(faults))
    grid = PatchGrid(prepared.pixels.shape, card.patch_size, card.stride)
    scores = Screener(detector).score(prepared, grid).scores
    if check and not scores.scored.any():
        raise ImageError(
            f"no patch of {card.patch_size} pixels holds {card.min_foreground:.0%} foreground: "
            "nothing to score"
        )
    return scores.turned(prepared.turn.inverse)


def _half_found(levels: Sequence[Level]) -> list[dict[str, Any]]:
    found = []
    for (kind, diameter), group in groupby(levels, key=lambda x: (x.kind, x.diameter_mm)):
        cell = [level for level in group if level.contrast > 0]
        contrast = half_found(cell) if cell else math.nan
        found.append(
            {
                "kind": kind,
                "diameter_mm": diameter,
                "contrast": contrast if math.isfinite(contrast) else None,
                "or_less": bool(cell) and contrast == cell[0].contrast,
            }
        )
    return found


def _half_in_words(half: Mapping[str, Any]) -> str:
    if half["contrast"] is None:
        return "not reached"
    return f"{half['contrast']:.2g}" + (" or less" if half["or_less"] else "")


def _notes(used: Sequence[ManifestRow], trained: int) -> list[str]:
    splits = Counter(row.split or "none" for row in used)
    named = ", ".join(f"{count} of split {split}" for split, count in splits.items())
    flattered = ", which flatters it: give others" if trained else ""
    return [
        f"The model was trained on {trained} of these {len(used)} images ({named}){flattered}.",
        "The lesions are synthetic: what finds them may miss real ones; what misses them when "
        "they are large and bright will hardly find real ones.",
    ]


_DEFINITIONS = {
    "contrast": "What the brightest pixel of a lesion adds, in standard deviations of the tissue "
    f"within ± {_AROUND_MM:g} mm of its centre; the pixels as read, before any preprocessing.",
    "diameter_mm": "Of the outline; of a spiculated mass the core, of calcifications the cluster.",
    "found": "Share of the lesions that a mark above the threshold hits. A mark is a patch whose "
    "centre lies in no higher mark; it hits a lesion if its centre lies in it, or if one covers at "
    "least half of the other: as in FROC.",
    "ci95": "Wilson's interval. It takes lesions for independent; those in one image are less so.",
    "threshold": f"The lowest score that at most {FALSE_MARKS:g} mark an image exceed on average, "
    "on the very same images untouched: it describes these images and is no threshold to use.",
    "by_chance": "Share of the same places that the untouched image marks above the threshold.",
    "outranks_twin": "Share of the lesions whose nearest patch (by its centre) scores higher with "
    "the lesion than without it; ties count half.",
    "half_found": "The contrast at which half are found: linear in log contrast along the rising "
    "curve that fits best; null: not reached; or_less: the lowest contrast is enough.",
}
