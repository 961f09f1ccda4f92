"""What FPI and PII share: the network, its training, and the map of how foreign each pixel is."""

from collections.abc import Callable
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from patchad.core.arrays import Floats
from patchad.core.grid import PatchGrid
from patchad.errors import RequestError
from patchad.learn.run import Run
from patchad.learn.training_set import TrainingSet
from patchad.methods.parts.outlining import Source, Twins, fit_outliner, source_of, stacked
from patchad.methods.parts.pseudo_anomalies import Planted
from patchad.methods.parts.whole_film import POOLING, Over, respond, square, squares
from patchad.methods.parts.wide_resnet import HALVINGS, WideResNet
from patchad.model.scoring import Response
from patchad.prepare.film import Film

_LEAST = 1e-3  # of a square's standard deviation, a quarter of an 8-bit step: one grey stays one


class Training(Protocol):
    """What a configuration says of the training."""

    @property
    def side(self) -> int:
        """Of the square."""
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
        """Of Adam."""
        ...

    @property
    def decay(self) -> float:
        """L2 penalty of the kernels."""
        ...

    @property
    def source(self) -> Source:
        """Where patches come from."""
        ...


class PatchInterpolator(nn.Module):
    """The network; :meth:`maps` is how much of each pixel it takes for another film's."""

    unit = "share of a foreign patch [0, 1]"
    pooling = POOLING

    def __init__(self, side: int, width: int, over: Over | Literal["upper_quartile"]) -> None:
        super().__init__()
        self.side, self.over = side, over
        self.network = WideResNet(width)

    def forward(self, film: Film, grid: PatchGrid) -> Response:
        """See :class:`Response`; the image score is the map's mean, or its upper quartile."""
        values = self.maps(square(film, self.side))[0]
        if self.over == "upper_quartile":
            return respond(values, film, grid, image=upper_quartile(values))
        return respond(values, film, grid, self.over)

    def maps(self, squares: Tensor) -> Tensor:
        """Squares (N, 1, S, S) in [0, 1] → (N, S, S) in [0, 1]."""
        found: Tensor = self.network(standardised(squares)).float().sigmoid()[:, 0]
        return found


def standardised(squares: Tensor) -> Tensor:
    """Squares (N, 1, S, S), each less its mean and over its standard deviation."""
    above = squares - squares.mean((2, 3), keepdim=True)
    return above / above.square().mean((2, 3), keepdim=True).sqrt().clamp(min=_LEAST)


def upper_quartile(values: Tensor) -> Tensor:
    """What three quarters of the pixels are below: a scalar."""
    return values.flatten().quantile(0.75)


def check_square(side: int, name: str) -> None:
    """Refuse a square that cannot be halved four times, or has no room for a patch."""
    least = 2**HALVINGS
    if side % least or side < 2 * least:
        raise RequestError(
            f"{name} halves its square {HALVINGS} times and plants patches in it, so {name}.side "
            f"must be a multiple of {least}, {2 * least} at least; got {side}"
        )


def fit_interpolator(
    module: PatchInterpolator,
    config: Training,
    data: TrainingSet,
    run: Run,
    name: str,
    plant: Callable[[np.random.Generator, Floats, Floats], Planted],
) -> None:
    """Train the network on what ``plant`` (rng, target, source) makes of standardised squares.

    Raises:
        GivenUp: the network is constant, or doesn't find what was planted.
        TrainingError: there is only one film.
    """
    kept = source_of(data, config.source, name)
    targets = standardised(squares(data, run, config.side)).cpu().numpy()[:, 0]
    same = kept is data
    sources = targets if same else standardised(squares(kept, run, config.side)).cpu().numpy()[:, 0]

    def make(
        which: NDArray[np.int64], foreign: NDArray[np.int64], rng: np.random.Generator
    ) -> Twins:
        pairs = zip(which, foreign, strict=True)
        planted = [plant(rng, targets[own], sources[other]) for own, other in pairs]
        return stacked(
            {
                "planted": [one.pixels for one in planted],
                "untouched": [*targets[which]],
                "labels": [one.label for one in planted],
            }
        )

    groups: list[dict[str, Any]] = [
        # Keras adds decay · w² to the loss, PyTorch half of its weight_decay · w²
        {
            "params": [p for p in module.network.parameters() if p.ndim > 1],
            "weight_decay": 2 * config.decay,
        },
        {"params": [p for p in module.network.parameters() if p.ndim == 1]},
    ]
    optimiser = torch.optim.Adam(groups, config.learning_rate)
    counts = (len(targets), len(sources))
    fit_outliner(run, module.network, make, counts, config, optimiser, name)
