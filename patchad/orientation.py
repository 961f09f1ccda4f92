"""Which side of a mammogram the chest wall is on."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from patchad.image import Source

Side = Literal["left", "right"]
_CLEAR = 2.0  # times as much breast at one end as at the other


@dataclass(frozen=True)
class ChestWall:
    """The side of the picture that the chest wall is on, what said so, and what is odd about it."""

    side: Side
    by: str
    cautions: tuple[str, ...] = ()


def chest_wall(source: Source, mask: NDArray[np.bool_]) -> ChestWall:
    """Find the chest wall of a breast, ``mask`` (H, W) bool, in the picture as stored.

    By Patient Orientation, where rows point to or away from anterior; else by the picture: a breast
    is cut off straight at the chest wall and round at the other end; else, where both ends are
    alike, by the laterality, as films are hung (left breasts have it on the left). A picture that
    clearly says otherwise than Patient Orientation is believed, with a caution: exports mirror
    films and leave the header as it was, which the other way round does not happen.
    """
    left, right = _ends(mask)
    seen: Side = "left" if left >= right else "right"
    clear = max(left, right) >= _CLEAR * min(left, right)
    if source.anterior:
        said: Side = "left" if source.anterior == "right" else "right"
        if clear and seen != said:
            odd = f"Patient Orientation has the chest wall on the {said}, the picture on the {seen}"
            return ChestWall(seen, "the picture, against Patient Orientation", (odd,))
        return ChestWall(said, "Patient Orientation")
    if not clear and source.laterality in ("L", "R"):
        return ChestWall("left" if source.laterality == "L" else "right", "the laterality")
    return ChestWall(seen, "the picture")


def _ends(mask: NDArray[np.bool_]) -> tuple[float, float]:
    """The share of breast in the outermost 20th of its bounding box, left and right."""
    rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = mask[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]
    width = max(1, box.shape[1] // 20)
    return float(box[:, :width].mean()), float(box[:, -width:].mean())
