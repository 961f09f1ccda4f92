"""The orientation of a film: which side is up, and on which side a breast's chest wall is.

Directions are those of Patient Orientation (PS3.3 C.7.6.1.1.1): of rows (to the right of the
picture) and of columns (down), by their main letters A, P, L, R, H and F.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from patchad.core.image import Source
from patchad.core.turn import AS_STORED, MIRRORED, QUARTERS, Turn
from patchad.prepare.foreground import BodyPart
from patchad.prepare.resize import resize

Side = Literal["left", "right"]
_CLEAR = 2.0  # ratio of breast at one end to the other
_UP = 0.25  # by how much a chest must look more upright as stored than turned
_OPPOSITE = {"A": "P", "P": "A", "L": "R", "R": "L", "H": "F", "F": "H", "": ""}


@dataclass(frozen=True)
class ChestWall:
    """The side of the picture that the chest wall is on, the evidence for it, and cautions."""

    side: Side
    by: str
    cautions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Lie:
    """How a film is turned upright, with cautions; ``source`` is that of the turned film."""

    turn: Turn
    source: Source
    cautions: tuple[str, ...] = ()


def lie_of(
    source: Source, pixels: NDArray[np.float32], mask: NDArray[np.bool_], body_part: BodyPart
) -> Lie:
    """How to turn a film upright, from Patient Orientation; ``pixels`` and ``mask`` (H, W).

    A breast is upright if rows run to anterior or posterior and columns to the feet, or from
    lateral to medial. A chest is upright if columns run to the feet and, seen from the front, rows
    to the patient's left; a mirrored one is mirrored back. A picture that clearly is upright stays
    as it is, with a caution, whatever the header says. Other pictures are never turned.
    """
    if body_part == "other":
        return Lie(AS_STORED, source)
    turn = _upright(source, body_part)
    if turn in (AS_STORED, MIRRORED):
        return Lie(turn, turned(source, turn))
    small, inside = _small(pixels), _small(mask.astype(np.float32)) >= 0.5
    denied = _breast_denies if body_part == "breast" else _chest_denies
    if not denied(source, small, inside, turn):
        return Lie(turn, turned(source, turn))
    odd = f"by Patient Orientation the film has to be {turn.name}, but the picture is upright"
    return Lie(AS_STORED, replace(source, directions=("", "")), (odd,))


def turned(source: Source, turn: Turn) -> Source:
    """The source with the directions of the turned picture."""
    across, down = turn.pair(source.directions)
    across = _reverse(across) if turn.cols else across
    down = _reverse(down) if turn.rows else down
    return replace(source, directions=(across, down))


def anterior_side(source: Source) -> Side | None:
    """The anterior side of the picture, None if rows don't run to or from it."""
    return {"A": "right", "P": "left"}.get(_main(source)[0])  # type: ignore[return-value]


def chest_wall(source: Source, mask: NDArray[np.bool_]) -> ChestWall:
    """Find the chest wall of an upright breast, ``mask`` (H, W) bool.

    By Patient Orientation, if rows run to or from anterior; else by the picture: a breast is cut
    off straight at the chest wall and round at the other end; else, if both ends look the same, by
    the laterality, as films are hung (left breasts have it on the left). A picture that clearly
    contradicts Patient Orientation wins, with a caution: exports mirror films and leave the header
    unchanged, but never the reverse.
    """
    left, right, *_ = _ends(mask)
    seen: Side = "left" if left >= right else "right"
    clear = max(left, right) >= _CLEAR * min(left, right)
    anterior = anterior_side(source)
    if anterior:
        stated: Side = "left" if anterior == "right" else "right"
        if clear and seen != stated:
            odd = (
                f"Patient Orientation has the chest wall on the {stated}, the picture on the {seen}"
            )
            return ChestWall(seen, "the picture, against Patient Orientation", (odd,))
        return ChestWall(stated, "Patient Orientation")
    if not clear and source.laterality in ("L", "R"):
        return ChestWall("left" if source.laterality == "L" else "right", "the laterality")
    return ChestWall(seen, "the picture")


def _upright(source: Source, body_part: BodyPart) -> Turn:
    across, down = _main(source)
    axes = {frozenset((letter, _OPPOSITE[letter])) for letter in (across, down) if letter}
    if len(axes) < 2:
        return AS_STORED
    best = max(QUARTERS, key=lambda turn: _fits(turned(source, turn), body_part))
    if _fits(source, body_part) >= _fits(turned(source, best), body_part):
        best = AS_STORED
    if body_part == "chest" and _main(turned(source, best)) == ("R", "F"):
        return best.then(MIRRORED)
    return best


def _fits(source: Source, body_part: BodyPart) -> int:
    """How many of the criteria of an upright film its directions meet."""
    across, down = _main(source)
    if body_part == "chest":
        return int(down == "F") if across not in "HF" else 0
    if across not in "AP":
        return 0
    # Without laterality, a breast on its side is turned like a left one.
    side = {"L": "A", "R": "P"}.get(source.laterality, "A" if down in "LR" else "")
    medial = {"L": "R", "R": "L"}.get(source.laterality, "")
    return 2 + 2 * (down == "F") + (down == medial) + (across == side)


def _main(source: Source) -> tuple[str, str]:
    """The main letters of the directions."""
    return source.directions[0][:1], source.directions[1][:1]


def _reverse(direction: str) -> str:
    return "".join(_OPPOSITE[letter] for letter in direction)


def _small(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return resize(values, (64, 64))


def _breast_denies(
    source: Source, pixels: NDArray[np.float32], mask: NDArray[np.bool_], turn: Turn
) -> bool:
    """Whether the chest wall clearly is on another side than the header says."""
    left, right, top, bottom = _ends(mask)
    across, down = _main(source)
    if not turn.transposed:
        stated, other = (left, right) if across == "A" else (right, left)
        return other >= _CLEAR * stated
    stated = top if down == "A" else bottom
    seen, opposite = max(left, right), min(left, right)
    return seen >= _CLEAR * opposite and seen > stated


def _chest_denies(
    source: Source, pixels: NDArray[np.float32], mask: NDArray[np.bool_], turn: Turn
) -> bool:
    """Whether the picture clearly looks more upright as stored than turned."""
    return _chest_up(pixels) > _chest_up(turn.picture(pixels)) + _UP


def _chest_up(pixels: NDArray[np.float32]) -> float:
    """How upright a chest (64, 64) looks, in units of its own contrast.

    It is brighter below the lungs than at them, and in the middle than on both sides. Of 210 films
    of NIH ChestX-ray, 99 % look more upright as they are than turned by any right angle.
    """
    low, high = np.percentile(pixels, (5, 95))
    sides = (pixels[12:44, 12:22].mean() + pixels[12:44, 42:52].mean()) / 2
    below = pixels[48:60, 8:-8].mean() - pixels[16:40, 8:-8].mean()
    middle = pixels[12:44, 28:36].mean() - sides
    return float((below + middle) / max(high - low, 1e-3))


def _ends(mask: NDArray[np.bool_]) -> tuple[float, float, float, float]:
    """The share of breast in the outermost 20th of its bounding box: left, right, top, bottom."""
    rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = mask[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]
    height, width = (max(1, length // 20) for length in box.shape)
    ends = box[:, :width], box[:, -width:], box[:height], box[-height:]
    left, right, top, bottom = (float(end.mean()) for end in ends)
    return left, right, top, bottom
