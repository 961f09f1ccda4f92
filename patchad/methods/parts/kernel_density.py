"""The density of codes by Gaussian kernels at those of negatives.

E. Parzen: On estimation of a probability density function and mode. Ann. Math. Statist. 33, 1962,
https://doi.org/10.1214/aoms/1177704472.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from patchad.errors import RequestError, TrainingError
from patchad.learn.run import GivenUp, Run

_SEARCHED = 1000  # codes at most by which the bandwidth is chosen: more take minutes
_FOLDS = 5
_FEWEST = 2  # codes: of one, none is left out to choose a bandwidth by
_BANDWIDTHS = np.geomspace(0.02, 4, 24)  # tried, in root mean squared deviations of the codes


class KernelDensity(nn.Module):
    """The log density of codes (N, C) by up to ``count`` kernels.

    ``codes`` (count, C) are their centres and ``weights`` (count,) the logarithms of their weights,
    minus infinity where there are fewer kernels; ``bandwidth`` is their standard deviation.

    Raises:
        RequestError: ``count`` is less than two.
    """

    codes: Tensor
    weights: Tensor
    bandwidth: Tensor

    def __init__(self, count: int, code: int) -> None:
        super().__init__()
        if count < _FEWEST:
            raise RequestError(
                f"a density has {_FEWEST} kernels at least, got kernels = {count}: raise it"
            )
        self.register_buffer("codes", torch.zeros(count, code))
        self.register_buffer("weights", torch.full((count,), -math.log(count)))
        self.register_buffer("bandwidth", torch.ones(()))

    def learn(self, codes: Tensor, run: Run, generator: torch.Generator) -> None:
        """Take the codes (n, C) of negatives, a random choice where they are too many.

        Raises:
            GivenUp: all codes are the same.
            TrainingError: there are fewer than two.
        """
        count = len(self.codes)
        if len(codes) > count:
            kept = torch.randperm(len(codes), generator=generator)[:count].sort().values
            run.note(f"The density has {count} of the {len(codes)} negatives as its kernels.")
            codes = codes[kept.to(codes.device)]
        self.bandwidth.fill_(choose_bandwidth(codes.cpu().numpy()))
        self.codes[: len(codes)] = codes
        self.weights[: len(codes)] = -math.log(len(codes))
        self.weights[len(codes) :] = -math.inf

    def forward(self, codes: Tensor) -> Tensor:
        """The logarithm of the density at codes (N, C), in nats: (N,) float32."""
        return log_density(codes.float(), self.codes, self.weights, self.bandwidth)


def log_density(codes: Tensor, centres: Tensor, weights: Tensor, bandwidth: Tensor) -> Tensor:
    """As :class:`KernelDensity` has it: (N, C), (n, C), (n,) and () → (N,)."""
    # Products of matrices would be faster, and too coarse for near codes.
    away = torch.cdist(codes, centres, compute_mode="donot_use_mm_for_euclid_dist") / bandwidth
    scale = codes.shape[1] * (bandwidth.log() + math.log(2 * math.pi) / 2)
    return (weights - away.square() / 2).logsumexp(1) - scale


def choose_bandwidth(codes: NDArray[np.floating]) -> float:
    """The bandwidth under which codes (n, C) left out, in five folds, are likeliest.

    Folds are of neighbours in the table, so that a patient's films are mostly left out together.

    Raises:
        GivenUp: all codes are the same.
        TrainingError: there are fewer than two.
    """
    # Imported here: it takes a second, and only training needs it.
    from sklearn.model_selection import GridSearchCV, KFold  # type: ignore[import-untyped]
    from sklearn.neighbors import KernelDensity as Estimate  # type: ignore[import-untyped]

    if len(codes) < _FEWEST:
        raise TrainingError(
            f"a density of codes needs two training films at least, got {len(codes)}: give more"
        )
    codes = codes.astype(np.float64)[:: math.ceil(len(codes) / _SEARCHED)]
    spread = float(np.sqrt(codes.var(0).mean()))
    if spread == 0:
        raise GivenUp("the codes of all training films are the same")
    folds = KFold(min(_FOLDS, len(codes)))
    search = GridSearchCV(Estimate(), {"bandwidth": spread * _BANDWIDTHS}, cv=folds)
    return float(search.fit(codes).best_params_["bandwidth"])
