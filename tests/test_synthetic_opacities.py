import numpy as np
import pytest
import torch
from builders import (
    CHEST,
    CHEST_SHAPE,
    chest_film,
    kept_on_device,
    on_cpu,
    run_with,
    training_set,
    with_opacity,
)

from patchad.errors import RequestError
from patchad.learn.fitting import fit
from patchad.lesions.chest import effusion, reticular_pattern
from patchad.lesions.shapes import Lesion
from patchad.methods import method_of
from patchad.methods.density.position_gaussian import FEATURES, Places
from patchad.methods.parts import chest_frame
from patchad.methods.parts.chest_frame import to_film
from patchad.methods.synthetic.synthetic_opacities import (
    KINDS,
    METHOD,
    Config,
    canvas,
    inputs,
    plant,
)

FEW = Config(copies=1)
GRID = CHEST.grid(CHEST_SHAPE)


@pytest.fixture(scope="module")
def data():
    torch.set_num_threads(1)
    return training_set([chest_film(seed) for seed in range(100, 118)])


@pytest.fixture(scope="module")
def module(data):
    return fit(METHOD, FEW, data, run_with(0, CHEST)).module


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


def test_inputs_are_features_their_means_the_other_side_distance_and_place():
    places = Places()
    places.whitening.copy_(torch.eye(FEATURES))
    features = torch.zeros(32, 32, FEATURES)
    features[..., 2] = 3.0
    features[:, :16, 4] = 2.0
    found = inputs(places, features)
    assert found.shape == (32, 32, 3 * FEATURES + 7)
    assert torch.equal(found[..., :FEATURES], features)
    smooth, across = found[..., FEATURES : 2 * FEATURES], found[..., 2 * FEATURES : 3 * FEATURES]
    assert torch.allclose(smooth[..., 2], torch.tensor(3.0), atol=1e-5)
    assert smooth[5, 15:17, 4].mean().item() == pytest.approx(1)
    assert torch.allclose(across[..., 2], torch.zeros(()), atol=1e-5)
    assert across[9, 0, 4].item() == pytest.approx(2, abs=1e-5)
    assert across[9, 31, 4].item() == pytest.approx(-2, abs=1e-5)
    distance, wide, row, side, *products = found[8, 0, -7:].tolist()
    assert distance == pytest.approx(np.sqrt((9 + 4) / FEATURES))
    assert wide == pytest.approx(distance, abs=1e-5)
    assert row == pytest.approx(8 / 31 * 2 - 1)
    assert side == 1
    assert products == pytest.approx([row**2, 1, row])


def test_a_response_speaks_near_the_lungs_and_is_finite_in_patches(module):
    film = on_cpu(chest_film(7))
    response = module(film, GRID)
    known = response.map.isfinite()
    assert response.map.shape == CHEST_SHAPE
    assert 0.1 < known.float().mean() < 0.7
    assert not known[~film.mask].any()
    assert response.patches.isfinite().all()
    assert response.image.item() == pytest.approx(np.nanstd(response.map.numpy()), rel=0.15)


def test_a_planted_opacity_outranks_its_twin_where_it_is(module):
    wins = []
    for seed in range(12):
        image = chest_film(seed)
        clean = on_cpu(image)
        affine = module.registration.register(clean).affine
        lungs = to_film(module.registration.lungs.float(), affine, CHEST_SHAPE) >= 0.5
        ill = with_opacity(image, lungs.numpy(), seed)
        added = ill.pixels - image.pixels
        one, two = (module(film, GRID).map.numpy() for film in (clean, on_cpu(ill)))
        there = (added > 0.5 * added.max()) & np.isfinite(one) & np.isfinite(two)
        wins.append(two[there].mean() > one[there].mean())
    assert np.mean(wins) >= 0.9


def test_it_comes_back_the_same_from_its_tensors_and_keeps_to_the_device(module):
    back = METHOD.build(FEW, CHEST)
    back.load_state_dict(module.state_dict())
    one, film = module(on_cpu(chest_film(3)), GRID), on_cpu(chest_film(3))
    with torch.inference_mode(), kept_on_device():
        two = back(film, GRID)
    assert torch.equal(one.map.nan_to_num(-9), two.map.nan_to_num(-9))
    assert torch.equal(one.patches, two.patches)
    assert torch.equal(one.image, two.image)


def test_a_seed_gives_the_same_weights_and_another_others(data, module):
    again = fit(METHOD, FEW, data, run_with(0, CHEST)).module
    assert torch.equal(again.weights, module.weights)
    assert torch.equal(again.lowest, module.lowest)
    other = fit(METHOD, FEW, data, run_with(1, CHEST)).module
    assert not torch.equal(other.weights, module.weights)
    assert torch.equal(other.places.mean, module.places.mean)


def test_three_members_of_one_training_register_a_film_once(data, module, monkeypatch):
    density, dae = method_of("position_gaussian"), method_of("dae")
    members = [
        module,
        fit(density, density.config(), data, run_with(0, CHEST)).module,
        fit(
            dae, dae.config(channels=(2, 4), steps=1, batch_size=2), data, run_with(0, CHEST)
        ).module,
    ]
    counted = []
    align = chest_frame._align
    monkeypatch.setattr(chest_frame, "_align", lambda *args: counted.append(1) or align(*args))
    film = on_cpu(chest_film(5))
    for member in members:
        member(film, GRID)
    assert len(counted) == 1


@pytest.mark.parametrize("options", [{"copies": 0}, {"penalty": 0.0}])
def test_senseless_options_are_refused(options):
    with pytest.raises(RequestError, match=next(iter(options))):
        Config(**options)
