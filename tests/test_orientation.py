import numpy as np
import pytest

from patchad.errors import RequestError
from patchad.image import Radiograph, Source
from patchad.orientation import chest_wall
from patchad.preprocess import Preprocessing, prepare

LEFT = np.hypot(*np.mgrid[-60:60, :100]) < 50  # a half disc at the left edge, as a left breast
RIGHT = LEFT[:, ::-1]
BOTH = np.ones((20, 30), bool)  # as a magnified view


def source(anterior="", laterality=""):
    return Source("drawn", "", anterior=anterior, laterality=laterality)


@pytest.mark.parametrize(
    ("mask", "anterior", "laterality", "side", "by"),
    [
        (LEFT, "right", "", "left", "Patient Orientation"),
        (RIGHT, "left", "", "right", "Patient Orientation"),
        (BOTH, "left", "L", "right", "Patient Orientation"),
        (LEFT, "", "", "left", "the picture"),
        (RIGHT, "", "L", "right", "the picture"),  # a left breast, mirrored by an export
        (BOTH, "", "L", "left", "the laterality"),
        (BOTH, "", "R", "right", "the laterality"),
        (BOTH, "", "", "left", "the picture"),
        (RIGHT, "right", "L", "right", "the picture, against Patient Orientation"),
    ],
)
def test_what_says_where_the_chest_wall_is(mask, anterior, laterality, side, by):
    wall = chest_wall(source(anterior, laterality), mask)
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
    one = prepare(film(TEXTURE, anterior="right"), wanted)
    other = prepare(film(TEXTURE[:, ::-1], anterior="left"), wanted)
    assert (one.mirrored, other.mirrored) == (False, True)
    np.testing.assert_array_equal(one.foreground.mask, other.foreground.mask)
    np.testing.assert_array_equal(one.pixels, other.pixels)
    assert one.as_stored() is one
    back = other.as_stored()
    assert not back.mirrored
    np.testing.assert_array_equal(back.pixels, one.pixels[:, ::-1])
    np.testing.assert_array_equal(back.foreground.mask, one.foreground.mask[:, ::-1])


def test_nothing_is_mirrored_unless_asked_for():
    prepared = prepare(film(TEXTURE[:, ::-1], anterior="left"), Preprocessing())
    assert not prepared.mirrored
    np.testing.assert_array_equal(prepared.pixels, TEXTURE[:, ::-1].astype(np.float32))


def test_a_header_that_the_picture_denies_is_told():
    prepared = prepare(film(TEXTURE, anterior="left"), Preprocessing(canonical_side=True))
    assert not prepared.mirrored
    assert prepared.cautions == (
        "Patient Orientation has the chest wall on the right, the picture on the left",
    )


def test_chests_have_no_canonical_side():
    with pytest.raises(RequestError, match="canonical_side is for breasts, body_part is chest"):
        Preprocessing(body_part="chest", canonical_side=True)
