"""Choose among trainings without labels: by how often unlabelled images outrank negatives.

M. M. R. Siddiquee et al.: AUCp: pseudo-AUC for inference model selection with unlabeled validation
data in abnormality detection. arXiv:2606.08742, 2026. All unlabelled images are taken as positive;
the AUROC of their scores against negatives rises with the detector's own, as long as some of them
are abnormal and both come from one source. These negatives are set aside, by patient, before
anything is trained: they neither train nor calibrate any candidate, else the one that fits its
calibration by chance would be chosen, and its threshold would be too optimistic.
"""

import logging
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from patchad.commands.negatives import Named, Reader, find_negatives, survey
from patchad.commands.train import Trained, train
from patchad.commands.training_images import TrainingImages
from patchad.engine.screener import Screener
from patchad.errors import RequestError
from patchad.files.claim import Claim, claimed
from patchad.files.request import content_of
from patchad.files.whole import shown
from patchad.methods import load
from patchad.model.config import Config
from patchad.model.detector import Detector
from patchad.model.folder import read_card, read_model, write_model
from patchad.model.trained_on import among
from patchad.prepare.workers import DEFAULT_LIMITS, Fault, How, Limits, read_ahead, readers
from patchad.progress import Progress, silent
from patchad.read.manifest import ManifestRow, is_manifest, read_manifest
from patchad.store.layouts import MODEL

log = logging.getLogger(__name__)

_SHARE = 0.2  # of the patients with negatives, set aside for choosing
_LEAST_PATIENTS = 4  # two to choose, one to train, one to calibrate


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

    With one configuration this is plain training. With several, the manifest's images of the split
    ``unlabelled``, which neither training nor test uses, are compared with negatives that are set
    aside from all trainings; the card has the comparison and its result. Other arguments are
    those of :func:`patchad.commands.train.train`.

    Raises:
        RequestError: no manifest, fewer than two of its images are unlabelled, or there are too few
            patients with negatives.
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
    named = find_negatives(source, "a one-class detector is trained on negatives")
    choosable = [row for row in named.negatives if row.split != "validation"]
    _require_enough(source, {row.patient_id for row in choosable})
    images = TrainingImages.of(named.negatives, unlabelled=rows)
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
        apart=[source, *(row.path for row in (*images.rows, *named.positives))],
        compare=images.compare,
    ) as claim:
        if (model / "card.json").exists():
            log.info("%s holds the requested model: nothing is left to do", shown(model))
            claim.clear("candidates")
            return Trained(read_card(model))
        if not claim.marker.found:
            claim.remember(images.found({row.path: content_of(row.path) for row in images.rows}))
        judges = _set_aside(
            source, named, next(iter(configs.values())), seed, spacing_mm, limits, progress
        )
        return _train_best(source, claim, configs, rows, judges, asked, resume)


def _train_best(
    source: Path,
    claim: Claim,
    configs: Mapping[str, Config],
    rows: Sequence[ManifestRow],
    judges: Sequence[tuple[ManifestRow, tuple[Path, ...]]],
    asked: Mapping[str, Any],
    resume: bool,
) -> Trained:
    model, found = claim.folder, dict[str, float]()
    leave_out = [path for _, paths in judges for path in paths]
    failed: dict[tuple[str, str], None] = {}
    for name, config in configs.items():
        folder = model / "candidates" / name
        trained = train(source, folder, config, **asked, resume=resume, leave_out=leave_out)
        failed |= dict.fromkeys(trained.failed)
        detector = load(folder, asked["device"])

        def scores(of: Sequence[ManifestRow], detector: Detector = detector) -> list[float]:
            return _image_scores(
                detector, of, asked["spacing_mm"], asked["limits"], asked["progress"]
            )

        found[name] = pseudo_auroc(scores(rows), scores([row for row, _ in judges]))
        log.info("%s: AUCp %.3f", name, found[name])
    best = max(found, key=lambda name: found[name])
    card, tensors = read_model(model / "candidates" / best)
    listed = ", ".join(f"{name} {value:.3f}" for name, value in found.items())
    patients = len({row.patient_id for row, _ in judges})
    note = (
        f"Chosen without labels among {listed}: the AUROC of {len(rows)} unlabelled images against "
        f"{len(judges)} negative images of {patients} patients (AUCp), set aside for this before "
        "any training; they neither trained nor calibrated any of them."
    )
    kept = write_model(replace(card, notes=(*card.notes, note)), tensors, model)
    claim.clear("candidates")
    return Trained(kept, tuple(failed))


def pseudo_auroc(unlabelled: Sequence[float], negatives: Sequence[float]) -> float:
    """The share of pairs in which the unlabelled image outranks the negative; ties count half."""
    above = np.subtract.outer(np.asarray(unlabelled), np.asarray(negatives))
    return float(((above > 0) + 0.5 * (above == 0)).mean())


def _require_enough(source: Path, patients: Collection[str]) -> None:
    if len(patients) < _LEAST_PATIENTS:
        raise RequestError(
            f"choosing among several --config takes negatives of two patients at least, in "
            f"addition to those that train and calibrate: that takes {_LEAST_PATIENTS} patients "
            f"with negatives of the split train, {source} has {len(patients)}; give more, or "
            "one --config"
        )


def _set_aside(
    source: Path,
    named: Named,
    config: Config,
    seed: int,
    spacing_mm: tuple[float, float] | None,
    limits: Limits,
    progress: Progress,
) -> list[tuple[ManifestRow, tuple[Path, ...]]]:
    """The negatives that choose, each once, and the files of their patients, copies included."""
    with readers(How(config.preprocessing, spacing_mm, limits)) as ahead:
        found = survey(Reader(config, seed, ahead, [], progress), named)
    calibrating = {n.patient for n in found.images if n.row.split == "validation"}
    patients = sorted({negative.patient for negative in found.images} - calibrating)
    _require_enough(source, patients)
    count = max(2, round(_SHARE * len(patients)))
    # not the generator of the split, which draws from the rest
    chosen = set(np.random.default_rng([seed, count]).permutation(patients)[:count].tolist())
    return [
        (negative.row, found.paths[negative.patient])
        for negative in found.images
        if negative.patient in chosen
    ]


def _unlabelled(source: Path) -> list[ManifestRow]:
    rows = read_manifest(source) if is_manifest(source) else []
    rows = [row for row in rows if row.split == "unlabelled"]
    if len(rows) < 2:
        raise RequestError(
            f"choosing among several --config takes unlabelled images, and {source} has "
            f"{len(rows)} with the split unlabelled: name two at least in a manifest, or "
            "give one --config"
        )
    return rows


def _image_scores(
    detector: Detector,
    rows: Sequence[ManifestRow],
    spacing_mm: tuple[float, float] | None,
    limits: Limits,
    progress: Progress,
) -> list[float]:
    """The image scores of those that can be read and were not trained on."""
    card, calibration = detector.card, detector.card.calibrated
    screener, scores = Screener(detector), []
    how = How(card.preprocessing, spacing_mm, limits)
    for number, (row, read) in enumerate(read_ahead(rows, how), start=1):
        if isinstance(read, Fault):
            log.warning("left out %s: %s", row.path, read.reason)
            continue
        if among(card.data.trained_on, [read.radiograph.source.digest])[0]:
            log.warning("left out %s: a candidate was trained on the same pixels", row.path)
            continue
        scored = screener.score(read.prepared)
        pooled = scored.image_score(
            calibration.pooling, calibration.top_k, calibration.patch_threshold
        )
        if math.isfinite(pooled):
            scores.append(pooled)
        progress("choosing", number, len(rows), math.nan)
    if not scores:
        raise RequestError(
            f"none of {len(rows)} images to choose by could be scored: look at the first with "
            f"`patchad inspect {rows[0].path}`"
        )
    return scores
