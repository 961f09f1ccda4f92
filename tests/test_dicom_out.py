"""DICOM objects of phantoms whose patch scores are set by hand, read back with pydicom."""

import logging
import shutil
import subprocess
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_builders import (
    CARD,
    CASES,
    KINDS,
    LESIONS,
    SHAPE,
    Written,
    assert_conforms,
    assert_outlines,
    film,
    flagged_pixels,
    items,
    no_picture,
    numbers,
    pixels_of,
    screened,
    write,
)
from PIL import Image
from pydicom.dataset import Dataset

from patchad.errors import ImageError
from patchad.export.dicom.header import obstacle
from patchad.export.dicom.ko import Selection, key_objects
from patchad.export.dicom.object import Maker, finding, write_object
from patchad.export.write import write_image_kinds
from patchad.phantoms.phantom import mammogram, write_dicom
from patchad.read.read import read_radiograph


@pytest.fixture(scope="module", params=CASES)
def written(request, tmp_path_factory) -> Written:
    folder = tmp_path_factory.mktemp("out")
    return write(folder, film(folder / "film.dcm", request.param))


@pytest.fixture(scope="module")
def breast(tmp_path_factory) -> Written:
    folder = tmp_path_factory.mktemp("breast")
    return write(folder, film(folder / "film.dcm", "R-MLO"))


def test_whose_and_whence(written: Written) -> None:
    source = written.header
    series = {source.SeriesInstanceUID}
    for kind in KINDS:
        data = written[kind]
        for keyword in (
            "StudyInstanceUID",
            "PatientName",
            "PatientID",
            "PatientBirthDate",
            "StudyDate",
            "StudyID",
            "AccessionNumber",
        ):
            assert data[keyword].value == source.get(keyword, ""), keyword
        series.add(data.SeriesInstanceUID)
        assert data.SOPInstanceUID.startswith("2.25.")
        assert data.file_meta.MediaStorageSOPInstanceUID == data.SOPInstanceUID
        assert "research use only" in data.SeriesDescription
        acquired, processed = data.ContributingEquipmentSequence
        assert acquired.ManufacturerModelName == "patchad phantom"
        assert acquired.Manufacturer == source.get("Manufacturer", "unknown")
        assert processed.ManufacturerModelName == "fake"
        assert CARD.weights_sha256 in processed.ContributionDescription
        assert "Research use only" in processed.ContributionDescription
    assert len(series) == len(KINDS) + 1  # one a kind, and none the source's


def test_secondary_capture_is_the_overlay(written: Written) -> None:
    capture = written["sc"]
    with Image.open(written.folder / "overlays" / "a.png") as picture:
        np.testing.assert_array_equal(pixels_of(capture), np.asarray(picture))
    assert capture.PhotometricInterpretation == "RGB"
    assert capture.BurnedInAnnotation == "YES"
    assert capture.PatientOrientation == written.header.get("PatientOrientation", "")
    assert "Research use only" in capture.ImageComments
    assert "PixelSpacing" not in capture
    (source,) = capture.SourceImageSequence
    assert source.ReferencedSOPInstanceUID == written.header.SOPInstanceUID
    assert source.ReferencedSOPClassUID == written.header.SOPClassUID


def test_presentation_state_draws_the_marks(written: Written) -> None:
    state, header = written["gsps"], written.header
    (series,) = state.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == header.SeriesInstanceUID
    assert series.ReferencedImageSequence[0].ReferencedSOPInstanceUID == header.SOPInstanceUID
    (annotation,) = state.GraphicAnnotationSequence
    graphics, texts = annotation.GraphicObjectSequence, annotation.TextObjectSequence
    assert {graphic.GraphicAnnotationUnits for graphic in graphics} == {"PIXEL"}
    assert_outlines([np.reshape(graphic.GraphicData, (-1, 2)) for graphic in graphics])
    whole, first, second = (text.UnformattedTextValue for text in texts)
    assert "research use only, unverified: image score 2, higher than 75 % of normal" in whole
    assert ": flagged" in whole
    assert "2 marks, a normal film has 1; its strongest mark decides" in whole
    assert (first, second) == ("1: <1 in 15", "2: 1 in 2")
    turned = header.PhotometricInterpretation == "MONOCHROME1"
    assert state.PresentationLUTShape == ("INVERSE" if turned else "IDENTITY")
    (area,) = state.DisplayedAreaSelectionSequence
    assert area.DisplayedAreaBottomRightHandCorner == [160, 192]
    square = header.get("ImagerPixelSpacing") != [0.2, 0.1]
    assert area.PresentationPixelAspectRatio == ([1, 1] if square else [2, 1])
    (voi,) = state.SoftcopyVOILUTSequence
    assert (voi.WindowCenter, voi.WindowWidth) == (2048, 4096)
    assert (state.RescaleSlope, state.RescaleIntercept) == (1, 0)
    paired = header.Modality == "MG" or header.BodyPartExamined == "HAND"
    assert state.get("Laterality") == (header.get("ImageLaterality", "") if paired else None)


def test_report_says_what_was_measured(written: Written) -> None:
    report = written["sr"]
    assert report.file_meta.MediaStorageSOPClassUID == pydicom.uid.Comprehensive3DSRStorage
    assert (report.VerificationFlag, report.PreliminaryFlag) == ("UNVERIFIED", "PRELIMINARY")
    assert numbers(report, "Anomaly score of the image") == [2]
    assert numbers(report, "Percentile among held-out negative patients") == [75]
    assert numbers(report, "Threshold of the image score") == [1.5]
    assert numbers(report, "Number of marks") == [2]
    assert numbers(report, "Number of marks of a normal film") == [1]
    assert numbers(report, "Highest anomaly score in the mark") == [2, 1.5]
    assert numbers(report, "Marks this strong per normal film") == [0.0625, 0.5]
    assert numbers(report, "Upper 95 % bound of marks this strong per film") == [0.25, 1]
    assert numbers(report, "Threshold of a mark's score") == [1, 1]
    (decided,) = items(report, "What decides whether the image is flagged")
    assert decided.ConceptCodeSequence[0].CodeMeaning == "The score of its strongest mark"
    (flagged,) = items(report, "Score over the threshold")
    assert flagged.ConceptCodeSequence[0].CodeMeaning == "Yes"
    (use,) = items(report, "Intended use")
    assert use.ConceptCodeSequence[0].CodeMeaning == "Research use only, not for diagnosis"
    image, *marks = items(report, "Measurement Group")
    assert len(marks) == 2
    for group in (image, *marks):
        (name,), (version,) = items(group, "Algorithm Name"), items(group, "Algorithm Version")
        assert name.TextValue == "patchad fake"
        assert version.TextValue == written["sc"].SoftwareVersions
        told = " ".join(item.TextValue for item in items(group, "Algorithm Parameters"))
        assert CARD.weights_sha256 in told
    coordinates = items(report, "Image Region")
    assert_outlines([np.reshape(item.GraphicData, (-1, 2)) for item in coordinates])
    for item in coordinates:
        (source,) = item.ContentSequence[0].ReferencedSOPSequence
        assert source.ReferencedSOPInstanceUID == written.header.SOPInstanceUID
    (evidence,) = report.CurrentRequestedProcedureEvidenceSequence
    assert evidence.StudyInstanceUID == written.header.StudyInstanceUID


def test_masks_are_the_marks(written: Written) -> None:
    masks = written["seg"]
    assert masks.SegmentationType == "BINARY"
    np.testing.assert_array_equal(masks.pixel_array.any(0), flagged_pixels())
    first, second = masks.SegmentSequence
    assert (first.SegmentLabel, second.SegmentLabel) == (
        "mark 1: <1 in 15",
        "mark 2: 1 in 2",
    )
    assert first.SegmentAlgorithmType == "AUTOMATIC"
    (algorithm,) = first.SegmentationAlgorithmIdentificationSequence
    assert CARD.weights_sha256 in algorithm.AlgorithmParameters
    assert_refers(masks, written.header)
    tracked = [segment.TrackingUID for segment in masks.SegmentSequence]
    (annotation,) = written["gsps"].GraphicAnnotationSequence
    assert tracked == [graphic.TrackingUID for graphic in annotation.GraphicObjectSequence]


def test_heatmap_is_carried_as_fractions(written: Written) -> None:
    heatmap = written["heatmap-seg"]
    assert heatmap.SegmentationType == "FRACTIONAL"
    assert "no probability" in heatmap.ContentDescription
    scores = written.screening.heatmap.values  # the display range is 0 to 3
    np.testing.assert_allclose(heatmap.pixel_array, scores * 85, atol=0.51)
    assert heatmap.pixel_array.max() > 85
    assert heatmap.SegmentSequence[0].SegmentLabel == "score 0 to 3 as 0 to 255"
    assert_refers(heatmap, written.header)


def assert_refers(segmentation: Dataset, header: Dataset) -> None:
    (series,) = segmentation.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == header.SeriesInstanceUID
    (source,) = series.ReferencedInstanceSequence
    assert source.ReferencedSOPInstanceUID == header.SOPInstanceUID
    assert segmentation.PatientOrientation == header.get("PatientOrientation", "")


def test_marks_are_tracked_by_the_same_uids(breast: Written) -> None:
    (annotation,) = breast["gsps"].GraphicAnnotationSequence
    drawn = [graphic.TrackingUID for graphic in annotation.GraphicObjectSequence]
    _, *measured = (item.UID for item in items(breast["sr"], "Tracking Unique Identifier"))
    assert drawn == measured


def test_an_image_without_marks_has_its_objects(breast: Written, tmp_path: Path) -> None:
    calm = write(tmp_path, breast.film, scores={})
    (annotation,) = calm["gsps"].GraphicAnnotationSequence
    assert "GraphicObjectSequence" not in annotation
    assert len(annotation.TextObjectSequence) == 1
    (flagged,) = items(calm["sr"], "Score over the threshold")
    assert flagged.ConceptCodeSequence[0].CodeMeaning == "No"
    assert not (tmp_path / "dicom" / "a" / "seg.dcm").exists()  # a segmentation can't be empty
    assert_conforms(tmp_path)


def test_a_picture_is_passed_over(breast: Written, tmp_path: Path) -> None:
    grey = np.rint(read_radiograph(breast.film).pixels * 255).astype(np.uint8)
    Image.fromarray(grey).save(tmp_path / "film.png")
    radiograph, screening = screened(tmp_path / "film.png", LESIONS)
    assert finding(screening, CARD, no_picture) is None
    told = write_image_kinds(tmp_path, "a", screening, radiograph, CARD, (*KINDS, "overlay"))
    assert told.no_objects == ""  # nobody expects any
    assert (tmp_path / "overlays" / "a.png").exists()
    assert not (tmp_path / "dicom").exists()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"SOPClassUID": ""}, "it lacks a valid SOP Class UID"),
        (
            {"StudyInstanceUID": "", "SeriesInstanceUID": ""},
            "it lacks a valid Study Instance UID, Series Instance UID",
        ),
        ({"NumberOfFrames": 2}, "it has several frames"),
    ],
)
def test_what_cannot_be_referred_to_is_said(
    breast: Written, tmp_path: Path, change: dict[str, object], why: str
) -> None:
    data = pydicom.dcmread(breast.film)
    assert obstacle(data) == ""
    data.update(change)
    assert obstacle(data) == why
    if "NumberOfFrames" not in change:
        path = tmp_path / "film.dcm"
        data.save_as(path)
        radiograph, screening = screened(path, LESIONS)
        told = write_image_kinds(tmp_path, "a", screening, radiograph, CARD, KINDS)
        assert told.no_objects == f"no DICOM objects: {why}"
        assert not (tmp_path / "dicom").exists()


def test_a_film_that_was_replaced_is_refused(breast: Written, tmp_path: Path) -> None:
    path = film(tmp_path / "film.dcm", "L-MLO")
    _, screening = screened(path, LESIONS)
    write_dicom(mammogram(np.random.default_rng(1), shape=SHAPE), path, patient_id="other")
    with pytest.raises(ImageError, match="no longer the one that was screened"):
        finding(screening, CARD, no_picture)
    path.unlink()
    with pytest.raises(ImageError, match="is missing"):
        finding(screening, CARD, no_picture)


def test_a_modality_and_a_voi_table_are_taken_over(breast: Written, tmp_path: Path) -> None:
    data = pydicom.dcmread(breast.film)
    del data.RescaleSlope, data.RescaleIntercept, data.RescaleType
    for keyword in ("ModalityLUTSequence", "VOILUTSequence"):
        table = Dataset()
        table.add_new("LUTDescriptor", "US", [4096, 0, 16])
        values = np.arange(4096, dtype="<u2") * 16
        table.add_new("LUTData", "OW", values.tobytes())
        setattr(data, keyword, [table])
    path = tmp_path / "film.dcm"
    data.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
    data.save_as(path)
    state = write(tmp_path, path)["gsps"]
    assert state.ModalityLUTSequence[0].LUTDescriptor == [4096, 0, 16]
    assert state.ModalityLUTSequence[0].ModalityLUTType == "US"
    assert "RescaleSlope" not in state
    (voi,) = state.SoftcopyVOILUTSequence
    assert voi.VOILUTSequence[0].LUTDescriptor == [4096, 0, 16]
    assert "WindowCenter" not in voi
    assert_conforms(tmp_path)


def test_key_objects_are_the_flagged_images_of_a_study(breast: Written, tmp_path: Path) -> None:
    headers = [pydicom.dcmread(breast.film, stop_before_pixels=True) for _ in range(2)]
    headers[1].SOPInstanceUID = headers[1].file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    maker = Maker(CARD)
    path = tmp_path / "dicom" / "study" / "ko.dcm"
    write_object(path, headers[0], maker, lambda: key_objects(Selection(headers, maker)))
    selection = pydicom.dcmread(path)
    (title,) = selection.ConceptNameCodeSequence
    assert title.CodeMeaning == "For Research"
    images = [item for item in selection.ContentSequence if item.ValueType == "IMAGE"]
    assert {image.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for image in images} == {
        header.SOPInstanceUID for header in headers
    }
    assert not any("ConceptNameCodeSequence" in image for image in images)
    assert selection.StudyInstanceUID == breast.header.StudyInstanceUID
    assert selection.PatientID == breast.header.PatientID
    again, other = (
        key_objects(Selection(chosen, maker)) for chosen in (headers[::-1], headers[:1])
    )
    assert again.SOPInstanceUID == selection.SOPInstanceUID != other.SOPInstanceUID
    assert again.SeriesInstanceUID == other.SeriesInstanceUID
    assert_conforms(tmp_path)


# A patient whose every word can be searched for, some of it not what DICOM allows.
PHI = {
    "PatientName": "SENTINELNAME^A=B=C=D=E",
    "PatientID": "SENTINELID",
    "PatientBirthDate": "SENTBIRTH",
    "PatientSex": "SENTSEX",
    "AccessionNumber": "SENTINELACCESSION",
    "ReferringPhysicianName": "SENTINELDOCTOR",
    "StudyDate": "SENTDATE",
    "PatientAge": "SENTAGE",
}


@pytest.mark.filterwarnings("ignore")
def test_a_patient_is_named_in_objects_only(
    breast: Written, tmp_path: Path, monkeypatch, caplog, capfd
) -> None:
    data = pydicom.dcmread(breast.film)
    with monkeypatch.context() as patch:
        patch.setattr(pydicom.config.settings, "_writing_validation_mode", pydicom.config.IGNORE)
        for keyword, value in PHI.items():
            data.add_new(keyword, pydicom.datadict.dictionary_VR(keyword), value)
        data.SpecificCharacterSet = "ISO_IR 192"
        data.save_as(tmp_path / "film.dcm")
    caplog.set_level(logging.DEBUG)
    caplog.clear()
    capfd.readouterr()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        done = write(tmp_path / "run", tmp_path / "film.dcm")
    said = caplog.text + "".join(capfd.readouterr()) + "".join(str(w.message) for w in warned)
    assert "SENT" not in said
    for path in (tmp_path / "run").rglob("*"):
        assert "SENT" not in path.name
        if path.is_file() and path.suffix != ".dcm":
            assert b"SENT" not in path.read_bytes()
    for kind in KINDS:
        assert str(done[kind].PatientName) == "SENTINELNAME^A=B=C"
        assert done[kind].PatientID == "SENTINELID"


def test_dciodvfy_finds_no_error(written: Written) -> None:
    assert_conforms(written.folder)


def test_dcmtk_shows_the_film_as_patchad_read_it(written: Written, tmp_path: Path) -> None:
    if shutil.which("dcmp2pgm") is None:
        pytest.skip("dcmp2pgm is not installed: apt install dcmtk")
    if not written.header.get("PatientName"):
        pytest.skip("DCMTK takes no presentation state of a patient without a name")
    state, shown = written.folder / "dicom" / "a" / "gsps.dcm", tmp_path / "shown.pgm"
    subprocess.run(["dcmp2pgm", "-p", state, written.film, shown], check=True, capture_output=True)
    with Image.open(shown) as picture:
        grey = np.asarray(picture) / 255
    np.testing.assert_allclose(grey, read_radiograph(written.film).pixels, atol=1 / 255)


@pytest.mark.parametrize("voi", ["lut", "window", "full"])
@pytest.mark.parametrize("monochrome1", [False, True])
def test_the_presentation_state_scales_the_grey_as_patchad_did(
    tmp_path: Path, voi, monochrome1
) -> None:
    path = film(tmp_path / "film.dcm", "MONOCHROME1" if monochrome1 else "L-MLO")
    data = pydicom.dcmread(path)
    data.WindowCenter, data.WindowWidth = 1500, 1200
    table = Dataset()
    curve = (np.arange(4096) ** 2 >> 8).astype("<u2")
    table.LUTDescriptor, table.LUTData = [4096, 0, 16], curve.tobytes()
    data.VOILUTSequence = [table]
    data.save_as(path)
    radiograph, screening = screened(path, LESIONS, voi)
    assert radiograph.source.voi == voi
    write_image_kinds(tmp_path, "a", screening, radiograph, CARD, ("gsps",))
    state = pydicom.dcmread(tmp_path / "dicom" / "a" / "gsps.dcm")
    (shown,) = state.get("SoftcopyVOILUTSequence") or [Dataset()]
    assert ("VOILUTSequence" in shown) == (voi == "lut")
    assert shown.get("WindowCenter") == (1500 if voi == "window" else None)
    assert_conforms(tmp_path)
    if shutil.which("dcmp2pgm") is None:
        pytest.skip("dcmp2pgm is not installed: apt install dcmtk")
    state, shown = tmp_path / "dicom" / "a" / "gsps.dcm", tmp_path / "shown.pgm"
    subprocess.run(["dcmp2pgm", "-p", state, path, shown], check=True, capture_output=True)
    with Image.open(shown) as picture:
        grey = np.asarray(picture) / 255
    np.testing.assert_allclose(grey, radiograph.pixels, atol=1.5 / 255)
