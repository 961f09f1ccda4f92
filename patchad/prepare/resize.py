"""Resizing a picture: with Pillow on the host, with torch on the device."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

if TYPE_CHECKING:
    from torch import Tensor


def resize(values: NDArray[np.float32], shape: tuple[int, int]) -> NDArray[np.float32]:
    """Resize ``values`` (H, W) float32 to ``shape``: linear, anti-aliased if it gets smaller.

    The pixel centre r + 0.5 goes to (r + 0.5) · H' / H; edges are repeated; NaN spreads.
    """
    if values.shape == shape:
        return values
    picture = Image.fromarray(np.ascontiguousarray(values))
    return np.array(picture.resize((shape[1], shape[0]), Image.Resampling.BILINEAR), np.float32)


def resize_tensor(values: Tensor, shape: tuple[int, int]) -> Tensor:
    """As :func:`resize`, on the device of ``values``: (H, W) or (B, H, W), float.

    NaN reaches as far as the filter does.
    """
    from torch.nn.functional import interpolate  # so that reading films doesn't load torch

    if values.shape[-2:] == shape:
        return values
    batch = values.reshape(-1, 1, *values.shape[-2:])
    sized = interpolate(batch, size=shape, mode="bilinear", align_corners=False, antialias=True)
    return sized.reshape(*values.shape[:-2], *shape)
