"""CAD reports, Parametric Maps and de-identified objects, read back with pydicom."""

import dataclasses
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_builders import (
    CARD,
    CASES,
    KINDS,
    LESIONS,
    Written,
    assert_conforms,
    assert_outlines,
    film,
    items,
    numbers,
    screened,
    write,
)
from pydicom.uid import ChestCADSRStorage, MammographyCADSRStorage

from patchad.commands.export import export
from patchad.errors import ImageError, RequestError
from patchad.export.write import check_kinds, write_image_kinds, write_run_kinds
from patchad.model.card import card_as_dict
from patchad.store.run import done_row, write_run

PATIENT = {
    "PatientName": "SENTINELNAME",
    "PatientID": "SENTINELID",
    "PatientBirthDate": "19010203",
    "PatientSex": "O",
    "PatientAge": "097Y",
    "AccessionNumber": "SENTINELACC",
    "ReferringPhysicianName": "SENTINELDOCTOR",
    "StudyDate": "19020304",
    "ContentDate": "19020304",
    "StudyID": "SENTINELSTUDY",
    "StudyDescription": "SENTINELWORDS",
    "InstitutionName": "SENTINELHOUSE",
    "StationName": "SENTINELROOM",
}


@pytest.fixture(scope="module", params=CASES)
def written(request, tmp_path_factory) -> Written:
    folder = tmp_path_factory.mktemp("cad")
    return write(folder, film(folder / "film.dcm", request.param), kinds=("cad-sr", "pm"))


def test_cad_report_describes_marks(written: Written) -> None:
    report, header = written["cad-sr"], written.header
    breast = header.Modality == "MG"
    assert report.SOPClassUID == (MammographyCADSRStorage if breast else ChestCADSRStorage)
    (template,) = report.ContentTemplateSequence
    assert template.TemplateIdentifier == ("4000" if breast else "4100")
    assert (report.VerificationFlag, report.PreliminaryFlag) == ("UNVERIFIED", "PRELIMINARY")
    findings = items(report, "Single Image Finding")
    for finding in findings:
        (code,) = finding.ConceptCodeSequence
        assert (code.CodeValue, code.CodingSchemeDesignator) == ("111099", "DCM")
    first, second = (item.TextValue for item in items(report, "Selected Region Description"))
    assert "mark 1: a mark this strong is seen in fewer than 1 of 15 normal films" in first
    assert "(at most 1 in 4, 95 % bound). Anomaly score 2, marked over 1." in first
    assert "seen in 1 of 2 normal films (at most 1 a film, 95 % bound)" in second
    assert "no probability" in first
    outlines = [item.GraphicData for item in items(report, "Outline")]
    assert_outlines([np.reshape(outline, (-1, 2)) for outline in outlines])
    centres = [item.GraphicData for item in items(report, "Center")]
    np.testing.assert_allclose(centres, [[64, 48], [112, 144]])
    assert not items(report, "Probability of cancer")
    assert not items(report, "Certainty of Finding")
    (summary,) = items(report, "CAD Processing and Findings Summary")
    assert summary.ConceptCodeSequence[0].CodeValue == "111242"  # all succeeded, with findings
    assert len(items(report, "Individual Impression/Recommendation")) == breast


def test_cad_report_refers_to_the_image_of_its_library(written: Written) -> None:
    report, header = written["cad-sr"], written.header
    library = report.ContentSequence[1]
    (image,) = library.ContentSequence
    assert image.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == header.SOPInstanceUID
    for item in (*items(report, "Outline"), *items(report, "Center")):
        (selected,) = item.ContentSequence
        assert selected.RelationshipType == "SELECTED FROM"
        assert selected.ReferencedContentItemIdentifier == [1, 2, 1]  # root, library, image
    spacing = written.screening.heatmap.spacing_mm
    row, col = (
        numbers(report, "Vertical Pixel Spacing"),
        numbers(report, "Horizontal Pixel Spacing"),
    )
    assert (row, col) == (([], []) if spacing is None else ([spacing[0]], [spacing[1]]))
    side = items(report, "Image Laterality")
    told = {"L": ["Left breast"], "R": ["Right breast"]} if header.Modality == "MG" else {}
    assert [s.ConceptCodeSequence[0].CodeMeaning for s in side] == told.get(
        header.get("ImageLaterality"), []
    )
    (evidence,) = report.CurrentRequestedProcedureEvidenceSequence
    (series,) = evidence.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == header.SeriesInstanceUID


def test_dcmtk_takes_the_relations_of_a_cad_report(written: Written) -> None:
    if shutil.which("dsrdump") is None:
        pytest.skip("dsrdump is not installed: apt install dcmtk")
    path = written.folder / "dicom" / "a" / "cad-sr.dcm"
    done = subprocess.run(["dsrdump", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert not [line for line in done.stderr.splitlines() if line.startswith(("E:", "F:"))]


def test_parametric_map_holds_the_scores(written: Written) -> None:
    scores, heatmap = written["pm"], written.screening.heatmap
    np.testing.assert_array_equal(scores.pixel_array, heatmap.values)
    (shared,) = scores.SharedFunctionalGroupsSequence
    spacing = shared.PixelMeasuresSequence[0].PixelSpacing
    assert spacing == list(heatmap.spacing_mm or (1, 1))
    assert scores.FrameOfReferenceUID not in (None, written.header.get("FrameOfReferenceUID"))
    assert "invented geometry" in scores.ContentDescription
    assert "invented geometry" in scores.SeriesDescription


def test_pixels_without_score_are_padding(written: Written, tmp_path: Path) -> None:
    radiograph, screening = screened(written.film, LESIONS)
    values = screening.heatmap.values.copy()
    values[:5] = np.nan
    heatmap = dataclasses.replace(screening.heatmap, values=values)
    screening = dataclasses.replace(screening, heatmap=heatmap)
    write_image_kinds(tmp_path, "a", screening, radiograph, CARD, ("pm",))
    scores = pydicom.dcmread(tmp_path / "dicom" / "a" / "pm.dcm")
    padded = scores.pixel_array == np.float32(scores.FloatPixelPaddingValue)
    np.testing.assert_array_equal(padded, np.isnan(values))
    assert_conforms(tmp_path)


def test_a_calm_image_has_a_report_without_findings(written: Written, tmp_path: Path) -> None:
    report = write(tmp_path, written.film, scores={}, kinds=("cad-sr", "pm"))["cad-sr"]
    (summary,) = items(report, "CAD Processing and Findings Summary")
    assert summary.ConceptCodeSequence[0].CodeValue == "111241"  # all succeeded, without findings
    assert "ContentSequence" not in summary
    (detected,) = items(report, "Detection Performed")
    assert detected.ConceptCodeSequence[0].CodeValue == "111099"
    assert_conforms(tmp_path)


def test_a_parametric_map_is_asked_for_by_name() -> None:
    with pytest.raises(RequestError, match="--write pm needs --invent-geometry"):
        check_kinds(("sr", "pm"), invent_geometry=False)
    check_kinds(("sr", "pm"), invent_geometry=True)
    check_kinds(("sr", "heatmap-seg"), invent_geometry=False)


def named(path: Path, case: str) -> Path:
    data = pydicom.dcmread(film(path, case))
    for keyword, value in PATIENT.items():
        setattr(data, keyword, value)
    data.save_as(path)
    return path


def whole_run(folder: Path, path: Path) -> Path:
    radiograph, screening = screened(path, LESIONS)
    row = done_row("a", screening, radiograph, 0.0)
    write_run(folder, {"card": card_as_dict(CARD)}, [row])
    kinds = (*KINDS, "ko")
    write_image_kinds(folder, "a", screening, radiograph, CARD, kinds, deidentify=True)
    write_run_kinds(folder, kinds, deidentify=True)
    return folder


@pytest.mark.parametrize("case", CASES)
def test_deidentified_objects_name_nobody(tmp_path: Path, case: str) -> None:
    path = named(tmp_path / "film.dcm", case)
    run = whole_run(tmp_path / "run", path)
    objects = sorted((run / "dicom").rglob("*.dcm"))
    assert sorted(path.stem for path in objects) == sorted((*KINDS, "ko"))
    header = pydicom.dcmread(path)
    for path in objects:
        data = pydicom.dcmread(path)
        assert data.PatientIdentityRemoved == "YES"
        assert data.DeidentificationMethod.startswith("patchad")
        for keyword in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate"):
            assert data[keyword].is_empty, keyword
        for keyword in ("StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName"):
            assert data[keyword].is_empty, keyword
        assert "PatientAge" not in data
        assert data.StudyInstanceUID == header.StudyInstanceUID
        held = path.read_bytes()
        for word in (b"SENTINEL", b"19010203", b"19020304", b"097Y"):
            assert word not in held, (path.name, word)
    assert_conforms(run)


def test_a_deidentified_object_is_another_object(tmp_path: Path) -> None:
    path = named(tmp_path / "film.dcm", "R-MLO")
    with_patient = write(tmp_path / "with", path)
    run = whole_run(tmp_path / "without", path)
    for kind in KINDS:
        data = pydicom.dcmread(run / "dicom" / "a" / f"{kind}.dcm")
        assert data.SOPInstanceUID != with_patient[kind].SOPInstanceUID
        assert data.SeriesInstanceUID != with_patient[kind].SeriesInstanceUID
        assert with_patient[kind].PatientID == "SENTINELID"
        assert "PatientIdentityRemoved" not in with_patient[kind]


def test_text_burned_into_a_film_is_not_passed_on(tmp_path: Path) -> None:
    path = film(tmp_path / "film.dcm", "R-MLO")
    data = pydicom.dcmread(path)
    data.BurnedInAnnotation = "YES"
    data.save_as(path)
    radiograph, screening = screened(path, LESIONS)
    with pytest.raises(ImageError, match="leave sc out"):
        write_image_kinds(tmp_path, "a", screening, radiograph, CARD, ("sc",), deidentify=True)
    assert not (tmp_path / "dicom").exists()
    write_image_kinds(tmp_path, "a", screening, radiograph, CARD, ("sr",), deidentify=True)
    assert (tmp_path / "dicom" / "a" / "sr.dcm").exists()


def test_export_refuses_before_it_reads(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="--invent-geometry"):
        export(tmp_path / "no run", ("pm",))


def test_a_flagged_film_that_is_gone_costs_the_selection_that_film(tmp_path: Path) -> None:
    rows = []
    for number in (1, 2):
        path = film(tmp_path / f"film{number}.dcm", "R-MLO")
        data = pydicom.dcmread(path)
        data.SOPInstanceUID += f".{number}"
        data.save_as(path)
        radiograph, screening = screened(path, LESIONS)
        rows.append(done_row(f"a{number}", screening, radiograph, 0.0))
    write_run(tmp_path / "run", {"card": card_as_dict(CARD)}, rows)
    (tmp_path / "film1.dcm").unlink()
    exported = export(tmp_path / "run", ["ko"])
    ((path, reason),) = exported.failed
    assert Path(path).name == "film1.dcm"
    assert reason.startswith("not among the key objects: film1.dcm is missing")
    (selection,) = (pydicom.dcmread(ko) for ko in (tmp_path / "run").rglob("ko.dcm"))
    images = [item for item in selection.ContentSequence if item.ValueType == "IMAGE"]
    named = [image.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for image in images]
    assert named == [rows[1].sop_instance_uid]
