import numpy as np
import torch

from patchad.methods.parts.scale import NegativeScale


def test_the_median_becomes_0_and_the_deviation_1() -> None:
    scale = NegativeScale(2)
    given = torch.tensor([[3.0, 5.0]])
    assert torch.equal(scale(given), given)  # before anything is learnt
    # Feature 0: 0, 1, 5 have the median 1 and the deviation √(14/3); feature 1 never changes.
    scale.learn(np.array([[0, 5], [1, 5], [5, 5], [np.nan, 5]], np.float32))
    found = scale(torch.tensor([[1.0, 5.0], [1 + (14 / 3) ** 0.5, 5 + 1e-5]]))
    np.testing.assert_allclose(found, [[0, 0], [1, 10]], rtol=0.05, atol=1e-6)
    assert set(scale.state_dict()) == {"centre", "spread"}
    assert found.dtype == torch.float32
