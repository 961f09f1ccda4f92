"""Perlin noise, textures, and the two networks that learn from them."""

import math

import numpy as np
import pytest
import torch
from builders import chest_film, fitted, prepared, run_with, setting_with, training_set
from scipy.ndimage import gaussian_filter
from torch import nn

from patchad.errors import RequestError, TrainingError
from patchad.methods.parts.draem_networks import Outline, Redraw
from patchad.methods.parts.losses import focal_loss, ssim_loss
from patchad.methods.parts.perlin import perlin, perlin_region
from patchad.methods.parts.textures import CHANGES, texture
from patchad.methods.synthetic import draem

TINY = draem.Config(
    side=32, redraw_width=1, outline_width=2, epochs=2, batch_size=2, learning_rate=1e-3
)


def slow_perlin(rng, side, cells):
    angles = rng.uniform(0, 2 * math.pi, (cells[0] + 1, cells[1] + 1))
    noise = np.zeros((side, side))

    def fade(t):
        return 6 * t**5 - 15 * t**4 + 10 * t**3

    for i in range(side):
        for j in range(side):
            y, x = i * cells[0] / side, j * cells[1] / side
            top, left = int(y), int(x)
            dots = {}
            for row in (0, 1):
                for col in (0, 1):
                    angle = angles[top + row, left + col]
                    dots[row, col] = math.sin(angle) * (y - top - row) + math.cos(angle) * (
                        x - left - col
                    )
            v, u = fade(y - top), fade(x - left)
            first = dots[0, 0] * (1 - v) + dots[1, 0] * v
            second = dots[0, 1] * (1 - v) + dots[1, 1] * v
            noise[i, j] = math.sqrt(2) * (first * (1 - u) + second * u)
    return noise


@pytest.mark.parametrize("cells", [(1, 1), (2, 8), (4, 4), (3, 5)])
def test_perlin_noise_is_that_of_a_slow_loop(cells):
    found = perlin(np.random.default_rng(0), 32, cells)
    expected = slow_perlin(np.random.default_rng(0), 32, cells)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert found.std() > 0.1
    if 32 % cells[0] == 32 % cells[1] == 0:  # there corners are pixels
        assert np.abs(found[:: 32 // cells[0], :: 32 // cells[1]]).max() < 1e-6


def test_regions_are_irregular_and_seeded():
    regions = [perlin_region(np.random.default_rng(seed), 64) for seed in range(40)]
    again = perlin_region(np.random.default_rng(3), 64)
    assert np.array_equal(regions[3], again)
    shares = [region.mean() for region in regions]
    assert 0.01 < np.mean(shares) < 0.3
    assert max(shares) < 0.6
    assert len({region.tobytes() for region in regions}) > 30


@pytest.mark.parametrize("side", [4, 8, 16])
def test_regions_of_small_pictures(side):
    assert perlin_region(np.random.default_rng(0), side).shape == (side, side)


def pictures(count, side=32):
    found = np.random.default_rng(0).random((count, side, side))
    return np.clip(gaussian_filter(found, (0, 2, 2)) * 4 - 1.5, 0, 1).astype(np.float32)


@pytest.mark.parametrize("count", [1, 4])
def test_textures_are_pictures_of_their_own(count):
    films = pictures(count)
    made = [texture(np.random.default_rng(seed), films, 0) for seed in range(30)]
    for one in made:
        assert one.shape == (32, 32)
        assert one.dtype == np.float32
        assert one.min() >= 0
        assert one.max() <= 1
        assert not np.array_equal(one, films[0])
    assert np.array_equal(made[5], texture(np.random.default_rng(5), films, 0))
    assert np.mean([one.std() for one in made]) > 0.05


def test_a_texture_never_comes_from_its_own_picture():
    films = np.zeros((3, 16, 16), np.float32)
    films[1] = 1.0  # of the others, none has other values than 0: changes keep them constant

    def levels(own):
        found = [texture(np.random.default_rng(seed), films, own) for seed in range(60)]
        return {float(one[0, 0]) for one in found if one.std() == 0}

    assert levels(0) != levels(1)


@pytest.mark.parametrize("change", CHANGES)
def test_changes_stay_in_range(change):
    rng = np.random.default_rng(0)
    for picture in (*pictures(2), np.full((32, 32), 0.5, np.float32)):
        found = change(rng, picture)
        assert found.shape == (32, 32)
        assert found.min() >= 0
        assert found.max() <= 1 + 1e-6


def test_textures_are_blended_where_the_region_is():
    films = pictures(4)
    config = draem.Config(side=32, planted=1.0, kept=0.8, turned=0.0)
    pairs = draem.plant(np.random.default_rng(1), films, np.arange(4), config)
    assert pairs.planted.shape == pairs.clean.shape == (4, 1, 32, 32)
    assert pairs.where.dtype == torch.int64
    np.testing.assert_array_equal(pairs.clean[:, 0].numpy(), films)
    changed = pairs.planted != pairs.clean
    assert not changed[pairs.where[:, None] == 0].any()
    assert changed[pairs.where[:, None] == 1].float().mean() > 0.8
    assert pairs.planted.min() >= 0
    assert pairs.planted.max() <= 1


def test_shares_of_pictures_planted_and_turned():
    films, which = pictures(4), np.zeros(400, np.int64)
    config = draem.Config(side=32, planted=0.5, turned=0.3)
    pairs = draem.plant(np.random.default_rng(0), films, which, config)
    turned = (pairs.clean[:, 0].numpy() != films[0]).any((1, 2)).mean()
    planted = pairs.where.amax((1, 2)).float().mean().item()
    assert 0.24 < turned < 0.36
    assert 0.35 < planted < 0.5  # some regions are empty
    never = draem.Config(side=32, planted=0.0, turned=0.0)
    same = draem.plant(np.random.default_rng(0), films, which[:9], never)
    assert torch.equal(same.planted, same.clean)
    assert not same.where.any()


def convolutions(network):
    return [
        (part.in_channels, part.out_channels)
        for part in network.modules()
        if isinstance(part, nn.Conv2d)
    ]


def test_the_networks_have_the_channels_of_the_code():
    down = [(1, 1), (1, 2), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 8), (8, 8)]
    up = [(8, 8), (8, 8), (8, 4), (4, 4), (4, 4), (4, 2), (2, 2), (2, 2), (2, 1)]
    up += [(1, 1), (1, 1), (1, 1), (1, 1)]
    assert convolutions(Redraw(1)) == [(1, 1), *down, *up]
    down = [(2, 1), *down, (8, 8), (8, 8)]
    doubled = [(8, 8), (8, 4), (4, 2), (2, 1), (1, 1)]
    joined = [(16, 8), (8, 8), (12, 4), (4, 4), (6, 2), (2, 2), (3, 1), (1, 1), (2, 1), (1, 1)]
    assert convolutions(Outline(1)) == [*down, *doubled, *joined, (1, 2)]
    assert Redraw(2)(torch.rand(2, 1, 64, 32)).shape == (2, 1, 64, 32)
    assert Outline(2)(torch.rand(2, 2, 64, 32)).shape == (2, 2, 64, 32)


@pytest.mark.parametrize(("side", "expected"), [(256, 21), (128, 11), (64, 5), (32, 3)])
def test_the_window_follows_the_side(side, expected):
    assert draem.window(side) == expected


def test_the_image_score_is_the_highest_local_mean():
    maps = torch.zeros(2, 8, 8)
    maps[0, 4, 4], maps[0, 4, 6], maps[1, 0, 0] = 1.0, 0.5, 0.9
    np.testing.assert_allclose(draem.highest_mean(maps, 3).numpy(), [1.5 / 9, 0.1], rtol=1e-6)


def test_the_rate_falls_twice():
    rate = draem.falling(1.0, 100)
    assert [rate(step) for step in (0, 79)] == [1.0, 1.0]
    assert rate(80) == rate(89) == pytest.approx(0.2)
    assert rate(90) == rate(99) == pytest.approx(0.04)


def test_the_map_is_the_probability_of_the_second_class():
    module = draem.build(TINY, setting_with()).eval()
    pictures = torch.rand(2, 1, 32, 32)
    redrawn, logits = module.answers(pictures)
    assert redrawn.shape == (2, 1, 32, 32)
    expected = 1 / (1 + torch.exp(logits[:, 0] - logits[:, 1]))
    torch.testing.assert_close(module.maps(pictures), expected)
    torch.testing.assert_close(redrawn, module.redraw(pictures))


def test_a_side_that_cannot_be_halved_is_refused():
    with pytest.raises(RequestError, match=r"draem halves its square 5 times.*of 32; got 48"):
        draem.build(draem.Config(side=48), setting_with())


def test_the_loss_is_the_sum_of_three(monkeypatch):
    """The loss of the only step, taken again from what the step was given."""
    films = [chest_film(seed) for seed in range(2)]
    seen = []
    real = draem.plant

    def plant(rng, pictures, which, config):
        pairs = real(rng, pictures, which, config)
        if len(which) == 2:
            seen.append(pairs)
        return pairs

    monkeypatch.setattr(draem, "plant", plant)
    told = []
    run = run_with(progress=lambda stage, done, total, loss: told.append(loss))
    config = draem.Config(**{**vars(TINY), "epochs": 1})
    fresh = []
    monkeypatch.setattr(draem, "shuffled", lambda *_: (1, 1, lambda step: torch.arange(2)))
    build = draem.Draem.__init__

    def kept(self, config):
        build(self, config)
        fresh.append({name: t.clone() for name, t in self.state_dict().items()})

    monkeypatch.setattr(draem.Draem, "__init__", kept)
    fitted("draem", config, training_set(films), run)
    module = draem.build(config, setting_with())
    module.load_state_dict(fresh[0])
    redrawn, logits = module.train().answers(seen[0].planted)
    expected = (
        (redrawn - seen[0].clean).square().mean()
        + ssim_loss(redrawn, seen[0].clean)
        + focal_loss(logits, seen[0].where)
    )
    assert told[-1] == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.slow
def test_it_learns_to_find_textures():
    rng = np.random.default_rng(0)
    films = gaussian_filter(rng.random((6, 32, 32)), (0, 6, 6)) - 0.5
    data = training_set([prepared((0.5 + 3 * film).astype(np.float32)) for film in films])
    config = draem.Config(
        side=32, redraw_width=2, outline_width=8, epochs=120, batch_size=6, learning_rate=5e-3
    )
    run = run_with()
    module = fitted("draem", config, data, run).module
    assert not run.notes
    clean = np.stack([0.5 + 3 * film for film in films]).astype(np.float32)
    always = draem.Config(side=32, planted=1.0, turned=0.0, kept=0.2)
    pairs = draem.plant(np.random.default_rng(9), clean, np.arange(6), always)
    with torch.inference_mode():
        maps = module.maps(pairs.planted)
    inside = pairs.where > 0
    assert maps[inside].mean() > 1.3 * maps[~inside].mean()


def test_networks_that_answer_one_number_are_given_up(monkeypatch):
    monkeypatch.setattr(draem, "constant", lambda *_: "it answers 0 to everything")
    config = draem.Config(**{**vars(TINY), "restarts": 2})
    with pytest.raises(TrainingError, match=r"Try 2 of 2.*answers 0 to everything"):
        fitted("draem", config, training_set([chest_film(seed) for seed in range(3)]))
