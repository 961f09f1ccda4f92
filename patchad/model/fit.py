"""Whether a film looks like those that a model was trained on, learnt from the negatives."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchad.core.turn import MIRRORED, QUARTERS, Turn
from patchad.prepare.look import LAYOUT, Look

_FEWEST, _FEWEST_PATIENTS = 8, 4  # images and patients; fewer can't give a spread
_FOLDS = 40  # of patients, for distances of left-out images
_USUAL = 0.9  # the quantile of those distances that sets the limits
_FARTHER = 2.0  # a film this many times as far is too far
_LEAST_DISTANCE, _LEAST_DEVIATION = 2.0, 7.0  # limits are never narrower, in deviations
_TURNED, _BEYOND = -0.2, 0.1  # least advantage in correlation of a turned film
_RECOGNISED = 0.7  # share of the least likeness among negatives that shows how a film is turned
_CLIP = 4.0  # deviations, to which odd negatives are clipped for the covariance
_MOST_MISSING = 0.2  # share of negatives that may lack a measure
_COARSER = 2.5  # times as coarse as the model's pixels and its training images
_SMALLER = 0.5  # share of the fewest pixels trained on, if the spacing is unknown


@dataclass(frozen=True)
class _Measure:
    """The description of a measure, its scale, and its least deviation."""

    words: str  # with {part} and {value}
    least: float
    log: bool = False


_MEASURES = {
    "area": _Measure("the {part} fills {value} of the image", 0.06),
    "aspect": _Measure("the {part} is {value} times as high as wide", 0.08, log=True),
    "image_aspect": _Measure("the image is {value} times as high as wide", 0.08, log=True),
    "median": _Measure("the median brightness of the {part} is {value}", 0.05),
    "spread": _Measure("the brightness of the {part} spans {value}", 0.05),
    "skew": _Measure("the brightness of the {part} is skewed by {value}", 0.05),
    "entropy": _Measure("the {part} shows {value} of 64 steps of grey", 0.15, log=True),
    "structure_0": _Measure("the finest structure has {value} of the contrast", 0.15, log=True),
    "structure_1": _Measure("fine structure has {value} of the contrast", 0.15, log=True),
    "structure_2": _Measure("coarse structure has {value} of the contrast", 0.15, log=True),
    "structure_3": _Measure("the coarsest structure has {value} of the contrast", 0.15, log=True),
    "slope": _Measure("fine structure has {value} of the contrast of coarse", 0.2, log=True),
    "height": _Measure("the {part} is {value} mm high", 0.2, log=True),
    "fill": _Measure("the {part} fills {value} of its bounding box", 0.06),
    "wall_end": _Measure("the {part} fills {value} of one end of its bounding box", 0.12),
    "free_end": _Measure("the {part} fills {value} of the end opposite the chest wall", 0.12),
    "top_end": _Measure("the {part} fills {value} of the upper end of its bounding box", 0.12),
    "bottom_end": _Measure("the {part} fills {value} of the lower end of its bounding box", 0.12),
    "wall_border": _Measure("the {part} covers {value} of one side of the image", 0.2),
    "free_border": _Measure("the {part} covers {value} of both sides of the image", 0.05),
    "top_border": _Measure("the {part} covers {value} of the upper border of the image", 0.2),
    "bottom_border": _Measure("the {part} covers {value} of the lower border of the image", 0.12),
    "over_air": _Measure("the {part} is brighter than the air by {value}", 0.06),
    "likeness": _Measure("its layout has a correlation of {value} with the mean layout", 0.1),
    "outline": _Measure("its outline has a correlation of {value} with the mean outline", 0.1),
}
_LIKENESSES = ("likeness", "outline")  # correlations, as their inverse hyperbolic tangent


@dataclass(frozen=True)
class Fit:
    """The looks of a training's negatives, and how far from them a film may be.

    For each measure in ``names``: ``centre`` (median) and ``scale`` (a robust standard deviation)
    over the negatives, and their range ``low`` to ``high``; ``mean`` and ``precision`` (its rows
    from the diagonal on) of the scaled measures, after Ledoit & Wolf (2004). ``picture`` and
    ``outline`` are the mean layouts, row by row. The limits: ``distance``, the root mean square of
    Mahalanobis; ``deviation``, of a single measure; ``turned``, the least correlation of a film
    minus the highest of its turned images. ``pixels`` is the fewest along the longer side,
    ``pixel_mm`` the coarsest pixel, None if a negative has no spacing.
    """

    names: tuple[str, ...]
    centre: tuple[float, ...]
    scale: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    mean: tuple[float, ...]
    precision: tuple[float, ...]
    picture: tuple[float, ...]
    outline: tuple[float, ...]
    distance: float
    deviation: float
    turned: float
    pixels: int
    pixel_mm: float | None


def fit_of(negatives: Sequence[tuple[Look | None, str]]) -> Fit | None:
    """Learn the fit from negatives and their patients; None if there are too few.

    The limits are set by the distances of negatives to a fit of the others, each patient (or group
    of patients, if there are many) left out in turn. A conformal limit that refuses 1 % would need
    99 images and be as large as the oddest of them; so the limit is twice the 90th percentile,
    which is robust to a few odd films. ``benchmarks/film_fit.py`` measures what that refuses.
    """
    looks = [look for look, _ in negatives if look is not None]
    patients = [patient for look, patient in negatives if look is not None]
    if len(looks) < _FEWEST or len(set(patients)) < _FEWEST_PATIENTS:
        return None
    groups = _groups(patients)
    pictures = np.array([look.picture for look in looks])
    outlines = np.array([look.outline for look in looks])
    likeness = np.empty((len(looks), 3))
    for group in np.unique(groups):
        others = groups != group
        mean = pictures[others].mean(0), outlines[others].mean(0)
        for n in np.flatnonzero(~others).tolist():
            likeness[n] = _likenesses(looks[n], *mean)
    names = tuple(looks[0].measures)
    values = np.array([[look.measures[name] for name in names] for look in looks])
    values = np.hstack([values, likeness[:, :2]])
    names = (*names, *_LIKENESSES)
    used = np.isfinite(values).mean(0) >= 1 - _MOST_MISSING
    names, values = tuple(np.array(names)[used].tolist()), values[:, used]
    own = np.empty((len(looks), 2))
    for group in np.unique(groups):
        left_out = groups == group
        spread = _spread(names, values[~left_out])
        own[left_out] = [_distances(spread, row) for row in values[left_out]]
    usual = np.quantile(own, _USUAL, axis=0)
    spread = _spread(names, values)
    coarsest = float(np.max([look.pixel_mm for look in looks]))  # NaN if one is
    return Fit(
        names=names,
        centre=_rounded(spread.centre),
        scale=_rounded(spread.scale),
        low=_rounded(np.nanmin(values, 0)),
        high=_rounded(np.nanmax(values, 0)),
        mean=_rounded(spread.mean),
        precision=_rounded(spread.precision[np.triu_indices(len(names))]),
        picture=_rounded(pictures.mean(0).ravel()),
        outline=_rounded(outlines.mean(0).ravel()),
        distance=max(_LEAST_DISTANCE, float(_FARTHER * usual[0])),
        deviation=max(_LEAST_DEVIATION, float(_FARTHER * usual[1])),
        turned=min(_TURNED, float(likeness[:, 2].min()) - _BEYOND),
        pixels=min(look.pixels for look in looks),
        pixel_mm=None if math.isnan(coarsest) else coarsest,
    )


def fit_note(fit: Fit | None, part: str = "") -> tuple[str, ...]:
    """The card's note about a missing fit, or none; ``part`` is the body part."""
    if fit is not None:
        return ()
    if part == "other":
        return (
            "Of pictures of other than breast or chest it is not known what they must look like, "
            "so a wrong one may pass.",
        )
    return (
        f"Fewer than {_FEWEST} negatives, or negatives of fewer than {_FEWEST_PATIENTS} patients: "
        "too few to learn what a film must look like, so a wrong one may pass.",
    )


def misfit(look: Look, fit: Fit, part: str, *, model_mm: float | None = None) -> str:
    """How a film differs from the negatives, in words; empty if it fits.

    Args:
        look: of the film.
        fit: of the negatives.
        part: breast or chest, for the text.
        model_mm: the pixel spacing that the model resamples to, None if it doesn't.
    """
    coarse = _too_coarse(look, fit, model_mm)
    if coarse:
        return coarse
    picture, outline = (np.reshape(one, (LAYOUT, LAYOUT)) for one in (fit.picture, fit.outline))
    *alike, upright = _likenesses(look, picture, outline)
    otherwise = _otherwise(look, picture)
    if upright < fit.turned and max(otherwise.values()) >= _least_likeness(fit):
        how = max(otherwise, key=lambda name: otherwise[name])
        return (
            f"{how}, it would look more like the training images (likeness {otherwise[how]:.2f}) "
            f"than as it is ({math.tanh(alike[0]):.2f}), so check "
            + ("its grey" if how == "inverted" else "that it is upright")
        )
    measures = {**look.measures, **dict(zip(_LIKENESSES, alike, strict=True))}
    values = np.array([measures.get(name, math.nan) for name in fit.names])
    spread = _spread_of(fit)
    distance, deviation = _distances(spread, values)
    if distance <= fit.distance and deviation <= fit.deviation and upright >= fit.turned:
        return ""
    off = np.nan_to_num(np.abs(values - spread.centre) / spread.scale)
    outside = (values < np.array(fit.low)) | (values > np.array(fit.high))
    worst = int(np.argmax(np.where(outside, off, -1) if outside.any() else off))
    usual_values = (fit.centre[worst],) if not outside.any() else (fit.low[worst], fit.high[worst])
    name = fit.names[worst]
    words = _MEASURES[name].words.format(part=part, value=_shown(name, values[worst]))
    kind = "usually about " if len(usual_values) == 1 else "trained on "
    return (
        f"it does not look like the training images: above all {words}, "
        f"{kind}{' to '.join(_shown(name, value) for value in usual_values)}"
    )


@dataclass(frozen=True, eq=False)
class _Spread:
    centre: NDArray[np.float64]
    scale: NDArray[np.float64]
    mean: NDArray[np.float64]
    precision: NDArray[np.float64]


def _spread(names: Sequence[str], values: NDArray[np.float64]) -> _Spread:
    """The place and spread of measures, (images, measures), robust against odd images."""
    from sklearn.covariance import ledoit_wolf  # type: ignore[import-untyped]

    centre = np.nanmedian(values, axis=0)
    deviation = 1.4826 * np.nanmedian(np.abs(values - centre), axis=0)
    low, high = np.nanquantile(values, (0.05, 0.95), axis=0)
    least = [_MEASURES[name].least for name in names]
    scale = np.maximum.reduce([deviation, (high - low) / 3.29, np.array(least)])
    scaled = np.nan_to_num((values - centre) / scale).clip(-_CLIP, _CLIP)
    covariance, _ = ledoit_wolf(scaled)
    return _Spread(centre, scale, scaled.mean(0), np.linalg.inv(covariance))


def _spread_of(fit: Fit) -> _Spread:
    count = len(fit.names)
    precision = np.zeros((count, count))
    precision[np.triu_indices(count)] = fit.precision
    precision += np.triu(precision, 1).T
    return _Spread(np.array(fit.centre), np.array(fit.scale), np.array(fit.mean), precision)


def _distances(spread: _Spread, values: NDArray[np.float64]) -> tuple[float, float]:
    """For one image: the root mean square of Mahalanobis, and the largest single deviation.

    Unknown measures count as usual.
    """
    scaled = np.nan_to_num((values - spread.centre) / spread.scale)
    off = scaled - spread.mean
    square = float(off @ spread.precision @ off) / len(off)
    return math.sqrt(max(square, 0.0)), float(np.abs(scaled).max())


def _groups(patients: Sequence[str]) -> NDArray[np.int64]:
    """A group number for each image, (images,): the same within a patient; at most ``_FOLDS``."""
    return np.unique(np.asarray(patients), return_inverse=True)[1] % _FOLDS


def _likenesses(
    look: Look, picture: NDArray[np.float64], outline: NDArray[np.float64]
) -> tuple[float, float, float]:
    """Correlations of the layouts with their means, and the advantage over turned pictures."""
    as_it_lies = _correlation(look.picture, picture)
    otherwise = max(_otherwise(look, picture).values())
    alike = (as_it_lies, _correlation(look.outline, outline))
    brightness, outlines = (math.atanh(min(0.99, max(-0.99, one))) for one in alike)
    return brightness, outlines, as_it_lies - otherwise


def _otherwise(look: Look, picture: NDArray[np.float64]) -> dict[str, float]:
    """The correlations that the film would have if it were inverted or turned.

    A breast that is upside down looks much like one that isn't, so that is not tried.
    """
    turns: dict[str, tuple[Turn, ...]] = {turn.name: (turn,) for turn in QUARTERS[1:]}
    if look.body_part == "breast":  # the chest wall may end up on either side
        turns = {turn.name: (turn, turn.then(MIRRORED)) for turn in QUARTERS if turn.transposed}
    found = {"inverted": -_correlation(look.picture, picture)}
    for name, tried in turns.items():
        found[name] = max(_correlation(turn.picture(look.picture), picture) for turn in tried)
    return found


def _least_likeness(fit: Fit) -> float:
    return _RECOGNISED * math.tanh(fit.low[fit.names.index("likeness")])


def _too_coarse(look: Look, fit: Fit, model_mm: float | None) -> str:
    """Why an image is too coarse for the model; empty if it isn't."""
    remedy = "give the image at its full size"
    if model_mm is not None and fit.pixel_mm is not None and math.isfinite(look.pixel_mm):
        most = _COARSER * max(model_mm, fit.pixel_mm)
        if look.pixel_mm <= most:
            return ""
        return (
            f"pixels of {look.pixel_mm:.3g} mm, the model looks at {model_mm:.3g} mm and was "
            f"trained on up to {fit.pixel_mm:.3g} mm: too coarse, at most {most:.3g} mm; {remedy}"
        )
    if look.pixels >= _SMALLER * fit.pixels:
        return ""
    return (
        f"{look.pixels} pixels along the longer side, trained on {fit.pixels} and more: too "
        f"coarse, less than half; {remedy}"
    )


def _correlation(one: NDArray[np.floating[Any]], other: NDArray[np.floating[Any]]) -> float:
    one, other = one - one.mean(), other - other.mean()
    return float((one * other).mean() / max(one.std() * other.std(), 1e-6))


def _shown(name: str, value: float) -> str:
    if name in _LIKENESSES:
        return f"{math.tanh(value):.2f}"
    value = math.exp(value) if _MEASURES[name].log else value
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.0f}"


def _rounded(values: NDArray[np.float64]) -> tuple[float, ...]:
    """Rounded to 6 significant digits, so that a card stays short."""
    return tuple(float(f"{value:.6g}") for value in values)
