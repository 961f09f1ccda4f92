"""Does an image threshold keep its guarantee? Flagged negatives, promised against found.

    python benchmarks/calibration.py --patients 100 --films 2 --alike 0.7

Films of a patient are correlated (``--alike``), and a toy detector learns from the negatives: the
mean and the covariance of a film's features, 10 numbers; the score is the Mahalanobis distance.
Training films score lower than new ones, as with real detectors.
Each trial draws negatives, trains, calibrates in several ways, and counts on thousands of new
negative patients. The rules are those of `patchad.model.calibration`.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from patchad.model.calibration import conformal_threshold, promised_rate

FEATURES = 10
LESION = 3.0  # effect of a lesion on a film, in standard deviations, in a direction of its own
NEW = 2000  # new patients per trial

Films = NDArray[np.float64]  # (patients, films, FEATURES)
Score = Callable[[Films], NDArray[np.float64]]  # (patients, films)


@dataclass(frozen=True)
class Setting:
    """The parameters of a simulation."""

    patients: int
    films: int
    alike: float
    share: float = 0.05
    held_out: float = 0.1
    folds: int = 5


@dataclass(frozen=True)
class Line:
    """A way to calibrate: its guarantee, and the result of each trial, (trials,) each."""

    name: str
    promised: float
    patients: NDArray[np.float64]
    images: NDArray[np.float64]
    sensitivity: NDArray[np.float64]


def draw(rng: np.random.Generator, setting: Setting, patients: int) -> Films:
    """Films of negative patients; unequal variances give the detector something to learn."""
    spread = np.geomspace(0.3, 3, FEATURES)
    patient = rng.normal(size=(patients, 1, FEATURES))
    own = rng.normal(size=(patients, setting.films, FEATURES))
    return spread * (np.sqrt(setting.alike) * patient + np.sqrt(1 - setting.alike) * own)


def learn(films: Films) -> Score:
    """The toy detector."""
    seen = films.reshape(-1, FEATURES)
    centre = seen.mean(0)
    inverse = np.linalg.inv(np.cov(seen.T) + 1e-6 * np.eye(FEATURES))

    def score(new: Films) -> NDArray[np.float64]:
        away = new - centre
        return np.sqrt(np.einsum("pfi,ij,pfj->pf", away, inverse, away))

    return score


def trial(rng: np.random.Generator, setting: Setting) -> dict[str, tuple[float, float, float]]:
    """For each way: the flagged share of new negative patients, of their images, of lesions."""
    known, new = draw(rng, setting, setting.patients), draw(rng, setting, NEW)
    direction = rng.normal(size=FEATURES)
    spread = np.geomspace(0.3, 3, FEATURES)
    lesions = new + LESION * spread * direction / np.linalg.norm(direction)
    held = max(1, round(setting.held_out * setting.patients))
    part, aside = learn(known[held:]), known[:held]
    whole = learn(known)
    found = {}

    def judge(name: str, score: Score, ranked: Sequence[float]) -> None:
        threshold = conformal_threshold(sorted(ranked), setting.share)
        over = score(new) > threshold
        found[name] = (
            float(over.any(1).mean()),
            float(over.mean()),
            float((score(lesions) > threshold).mean()),
        )

    judge(WAYS[0], part, part(aside).ravel().tolist())
    judge(WAYS[1], part, part(aside).max(1).tolist())
    judge(WAYS[2], whole, whole(known).max(1).tolist())
    folds = np.array_split(rng.permutation(setting.patients), setting.folds)
    models = [learn(np.delete(known, fold, axis=0)) for fold in folds]
    own = [model(known[fold]).max(1) for model, fold in zip(models, folds, strict=True)]
    judge(WAYS[3], whole, np.concatenate(own).tolist())
    found[WAYS[4]] = _all_models(models, own, new, lesions, setting.share)
    return found


WAYS = (
    "images of a tenth held out",
    "patients, a tenth held out",
    "patients that were trained on",
    "patients, folds, one model of all",
    "patients, folds, all models",
)


def _all_models(
    models: Sequence[Score],
    own: Sequence[NDArray[np.float64]],
    new: Films,
    lesions: Films,
    share: float,
) -> tuple[float, float, float]:
    """The variant that Barber et al. (2021) prove: a film is compared fold by fold."""
    count = sum(map(len, own))

    def flagged(scores: Sequence[NDArray[np.float64]]) -> NDArray[np.bool_]:
        as_high = sum(
            len(ranked) - np.searchsorted(np.sort(ranked), score, side="left")
            for ranked, score in zip(own, scores, strict=True)
        )
        return np.asarray((1 + as_high) / (1 + count) <= share)

    over = flagged([model(new) for model in models])
    patients = flagged([model(new).max(1) for model in models])
    lesion = flagged([model(lesions) for model in models])
    return float(patients.mean()), float(over.mean()), float(lesion.mean())


def simulate(setting: Setting, trials: int, seed: int) -> list[Line]:
    """All ways, on the same draws."""
    rng = np.random.default_rng(seed)
    results = [trial(rng, setting) for _ in range(trials)]
    held = max(1, round(setting.held_out * setting.patients))
    counted = (held * setting.films, held, *[setting.patients] * 3)
    return [
        Line(
            name,
            promised_rate(count, setting.share),
            *np.array([result[name] for result in results]).T,
        )
        for name, count in zip(WAYS, counted, strict=True)
    ]


def table(lines: Sequence[Line]) -> list[str]:
    """The lines as Markdown; ranges are the middle 90 % of the trials."""
    rows = [
        "| calibrated on | promised | found, patients | … of one model | images | sensitivity |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for line in lines:
        low, high = np.quantile(line.patients, [0.05, 0.95])
        rows.append(
            f"| {line.name} | {line.promised:.1%} | {line.patients.mean():.1%} | "
            f"{low:.1%} to {high:.1%} | {line.images.mean():.1%} | {_span(line.sensitivity)} |"
        )
    return rows


def _span(values: NDArray[np.float64]) -> str:
    low, high = np.quantile(values, [0.05, 0.95])
    return f"{values.mean():.2f} ({low:.2f} to {high:.2f})"


def main(arguments: Sequence[str] | None = None) -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--patients", type=int, default=100, help="with negatives")
    parser.add_argument("--films", type=int, default=2, help="a patient")
    parser.add_argument("--alike", type=float, default=0.7, help="correlation within a patient")
    parser.add_argument("--share", type=float, default=0.05, help="false alarms allowed")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--trials", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    setting = Setting(given.patients, given.films, given.alike, given.share, folds=given.folds)
    print(
        f"{given.patients} patients with {given.films} films, correlation {given.alike:g}, "
        f"{given.folds} folds; {given.trials} trials, seed {given.seed}\n"
    )
    print("\n".join(table(simulate(setting, given.trials, given.seed))))


if __name__ == "__main__":
    main()
