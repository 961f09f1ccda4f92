"""What can a model find in your own images? Draw lesions into negatives, and screen them.

Synthetic lesions of graded size and contrast are drawn into the pixels as read, so that the whole
chain is tested: foreground, resampling, intensity, scores, marks. No labels are needed.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from patchad.commands.selftest_figures import figures
from patchad.commands.selftest_files import draw, table
from patchad.commands.selftest_images import negatives, try_images
from patchad.commands.selftest_lesions import all_wanted
from patchad.errors import RequestError
from patchad.files.claim import claimed
from patchad.files.whole import write_whole
from patchad.lesions.recipes import SELFTEST as RECIPES
from patchad.lesions.recipes import SELFTEST_CONTRASTS, Graded
from patchad.methods import load
from patchad.model.card import card_as_dict
from patchad.model.detector import Detector
from patchad.prepare.workers import DEFAULT_LIMITS, Limits
from patchad.progress import Progress, silent
from patchad.read.manifest import ManifestRow
from patchad.store.layouts import SELFTEST
from patchad.version import __version__

_LESIONS = 20  # at least, of each kind, size and contrast


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
        on: a manifest, whose negatives are used (those of the split test first), or a folder all
            of whose images are taken as negatives.
        out: the folder to write ``selftest.json``, ``detail.csv`` and ``contrast_detail.png``.
        images: how many to draw from these; all if there are fewer.
        seed: determines the images, the lesions and their positions.
        device: where to score.
        spacing_mm: (row, col) for images without pixel spacing.
        bits: the depth of 16-bit PNG, TIFF and PGM; None: the card's.
        limits: of reading one image.
        overwrite: replace an existing self-test.
        progress: called for finished images.

    Returns:
        The content of ``selftest.json``.

    Raises:
        RequestError: no negatives, or none of them can be used.
        ModelError: the model folder cannot be used.
        OutputError: the folder cannot be written.
    """
    rows = negatives(on, seed)
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
    kinds: Sequence[Graded] | None = None,
    contrasts: Sequence[float] = SELFTEST_CONTRASTS,
    lesions: int = _LESIONS,
    progress: Progress = silent,
) -> dict[str, Any]:
    """The figures of a self-test on the first ``images`` of ``rows`` that can be read.

    ``kinds`` are those of the model's body part by default. At least ``lesions`` of each size and
    contrast are drawn, spread evenly over the images.

    Raises:
        RequestError: no image can be used.
    """
    part = detector.card.preprocessing.body_part
    if part not in RECIPES:
        raise RequestError(
            f"lesions are drawn into breasts and chests, the model's body part is {part}: evaluate "
            "it on images of known label instead"
        )
    kinds = RECIPES[part] if kinds is None else kinds
    images = min(images, len(rows))
    trials = try_images(
        detector,
        rows,
        all_wanted(kinds, contrasts, at_least=lesions, images=images),
        images=images,
        seed=seed,
        spacing_mm=spacing_mm,
        bits=bits,
        limits=limits,
        progress=progress,
    )
    return figures(detector.card, trials, [kind.recipe.kind for kind in kinds], seed)
