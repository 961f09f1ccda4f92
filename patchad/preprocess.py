"""The preprocessing contract."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Preprocessing:
    """What is done to a radiograph before it is cut into patches; stored in the card.

    ``body_part`` chooses how the foreground is found. ``intensity``: ``voi`` keeps the pixels as
    read; ``percentiles`` maps these foreground percentiles to 0 and 1; ``local`` subtracts the
    local mean and divides by the local standard deviation, both Gaussian with ``local_radius_mm``.
    ``spacing_mm`` is the pixel spacing images are resampled to; None keeps their own pixels.
    """

    body_part: Literal["breast", "chest"] = "breast"
    intensity: Literal["voi", "percentiles", "local"] = "voi"
    percentiles: tuple[float, float] = (1.0, 99.0)
    local_radius_mm: float = 6.4
    spacing_mm: float | None = None
