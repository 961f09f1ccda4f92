"""Folds by patient: who is for training, calibration and scoring."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from patchad.errors import RequestError
from patchad.files.whole import write_whole

CALIBRATION = 0.1  # share of the training patients, as `patchad train` sets aside


@dataclass(frozen=True)
class Fold:
    """Manifests: ``training`` has negatives in the splits train and validation, ``test`` the rest.

    ``test`` holds the fold's own images, positive and negative, all with the split test.
    """

    training: Path
    test: Path


@dataclass(frozen=True)
class Folds:
    """A data set divided into folds; ``truth``, ``regions`` and ``subsets`` are of all of them.

    ``facts`` are counts for the report, ``notes`` warnings for its reader.
    """

    folds: tuple[Fold, ...]
    truth: Path
    regions: Path
    subsets: Mapping[str, Path]
    facts: Mapping[str, float]
    notes: tuple[str, ...] = ()


def deal_patients(
    patients: Iterable[str], positive: set[str], folds: int, seed: int
) -> tuple[set[str], ...]:
    """The patients of each fold, those with and without a positive image divided evenly.

    Raises:
        RequestError: fewer than two folds, or fewer patients than folds.
    """
    pool = sorted(set(patients))
    if not 2 <= folds <= len(pool):
        raise RequestError(
            f"--cross-validate takes 2 folds to the number of patients ({len(pool)}), got {folds}"
        )
    order = np.random.default_rng(seed).permutation(pool).tolist()
    order.sort(key=lambda patient: patient not in positive)  # stable: shuffled within both
    return tuple(set(order[start::folds]) for start in range(folds))


def set_aside(patients: Iterable[str], seed: int, share: float = CALIBRATION) -> set[str]:
    """The patients whose negatives are for calibration, not training; at least one."""
    pool = sorted(set(patients))
    count = max(1, round(share * len(pool)))
    return set(np.random.default_rng(seed).permutation(pool)[:count].tolist())


def write_folds(
    rows: pd.DataFrame,
    regions: pd.DataFrame | Path,
    folder: Path,
    *,
    folds: int,
    seed: int,
    subsets: Mapping[str, "pd.Series[bool]"],
    notes: tuple[str, ...] = (),
    unlabelled: pd.DataFrame | None = None,
    aside: float = CALIBRATION,
) -> Folds:
    """Divide a data set's patients into folds and write the tables of every fold.

    Args:
        rows: of a manifest, without splits.
        regions: columns as :func:`patchad.read.manifest.read_regions` needs them; or such a file.
        folder: to write into.
        folds: the number of folds.
        seed: of the folds, and of the patients for calibration.
        subsets: the ``rows`` to evaluate separately, by name.
        notes: warnings about the data for the reader.
        unlabelled: rows of other patients, for the training of every fold; never judged.
        aside: the share of the training patients for calibration.
    """
    positive = rows["label"] == "positive"
    dealt = deal_patients(rows["patient_id"], {*rows["patient_id"][positive]}, folds, seed)
    tested = rows.assign(split="test")
    written = []
    facts: dict[str, float] = {
        "images": len(rows),
        "positive": int(positive.sum()),
        "patients": rows["patient_id"].nunique(),
    }
    if isinstance(regions, pd.DataFrame):
        facts["regions"] = len(regions)
    if unlabelled is not None:
        facts["unlabelled"] = len(unlabelled)
    for number, patients in enumerate(dealt, start=1):
        own = rows["patient_id"].isin(patients)
        learnt = rows[~own & ~positive]
        held = learnt["patient_id"].isin(set_aside(learnt["patient_id"], seed, aside))
        splits = np.where(held, "validation", "train")
        fold = Fold(folder / f"fold{number}-training.csv", folder / f"fold{number}-test.csv")
        training = learnt.assign(split=splits)
        if unlabelled is not None and len(unlabelled):
            training = pd.concat([training, unlabelled.assign(split="unlabelled")])
        write_whole(fold.training, training.to_csv(index=False))
        write_whole(fold.test, tested[own].to_csv(index=False))
        written.append(fold)
        facts |= {
            f"fold {number}: training": int((~held).sum()),
            f"fold {number}: calibration": int(held.sum()),
        }
    truth = folder / "truth.csv"
    write_whole(truth, tested.to_csv(index=False))
    if isinstance(regions, pd.DataFrame):
        table, regions = regions, folder / "regions.csv"
        write_whole(regions, table.to_csv(index=False))
    parts = {}
    for name, chosen in subsets.items():
        parts[name] = folder / f"truth-{name}.csv"
        write_whole(parts[name], tested[chosen].to_csv(index=False))
    return Folds(tuple(written), truth, regions, parts, facts, notes)


def write_tables(
    rows: pd.DataFrame, regions: pd.DataFrame, folder: Path, unlabelled: float = 0.0
) -> None:
    """Write ``manifest.csv`` and ``regions.csv``, for ``compare.py``.

    ``unlabelled`` is the share of the patients without regions whose rows get this split: as many
    of those with a positive image as of the others.
    """
    marked = set(rows["patient_id"][rows["path"].astype(str).isin(regions["path"].astype(str))])
    positive = {*rows["patient_id"][rows["label"] == "positive"]}
    rng, chosen = np.random.default_rng(0), set[str]()
    for group in (positive - marked, {*rows["patient_id"]} - positive - marked):
        pool = sorted(group)
        chosen |= {*rng.permutation(pool)[: round(unlabelled * len(pool))].tolist()}
    splits = np.where(rows["patient_id"].isin(chosen), "unlabelled", "")
    write_whole(folder / "manifest.csv", rows.assign(split=splits).to_csv(index=False))
    write_whole(folder / "regions.csv", regions.to_csv(index=False))
