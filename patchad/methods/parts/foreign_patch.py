"""Squares of one film pasted into another: anomalies made of negatives, on the device.

As DDAD's code makes them (Cai et al., https://arxiv.org/abs/2210.04227), after J. Tan et al.:
Foreign patch interpolation, https://arxiv.org/abs/2011.04197: blended in with a share α, at the
same place in both films.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

PASTED = 0.5  # share of films that get one
_HALF = (0.05, 0.2)  # of the side: least and greatest half-width


@dataclass(frozen=True, eq=False)
class ForeignPatches:
    """One square for each of B films, on one device.

    ``shift`` (B,) int64: the film it comes from, counted onwards from the own one. ``edges`` (B, 4)
    int64: top, left, bottom, right, the last two excluded; they may lie outside. ``alpha`` (B,)
    float32: the other film's share, 0 where nothing is pasted.
    """

    shift: Tensor
    edges: Tensor
    alpha: Tensor

    def to(self, device: torch.device) -> "ForeignPatches":
        """The same on another device."""
        parts = (self.shift, self.edges, self.alpha)
        return ForeignPatches(*(part.to(device, non_blocking=True) for part in parts))


def draw_patches(
    count: int, films: int, side: int, generator: torch.Generator, pasted: float = PASTED
) -> ForeignPatches:
    """Draw squares for ``count`` pictures of ``side`` pixels, of 2 ``films`` or more; on the CPU.

    α is uniform in (0, 1); centres are uniform in the middle 80 %, half-widths between 5 and 20 %
    of the side: 3 to 12 pixels of 64. A share ``pasted`` of the pictures gets one.
    """
    least = max(round(side * _HALF[0]), 1)
    most = max(round(side * _HALF[1]), least + 1)  # excluded
    shift = torch.randint(1, films, (count,), generator=generator)
    centre = torch.randint(side // 10, side * 9 // 10, (count, 2), generator=generator)
    half = torch.randint(least, most, (count, 1), generator=generator)
    alpha = torch.rand(count, generator=generator)
    given = torch.rand(count, generator=generator) < pasted
    return ForeignPatches(shift, torch.cat([centre - half, centre + half], 1), alpha * given)


def paste(pictures: Tensor, which: Tensor, patches: ForeignPatches) -> tuple[Tensor, Tensor]:
    """Pictures ``which`` (B,) int64 of all (N, 1, S, S), with their patches pasted in.

    Returns:
        (B, 1, S, S) like ``pictures``, and (B, S, S) bool, true inside the patches.
    """
    side = pictures.shape[-1]
    top, left, bottom, right = patches.edges.T[:, :, None]
    at = torch.arange(side, device=pictures.device)
    rows, cols = (at >= top) & (at < bottom), (at >= left) & (at < right)  # (B, S) each
    inside = rows[:, :, None] & cols[:, None, :] & (patches.alpha > 0)[:, None, None]
    share = (inside * patches.alpha[:, None, None])[:, None]
    others = pictures[(which + patches.shift) % len(pictures)]
    return (1 - share) * pictures[which] + share * others, inside
