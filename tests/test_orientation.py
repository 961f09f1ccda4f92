from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchad.core.image import Radiograph, Source
from patchad.core.turn import AS_STORED, MIRRORED, QUARTERS, Turn
from patchad.errors import RequestError
from patchad.phantoms.phantom import chest
from patchad.prepare.orientation import chest_wall, lie_of, turned
from patchad.prepare.preprocess import Preprocessing, prepare

LEFT = np.hypot(*np.mgrid[-60:60, :100]) < 50  # a half disc at the left edge, as a left breast
RIGHT = LEFT[:, ::-1]
BOTH = np.ones((20, 30), bool)  # as a magnified view


def source(directions=("", ""), laterality="", view=""):
    return Source("drawn", "", directions=directions, laterality=laterality, view=view)


@pytest.mark.parametrize(
    ("mask", "across", "laterality", "side", "by"),
    [
        (LEFT, "A", "", "left", "Patient Orientation"),
        (RIGHT, "P", "", "right", "Patient Orientation"),
        (BOTH, "P", "L", "right", "Patient Orientation"),
        (LEFT, "", "", "left", "the picture"),
        (RIGHT, "", "L", "right", "the picture"),  # a left breast, mirrored by an export
        (BOTH, "", "L", "left", "the laterality"),
        (BOTH, "", "R", "right", "the laterality"),
        (BOTH, "", "", "left", "the picture"),
        (RIGHT, "A", "L", "right", "the picture, against Patient Orientation"),
    ],
)
def test_what_says_where_the_chest_wall_is(mask, across, laterality, side, by):
    wall = chest_wall(source((across, ""), laterality), mask)
    assert (wall.side, wall.by) == (side, by)
    assert bool(wall.cautions) == ("against" in by)


def test_what_is_padded_beside_the_chest_wall_does_not_matter():
    padded = np.pad(RIGHT, [(5, 5), (0, 30)])
    assert chest_wall(source(), padded).side == "right"


def film(tissue, **said):
    return Radiograph(tissue.astype(np.float32), (0.5, 0.25), source(**said))


TEXTURE = np.where(LEFT, 0.3 + 0.4 * np.random.default_rng(0).random(LEFT.shape), 0)


@pytest.mark.parametrize("intensity", ["voi", "percentiles", "local"])
@pytest.mark.parametrize("spacing_mm", [None, 0.4])
def test_a_film_and_its_mirror_image_become_the_same(intensity, spacing_mm):
    wanted = Preprocessing(
        intensity=intensity, spacing_mm=spacing_mm, local_radius_mm=4, canonical_side=True
    )
    one = prepare(film(TEXTURE, directions=("A", "F")), wanted)
    other = prepare(film(TEXTURE[:, ::-1], directions=("P", "F")), wanted)
    assert (one.turn, other.turn) == (AS_STORED, MIRRORED)
    np.testing.assert_array_equal(one.foreground.mask, other.foreground.mask)
    np.testing.assert_array_equal(one.pixels, other.pixels)
    assert one.as_stored() is one
    back = other.as_stored()
    assert back.turn == AS_STORED
    np.testing.assert_array_equal(back.pixels, one.pixels[:, ::-1])
    np.testing.assert_array_equal(back.foreground.mask, one.foreground.mask[:, ::-1])


def test_nothing_is_mirrored_unless_asked_for():
    prepared = prepare(film(TEXTURE[:, ::-1], directions=("P", "F")), Preprocessing())
    assert prepared.turn == AS_STORED
    np.testing.assert_array_equal(prepared.pixels, TEXTURE[:, ::-1].astype(np.float32))


def test_a_header_that_the_picture_denies_is_told():
    prepared = prepare(film(TEXTURE, directions=("P", "F")), Preprocessing(canonical_side=True))
    assert prepared.turn == AS_STORED
    assert prepared.cautions == (
        "Patient Orientation has the chest wall on the right, the picture on the left",
    )


def test_chests_have_no_canonical_side():
    with pytest.raises(RequestError, match="canonical_side is for breasts, body_part is chest"):
        Preprocessing(body_part="chest", canonical_side=True)


turns = st.sampled_from(QUARTERS)
LEFT_MLO, RIGHT_MLO, LEFT_CC, RIGHT_CC = ("A", "FR"), ("P", "FL"), ("A", "R"), ("P", "L")


def chest_picture(seed=1):
    drawn = chest(np.random.default_rng(seed), shape=(128, 104), spacing_mm=3.4)
    return np.array(drawn.pixels)


CHEST = chest_picture()


@given(turns, st.sampled_from([(LEFT_MLO, "L"), (RIGHT_MLO, "R"), (LEFT_CC, "L"), (RIGHT_CC, "R")]))
def test_a_turned_breast_is_turned_back(turn, hung):
    directions, laterality = hung
    mask = LEFT if laterality == "L" else RIGHT
    upright = source(directions, laterality)
    lie = lie_of(turned(upright, turn), mask * 0.5, turn.picture(mask), "breast")
    assert lie.turn == turn.inverse
    assert (lie.source, lie.cautions) == (upright, ())


@given(st.builds(Turn, st.booleans(), st.booleans(), st.booleans()))
def test_a_chest_seen_from_the_front_is_turned_and_mirrored_back(turn):
    upright = source(("L", "F"))
    mask = np.ones(CHEST.shape, bool)
    lie = lie_of(turned(upright, turn), turn.picture(CHEST), turn.picture(mask), "chest")
    assert lie.turn == turn.inverse
    assert (lie.source, lie.cautions) == (upright, ())


@pytest.mark.parametrize(
    ("directions", "body_part"),
    [
        (("", ""), "breast"),
        (("A", ""), "breast"),
        (("A", "P"), "breast"),  # no two axes
        (("A", "L"), "breast"),  # a mirror image of a breast seen from above: no way up is better
        (("A", "F"), "chest"),  # seen from the side, upright
        (("P", "F"), "chest"),
        (("L", "A"), "chest"),  # no film of a chest lies so
        (("L", "H"), "breast"),  # nor one of a breast
    ],
)
def test_what_stays_as_it_is(directions, body_part):
    said = source(directions, "L")
    lie = lie_of(said, CHEST, np.ones(CHEST.shape, bool), body_part)
    assert (lie.turn, lie.source, lie.cautions) == (AS_STORED, said, ())


def test_a_breast_without_laterality_is_turned_as_a_left_one():
    # seen from above, rows to the left, columns to anterior: anterior goes to the right
    lie = lie_of(source(("L", "A")), LEFT.T * 0.5, LEFT.T, "breast")
    assert lie.turn == QUARTERS[1]
    assert lie.source.directions == ("A", "R")


@pytest.mark.parametrize("turn", QUARTERS[1:], ids=lambda turn: turn.name)
def test_a_picture_that_lies_upright_is_not_turned(turn):
    for upright, picture, mask, part in (
        (source(LEFT_MLO, "L"), LEFT * 0.5, LEFT, "breast"),
        (source(("L", "F")), CHEST, np.ones(CHEST.shape, bool), "chest"),
    ):
        lie = lie_of(turned(upright, turn), picture, mask, part)
        assert lie.turn == AS_STORED
        assert lie.source == replace(upright, directions=("", ""))  # not to be believed
        (caution,) = lie.cautions
        assert turn.inverse.name in caution
        assert "the picture is upright" in caution


@pytest.mark.parametrize("intensity", ["voi", "percentiles", "local"])
@pytest.mark.parametrize("turn", QUARTERS, ids=lambda turn: turn.name)
def test_a_film_and_its_turned_image_become_the_same(turn, intensity):
    wanted = Preprocessing(intensity=intensity, spacing_mm=0.4, local_radius_mm=4)
    whole = film(TEXTURE, directions=LEFT_MLO, laterality="L", view="MLO")
    lying = replace(whole.turned(turn), source=turned(whole.source, turn))
    one, other = prepare(whole, wanted), prepare(lying, wanted)
    assert (one.turn, other.turn) == (AS_STORED, turn.inverse)
    np.testing.assert_array_equal(one.foreground.mask, other.foreground.mask)
    np.testing.assert_array_equal(one.pixels, other.pixels)
    assert one.brightness == other.brightness
    np.testing.assert_array_equal(other.as_stored().pixels, turn.picture(one.pixels))


def test_the_spacing_turns_with_the_film():
    lying = film(QUARTERS[1].picture(TEXTURE), directions=("FR", "P"), laterality="L")
    prepared = prepare(lying, Preprocessing())  # 0.5 mm high, 0.25 mm wide
    assert prepared.turn == QUARTERS[3]
    assert prepared.spacing_mm == (0.25, 0.5)
    assert prepared.as_stored().spacing_mm == (0.5, 0.25)
