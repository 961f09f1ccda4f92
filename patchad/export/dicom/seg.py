"""Marks as a DICOM segmentation, in the pixels of the film as stored."""

from typing import Any

import numpy as np
from highdicom import AlgorithmIdentificationSequence
from highdicom.seg import Segmentation, SegmentDescription
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.sr.codedict import codes

from patchad.export.dicom.header import copy_element
from patchad.export.dicom.kind import Kind
from patchad.export.dicom.object import Finding
from patchad.export.verdict import label_of
from patchad.version import __version__


def region_segmentation(found: Finding) -> Dataset | None:
    """BINARY, a segment a mark; None without marks, since it can't be empty."""
    if not found.marks:
        return None
    labels = np.zeros((1, *found.screening.heatmap.values.shape), np.uint16)
    described = []
    for mark in found.marks:
        described.append(
            segment(
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
    return segmentation(found, KIND, labels, described, "Marks, research use only")


def segment(
    found: Finding, number: int, label: str, tracking: tuple[str, str] | tuple[None, None]
) -> SegmentDescription:
    """A segment made by the model; ``tracking`` is the identifier and UID of a mark."""
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


def segmentation(
    found: Finding,
    kind: Kind[Finding],
    pixels: NDArray[np.uint16] | NDArray[np.float32],
    segments: list[SegmentDescription],
    description: str,
    *,
    segmentation_type: str = "BINARY",
    **options: Any,
) -> Dataset:
    """A segmentation of one frame.

    ``pixels`` (1, H, W) are segment numbers, or shares in [0, 1] of a fractional one; ``options``
    are highdicom's.
    """
    made: Dataset = Segmentation(
        source_images=[found.reference],
        pixel_array=pixels,
        segmentation_type=segmentation_type,
        segment_descriptions=segments,
        content_label="PATCHAD",
        content_description=description,
        content_creator_name="patchad^",
        **options,
        **found.identity(kind),
    )
    made.PatientOrientation = None
    copy_element(found.header, made, "PatientOrientation")
    made.BodyPartExamined = found.body_part
    return made


KIND = Kind("seg", "marks as masks", 9404, "image", region_segmentation, alone=True)
