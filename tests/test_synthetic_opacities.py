from pathlib import Path

import numpy as np
import pytest
import torch
from test_position_gaussian import CPU, GRID, SHAPE, draft, film, training_set, with_opacity

from patchad.errors import ModelError, RequestError
from patchad.lesions.chest import effusion, reticular_pattern
from patchad.lesions.shapes import Lesion
from patchad.methods import load
from patchad.methods.synthetic import synthetic_opacities
from patchad.methods.synthetic.synthetic_opacities import KINDS, Config, canvas, plant
from patchad.model.folder import read_model, save

FEW = Config(copies=1)


@pytest.fixture(scope="module")
def data():
    torch.set_num_threads(1)
    return training_set(range(100, 118))


@pytest.fixture(scope="module")
def detector(data):
    return synthetic_opacities.fit(FEW, data, card=draft("synthetic_opacities"), seed=0, device=CPU)


@pytest.fixture(scope="module")
def lungs():
    mask = np.zeros((256, 256), bool)
    mask[60:180, 50:110] = mask[60:180, 150:210] = True
    return mask


def test_an_effusion_fills_what_lies_below_its_border():
    for seed in range(6):
        lesion = effusion(
            np.random.default_rng(seed), width_mm=100, height_mm=30, spacing_mm=(1.5, 1.0)
        )
        h, w = lesion.added.shape
        assert (h, w) == (2 * 44 + 1, 2 * 50 + 1)  # 2.2 · 30 / 1.5 and 50 / 1.0, rounded up
        middle = lesion.added[:, w // 2]
        assert (np.diff(middle) >= 0).all()  # denser downwards
        border = (h // 2 - np.argmax(middle > 0.5)) * 1.5
        assert border == pytest.approx(30, abs=7)
        assert (lesion.added[:, [0, -1]] == 0).all()
        assert lesion.mask[h // 2 :, w // 2].all()


def test_a_reticular_pattern_is_lines_within_its_area():
    lesion = reticular_pattern(np.random.default_rng(0), diameter_mm=80, spacing_mm=(1.5, 1.5))
    assert lesion.added.max() == 1
    assert lesion.added[0].max() == 0
    inside = lesion.added[lesion.mask]
    assert np.mean(inside > 0.5) < 0.5  # lines, and meshes between them
    assert np.mean(inside < 0.1) > 0.15
    area = lesion.mask.sum() * 1.5**2
    assert 0.3 < area / (np.pi * 40**2) < 2


@pytest.mark.parametrize("sizes", [(0, 10), (10, -1)])
def test_an_effusion_without_a_size_is_refused(sizes):
    with pytest.raises(RequestError, match="above 0"):
        effusion(np.random.default_rng(0), width_mm=sizes[0], height_mm=sizes[1], spacing_mm=(1, 1))


@pytest.mark.parametrize("kind", KINDS)
def test_findings_brighten_towards_1_and_only_there(kind, lungs):
    pixels = np.full((256, 256), 0.3, np.float32)
    pixels[:, :30] = 1.2
    planted, share = plant(np.random.default_rng(0), pixels, lungs, kind)
    again, _ = plant(np.random.default_rng(0), pixels, lungs, kind)
    assert np.array_equal(planted, again)
    assert 0 <= share.min() < share.max() < 1
    assert np.allclose(planted[:, 30:], 0.3 + 0.7 * share[:, 30:], atol=1e-6)
    assert np.array_equal(planted[:, :30], pixels[:, :30])
    assert (share[lungs] > 0.05).any()


def test_a_canvas_holds_what_fits_of_a_lesion():
    added = np.arange(9, dtype=np.float32).reshape(3, 3) / 8
    lesion = Lesion(added, added > 0, "x")
    assert np.array_equal(canvas(lesion, (10, 20))[9:12, 19:22], added)
    assert np.array_equal(canvas(lesion, (0, 255))[:2, 254:], added[1:, :2])
    assert canvas(lesion, (0, 255)).sum() == added[1:, :2].sum()


def test_a_response_speaks_near_the_lungs_and_is_finite_in_patches(detector):
    image = film(7)
    response = detector.respond(image, GRID)
    spoken = np.isfinite(response.map)
    assert response.map.shape == SHAPE
    assert 0.1 < spoken.mean() < 0.7
    assert not spoken[~image.foreground.mask].any()
    assert np.isfinite(response.patches).all()
    assert response.image == pytest.approx(np.nanstd(response.map), rel=0.15)


def test_a_planted_opacity_outranks_its_twin_where_it_is(detector):
    wins = []
    for seed in range(12):
        near = detector.registration.register(film(seed))
        lungs = near.to_film(detector.registration.lungs.astype(np.float32), SHAPE) >= 0.5
        clean, ill = with_opacity(seed, lungs)
        added = ill.pixels - clean.pixels
        one, two = (detector.respond(x, GRID).map for x in (clean, ill))
        there = (added > 0.5 * added.max()) & np.isfinite(one) & np.isfinite(two)
        wins.append(two[there].mean() > one[there].mean())
    assert np.mean(wins) >= 0.9


def test_it_comes_back_the_same_from_its_folder(detector, tmp_path: Path):
    save(detector, tmp_path)
    back = load(tmp_path, CPU)
    one, two = detector.respond(film(3), GRID), back.respond(film(3), GRID)
    assert np.array_equal(one.map, two.map, equal_nan=True)
    assert np.array_equal(one.patches, two.patches)
    assert one.image == two.image
    card, tensors = read_model(tmp_path)
    del tensors["weights"]
    with pytest.raises(ModelError, match="train anew"):
        synthetic_opacities.restore(card, tensors, CPU)


def test_a_seed_gives_the_same_weights(data, detector):
    again = synthetic_opacities.fit(
        FEW, data, card=draft("synthetic_opacities"), seed=0, device=CPU
    )
    assert torch.equal(again.tensors()["weights"], detector.tensors()["weights"])


@pytest.mark.parametrize("options", [{"copies": 0}, {"penalty": 0.0}])
def test_senseless_options_are_refused(options):
    with pytest.raises(RequestError, match=next(iter(options))):
        Config(**options)
