"""From stored samples to grey in [0, 1]: the depth of integers, and refusal of other images.

Integers are scaled by the full range of their depth (2^bits - 1), never by the image's own range,
so that images of a kind stay comparable. Most formats give the depth. 16-bit PNG, TIFF and PGM give
only the stored width of a sample, and often hold 10, 12 or 14 bits of a detector, which would look
nearly black: see :func:`depth_of`.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchad.errors import ImageError, NotARadiographError, RequestError

DEPTHS = (8, 10, 12, 14, 16)  # bits of detectors and digitisers
# Distinct grey levels. Films and chest images of 8 bits have 198 or more, a chest image of
# 28 × 28 pixels 42 or more; label maps and drawings a handful.
_FEWEST_LEVELS = 16
_JUDGED = 256  # least pixels for the number of levels to be meaningful
_SAMPLED = 4096  # pixels that are enough to recognise most films


@dataclass
class Reading:
    """What is noticed while pixels are read: ``notes`` to record, ``cautions`` to show the user.

    ``bits`` is the user's depth for files that don't give it, None to guess it. ``guessed_bits`` is
    the guess, None if there was none.
    """

    bits: int | None = None
    guessed_bits: int | None = None
    notes: list[str] = field(default_factory=list)
    cautions: list[str] = field(default_factory=list)


def check_bits(bits: int | None) -> None:
    """Refuse a depth that 16-bit files can't have.

    Raises:
        RequestError: it isn't 8 to 16.
    """
    if bits is not None and not 8 <= bits <= 16:
        raise RequestError(f"bits is 8 to 16, or left out to guess it from the pixels, got {bits}")


def depth_of(highest: int, reading: Reading) -> int:
    """The bits of an image in a 16-bit file, whose highest value is ``highest``.

    The user's depth, else the least of 8, 10, 12, 14 and 16 that holds the highest value. A film
    of 16 bits hardly leaves the top two unused, since it would look black; so a lower highest value
    is taken to mean a lower depth, with a caution: only the user knows.

    Raises:
        ImageError: the user's depth is less than the image has.
    """
    if reading.bits is not None:
        if highest >= 2**reading.bits:
            raise ImageError(
                f"a pixel has the value {highest}, more than the {2**reading.bits - 1} of "
                f"{reading.bits} bits: use --bits {next(d for d in DEPTHS if highest < 2**d)}"
            )
        reading.notes.append(f"depth: {reading.bits} bits, given by the user")
        return reading.bits
    bits = next(depth for depth in DEPTHS if highest < 2**depth)
    reading.guessed_bits = bits
    if bits < 16:
        guess = f"{bits} bits, by the highest value {highest} in a 16-bit file"
        reading.notes.append(f"depth: {guess}")
        reading.cautions.append(f"depth guessed: {guess} (give it by --bits)")
    return bits


def depth_note(guesses: Iterable[int | None]) -> tuple[str, ...]:
    """A warning about images of one kind whose guessed depths differ; else empty."""
    found = Counter(bits for bits in guesses if bits)
    if len(found) < 2:
        return ()
    depths = ", ".join(f"{bits} bits in {count}" for bits, count in sorted(found.items()))
    return (
        f"Depths of 16-bit files, guessed by the highest value of each, differ: {depths}. If the "
        "images are of one kind, give their depth by --bits.",
    )


def scaled(samples: NDArray[Any], bits: int, reading: Reading) -> NDArray[np.float32]:
    """Integers (H, W) or (H, W, S) in a format of ``bits`` as grey (H, W) float32 in [0, 1].

    Raises:
        NotARadiographError: fewer than 8 bits, colour, transparency.
        ImageError: signed, wider than 16 bits, or deeper than the user's depth.
    """
    check_scale(samples.dtype, bits)
    grey = single(samples, 2**bits - 1, reading)
    if bits == 16:
        bits = depth_of(int(grey.max()), reading)
    return divided(grey, 2**bits - 1, reading)


def check_scale(dtype: np.dtype[Any], bits: int) -> None:
    """Refuse integers whose full range is unknown; see :func:`scaled`."""
    if bits < 8:
        raise NotARadiographError(
            f"an image of {bits} bit{'s' * (bits > 1)} a pixel: patchad reads 8 to 16 bits"
        )
    if dtype.kind != "u" or bits > 16:
        raise ImageError(
            f"the scale of {dtype} pixels is unknown: save as unsigned 8- or 16-bit "
            "integers, or as float in [0, 1]"
        )


def divided(samples: NDArray[Any], full: int, reading: Reading) -> NDArray[np.float32]:
    """Integers (H, W) in [0, full] as float32 in [0, 1]."""
    highest = int(samples.max())
    reading.notes.append(f"scale: 0 to {full} became 0 to 1")
    unused = full.bit_length() - highest.bit_length()
    if unused > 0:
        reading.notes.append(
            f"the largest value, {highest}, leaves the top {unused} of {full.bit_length()} bits "
            "unused"
        )
    # Both are exact in float32, so the quotient is correctly rounded.
    return np.asarray(np.divide(samples, np.float32(full), dtype=np.float32))


def unscaled(samples: NDArray[Any], reading: Reading) -> NDArray[np.float32]:
    """Floats (H, W) or (H, W, S) in [0, 1], unchanged, as grey (H, W) float32.

    Raises:
        NotARadiographError: colour, transparency.
        ImageError: some are NaN or infinite, or lie outside [0, 1].
    """
    if not np.isfinite(samples).all():
        raise ImageError("the image holds NaN or infinite pixels: replace them, then save it again")
    low, high = float(samples.min()), float(samples.max())
    if low < 0 or high > 1:
        raise ImageError(
            f"float pixels must lie in [0, 1], these lie in [{low:g}, {high:g}]: divide them by "
            "the full scale of the detector (one number for all images), then save them again"
        )
    reading.notes.append("scale: float, unchanged")
    return single(samples, 1, reading).astype(np.float32)


def single(samples: NDArray[Any], opaque: int, reading: Reading) -> NDArray[Any]:
    """The grey (H, W) of samples (H, W), or (H, W, S) with equal colours and opaque alpha.

    Raises:
        NotARadiographError: the colours differ, or something is transparent.
    """
    if samples.ndim == 2:
        return samples
    check_channels(samples.shape[2])
    colours = samples
    if samples.shape[2] in (2, 4):
        colours = samples[..., :-1]
        if (samples[..., -1] != opaque).any():
            raise NotARadiographError("an image with transparent pixels: save it without alpha")
    if any((colours[..., n] != colours[..., 0]).any() for n in range(1, colours.shape[2])):
        raise NotARadiographError("a colour image: patchad reads grey images")
    reading.notes.append(f"grey, stored in {samples.shape[2]} channels")
    grey: NDArray[Any] = colours[..., 0]
    return grey


def check_channels(count: int) -> None:
    """Refuse anything but 1 to 4 channels (grey, with alpha, RGB or RGBA)."""
    if not 1 <= count <= 4:
        raise NotARadiographError(f"an image of {count} channels: patchad reads grey images")


def check_levels(pixels: NDArray[np.float32]) -> None:
    """Refuse an image (H, W) with few grey levels: a mask, a label map, a drawing.

    Images of one level, or of fewer than 256 pixels, are not checked here.

    Raises:
        NotARadiographError: with the number of levels.
    """
    if pixels.size < _JUDGED:
        return
    some = pixels.ravel()[:: max(1, pixels.size // _SAMPLED)]
    if len(np.unique(some)) >= _FEWEST_LEVELS:
        return
    levels = len(np.unique(pixels))
    if 1 < levels < _FEWEST_LEVELS:
        raise NotARadiographError(
            f"an image of {levels} grey levels, a radiograph has {_FEWEST_LEVELS} or more: a mask, "
            "a label map or a drawing? Or a window that is too narrow (try --voi full)"
        )
