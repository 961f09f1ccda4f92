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

    from patchad.core.image import Radiograph, Screening
    from patchad.model.detector import Detector

__all__ = ["__version__", "load", "screen"]


# torch takes seconds to import, so both import it only when they are called.


def load(folder: str | Path, device: str = "auto") -> "Detector":
    """Load a trained model; ``device`` is ``auto`` (CUDA, then MPS, then CPU), or one of them.

    Raises:
        ModelError: there is none, or it was changed, is not patchad's or is of another version.
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
    allow_mismatch: bool = False,
    bits: int | None = None,
    max_pixels: int = 100_000_000,
) -> "Screening":
    """Screen one image: a file that patchad reads, an array, or a radiograph already read.

    The file is decoded in this process, so a file that crashes its decoder, or keeps it busy,
    affects this process. The caps are those of ``patchad screen``, which reads files in separate
    processes: use that for files of unknown origin.

    Args:
        image: what to screen. An array is (H, W), brighter = denser: floats in [0, 1], or unsigned
            integers.
        detector: from :func:`load`.
        stride: between patches, in pixels of the prepared image; the card's by default.
        spacing_mm: (row, col), or one number for both, for an array and for a file that carries
            no pixel spacing.
        allow_mismatch: screen an image that differs from the training images; the
            reasons list the differences.
        bits: how many bits the values have. An array of unsigned integers needs it, except uint8.
            For a 16-bit PNG, TIFF or PGM the default is that of the model's training, else a
            guess by its highest value.
        max_pixels: the cap on rows × columns of a file, and so on memory; larger ones are refused.

    Raises:
        ImageError: it cannot be read, or differs from what the model was trained on.
        RequestError: it is none of these, or an option doesn't apply to it.
    """
    import numpy as np

    from patchad.core.image import Radiograph
    from patchad.engine.screener import ScreenOptions
    from patchad.engine.screener import screen as screen_image
    from patchad.errors import RequestError
    from patchad.read.array import radiograph_of

    both = (spacing_mm, spacing_mm) if isinstance(spacing_mm, int | float) else spacing_mm
    if isinstance(image, np.ndarray):
        image, bits = radiograph_of(image, spacing_mm=both, bits=bits), None
    elif not isinstance(image, str | Path | Radiograph):
        raise RequestError(
            "screen takes the path of an image, a NumPy array (rows, columns) or a Radiograph; "
            f"got {type(image).__name__}"
        )
    elif isinstance(image, Radiograph) and bits is not None:
        raise RequestError("a Radiograph has its intensities scaled already: leave bits out")
    elif isinstance(image, Radiograph) and both is not None:
        raise RequestError("a Radiograph has its own spacing_mm: leave spacing_mm out")
    options = ScreenOptions(
        stride=stride, spacing_mm=both, allow_mismatch=allow_mismatch, bits=bits
    )
    return screen_image(image, detector, options, max_pixels=max_pixels)
