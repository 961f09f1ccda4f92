"""Candidates and clusters: counted by hand, found in phantoms, learnt alike from one seed."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import (
    fitted,
    kept_on_device,
    on_cpu,
    prepared,
    run_with,
    same,
    setting_with,
    training_set,
)
from torch import nn

from patchad.core.grid import PatchGrid
from patchad.errors import ImageError, RequestError, TrainingError
from patchad.learn.training_set import TrainingSet
from patchad.lesions.shapes import calcification_cluster, insert
from patchad.methods.filters.calcification import (
    METHOD,
    Calcification,
    Config,
    Ground,
    Ordinary,
    build,
    draw_clusters,
)
from patchad.methods.parts.microcalcifications import Candidates, find_candidates
from patchad.model.scoring import Response
from patchad.phantoms import phantom
from patchad.prepare.preprocess import Prepared

SIZE, SPACING = 64, (0.2, 0.2)
SETTING = setting_with(patch_size=SIZE, stride=SIZE // 2)


def film(seed: int, shape: tuple[int, int] = (384, 256)) -> Prepared:
    made = phantom.mammogram(np.random.default_rng([seed, 7]), shape=shape)
    return prepared(made.pixels, made.foreground, SPACING)


def specks_of(image: Prepared) -> Candidates:
    return find_candidates(on_cpu(image, METHOD.needs.before))


def ground_of(image: Prepared) -> Ground:
    return Ground(image.tissue, specks_of(image).deviation.numpy())


@pytest.fixture(scope="module")
def negatives() -> TrainingSet:
    return training_set([film(seed) for seed in range(8)], SIZE)


@pytest.fixture(scope="module")
def trained(negatives: TrainingSet) -> nn.Module:
    return learnt(negatives)


def learnt(data: TrainingSet, config: Config | None = None, seed: int = 3) -> nn.Module:
    return fitted("calcification", config or Config(), data, run_with(seed, SETTING)).module


def respond(module: nn.Module, image: Prepared) -> Response:
    prepared_film = on_cpu(image, METHOD.needs.before)
    with torch.inference_mode():
        answer: Response = module(prepared_film, SETTING.grid(prepared_film.shape))
    return answer


def test_specks_are_counted_by_hand() -> None:
    """Ten specks on a 2 mm raster in white noise: where they are and how many."""
    pixels = np.random.default_rng(2).normal(0.5, 0.01, (256, 256))
    rows, cols = (a.ravel() for a in np.mgrid[80:100:10, 100:150:10])
    pixels[rows, cols] += 0.5
    cells = specks_of(prepared(pixels, None, SPACING))
    assert cells.side == (4, 4)
    assert cells.peak.shape == (64, 64)
    assert cells.high.sum() == 10
    assert sorted(zip(*np.nonzero(cells.high.numpy()), strict=True)) == sorted(
        zip(rows // 4, cols // 4, strict=True)
    )
    # A grid of one patch, and one that holds the five specks of the upper row.
    values, places = cells.windows(PatchGrid((256, 256), 256, 256))
    assert float(values[0, 3]) == pytest.approx(math.log(11))
    third = np.sort(cells.peak.numpy().ravel())[-3]
    assert float(values[0, 2]) == pytest.approx(math.log(third + 1))
    assert float(places[0, 3]) == pytest.approx(0.5, abs=0.02)
    half = cells.windows(PatchGrid((256, 256), 88, 84))[0].numpy()
    corners = PatchGrid((256, 256), 88, 84).corners
    assert half[(corners == (0, 84)).all(1), 3] == pytest.approx(math.log(6))
    wide, peak = cells.wide.numpy(), cells.peak.numpy()
    top = np.unravel_index(wide.argmax(), wide.shape)
    assert np.abs(np.subtract(top, (85 / 4, 120 / 4))).max() < 2
    # A peak weighs what it exceeds 2 by, up to 4; the wide Gaussian has 3.2 mm: four cells.
    away = (np.indices((64, 64)) - np.reshape(top, (2, 1, 1))) / 4
    expected = (np.clip(peak - 2, 0, 4) * np.exp(-(away**2).sum(0) / 2)).sum()
    assert np.expm1(wide).max() == pytest.approx(expected, rel=0.05)


def test_a_place_is_measured_from_the_air_and_the_chest_wall() -> None:
    mask = np.zeros((200, 160), bool)
    mask[:, :100] = True
    pixels = np.where(mask, 0.4, 0.0)
    left = specks_of(prepared(pixels, mask, SPACING)).places.numpy()
    right = specks_of(prepared(pixels[:, ::-1], mask[:, ::-1], SPACING)).places.numpy()
    distance, row, col, density = np.moveaxis(left, -1, 0)
    # Tissue ends 1 mm before the air: at column 95; the cell of columns 40..43 has its middle 42.
    assert distance[25, 10] == pytest.approx((95 - 42) * 0.2, abs=0.8)
    assert col[25, 0] == 0
    assert col[25, 12] == pytest.approx(12 / 23)
    assert row[[0, 49], 3].tolist() == [0, 1]
    assert density[25, 10] == pytest.approx(0.4, abs=1e-4)
    assert right[25, 39, 2] == 0
    np.testing.assert_allclose(right[:, ::-1, 0], distance, atol=0.81)


def test_what_is_ordinary_is_regressed_with_its_spread() -> None:
    rng = np.random.default_rng(1)
    places = rng.uniform(-1, 1, (20_000, 4))
    spread = np.exp(0.5 * places[:, :1])
    values = (
        2
        + places[:, :1]
        - 3 * places[:, 1:2] * places[:, 2:3]
        + spread * rng.normal(size=(20_000, 1))
    )
    ordinary = Ordinary(1)
    ordinary.learn(values, places)
    z = ordinary(*(torch.from_numpy(a).float() for a in (values, places))).numpy()
    assert z.mean() == pytest.approx(0, abs=0.01)
    for some in (places[:, 0] < -0.8, places[:, 0] > 0.8):
        assert z[some].std() == pytest.approx(1, abs=0.08)
    at = torch.tensor([[0.5, 0.5, 0.5, 0.0]])
    above = ordinary(torch.tensor([[2 + 0.5 - 0.75 + 2 * math.exp(0.25)]]), at)
    assert float(above[0, 0]) == pytest.approx(2, abs=0.1)


def test_a_planted_cluster_outranks_its_untouched_twin(trained: nn.Module) -> None:
    """From 4 mm, 5 specks, the brightest at 25 local deviations of the contrast."""
    wins = []
    for draw in range(20):
        rng = np.random.default_rng([draw, 11])
        image = film(100 + draw % 5)
        cells = ground_of(image)
        deep = np.argwhere(cells.tissue[:, :200])
        row, col = (int(n) for n in deep[rng.integers(len(deep))])
        lesion = calcification_cluster(
            rng, diameter_mm=rng.uniform(4, 10), spacing_mm=SPACING, count=int(rng.integers(5, 16))
        )
        amplitude = float(25 * cells.deviation[row, col])
        pixels, region = insert(image.pixels, cells.tissue, lesion, (row, col), amplitude=amplitude)
        planted, twin = respond(trained, replace(image, pixels=pixels)), respond(trained, image)
        grid = PatchGrid((384, 256), SIZE, SIZE // 2)
        centre = np.array([region.y + region.height / 2, region.x + region.width / 2])
        held = (np.abs(grid.corners + SIZE / 2 - centre) <= SIZE / 2).all(1)
        wins.append(float(planted.patches[held].max()) > float(twin.patches[held].max()))
        far = (np.abs(grid.corners + SIZE / 2 - centre) > SIZE + 40).any(1)
        np.testing.assert_allclose(planted.patches[far], twin.patches[far], atol=0.05)
    assert np.mean(wins) >= 0.9


def test_the_map_peaks_at_the_cluster_and_speaks_in_the_tissue_alone(
    trained: nn.Module,
) -> None:
    image = film(40)
    cells = ground_of(image)
    lesion = calcification_cluster(
        np.random.default_rng(2), diameter_mm=6, spacing_mm=SPACING, count=12
    )
    pixels, region = insert(image.pixels, cells.tissue, lesion, (200, 60), amplitude=0.4)
    planted = on_cpu(replace(image, pixels=pixels), METHOD.needs.before)
    with torch.inference_mode(), kept_on_device():
        response = trained(planted, SETTING.grid(planted.shape))
    assert response.map.dtype == response.patches.dtype == torch.float32
    assert torch.equal(response.map.isfinite(), planted.tissue)
    assert response.patches.isfinite().all()
    row, col = np.unravel_index(np.nanargmax(response.map.numpy()), response.map.shape)
    assert region.y - 5 <= row <= region.y + region.height + 5
    assert region.x - 5 <= col <= region.x + region.width + 5


def test_brightness_and_contrast_change_next_to_nothing(trained: nn.Module) -> None:
    """But for what stands in for the tissue's density, and the floor of the deviation."""
    image = film(50)
    plain, brighter = (
        specks_of(image),
        specks_of(replace(image, pixels=image.pixels + np.float32(0.1))),
    )
    np.testing.assert_allclose(brighter.wide, plain.wide, atol=0.02)
    stronger = specks_of(replace(image, pixels=image.pixels * np.float32(1.5)))
    np.testing.assert_allclose(stronger.wide, plain.wide, atol=0.3)
    grid = PatchGrid((384, 256), SIZE, SIZE // 2)
    one, other = (c.windows(grid)[0] for c in (plain, stronger))
    assert np.corrcoef(one[:, 0], other[:, 0])[0, 1] > 0.98


def test_a_skeleton_has_the_tensors_of_what_was_learnt(trained: nn.Module) -> None:
    skeleton = build(Config(), SETTING)
    assert isinstance(skeleton, Calcification)
    skeleton.load_state_dict(trained.state_dict())
    one, other = (respond(m, film(60)).patches for m in (trained, skeleton.eval()))
    assert torch.equal(one, other)


def test_a_seed_decides_everything(negatives: TrainingSet, trained: nn.Module) -> None:
    again, other = (learnt(negatives, seed=seed).state_dict() for seed in (3, 4))
    assert same(trained.state_dict(), again)
    assert not torch.equal(again["coefficients"], other["coefficients"])


def test_clusters_are_drawn_apart_and_in_the_tissue() -> None:
    image = film(70)
    cells = ground_of(image)
    drawn, regions = draw_clusters(image, cells, 5, np.random.default_rng(0))
    assert 1 <= len(regions) <= 5
    changed = drawn.pixels != image.pixels
    assert cells.tissue[changed].all()
    for n, a in enumerate(regions):
        for b in regions[:n]:
            assert (
                a.x >= b.x + b.width or b.x >= a.x + a.width
                or a.y >= b.y + b.height or b.y >= a.y + a.height
            )  # fmt: skip


def test_progress_counts_images() -> None:
    told: list[tuple[str, int, int]] = []
    run = run_with(0, SETTING, progress=lambda *said: told.append(said[:3]))
    few = training_set([film(0), film(1)], SIZE)
    fitted("calcification", Config(clusters=1), few, run)
    assert told == [("calcification", n, 2) for n in (1, 2)]


def test_an_unknown_spacing_is_an_error() -> None:
    with pytest.raises(ImageError, match="--spacing-mm"):
        specks_of(replace(film(80), spacing_mm=None))


def test_films_without_room_for_a_cluster_are_an_error() -> None:
    mask = np.zeros((64, 64), bool)
    mask[:, 15:48] = True  # 6.6 mm, 2 mm of them rim; a cluster's array has 5 mm at least
    strip = prepared(np.where(mask, np.float32(0.4), np.float32(0)), mask, SPACING)
    with pytest.raises(TrainingError, match="no synthetic cluster"):
        learnt(training_set([strip], SIZE))


@pytest.mark.parametrize(("name", "value"), [("clusters", 0), ("c", 0.0), ("c", math.inf)])
def test_settings_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(RequestError, match=f"calcification.{name}"):
        Config(**{name: value})  # type: ignore[arg-type]
