"""The recipes: what is drawn is recorded, lies in its ranges, and gives the lesion it says."""

import math
from dataclasses import replace

import numpy as np
import pytest

from patchad.errors import RequestError
from patchad.lesions import shapes
from patchad.lesions.chest import effusion
from patchad.lesions.recipes import (
    PHANTOMS,
    SELFTEST,
    TRAINING_CLUSTERS,
    TRAINING_FINDINGS,
    TRAINING_MASSES,
    OneOf,
    Range,
    Recipe,
    Texture,
    apply,
    deviation_around,
    draw,
)

SPACING = (0.5, 0.4)
RECIPES = [
    *PHANTOMS.values(),
    *TRAINING_FINDINGS.values(),
    TRAINING_CLUSTERS,
    *(replace(r, diameter=Range(5, 40)) for r in (TRAINING_MASSES.first, TRAINING_MASSES.second)),
    *(
        replace(graded.recipe, diameter=Range(*graded.diameters_mm[:2]))
        for kinds in SELFTEST.values()
        for graded in kinds
    ),
]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_ranges_are_uniform_or_uniform_in_the_logarithm():
    even = Range(2, 11)
    assert even.draw(rng(3)) == rng(3).uniform(2, 11)
    log = Range(8, 80, log=True)
    assert log.draw(rng(3)) == math.exp(rng(3).uniform(math.log(8), math.log(80)))
    many = [log.draw(source) for source in [rng(1)] for _ in range(4000)]
    assert 8 <= min(many) < max(many) <= 80
    assert np.median(many) == pytest.approx(math.sqrt(8 * 80), rel=0.05)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.kind)
def test_what_is_drawn_lies_in_its_ranges_and_is_the_same_again(recipe):
    for seed in range(4):
        one, same = (draw(rng(seed), recipe, (1.5, 1.5), lung_mm=100.0) for _ in range(2))
        assert one.record() == same.record()
        np.testing.assert_array_equal(one.lesion.added, same.lesion.added)
        np.testing.assert_array_equal(one.lesion.mask, same.lesion.mask)
        assert one.lesion.kind == recipe.kind == one.record()["kind"]
        unit = 100.0 if recipe.kind == "effusion" else 1.0
        assert recipe.diameter.low * unit <= one.diameter_mm <= recipe.diameter.high * unit
        if recipe.contrast is None:
            assert math.isnan(one.contrast)
            assert "contrast" not in one.record()
        else:
            assert recipe.contrast.low <= one.contrast <= recipe.contrast.high
        assert math.isnan(one.height_mm) == (recipe.height_mm is None)
        assert (one.profile in recipe.profiles) == (recipe.kind == "mass")


def test_a_mass_is_drawn_profile_first_and_contrast_before_the_shape():
    drawn = draw(rng(5), PHANTOMS["mass"], SPACING)
    plain = rng(5)
    profile = ("disc", "gaussian", "dome")[int(plain.integers(3))]
    diameter, contrast = plain.uniform(8, 16), plain.uniform(1.8, 2.6)
    lesion = shapes.mass(plain, diameter_mm=diameter, spacing_mm=SPACING, profile=profile)
    np.testing.assert_array_equal(drawn.lesion.added, lesion.added)
    assert drawn.record() == {
        "kind": "mass", "diameter_mm": diameter, "contrast": contrast, "profile": profile,
    }  # fmt: skip


def test_the_contrast_of_training_clusters_is_drawn_after_the_shape():
    drawn = draw(rng(6), TRAINING_CLUSTERS, (0.2, 0.2))
    plain = rng(6)
    lesion = shapes.calcification_cluster(
        plain, diameter_mm=plain.uniform(2, 11), spacing_mm=(0.2, 0.2)
    )
    np.testing.assert_array_equal(drawn.lesion.added, lesion.added)
    assert drawn.contrast == np.exp(plain.uniform(*np.log((8, 80))))


def test_an_effusion_is_as_wide_as_its_lung_allows():
    recipe = TRAINING_FINDINGS["effusion"]
    drawn = draw(rng(7), recipe, (1.5, 1.5), lung_mm=90.0)
    plain = rng(7)
    width, height, contrast = (
        90 * plain.uniform(1, 1.5),
        plain.uniform(8, 70),
        plain.uniform(0.3, 0.95),
    )
    lesion = effusion(plain, width_mm=width, height_mm=height, spacing_mm=(1.5, 1.5))
    np.testing.assert_array_equal(drawn.lesion.added, lesion.added)
    assert (drawn.diameter_mm, drawn.height_mm, drawn.contrast) == (width, height, contrast)
    with pytest.raises(ValueError, match="lung_mm"):
        draw(rng(7), recipe, (1.5, 1.5))


def test_what_a_use_gives_is_taken_and_draws_nothing():
    recipe = Recipe("mass", "breast")
    source, plain = rng(8), rng(8)
    drawn = draw(source, recipe, SPACING, diameter_mm=8, contrast=2)
    assert drawn.record() == {"kind": "mass", "diameter_mm": 8, "contrast": 2, "profile": "dome"}
    lesion = shapes.mass(plain, diameter_mm=8, spacing_mm=SPACING)
    np.testing.assert_array_equal(drawn.lesion.added, lesion.added)
    assert source.random() == plain.random()
    with pytest.raises(ValueError, match="give diameter_mm"):
        draw(rng(), recipe, SPACING)
    with pytest.raises(RequestError, match="above 0 mm, got 0"):
        draw(rng(), recipe, SPACING, diameter_mm=0)


def test_as_large_a_share_is_textured_as_the_recipe_says():
    recipe = Recipe("mass", "breast", texture=Texture(0.3, Range(0.2, 0.6), Range(1.5, 3)))
    source = rng(9)
    textures = [draw(source, recipe, (2.0, 2.0), diameter_mm=12).texture for _ in range(300)]
    rough = [texture for texture in textures if texture is not None]
    assert len(rough) / 300 == pytest.approx(0.3, abs=0.08)
    assert all(0.2 <= strength <= 0.6 and 1.5 <= slope <= 3 for strength, slope in rough)
    smooth = draw(rng(1), replace(recipe, texture=None), (2.0, 2.0), diameter_mm=12)
    always = replace(recipe, texture=Texture(1.0, Range(0.5, 0.5), Range(2, 2)))
    broken = draw(rng(1), always, (2.0, 2.0), diameter_mm=12)
    np.testing.assert_array_equal(broken.lesion.mask, smooth.lesion.mask)
    assert broken.record()["texture"] == [0.5, 2.0]
    assert not np.array_equal(broken.lesion.added, smooth.lesion.added)


def test_one_of_two_recipes_is_picked_by_share():
    both = OneOf(Recipe("nodule", "chest"), 0.25, Recipe("consolidation", "chest"))
    source = rng(10)
    picked = [both.pick(source).kind for _ in range(2000)]
    assert picked.count("nodule") / 2000 == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize(
    ("deviation", "amplitude"),
    [(0.01, 0.12), (0.08, 0.16), (0.5, 0.24)],
    ids=["low", "own", "high"],
)
def test_the_amplitude_is_contrast_times_deviation_within_its_limits(deviation, amplitude):
    bounded = draw(rng(), replace(PHANTOMS["mass"], contrast=Range(2, 2)), SPACING)
    assert bounded.amplitude(deviation) == pytest.approx(amplitude)
    free = draw(rng(), Recipe("mass", "breast"), SPACING, diameter_mm=9, contrast=2)
    assert free.amplitude(deviation) == 2 * deviation
    silent = draw(rng(), Recipe("mass", "breast"), SPACING, diameter_mm=9)
    with pytest.raises(ValueError, match="no contrast"):
        silent.amplitude(deviation)


def test_what_is_applied_peaks_at_its_amplitude_where_it_is_put():
    y, x = np.indices((120, 100))
    pixels = np.where((y + x) % 2, 0.55, 0.45).astype(np.float32)  # a deviation of 0.05
    everywhere = np.ones(pixels.shape, bool)
    deviation = deviation_around(pixels, everywhere, (60, 50), SPACING)
    assert deviation == pytest.approx(0.05, rel=1e-3)
    drawn = draw(rng(), Recipe("mass", "breast"), SPACING, diameter_mm=10, contrast=3)
    after, region = apply(pixels, everywhere, drawn, (60, 50), deviation=deviation)
    added = after - pixels
    assert np.unravel_index(added.argmax(), added.shape) == (60, 50)
    assert added.max() == pytest.approx(0.15, rel=1e-3)
    height, width = region.height * SPACING[0], region.width * SPACING[1]
    assert math.sqrt(height * width) == pytest.approx(10, rel=0.3)
    assert region.kind == "mass"


def test_the_deviation_around_is_that_within_12_8_mm():
    pixels = np.zeros((101, 101), np.float32)
    pixels[:, 77:] = 1  # from 13 mm of the middle on
    everywhere = np.ones(pixels.shape, bool)
    assert deviation_around(pixels, everywhere, (50, 50), (0.5, 0.5)) == 0
    pixels[:, 76] = 1  # 26 columns off; 12.8 mm are rounded to 26
    share = 1 / 53
    found = deviation_around(pixels, everywhere, (50, 50), (0.5, 0.5))
    assert found == pytest.approx(math.sqrt(share * (1 - share)), rel=1e-4)


def test_the_table_holds_each_kind_where_it_is_found():
    assert list(PHANTOMS) == [
        "mass", "calcifications", "spiculated mass", "consolidation", "nodule",
    ]  # fmt: skip
    assert list(TRAINING_FINDINGS) == ["consolidation", "nodule", "reticular pattern", "effusion"]
    places: dict[str, set[str]] = {}
    for recipe in RECIPES:
        places.setdefault(recipe.kind, set()).add(recipe.body_part)
    assert all(len(parts) == 1 for parts in places.values())
