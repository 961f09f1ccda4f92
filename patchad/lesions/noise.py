"""Random fields with the spectrum of tissue, for the texture of lesions and phantoms.

Arrays are (row, col), ``spacing_mm`` is (row, col).
"""

import numpy as np
from numpy.typing import NDArray
from scipy import fft


def power_law_field(
    rng: np.random.Generator,
    shape: tuple[int, int],
    spacing_mm: tuple[float, float],
    *,
    slope: float,
    longest_mm: float,
) -> NDArray[np.float32]:
    """A Gaussian field whose power falls as 1 / f^slope: (H, W) float32, mean 0, deviation 1.

    Mammograms have a slope near 3 (Burgess, Jacobson & Judy, Med. Phys. 28:419, 2001). Waves
    longer than ``longest_mm`` have the power of that length. The field wraps around.
    """
    size = [fft.next_fast_len(n, real=True) for n in shape]
    spectrum = fft.rfft2(rng.standard_normal(size, np.float32))
    f2 = (fft.fftfreq(size[0], spacing_mm[0])[:, None] ** 2).astype(np.float32)
    f2 = f2 + (fft.rfftfreq(size[1], spacing_mm[1]) ** 2).astype(np.float32)
    f2 += np.float32(longest_mm**-2)
    gain = f2 ** np.float32(-slope / 4)
    gain[0, 0] = 0
    field: NDArray[np.float32] = fft.irfft2(spectrum * gain, s=size)[: shape[0], : shape[1]]
    field = field - field.mean()
    return (field / max(float(field.std()), 1e-12)).astype(np.float32)
