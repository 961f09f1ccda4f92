"""Patch-based one-class screening of mammograms and chest X-rays. Research use only.

>>> detector = patchad.load("model/")
>>> result = patchad.screen("study.dcm", detector)
>>> result.heatmap.values, result.score, result.flagged
>>> patchad.screen(pixels, detector, spacing_mm=0.07, bits=12)  # a NumPy array
"""

from pathlib import Path
from typing import TYPE_CHECKING

from patchad.version import __version__

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from patchad.detector import Detector
    from patchad.image import Radiograph, Screening

__all__ = ["__version__", "load", "screen"]


# torch takes seconds to import, so both wait with it until they are called.


def load(folder: str | Path, device: str = "auto") -> "Detector":
    """Load a trained model; ``device`` is ``auto`` (CUDA, then MPS, then CPU), or one of them.

    Raises:
        ModelError: there is none, or it was changed, is foreign or of another version.
    """
    from patchad.device import choose_device
    from patchad.methods import load as load_model

    return load_model(Path(folder), choose_device(device))


def screen(
    image: "str | Path | NDArray[np.generic] | Radiograph",
    detector: "Detector",
    *,
    stride: int | None = None,
    spacing_mm: float | tuple[float, float] | None = None,
    bits: int | None = None,
    allow_mismatch: bool = False,
) -> "Screening":
    """Screen one image: a file that patchad reads, an array, or a radiograph already read.

    Args:
        image: what to screen. An array is (H, W), brighter = denser: floats in [0, 1], or unsigned
            integers.
        detector: from :func:`load`.
        stride: between patches, in pixels of the prepared image; the card's by default.
        spacing_mm: (row, col), or one number for both, for an array and for a file that carries
            no pixel spacing.
        bits: how many bits the values of an array of unsigned integers have; 8 for uint8, which is
            the only kind that may leave it out.
        allow_mismatch: screen an image that differs from the training images, and say so.

    Raises:
        ImageError: it cannot be read, or differs from what the model was trained on.
        RequestError: it is none of these, or an option does not go with it.
    """
    import numpy as np

    from patchad.errors import RequestError
    from patchad.image import Radiograph
    from patchad.io.array import radiograph_of
    from patchad.verbs.screen import ScreenOptions
    from patchad.verbs.screen import screen as screen_image

    both = (spacing_mm, spacing_mm) if isinstance(spacing_mm, int | float) else spacing_mm
    if isinstance(image, np.ndarray):
        image = radiograph_of(image, spacing_mm=both, bits=bits)
    elif not isinstance(image, str | Path | Radiograph):
        raise RequestError(
            "screen takes the path of an image, a NumPy array (rows, columns) or a Radiograph; "
            f"got {type(image).__name__}"
        )
    elif bits is not None:
        raise RequestError("bits is for arrays of unsigned integers: leave it out")
    elif isinstance(image, Radiograph) and both is not None:
        raise RequestError("a Radiograph has its own spacing_mm: leave it out")
    options = ScreenOptions(stride=stride, spacing_mm=both, allow_mismatch=allow_mismatch)
    return screen_image(image, detector, options)
