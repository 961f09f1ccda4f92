import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import CHEST, CPU, chest_film, kept_on_device, on_cpu, run_with, training_set

from patchad.core.grid import PatchGrid
from patchad.core.image import Foreground
from patchad.methods.parts import chest_frame
from patchad.methods.parts.chest_frame import (
    SIDE,
    ChestFrame,
    fit_frame,
    pool_patches,
    shrink,
    to_film,
)
from patchad.prepare.film import Film
from patchad.prepare.preprocess import Prepared
from patchad.prepare.resize import resize, resize_tensor

SHAPE = (192, 160)


def film(seed):
    return chest_film(seed, SHAPE)


def moved(image, scale, shift):
    """The film seen through ``scale`` · t + ``shift`` in each direction, edges repeated."""
    values = image.pixels
    for axis in (0, 1):
        n = values.shape[axis]
        frame = ((np.arange(n) + 0.5) / n * 2 - 1) * scale[axis] + shift[axis]
        at = ((frame + 1) * n / 2 - 0.5).clip(0, n - 1)
        values = np.apply_along_axis(
            lambda line, at=at, n=n: np.interp(at, np.arange(n), line), axis, values
        )
    mask = np.ones(values.shape, bool)
    return Prepared(values.astype(np.float32), Foreground(mask, "", 0.0), 0.5, None)


@pytest.fixture(scope="module")
def data():
    torch.set_num_threads(1)
    return training_set([film(seed) for seed in range(8)])


@pytest.fixture(scope="module")
def frame(data):
    return fit_frame(data, run_with(0, CHEST)).frame


@pytest.mark.parametrize(
    ("scale", "shift"), [((1.0, 1.0), (0.12, -0.1)), ((1.12, 0.92), (0.0, 0.05))]
)
def test_a_moved_film_registers_back_within_two_pixels_at_64(frame, scale, shift):
    still = frame.register(on_cpu(film(30))).affine.numpy()
    found = frame.register(on_cpu(moved(film(30), scale, shift))).affine.numpy()
    # The moved film holds at t what the film holds at scale · t + shift, so that the way into the
    # moved one and then into the film is the way into the film.
    for axis in (0, 1):
        t = np.array([-0.6, 0.0, 0.6])  # where the lungs' sides are, and the middle
        through = scale[axis] * (found[axis] * t + found[2 + axis]) + shift[axis]
        direct = still[axis] * t + still[2 + axis]
        assert np.abs(through - direct).max() * 32 < 2  # the frame's half is 32 pixels at 64


def test_brightness_and_contrast_make_no_difference(frame):
    image = film(31)
    other = replace(image, pixels=0.2 + 0.5 * image.pixels)
    one, two = (frame.register(on_cpu(x)) for x in (image, other))
    assert torch.allclose(one.pixels, two.pixels, atol=1e-3)
    assert torch.allclose(one.affine, two.affine, atol=1e-3)


def test_the_steps_are_those_of_pytorchs_adam(frame):
    small, _ = shrink(on_cpu(film(33)))
    target = resize_tensor(frame.template, (64, 64))
    found = chest_frame._align(small[None], target, 30, torch.zeros(1, 4))

    ticks = (torch.arange(64) + 0.5) / 32 - 1
    window = torch.exp(-0.5 * (ticks / 0.35) ** 2)
    weight = (window[:, None] * window).flatten()
    weight = weight / weight.sum()

    def standardised(values):
        centred = values - (values * weight).sum()
        return centred / (centred.square() * weight).sum().sqrt()

    seen = torch.nn.functional.interpolate(small[None, None], size=(64, 64), mode="area")
    numbers = torch.zeros(4, requires_grad=True)
    adam = torch.optim.Adam([numbers], 0.02)
    for _ in range(30):
        rows, cols = (numbers[a].exp() * ticks + numbers[2 + a] for a in (0, 1))
        places = torch.stack([cols[None].expand(64, 64), rows[:, None].expand(64, 64)], -1)[None]
        warped = torch.nn.functional.grid_sample(
            seen, places, padding_mode="border", align_corners=False
        )
        product = standardised(warped.flatten()) * standardised(target.flatten())
        loss = 0.2 * numbers.square().sum() - (product * weight).sum()
        adam.zero_grad()
        loss.backward()
        adam.step()
    assert numbers.abs().max() > 0.01
    assert torch.allclose(found[0], numbers.detach(), atol=1e-4)


def test_a_film_of_a_set_registers_as_if_alone(frame):
    films = torch.stack([shrink(on_cpu(film(seed)))[0] for seed in (40, 41, 42)])
    target = resize_tensor(frame.template, (64, 64))
    together = chest_frame._align(films, target, 20, torch.zeros(3, 4))
    alone = chest_frame._align(films[1:2], target, 20, torch.zeros(1, 4))
    assert torch.allclose(together[1], alone[0], atol=1e-5)


def test_a_film_at_256_has_0_and_1_at_percentiles_of_its_middle():
    image = film(34)
    small, inside = shrink(on_cpu(image))
    pixels = resize(image.pixels, (SIDE, SIDE))
    there = resize(image.foreground.mask.astype(np.float32), (SIDE, SIDE)) >= 0.5
    middle = np.s_[26:-26, 26:-26]
    low, high = np.percentile(pixels[middle][there[middle]], (2, 98))
    assert np.array_equal(inside.numpy(), there)
    assert np.allclose(small.numpy(), ((pixels - low) / (high - low)).clip(-0.5, 1.5), atol=1e-4)
    nothing = replace(image, foreground=Foreground(np.zeros(SHAPE, bool), "", 0.0))
    assert shrink(on_cpu(nothing))[0].isfinite().all()


def test_a_bright_square_goes_to_the_frame_and_back_to_where_it_was():
    affine = torch.tensor([1.2, 0.8, 0.1, -0.05])
    # In the frame, the square's edges e lie at (e' - shift) / scale, e' from -1 to 1.
    square = torch.zeros(SIDE, SIDE)
    edges = []
    for axis, (low, high, n) in enumerate(((40, 52, 120), (60, 70, 100))):
        ends = (np.array([low, high]) / n * 2 - 1 - float(affine[2 + axis])) / float(affine[axis])
        edges.append(np.rint((ends + 1) / 2 * SIDE).astype(int))
    square[edges[0][0] : edges[0][1], edges[1][0] : edges[1][1]] = 1
    back = to_film(square, affine, (120, 100)).numpy()
    rows, cols = np.nonzero(back > 0.5)
    assert (rows.min(), rows.max() + 1) == (40, 52)
    assert (cols.min(), cols.max() + 1) == (60, 70)


def test_the_identity_brings_cells_to_their_pixels_and_nan_spreads():
    cells = torch.arange(16.0).reshape(4, 4)
    same = torch.tensor([1.0, 1, 0, 0])
    assert torch.equal(to_film(cells, same, (4, 4)), cells)
    # Twice as fine: pixel centres lie a quarter of a cell before and after the cell's.
    assert to_film(cells, same, (8, 4))[:, 0].tolist() == [0, 1, 3, 5, 7, 9, 11, 12]
    cells[1, 0] = torch.nan
    column = to_film(cells, same, (8, 4))[:, 0]
    assert column.isnan().tolist() == [True] * 5 + [False] * 3
    assert to_film(torch.full((1, 1), 3.0), same, (2, 3)).tolist() == [[3, 3, 3]] * 2


def test_pixels_of_the_frame_are_those_of_the_film(frame):
    image = on_cpu(film(32))
    found = frame.register(image)
    there = to_film(found.pixels, found.affine, image.shape).numpy()
    own = resize(shrink(image)[0].numpy(), image.shape)
    middle = np.s_[40:-40, 40:-40]
    assert np.corrcoef(there[middle].ravel(), own[middle].ravel())[0, 1] > 0.99


def test_the_lungs_of_phantoms_are_found(frame):
    lungs = frame.lungs
    assert 0.08 < lungs.float().mean() < 0.45
    assert not lungs[:, SIDE // 2 - 4 : SIDE // 2 + 4].any()  # the spine
    assert lungs[:, : SIDE // 2].any()
    assert lungs[:, SIDE // 2 :].any()
    image = on_cpu(film(35))
    near = frame.near_lungs(image)
    assert 0.1 < near.float().mean() < 0.8
    assert not near[~image.mask].any()


def test_near_is_within_two_32nds_of_the_frame():
    frame = ChestFrame()
    assert not frame.near.any()
    lungs = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    lungs[100, 120] = True
    frame.load_state_dict({"template": torch.zeros(SIDE, SIDE), "lungs": lungs})
    rows, cols = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    assert torch.equal(frame.near, (rows - 100) ** 2 + (cols - 120) ** 2 <= 16**2)
    frame.load_state_dict(ChestFrame().state_dict())
    assert not frame.near.any()


def test_the_fit_of_a_set_is_kept_and_the_same_again(data):
    told = []
    own = run_with(0, CHEST, progress=lambda *words: told.append(words[:3]))
    again = training_set([film(seed) for seed in range(8)])
    first, other = fit_frame(data, run_with(0, CHEST)), fit_frame(again, own)
    assert told[-1] == ("registration", 1, 1)
    assert fit_frame(data, own) is first
    assert len(told) == 8 + 1
    assert torch.equal(first.frame.template, other.frame.template)
    assert torch.equal(first.frame.lungs, other.frame.lungs)
    # Scales and shifts are about the mean film's, which stays where it is.
    affines = torch.stack([one.affine for one in first.films])
    assert torch.allclose(affines[:, :2].log().mean(0), torch.zeros(2), atol=1e-6)
    assert torch.allclose(affines[:, 2:].mean(0), torch.zeros(2), atol=1e-6)
    pixels = torch.stack([one.pixels for one in first.films])
    assert torch.allclose(first.frame.template, pixels.mean(0), atol=1e-6)


def test_a_frame_comes_back_from_its_tensors(frame):
    back = ChestFrame()
    back.load_state_dict(frame.state_dict())
    assert set(frame.state_dict()) == {"template", "lungs"}
    assert torch.equal(back.near, frame.near)
    assert back.key == frame.key == copy.deepcopy(frame).key
    other = ChestFrame()
    other.load_state_dict({"template": frame.template + 1, "lungs": frame.lungs})
    assert other.key not in ("", frame.key)


def test_frames_with_one_template_register_a_film_once(frame, monkeypatch):
    counted = []
    align = chest_frame._align
    monkeypatch.setattr(chest_frame, "_align", lambda *args: counted.append(1) or align(*args))
    same, other = ChestFrame(), ChestFrame()
    same.load_state_dict(frame.state_dict())
    other.load_state_dict({"template": frame.template.flip(1), "lungs": frame.lungs.flip(1)})
    image = on_cpu(film(36))
    assert frame.register(image) is same.register(image)
    assert len(counted) == 1
    assert other.register(image) is not frame.register(image)
    frame.near_lungs(image)
    assert len(counted) == 2


def test_registering_keeps_to_the_device_and_needs_no_gradients_outside(frame):
    image = film(37)
    plain = frame.register(on_cpu(image))
    seen = Film.of(image, CPU)
    with torch.inference_mode(), kept_on_device():
        found = frame.register(seen)
        frame.near_lungs(seen)
    assert not plain.pixels.requires_grad
    assert torch.equal(found.pixels, plain.pixels)
    assert torch.equal(found.affine, plain.affine)


def test_patches_take_the_mean_near_the_lungs_and_others_the_lowest():
    values = torch.full((8, 12), torch.nan)
    values[:4, :2] = 3.0
    values[4:, :4] = torch.tensor([1.0, 1, 5, 5])
    pooled = pool_patches(values, PatchGrid((8, 12), 4, 4), torch.tensor(-7.0))
    assert pooled.dtype == torch.float32
    assert pooled.tolist() == [3.0, -7.0, -7.0, 3.0, -7.0, -7.0]
    assert math.isfinite(pooled.sum())
