"""The trivial patch scores that every method is compared with.

A method that doesn't beat them has learnt nothing beyond brightness and contrast.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from patchad.core.grid import PatchGrid

if TYPE_CHECKING:  # importing the names of the scores doesn't load torch
    from torch import Tensor

BASELINES = ("patch_mean", "patch_std", "gradient_energy")


def patch_statistics(pixels: Tensor, grid: PatchGrid) -> dict[str, Tensor]:
    """Mean, standard deviation and mean squared gradient of each patch.

    The image is read once, in the bands of rows that patches are made of: short sums are taken in
    float32 while a band is in the cache, long ones in float64 (float32 on MPS).

    Args:
        pixels: (H, W), a float tensor; all work is done on its device.
        grid: where the patches lie.

    Returns:
        (N,) float32 for each name of ``BASELINES``, in the unit of the pixels (the gradient energy
        in that unit squared per pixel step squared). All patches, foreground or not.
    """
    import torch
    from torch.nn.functional import mse_loss

    from patchad.core.arrays import banded, box_sums, integral, wide
    from patchad.core.patches import areas, inside

    if pixels.shape != grid.shape:
        raise ValueError(
            f"this grid is for shape {grid.shape}, the image has {tuple(pixels.shape)}"
        )
    edges = inside(grid)
    cuts, lines = banded(edges)
    dtype = wide(pixels.device)
    middles, spreads, energies = [], [], []
    for begin, end in pairwise(cuts):
        band = pixels[begin:end]
        middle = band.mean(0)
        middles.append(middle)
        # Squared differences from the column's mean are small, so that no digits are lost.
        spreads.append(mse_loss(band, middle.expand_as(band), reduction="none").sum(0))
        energies.append(_gradient_energy(pixels, begin, end))
    heights = torch.tensor(np.diff(cuts)[:, None], dtype=dtype, device=pixels.device)
    offset = torch.stack(middles).to(dtype)
    film = (offset * heights).sum() / pixels.numel()
    offset -= film
    squares = torch.stack(spreads).to(dtype) + heights * offset**2
    boxes, area = torch.from_numpy(lines).to(pixels.device), areas(edges).to(offset)
    mean, square, energy = (
        box_sums(integral(table), boxes) / area
        for table in (offset * heights, squares, torch.stack(energies))
    )
    spread = (square - mean**2).clamp(min=0).sqrt()
    scores = (mean + film, spread, energy)
    return {name: s.to(torch.float32) for name, s in zip(BASELINES, scores, strict=True)}


def _gradient_energy(pixels: Tensor, begin: int, end: int) -> Tensor:
    """The squared gradient, summed down the rows ``begin`` to ``end`` of ``pixels``: (W,).

    Differences are central, and one-sided at the image's edge, as in numpy.gradient.
    """
    from torch.nn.functional import mse_loss

    rows, cols = pixels.shape
    band = pixels[begin:end]
    energy = pixels.new_zeros(cols)
    if rows > 1:
        first, last = max(begin, 1), min(end, rows - 1)
        if first < last:
            above, below = pixels[first - 1 : last - 1], pixels[first + 1 : last + 1]
            energy += mse_loss(above, below, reduction="none").sum(0) / 4
        if begin == 0:
            energy += (pixels[1] - pixels[0]) ** 2
        if end == rows:
            energy += (pixels[-1] - pixels[-2]) ** 2
    if cols > 1:
        energy[1:-1] += mse_loss(band[:, :-2], band[:, 2:], reduction="none").sum(0) / 4
        energy[0] += ((band[:, 1] - band[:, 0]) ** 2).sum()
        energy[-1] += ((band[:, -1] - band[:, -2]) ** 2).sum()
    return energy
