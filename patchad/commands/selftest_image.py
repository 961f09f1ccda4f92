"""One image of a self-test: screened untouched, and with lesions drawn into it."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from patchad.commands.selftest_lesions import Wanted, find_places, packed
from patchad.core.image import PatchScores, Radiograph
from patchad.engine.marks import find_marks
from patchad.engine.mismatch import mismatches
from patchad.engine.screener import Screener, no_foreground
from patchad.errors import ImageError, MismatchError
from patchad.evaluation.contrast_detail import Tried, marks_and_places
from patchad.lesions.recipes import apply, deviation_around, draw
from patchad.model.detector import Detector
from patchad.prepare.foreground import find_foreground
from patchad.prepare.preprocess import prepare

_APART = 2  # sides of a patch between lesions: no patch sees two, no mark suppresses another's


@dataclass(frozen=True, eq=False)
class Tested:
    """One image: the marks of the untouched film (M,), its lesions, how many had no space."""

    marks: NDArray[np.float64]
    tried: list[Tried]
    screenings: int
    not_placed: int


def try_lesions(
    detector: Detector, radiograph: Radiograph, wanted: list[Wanted], rng: np.random.Generator
) -> Tested:
    """Screen one image untouched, and with lesions until all wanted ones were drawn."""
    how = detector.card.preprocessing
    spacing = radiograph.spacing_mm or how.assumed(radiograph)
    if spacing is None:
        raise ImageError(
            "lesions are drawn in millimetres, and the file has no pixel spacing: give "
            "it by --spacing-mm, or by a column spacing_mm in the manifest"
        )
    if detector.card.data.spacing_mm is None and how.spacing_mm is None:
        # A model without millimetres: here they only determine the size of the drawn lesions.
        radiograph = replace(radiograph, spacing_mm=None)
    scores = _screened(detector, radiograph, check=True)
    boxes = scores.grid.boxes(radiograph.shape)
    mask = find_foreground(radiograph, how.body_part).mask
    places = find_places(radiograph, mask, how.body_part, spacing)
    apart = boxes[0, 2] * _APART, boxes[0, 3] * _APART
    tried: list[Tried] = []
    screenings = 1
    for drawn in packed(rng, wanted, places, apart):
        pixels, regions = radiograph.pixels, []
        for one, centre in drawn:
            lesion = draw(
                rng, one.recipe, spacing, diameter_mm=one.diameter_mm, contrast=one.contrast
            )
            around = deviation_around(radiograph.pixels, mask, centre, spacing)
            pixels, region = apply(pixels, mask, lesion, centre, deviation=around)
            regions.append(region)
        touched = _screened(detector, replace(radiograph, pixels=pixels))
        screenings += 1
        after = marks_and_places(touched.grid.boxes(radiograph.shape), touched.values, regions)
        before = marks_and_places(boxes, scores.values, regions)
        tried += [
            Tried(
                one.recipe.kind,
                one.diameter_mm,
                one.contrast,
                mark=float(after[0][n]),
                mark_without=float(before[0][n]),
                place=float(after[1][n]),
                place_without=float(before[1][n]),
            )
            for n, (one, _) in enumerate(drawn)
        ]
    values = scores.values.astype(np.float64)
    marks = values[find_marks(boxes, values)]
    return Tested(marks, tried, screenings, len(wanted) - len(tried))


def _screened(detector: Detector, radiograph: Radiograph, *, check: bool = False) -> PatchScores:
    """The patch scores of an image as ``screen`` makes them; checked as there if requested."""
    card = detector.card
    prepared = prepare(radiograph, card.preprocessing)
    if check and (faults := mismatches(radiograph, prepared, card)):
        raise MismatchError("; ".join(faults))
    scores = Screener(detector).score(prepared).scores
    if check and not scores.scored.any():
        raise ImageError(no_foreground(detector, prepared))
    return scores.turned(prepared.turn.inverse)
