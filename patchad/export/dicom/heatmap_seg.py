"""The heatmap as a DICOM segmentation, in the pixels of the film as stored."""

import numpy as np
from pydicom import Dataset
from pydicom.uid import RLELossless

from patchad.export.dicom.kind import Kind
from patchad.export.dicom.object import Finding
from patchad.export.dicom.seg import segment, segmentation

_PARTS = 255  # of the display range


def heatmap_segmentation(found: Finding) -> Dataset:
    """FRACTIONAL, one segment: the score from 0 (low end of the display range, or none) to 255.

    DICOM defines fractions as probabilities or occupancies. A score is neither, as the content's
    description says; OCCUPANCY is less misleading.
    """
    low, high = found.card.calibrated.display_range
    scores = np.nan_to_num(found.screening.heatmap.values, nan=low)
    share = np.clip((scores - low) / (high - low), 0, 1)
    label = f"score {low:.4g} to {high:.4g} as 0 to {_PARTS}"
    return segmentation(
        found,
        KIND,
        share[None].astype(np.float32),
        [segment(found, 1, label, (None, None))],
        "Anomaly score, no probability; research use only",
        segmentation_type="FRACTIONAL",
        fractional_type="OCCUPANCY",
        max_fractional_value=_PARTS,
        transfer_syntax_uid=RLELossless,  # not possible with the single bits of a BINARY one
    )


KIND = Kind("heatmap-seg", "heatmap", 9405, "image", heatmap_segmentation, alone=True)
