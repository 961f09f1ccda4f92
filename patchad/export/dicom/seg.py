"""Marks and heatmap as DICOM segmentations, pixel for pixel those of the film as stored."""

from typing import Any

import numpy as np
from highdicom import AlgorithmIdentificationSequence
from highdicom.seg import Segmentation, SegmentDescription
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import RLELossless

from patchad.export.dicom.object import Finding, copy_element
from patchad.export.verdict import label_of
from patchad.version import __version__

_PARTS = 255  # of the display range, in a fractional segmentation


def region_segmentation(found: Finding) -> Dataset | None:
    """BINARY, a segment a mark; None where there is none, for it can't be empty."""
    if not found.marks:
        return None
    labels = np.zeros((1, *found.screening.heatmap.values.shape), np.uint16)
    described = []
    for mark in found.marks:
        described.append(
            _segment(
                found,
                mark.number,
                f"mark {label_of(mark, found.card.calibrated)}",
                (f"mark {mark.number}", found.uid("mark", str(mark.number))),
            )
        )
    for mark in sorted(found.marks, key=lambda mark: -mark.mask.sum()):  # the small ones on top
        height, width = mark.mask.shape
        rows, cols = slice(mark.row, mark.row + height), slice(mark.col, mark.col + width)
        labels[0, rows, cols][mark.mask] = mark.number
    return _segmentation(
        found, "seg", "marks as masks", labels, described, "Marks, research use only"
    )


def heatmap_segmentation(found: Finding) -> Dataset:
    """FRACTIONAL, one segment: the score from 0 (low end of the display range, or none) to 255.

    DICOM calls fractions probabilities or occupancies. A score is neither, which the content's
    description says; OCCUPANCY is what misleads less.
    """
    low, high = found.card.calibrated.display_range
    scores = np.nan_to_num(found.screening.heatmap.values, nan=low)
    share = np.clip((scores - low) / (high - low), 0, 1)
    label = f"score {low:.4g} to {high:.4g} as 0 to {_PARTS}"
    return _segmentation(
        found,
        "heatmap-seg",
        "heatmap",
        share[None].astype(np.float32),
        [_segment(found, 1, label, (None, None))],
        "Anomaly score, no probability; research use only",
        segmentation_type="FRACTIONAL",
        fractional_type="OCCUPANCY",
        max_fractional_value=_PARTS,
        transfer_syntax_uid=RLELossless,  # which single bits, as of a BINARY one, don't allow
    )


def _segment(
    found: Finding, number: int, label: str, tracking: tuple[str, str] | tuple[None, None]
) -> SegmentDescription:
    return SegmentDescription(
        segment_number=number,
        segment_label=label,
        segmented_property_category=codes.SCT.SpatialAndRelationalConcept,
        segmented_property_type=codes.DCM.SelectedRegion,
        algorithm_type="AUTOMATIC",
        algorithm_identification=AlgorithmIdentificationSequence(
            name=f"patchad {found.card.method}",
            version=__version__,
            family=codes.DCM.ArtificialIntelligence,
            source="patchad",
            parameters={"weights SHA-256": found.card.weights_sha256, "model": found.maker.digest},
        ),
        tracking_id=tracking[0],
        tracking_uid=tracking[1],
    )


def _segmentation(
    found: Finding,
    kind: str,
    title: str,
    pixels: NDArray[np.uint16] | NDArray[np.float32],
    segments: list[SegmentDescription],
    description: str,
    *,
    segmentation_type: str = "BINARY",
    **options: Any,
) -> Dataset:
    segmentation: Dataset = Segmentation(
        source_images=[found.reference],
        pixel_array=pixels,
        segmentation_type=segmentation_type,
        segment_descriptions=segments,
        content_label="PATCHAD",
        content_description=description,
        content_creator_name="patchad^",
        **options,
        **found.identity(kind, title),
    )
    segmentation.PatientOrientation = None
    copy_element(found.header, segmentation, "PatientOrientation")
    segmentation.BodyPartExamined = found.body_part
    return segmentation
