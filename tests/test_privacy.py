"""No patient in anything that is written, logged or printed."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pandas as pd
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from patchad.io.manifest import read_manifest

SENTINEL = "XQZ"  # in every value that says something of a person; nowhere else
COMMAND = [sys.executable, "-c", "from patchad.cli import main; main()"]
ROOT = Path(__file__).parents[1]


def named(path: Path, film: Path, **elements: object) -> Path:
    """A copy of ``film`` whose patient, study and staff are sentinels."""
    ds = pydicom.dcmread(film)
    for keyword in (
        *("PatientName", "PatientID", "OtherPatientIDs", "PatientAddress", "PatientComments"),
        *("AccessionNumber", "StudyID", "ReferringPhysicianName", "OperatorsName"),
        *("InstitutionName", "StudyDescription", "SeriesDescription", "ImageComments"),
        *("RequestedProcedureDescription", "PerformedProcedureStepDescription", "ProtocolName"),
    ):
        setattr(ds, keyword, f"{SENTINEL}{keyword[:10]}")
    ds.PatientBirthDate, ds.StudyDate = "19610213", "20230213"
    request, view = Dataset(), Dataset()
    request.RequestedProcedureID = f"{SENTINEL}REQ"
    view.CodeMeaning, view.CodeValue = f"{SENTINEL}VIEW", "399161006"
    ds.RequestAttributesSequence, ds.ViewCodeSequence = Sequence([request]), Sequence([view])
    ds.private_block(0x0011, "PATCHAD TEST", create=True).add_new(1, "LO", f"{SENTINEL}PRIVATE")
    for keyword, value in elements.items():
        ds[keyword] = pydicom.DataElement(
            pydicom.tag.Tag(keyword), pydicom.datadict.dictionary_VR(keyword), value
        )
    ds.save_as(path, enforce_file_format=True)
    return path


@pytest.fixture(scope="module")
def films(study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of films with named patients: good, odd, and damaged in several ways."""
    folder = tmp_path_factory.mktemp("named")
    film = next(row.path for row in read_manifest(study.manifest) if row.split == "test")
    content = named(folder / "good.dcm", film).read_bytes()
    named(folder / "odd.dcm", film, BodyPartExamined=SENTINEL, Laterality="L")
    (folder / "truncated.dcm").write_bytes(content[: len(content) // 2])
    (folder / "header.dcm").write_bytes(content[:700])
    (folder / "bare.dcm").write_bytes(content[132:])
    # elements whose length or kind is damaged, so that they swallow what comes after
    name = content.index(b"PN", 132)
    for number, (at, value) in enumerate(
        [(name + 2, b"\xff\x7f"), (name, b"SQ"), (name - 4, b"\x28\0\x10\0")]
    ):
        (folder / f"swallowed{number}.dcm").write_bytes(
            content[:at] + value + content[at + len(value) :]
        )
    window = content.replace(b"MONOCHROME2", f"{SENTINEL}OCHROME".encode().ljust(11))
    (folder / "photometry.dcm").write_bytes(window)
    modality = content.index(b"\x08\0\x60\0CS") + 8
    (folder / "modality.dcm").write_bytes(content[:modality] + b"X^" + content[modality + 2 :])
    return folder


def everything(folder: Path) -> str:
    """What all files of a folder say, those that are packed unpacked.

    Of the objects of a run's ``dicom/`` only the names: they carry the patient, as they must.
    """
    said = []
    for path in folder.rglob("*"):
        said.append(str(path))
        if "dicom" in path.relative_to(folder).parts:
            continue
        if path.suffix == ".parquet":
            said.append(pd.read_parquet(path).to_csv())
        elif path.is_file() and zipfile.is_zipfile(path):
            archive = zipfile.ZipFile(path)
            said += [archive.read(name).decode("latin-1") for name in archive.namelist()]
        if path.is_file():
            said.append(path.read_bytes().decode("latin-1"))
    return "\n".join(said)


def run(*arguments: object) -> str:
    """What a command prints, to either stream."""
    done = subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, text=True, cwd=ROOT, timeout=300
    )
    assert done.returncode in (0, 1, 2), done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("switches", [("-v",), ("--json",)], ids=["verbose", "json"])
def test_a_screening_names_no_patient(study, films: Path, tmp_path: Path, switches) -> None:
    assert SENTINEL in everything(films)  # the films do
    out = tmp_path / "run"
    said = run(*switches, "screen", films, "--model", study.model, "--out", out)
    rows = pd.read_csv(out / "images.csv")
    assert set(rows["status"]) >= {"ok", "failed"}
    assert len(rows) == len(list(films.iterdir()))
    for text in (said, everything(out)):
        assert SENTINEL not in text
        assert "19610213" not in text
    assert SENTINEL not in run("-v", "export", out, "--write", "overlay,report")
    assert SENTINEL not in everything(out)


def test_inspecting_names_no_patient(films: Path) -> None:
    for name in ("good.dcm", "photometry.dcm", "modality.dcm"):
        assert SENTINEL not in run("-v", "inspect", films / name)
