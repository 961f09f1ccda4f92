"""How well the rarity of a mark holds on new films: stated against true, on simulated patients.

Films of a patient are correlated. Each patient has a rate of marks and a shift of their scores:

    marks of a film ~ Poisson(3 · exp(a · z₁ − a² / 2))
    score of a mark ~ Exponential(1) + c · z₂

with z₁ and z₂ standard normal, drawn once per patient. A model is calibrated on some patients: the
threshold gives one mark per film, and their rarity is estimated. Then, over many calibrations, this
counts the marks with a stated rarity of r or less on films of new patients; and how often the true
rate exceeds the upper bound, which may happen 5 % of the time.

    python benchmarks/rarity.py --trials 400
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from patchad.model.rarity import Rarity, estimate_rarity

MARKS = 3.0  # per film, before the threshold
ALIKE = {"not alike": (0.0, 0.0), "alike": (0.5, 0.5), "very alike": (1.0, 1.0)}  # a, c
STATED = (0.5, 0.2, 0.1, 0.05, 0.02)
SIZES = ((10, 4), (20, 4), (40, 4), (150, 2), (400, 4))  # patients, films of each


@dataclass(frozen=True)
class Row:
    """The true number per film of marks with a rarity of ``stated`` or less.

    ``true`` is the mean over trials, ``low`` to ``high`` contains nine of ten. ``bound`` is the
    mean upper bound, ``broken`` the share of trials in which the truth exceeded it; ``trials``
    counts those in which a mark could be that rare.
    """

    alike: str
    patients: int
    films: int
    stated: float
    true: float
    low: float
    high: float
    bound: float
    broken: float
    trials: int


class _Drawn(NamedTuple):
    scores: NDArray[np.float64]
    film: NDArray[np.int64]
    films: int


def draw(rng: np.random.Generator, patients: int, films: int, alike: tuple[float, float]) -> _Drawn:
    """The marks of all films of some patients: scores, and the film each is on."""
    rate, shift = alike
    each = np.exp(rate * rng.normal(size=patients) - rate**2 / 2)
    counts = rng.poisson(MARKS * np.repeat(each, films))
    film = np.repeat(np.arange(patients * films), counts)
    scores = rng.exponential(size=len(film)) + shift * rng.normal(size=patients)[film // films]
    return _Drawn(scores, film, patients * films)


def calibrated(drawn: _Drawn, films: int) -> Rarity:
    """The rarity estimated from these films, with one mark per film."""
    threshold = np.sort(drawn.scores)[::-1][min(drawn.films, len(drawn.scores) - 1)]
    over = drawn.scores > threshold
    scores, film = drawn.scores[over].astype(np.float32), drawn.film[over]
    ends = np.cumsum(np.bincount(film, minlength=drawn.films))[:-1]
    return estimate_rarity(
        np.split(scores, ends), [str(number // films) for number in range(drawn.films)]
    )


def simulate(trials: int, seed: int, sizes: tuple[tuple[int, int], ...] = SIZES) -> Iterator[Row]:
    """A row for each correlation, size and stated rarity."""
    rng = np.random.default_rng(seed)
    for name, alike in ALIKE.items():
        population = draw(rng, 100_000, 2, alike)
        ranked = np.sort(population.scores)
        for patients, films in sizes:
            found: dict[float, list[tuple[float, float]]] = {stated: [] for stated in STATED}
            for _ in range(trials):
                rarity = calibrated(draw(rng, patients, films, alike), films)
                for stated in STATED:
                    place = int(np.argmax(np.array(rarity.expected) <= stated + 1e-12))
                    if place == 0:  # no mark is as rare as that
                        continue
                    above = rarity.scores[place - 1]
                    more = len(ranked) - np.searchsorted(ranked, above, side="right")
                    found[stated].append((more / population.films, rarity.upper[place]))
            for stated, pairs in found.items():
                if pairs:
                    true, bound = np.array(pairs).T
                    low, high = np.quantile(true, (0.05, 0.95))
                    yield Row(
                        name, patients, films, stated, float(true.mean()), float(low), float(high),
                        float(bound.mean()), float((true > bound).mean()), len(pairs),
                    )  # fmt: skip


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    print("| films of a patient | patients × films | said | true (nine of ten) | bound | broken |")
    print("|---|---|---|---|---|---|")
    for row in simulate(asked.trials, asked.seed):
        print(
            f"| {row.alike} | {row.patients} × {row.films} | {row.stated:g} | {row.true:.3f} "
            f"({row.low:.3f} to {row.high:.3f}) | {row.bound:.3f} | {row.broken:.1%} |"
        )


if __name__ == "__main__":
    main()
