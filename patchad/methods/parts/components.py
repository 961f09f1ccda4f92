"""Features in fewer dimensions: standardised, then turned to their principal components."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from patchad.errors import TrainingError
from patchad.learn.run import GivenUp


class Components(nn.Module):
    """The components that hold a ``share`` of the variance of K features.

    ``mean`` and ``deviation`` (K,) standardise; ``axes`` (K, K) are columns of components, 0 behind
    those that are kept, so that their number needn't be known before training.
    """

    mean: Tensor
    deviation: Tensor
    axes: Tensor

    def __init__(self, count: int, share: float) -> None:
        super().__init__()
        self.share = share
        self.register_buffer("mean", torch.zeros(count))
        self.register_buffer("deviation", torch.ones(count))
        self.register_buffer("axes", torch.eye(count))

    def learn(self, samples: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """Learn from ``samples`` (n, K), and return them as components (n, K) float32.

        Raises:
            GivenUp: they are all the same.
            TrainingError: they are no numbers.
        """
        from sklearn.decomposition import PCA  # type: ignore[import-untyped]  # slow; for training
        from sklearn.preprocessing import StandardScaler  # type: ignore[import-untyped]

        if not np.isfinite(samples).all():
            raise TrainingError(
                "the features of training patches are not numbers: give other weights, or none"
            )
        if (samples == samples[0]).all():
            raise GivenUp(
                f"the features of all {len(samples)} training patches are the same",
                "give other weights, more samples or more films",
            )
        scaler = StandardScaler().fit(samples.astype(np.float64))
        pca = PCA(svd_solver="full").fit(scaler.transform(samples))
        held = np.cumsum(pca.explained_variance_ratio_)
        kept = min(int(np.searchsorted(held, self.share)) + 1, len(held))
        self.mean.copy_(torch.from_numpy(scaler.mean_))
        self.deviation.copy_(torch.from_numpy(scaler.scale_))
        self.axes.zero_()
        self.axes[:, :kept].copy_(torch.from_numpy(pca.components_[:kept].T.copy()))
        with torch.no_grad():
            found: Tensor = self(torch.from_numpy(samples).to(self.axes))
        return found.cpu().numpy()

    def forward(self, features: Tensor) -> Tensor:
        """Features (N, K) as components (N, K)."""
        return (features - self.mean) / self.deviation @ self.axes
