"""Squares that are hidden in pictures, for networks that learn to redraw what was there."""

import math

import torch
from torch import Tensor

HIDDEN = -1.0  # the value within: black, in [-1, 1]


def draw_squares(count: int, most: int, generator: torch.Generator) -> Tensor:
    """Chance for :func:`hide`, of ``count`` pictures: (N, 1 + 2 · most) in [0, 1), on the CPU."""
    return torch.rand(count, 1 + 2 * most, generator=generator)


def hide(pictures: Tensor, chance: Tensor, share: float) -> Tensor:
    """Pictures (N, 1, S, S) with 1 to ``most`` squares hidden, each picture its own.

    A square lies anywhere within the picture, and has the ``share`` of its area, to whole pixels.
    """
    side = pictures.shape[-1]
    size = min(side, max(1, round(math.sqrt(share) * side)))
    places = chance[:, 1:].reshape(len(chance), -1, 2)  # (N, most, 2)
    corners = (places * (side - size + 1)).floor()
    most = corners.shape[1]
    used = torch.arange(most, device=chance.device) <= (chance[:, :1] * most).floor()
    lines = torch.arange(side, device=chance.device)
    within = (lines >= corners[..., None]) & (lines < corners[..., None] + size)
    rows, cols = within.unbind(2)  # (N, most, S) each
    hidden = (rows[..., None] & cols[:, :, None] & used[..., None, None]).any(1, keepdim=True)
    return pictures.masked_fill(hidden, HIDDEN)
