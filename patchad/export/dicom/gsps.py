"""Outlines of the marks as a Grayscale Softcopy Presentation State.

A viewer draws it over the film as stored, and can hide it; no pixel is changed.
"""

from fractions import Fraction

import numpy as np
from highdicom import PresentationLUTTransformation
from highdicom.pr import (
    GraphicAnnotation,
    GraphicLayer,
    GraphicObject,
    GrayscaleSoftcopyPresentationState,
    TextObject,
)
from pydicom import Dataset

from patchad.export.dicom.header import copy_element, text_of
from patchad.export.dicom.kind import Kind
from patchad.export.dicom.object import Finding
from patchad.export.dicom.taken import Taken
from patchad.export.verdict import label_of, marks_in_words, verdict

_LAYER = "PATCHAD"
_LINES = (0.0, 0.92, 1.0, 1.0)  # left, top, right, bottom: shares of the area shown
_CYAN = [59765, 20495, 28914]  # L*a*b* (91.2, -48, -14) as DICOM scales it; not in a grey film


def presentation_state(found: Finding) -> Dataset:
    """Each mark's outline with its number and rarity, and two lines of text on the whole image.

    Outlines are in pixels of the stored image, first point = last. The film is shown as patchad
    read it: its modality LUT, the VOI LUT or window that was used, MONOCHROME1 inverted, square.
    """
    screening, source = found.screening, found.reference
    layer = GraphicLayer(_LAYER, order=1, description="Marks, research use only")
    layer.GraphicLayerRecommendedDisplayCIELabValue = _CYAN
    calibration = found.card.calibrated
    marked = marks_in_words(
        len(found.marks), calibration, calibrated=screening.scores.grid.stride == found.card.stride
    )
    result = verdict(screening.score, screening.percentile, flagged=screening.flagged)
    whole = TextObject(
        f"patchad, research use only, unverified: {result}\r\n{marked}.",
        units="DISPLAY",
        bounding_box=_LINES,
        text_justification="LEFT",
    )
    outlines, labels = [], [whole]
    for mark in found.marks:
        name, uid = f"mark {mark.number}", found.uid("mark", str(mark.number))
        outlines.append(
            GraphicObject("POLYLINE", mark.outline, "PIXEL", tracking_id=name, tracking_uid=uid)
        )
        top = mark.outline[np.lexsort((mark.outline[:, 0], mark.outline[:, 1]))[0]]
        labels.append(
            TextObject(
                label_of(mark, calibration),
                units="PIXEL",
                anchor_point=(float(top[0]), float(top[1])),
                anchor_point_visible=False,
                tracking_id=name,
                tracking_uid=uid,
            )
        )
    inverse = text_of(found.header, "PhotometricInterpretation") == "MONOCHROME1"
    state: Dataset = GrayscaleSoftcopyPresentationState(
        referenced_images=[source],
        content_label=_LAYER,
        content_description="Anomaly scores, research use only, unverified",
        content_creator_name="patchad^",
        graphic_layers=[layer],
        graphic_annotations=[
            GraphicAnnotation([source], layer, graphic_objects=outlines, text_objects=labels)
        ],
        presentation_lut_transformation=PresentationLUTTransformation(
            presentation_lut_shape="INVERSE" if inverse else "IDENTITY"
        ),
        **found.identity(KIND),
    )
    found.locate(state)
    state.DisplayedAreaSelectionSequence[0].PresentationPixelAspectRatio = _aspect(found)
    _copy_tones(found.taken, state, screening.source.voi)
    return state


def _aspect(found: Finding) -> list[int]:
    """Height to width of a pixel, in small whole numbers."""
    row, col = found.screening.heatmap.spacing_mm or (1.0, 1.0)
    ratio = Fraction(row / col).limit_denominator(1000)
    return [ratio.numerator, ratio.denominator]


def _copy_tones(taken: Taken, state: Dataset, used: str) -> None:
    """The modality LUT, and the VOI LUT or window if patchad used it to read the film.

    Without either a presentation state shows the full range (PS3.4 N.2), as patchad does.
    """
    header, voi = taken.header, Dataset()
    for keyword in ("ModalityLUTSequence", "RescaleSlope", "RescaleIntercept", "RescaleType"):
        copy_element(header, state, keyword)
    if used == "lut" or taken.folded:
        copy_element(header, voi, "VOILUTSequence")
    elif used == "window":
        for keyword in ("WindowCenter", "WindowWidth", "VOILUTFunction"):
            copy_element(header, voi, keyword)
    if len(voi):
        state.SoftcopyVOILUTSequence = [voi]


KIND = Kind("gsps", "marks", 9402, "image", presentation_state)
