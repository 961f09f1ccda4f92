"""Whole films seen by a network as squares of S × S pixels, and its maps back in their frames.

Published detectors of chest films, brains and fundi work so: the picture is resized to a square,
whatever its aspect, and the image score is a mean over the whole square.
"""

from itertools import islice
from typing import Literal

import torch
from torch import Tensor

from patchad.core.grid import PatchGrid
from patchad.learn.run import Run
from patchad.learn.training_set import TrainingSet
from patchad.methods.parts.pooling import mean_pool
from patchad.model.scoring import Response
from patchad.prepare.film import Film
from patchad.prepare.resize import resize_tensor

Over = Literal["square", "foreground"]  # which pixels of the square make the image score
POOLING = "mean of the map over the patch"


def square(film: Film, side: int) -> Tensor:
    """A film resized to (1, 1, S, S) float32 in [0, 1]; methods of one film share it."""
    key = ("square", side)
    return film.once(key, lambda: resize_tensor(film.pixels, (side, side))[None, None])


def squares(data: TrainingSet, run: Run, side: int) -> Tensor:
    """All training films as squares, on the run's device: (N, 1, S, S) float32 in [0, 1]."""
    found = []
    for number, (film, _, _) in enumerate(data.films(run)):
        found.append(square(film, side)[0])
        run.tell("films", number + 1, len(data))
    return torch.stack(found)


def foregrounds(data: TrainingSet, run: Run, side: int, most: int | None = None) -> Tensor:
    """The foreground's share of each pixel of the first ``most`` squares: (N, 1, S, S) float32."""
    films = islice(data.films(run), most)
    return torch.stack([_foreground(film, (side, side))[None] for film, _, _ in films])


def signed(squares: Tensor) -> Tensor:
    """[0, 1] as [-1, 1], the range in which most of the published networks work."""
    return squares * 2 - 1


def respond(
    values: Tensor, film: Film, grid: PatchGrid, over: Over = "square", image: Tensor | None = None
) -> Response:
    """The response to a film from its map in the square.

    Args:
        values: (S, S) float32, higher = more anomalous.
        film: the film.
        grid: patches in its frame; their scores are means of the map.
        over: the image score is the map's mean over the whole square, as the papers have it, or
            over the foreground.
        image: the image score, for methods that have another.
    """
    if image is None:
        image = values.mean() if over == "square" else _over_foreground(values, film)
    dense = resize_tensor(values, film.shape).where(film.mask, torch.nan)
    return Response(dense, mean_pool(dense, grid), image)


def _over_foreground(values: Tensor, film: Film) -> Tensor:
    share = _foreground(film, (values.shape[0], values.shape[1]))
    return (values * share).sum() / share.sum()


def _foreground(film: Film, shape: tuple[int, int]) -> Tensor:
    return film.once(("foreground", shape), lambda: resize_tensor(film.mask.float(), shape))
