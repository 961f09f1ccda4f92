"""What NSA and the end-to-end CutPaste share: network, crops, training, and the map."""

import math
from collections.abc import Callable
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from patchad.core.grid import PatchGrid
from patchad.errors import RequestError
from patchad.learn.loop import cosine
from patchad.learn.run import Run
from patchad.learn.training_set import TrainingSet
from patchad.methods.parts.outlining import (
    Films,
    Source,
    Twins,
    films_of,
    fit_outliner,
    source_of,
    stacked,
)
from patchad.methods.parts.pseudo_anomalies import Natural, Picture, natural
from patchad.methods.parts.resnet18 import SHRINKS, Outliner
from patchad.methods.parts.whole_film import POOLING, respond, square
from patchad.model.scoring import Response
from patchad.prepare.film import Film

Over = Literal["crop", "square", "foreground"]  # which pixels make the image score
Channels = tuple[int, int, int, int]

_TURN = 3.0  # degrees
_SHIFT = 3 / 256  # of the side, each way: the code crops 230 of 256 in the middle, and of that 224
_LAST_RATE = 1e-6  # of Adam


class Training(Protocol):
    """What a configuration says of the training."""

    @property
    def side(self) -> int:
        """Of the square."""
        ...

    @property
    def crop(self) -> int:
        """Of the part of it that is trained on."""
        ...

    @property
    def epochs(self) -> int:
        """How often each film is planted in."""
        ...

    @property
    def batch_size(self) -> int:
        """Films of a step."""
        ...

    @property
    def learning_rate(self) -> float:
        """Of Adam, at the start."""
        ...

    @property
    def source(self) -> Source:
        """Where patches come from."""
        ...


class PatchOutliner(nn.Module):
    """The network; :meth:`maps` is how surely each pixel belongs to a planted patch."""

    pooling = POOLING

    def __init__(self, side: int, crop: int, channels: Channels, over: Over, unit: str) -> None:
        super().__init__()
        self.side, self.crop, self.over, self.unit = side, crop, over, unit
        self.places = crop_places(side, crop)
        self.network = Outliner(channels)

    def forward(self, film: Film, grid: PatchGrid) -> Response:
        """See :class:`Response`; the image score is the mean over the middle crop, or more."""
        crops = self.crops(square(film, self.side))
        values = joined(crops, self.places, self.side)[0]
        if self.over == "crop":
            return respond(values, film, grid, image=crops[0].mean())
        return respond(values, film, grid, self.over)

    def maps(self, squares: Tensor) -> Tensor:
        """Squares (N, 1, S, S) in [0, 1] → (N, S, S) in [0, 1], the mean of the crops there."""
        return joined(self.crops(squares), self.places, self.side)

    def crops(self, squares: Tensor) -> Tensor:
        """Squares (N, 1, S, S) in [0, 1] → the map of each crop (K, N, C, C), the middle one first.

        The network sees crops as it was trained on: to a larger picture it answers otherwise, most
        of all where the picture has to be filled up to a multiple of 32.
        """
        ends = [(row + self.crop, col + self.crop) for row, col in self.places]
        places = zip(self.places, ends, strict=True)
        parts = [squares[..., top:bottom, left:right] for (top, left), (bottom, right) in places]
        found: Tensor = self.network(torch.cat(parts)).float().sigmoid()[:, 0]
        return found.reshape(len(parts), len(squares), *found.shape[1:])


def crop_places(side: int, crop: int) -> list[tuple[int, int]]:
    """First row and column of the middle crop, then of as few as cover the square."""
    room = side - crop
    count = math.ceil(side / crop)
    firsts = [round(room * number / max(count - 1, 1)) for number in range(count)]
    return [(room // 2, room // 2), *((row, col) for row in firsts for col in firsts)]


def joined(crops: Tensor, places: list[tuple[int, int]], side: int) -> Tensor:
    """The mean of maps (K, N, C, C) at their ``places`` in the square: (N, S, S)."""
    crop = crops.shape[-1]
    total = crops.new_zeros(2, crops.shape[1], side, side)
    for values, (row, col) in zip(crops, places, strict=True):
        here = total[..., row : row + crop, col : col + crop]
        here[0] += values
        here[1] += 1
    return total[0] / total[1]


def check_crop(side: int, crop: int, name: str) -> None:
    """Refuse a crop that the network cannot halve five times, or that leaves no room to turn."""
    if crop % SHRINKS:
        raise RequestError(
            f"{name} halves its crop 5 times, so {name}.crop must be a multiple of {SHRINKS}; got "
            f"{crop}"
        )
    least = math.ceil(crop * 256 / 230)
    if side < least:
        raise RequestError(
            f"{name} turns and shifts its crop within the square, so {name}.side must be at least "
            f"{least} for a crop of {crop}; got {side}"
        )


def fit_patches(
    module: PatchOutliner,
    config: Training,
    data: TrainingSet,
    run: Run,
    name: str,
    recipe: Natural,
    *,
    own: bool = False,
) -> None:
    """Train the network on what ``recipe`` plants in turned crops of the negatives.

    ``own``: patches come from the same crop that they are planted in, where the source is
    negatives.

    Raises:
        GivenUp: the network is constant, or doesn't find what was planted.
        TrainingError: there is only one film to exchange patches with.
    """
    kept = source_of(data, config.source, name, own=own)
    targets = films_of(data, run, config.side)
    sources = targets if kept is data else films_of(kept, run, config.side)

    def make(
        which: NDArray[np.int64], foreign: NDArray[np.int64], rng: np.random.Generator
    ) -> Twins:
        crops = cropped(targets, which, rng, config.crop)
        others = crops if own and kept is data else cropped(sources, foreign, rng, config.crop)
        planted = [natural(rng, *pair, recipe) for pair in zip(crops, others, strict=True)]
        return stacked(
            {
                "planted": [one.pixels for one in planted],
                "untouched": [one.pixels for one in crops],
                "labels": [one.label for one in planted],
            }
        )

    fit_outliner(
        run,
        module.network,
        make,
        (len(targets.pixels), len(sources.pixels)),
        config,
        torch.optim.Adam(module.network.parameters(), config.learning_rate),
        name,
        own=own,
        rate=falling(config.learning_rate),
    )


def falling(first: float) -> Callable[[int], Callable[[int], float]]:
    """The number of all steps → the rate of each, from ``first`` to 1e-6 by a cosine."""

    def of(steps: int) -> Callable[[int], float]:
        above = cosine(max(first - _LAST_RATE, 0), steps)
        return lambda step: above(step) + min(first, _LAST_RATE)

    return of


def cropped(
    films: Films, which: NDArray[np.int64], rng: np.random.Generator, crop: int
) -> list[Picture]:
    """Crops of films, each turned by up to 3° and shifted by up to 3 pixels of 256."""
    chosen = torch.from_numpy(which)
    both = torch.cat([films.pixels[chosen], films.shown[chosen]], 1)
    side = both.shape[-1]
    angles = np.deg2rad(rng.uniform(-_TURN, _TURN, len(which)))
    shifts = rng.uniform(-_SHIFT, _SHIFT, (len(which), 2)) * 2  # of a half side, as grids count
    share = crop / side
    cos, sin = np.cos(angles) * share, np.sin(angles) * share
    affine = np.stack(
        [np.stack([cos, -sin, shifts[:, 0]], 1), np.stack([sin, cos, shifts[:, 1]], 1)], 1
    )
    grid = functional.affine_grid(
        torch.from_numpy(affine.astype(np.float32)),
        [len(which), 2, crop, crop],
        align_corners=False,
    )
    found = functional.grid_sample(both, grid, padding_mode="border", align_corners=False).numpy()
    return [Picture(pixels, shown >= 0.5) for pixels, shown in found]
