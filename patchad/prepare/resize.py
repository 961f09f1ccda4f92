"""Bringing a picture to another size, with Pillow."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def resize(values: NDArray[np.float32], shape: tuple[int, int]) -> NDArray[np.float32]:
    """Bring ``values`` (H, W) float32 to ``shape``: linear, anti-aliased where it gets smaller.

    The pixel centre r + 0.5 goes to (r + 0.5) · H' / H; edges are repeated; NaN spreads.
    """
    if values.shape == shape:
        return values
    picture = Image.fromarray(np.ascontiguousarray(values))
    return np.array(picture.resize((shape[1], shape[0]), Image.Resampling.BILINEAR), np.float32)
