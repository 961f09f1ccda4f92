"""How rare a mark is: how many marks as strong as this a normal film has.

It is counted on the marks of negative films that the model was not trained on. With n films, and k
marks on them that score at least s,

    rarity(s) = (1 + k) / (1 + n) marks a film,

which is never 0, and falls as s rises. It is a count, not a probability: two marks on one film are
two. Below a third it hardly differs from the share of normal films that have such a mark.

The upper bound (95 %, one-sided) is that of Fay & Feuer for weighted sums of Poisson counts
(Statistics in Medicine 16:791-801, 1997). Films of one patient are correlated, so patients are the
independent events, each weighted by its number of marks. With v the variance of k between patients
(at least k itself) and w the largest weight of a patient,

    bound(s) = (v + w²) / (2 (k + w)) · χ²(0.95; 2 (k + w)² / (v + w²)) / n,

which is 3.0 / patients if k = 0. It assumes that patients are independent and from the same
population as new ones, and that a score means the same on their films. benchmarks/rarity.py
measures how well both hold on new films; see docs/marks.md.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95  # of the upper bound, one-sided
_LEVELS = 500  # the most scores that are kept; one between two of them counts as the lower


@dataclass(frozen=True)
class Rarity:
    """The number of marks of a normal film, by their score; see the module for the formulas.

    ``scores`` ascend. ``expected[i]`` and ``upper[i]``, in marks per film, are for a score above
    ``scores[i - 1]`` and at most ``scores[i]``: the first for all scores up to the lowest, the last
    for those above the highest. Counted on ``films`` of ``patients``.
    """

    scores: tuple[float, ...]
    expected: tuple[float, ...]
    upper: tuple[float, ...]
    films: int
    patients: int

    def __post_init__(self) -> None:
        if not len(self.expected) == len(self.upper) == len(self.scores) + 1:
            raise ValueError("a rarity and a bound are needed for each score and for one above all")

    def of(self, score: float) -> tuple[float, float]:
        """The number of marks of at least this score on a normal film, and its upper bound."""
        if math.isnan(score):
            return math.nan, math.nan
        place = int(np.searchsorted(self.scores, score, side="left"))
        return self.expected[place], self.upper[place]

    def in_words(self, rarity: float) -> str:
        """A sentence: ``a mark this strong is seen in 1 of 12 normal films``."""
        if math.isnan(rarity):
            return "how rare a mark this strong is, is not known"
        if rarity > 0.5:
            count = f"{rarity:.2g}" if rarity >= 1.5 else "about 1"
            return f"a normal film has {count} mark{'s' * (rarity >= 1.5)} this strong"
        if self._unseen(rarity):
            return f"a mark this strong is seen in fewer than 1 of {self.films} normal films"
        return f"a mark this strong is seen in 1 of {_one_in(rarity)} normal films"

    def in_short(self, rarity: float) -> str:
        """A short form: ``1 in 12``."""
        if math.isnan(rarity):
            return "not known"
        if rarity > 0.5:
            return f"{max(rarity, 1):.2g} a film"
        return f"<1 in {self.films}" if self._unseen(rarity) else f"1 in {_one_in(rarity)}"

    def _unseen(self, rarity: float) -> bool:
        """Whether no normal film had a mark this strong."""
        return rarity * (1 + self.films) < 1.5


def bound_in_short(upper: float) -> str:
    """An upper bound in short: ``at most 1 in 5``; empty if unknown."""
    if math.isnan(upper):
        return ""
    return f"at most {upper:.2g} a film" if upper > 0.5 else f"at most 1 in {_one_in(upper)}"


def _one_in(rarity: float) -> int:
    """The whole number n of ``1 in n``, rounded towards more common."""
    return int(1 / rarity + 1e-9)


def estimate_rarity(marks: Sequence[NDArray[np.float32]], patients: Sequence[str]) -> Rarity:
    """Estimate the rarity of marks from those of negative films.

    Args:
        marks: the scores of each film's marks, (n,) float32 each.
        patients: the patient of each film.
    """
    films = len(marks)
    names, owner = np.unique(np.array(patients), return_inverse=True)
    scores = np.concatenate([np.empty(0, np.float32), *marks]).astype(np.float64)
    owners = np.repeat(owner, [len(found) for found in marks])
    own = np.bincount(owner, minlength=len(names)).astype(np.float64)  # films of each patient
    kept = np.unique(scores)
    if len(kept) > _LEVELS:  # all of the highest, the others at growing steps of rank
        ranks = np.unique(np.geomspace(1, len(kept), _LEVELS).round().astype(np.int64))
        kept = kept[len(kept) - ranks[::-1]]
    expected, upper = [], []
    for above in (-np.inf, *kept):
        counts = np.bincount(owners[scores > above], minlength=len(names)).astype(np.float64)
        expected.append(float((1 + counts.sum()) / (1 + films)))
        upper.append(max(upper_bound(counts, own), expected[-1]))
    rising = np.maximum.accumulate(upper[::-1])[::-1]
    return Rarity(tuple(kept.tolist()), tuple(expected), tuple(rising.tolist()), films, len(names))


def upper_bound(marks: NDArray[np.float64], films: NDArray[np.float64]) -> float:
    """The upper bound of marks per film, from the marks and films of each patient, (m,) each."""
    from scipy import stats  # slow to import, and needed only here

    count, number, patients = marks.sum(), films.sum(), len(films)
    heaviest = max(marks.max(), number / patients)
    variance = count**2  # one patient gives no variance
    if patients > 1:
        spread = np.square(marks - count / number * films).sum() * patients / (patients - 1)
        variance = max(count, spread)
    size, weight = variance + heaviest**2, count + heaviest
    return float(size / (2 * weight) * stats.chi2.ppf(CONFIDENCE, 2 * weight**2 / size) / number)
