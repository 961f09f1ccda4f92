"""Lesions drawn into negatives: what the network sees, learns, and gives back."""

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from patchad import methods
from patchad.core.grid import PatchGrid
from patchad.core.image import Foreground
from patchad.errors import ImageError, ModelError, RequestError
from patchad.learn.patch_bank import PatchBank
from patchad.learn.training_set import PackedMask, TrainingSet
from patchad.lesions.shapes import insert, mass
from patchad.methods.parts import lesion_films
from patchad.methods.parts.lesion_films import (
    CELL_MM,
    CROP,
    Film,
    channels,
    cut_crops,
    mirrored,
    plant,
)
from patchad.methods.synthetic import synthetic_lesions
from patchad.methods.synthetic.synthetic_lesions import (
    Config,
    build_network,
    outline_loss,
    pool_logits,
)
from patchad.model import detector as models
from patchad.model.card import ModelCard, TrainingData
from patchad.model.detector import ImageDetector
from patchad.phantoms.phantom import mammogram
from patchad.prepare.preprocess import Prepared, Preprocessing

CPU = torch.device("cpu")
SHORT = Config(steps=3, batch_size=4)
SIDE, STRIDE = 32, 8  # 25.6 mm, as 128 pixels of 0.2 mm
CARD = ModelCard(
    method="synthetic_lesions",
    config={"method": "synthetic_lesions"},
    preprocessing=Preprocessing(),
    patch_size=SIDE,
    stride=STRIDE,
    weighting="gaussian",
    min_foreground=0.5,
    score_unit="",
    seed=0,
    data=TrainingData("ab", 3, 2, "by patient", ("MG",), (0.8, 0.8), (0.3, 0.6)),
)


def breast(seed: int, shape: tuple[int, int] = (200, 160)) -> Prepared:
    phantom = mammogram(np.random.default_rng(seed), shape=shape, spacing_mm=CELL_MM)
    foreground = Foreground(phantom.foreground, "", float("nan"))
    return Prepared(phantom.pixels, foreground, 0.5, (CELL_MM, CELL_MM))


def training_set(*films: Prepared) -> TrainingSet:
    bank = PatchBank.of([(f.pixels, np.zeros((1, 2), np.int64)) for f in films], SIDE, CPU)
    return TrainingSet(bank, 50, tuple(PackedMask.of(f) for f in films))


@pytest.fixture(scope="module")
def data() -> TrainingSet:
    torch.set_num_threads(1)
    return training_set(*(breast(seed) for seed in range(8)))


def fit(data: TrainingSet, config: Config = SHORT, seed: int = 0, **rest) -> ImageDetector:
    return synthetic_lesions.fit(config, data, card=CARD, seed=seed, device=CPU, **rest)


def same(one: ImageDetector, other: ImageDetector) -> bool:
    tensors = other.tensors()
    return all(torch.equal(tensor, tensors[name]) for name, tensor in one.tensors().items())


@pytest.fixture(scope="module")
def trained(data: TrainingSet) -> tuple[ImageDetector, list[float]]:
    losses: list[float] = []
    detector = fit(
        data,
        Config(steps=150, batch_size=8, contrast=(1.0, 3.0)),
        progress=lambda stage, done, total, loss: losses.append(loss),
    )
    return detector, [loss for loss in losses if np.isfinite(loss)]


def random_film() -> np.ndarray:
    field = np.random.default_rng(0).random((60, 50)).astype(np.float32)
    return (0.3 + 0.4 * lesion_films._surroundings(field, 2.0)).astype(np.float32)


def test_channels_stay_when_the_film_gets_brighter() -> None:
    film = random_film()
    np.testing.assert_allclose(channels(film + np.float32(0.25)), channels(film), atol=2e-3)


def test_contrast_changes_the_last_channel_alone() -> None:
    # So strong that the constants beside deviation and gradient don't count
    film = random_film() * 1000
    weak, strong = channels(film), channels(3 * film)
    np.testing.assert_allclose(strong[:3], weak[:3], atol=0.05)
    np.testing.assert_allclose(strong[3], 3 * weak[3], rtol=1e-3, atol=0.5)


def test_channels_of_a_ramp_by_hand() -> None:
    rows = np.arange(120, dtype=np.float32)[:, None] * np.ones((1, 120), np.float32)
    seen = channels(0.005 * rows)[:, 45:75, 45:75]
    assert np.abs(seen[0]).max() < 0.05  # the mean around a place is its own value
    assert np.abs(seen[1]).max() < 1e-3
    np.testing.assert_allclose(seen[2], 2 * 0.005 / (0.005 + 6e-4), rtol=1e-3)
    assert np.abs(seen[3]).max() < 0.05
    assert (channels(np.full((40, 40), 0.5, np.float32)) == 0).all()


@pytest.mark.parametrize("axes", [(), (-2,), (-1,), (-2, -1)])
def test_mirrored_channels_are_those_of_the_mirrored_film(axes: tuple[int, ...]) -> None:
    film = random_film()
    turned = np.ascontiguousarray(np.flip(film, axes))
    np.testing.assert_allclose(mirrored(channels(film), axes), channels(turned), atol=1e-4)


def test_a_film_holds_the_tissue_and_fills_the_air() -> None:
    pixels = np.zeros((200, 240), np.float32)
    pixels[40:160, :120] = 0.6
    mask = pixels > 0
    image = Prepared(pixels, Foreground(mask, "", 0.0), 0.6, (0.4, 0.4))
    film = Film.of(image)
    assert film.shape == (100, 120)
    # The rim of 1 mm is gone, and 8 cells of 0.8 mm are kept around.
    rows = np.flatnonzero(film.whole(film.pixels)[:, 30] > 0)
    assert (rows[0], rows[-1]) == pytest.approx((21, 78), abs=1)
    assert film.corner == (rows[0] - 8, 0)
    np.testing.assert_allclose(film.filled(film.pixels), 0.6, atol=1e-6)
    assert np.isnan(film.whole(film.pixels)[0]).all()
    assert sorted(film.dense) == np.flatnonzero(film.tissue).tolist()


def test_lesions_are_drawn_into_the_tissue_and_marked() -> None:
    film = Film.of(breast(0))
    for seed in range(5):
        planted = plant(np.random.default_rng(seed), film, (3.0, 20.0), (1.0, 3.0))
        assert 1 <= len(planted.centres) <= 6
        rows, cols = planted.centres.T
        assert film.tissue[rows, cols].all()
        assert planted.lesion[rows, cols].all()
        assert not planted.lesion[~film.tissue].any()
        np.testing.assert_array_equal(planted.weight > 0, film.tissue)
        assert (planted.weight[film.tissue & ~planted.lesion] == 1).all()
        apart = np.linalg.norm(planted.centres[:, None] - planted.centres[None], axis=-1)
        assert (apart[apart > 0] >= 30).all()
        # The middles are brighter than they were, against their surroundings
        before = channels(film.filled(film.pixels))
        rise = planted.channels[3][rows, cols] - before[3][rows, cols]
        assert np.median(rise) > 0.05


def test_a_lesion_counts_as_150_cells_whatever_its_size() -> None:
    film = Film.of(breast(0))
    for radius in (4.0, 8.0):  # 79 and 314 cells of 0.8 mm
        planted = plant(np.random.default_rng(4), film, (radius, radius), (1.0, 1.0))
        counted = planted.weight[planted.lesion].sum()
        assert counted == pytest.approx(150 * len(planted.centres), rel=0.01)


def test_half_of_the_crops_hold_lesions_and_small_films_are_enlarged() -> None:
    film = Film.of(breast(1, (70, 50)))
    assert max(film.tissue.shape) < 90
    rng = np.random.default_rng(0)
    pool = [plant(rng, film, (3.0, 6.0), (1.0, 3.0)) for _ in range(3)]
    seen, lesion, weight = cut_crops(rng, pool, 8)
    assert seen.shape == (8, 4, CROP, CROP)
    assert seen.dtype == lesion.dtype == np.float32
    assert (lesion[:4].sum((1, 2)) > 0).all()
    assert weight.min() == 0  # air
    assert 1 < weight.max() <= 4


def test_the_loss_by_hand() -> None:
    logits = torch.zeros(1, 2, 2)
    lesion, weight = torch.tensor([[[1.0, 0], [0, 1]]]), torch.tensor([[[2.0, 1], [1, 0]]])
    # p = 1/2 on three cells of tissue, one of them a lesion: Σpt = 1, Σp = 2, Σt = 2
    expected = np.log(2) + 0.3 * (1 - (2 * 1 + 1) / (2 + 2 + 1))
    assert float(outline_loss(logits, lesion, weight)) == pytest.approx(expected, abs=1e-6)


def test_the_network_keeps_the_shape_and_depends_on_the_seed() -> None:
    network = build_network(3).eval()
    with torch.inference_mode():
        assert network(torch.rand(2, 4, 64, 40)).shape == (2, 1, 64, 40)
    one, two, other = (build_network(seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["last.weight"], other["last.weight"])


def test_pools_by_hand() -> None:
    cells = np.full((64, 64), 1.0, np.float32)
    cells[:, 32:] = np.nan
    cells[2, 2] = 7.0  # in the first patch, but not in its middle
    pools = pool_logits(cells, PatchGrid((128, 128), 64, 64))
    # Two patches of tissue and two without, which are as low as the film's lowest
    expected = [[7, 1, 1], [1, 1, 1], [1, 1, 1], [1, 1, 1]]
    np.testing.assert_allclose(pools, expected, atol=1e-5)


def test_training_lowers_the_loss_and_says_what_its_scores_are(
    trained: tuple[ImageDetector, list[float]],
) -> None:
    detector, losses = trained
    assert len(losses) == 2  # after 100 and 150 steps
    assert losses[1] < 0.9 * losses[0]
    assert "middle half" in detector.card.patch_pooling
    assert "standard deviations" in detector.card.score_unit
    assert detector.card.config["synthetic_lesions"]["steps"] == 150


def test_a_planted_lesion_outranks_its_untouched_twin(
    trained: tuple[ImageDetector, list[float]],
) -> None:
    detector = trained[0]
    wins, draws = 0, 0
    for seed in range(30):
        image = breast(100 + seed)
        rng = np.random.default_rng(seed)
        grid = PatchGrid(image.tissue.shape, SIDE, STRIDE)
        inside = np.flatnonzero(grid.means(image.tissue) == 1)
        patch = int(rng.choice(inside))
        centre = tuple((grid.corners[patch] + SIDE // 2).tolist())
        diameter = rng.uniform(10, 24)
        lesion = mass(rng, diameter_mm=diameter, spacing_mm=(CELL_MM, CELL_MM), profile="gaussian")
        deviation = float(image.pixels[image.tissue].std())
        pixels, _ = insert(image.pixels, image.tissue, lesion, centre, amplitude=1.5 * deviation)
        twin = replace(image, pixels=pixels)
        before, after = (detector.respond(i, grid).patches[patch] for i in (image, twin))
        wins, draws = wins + (after > before), draws + 1
    assert wins >= 0.9 * draws


def test_the_map_speaks_in_the_tissue_and_all_patches_have_scores(
    trained: tuple[ImageDetector, list[float]],
) -> None:
    image = breast(50, (203, 161))
    grid = PatchGrid((203, 161), SIDE, STRIDE)
    response = trained[0].respond(image, grid)
    assert response.map.dtype == response.patches.dtype == np.float32
    np.testing.assert_array_equal(np.isfinite(response.map), image.tissue)
    assert response.patches.shape == (len(grid),)
    assert np.isfinite(response.patches).all()
    keep = grid.means(image.foreground.mask) >= 0.5
    for values in (response.patches[keep], response.map[image.tissue]):
        assert abs(np.median(values)) < 2  # in deviations of negatives


def test_a_mirrored_film_gets_the_mirrored_map(trained: tuple[ImageDetector, list[float]]) -> None:
    image = breast(51, (208, 160))
    turned = Prepared(
        np.ascontiguousarray(image.pixels[:, ::-1]),
        Foreground(np.ascontiguousarray(image.foreground.mask[:, ::-1]), "", 0.0),
        0.5,
        image.spacing_mm,
    )
    grid = PatchGrid((208, 160), SIDE, STRIDE)
    one, other = (trained[0].respond(i, grid).map for i in (image, turned))
    both = np.isfinite(one) & np.isfinite(other[:, ::-1])
    assert np.corrcoef(one[both], other[:, ::-1][both])[0, 1] > 0.95


def test_a_model_comes_back_with_the_same_answers(
    trained: tuple[ImageDetector, list[float]], tmp_path: Path
) -> None:
    models.save(trained[0], tmp_path)
    loaded = methods.load(tmp_path, CPU)
    assert isinstance(loaded, ImageDetector)
    image, grid = breast(52), PatchGrid((200, 160), SIDE, STRIDE)
    one, other = (detector.respond(image, grid) for detector in (trained[0], loaded))
    np.testing.assert_array_equal(one.map, other.map)
    np.testing.assert_array_equal(one.patches, other.patches)


def test_foreign_tensors_are_no_model(trained: tuple[ImageDetector, list[float]]) -> None:
    card = replace(CARD, config={"synthetic_lesions": asdict(SHORT)})
    with pytest.raises(ModelError, match="train anew"):
        synthetic_lesions.restore(card, {"some": torch.zeros(3)}, CPU)
    with pytest.raises(ModelError, match="train anew"):
        synthetic_lesions.restore(CARD, trained[0].tensors(), CPU)


def test_one_seed_gives_one_model(data: TrainingSet) -> None:
    assert same(fit(data), fit(data))
    assert not same(fit(data), fit(data, seed=1))


def test_an_interrupted_training_resumes_to_the_same_model(
    data: TrainingSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(synthetic_lesions, "_EVERY", 2)
    config = replace(SHORT, steps=5)
    whole = fit(data, config)

    def stop(stage: str, done: int, total: int, value: float) -> None:
        if done == 4:
            raise KeyboardInterrupt

    file = tmp_path / "checkpoint.safetensors"
    with pytest.raises(KeyboardInterrupt):
        fit(data, config, checkpoint=file, progress=stop)
    seen: list[int] = []
    note: Callable[[str, int, int, float], None] = lambda *said: seen.append(said[1])  # noqa: E731
    resumed = fit(data, config, checkpoint=file, progress=note)
    assert seen[0] == 5
    assert same(resumed, whole)
    with pytest.raises(RequestError, match="another configuration"):
        fit(data, config, seed=1, checkpoint=file)


def test_a_film_without_spacing_is_refused() -> None:
    with pytest.raises(ImageError, match="pixel spacing is needed"):
        Film.of(replace(breast(0), spacing_mm=None))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", 0),
        ("batch_size", 1),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("radius_mm", (5.0, 3.0)),
        ("radius_mm", (0.1, 3.0)),
        ("radius_mm", (3.0, 60.0)),
        ("contrast", (0.0, 3.0)),
        ("contrast", (3.0, 1.0)),
    ],
)
def test_a_wrong_setting_is_named(name: str, value: object) -> None:
    with pytest.raises(RequestError, match=rf"synthetic_lesions\.{name} "):
        replace(SHORT, **{name: value})
