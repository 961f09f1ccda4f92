"""``patchad manifest``: a first manifest from headers and folder names."""

import json
import re

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from typer.testing import CliRunner

from patchad.cli.app import app
from patchad.commands.manifest import COLUMNS, list_images
from patchad.errors import OutputError, RequestError
from patchad.files.pseudonym import pseudonym
from patchad.read.manifest import read_manifest

SECRETS = ("Doe", "Jane", "ID-4711", "19700102", "1.2.840.99", "Clinic")


def write_dicom(path, **elements):
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    ds.SOPClassUID = uid.DigitalMammographyXRayImageStorageForPresentation
    ds.SOPInstanceUID = "1.2.840.99.1"
    ds.Modality, ds.SamplesPerPixel, ds.PhotometricInterpretation = "MG", 1, "MONOCHROME2"
    ds.Rows = ds.Columns = 2
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
    ds.PixelData = bytes(4)
    ds.PatientName, ds.PatientID, ds.PatientBirthDate = "Doe^Jane", "ID-4711", "19700102"
    ds.StudyInstanceUID, ds.InstitutionName = "1.2.840.99.2", "Clinic"
    for keyword, value in elements.items():
        setattr(ds, keyword, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path, enforce_file_format=True)


def write_png(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((2, 2), np.uint8)).save(path)


def test_what_headers_say(tmp_path):
    films = tmp_path / "films"
    side = {"ImageLaterality": "L", "ViewPosition": "MLO", "ImagerPixelSpacing": [0.07, 0.07]}
    write_dicom(films / "1.dcm", **side, Manufacturer="HOLOGIC, Inc.")
    write_dicom(films / "2.dcm", PatientID=" id-4711", StudyInstanceUID="1.2.840.99.3")
    write_dicom(films / "3.dcm", IssuerOfPatientID="Clinic", Manufacturer="Doe and Jane")
    write_dicom(films / "4.dcm", PatientID="", ImagerPixelSpacing=[0.1, 0.2])
    write_dicom(
        films / "5.dcm",
        SOPClassUID=uid.BreastTomosynthesisImageStorage,
        NumberOfFrames=3,
        PixelData=bytes(12),
    )
    out = tmp_path / "tables" / "films.csv"
    listed = list_images(films, out)
    one, two, three, four, five = rows = read_manifest(out)
    assert [row.path for row in rows] == [films / f"{n}.dcm" for n in range(1, 6)]
    assert out.read_text().splitlines()[0] == ",".join(COLUMNS)
    assert out.read_text().splitlines()[1].startswith("../films/1.dcm,")
    assert one.patient_id == two.patient_id == five.patient_id  # one patient, however written
    assert len({row.patient_id for row in rows}) == listed.patients == 3
    assert one.study_id != two.study_id
    assert one.study_id == three.study_id
    assert (one.laterality, one.view, one.spacing_mm) == ("L", "MLO", (0.07, 0.07))
    assert (two.laterality, two.view, two.spacing_mm) == ("", "", None)
    assert four.spacing_mm == (0.1, 0.2)
    assert one.other == {"modality": "MG", "manufacturer": "Hologic", "frames": "1"}
    assert three.other["manufacturer"] == ""
    assert five.other["frames"] == "3"
    assert {(row.label, row.split) for row in rows} == {("unknown", "")}
    written = out.read_text() + json.dumps(listed.notes)
    assert not [secret for secret in SECRETS if secret in written]


def test_pseudonyms_depend_on_a_salt_that_is_not_kept(tmp_path):
    write_dicom(tmp_path / "films" / "1.dcm")

    def patient(**salt):
        list_images(tmp_path / "films", tmp_path / "films.csv", overwrite=True, **salt)
        return read_manifest(tmp_path / "films.csv")[0].patient_id

    assert patient() != patient()
    assert patient(salt="a secret") == patient(salt="a secret") != patient(salt="another")
    with pytest.raises(RequestError, match="--salt is empty"):
        patient(salt=" ")


@given(st.lists(st.text(), min_size=1, max_size=3), st.lists(st.text(), min_size=1, max_size=3))
def test_a_pseudonym_tells_its_parts_apart(one, other):
    def normal(parts):
        return [" ".join(part.split()).casefold() for part in parts]

    same = pseudonym("salt", *one) == pseudonym("salt", *other)
    assert same == (normal(one) == normal(other))
    assert re.fullmatch(r"p[0-9a-f]{16}", pseudonym("salt", *one))
    with pytest.raises(ValueError, match="salt"):
        pseudonym("", *one)


@pytest.mark.parametrize(
    ("paths", "patients", "how"),
    [
        (["a.png", "b.png"], [0, 1], "2 by nothing"),
        (["p1/a.png", "p1/b.png", "p2/a.png"], [0, 0, 1], "3 by the folders"),
        (["p1/x/a.png", "p1/y/a.png"], [0, 1], "2 by the folders"),
        (["p1/a.png", "p1/b.png"], [0, 1], "2 by nothing"),  # one folder tells nobody apart
        (["normal/a.png", "cancer/a.png", "cancer/b.png"], [0, 1, 2], "3 by nothing"),
        (["p1/a.png", "p1/b.png", "p2/a.png", "a.png"], [0, 0, 1, 2], "3 by the folders"),
    ],
)
def test_who_is_whose_where_headers_do_not_say(tmp_path, paths, patients, how):
    for path in paths:
        write_png(tmp_path / "films" / path)
    listed = list_images(tmp_path / "films", tmp_path / "films.csv")
    found = {row.path: row.patient_id for row in read_manifest(tmp_path / "films.csv")}
    told = [found[tmp_path / "films" / path] for path in paths]
    assert [sorted(set(told), key=told.index).index(patient) for patient in told] == patients
    assert how in listed.notes[0]


def test_a_label_is_taken_from_what_a_folder_says_alone(tmp_path):
    labels = {
        "normal/1.png": "negative",
        "Negatives/p1/1.png": "negative",
        "cancer/1.png": "positive",
        "No Finding/1.png": "negative",
        "benign/1.png": "unknown",
        "normal/positive/1.png": "unknown",
        "abnormal/1.png": "unknown",
        "normal.png": "unknown",
    }
    folder = tmp_path / "cancer"  # what lies above isn't asked
    for path in labels:
        write_png(folder / path)
    listed = list_images(folder, tmp_path / "films.csv")
    rows = read_manifest(tmp_path / "films.csv")
    assert {row.path.relative_to(folder).as_posix(): row.label for row in rows} == labels
    assert listed.labels == {"negative": 3, "positive": 1, "unknown": 4}
    assert "4 labels are from folder names: check them" in listed.notes


def test_what_cannot_be_listed_is_told(tmp_path):
    films = tmp_path / "films"
    write_png(films / "=1.png")
    write_png(films / "two\nlines.png")
    write_png(films / "space .png")
    write_png(films / "late /1.png")
    write_dicom(films / "ct.dcm", SOPClassUID=uid.CTImageStorage, Modality="CT")
    (films / "cut.dcm").write_bytes(bytes(128) + b"DICMx")
    (films / "notes.tex").write_text("Doe^Jane")
    out = films / "films.csv"
    listed = list_images(films, out)
    assert [row.path.name for row in read_manifest(out)] == ["=1.png", "space .png"]
    assert "\n./=1.png," in out.read_text()  # no formula
    failed = {path.rpartition("/")[2]: reason for path, reason in listed.failed}
    assert failed.keys() == {"two\nlines.png", "1.png", "cut.dcm"}
    assert "rename the file" in failed["1.png"]
    assert {path.rpartition("/")[2] for path, _ in listed.skipped} == {"ct.dcm", "notes.tex"}


def test_wrong_requests(tmp_path):
    films = tmp_path / "films"
    write_png(films / "1.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "no").mkdir()
    (tmp_path / "no" / "1.png").write_bytes(b"x")
    for folder, out, said in (
        (films / "1.png", "a.csv", "is not a folder"),
        (tmp_path / "none", "a.csv", "is not a folder"),
        (tmp_path / "empty", "a.csv", "holds no images"),
        (tmp_path / "no", "a.csv", "none of the 1 files is a radiograph; the first: the content"),
        (films, "films/1.png", "written as CSV"),
    ):
        with pytest.raises(RequestError, match=said):
            list_images(folder, tmp_path / out, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "films", "no"]
    (tmp_path / "a.csv").write_text("mine")
    with pytest.raises(OutputError, match="already exists: replace it with --overwrite"):
        list_images(films, tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_text() == "mine"
    assert list_images(films, tmp_path / "a.csv", overwrite=True).images == 1


def test_one_patient_id_in_many_studies_is_told(tmp_path):
    for n in range(2):
        write_dicom(tmp_path / "films" / f"{n}.dcm", StudyInstanceUID=f"1.2.{n}")
    listed = list_images(tmp_path / "films", tmp_path / "a.csv")
    assert any("one Patient ID in 2 studies" in note for note in listed.notes)


def test_the_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_dicom(tmp_path / "films" / "1.dcm")
    write_png(tmp_path / "films" / "2.png")
    run = CliRunner().invoke(app, ["manifest", "films"])
    assert run.exit_code == 0
    assert "2 images of 2 patients (0 negative, 0 positive, 2 unknown), 0 failed" in run.stdout
    assert [row.path.name for row in read_manifest(tmp_path / "manifest.csv")] == ["1.dcm", "2.png"]
    assert CliRunner().invoke(app, ["manifest", "films"]).exit_code == 2
    (tmp_path / "films" / "3.png").write_bytes(b"x")
    run = CliRunner().invoke(app, ["--json", "manifest", "films", "--overwrite"])
    assert run.exit_code == 1
    result = json.loads(run.stdout)
    assert (result["images"], result["patients"], len(result["failed"])) == (2, 2, 1)
    assert "failed:" in run.stderr
    assert not [secret for secret in SECRETS if secret in run.output]
    assert pydicom.dcmread(tmp_path / "films" / "1.dcm").PatientID == "ID-4711"  # left alone
