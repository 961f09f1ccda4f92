import numpy as np
import pytest
import torch
from builders import kept_on_device, on_cpu, run_with, training_set

from patchad.core.grid import PatchGrid
from patchad.core.image import Foreground
from patchad.errors import ImageError, RequestError
from patchad.methods.filters import convergence
from patchad.methods.filters.convergence import METHOD, Config, convergence_maps, pool_maps
from patchad.model.method import Setting
from patchad.prepare.filters import Floats
from patchad.prepare.preprocess import Prepared, Preprocessing

RINGS = ((0.6, 4.0), (0.6, 6.4), (1.2, 9.6))
SETTING = Setting(Preprocessing(), 40, 20, 0.5, "gaussian")


def film(pixels: Floats, mask=None, spacing: float | None = 0.4) -> Prepared:
    whole = np.ones(pixels.shape, bool) if mask is None else mask
    known = None if spacing is None else (spacing, spacing)
    return Prepared(pixels.astype(np.float32), Foreground(whole, "", 0.0), 0.5, known)


def maps_of(image: Prepared) -> Floats:
    return convergence_maps(on_cpu(image, METHOD.needs.before), RINGS).numpy()


def blob(shape=(200, 240), centre=(90, 130), sigma=14.0) -> Floats:
    y, x = np.mgrid[: shape[0], : shape[1]]
    distance = (y - centre[0]) ** 2 + (x - centre[1]) ** 2
    return (0.3 + 0.4 * np.exp(-distance / (2 * sigma**2))).astype(np.float32)


def noisy(seed: int) -> Prepared:
    noise = np.random.default_rng(seed).normal(0, 0.01, (200, 240))
    mask = np.zeros((200, 240), bool)
    mask[:, :180] = True
    return film(np.where(mask, blob() + noise, 0), mask)


def test_a_blob_converges_at_its_centre() -> None:
    maps = maps_of(film(blob()))
    assert maps.shape == (100, 120, 3)  # cells of 0.8 mm
    for k in range(3):
        peak = np.unravel_index(np.nanargmax(maps[..., k]), maps.shape[:2])
        # pixel 90 is the middle of cell 45.25 − 0.5
        assert np.abs(np.subtract(peak, (44.75, 64.75))).max() <= 1
        # Every gradient points at the centre, so every sector is 1, up to the cells' width.
        assert maps[..., k].max() == pytest.approx(1, abs=0.06)


def test_brightness_and_contrast_do_not_matter() -> None:
    noise = np.random.default_rng(0).normal(0, 0.01, (200, 240))
    pixels = (blob() + noise).astype(np.float32)
    first, second = maps_of(film(pixels)), maps_of(film(0.6 * pixels + 0.2))
    np.testing.assert_allclose(first, second, atol=0.05)  # where it is nearly flat


def test_a_ramp_converges_nowhere() -> None:
    ramp = np.tile(np.linspace(0, 1, 240, dtype=np.float32), (200, 1))
    np.testing.assert_allclose(maps_of(film(ramp))[10:-10, 10:-10], 0, atol=0.02)


def test_a_skin_line_converges_nowhere() -> None:
    y, x = np.mgrid[:300, :200]
    breast = (y - 150) ** 2 + (x + 20) ** 2 < 130**2
    maps = maps_of(film(np.where(breast, np.float32(0.6), np.float32(0)), breast))
    assert np.nanmax(np.abs(maps)) < 0.02


def test_a_vessel_is_no_mass() -> None:
    y, _ = np.mgrid[:200, :240]
    vessel = (0.3 + 0.4 * np.exp(-((y - 100) ** 2) / 50)).astype(np.float32)
    # Along the vessel nothing converges: the middle sectors are between that and what does across.
    assert maps_of(film(vessel))[15:-15, 15:-15].max() < 0.7
    assert maps_of(film(blob())).max(axis=(0, 1)).min() > 0.9


def test_sectors_by_hand() -> None:
    """All of a ring, each sector with its neighbours, at one place, by plain loops."""
    rng = np.random.default_rng(3)
    directions = rng.normal(size=(2, 30, 24)).astype(np.float32)
    cell, (inner, outer) = (0.8, 0.7), (0.6, 4.0)
    found = convergence._median(torch.from_numpy(directions), cell, (inner, outer))
    for row, col in [(15, 12), (0, 0), (29, 20)]:
        sums, counts = np.zeros(12), np.zeros(12)
        for i in range(-5, 6):
            for j in range(-6, 7):
                y, x = i * cell[0], j * cell[1]
                distance = np.hypot(y, x)
                if not inner <= distance <= outer:
                    continue
                sector = int(np.arctan2(y, x) % (2 * np.pi) / (2 * np.pi) * 12) % 12
                counts[sector] += 1
                if 0 <= row + i < 30 and 0 <= col + j < 24:
                    there = directions[:, row + i, col + j]
                    sums[sector] -= (there[0] * y + there[1] * x) / distance
        means = sums / counts
        ranked = np.sort((means + np.roll(means, 1) + np.roll(means, -1)) / 3)
        assert float(found[row, col]) == pytest.approx((ranked[5] + ranked[6]) / 2, abs=1e-5)


def test_pools_are_maxima_over_the_patch() -> None:
    maps = torch.zeros((8, 8, 2))
    maps[0, 0, 0], maps[3, 3, 1] = 4, 5
    pools = pool_maps(maps, PatchGrid((8, 8), 4, 4))
    assert pools.tolist() == [[4, 5], [0, 0], [0, 0], [0, 0]]


def test_lengths_are_in_millimetres() -> None:
    fine = maps_of(film(blob((400, 480), (180, 260), 28), spacing=0.2))
    coarse = maps_of(film(blob()))
    assert fine.shape == coarse.shape
    assert np.abs(fine - coarse).max() < 0.1


def test_negatives_are_0_in_the_median_and_nothing_leaves_the_device() -> None:
    images = [noisy(seed) for seed in range(3)]
    data = training_set(images, SETTING.patch_size)
    module = convergence.build(Config(), SETTING)
    skeleton = {name: tensor.shape for name, tensor in module.state_dict().items()}
    told: list[tuple[str, int, int]] = []
    convergence.learn(
        module, Config(), data, run_with(0, SETTING, progress=lambda *said: told.append(said[:3]))
    )
    assert told == [("convergence", n, 3) for n in (1, 2, 3)]
    assert {name: tensor.shape for name, tensor in module.state_dict().items()} == skeleton
    grid = SETTING.grid((200, 240))
    one = on_cpu(images[0], METHOD.needs.before)
    with torch.inference_mode(), kept_on_device():
        response = module(one, grid)
    assert response.map is not None
    assert response.map.dtype == response.patches.dtype == torch.float32
    assert torch.equal(response.map.isfinite(), one.tissue)
    assert response.patches.shape == (len(grid),)
    assert response.patches.isfinite().all()
    known = response.map[one.tissue]
    assert abs(float(known.median())) < 0.5
    # The blob is what converges.
    row, col = divmod(int(response.map.nan_to_num(-9).argmax()), 240)
    assert max(abs(row - 90), abs(col - 130)) < 6


def test_without_spacing_it_says_so() -> None:
    with pytest.raises(ImageError, match="spacing-mm"):
        on_cpu(film(blob(), spacing=None), METHOD.needs.before)


def test_a_ring_that_is_none_is_refused() -> None:
    with pytest.raises(RequestError, match="rings_mm"):
        Config(rings_mm=((3.0, 2.0),))
