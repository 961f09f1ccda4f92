"""Cross-conformal calibration: each negative is scored by a model not trained on its patient.

V. Vovk, Cross-conformal predictors, Annals of Mathematics and Artificial Intelligence 74:9-28,
2015, https://doi.org/10.1007/s10472-013-9368-4; here the model in use is trained on all
negatives. :mod:`patchad.commands.calibrate` explains what that promises.
"""

import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from safetensors.numpy import save as save_arrays

from patchad.commands.calibrate import NegativeImage
from patchad.commands.negatives import Negative
from patchad.commands.other_breast import Side
from patchad.core.grid import PatchGrid
from patchad.core.image import PatchScores
from patchad.engine.screener import Scored
from patchad.errors import ModelError, RequestError, TrainingError
from patchad.files.whole import write_whole
from patchad.model.card import FORMAT
from patchad.progress import Progress

# What is stored of a negative image in addition to its patch scores: nothing about the patient.
_ARRAYS = tuple(
    field.name
    for field in fields(NegativeImage)
    if field.name not in ("patient_id", "scored", "side")
)
_GRID = TypeAdapter(PatchGrid)


@dataclass(frozen=True, eq=False)
class FoldScores:
    """The scores of a fold's negatives by its model, and the notes of its training."""

    images: tuple[tuple[Negative, NegativeImage], ...]
    notes: tuple[str, ...]


# Trains on the first negatives, scores the others: (training, scored, checkpoint, progress).
ScoreFold = Callable[[Sequence[Negative], Sequence[Negative], Path, Progress], FoldScores]


def deal_folds(patients: Collection[str], folds: int, seed: int) -> list[set[str]]:
    """The patients of each fold; sizes differ by one at most."""
    order = np.random.default_rng(seed).permutation(sorted(set(patients))).tolist()
    return [set(order[start::folds]) for start in range(folds)]


def score_by_folds(
    images: Sequence[Negative],
    folds: int,
    score: ScoreFold,
    *,
    folder: Path,
    request: Mapping[str, Any],
    seed: int,
    clear: Callable[[str], None],
    progress: Progress,
) -> FoldScores:
    """Score every negative with the model of a fold that was not trained on its patient.

    Folds are trained one after the other, so that only one model and its films are in memory. The
    result of a fold is stored, so that a killed training resumes with the next one; a fold's
    checkpoint is kept until then.

    Args:
        images: all negatives.
        folds: their number.
        score: trains and scores one of them.
        folder: where checkpoints and results are kept.
        request: what else must be the same for a stored result to be used.
        seed: deals the patients.
        clear: deletes files below a folder of the model that are no longer needed.
        progress: called for each step, by fold.

    Raises:
        RequestError: a stored result is of another training.
        TrainingError: the training of a fold was given up.
    """
    found: list[tuple[Negative, NegativeImage]] = []
    notes: list[str] = []
    dealt = deal_folds([negative.patient for negative in images], folds, seed)
    for number, patients in enumerate(dealt, start=1):
        name, stored = f"fold {number} of {folds}", folder / f"fold{number}.safetensors"
        training = [negative for negative in images if negative.patient not in patients]
        scored = [negative for negative in images if negative.patient in patients]
        digest = _digest(request, name, training, scored)
        own = read_fold(stored, digest, scored)
        if own is None:
            checkpoint = folder / f"fold{number}" / "training.safetensors"
            try:
                own = score(training, scored, checkpoint, _named(progress, name))
            except TrainingError as error:
                raise TrainingError(f"{name}: {error}") from None
            write_fold(stored, digest, own)
            clear(f"{folder.name}/{checkpoint.parent.name}")
        found += own.images
        notes += [f"{name.capitalize()}: {note}" for note in own.notes]
    return FoldScores(tuple(found), tuple(notes))


def write_fold(path: Path, digest: str, fold: FoldScores) -> None:
    """Store a fold's scores: one safetensors file with JSON in its header, written atomically."""
    arrays: dict[str, NDArray[Any]] = {}
    images = []
    for number, (negative, image) in enumerate(fold.images):
        own = {name: getattr(image, name) for name in _ARRAYS}
        own |= {
            "values": image.scored.scores.values,
            "foreground": image.scored.scores.foreground,
            "image": np.array([image.scored.image], np.float64),
        }
        arrays |= {
            f"{number}/{name}": np.ascontiguousarray(array)
            for name, array in own.items()
            if array is not None
        }
        grid = _GRID.dump_python(image.scored.scores.grid, mode="json")
        images.append({"digest": negative.source.digest, "grid": grid})
    content = {"digest": digest, "images": images, "notes": fold.notes}
    write_whole(path, save_arrays(arrays, metadata={"fold": json.dumps(content)}))


def read_fold(path: Path, digest: str, scored: Sequence[Negative]) -> FoldScores | None:
    """The stored result of a fold; None if there is none.

    Raises:
        ModelError: the file is not a fold's result.
        RequestError: it belongs to a training with another ``digest``.
    """
    if not path.exists():
        return None
    known = {negative.source.digest: negative for negative in scored}
    try:
        with safetensors.safe_open(path, framework="np") as file:
            content = json.loads((file.metadata() or {})["fold"])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if content["digest"] != digest:
            raise RequestError(
                f"{path} was written by a training with another configuration, data or seed: "
                "resume with those, or start again with --overwrite"
            )
        images = []
        for number, one in enumerate(content["images"]):
            negative = known[one["digest"]]
            own: dict[str, Any] = {n: arrays.get(f"{number}/{n}") for n in _ARRAYS}
            values, foreground, image = (
                arrays[f"{number}/{name}"] for name in ("values", "foreground", "image")
            )
            scores = PatchScores(_GRID.validate_python(one["grid"]), values, foreground)
            scored_image = Scored(scores, None, float(image[0]))
            images.append(
                (
                    negative,
                    NegativeImage(negative.patient, scored_image, side=side_of(negative), **own),
                )
            )
        return FoldScores(tuple(images), tuple(content["notes"]))
    except (
        *(OSError, ValueError, KeyError, TypeError, IndexError),
        *(ValidationError, safetensors.SafetensorError),
    ) as error:
        if isinstance(error, RequestError):
            raise
        raise ModelError(
            f"{path} does not hold the scores of a fold ({error}): delete it and resume"
        ) from None


def side_of(negative: Negative) -> Side:
    """The patient, study, view and side of an image, as far as known."""
    row, source = negative.row, negative.source
    return Side(row.patient_id, row.study_id, source.view or row.view, source.laterality)


def _digest(
    request: Mapping[str, Any],
    name: str,
    training: Sequence[Negative],
    scored: Sequence[Negative],
) -> str:
    """Identifies a fold: a digest of everything that its scores depend on."""
    images = [[negative.source.digest for negative in part] for part in (training, scored)]
    asked = [FORMAT, request, name, images]
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def _named(progress: Progress, name: str) -> Progress:
    def report(stage: str, done: int, total: int, value: float) -> None:
        progress(f"{name}: {stage}", done, total, value)

    return report
