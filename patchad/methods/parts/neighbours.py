"""Distances to many points, exact in float32; some rows at a time, so that memory suffices."""

import torch
from torch import Tensor

from patchad.core.grid import batches

_MORE = 8  # candidates beyond those asked for
_AT_ONCE = 512  # rows whose distances to all points are held together


def nearest(points: Tensor, known: Tensor, count: int) -> Tensor:
    """Euclidean distances of ``points`` (N, K) to their nearest ``known`` (n, K).

    Candidates are found by products of matrices, which is fast but rounds near 0; their distances
    are then taken from differences.

    Returns:
        (N, ``count``) float32, ascending; ``count`` ≤ n.
    """
    wanted, squares = min(count + _MORE, len(known)), known.square().sum(1)
    found = []
    for rows in batches(len(points), _AT_ONCE):
        part = points[rows]
        rough = squares - 2 * part @ known.T  # in the order of distances
        candidates = known[rough.topk(wanted, dim=1, largest=False).indices]
        apart = (candidates - part[:, None]).square().sum(-1).sqrt()
        found.append(apart.topk(count, dim=1, largest=False).values)
    return torch.cat(found)


def radial_sum(points: Tensor, centres: Tensor, weights: Tensor, gamma: Tensor) -> Tensor:
    """Σ weight · exp(-gamma · squared distance): (N, K), (n, K), (n,), scalar → (N,)."""
    exact = "donot_use_mm_for_euclid_dist"
    found = []
    for rows in batches(len(points), _AT_ONCE):
        apart = torch.cdist(points[rows], centres, compute_mode=exact)
        found.append((-gamma * apart.square()).exp() @ weights)
    return torch.cat(found)
