import numpy as np
import pytest

from patchad.core.baselines import BASELINES, baseline_scores
from patchad.core.grid import PatchGrid


def test_against_the_definition() -> None:
    pixels = np.random.default_rng(0).random((70, 90), dtype=np.float32)
    grid = PatchGrid((70, 90), 32, 20)
    patches = grid.cut(pixels).astype(np.float64)
    down, right = np.gradient(pixels.astype(np.float64))
    energy = grid.cut((down**2 + right**2).astype(np.float32))
    found = baseline_scores(pixels, grid)
    assert tuple(found) == BASELINES
    np.testing.assert_allclose(found["patch_mean"], patches.mean((1, 2)), rtol=1e-6)
    np.testing.assert_allclose(found["patch_std"], patches.std((1, 2)), rtol=1e-5)
    np.testing.assert_allclose(found["gradient_energy"], energy.mean((1, 2)), rtol=1e-5)


def test_a_flat_patch_has_no_spread() -> None:
    found = baseline_scores(np.full((40, 40), 0.3, np.float32), PatchGrid((40, 40), 16, 8))
    assert found["patch_std"].max() < 1e-6
    assert found["gradient_energy"].max() < 1e-12
    assert found["patch_mean"] == pytest.approx(0.3)


def test_an_image_one_pixel_wide() -> None:
    column = np.array([[0.0], [0.5], [1.0]], np.float32)
    found = baseline_scores(column, PatchGrid((3, 1), 4, 4))
    assert found["patch_mean"] == pytest.approx(0.5)
    assert found["gradient_energy"] == pytest.approx(0.25)  # 0.5 a pixel down, nothing across
