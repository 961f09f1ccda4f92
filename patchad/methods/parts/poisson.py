"""Seamless cloning on a rectangle: Poisson's equation solved exactly, by sine transforms.

P. Pérez, M. Gangnet, A. Blake: Poisson image editing. ACM Transactions on Graphics 22(3):313-318,
2003. https://doi.org/10.1145/882262.882269

A rectangle's Laplacian with given values on the rim is diagonal in the discrete sine transform
(DST-I), so that no sparse system has to be solved.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft

Window = NDArray[np.floating[Any]]


def solve(divergence: Window, rim: Window) -> NDArray[np.float64]:
    """The f with Σ f(neighbours) - 4 f = ``divergence`` at each pixel, and given values around.

    Args:
        divergence: (h, w).
        rim: (h + 2, w + 2), of which only the outermost lines count: f there. (Corners are nobody's
            neighbours.)

    Returns:
        f at the inner pixels: (h, w).
    """
    right = divergence.astype(np.float64)
    right[0] -= rim[0, 1:-1]
    right[-1] -= rim[-1, 1:-1]
    right[:, 0] -= rim[1:-1, 0]
    right[:, -1] -= rim[1:-1, -1]
    rows, cols = (2 * np.cos(np.pi * np.arange(1, n + 1) / (n + 1)) for n in right.shape)
    transformed = fft.dstn(right, type=1) / (rows[:, None] + cols - 4)
    found: NDArray[np.float64] = fft.idstn(transformed, type=1)
    return found


def clone(target: Window, source: Window, own: float, foreign: float) -> NDArray[np.float64]:
    """The inner pixels of ``target``, with the gradients of both pictures mixed.

    Each pair of neighbours takes the larger in size of ``own`` × the target's difference and
    ``foreign`` × the source's.

    Args:
        target: (h + 2, w + 2); its outermost lines stay, and are joined without a seam.
        source: (h + 2, w + 2).
        own: weight of the target's gradients; 0 leaves the source's alone.
        foreign: weight of the source's gradients.

    Returns:
        (h, w).
    """
    down, right = (
        _larger(own * np.diff(target, axis=axis), foreign * np.diff(source, axis=axis))
        for axis in (0, 1)
    )
    divergence = np.diff(down, axis=0)[:, 1:-1] + np.diff(right, axis=1)[1:-1]
    return solve(divergence, target)


def _larger(one: Window, other: Window) -> Window:
    return np.where(np.abs(one) > np.abs(other), one, other)
