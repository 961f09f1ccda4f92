import numpy as np
import pytest
import torch
from builders import cut
from hypothesis import given
from hypothesis import strategies as st

from patchad.core.baselines import BASELINES, patch_statistics
from patchad.core.grid import PatchGrid
from patchad.core.turn import Turn


@st.composite
def grids(draw: st.DrawFn) -> PatchGrid:
    shape = (draw(st.integers(2, 90)), draw(st.integers(2, 90)))
    size = draw(st.integers(1, min(shape)))
    stride = draw(st.integers(max(1, size // 5), size))
    turn = Turn(draw(st.booleans()), draw(st.booleans()), draw(st.booleans()))
    return PatchGrid(shape, size, stride).turned(turn)


def by_definition(pixels, grid):
    patches = cut(grid, pixels).astype(np.float64)
    down, right = np.gradient(pixels.astype(np.float64))
    energy = cut(grid, down**2 + right**2)
    return dict(
        zip(
            BASELINES,
            (patches.mean((1, 2)), patches.std((1, 2)), energy.mean((1, 2))),
            strict=True,
        )
    )


@given(grids())
def test_against_the_definition(grid: PatchGrid) -> None:
    pixels = np.random.default_rng(0).random(grid.shape, dtype=np.float32)
    found = patch_statistics(torch.from_numpy(pixels), grid)
    assert tuple(found) == BASELINES
    for name, expected in by_definition(pixels, grid).items():
        assert found[name].dtype == torch.float32
        np.testing.assert_allclose(found[name].numpy(), expected, rtol=1e-5, atol=1e-6)


def test_an_image_one_pixel_wide() -> None:
    found = patch_statistics(torch.tensor([[0.0], [0.5], [1.0]]), PatchGrid((3, 1), 4, 4))
    assert float(found["patch_mean"]) == pytest.approx(0.5)
    assert float(found["gradient_energy"]) == pytest.approx(0.25)  # 0.5 a pixel down


def test_a_faint_texture_in_a_bright_place_keeps_its_digits() -> None:
    rng = np.random.default_rng(0)
    pixels = (rng.random((96, 80)) * 1e-3 + np.linspace(0, 1, 80)[None]).astype(np.float32)
    grid = PatchGrid((96, 80), 8, 4)
    found = patch_statistics(torch.from_numpy(pixels), grid)
    for name, expected in by_definition(pixels, grid).items():
        np.testing.assert_allclose(found[name].numpy(), expected, rtol=1e-5)


def test_a_flat_patch_has_no_spread() -> None:
    found = patch_statistics(torch.full((40, 40), 0.3), PatchGrid((40, 40), 16, 8))
    assert found["patch_std"].max() < 1e-6
    assert found["gradient_energy"].max() < 1e-12
    assert found["patch_mean"].numpy() == pytest.approx(0.3)


def test_statistics_of_another_image_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(4, 4\).*\(4, 5\)"):
        patch_statistics(torch.zeros(4, 5), PatchGrid((4, 4), 2, 2))
