"""Masks of lesions in picture files: each connected part is a region."""

import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from patchad.core.image import Region
from patchad.errors import ImageError
from patchad.read.caps import check_file

_FORMATS = ("PNG", "TIFF", "PPM", "BMP")
_MOST_PARTS = 10_000  # of a mask; more is noise, or a picture


def regions_of(path: Path, kind: str, max_pixels: int) -> list[Region]:
    """Each connected part (8 neighbours) of the nonzero pixels of a PNG, TIFF, PGM or BMP file.

    Raises:
        ImageError: the file can't be read, is too large, is all zero, or has too many parts.
    """
    lesion = _lesion(path, max_pixels)
    labels, parts = ndimage.label(lesion, structure=np.ones((3, 3), bool))
    if not parts:
        raise ImageError("its pixels are all 0, a lesion must be nonzero")
    if parts > _MOST_PARTS:
        raise ImageError(f"it has {parts:,} separate parts, more than {_MOST_PARTS:,}")
    regions = []
    for index, (rows, cols) in enumerate(ndimage.find_objects(labels), start=1):
        part = labels[rows, cols] == index
        regions.append(Region(cols.start, rows.start, part.shape[1], part.shape[0], kind, part))
    return regions


def _lesion(path: Path, max_pixels: int) -> NDArray[np.bool_]:
    """The pixels that are nonzero in any channel except alpha: (H, W) bool."""
    check_file(path, max_pixels)
    try:
        with warnings.catch_warnings():  # of Pillow's own cap: ours is checked first
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path, formats=_FORMATS) as picture:
                columns, rows = picture.size
                if rows * columns > max_pixels:
                    raise ImageError(f"{rows} × {columns} pixels, more than {max_pixels:,}")
                has_alpha = picture.mode in ("LA", "PA", "RGBA")
                values = np.asarray(picture)
    except (ImageError, MemoryError):
        raise
    except Image.DecompressionBombError:
        raise ImageError(f"more than {max_pixels:,} pixels") from None
    except Exception as error:  # Pillow may raise anything on a damaged file
        reason = getattr(error, "strerror", None) or "it is not an image, or damaged"
        raise ImageError(reason) from None
    if values.ndim == 3:
        values = (values[..., :-1] if has_alpha else values).max(axis=2)
    return np.asarray(values != 0)
