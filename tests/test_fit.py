import json
import math
from dataclasses import replace

import numpy as np
import pytest
from pydantic import TypeAdapter

from patchad.core.image import Radiograph, Source
from patchad.errors import ImageError
from patchad.model.fit import Fit, fit_note, fit_of, misfit
from patchad.phantoms.phantom import chest, mammogram
from patchad.prepare.preprocess import Preprocessing, prepare
from patchad.prepare.resize import resize

SHAPE = (256, 208)
BREAST = Preprocessing(body_part="breast")
CHEST = Preprocessing(body_part="chest")


def refused(pixels, how, fit):
    """Why the film does not fit, or why nothing is found in it; empty: it fits."""
    try:
        return misfit(look(pixels, how), fit, how.body_part)
    except ImageError as error:
        return str(error)


def look(pixels, how, spacing=None):
    film = Radiograph(np.ascontiguousarray(pixels, np.float32), spacing, Source("drawn", ""))
    return prepare(film, how).look


def breast(seed, shape=SHAPE, **asked):
    rng = np.random.default_rng(seed)
    side = "L" if seed % 2 else "R"
    drawn = mammogram(rng, shape=shape, spacing_mm=0.2 * 1024 / shape[0], laterality=side, **asked)
    return drawn.pixels


def thorax(seed, shape=SHAPE):
    rng = np.random.default_rng(seed)
    return chest(rng, shape=shape, spacing_mm=0.42 * 1024 / shape[0]).pixels


@pytest.fixture(scope="module")
def films():
    return [breast(seed) for seed in range(28)]


@pytest.fixture(scope="module")
def thoraces():
    return [thorax(seed) for seed in range(28)]


@pytest.fixture(scope="module")
def breast_fit(films):
    return fit_of([(look(pixels, BREAST), str(n // 2)) for n, pixels in enumerate(films[:20])])


@pytest.fixture(scope="module")
def chest_fit(thoraces):
    return fit_of([(look(pixels, CHEST), str(n)) for n, pixels in enumerate(thoraces[:20])])


def test_films_that_were_not_learnt_from_fit(films, thoraces, breast_fit, chest_fit):
    assert [misfit(look(p, BREAST), breast_fit, "breast") for p in films] == [""] * 28
    assert [misfit(look(p, CHEST), chest_fit, "chest") for p in thoraces] == [""] * 28


def test_a_film_with_a_lesion_fits(breast_fit):
    for seed in range(50, 54):
        ill = breast(seed, lesions=("spiculated mass", "mass"))
        assert misfit(look(ill, BREAST), breast_fit, "breast") == ""


def test_a_film_of_the_other_body_part_is_named(films, thoraces, breast_fit, chest_fit):
    for pixels in thoraces[20:]:
        said = misfit(look(pixels, BREAST), breast_fit, "breast")
        assert said.startswith("it does not look like the training images: above all ")
        assert ", trained on " in said
    for pixels in films[20:]:
        assert misfit(look(pixels, CHEST), chest_fit, "chest")


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_a_turned_chest_is_told_how_to_turn(thoraces, chest_fit, quarters):
    told = {1: "turned right by 90°", 2: "turned by 180°", 3: "turned left by 90°"}[quarters]
    said = [misfit(look(np.rot90(p, quarters), CHEST), chest_fit, "chest") for p in thoraces[20:]]
    assert all(said)
    assert sum(one.startswith(f"{told}, it would look more like") for one in said) >= 6


@pytest.mark.parametrize("quarters", [1, 3])
def test_a_breast_on_its_side_does_not_fit(films, breast_fit, quarters):
    for pixels in films[20:]:
        assert misfit(look(np.rot90(pixels, quarters), BREAST), breast_fit, "breast")


def test_an_inverted_film_does_not_fit(films, thoraces, breast_fit, chest_fit):
    for pixels in thoraces[20:]:
        said = misfit(look(1 - pixels, CHEST), chest_fit, "chest")
        assert said.startswith("inverted, it would look more like the training images")
        assert said.endswith("so check its grey")
    for pixels in films[20:]:
        assert refused(1 - pixels, BREAST, breast_fit)


def test_noise_gradients_and_masks_do_not_fit(films, breast_fit, chest_fit):
    rng = np.random.default_rng(0)
    slope = np.add.outer(np.arange(256), np.arange(208)) / 463
    for pixels in (rng.random(SHAPE), slope, np.floor(films[0] * 4) / 4):
        for how, fit in ((BREAST, breast_fit), (CHEST, chest_fit)):
            assert refused(pixels, how, fit)


@pytest.mark.parametrize("side", [16, 64, 127])
def test_too_few_pixels_for_what_was_trained_on(films, breast_fit, side):
    said = misfit(look(resize(films[0], (side, side - 1)), BREAST), breast_fit, "breast")
    assert said == (
        f"{side} pixels along the longer side, trained on 256 and more: too coarse, less than "
        "half; give the image at its full size"
    )


def test_a_model_of_tiny_images_takes_tiny_images(films):
    tiny = [look(resize(p, (28, 28)), BREAST) for p in films]
    fit = fit_of([(one, str(n)) for n, one in enumerate(tiny[:20])])
    assert [misfit(one, fit, "breast") for one in tiny[20:]] == [""] * 8


def test_coarseness_is_told_in_mm_where_the_model_resamples(films):
    known = [look(p, BREAST, (0.8, 0.8)) for p in films]
    fit = fit_of([(one, str(n)) for n, one in enumerate(known)])
    assert fit.pixel_mm == 0.8
    coarse = replace(known[0], pixel_mm=2.5)
    assert misfit(coarse, fit, "breast", model_mm=0.2) == (
        "pixels of 2.5 mm, the model looks at 0.2 mm and was trained on up to 0.8 mm: too coarse, "
        "at most 2 mm; give the image at its full size"
    )
    assert misfit(coarse, fit, "breast", model_mm=1.0) == ""
    # a detector of finer pitch has more pixels, one of coarser pitch fewer: neither is wrong
    assert misfit(replace(known[0], pixels=40), fit, "breast", model_mm=0.2) == ""


def test_the_size_in_mm_counts_where_it_is_known(films):
    known = [look(p, BREAST, (0.8, 0.8)) for p in films]
    fit = fit_of([(one, str(n)) for n, one in enumerate(known)])
    huge = look(films[0], BREAST, (8.0, 8.0))
    said = misfit(huge, fit, "breast")
    assert "the breast is" in said
    assert "mm high, trained on " in said
    assert misfit(look(films[0], BREAST), fit, "breast") == ""  # unknown: nothing to tell


def test_the_measure_that_differs_most_is_named(films, breast_fit):
    usual = look(films[0], BREAST)
    low, high = (
        values[breast_fit.names.index("area")] for values in (breast_fit.low, breast_fit.high)
    )
    odd = replace(usual, measures={**usual.measures, "area": 1.9})
    assert misfit(odd, breast_fit, "breast").endswith(
        f"above all the breast fills 1.90 of the image, trained on {low:.2f} to {high:.2f}"
    )


def test_odd_negatives_hardly_move_the_limits(films, breast_fit):
    odd = [look(np.clip(p + 0.4, 0, 1), BREAST) for p in films[:1]]
    pairs = [(look(p, BREAST), str(n // 2)) for n, p in enumerate(films[:20])]
    moved = fit_of([*pairs, *[(one, "odd") for one in odd]])
    assert moved.distance <= 1.5 * breast_fit.distance
    assert misfit(look(1 - films[0], BREAST), moved, "breast")


def test_too_few_negatives_say_nothing(films):
    looks = [look(p, BREAST) for p in films[:8]]
    assert fit_of([(one, str(n)) for n, one in enumerate(looks[:7])]) is None
    assert fit_of([(one, str(n // 3)) for n, one in enumerate(looks)]) is None  # three patients
    assert fit_of([(one, str(n)) for n, one in enumerate(looks)]) is not None
    assert fit_of([(None, str(n)) for n in range(20)]) is None
    (note,) = fit_note(None)
    assert note.startswith("Fewer than 8 negatives, or negatives of fewer than 4 patients")
    assert fit_note(fit_of([(one, str(n)) for n, one in enumerate(looks)])) == ()


def test_the_order_of_negatives_and_the_names_of_patients_change_nothing(films, breast_fit):
    pairs = [(look(p, BREAST), f"x{n // 2}") for n, p in enumerate(films[:20])]
    again = fit_of(pairs[::-1])
    assert again.distance == pytest.approx(breast_fit.distance, rel=1e-3)
    np.testing.assert_allclose(again.precision, breast_fit.precision, rtol=1e-3, atol=1e-4)


def test_a_fit_survives_json(breast_fit):
    adapter = TypeAdapter(Fit)
    text = adapter.dump_json(breast_fit)
    assert adapter.validate_json(text) == breast_fit
    assert math.isfinite(json.loads(text)["distance"])
    assert len(text) < 16_000
