"""The one way back: what was found in the prepared frame, in the frame of the image as stored."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from patchad.core.host import to_host
from patchad.core.image import Heatmap, PatchScores, Radiograph
from patchad.core.patches import stitch
from patchad.core.turn import Turn
from patchad.model.card import ModelCard
from patchad.prepare.preprocess import Prepared
from patchad.prepare.resize import resize


@dataclass(frozen=True, eq=False)
class Found:
    """What was found in one image, all in one frame.

    ``map`` (H, W) float32, NaN where undefined; ``baselines`` (N,) float32 each, in the order of
    the patches of ``scores``.
    """

    scores: PatchScores
    map: NDArray[np.float32]
    baselines: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)


def to_stored(found: Found, turn: Turn, shape: tuple[int, int]) -> Found:
    """Undo resampling and turning of everything that was found.

    Args:
        found: in the prepared frame.
        turn: what made the prepared image of the one as stored.
        shape: (rows, columns) of the image as stored.
    """
    back, grid = turn.inverse, found.scores.grid
    return Found(
        found.scores.turned(back),
        back.picture(resampled(found.map, turn.pair(shape))),
        {name: grid.turn_values(values, back) for name, values in found.baselines.items()},
    )


def stitched(
    scores: PatchScores, card: ModelCard, prepared: Prepared, radiograph: Radiograph
) -> Heatmap:
    """The heatmap of patch scores that lie in the frame of the image as stored, sewn again.

    As it was sewn when the image was screened, to the last digit: in the prepared frame.
    """
    turned = scores.turned(prepared.turn)
    values, mask = torch.from_numpy(turned.values.copy()), prepared.foreground.mask
    sewn = stitch(turned.grid, values, weighting=card.weighting, mask=torch.from_numpy(mask.copy()))
    stored = to_stored(Found(turned, to_host(sewn)[0]), prepared.turn, radiograph.shape)
    return Heatmap(stored.map, card.score_unit, radiograph.spacing_mm)


def resampled(values: NDArray[np.float32], shape: tuple[int, int]) -> NDArray[np.float32]:
    """Bring a heatmap (H', W') float32 from the prepared frame to the source's ``shape`` (H, W).

    Linear between pixel centres, r ↦ (r + 0.5) · H' / H − 0.5, among the values that are numbers;
    NaN where the nearest one is NaN. Returns (H, W) float32 in the unit of ``values``.
    """
    if values.shape == shape:
        return values
    known = np.isfinite(values)
    total = resize(np.where(known, values, np.float32(0)), shape)
    weight = resize(known.astype(np.float32), shape)
    row, col = (
        ((np.arange(new) + 0.5) * old / new).astype(np.int64)
        for new, old in zip(shape, values.shape, strict=True)
    )
    nearest = known[np.ix_(row, col)] & (weight > 0)
    return np.divide(total, weight, out=np.full(shape, np.nan, np.float32), where=nearest)
