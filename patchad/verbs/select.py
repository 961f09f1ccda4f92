"""Choose among trainings without a label: by how far unlabelled images outrank negatives.

M. M. R. Siddiquee et al.: AUCp: pseudo-AUC for inference model selection with unlabeled validation
data in abnormality detection. arXiv:2606.08742, 2026. All unlabelled images are taken as positive;
the AUROC of their scores against held-out negatives rises with the detector's own, as long as some
of them are abnormal and both come from one source.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from patchad.config import Config
from patchad.detector import read_card, read_model, score, write_model
from patchad.errors import RequestError
from patchad.grid import PatchGrid
from patchad.io.files import shown
from patchad.io.folder import Claim, claimed
from patchad.io.layouts import MODEL
from patchad.io.manifest import ManifestRow, is_manifest, read_manifest
from patchad.io.request import content_of
from patchad.io.workers import DEFAULT_LIMITS, Fault, How, Limits, read_ahead
from patchad.methods import load
from patchad.progress import Progress, silent
from patchad.verbs.train import Trained, train
from patchad.verbs.training_images import TrainingImages, negatives

log = logging.getLogger(__name__)


def train_best(
    source: Path,
    model: Path,
    configs: Mapping[str, Config],
    *,
    device: torch.device,
    seed: int = 0,
    spacing_mm: tuple[float, float] | None = None,
    limits: Limits = DEFAULT_LIMITS,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress = silent,
) -> Trained:
    """Train each of ``configs`` (by name) and keep the one with the highest AUCp.

    Of one configuration this is plain training. Of several the manifest's images of the split
    ``unlabelled`` judge, which neither training nor test may use; the card says what was compared,
    and how it did. Other arguments are those of :func:`patchad.verbs.train.train`.

    Raises:
        RequestError: no manifest, or fewer than two of its images are unlabelled.
        PatchadError: as ``train``.
    """
    asked: dict[str, Any] = {
        "device": device,
        "seed": seed,
        "spacing_mm": spacing_mm,
        "limits": limits,
        "progress": progress,
    }
    if len(configs) == 1:
        (config,) = configs.values()
        return train(source, model, config, **asked, resume=resume, overwrite=overwrite)
    rows = _unlabelled(source)
    images = TrainingImages.of(negatives(source), unlabelled=rows)
    request = {
        "configs": {name: config.as_dict() for name, config in configs.items()},
        "seed": seed,
        "spacing_mm": spacing_mm,
        **images.request(),
    }
    with claimed(
        model,
        MODEL,
        request,
        command="train",
        resume=resume,
        overwrite=overwrite,
        apart=[source, *(row.path for row in images.rows)],
        compare=images.compare,
    ) as claim:
        if (model / "card.json").exists():
            log.info("%s holds the model that was asked for: nothing is left to do", shown(model))
            claim.clear("candidates")
            return Trained(read_card(model))
        if not claim.marker.found:
            claim.remember(images.found({row.path: content_of(row.path) for row in images.rows}))
        return _train_best(source, claim, configs, rows, asked, resume)


def _train_best(
    source: Path,
    claim: Claim,
    configs: Mapping[str, Config],
    rows: Sequence[ManifestRow],
    asked: Mapping[str, Any],
    resume: bool,
) -> Trained:
    model, found = claim.folder, dict[str, float]()
    failed: dict[tuple[str, str], None] = {}
    for name, config in configs.items():
        folder = model / "candidates" / name
        trained = train(source, folder, config, **asked, resume=resume)
        failed |= dict.fromkeys(trained.failed)
        found[name] = pseudo_auroc(
            _image_scores(folder, rows, **{k: v for k, v in asked.items() if k != "seed"}),
            trained.card.calibrated.image_scores,
        )
        log.info("%s: AUCp %.3f", name, found[name])
    best = max(found, key=lambda name: found[name])
    card, tensors = read_model(model / "candidates" / best)
    listed = ", ".join(f"{name} {value:.3f}" for name, value in found.items())
    note = (
        f"Chosen without labels among {listed}: the AUROC of {len(rows)} unlabelled images against "
        f"{len(card.calibrated.image_scores)} held-out negatives (AUCp), which calibrate it too."
    )
    kept = write_model(replace(card, notes=(*card.notes, note)), tensors, model)
    claim.clear("candidates")
    return Trained(kept, tuple(failed))


def pseudo_auroc(unlabelled: Sequence[float], negatives: Sequence[float]) -> float:
    """The share of pairs in which the unlabelled image outranks the negative; ties count half."""
    above = np.subtract.outer(np.asarray(unlabelled), np.asarray(negatives))
    return float(((above > 0) + 0.5 * (above == 0)).mean())


def _unlabelled(source: Path) -> list[ManifestRow]:
    rows = read_manifest(source) if is_manifest(source) else []
    rows = [row for row in rows if row.split == "unlabelled"]
    if len(rows) < 2:
        raise RequestError(
            f"several --config are chosen among by unlabelled images, and {source} has {len(rows)} "
            "with the split unlabelled: name two at least in a manifest, or give one --config"
        )
    return rows


def _image_scores(
    model: Path,
    rows: Sequence[ManifestRow],
    *,
    spacing_mm: tuple[float, float] | None,
    limits: Limits,
    device: torch.device,
    progress: Progress,
) -> list[float]:
    detector = load(model, device)
    card, calibration = detector.card, detector.card.calibrated
    scores = []
    how = How(card.preprocessing, spacing_mm, limits)
    for number, (row, read) in enumerate(read_ahead(rows, how), start=1):
        if isinstance(read, Fault):
            log.warning("left out %s: %s", row.path, read.reason)
            continue
        pixels = read.prepared.pixels
        grid = PatchGrid((pixels.shape[0], pixels.shape[1]), card.patch_size, card.stride)
        scored = score(detector, read.prepared, grid)
        pooled = scored.image_score(
            calibration.pooling, calibration.top_k, calibration.patch_threshold
        )
        if math.isfinite(pooled):
            scores.append(pooled)
        progress("choosing", number, len(rows), math.nan)
    if not scores:
        raise RequestError("no unlabelled image could be scored: look at the first with inspect")
    return scores
