"""A Gaussian of features with a shrunken covariance."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.covariance import LedoitWolf  # type: ignore[import-untyped]
from torch import Tensor, nn

from patchad.core.arrays import wide
from patchad.learn.run import GivenUp

_LEAST = 1e-12  # of a variance, in float32 features of length 1


class LedoitWolfGaussian(nn.Module):
    """Features (N, D) → their Mahalanobis distances from negatives (N,) float32.

    O. Ledoit, M. Wolf: A well-conditioned estimator for large-dimensional covariance matrices.
    Journal of Multivariate Analysis 88(2):365-411, 2004; scikit-learn's.

    ``mean`` (D,) and ``whitening`` (D, D), with whitening · whiteningᵀ the precision; both float32.
    """

    mean: Tensor
    whitening: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("whitening", torch.eye(features))

    def learn(self, samples: NDArray[np.floating[Any]]) -> None:
        """Take mean and covariance from ``samples`` (N, D) of negatives.

        Raises:
            GivenUp: they are all the same.
        """
        fitted = LedoitWolf().fit(samples.astype(np.float64))
        if np.diag(fitted.covariance_).max() < _LEAST:
            raise GivenUp("all negatives have the same features")
        root = np.linalg.inv(np.linalg.cholesky(fitted.covariance_)).T
        self.mean.copy_(torch.from_numpy(fitted.location_))
        self.whitening.copy_(torch.from_numpy(root))

    def forward(self, features: Tensor) -> Tensor:
        """The distance of each sample."""
        dtype = wide(features.device)
        white = (features.to(dtype) - self.mean.to(dtype)) @ self.whitening.to(dtype)
        return white.square().sum(1).sqrt().float()
