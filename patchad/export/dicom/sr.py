"""Scores and marks as a structured report: Comprehensive 3D SR, TID 1500."""

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

from patchad.engine.marks import Mark
from patchad.export.dicom.kind import Kind
from patchad.export.dicom.object import Finding, Maker
from patchad.version import __version__

SCHEME = "99PATCHAD"


def _own(value: str, meaning: str) -> CodedConcept:
    return CodedConcept(value, SCHEME, meaning)


IMAGE_SCORE = _own("image_score", "Anomaly score of the image")
IMAGE_PERCENTILE = _own("image_percentile", "Percentile among held-out negative patients")
IMAGE_THRESHOLD = _own("image_threshold", "Threshold of the image score")
FLAGGED = _own("flagged", "Score over the threshold")
DECIDED_BY = _own("flag_decided_by", "What decides whether the image is flagged")
STRONGEST_MARK = _own("strongest_mark", "The score of its strongest mark")
OWN_SCORE = _own("own_score", "A score of its own, on another scale than marks")
MARKS = _own("marks", "Number of marks")
USUAL_MARKS = _own("usual_marks", "Number of marks of a normal film")
MARK_SCORE = _own("mark_score", "Highest anomaly score in the mark")
MARK_THRESHOLD = _own("mark_threshold", "Threshold of a mark's score")
MARK_RARITY = _own("mark_rarity", "Marks this strong per normal film")
MARK_RARITY_BOUND = _own("rarity_bound", "Upper 95 % bound of marks this strong per film")
INTENDED_USE = _own("intended_use", "Intended use")
RESEARCH = _own("research", "Research use only, not for diagnosis")


def report(found: Finding) -> Dataset:
    """A preliminary, unverified report: a group of measurements on the image, one on each mark.

    Scores have no unit and are not probabilities. Marks are closed polylines (SCOORD) in pixels
    of the stored image.
    """
    marks = [_mark(found, mark) for mark in found.marks]
    content = MeasurementReport(
        observation_context=ObservationContext(observer_device_context=observer(found.maker)),
        procedure_reported=codes.SCT.ImagingProcedure,
        imaging_measurements=[_image(found), *marks],
        title=codes.DCM.ImagingMeasurementReport,
    )
    document: Dataset = Comprehensive3DSR(
        evidence=[found.reference],
        content=content,
        is_complete=True,
        is_final=False,
        is_verified=False,
        **found.identity(KIND),
    )
    scheme = Dataset()
    scheme.CodingSchemeDesignator, scheme.CodingSchemeName = SCHEME, "patchad's own concepts"
    scheme.CodingSchemeResponsibleOrganization = "patchad"
    document.CodingSchemeIdentificationSequence = [scheme]
    return document


def observer(maker: Maker) -> ObserverContext:
    """The model as the observing device."""
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
    calibration = found.card.calibrated
    decided_by = STRONGEST_MARK if calibration.marks.decides else OWN_SCORE
    return MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(found.uid("image"), "image"),
        algorithm_id=_algorithm(found),
        source_images=[SourceImageForMeasurementGroup(source.SOPClassUID, source.SOPInstanceUID)],
        measurements=_measured(
            (IMAGE_SCORE, screening.score, codes.UCUM.NoUnits),
            (IMAGE_PERCENTILE, screening.percentile, codes.UCUM.Percent),
            (IMAGE_THRESHOLD, calibration.image_threshold, codes.UCUM.NoUnits),
            (MARKS, len(found.marks), codes.UCUM.NoUnits),
            (USUAL_MARKS, calibration.marks.per_film, codes.UCUM.NoUnits),
        ),
        qualitative_evaluations=[
            QualitativeEvaluation(FLAGGED, codes.SCT.Yes if screening.flagged else codes.SCT.No),
            QualitativeEvaluation(DECIDED_BY, decided_by),
            QualitativeEvaluation(INTENDED_USE, RESEARCH),
        ],
    )


def _mark(found: Finding, mark: Mark) -> PlanarROIMeasurementsAndQualitativeEvaluations:
    source = found.reference
    return PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(
            found.uid("mark", str(mark.number)), f"mark {mark.number}"
        ),
        referenced_region=ImageRegion(
            "POLYLINE",
            mark.outline,
            SourceImageForRegion(source.SOPClassUID, source.SOPInstanceUID),
        ),
        finding_type=codes.DCM.SelectedRegion,
        algorithm_id=_algorithm(found),
        measurements=_measured(
            (MARK_SCORE, mark.score, codes.UCUM.NoUnits),
            (MARK_THRESHOLD, found.card.calibrated.marks.threshold, codes.UCUM.NoUnits),
            (MARK_RARITY, mark.rarity, codes.UCUM.NoUnits),
            (MARK_RARITY_BOUND, mark.upper, codes.UCUM.NoUnits),
            (codes.SCT.Area, mark.area_mm2, codes.UCUM.SquareMillimeter),
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
    """Measurements; values that are NaN are left out."""
    return [Measurement(name, value, unit) for name, value, unit in values if math.isfinite(value)]


KIND = Kind("sr", "scores", 9403, "image", report)
