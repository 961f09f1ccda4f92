"""How well scores separate positives from negatives, with bootstrap intervals.

Pure functions on tensors, on their device, in float64. Samples are ranked once; any weighting of
the *units* they belong to (patients, here) can then be evaluated in a batch, which makes a
bootstrap by patient cheap: a resample is just an integer weight a patient (Efron &
Tibshirani, "An Introduction to the Bootstrap", 1993; Rutter, Academic Radiology 2000, for ROC and
clustered FROC data).

The figures here change only at the scores of positives, so a :class:`Ranking` keeps
the negatives in bins between those, and stays small for any number of negatives.
If a class is missing every figure is NaN, never 0 or 0.5.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

_BLOCK = 2**22  # elements of a table that is made dense at a time (32 MiB)
_SLACK = 1e-9  # of a share, so that 0.1 of 10 negatives is one of them despite rounding


@dataclass(frozen=True, eq=False)
class Table:
    """Counts by unit and column, sparse: ``count`` (K,) at (``unit``, ``column``), sorted."""

    unit: Tensor
    column: Tensor
    count: Tensor
    units: int
    columns: int

    def weigh(self, weights: Tensor) -> Tensor:
        """Weighted sums over the units: ``weights`` (B, units) → (B, columns) float64."""
        out = weights.new_empty(len(weights), self.columns)
        width = max(1, _BLOCK // max(self.units, 1))
        for start in range(0, self.columns, width):
            stop = min(start + width, self.columns)
            ends = torch.tensor([start, stop], device=self.column.device)
            part = slice(*torch.searchsorted(self.column, ends).tolist())
            block = weights.new_zeros(self.units, stop - start)
            block[self.unit[part], self.column[part] - start] = self.count[part]
            out[:, start:stop] = weights @ block
        return out


@dataclass(frozen=True, eq=False)
class Counts:
    """Counts at and above each level of a ranking, for B weightings; (B, U) float64 each.

    ``levels`` (U,) ascending, the distinct scores of positives. ``exactly``: positives at the
    level; ``true``: positives at or above it; ``false``: negatives at or above it; ``ties``:
    negatives at it. ``positives`` and ``negatives`` (B,) count them all.
    """

    levels: Tensor
    exactly: Tensor
    true: Tensor
    false: Tensor
    ties: Tensor
    positives: Tensor
    negatives: Tensor


@dataclass(frozen=True, eq=False)
class Ranking:
    """Samples sorted once; see :func:`rank`."""

    levels: Tensor
    positives: Table
    negatives: Table  # column k: negatives at or above exactly k levels
    ties: Table

    def counts(self, weights: Tensor | None = None) -> Counts:
        """The counts under ``weights`` (B, units) float64; by default, each unit once (B = 1)."""
        if weights is None:
            shape = (1, self.positives.units)
            weights = torch.ones(shape, dtype=torch.float64, device=self.levels.device)
        exactly, between = self.positives.weigh(weights), self.negatives.weigh(weights)
        true, false = _from_above(exactly), _from_above(between)
        return Counts(
            levels=self.levels,
            exactly=exactly,
            true=true,
            false=false[:, 1:],
            ties=self.ties.weigh(weights),
            positives=exactly.sum(1),
            negatives=false[:, 0],
        )


def rank(
    scores: Tensor,
    positive: Tensor,
    unit: Tensor | None = None,
    units: int | None = None,
    count: Tensor | None = None,
) -> Ranking:
    """Rank samples by score, higher = more anomalous, for any weighting of their units.

    Args:
        scores: (N,), any float; -inf for a positive that was never scored.
        positive: (N,) bool.
        unit: (N,) int64 in [0, units), the unit of each sample; by default each has its own.
        units: how many units there are.
        count: (N,) how many equal samples each represents; by default one.

    Raises:
        ValueError: a score is NaN.
    """
    scores = scores.to(torch.float64)
    if scores.isnan().any():
        raise ValueError(f"scores must be numbers, {int(scores.isnan().sum())} are NaN")
    if unit is None:
        unit, units = torch.arange(len(scores), device=scores.device), len(scores)
    elif units is None:
        units = int(unit.max()) + 1 if len(unit) else 0
    count = torch.ones_like(scores) if count is None else count.to(torch.float64)
    levels, place = torch.unique(scores[positive], return_inverse=True)
    negative = scores[~positive].contiguous()
    reached = torch.searchsorted(levels, negative, right=True)
    tied = reached > torch.searchsorted(levels, negative)
    size = len(levels)
    others, many = unit[~positive], count[~positive]
    return Ranking(
        levels=levels,
        positives=_table(unit[positive], place, count[positive], units, size),
        negatives=_table(others, reached, many, units, size + 1),
        ties=_table(others[tied], reached[tied] - 1, many[tied], units, size),
    )


def auroc(counts: Counts) -> Tensor:
    """Area under the ROC curve, (B,): how often positives outrank negatives (ties half)."""
    below = counts.negatives[:, None] - counts.false + counts.ties / 2
    return (counts.exactly * below).sum(1) / (counts.positives * counts.negatives)


def average_precision(counts: Counts) -> Tensor:
    """Mean precision over the positives, (B,), without interpolation (as in scikit-learn)."""
    precision = torch.nan_to_num(counts.true / (counts.true + counts.false))
    return _both((counts.exactly * precision).sum(1) / counts.positives, counts)


def sensitivity_at_specificity(counts: Counts, specificity: float) -> Tensor:
    """The highest sensitivity of any threshold with at least this specificity, (B,)."""
    limit = (1 - specificity + _SLACK) * counts.negatives
    found = torch.where(counts.false <= limit[:, None], counts.true, 0.0)
    return _both(_highest(found) / counts.positives, counts)


def froc(counts: Counts, images: Tensor, rates: tuple[float, ...]) -> Tensor:
    """Lesion sensitivity at the most at ``rates`` false marks an image: (B, len(rates)).

    The ranking's positives are lesions, each with the score of its best mark (-inf: no mark hit
    it), its negatives are false marks. ``images`` (B,): the weighted number of images that the
    false marks were counted on. Bunch et al., J. Appl. Photogr. Eng. 1978; not interpolated.
    """
    found = torch.where(counts.levels > -math.inf, counts.true, 0.0)
    columns = []
    for rate in rates:
        allowed = counts.false <= ((rate + _SLACK) * images)[:, None]
        columns.append(_highest(torch.where(allowed, found, 0.0)) / counts.positives)
    empty = (images == 0)[:, None]
    return torch.stack(columns, 1).masked_fill(empty, math.nan)


def agreement(true: Tensor, missed: Tensor, false: Tensor, passed: Tensor) -> dict[str, Tensor]:
    """The results at a fixed threshold, from the counts of the four outcomes, each of any shape.

    ``true``/``missed``: positives above and not above it; ``false``/``passed``: negatives.
    """
    return {
        "sensitivity": true / (true + missed),
        "specificity": passed / (passed + false),
        "precision": true / (true + false),
        "f1": 2 * true / (2 * true + false + missed),
        "accuracy": (true + passed) / (true + missed + false + passed),
    }


def weighted_mean(values: Tensor, unit: Tensor, weights: Tensor) -> Tensor:
    """The mean of ``values`` (K,) over weights (B, units) of their ``unit`` (K,): (B,)."""
    each = weights[:, unit]
    return each @ values.to(weights.dtype) / each.sum(1)


def roc_curve(counts: Counts) -> tuple[Tensor, Tensor]:
    """The corners of the first weighting's ROC curve: false and true positive rates, (2U + 2,)."""
    before = torch.stack([counts.false - counts.ties, counts.true - counts.exactly], -1)[0]
    after = torch.stack([counts.false, counts.true], -1)[0]
    corners = torch.stack([after, before], 1).reshape(-1, 2).flip(0)
    totals = torch.stack([counts.negatives, counts.positives], -1)
    rates = torch.cat([torch.zeros_like(totals), corners, totals]) / totals
    return rates[:, 0], rates[:, 1]


def pr_curve(counts: Counts) -> tuple[Tensor, Tensor]:
    """Recall and precision of the first weighting at each level, from the highest: (U,) each."""
    true, false = counts.true[0].flip(0), counts.false[0].flip(0)
    return true / counts.positives[0], true / (true + false)


def froc_curve(counts: Counts, images: Tensor) -> tuple[Tensor, Tensor]:
    """False marks an image and lesion sensitivity of the first weighting, from the highest mark."""
    kept = (counts.levels > -math.inf).flip(0)
    rate, found = counts.false[0].flip(0) / images[0], counts.true[0].flip(0) / counts.positives[0]
    return rate[kept], found[kept]


def resample(units: int, times: int, *, seed: int, device: torch.device) -> Tensor:
    """How often each unit is drawn in each bootstrap resample: (times, units) float64.

    Drawn on the CPU, so that a seed gives the same resamples on every device.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(max(units, 1), (times, units), generator=generator)
    weights = torch.zeros(times, units, dtype=torch.float64)
    return weights.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=torch.float64)).to(device)


def bootstrap(statistic: Callable[[Tensor], Tensor], weights: Tensor, chunk: int = 250) -> Tensor:
    """``statistic`` of each resample, (R, …): it maps weights (B, units) to (B, …).

    ``chunk`` resamples are evaluated at once.
    """
    parts = range(0, len(weights), chunk)
    return torch.cat([statistic(weights[start : start + chunk]) for start in parts])


def interval(draws: Tensor, confidence: float = 0.95) -> tuple[float, float]:
    """The percentile interval of ``draws`` (R,), NaN left out; NaN if uninformative.

    Draws that are all equal are uninformative: a resample of perfect scores is perfect, which
    says little about a new patient.
    """
    draws = draws[draws.isfinite()]
    if not len(draws) or bool((draws == draws[0]).all()):
        return math.nan, math.nan
    tail = (1 - confidence) / 2
    ends = torch.tensor([tail, 1 - tail], dtype=draws.dtype, device=draws.device)
    low, high = torch.quantile(draws, ends).tolist()
    return low, high


def _table(unit: Tensor, column: Tensor, count: Tensor, units: int, columns: int) -> Table:
    cell, place = torch.unique(column * units + unit, return_inverse=True)
    total = torch.zeros(len(cell), dtype=torch.float64, device=count.device)
    total.index_add_(0, place, count)
    return Table(cell % max(units, 1), cell // max(units, 1), total, units, columns)


def _from_above(values: Tensor) -> Tensor:
    return values.flip(1).cumsum(1).flip(1)


def _highest(values: Tensor) -> Tensor:
    return values.amax(1) if values.shape[1] else values.new_zeros(len(values))


def _both(values: Tensor, counts: Counts) -> Tensor:
    missing = (counts.positives == 0) | (counts.negatives == 0)
    return values.masked_fill(missing, math.nan)
