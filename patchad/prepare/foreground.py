"""Segments the breast or body of an image from air, labels, film edges and collimators.

The work is done on a small copy, so that an image costs the same at any resolution. Arrays are
(row, col), origin at the top-left pixel.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.filters import threshold_otsu

from patchad.core.image import Foreground, Radiograph
from patchad.errors import ImageError
from patchad.prepare.resize import resize

BodyPart = Literal["breast", "chest", "other"]
WORK_SIDE = 512  # longest side of the small copy, in pixels
SMOOTH = 0.02  # radius of the opening / longest side: the strokes of letters are thinner
SMALLEST = 0.01  # share of the image; a smaller object is no breast or chest
_NOTHING = {"breast": "no breast", "chest": "no chest", "other": "nothing"}


def find_foreground(radiograph: Radiograph, body_part: BodyPart) -> Foreground:
    """Find the breast, or the exposed field of a chest radiograph.

    ``breast`` takes the largest compact object brighter than air. ``threshold`` is Otsu's (1979),
    repeated twice among the darker pixels to reach the skin line, and never within the noise of
    air. The pectoral muscle stays in the mask; ``measures["pectoral_fraction"]`` is its share of
    the mask, NaN if none was found (see :func:`_pectoral_fraction`).

    ``chest`` cuts off margins on the four sides that are black or white throughout and end at a
    straight line, level or slanted by up to 10°; ``threshold`` is the upper end of black. Air next
    to the body and letters within the field stay. Without margins the field is the whole image.

    ``other`` is any other picture, such as an OCT scan or a fundus: all of it is foreground.

    Pixels outside the film (``Radiograph.outside``) are in none.

    Args:
        radiograph: the image as read.
        body_part: ``breast``, ``chest`` or ``other``.

    Raises:
        ImageError: the image is constant, or nothing in it could be a breast or a chest.
    """
    pixels = radiograph.film
    low, high = float(pixels.min()), float(pixels.max())
    if not high > low:
        raise ImageError(
            f"every pixel is {low:g}, so there is {_NOTHING[body_part]} to find: check that "
            "the file holds an image, and its window"
        )
    if body_part == "other":
        return _picture(radiograph)
    scale = min(1.0, WORK_SIDE / max(pixels.shape))
    rows, cols = (max(1, round(length * scale)) for length in pixels.shape)
    small = resize(pixels, (rows, cols))
    match body_part:
        case "breast":
            mask, threshold = _breast(small)
            method = "breast: Otsu thrice, largest compact component, opened, holes filled"
            measures = {"pectoral_fraction": np.nan}
            if radiograph.source.view.upper() != "CC":
                measures["pectoral_fraction"] = _pectoral_fraction(small, mask)
        case "chest":
            mask, threshold = _field(small)
            method = "chest: straight black or white margins cut off"
            measures = {}
        case _:
            raise ValueError(f"body_part is breast, chest or other, not {body_part!r}")
    if scale < 1:  # the outermost pixels of the copy blend with those beyond the edge
        mask = ndimage.binary_erosion(mask, np.ones((3, 3), bool), border_value=1)
    if mask.mean() < SMALLEST:
        raise ImageError(
            f"the largest object is {mask.mean():.2%} of the image, a {body_part} needs "
            f"{SMALLEST:.0%}: check its window, and that it is neither empty nor without any air"
        )
    whole = resize(mask.astype(np.float32), radiograph.shape) >= 0.5
    if body_part == "breast":
        _drop_border_lines(whole, pixels, threshold)
    if radiograph.outside is not None:
        whole &= ~radiograph.outside
        if not whole.any():
            raise ImageError(
                f"padding, shutter or collimator cover all of the {body_part}: export it again"
            )
    return Foreground(whole, method, threshold, {"area_fraction": float(whole.mean()), **measures})


def _picture(radiograph: Radiograph) -> Foreground:
    """The whole picture, but for padding, shutter and collimator."""
    mask = np.ones(radiograph.shape, bool)
    if radiograph.outside is not None:
        mask &= ~radiograph.outside
    if not mask.any():
        raise ImageError("padding, shutter or collimator cover all of the picture: export it again")
    area = {"area_fraction": float(mask.mean())}
    return Foreground(mask, "other: the whole picture", np.nan, area)


def _breast(pixels: NDArray[np.float32]) -> tuple[NDArray[np.bool_], float]:
    """Mask (H, W) of the breast, and its threshold in the unit of the pixels."""
    film = _without_padding(pixels)
    threshold = _skin_threshold(pixels[film])
    radius = max(1.0, SMOOTH * max(pixels.shape))
    bright = np.zeros(pixels.shape, bool)
    bright[film] = _open(_without_rims(pixels[film] > threshold, int(2 * radius) + 1), radius)
    labels, count = ndimage.label(bright)
    if count == 0:
        return np.zeros(pixels.shape, bool), threshold
    # Depth summed over an object favours compact ones: film frames and step wedges are thin.
    depth = ndimage.sum_labels(
        ndimage.distance_transform_edt(labels > 0), labels, range(1, count + 1)
    )
    return ndimage.binary_fill_holes(labels == 1 + int(np.argmax(depth))), threshold


def _without_padding(pixels: NDArray[np.float32]) -> tuple[slice, slice]:
    """The part left after removing constant rows and columns from the four sides."""
    varied = []
    for axis in (1, 0):
        low, high = np.percentile(pixels, (2, 98), axis=axis)
        places = np.flatnonzero(high - low > 1 / 255)
        varied.append(slice(places[0], places[-1] + 1) if len(places) else slice(None))
    return varied[0], varied[1]


def _drop_border_lines(
    mask: NDArray[np.bool_], pixels: NDArray[np.float32], threshold: float
) -> None:
    """Remove padding one pixel thin, which the copy doesn't show, from ``mask`` (H, W)."""
    for line in (np.s_[0], np.s_[-1], np.s_[:, 0], np.s_[:, -1]):
        inside = mask[line]
        if inside.any() and np.median(pixels[line][inside]) <= threshold:
            mask[line] = False


def _skin_threshold(pixels: NDArray[np.float32]) -> float:
    """The upper end of air: Otsu's threshold, repeated twice among the pixels below it."""
    classes, threshold = [pixels.ravel()], 0.0
    for _ in range(3):
        below = classes[-1]
        if below.min() < below.max():
            threshold = float(threshold_otsu(below))  # type: ignore[no-untyped-call]
            classes.append(below[below <= threshold])
    # Air is the most frequent dark grey; its spread is measured on the side that holds no tissue.
    dark = classes[min(2, len(classes) - 1)]
    counts, edges = np.histogram(dark, 64)
    air = float(edges[np.argmax(counts) + 1])
    noise = 1.4826 * float(np.median(air - dark[dark <= air])) if (dark <= air).any() else 0.0
    return max(threshold, air + 3 * noise)


def _open(mask: NDArray[np.bool_], radius: float) -> NDArray[np.bool_]:
    """Opening by a disc that may reach over the image's border, so that nothing is lost there."""
    if mask.all() or not mask.any():
        return mask
    core = ndimage.distance_transform_edt(mask) > radius
    return ndimage.distance_transform_edt(~core) <= radius if core.any() else core


def _without_rims(mask: NDArray[np.bool_], length: int) -> NDArray[np.bool_]:
    """Remove runs shorter than ``length`` along rows or columns, such as the rims of films."""
    for axis in (0, 1):
        size = min(length, mask.shape[axis])
        line = np.ones((size, 1) if axis == 0 else (1, size), bool)
        mask = ndimage.binary_opening(mask, line)
    return mask


def _pectoral_fraction(pixels: NDArray[np.float32], mask: NDArray[np.bool_]) -> float:
    """Share of the breast's mask above the straight edge of the pectoral muscle; NaN if none.

    The muscle is taken as a triangle in the upper corner at the chest wall (Karssemeijer, Phys Med
    Biol 1998; 43: 365-378). Its edge is the line across that corner with the steepest fall of
    brightness, weighted by its length. Brightness must fall on 80 % of that length and, on average,
    by at least 4 % of the breast's own range. The chest wall is the side with more breast on it.
    """
    rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if min(len(rows), len(cols)) < 8:
        return np.nan
    box = np.s_[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]
    breast, inside = pixels[box], mask[box]
    edge = max(1, inside.shape[1] // 20)
    if inside[:, -edge:].sum() > inside[:, :edge].sum():
        breast, inside = breast[:, ::-1], inside[:, ::-1]
    H, W = inside.shape
    low, high = np.percentile(breast[inside], (1, 99))
    if not high > low:
        return np.nan
    reach = max(2.0, 0.02 * max(mask.shape))
    weight = inside.astype(np.float32)
    smooth = ndimage.gaussian_filter(
        (breast - low) / (high - low) * weight, reach / 2, mode="nearest"
    )
    smooth /= np.maximum(ndimage.gaussian_filter(weight, reach / 2, mode="nearest"), 1e-3)

    # Lines from (0, right) on the upper edge to (down, 0) on the chest wall, 48 points on each.
    right, down = np.meshgrid(np.linspace(0.1 * W, W, 48), np.linspace(0.15 * H, H, 48))
    right, down = right.reshape(-1, 1), down.reshape(-1, 1)
    along = np.linspace(0.02, 0.98, 48)
    row, col, length = along * down, (1 - along) * right, np.hypot(right, down)
    across = reach * np.stack([right, down]) / length  # (row, col) of the way out of the corner
    before = _sample(smooth, row - across[0], col - across[1])
    after = _sample(smooth, row + across[0], col + across[1])
    in_breast = _sample(weight, row + across[0], col + across[1]) > 0.5
    fall = np.where(in_breast, before - after, 0.0)
    angle = np.degrees(np.arctan2(right, down))[:, 0]
    usable = (angle > 10) & (angle < 60) & ((fall > 0.01).mean(1) >= 0.8) & (fall.mean(1) >= 0.04)
    if not usable.any():
        return np.nan
    # One strong stretch (a skin fold, dense tissue) must not outweigh a whole edge.
    steepness = np.clip(fall, -0.12, 0.12).mean(1) * np.sqrt(length[:, 0])
    best = int(np.argmax(np.where(usable, steepness, -np.inf)))
    r, c = np.ogrid[:H, :W]
    muscle = inside & (r / down[best] + c / right[best] <= 1)
    return float(muscle.sum() / inside.sum())


def _sample(
    values: NDArray[np.float32], row: NDArray[np.float64], col: NDArray[np.float64]
) -> NDArray[np.float32]:
    return ndimage.map_coordinates(values, [row, col], order=1, mode="nearest")


def _field(pixels: NDArray[np.float32]) -> tuple[NDArray[np.bool_], float]:
    """Mask (H, W) of the field within straight margins, and where black ends."""
    low, high = np.percentile(pixels, (0.1, 99.9))
    black, white = (float(low + share * (high - low)) for share in (0.06, 0.9))
    dark, bright = pixels <= black, pixels >= white
    # A majority vote over a window keeps straight edges in place, and removes letters from margins
    # and specks from the field.
    window = 2 * round(SMOOTH * max(pixels.shape)) + 1
    field = np.ones(pixels.shape, bool)
    # Scanned films have a white rim within black padding, and black collimator within that.
    for colour, level in ((dark, True), (bright, False), (dark, True)):
        for turns in range(4):
            share = ndimage.uniform_filter(
                (colour | ~field).astype(np.float32), window, mode="nearest"
            )
            margin = np.rot90(share > 0.5, turns)
            field &= ~np.rot90(_straight_margin(margin, level=level), -turns)
    return field, black


def _straight_margin(margin: NDArray[np.bool_], *, level: bool) -> NDArray[np.bool_]:
    """The largest margin at the upper side of ``margin`` (H, W) bool that ends at a straight line.

    Lines of up to 10° are tried. Above the line 97 % of the columns must be all margin, and in a
    third of those that it crosses the margin must end there: air next to the body, or an
    overexposed abdomen, ends anywhere. With ``level``, whole rows of margin are always cut off.
    """
    H, W = margin.shape
    run = np.where(margin.all(0), H, np.argmin(margin, axis=0)).astype(np.float64)
    least = max(1.0, 0.1 * W)  # columns that a margin crosses
    if np.count_nonzero(run) < least:
        return np.zeros_like(margin)
    slopes = np.tan(np.radians(np.linspace(-10, 10, 81)))
    rise = slopes[:, None] * (np.arange(W) - (W - 1) / 2)
    edges = np.clip(np.quantile(run - rise, 0.03, axis=1, keepdims=True) + rise, 0, H)
    crossed = edges >= 1
    ends = crossed & (np.abs(run - edges) <= max(1.5, 0.01 * H))
    usable = (crossed.sum(1) >= least) & (ends.sum(1) >= crossed.sum(1) / 3)
    usable |= level & (slopes == 0)
    best = edges[np.argmax(np.where(usable, edges.sum(1), -1))]
    return np.asarray(np.arange(H)[:, None] + 0.5 < best) & bool(usable.any())
