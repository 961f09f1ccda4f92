"""Marks as a CAD report: Mammography CAD SR (TID 4000) or Chest CAD SR (TID 4100).

Nothing here claims a diagnosis: a finding is a "Selected region" with its description, without
certainty or probability, and a viewer may present it or not. Codes are those of pydicom.
"""

import re
from collections.abc import Sequence
from typing import Any

from highdicom import SOPClass
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import UID, ChestCADSRStorage, MammographyCADSRStorage
from pydicom.valuerep import DSfloat

from patchad.engine.marks import Mark
from patchad.export.dicom.header import code_item, text_of
from patchad.export.dicom.kind import Kind
from patchad.export.dicom.object import Finding
from patchad.export.verdict import rarity_in_words
from patchad.version import __version__

_ENGLISH = Code("en", "RFC5646", "English")  # a language tag; pydicom has no codes for these
_IMAGE = [1, 2, 1]  # the image's position in the tree: root, Image Library, its first item
_DATE, _TIME = r"\d{8}", r"\d{2,6}(\.\d{1,6})?"
_BREASTS = {"L": codes.cid6022.LeftBreast, "R": codes.cid6022.RightBreast}
_BREAST_VIEWS = {
    "CC": codes.cid4014.CranioCaudal,
    "MLO": codes.cid4014.MedioLateralObliqueProjection,
    "ML": codes.cid4014.MedioLateralProjection,
    "LM": codes.cid4014.LateroMedial,
}
_CHEST_VIEWS = {"PA": codes.cid4010.PosteroAnterior, "AP": codes.cid4010.AnteroPosterior}


def cad_report(found: Finding) -> Dataset:
    """A CAD report on one image, for a mammogram by TID 4000, for any other film by TID 4100.

    Marks are points and closed polylines (SCOORD) in pixels of the stored image, which they refer
    to by its position in the Image Library.
    """
    breast = found.screening.source.modality == "MG" or found.body_part == "BREAST"
    source = found.reference
    report: Dataset = SOPClass(
        study_instance_uid=source.StudyInstanceUID,
        sop_class_uid=MammographyCADSRStorage if breast else ChestCADSRStorage,
        modality="SR",
        **found.identity(KIND),
    )
    report.ContentDate, report.ContentTime = (
        report.InstanceCreationDate,
        report.InstanceCreationTime,
    )
    report.CompletionFlag, report.VerificationFlag = "COMPLETE", "UNVERIFIED"
    report.PreliminaryFlag = "PRELIMINARY"
    report.PerformedProcedureCodeSequence = []
    report.ReferencedPerformedProcedureStepSequence = []
    report.CurrentRequestedProcedureEvidenceSequence = [_evidence(source)]
    title = codes.DCM.MammographyCADReport if breast else codes.DCM.ChestCADReport
    report.update(_container(None, title, *_content(found, breast)))
    template = Dataset()
    template.MappingResource, template.TemplateIdentifier = "DCMR", "4000" if breast else "4100"
    report.ContentTemplateSequence = [template]
    return report


def _content(found: Finding, breast: bool) -> list[Dataset]:
    contains = "CONTAINS"
    language = codes.DCM.LanguageOfContentItemAndDescendants
    summary = codes.cid6047
    findings = [_finding(found, mark, breast) for mark in found.marks]
    if findings and breast:  # a mammogram's findings are in an impression, a chest film's are not
        impression = codes.DCM.IndividualImpressionRecommendation
        findings = [_container("INFERRED FROM", impression, _intent(), *findings)]
    detected = _code(
        contains,
        codes.DCM.DetectionPerformed,
        codes.DCM.SelectedRegion,
        *_algorithm(found, "HAS PROPERTIES"),
        _to_image("HAS PROPERTIES"),
    )
    return [
        _code("HAS CONCEPT MOD", language, _ENGLISH),
        _container(contains, codes.DCM.ImageLibrary, _image(found, breast)),
        _code(
            contains,
            codes.DCM.CADProcessingAndFindingsSummary,
            summary.AllAlgorithmsSucceededWithFindings
            if findings
            else summary.AllAlgorithmsSucceededWithoutFindings,
            *findings,
        ),
        _code(
            contains,
            codes.DCM.SummaryOfDetections,
            codes.cid6042.Succeeded,
            _container("INFERRED FROM", codes.DCM.SuccessfulDetections, detected),
        ),
        _code(contains, codes.DCM.SummaryOfAnalyses, codes.cid6042.NotAttempted),
    ]


def _finding(found: Finding, mark: Mark, breast: bool) -> Dataset:
    """TID 4006 or 4104; they differ in their relations to the surrounding items."""
    has = "HAS PROPERTIES"
    description = (
        f"mark {mark.number}: {rarity_in_words(mark, found.card.calibrated)}. Anomaly score "
        f"{mark.score:.4g}, marked over {found.card.calibrated.marks.threshold:.4g}. A score is no "
        "probability. Research use only, unverified."
    )
    return _code(
        "CONTAINS" if breast else "INFERRED FROM",
        codes.DCM.SingleImageFinding,
        codes.DCM.SelectedRegion,
        _intent(),
        *_algorithm(found, has if breast else "HAS OBS CONTEXT"),
        _coordinates(codes.DCM.Center, "POINT", list(mark.centre)),
        _coordinates(codes.DCM.Outline, "POLYLINE", mark.outline.ravel().tolist()),
        _item(has, "TEXT", codes.DCM.SelectedRegionDescription, TextValue=description),
    )


def _intent() -> Dataset:
    intents = codes.cid6034
    optional = intents.PresentationOptionalRenderingDeviceMayPresent
    return _code("HAS CONCEPT MOD", codes.DCM.RenderingIntent, optional)


def _algorithm(found: Finding, relation: str) -> list[Dataset]:
    """TID 4019."""
    weights = f"weights SHA-256 {found.card.weights_sha256}"
    named = (
        (codes.DCM.AlgorithmName, f"patchad {found.card.method}"),
        (codes.DCM.AlgorithmVersion, __version__),
        (codes.DCM.AlgorithmParameters, weights),
        (codes.DCM.AlgorithmParameters, f"model digest {found.maker.digest}"),
    )
    return [_item(relation, "TEXT", name, TextValue=text) for name, text in named]


def _image(found: Finding, breast: bool) -> Dataset:
    """TID 4020, as far as the source gives it."""
    header, source, dcm = found.header, found.screening.source, codes.DCM
    about: list[Dataset] = []

    def add(value_type: str, name: Code, **values: Any) -> None:
        about.append(_item("HAS ACQ CONTEXT", value_type, name, **values))

    side = _BREASTS.get(source.laterality) if breast else None
    view = (_BREAST_VIEWS if breast else _CHEST_VIEWS).get(source.view)
    for name, code in ((dcm.ImageLaterality, side), (dcm.ImageView, view)):
        if code is not None:
            add("CODE", name, ConceptCodeSequence=[_coded(code)])
    orientation: Sequence[str] = header.get("PatientOrientation") or ()
    if len(orientation) == 2:
        add("TEXT", dcm.PatientOrientationRow, TextValue=orientation[0])
        add("TEXT", dcm.PatientOrientationColumn, TextValue=orientation[1])
    for keyword, name in (
        ("StudyDate", dcm.StudyDate),
        ("StudyTime", dcm.StudyTime),
        ("ContentDate", dcm.ContentDate),
        ("ContentTime", dcm.ContentTime),
    ):
        text, is_date = text_of(header, keyword), keyword.endswith("Date")
        if re.fullmatch(_DATE if is_date else _TIME, text):
            add("DATE" if is_date else "TIME", name, **{keyword[-4:]: text})
    if found.screening.heatmap.spacing_mm is not None:
        row, col = found.screening.heatmap.spacing_mm
        for name, spacing in ((dcm.HorizontalPixelSpacing, col), (dcm.VerticalPixelSpacing, row)):
            measured = Dataset()
            measured.NumericValue = DSfloat(spacing, auto_format=True)
            measured.MeasurementUnitsCodeSequence = [code_item(codes.UCUM.Millimeter)]
            add("NUM", name, MeasuredValueSequence=[measured])
    return _item("CONTAINS", "IMAGE", None, *about, ReferencedSOPSequence=[_sop(found.reference)])


def _coordinates(name: Code, graphic: str, data: list[float]) -> Dataset:
    """TID 4021 and 4107."""
    return _item(
        "HAS PROPERTIES",
        "SCOORD",
        name,
        _to_image("SELECTED FROM"),
        GraphicType=graphic,
        GraphicData=data,
    )


def _to_image(relation: str) -> Dataset:
    """A relation by reference to the image in the Image Library."""
    item = Dataset()
    item.RelationshipType, item.ReferencedContentItemIdentifier = relation, _IMAGE
    return item


def _code(relation: str, name: Code, code: Code, *children: Dataset) -> Dataset:
    return _item(relation, "CODE", name, *children, ConceptCodeSequence=[_coded(code)])


def _container(relation: str | None, name: Code, *children: Dataset) -> Dataset:
    return _item(relation, "CONTAINER", name, *children, ContinuityOfContent="SEPARATE")


def _item(
    relation: str | None, value_type: str, name: Code | None, *children: Dataset, **values: Any
) -> Dataset:
    item = Dataset()
    if relation:
        item.RelationshipType = relation
    item.ValueType = value_type
    if name is not None:
        item.ConceptNameCodeSequence = [_coded(name)]
    for keyword, value in values.items():
        setattr(item, keyword, value)
    if children:
        item.ContentSequence = list(children)
    return item


def _coded(code: Code) -> Dataset:
    item = code_item(code)
    item.CodeMeaning = code.meaning.replace("\u200b", "")  # pydicom has typographic characters here
    return item


def _sop(source: Dataset) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = UID(source.SOPClassUID)
    item.ReferencedSOPInstanceUID = UID(source.SOPInstanceUID)
    return item


def _evidence(source: Dataset) -> Dataset:
    series, study = Dataset(), Dataset()
    series.SeriesInstanceUID = source.SeriesInstanceUID
    series.ReferencedSOPSequence = [_sop(source)]
    study.StudyInstanceUID = source.StudyInstanceUID
    study.ReferencedSeriesSequence = [series]
    return study


KIND = Kind("cad-sr", "CAD report", 9407, "image", cad_report)
