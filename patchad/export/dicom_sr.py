"""Scores and regions as a structured report: Comprehensive 3D SR, TID 1500."""

import math

from highdicom.sr import (
    AlgorithmIdentification,
    CodedConcept,
    Comprehensive3DSR,
    DeviceObserverIdentifyingAttributes,
    ImageRegion,
    Measurement,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    ObservationContext,
    ObserverContext,
    PlanarROIMeasurementsAndQualitativeEvaluations,
    QualitativeEvaluation,
    SourceImageForMeasurementGroup,
    SourceImageForRegion,
    TrackingIdentifier,
)
from pydicom import Dataset
from pydicom.sr.codedict import codes

from patchad.export.dicom_object import Finding, Maker
from patchad.export.regions import FlaggedRegion
from patchad.version import __version__

SCHEME = "99PATCHAD"


def _own(value: str, meaning: str) -> CodedConcept:
    return CodedConcept(value, SCHEME, meaning)


IMAGE_SCORE = _own("image_score", "Anomaly score of the image")
IMAGE_PERCENTILE = _own("image_percentile", "Percentile among held-out negative patients")
IMAGE_THRESHOLD = _own("image_threshold", "Threshold of the image score")
FLAGGED = _own("flagged", "Score over the threshold")
REGION_SCORE = _own("region_score", "Highest anomaly score in the region")
REGION_PERCENTILE = _own("region_percentile", "Percentile of the region among held-out negatives")
REGION_THRESHOLD = _own("region_threshold", "Threshold of a region's score")
INTENDED_USE = _own("intended_use", "Intended use")
RESEARCH = _own("research", "Research use only, not for diagnosis")


def report(found: Finding) -> Dataset:
    """A preliminary, unverified report: a group of measurements on the image, one on each region.

    Scores have no unit and are no probabilities. Regions are closed polylines (SCOORD) in pixels
    of the stored image.
    """
    regions = [_region(found, number, region) for number, region in enumerate(found.regions, 1)]
    content = MeasurementReport(
        observation_context=ObservationContext(observer_device_context=observer(found.maker)),
        procedure_reported=codes.SCT.ImagingProcedure,
        imaging_measurements=[_image(found), *regions],
        title=codes.DCM.ImagingMeasurementReport,
    )
    document: Dataset = Comprehensive3DSR(
        evidence=[found.reference],
        content=content,
        is_complete=True,
        is_final=False,
        is_verified=False,
        **found.identity("sr", "scores"),
    )
    scheme = Dataset()
    scheme.CodingSchemeDesignator, scheme.CodingSchemeName = SCHEME, "patchad's own concepts"
    scheme.CodingSchemeResponsibleOrganization = "patchad"
    document.CodingSchemeIdentificationSequence = [scheme]
    return document


def observer(maker: Maker) -> ObserverContext:
    """The model as what observed."""
    return ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=DeviceObserverIdentifyingAttributes(
            uid=maker.uid("device"),
            name="patchad",
            manufacturer_name="patchad",
            model_name=maker.card.method,
            serial_number=maker.digest,
        ),
    )


def _image(found: Finding) -> MeasurementsAndQualitativeEvaluations:
    screening, source = found.screening, found.reference
    return MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(found.uid("image"), "image"),
        algorithm_id=_algorithm(found),
        source_images=[SourceImageForMeasurementGroup(source.SOPClassUID, source.SOPInstanceUID)],
        measurements=_measured(
            (IMAGE_SCORE, screening.score, codes.UCUM.NoUnits),
            (IMAGE_PERCENTILE, screening.percentile, codes.UCUM.Percent),
            (IMAGE_THRESHOLD, found.card.calibrated.image_threshold, codes.UCUM.NoUnits),
        ),
        qualitative_evaluations=[
            QualitativeEvaluation(FLAGGED, codes.SCT.Yes if screening.flagged else codes.SCT.No),
            QualitativeEvaluation(INTENDED_USE, RESEARCH),
        ],
    )


def _region(
    found: Finding, number: int, region: FlaggedRegion
) -> PlanarROIMeasurementsAndQualitativeEvaluations:
    source = found.reference
    return PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(
            found.uid("region", str(number)), f"region {number}"
        ),
        referenced_region=ImageRegion(
            "POLYLINE",
            region.outline,
            SourceImageForRegion(source.SOPClassUID, source.SOPInstanceUID),
        ),
        finding_type=codes.DCM.SelectedRegion,
        algorithm_id=_algorithm(found),
        measurements=_measured(
            (REGION_SCORE, region.score, codes.UCUM.NoUnits),
            (REGION_PERCENTILE, region.percentile, codes.UCUM.Percent),
            (REGION_THRESHOLD, found.card.calibrated.drawn_over, codes.UCUM.NoUnits),
            (codes.SCT.Area, region.area_mm2, codes.UCUM.SquareMillimeter),
        ),
    )


def _algorithm(found: Finding) -> AlgorithmIdentification:
    return AlgorithmIdentification(
        name=f"patchad {found.card.method}",
        version=__version__,
        parameters=[
            f"weights SHA-256 {found.card.weights_sha256}",
            f"model digest {found.maker.digest}",
        ],
    )


def _measured(*values: tuple[CodedConcept, float, CodedConcept]) -> list[Measurement]:
    """Measurements of what is known: a value that is no number is left out."""
    return [Measurement(name, value, unit) for name, value, unit in values if math.isfinite(value)]
