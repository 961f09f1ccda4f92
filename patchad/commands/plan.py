"""Which negatives train the model and which calibrate it: never a patient on both sides."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from patchad.commands.negatives import Negative
from patchad.errors import RequestError
from patchad.model.config import Config

LEAK = (
    "Held out by patch, as Wei et al. (2018) did: held-out patches neighbour patches that were "
    "trained on, so percentiles and thresholds LEAK and are too optimistic."
)


@dataclass(frozen=True, eq=False)
class Plan:
    """Which negatives train and which calibrate.

    ``training`` are the model's own negatives, ``held_out`` those that calibrate it: none if
    the split is by patch, or if the models of ``folds`` score all of them. ``split`` and ``made``
    describe it in the card; ``cautions`` are notes for its reader.
    """

    training: tuple[Negative, ...]
    held_out: tuple[Negative, ...]
    folds: int
    split: str
    made: str
    cautions: tuple[str, ...] = ()


def require_patients(patients: Collection[str], config: Config, *, given: bool) -> None:
    """Refuse negatives of too few patients; ``given``: a manifest names those that calibrate.

    Raises:
        RequestError: there are too few patients to divide.
    """
    if config.split.by == "patch" or given:
        return
    folds = config.calibration.folds
    if len(patients) < 2:
        raise RequestError(
            f"calibration needs negatives of other patients than training, but there is "
            f"{len(patients)} patient: give more, or a manifest whose column patient_id tells them "
            "apart, or --set split.by=patch (which leaks)"
        )
    if len(patients) < folds:
        raise RequestError(
            f"calibration.folds = {folds} takes negatives of {folds} patients at least, there are "
            f"{len(patients)}: give more, lower it, or hold out a share with "
            "--set calibration.folds=0"
        )


def plan_calibration(images: Sequence[Negative], config: Config, seed: int) -> Plan:
    """Divide the negatives, by patient.

    Negatives of the split ``validation`` calibrate, if a manifest names any; else, with
    ``calibration.folds``, all do; else those of a share of the patients, drawn by ``seed``.

    Raises:
        RequestError: there are too few patients.
    """
    everyone, folds = tuple(images), config.calibration.folds
    if config.split.by == "patch":
        made = "patches held out of the training images"
        return Plan(everyone, (), 0, "by patch", made, (LEAK,))
    given = tuple(negative for negative in images if negative.row.split == "validation")
    patients = sorted({negative.patient for negative in images})
    require_patients(patients, config, given=bool(given))
    if given:
        rest = tuple(negative for negative in images if negative.row.split != "validation")
        if not rest:
            raise RequestError(
                f"all {len(given)} negatives are of the split validation, which calibrates, and "
                "none is left to train on: give some the split train"
            )
        made = "the negatives of the manifest's split validation"
        if folds > 1:
            made += f", so calibration.folds = {folds} was not needed"
        return Plan(rest, given, 0, "given by the manifest", made)
    if folds > 1:
        made = (
            f"all negatives, in {folds} folds by patient, each scored by a model that was trained "
            "on the other folds; this model was trained on all of them"
        )
        return Plan(everyone, (), folds, f"{folds} folds by patient", made)
    count = min(max(1, round(config.split.held_out * len(patients))), len(patients) - 1)
    chosen = set(np.random.default_rng(seed).permutation(patients)[:count].tolist())
    return Plan(
        tuple(negative for negative in images if negative.patient not in chosen),
        tuple(negative for negative in images if negative.patient in chosen),
        0,
        "by patient",
        "negatives set aside from training, by patient",
    )
