"""Per-region overlap (PRO) and Dice over all thresholds of heatmaps' pixels.

PRO gives each connected part of a lesion the same weight, large or small: P. Bergmann, M. Fauser,
D. Sattlegger, C. Steger, "Uninformed students", CVPR 2020, https://arxiv.org/abs/1911.02357. The
limit of 0.3 is that of later public code (anomalib); not all papers name theirs.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from patchad.evaluation.metrics import Counts

LIMIT = 0.3  # of the share of negative pixels above the threshold


@dataclass(frozen=True, eq=False)
class Components:
    """The connected parts of lesions at each level, from the lowest.

    ``covered`` (C, L) float64: the share of each part at or above the level; ``patient`` (C,)
    int64 its patient; ``negatives`` (patients, L) float64: negative pixels at or above the level.
    """

    covered: Tensor
    patient: Tensor
    negatives: Tensor

    @classmethod
    def of(
        cls,
        parts: Sequence[tuple[int, NDArray[np.int64], int]],
        negatives: NDArray[np.int64],
        device: torch.device,
    ) -> "Components":
        """From ``parts``, each a patient with what :func:`component_levels` gives.

        ``negatives`` (patients, L): negative pixels of each level.
        """
        found = np.array([_from_above(levels) / size for _, levels, size in parts])
        patients = np.array([patient for patient, *_ in parts], np.int64)
        return cls(
            torch.from_numpy(found.reshape(len(parts), negatives.shape[1])).to(device),
            torch.from_numpy(patients).to(device),
            torch.from_numpy(_from_above(negatives).astype(np.float64)).to(device),
        )


def component_levels(
    levels: NDArray[np.integer], lesion: NDArray[np.bool_], count: int
) -> Iterator[tuple[NDArray[np.int64], int]]:
    """For each connected part (8 neighbours) of a lesion: its pixels by level, and its size.

    Args:
        levels: (H, W) the level of each pixel in [0, count), -1 where it was not scored.
        lesion: (H, W) which pixels are lesion.
        count: the number of levels.
    """
    labels, parts = ndimage.label(lesion, structure=np.ones((3, 3), bool))
    for number, place in enumerate(ndimage.find_objects(labels, parts), start=1):
        own = levels[place][labels[place] == number]
        yield np.bincount(own[own >= 0], minlength=count).astype(np.int64), len(own)


def region_overlap(components: Components, weights: Tensor, limit: float = LIMIT) -> Tensor:
    """PRO under weights (B, patients): (B,) in [0, 1]; NaN without lesions or negative pixels.

    The curve runs through (0, 0), the points of all levels, and straight between them.
    """
    each = weights[:, components.patient]
    overlap = each @ components.covered / each.sum(1, keepdim=True)
    false = weights @ components.negatives
    false = false / false[:, :1]
    start = torch.zeros_like(false[:, :1])
    x = torch.cat([start, false.flip(1)], 1)  # ascending
    y = torch.cat([start, overlap.flip(1)], 1)
    width = (x.clamp(max=limit)).diff(dim=1)
    step = x.diff(dim=1)
    # of a piece that crosses the limit, the part before it
    share = torch.where(step > 0, width / step.clamp_min(1e-300), torch.zeros_like(step))
    end = y[:, :-1] + share * y.diff(dim=1)
    found = (width * (y[:, :-1] + end) / 2).sum(1) / limit
    return found.where(torch.isfinite(overlap[:, 0]) & torch.isfinite(false[:, 0]), torch.nan)


def best_dice(counts: Counts, lesion: Tensor) -> Tensor:
    """The highest Dice of any threshold: (B,), chosen on the data that it is computed from.

    ``lesion`` (B,): all pixels of lesions, scored or not.
    """
    if not counts.true.shape[1]:
        return torch.full_like(lesion, torch.nan)
    dice = 2 * counts.true / (lesion[:, None] + counts.true + counts.false)
    return dice.amax(1)


def _from_above(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.ascontiguousarray(counts[..., ::-1].cumsum(-1)[..., ::-1])
