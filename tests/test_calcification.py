"""Specks and clusters: counted by hand, found in phantoms, the same after save and restore."""

import math
from dataclasses import replace
from typing import cast

import numpy as np
import pytest
import torch

from patchad import methods
from patchad.core.grid import PatchGrid
from patchad.core.image import Foreground
from patchad.errors import ImageError, ModelError, RequestError, TrainingError
from patchad.learn.patch_bank import PatchBank, foreground_corners
from patchad.learn.training_set import PackedMask, TrainingSet
from patchad.lesions.shapes import calcification_cluster, insert
from patchad.methods.filters import calcification
from patchad.methods.filters.calcification import Config, Ordinary, draw_clusters
from patchad.methods.parts.specks import find_specks
from patchad.model import detector as models
from patchad.model.card import ModelCard, TrainingData
from patchad.model.detector import Detector, ImageDetector
from patchad.model.scoring import Response
from patchad.phantoms import phantom
from patchad.prepare.preprocess import Prepared, Preprocessing

CPU = torch.device("cpu")
SIZE, SPACING = 64, (0.2, 0.2)
CARD = ModelCard(
    method="calcification",
    config={"method": "calcification"},
    preprocessing=Preprocessing(),
    patch_size=SIZE,
    stride=32,
    weighting="gaussian",
    min_foreground=0.5,
    score_unit="",
    seed=0,
    data=TrainingData("ab", 8, 8, "by patient", ("MG",), SPACING, (0.3, 0.6)),
)


def film(seed: int, shape: tuple[int, int] = (384, 256)) -> Prepared:
    made = phantom.mammogram(np.random.default_rng([seed, 7]), shape=shape)
    return prepared(made.pixels, made.foreground)


def prepared(pixels: np.ndarray, mask: np.ndarray, spacing: object = SPACING) -> Prepared:
    found = Foreground(mask, "", math.nan)
    return Prepared(
        np.array(pixels, np.float32), found, 0.5, cast(tuple[float, float] | None, spacing)
    )


def training_set(films: list[Prepared]) -> TrainingSet:
    rng = np.random.default_rng(0)
    images = [
        (f.pixels, foreground_corners(f.foreground.mask, SIZE, 0.5, limit=10, rng=rng))
        for f in films
    ]
    bank = PatchBank.of(images, SIZE, CPU)
    return TrainingSet(bank, 10, tuple(PackedMask.of(f) for f in films))


@pytest.fixture(scope="module")
def negatives() -> TrainingSet:
    return training_set([film(seed) for seed in range(8)])


@pytest.fixture(scope="module")
def trained(negatives: TrainingSet) -> ImageDetector:
    return fit(negatives)


def fit(data: TrainingSet, config: Config | None = None, seed: int = 3) -> ImageDetector:
    return calcification.fit(config or Config(), data, card=CARD, seed=seed, device=CPU)


def respond(detector: ImageDetector, image: Prepared) -> Response:
    shape = (image.pixels.shape[0], image.pixels.shape[1])
    return detector.respond(image, PatchGrid(shape, SIZE, SIZE // 2))


def test_specks_are_counted_by_hand() -> None:
    """Ten specks on a 2 mm raster in white noise: where they are and how many."""
    pixels = np.random.default_rng(2).normal(0.5, 0.01, (256, 256))
    rows, cols = (a.ravel() for a in np.mgrid[80:100:10, 100:150:10])
    pixels[rows, cols] += 0.5
    cells = find_specks(prepared(pixels, np.ones((256, 256), bool)))
    assert cells.side == (4, 4)
    assert cells.peak.shape == (64, 64)
    assert cells.high.sum() == 10
    assert sorted(zip(*np.nonzero(cells.high), strict=True)) == sorted(
        zip(rows // 4, cols // 4, strict=True)
    )
    # A grid of one patch, and one that holds the five specks of the upper row.
    values, places = cells.windows(PatchGrid((256, 256), 256, 256))
    assert values[0, 3] == pytest.approx(math.log(11))
    assert values[0, 2] == pytest.approx(math.log(np.sort(cells.peak.ravel())[-3] + 1))
    assert places[0, 3] == pytest.approx(0.5, abs=0.02)
    half = cells.windows(PatchGrid((256, 256), 88, 84))[0]
    corners = PatchGrid((256, 256), 88, 84).corners
    assert half[(corners == (0, 84)).all(1), 3] == pytest.approx(math.log(6))
    top = np.unravel_index(cells.wide.argmax(), cells.wide.shape)
    assert np.abs(np.subtract(top, (85 / 4, 120 / 4))).max() < 2
    # A peak weighs what it exceeds 2 by, up to 4; the wide Gaussian has 3.2 mm: four cells.
    away = (np.indices((64, 64)) - np.reshape(top, (2, 1, 1))) / 4
    expected = (np.clip(cells.peak - 2, 0, 4) * np.exp(-(away**2).sum(0) / 2)).sum()
    assert np.expm1(cells.wide).max() == pytest.approx(expected, rel=0.05)


def test_a_place_is_measured_from_the_air_and_the_chest_wall() -> None:
    mask = np.zeros((200, 160), bool)
    mask[:, :100] = True
    pixels = np.where(mask, 0.4, 0.0)
    left = find_specks(prepared(pixels, mask))
    right = find_specks(prepared(pixels[:, ::-1], mask[:, ::-1]))
    # Tissue ends 1 mm before the air: at column 95; the cell of columns 40..43 has its middle 22.
    assert left.distance[25, 10] == pytest.approx((95 - 42) * 0.2, abs=0.8)
    assert left.col[25, 0] == 0
    assert left.col[25, 12] == pytest.approx(12 / 23)
    assert left.row[[0, 49], 3].tolist() == [0, 1]
    assert left.density[25, 10] == pytest.approx(0.4, abs=1e-4)
    assert right.col[25, 39] == 0
    np.testing.assert_allclose(right.distance[:, ::-1], left.distance, atol=0.81)


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
    ordinary = Ordinary.of(values, places)
    z = ordinary(values, places)
    assert z.mean() == pytest.approx(0, abs=0.01)
    for some in (places[:, 0] < -0.8, places[:, 0] > 0.8):
        assert z[some].std() == pytest.approx(1, abs=0.08)
    at = np.array([[0.5, 0.5, 0.5, 0.0]])
    above = ordinary(np.array([[2 + 0.5 - 0.75 + 2 * math.exp(0.25)]]), at)
    assert above[0, 0] == pytest.approx(2, abs=0.1)


def test_a_planted_cluster_outranks_its_untouched_twin(trained: ImageDetector) -> None:
    """From 4 mm, 5 specks, the brightest at 25 local deviations of the contrast."""
    wins = []
    for draw in range(20):
        rng = np.random.default_rng([draw, 11])
        image = film(100 + draw % 5)
        cells = find_specks(image)
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
        wins.append(planted.patches[held].max() > twin.patches[held].max())
        far = (np.abs(grid.corners + SIZE / 2 - centre) > SIZE + 40).any(1)
        np.testing.assert_allclose(planted.patches[far], twin.patches[far], atol=0.05)
    assert np.mean(wins) >= 0.9


def test_the_map_peaks_at_the_cluster_and_speaks_in_the_tissue_alone(
    trained: ImageDetector,
) -> None:
    image = film(40)
    cells = find_specks(image)
    lesion = calcification_cluster(
        np.random.default_rng(2), diameter_mm=6, spacing_mm=SPACING, count=12
    )
    pixels, region = insert(image.pixels, cells.tissue, lesion, (200, 60), amplitude=0.4)
    response = respond(trained, replace(image, pixels=pixels))
    assert response.map.dtype == response.patches.dtype == np.float32
    assert (np.isfinite(response.map) == cells.tissue).all()
    assert np.isfinite(response.patches).all()
    row, col = np.unravel_index(np.nanargmax(response.map), response.map.shape)
    assert region.y - 5 <= row <= region.y + region.height + 5
    assert region.x - 5 <= col <= region.x + region.width + 5


def test_brightness_and_contrast_change_next_to_nothing(trained: ImageDetector) -> None:
    """But for what stands in for the tissue's density, and the floor of the deviation."""
    image = film(50)
    plain, brighter = (
        find_specks(image),
        find_specks(replace(image, pixels=image.pixels + np.float32(0.1))),
    )
    np.testing.assert_allclose(brighter.wide, plain.wide, atol=0.02)
    stronger = find_specks(replace(image, pixels=image.pixels * np.float32(1.5)))
    np.testing.assert_allclose(stronger.wide, plain.wide, atol=0.3)
    grid = PatchGrid((384, 256), SIZE, SIZE // 2)
    one, other = (c.windows(grid)[0] for c in (plain, stronger))
    assert np.corrcoef(one[:, 0], other[:, 0])[0, 1] > 0.98


def test_save_and_restore_give_the_same_response(
    trained: ImageDetector, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("model")
    models.save(cast(Detector, trained), folder)
    again = cast(ImageDetector, methods.load(folder, CPU))
    image = film(60)
    one, other = respond(trained, image), respond(again, image)
    np.testing.assert_array_equal(one.patches, other.patches)
    np.testing.assert_array_equal(one.map, other.map)
    assert again.card.score_unit == "log odds of synthetic calcifications"
    assert again.card.config["calcification"] == {"clusters": 5, "c": 0.01}
    lame = {k: v for k, v in trained.tensors().items() if k != "patch.mean"}
    with pytest.raises(ModelError, match="train anew"):
        calcification.restore(trained.card, lame, CPU)


def test_a_seed_decides_everything(negatives: TrainingSet, trained: ImageDetector) -> None:
    again, other = fit(negatives), fit(negatives, seed=4)
    for name, tensor in trained.tensors().items():
        assert torch.equal(tensor, again.tensors()[name])
    assert not torch.equal(trained.tensors()["coefficients"], other.tensors()["coefficients"])


def test_clusters_are_drawn_apart_and_in_the_tissue() -> None:
    image = film(70)
    cells = find_specks(image)
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


def test_progress_counts_images(negatives: TrainingSet) -> None:
    told: list[tuple[str, int, int]] = []
    few = TrainingSet(negatives.bank, 10, negatives.masks[:2])
    calcification.fit(
        Config(clusters=1),
        few,
        card=CARD,
        seed=0,
        device=CPU,
        progress=lambda stage, done, total, loss: told.append((stage, done, total)),
    )
    assert told == [("learning calcifications", n, 2) for n in (1, 2)]


def test_an_unknown_spacing_is_an_error(trained: ImageDetector) -> None:
    with pytest.raises(ImageError, match="--spacing-mm"):
        respond(trained, replace(film(80), spacing_mm=None))


def test_films_without_room_for_a_cluster_are_an_error() -> None:
    mask = np.zeros((64, 64), bool)
    mask[:, 15:48] = True  # 6.6 mm, 2 mm of them rim; a cluster's array has 5 mm at least
    strip = prepared(np.where(mask, 0.4, 0.0), mask)
    with pytest.raises(TrainingError, match="no synthetic cluster"):
        fit(training_set([strip]))


@pytest.mark.parametrize(("name", "value"), [("clusters", 0), ("c", 0.0), ("c", math.inf)])
def test_settings_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(RequestError, match=f"calcification.{name}"):
        Config(**{name: value})  # type: ignore[arg-type]
