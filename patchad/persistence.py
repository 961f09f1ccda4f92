"""The regions over every threshold at once: each by its peak, and the level where it ends.

Regions over a falling threshold appear at a peak, grow, and merge. Where two meet, the lower peak
ends and the higher one goes on: the elder rule of superlevel-set persistence (H. Edelsbrunner and
J. Harer, Computational Topology, 2010, chapter VII).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Peaks:
    """``births`` (K,) float32, the heights of the peaks, highest first; ``deaths`` (K,) float32.

    A death is the height at which a peak's region merges into that of a higher peak, -inf if it
    never does. The regions over a threshold t are the peaks with birth > t ≥ death.
    """

    births: NDArray[np.float32]
    deaths: NDArray[np.float32]

    def over(self, threshold: float) -> NDArray[np.float32]:
        """The peaks of the regions over ``threshold``: (n,) float32, highest first."""
        return self.births[(self.births > threshold) & (self.deaths <= threshold)]


def peaks_of(values: NDArray[np.float32], links: NDArray[np.int64]) -> Peaks:
    """The peaks of ``values`` (N,), of which ``links`` (E, 2) says which are neighbours.

    NaN values take no part.
    """
    heights = np.minimum(values[links[:, 0]], values[links[:, 1]])  # NaN if either is
    known = np.flatnonzero(np.isfinite(heights))
    order = known[np.argsort(-heights[known], kind="stable")]
    deaths = np.full(len(values), -np.inf, np.float32)
    level, root = values.tolist(), list(range(len(values)))

    def top(node: int) -> int:
        while root[node] != node:
            root[node] = root[root[node]]
            node = root[node]
        return node

    for (one, other), height in zip(links[order].tolist(), heights[order].tolist(), strict=True):
        elder, younger = top(one), top(other)
        if elder == younger:
            continue
        if level[elder] < level[younger]:
            elder, younger = younger, elder
        root[younger] = elder
        deaths[younger] = height
    lasting = np.flatnonzero(np.isfinite(values) & (values > deaths))  # not the rest of a plateau
    lasting = lasting[np.argsort(-values[lasting], kind="stable")]
    return Peaks(values[lasting], deaths[lasting])


def lowest_threshold(films: Sequence[Peaks], budget: float, floor: float) -> float:
    """The lowest threshold from which on no higher one leaves a film more regions than ``budget``.

    On average over ``films``; a region lies strictly over the threshold. Far down all regions are
    one again, so it is looked for from above, and no lower than ``floor``.
    """
    births = np.concatenate([np.empty(0, np.float32), *(film.births for film in films)])
    deaths = np.concatenate([np.empty(0, np.float32), *(film.deaths for film in films)])
    levels = np.concatenate([births, deaths[np.isfinite(deaths)]]).astype(np.float64)
    levels = np.unique(np.append(levels[levels >= floor], floor))[::-1]
    # Regions over each level, and so over all thresholds up to the next higher one.
    over = len(births) - np.searchsorted(np.sort(births), levels, side="right")
    ended = len(deaths) - np.searchsorted(np.sort(deaths), levels, side="right")
    too_many = np.flatnonzero(over - ended > budget * len(films) + 1e-9)
    if not len(too_many):
        return floor
    return float(levels[too_many[0] - 1])  # over the highest level there is no region
