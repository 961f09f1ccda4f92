"""Lesions drawn into negatives: what the network sees, learns, and gives back."""

from dataclasses import replace
from pathlib import Path
from typing import Any

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

from patchad.core.grid import PatchGrid
from patchad.errors import ImageError, RequestError
from patchad.learn.training_set import TrainingSet
from patchad.lesions.shapes import insert, mass
from patchad.methods.parts.cells import CELL_MM
from patchad.methods.parts.lesion_films import CROP, Canvas, channels, cut_crops, mirrored, plant
from patchad.methods.synthetic.synthetic_lesions import (
    METHOD,
    Config,
    SyntheticLesions,
    UNet,
    build,
    outline_loss,
    pool_logits,
)
from patchad.model.scoring import Response
from patchad.phantoms.phantom import mammogram
from patchad.prepare.preprocess import Prepared
from patchad.prepare.smoothing import gaussian

SHORT = Config(steps=3, batch_size=4)
SIDE, STRIDE = 32, 8  # 25.6 mm, as 128 pixels of 0.2 mm
SETTING = setting_with(patch_size=SIDE, stride=STRIDE)


def breast(seed: int, shape: tuple[int, int] = (200, 160)) -> Prepared:
    phantom = mammogram(np.random.default_rng(seed), shape=shape, spacing_mm=CELL_MM)
    return prepared(phantom.pixels, phantom.foreground, (CELL_MM, CELL_MM))


@pytest.fixture(scope="module")
def data() -> TrainingSet:
    torch.set_num_threads(1)
    return training_set([breast(seed) for seed in range(8)], SIDE)


def learnt(data: TrainingSet, config: Config = SHORT, seed: int = 0, **rest: Any) -> dict[str, Any]:
    run = run_with(seed, SETTING, **rest)
    return fitted("synthetic_lesions", config, data, run).module.state_dict()


def respond(module: torch.nn.Module, image: Prepared) -> Response:
    film = on_cpu(image, METHOD.needs.before)
    with torch.inference_mode():
        answer: Response = module(film, SETTING.grid(film.shape))
    return answer


@pytest.fixture(scope="module")
def trained(data: TrainingSet) -> tuple[torch.nn.Module, list[float]]:
    losses: list[float] = []
    run = run_with(0, SETTING, progress=lambda stage, done, total, loss: losses.append(loss))
    config = Config(steps=150, batch_size=8, contrast=(1.0, 3.0))
    module = fitted("synthetic_lesions", config, data, run).module
    return module, [loss for loss in losses if np.isfinite(loss)]


def random_film() -> torch.Tensor:
    field = torch.from_numpy(np.random.default_rng(0).random((60, 50)).astype(np.float32))
    return 0.3 + 0.4 * gaussian(field, (2.0, 2.0), border="nearest")


def test_channels_stay_when_the_film_gets_brighter() -> None:
    film = random_film()
    np.testing.assert_allclose(channels(film + 0.25), channels(film), atol=2e-3)


def test_contrast_changes_the_last_channel_alone() -> None:
    # So strong that the constants beside deviation and gradient don't count
    film = random_film() * 1000
    weak, strong = channels(film), channels(3 * film)
    np.testing.assert_allclose(strong[:3], weak[:3], atol=0.05)
    np.testing.assert_allclose(strong[3], 3 * weak[3], rtol=1e-3, atol=0.5)


def test_channels_of_a_ramp_by_hand() -> None:
    rows = torch.arange(120.0)[:, None] * torch.ones(1, 120)
    seen = channels(0.005 * rows)[:, 45:75, 45:75].numpy()
    assert np.abs(seen[0]).max() < 0.05  # the mean around a place is its own value
    assert np.abs(seen[1]).max() < 1e-3
    np.testing.assert_allclose(seen[2], 2 * 0.005 / (0.005 + 6e-4), rtol=1e-3)
    assert np.abs(seen[3]).max() < 0.05
    assert channels(torch.full((40, 40), 0.5)).abs().max() < 1e-3


@pytest.mark.parametrize("axes", [(), (-2,), (-1,), (-2, -1)])
def test_mirrored_channels_are_those_of_the_mirrored_film(axes: tuple[int, ...]) -> None:
    film = random_film()
    turned = film.flip(axes)
    np.testing.assert_allclose(mirrored(channels(film), axes), channels(turned), atol=1e-4)


def test_a_canvas_holds_its_tissue_from_fat_to_dense() -> None:
    canvas = Canvas.of(breast(0))
    assert sorted(canvas.dense) == np.flatnonzero(canvas.tissue).tolist()
    light = gaussian(canvas.filled(canvas.pixels), (6.0, 6.0), border="nearest").numpy()
    ranks = light.ravel()[canvas.dense].argsort().argsort()
    # sorted by a mean that is taken on a smaller copy
    assert np.corrcoef(ranks, np.arange(len(ranks)))[0, 1] > 0.99
    inside = canvas.tissue
    np.testing.assert_array_equal(canvas.filled(canvas.pixels)[inside], canvas.pixels[inside])


def test_lesions_are_drawn_into_the_tissue_and_marked() -> None:
    film = Canvas.of(breast(0))
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
    film = Canvas.of(breast(0))
    for radius in (4.0, 8.0):  # 79 and 314 cells of 0.8 mm
        planted = plant(np.random.default_rng(4), film, (radius, radius), (1.0, 1.0))
        counted = planted.weight[planted.lesion].sum()
        assert counted == pytest.approx(150 * len(planted.centres), rel=0.01)


def test_half_of_the_crops_hold_lesions_and_small_films_are_enlarged() -> None:
    film = Canvas.of(breast(1, (70, 50)))
    assert max(film.tissue.shape) < 90
    rng = np.random.default_rng(0)
    pool = [plant(rng, film, (3.0, 6.0), (1.0, 3.0)) for _ in range(3)]
    seen, lesion, weight = cut_crops(rng, pool, 8)
    assert seen.shape == (8, 4, CROP, CROP)
    assert seen.dtype == lesion.dtype == torch.float32
    assert (lesion[:4].sum((1, 2)) > 0).all()
    assert weight.min() == 0  # air
    assert 1 < weight.max() <= 4


def test_the_loss_by_hand() -> None:
    logits = torch.zeros(1, 2, 2)
    lesion, weight = torch.tensor([[[1.0, 0], [0, 1]]]), torch.tensor([[[2.0, 1], [1, 0]]])
    # p = 1/2 on three cells of tissue, one of them a lesion: Σpt = 1, Σp = 2, Σt = 2
    expected = np.log(2) + 0.3 * (1 - (2 * 1 + 1) / (2 + 2 + 1))
    assert float(outline_loss(logits, lesion, weight)) == pytest.approx(expected, abs=1e-6)


def test_the_network_keeps_the_shape() -> None:
    with torch.inference_mode():
        assert UNet().eval()(torch.rand(2, 4, 64, 40)).shape == (2, 1, 64, 40)


def test_pools_by_hand() -> None:
    logits = torch.ones(64, 64)
    logits[:, 32:] = torch.nan
    logits[2, 2] = 7.0  # in the first patch, but not in its middle
    pools = pool_logits(logits, PatchGrid((128, 128), 64, 64))
    # Two patches of tissue and two without, which are as low as the film's lowest
    expected = [[7, 1, 1], [1, 1, 1], [1, 1, 1], [1, 1, 1]]
    np.testing.assert_allclose(pools, expected, atol=1e-5)


def test_training_lowers_the_loss(trained: tuple[torch.nn.Module, list[float]]) -> None:
    losses = trained[1]
    assert len(losses) == 3  # after 50, 100 and 150 steps
    assert losses[2] < 0.9 * losses[0]


def test_a_planted_lesion_outranks_its_untouched_twin(
    trained: tuple[torch.nn.Module, list[float]],
) -> None:
    wins = []
    for seed in range(30):
        image = breast(100 + seed)
        rng = np.random.default_rng(seed)
        grid = SETTING.grid((200, 160))
        rows, cols = (grid.corners + SIDE // 2).T
        inside = np.flatnonzero(image.tissue[rows, cols])
        patch = int(rng.choice(inside))
        lesion = mass(
            rng,
            diameter_mm=rng.uniform(10, 24),
            spacing_mm=(CELL_MM, CELL_MM),
            profile="gaussian",
        )
        deviation = float(image.pixels[image.tissue].std())
        place = int(rows[patch]), int(cols[patch])
        pixels, _ = insert(image.pixels, image.tissue, lesion, place, amplitude=1.5 * deviation)
        twin = replace(image, pixels=pixels)
        before, after = (respond(trained[0], i).patches[patch] for i in (image, twin))
        wins.append(float(after) > float(before))
    assert np.mean(wins) >= 0.9


def test_the_map_is_of_the_tissue_and_nothing_leaves_the_device(
    trained: tuple[torch.nn.Module, list[float]],
) -> None:
    film = on_cpu(breast(50, (203, 161)), METHOD.needs.before)
    grid = SETTING.grid((203, 161))
    with torch.inference_mode(), kept_on_device():
        response = trained[0](film, grid)
    assert response.map.dtype == response.patches.dtype == torch.float32
    assert torch.equal(response.map.isfinite(), film.tissue)
    assert response.patches.shape == (len(grid),)
    assert response.patches.isfinite().all()
    assert abs(float(response.map[film.tissue].median())) < 2  # in deviations of negatives


def test_a_mirrored_film_gets_the_mirrored_map(
    trained: tuple[torch.nn.Module, list[float]],
) -> None:
    image = breast(51, (208, 160))
    mask = image.foreground.mask
    turned = prepared(image.pixels[:, ::-1], mask[:, ::-1], image.spacing_mm)
    one = respond(trained[0], image).map.numpy()
    other = respond(trained[0], turned).map.numpy()[:, ::-1]
    both = np.isfinite(one) & np.isfinite(other)
    assert np.corrcoef(one[both], other[both])[0, 1] > 0.95


def test_a_skeleton_has_the_tensors_of_what_was_learnt(
    trained: tuple[torch.nn.Module, list[float]],
) -> None:
    skeleton = build(SHORT, SETTING)
    assert isinstance(skeleton, SyntheticLesions)
    skeleton.load_state_dict(trained[0].state_dict())
    one, other = (respond(m, breast(52)).patches for m in (trained[0], skeleton.eval()))
    assert torch.equal(one, other)


def test_one_seed_gives_one_model(data: TrainingSet) -> None:
    first = learnt(data)
    assert same(first, learnt(data))
    assert not same(first, learnt(data, seed=1))


def test_an_interrupted_training_resumes_to_the_same_model(
    data: TrainingSet, tmp_path: Path
) -> None:
    config = replace(SHORT, steps=40)
    whole = learnt(data, config)

    def stop(stage: str, done: int, total: int, value: float) -> None:
        if done == 1:
            raise KeyboardInterrupt

    file = tmp_path / "checkpoint.safetensors"
    with pytest.raises(KeyboardInterrupt):
        learnt(data, config, checkpoint=file, progress=stop)
    assert same(learnt(data, config, checkpoint=file), whole)
    with pytest.raises(RequestError, match="another configuration"):
        learnt(data, replace(config, batch_size=5), checkpoint=file)


def test_a_film_without_spacing_is_refused() -> None:
    with pytest.raises(ImageError, match="pixel spacing is needed"):
        Canvas.of(replace(breast(0), spacing_mm=None))


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
