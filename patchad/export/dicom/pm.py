"""The heatmap as a Parametric Map: the scores themselves, in an invented geometry.

A Parametric Map must lie in a frame of reference. A projection image has none, so this is written
only if an invented one was requested.
"""

from copy import deepcopy

import numpy as np
from highdicom import VOILUTTransformation
from highdicom.pm import ParametricMap, RealWorldValueMapping
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.valuerep import DSfloat

from patchad.export.dicom.header import copy_element
from patchad.export.dicom.kind import Kind, Need
from patchad.export.dicom.object import Finding

_UNSCORED = float(np.finfo(np.float32).min)  # no score is that low


def parametric_map(found: Finding) -> Dataset:
    """Scores as 32-bit floats, in the pixels of the film as stored; NaN is padding.

    The image lies in a frame of reference of its own, its first pixel at the origin, rows along x,
    columns along y, 1 mm thick; pixels are those of the detector, or 1 mm if the spacing is
    unknown. The patient's position is unknown.
    """
    scores = found.screening.heatmap.values
    known = scores[np.isfinite(scores)]
    source = deepcopy(found.reference)
    source.FrameOfReferenceUID = found.uid("invented frame of reference")
    source.ImagePositionPatient = [0, 0, 0]
    source.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    source.PixelSpacing = [
        DSfloat(mm, auto_format=True) for mm in found.screening.heatmap.spacing_mm or (1.0, 1.0)
    ]
    source.SliceThickness = 1
    mapping = RealWorldValueMapping(
        lut_label="SCORE",
        lut_explanation="Anomaly score, no probability",
        unit=codes.UCUM.NoUnits,
        value_range=(float(known.min()), float(known.max())),
        slope=1.0,
        intercept=0.0,
    )
    written: Dataset = ParametricMap(
        source_images=[source],
        pixel_array=np.nan_to_num(scores, nan=_UNSCORED).astype(np.float32)[None],
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[mapping],
        voi_lut_transformations=[
            VOILUTTransformation(
                window_center=float(known.min() + known.max()) / 2,
                window_width=max(float(np.ptp(known)), 1e-6),
                voi_lut_function="LINEAR_EXACT",  # the only one that may be narrower than 1
            )
        ],
        content_label="PATCHAD",
        content_description="Anomaly score in an invented geometry; research use only",
        content_creator_name="patchad^",
        **found.identity(KIND),
    )
    written.FloatPixelPaddingValue = written.FloatPixelPaddingRangeLimit = _UNSCORED
    written.PositionReferenceIndicator = ""
    copy_element(found.header, written, "PatientOrientation")
    found.locate(written)
    return written


KIND = Kind(
    "pm",
    "heatmap in an invented geometry",
    9408,
    "image",
    parametric_map,
    alone=True,
    needs=Need(
        "invent_geometry",
        "a Parametric Map must lie in a frame of reference, which a projection image doesn't have; "
        "the option puts it into one of its own, at the origin, 1 mm a pixel where the spacing "
        "is unknown (heatmap-seg needs none)",
    ),
)
