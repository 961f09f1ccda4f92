import hashlib
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from patchad.commands.negatives import Reader, Survey, find_negatives, first_of_group, survey
from patchad.errors import RequestError
from patchad.methods.configure import read_config
from patchad.model.trained_on import among, pack_digests
from patchad.prepare.workers import How, readers
from patchad.progress import silent
from patchad.read.dicom_identity import PATIENT, STUDY, identity_of
from patchad.read.manifest import read_manifest

CONFIG = read_config("wei2018", ["patch_size=32", "stride=16"])


def surveyed(source: Path, failed: list[tuple[str, str]] | None = None) -> Survey:
    with readers(How(CONFIG.preprocessing, secret=b"any")) as ahead:
        reader = Reader(CONFIG, 0, ahead, [] if failed is None else failed, silent)
        return survey(reader, find_negatives(source, "for a test"))


def groups(found: Survey) -> set[frozenset[str]]:
    patients: dict[str, set[str]] = {}
    for negative in found.images:
        patients.setdefault(negative.patient, set()).add(negative.row.path.name)
    return {frozenset(names) for names in patients.values()}


@pytest.fixture(scope="module")
def film(study) -> Path:
    return next(row.path for row in read_manifest(study.manifest) if row.split == "train")


def dicom(path: Path, film: Path, number: int, patient: str | None, study_uid: str | None) -> None:
    """A copy of the film with other pixels (by ``number``), patient and study."""
    ds = pydicom.dcmread(film)
    ds.PixelData = np.roll(ds.pixel_array, number, axis=0).tobytes()
    ds.SpecificCharacterSet = "ISO_IR 192"
    for keyword, value in (("PatientID", patient), ("StudyInstanceUID", study_uid)):
        if value is None:
            ds.pop(keyword, None)
        else:
            setattr(ds, keyword, value)
    ds.save_as(path, enforce_file_format=True)


def test_dicom_films_of_one_patient_or_study_stay_together(film: Path, tmp_path: Path) -> None:
    folder = tmp_path / "films"
    folder.mkdir()
    for number, (name, patient, study_uid) in enumerate(
        [
            ("a1", "Doe 7", "1.2.1"),
            ("a2", " doe  7 ", "1.2.2"),  # the same number, and another study of it
            ("a3", None, "1.2.2"),  # no number, but a study of hers
            ("b1", "Roe", "1.2.3"),
            ("c1", "", "1.2.4"),  # no number: by the study
            ("c2", None, "1.2.4"),
            ("d1", None, None),  # nothing: each of its own
            ("d2", None, None),
        ]
    ):
        dicom(folder / f"{name}.dcm", film, number, patient, study_uid)
    found = surveyed(folder)
    assert groups(found) == {
        frozenset({"a1.dcm", "a2.dcm", "a3.dcm"}),
        frozenset({"b1.dcm"}),
        frozenset({"c1.dcm", "c2.dcm"}),
        frozenset({"d1.dcm"}),
        frozenset({"d2.dcm"}),
    }
    (note,) = found.notes
    assert note.startswith("5 patients were found in 8 images, by the Patient ID and Study")
    assert "the 2 images that have neither were taken as a patient each" in note
    # whose name a patient has hangs on the files alone, so that a split comes out again
    assert {negative.patient for negative in found.images} == {
        str(folder / f"{name}.dcm") for name in ("a1", "b1", "c1", "d1", "d2")
    }


def test_identities_are_hashed_with_the_secret(film: Path, tmp_path: Path) -> None:
    dicom(tmp_path / "x.dcm", film, 0, "山田/7^x", "1.2.3")
    one, other = (identity_of(tmp_path / "x.dcm", secret) for secret in (b"one", b"other"))
    assert set(one) == {PATIENT, STUDY}
    assert one[PATIENT] != other[PATIENT]
    assert one != {PATIENT: hashlib.sha256(b"patient:X").hexdigest()}
    assert identity_of(tmp_path / "x.dcm", b"one") == one
    dicom(tmp_path / "y.dcm", film, 0, "1.2.3", None)
    assert identity_of(tmp_path / "y.dcm", b"one")[PATIENT] != one[STUDY]  # not the same thing
    (tmp_path / "film.png").write_bytes(b"\x89PNG no DICOM")
    assert identity_of(tmp_path / "film.png", b"one") == {}


def test_a_manifest_says_whose_a_film_is(film: Path, tmp_path: Path) -> None:
    for number, name in enumerate(("a", "b")):
        dicom(tmp_path / f"{name}.dcm", film, number, "same", "1.2.3")
    manifest = tmp_path / "manifest.csv"
    manifest.write_text("path,patient_id,label\na.dcm,p,negative\nb.dcm,q,negative\n")
    found = surveyed(manifest)
    assert [negative.patient for negative in found.images] == ["p", "q"]
    assert found.notes == ()


def png(path: Path, seed: int) -> Path:
    rng = np.random.default_rng(seed)
    film = np.zeros((100, 80), np.uint8)
    row, col = np.ogrid[:100, :80]
    breast = ((row - 50) / 45) ** 2 + (col / 60) ** 2 < 1
    film[breast] = rng.integers(90, 160, breast.sum())
    Image.fromarray(film).save(path)
    return path


def test_the_same_pixels_count_once_and_join_their_patients(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name, seed in (("a", 1), ("b", 2), ("c", 3), ("again", 1), ("own", 2)):
        png(tmp_path / f"{name}.png", seed)
    rows = ["a,p", "b,q", "c,r", "again,r", "own,q"]  # `again` is r's, with the pixels of p's a
    manifest = tmp_path / "manifest.csv"
    manifest.write_text(
        "path,patient_id,label\n" + "".join(f"{x.replace(',', '.png,')},negative\n" for x in rows)
    )
    with caplog.at_level(logging.WARNING):
        found = surveyed(manifest)
    assert groups(found) == {frozenset({"a.png", "c.png"}), frozenset({"b.png"})}
    assert {path.name for path in found.paths["p"]} == {"a.png", "c.png", "again.png"}
    (note,) = found.notes
    assert note == (
        "2 images have the same pixels as another and counted once only; 1 of these under another "
        "patient, 0 in training and in validation."
    )
    assert f"{tmp_path / 'again.png'} is {tmp_path / 'a.png'} again" in caplog.text


def test_of_copies_in_training_and_validation_the_calibrating_one_stays(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 2), ("again", 1)):
        png(tmp_path / f"{name}.png", seed)
    manifest = tmp_path / "manifest.csv"
    manifest.write_text(
        "path,patient_id,label,split\na.png,p,negative,train\nb.png,q,negative,train\n"
        "again.png,r,negative,validation\n"
    )
    found = surveyed(manifest)
    assert [negative.row.path.name for negative in found.images] == ["b.png", "again.png"]
    assert "1 image has the same pixels" in found.notes[0]
    assert "1 of these under another patient, 1 in training and in validation" in found.notes[0]


def test_pixels_with_two_labels_are_refused(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 2), ("c", 1)):
        png(tmp_path / f"{name}.png", seed)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    manifest = tmp_path / "manifest.csv"
    table = "path,patient_id,label,split\na.png,p,negative,\nb.png,q,negative,\n"
    manifest.write_text(table + "broken.png,s,positive,\n")
    failed: list[tuple[str, str]] = []
    assert len(surveyed(manifest, failed).images) == 2
    assert failed == []  # a positive that cannot be read was not to be used
    manifest.write_text(table + "c.png,r,positive,test\n")
    with pytest.raises(RequestError, match=r"1 of the manifest are positive.*c\.png and .*a\.png"):
        surveyed(manifest)


@given(st.lists(st.sets(st.integers(0, 12), max_size=3), max_size=12))
def test_groups_are_what_shares_a_key_through_whatever_chain(keys: Sequence[set[int]]) -> None:
    found = first_of_group(keys)
    # by brute force: let every item take the lowest number within reach until nothing changes
    lowest = [*range(len(keys))]
    for _ in keys:
        for one in range(len(keys)):
            reach = [n for n in range(len(keys)) if n == one or keys[n] & keys[one]]
            lowest[one] = min(lowest[n] for n in reach)
    assert found == lowest


@given(st.lists(st.binary(min_size=32, max_size=32), max_size=30), st.data())
def test_packed_digests_know_theirs_and_no_others(digests: list[bytes], data) -> None:
    names = [digest.hex() for digest in digests]
    packed = pack_digests(names)
    assert len(packed) == 8 * len({name[:12] for name in names})
    assert among(packed, names) == [True] * len(names)
    other = data.draw(st.binary(min_size=32, max_size=32)).hex()
    assert among(packed, [other, "", "no digest"]) == [
        other[:12] in {name[:12] for name in names}, False, False,
    ]  # fmt: skip


SENTINEL = "XQZ77SECRET"


def test_a_training_on_a_folder_writes_and_tells_no_patient(film: Path, tmp_path: Path) -> None:
    folder = tmp_path / "films"
    folder.mkdir()
    for number in range(6):
        dicom(folder / f"{number}.dcm", film, number, f"{SENTINEL}{number // 2}", f"1.2.{number}")
    command = [
        sys.executable,
        "-c",
        "from patchad.cli.app import main; main()",
        "-v",
        "train",
        folder,
    ]
    command += ["--model", tmp_path / "model", "--config", "wei2018_leaky"]
    for setting in ("patch_size=32", "stride=32", "wei2018.epochs=1", "calibration.folds=3",
                    "wei2018.patches_per_epoch=100"):  # fmt: skip
        command += ["--set", setting]
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert "3 patients were found in 6 images" in done.stdout
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("model/*"))
    for number in range(3):
        name = f"{SENTINEL}{number}"
        assert name not in done.stdout + done.stderr
        for text in (name, hashlib.sha256(name.encode()).hexdigest()[:16]):
            assert text.encode() not in written
    shutil.rmtree(tmp_path / "model")
