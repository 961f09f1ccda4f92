import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchad.core.turn import AS_STORED, MIRRORED, QUARTERS, Turn

turns = st.builds(Turn, st.booleans(), st.booleans(), st.booleans())
ALL = [Turn(*(bool(n & bit) for bit in (1, 2, 4))) for n in range(8)]
PICTURE = np.arange(12).reshape(3, 4)


@pytest.mark.parametrize("quarters", range(4))
def test_quarters_turn_as_numpy_does(quarters):
    turned = QUARTERS[quarters].picture(PICTURE)
    np.testing.assert_array_equal(turned, np.rot90(PICTURE, quarters))
    mirrored = MIRRORED.then(QUARTERS[quarters]).picture(PICTURE)
    np.testing.assert_array_equal(mirrored, np.rot90(PICTURE[:, ::-1], quarters))


@given(turns, turns)
def test_turns_are_a_group(one, other):
    np.testing.assert_array_equal(
        one.then(other).picture(PICTURE), other.picture(one.picture(PICTURE))
    )
    np.testing.assert_array_equal(one.inverse.picture(one.picture(PICTURE)), PICTURE)
    assert one.then(one.inverse) == AS_STORED
    assert one.pair(PICTURE.shape) == one.picture(PICTURE).shape


@given(turns, st.data())
def test_boxes_hold_the_same_pixels(turn, data):
    shape = data.draw(st.tuples(st.integers(1, 20), st.integers(1, 20)))
    row, col = (data.draw(st.integers(0, length - 1)) for length in shape)
    height, width = (
        data.draw(st.integers(1, length - first))
        for length, first in zip(shape, (row, col), strict=True)
    )
    mask = np.zeros(shape, bool)
    mask[row : row + height, col : col + width] = True
    ((r, c, h, w),) = turn.boxes(np.array([[row, col, height, width]]), shape)
    expected = np.zeros(turn.pair(shape), bool)
    expected[r : r + h, c : c + w] = True
    np.testing.assert_array_equal(turn.picture(mask), expected)


def test_every_turn_has_a_name_of_its_own():
    names = [turn.name for turn in ALL]
    assert len(set(names)) == 8
    assert [Turn.named(name) for name in names] == ALL
    assert (AS_STORED.name, MIRRORED.name) == ("", "mirrored")
    assert QUARTERS[1].name == "turned left by 90°"
    with pytest.raises(ValueError, match="'askew' is no turn: "):
        Turn.named("askew")
