"""No patient in anything that is written, logged or printed.

Every element of the standard that can hold text holds a sentinel, every sequence has an item full
of it, and so have private elements. Each element that a film can't do without holds it in turn.
"""

import ast
import json
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pandas as pd
import pydicom
import pytest
from pydicom._dicom_dict import DicomDictionary
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import ImplicitVRLittleEndian
from pynetdicom import AE, AllStoragePresentationContexts, evt

from patchad.cli.app import app
from patchad.export import KINDS
from patchad.export.dicom.taken import (
    ITEMS,
    OF_THE_CONTENT,
    OF_THE_EQUIPMENT,
    OF_THE_PATIENT,
    OF_THE_STUDY,
)
from patchad.phantoms.phantom import phantom_set
from patchad.read.manifest import read_manifest
from patchad.read.quiet import quiet

SENTINEL = "XQZSENTINEL"  # a legal code, name, text and identifier, and no number, date or UID
ROOT = Path(__file__).parents[1]
TEXTS = ("AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI",
         "UN", "UR", "UT")  # fmt: skip
# What a film can't do without: there the sentinel stands in turn, in films of their own.
NEEDED = (
    *("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Modality"),
    *("PhotometricInterpretation", "PixelSpacing", "ImagerPixelSpacing", "RescaleSlope"),
    *("RescaleIntercept", "WindowCenter", "WindowWidth", "ImageLaterality", "PatientOrientation"),
    *("NumberOfFrames", "ModalityLUTSequence", "VOILUTSequence", "PresentationIntentType"),
    *("SpecificCharacterSet", "ViewPosition", "BodyPartExamined", "PlanarConfiguration"),
)
KEPT = {Tag(keyword) for keyword in (*NEEDED, "PixelData")}


def item(deep: int = 2) -> Dataset:
    """An item that says it in elements of many kinds, in a private one, and deeper down."""
    made = Dataset()
    for keyword in (
        *("PatientName", "PatientID", "PersonName", "CodeValue", "CodeMeaning", "LUTExplanation"),
        *("CodingSchemeDesignator", "TextValue", "UniversalEntityID", "IssuerOfPatientID"),
        *("ReferencedSOPInstanceUID", "ModalityLUTType", "TypeOfPatientID", "InstitutionName"),
    ):
        made.add_new(Tag(keyword), "UT", SENTINEL)
    block = made.private_block(0x0029, SENTINEL, create=True)
    block.add_new(1, "LO", SENTINEL)
    if deep:
        made.add_new(Tag("ConceptCodeSequence"), "SQ", [item(deep - 1)])
        made.add_new(Tag("ReferencedStudySequence"), "SQ", [item(deep - 1)])
        block.add_new(2, "SQ", [item(deep - 1)])
    return made


@cache
def everywhere() -> Dataset:
    """The sentinel in every element that can hold it and that a film doesn't need."""
    made = Dataset()
    for number, (vr, *_, keyword) in DicomDictionary.items():
        tag = Tag(number)
        if tag.group < 8 or tag.group == 0xFFFE or tag in KEPT:
            continue
        if vr in TEXTS:
            made.add_new(tag, "UT", SENTINEL)
        elif vr == "SQ" and "FunctionalGroups" not in keyword:
            made.add_new(tag, "SQ", [item(2 if keyword in ITEMS else 0)])
    for group in (0x0009, 0x0011, 0x0029):
        block = made.private_block(group, SENTINEL, create=True)
        block.add_new(1, "LO", SENTINEL)
        block.add_new(2, "SQ", [item()])
        block.add_new(3, "UN", SENTINEL.encode())
    return made


def fill(film: Dataset) -> Dataset:
    """``film`` with the sentinel everywhere; implicit VR, so that each element may hold it."""
    film.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    film.file_meta.ImplementationVersionName = SENTINEL
    film.file_meta.add_new(Tag("SourceApplicationEntityTitle"), "AE", SENTINEL)
    film.update(everywhere())
    return film


def spoilt(film: Dataset, keyword: str) -> Dataset:
    """``film`` with the sentinel in this element as well."""
    if keyword.endswith("Sequence"):
        table = item()
        table.LUTDescriptor, table.LUTData = [4096, 0, 12], bytes(2 * 4096)
        film.add_new(Tag(keyword), "SQ", [table])
    else:
        film.add_new(Tag(keyword), "UT", SENTINEL)
        if keyword in ("SOPInstanceUID", "SOPClassUID"):
            film.file_meta.add_new(Tag(f"MediaStorage{keyword}"), "UI", SENTINEL)
    return film


def save(film: Dataset, path: Path) -> None:
    with quiet():
        film.save_as(path, enforce_file_format=True)


@dataclass(frozen=True)
class Films:
    """A study all of whose films are full of the sentinel, and films that are spoilt besides."""

    manifest: Path
    regions: Path
    spoilt: Path
    model: Path


@pytest.fixture(scope="module")
def films(study, tmp_path_factory: pytest.TempPathFactory) -> Films:
    folder = tmp_path_factory.mktemp("films")
    manifest, regions = phantom_set(
        folder / "study", train_patients=3, test_patients=2, shape=(256, 208)
    )
    for path in (folder / "study").rglob("*.dcm"):
        save(fill(pydicom.dcmread(path)), path)
    one = next(row.path for row in read_manifest(manifest) if row.split == "test")
    (folder / "spoilt").mkdir()
    for keyword in NEEDED:
        with quiet():
            save(spoilt(pydicom.dcmread(one), keyword), folder / "spoilt" / f"{keyword}.dcm")
    whole = one.read_bytes()
    (folder / "spoilt" / "cut.dcm").write_bytes(whole[: len(whole) // 2])
    (folder / "spoilt" / "header.dcm").write_bytes(whole[:3000])
    (folder / "spoilt" / "bare.dcm").write_bytes(whole[132:])
    damaged = bytearray(whole)
    name = whole.index(SENTINEL.encode(), 400)
    damaged[name - 4 : name - 2] = b"\xff\x7f"  # so long that it swallows what comes after
    (folder / "spoilt" / "swallowed.dcm").write_bytes(damaged)
    return Films(manifest, regions, folder / "spoilt", study.model)


def test_the_films_are_full_of_it(films: Films) -> None:
    film = next(row.path for row in read_manifest(films.manifest))
    assert film.read_bytes().count(SENTINEL.encode()) > 5000


def everything(folder: Path, *, objects: bool) -> Iterator[tuple[Path, str]]:
    """Each file of a folder with what it says, packed ones unpacked; ``dicom/`` where wanted."""
    for path in sorted(folder.rglob("*")):
        if path.is_dir() or ("dicom" in path.relative_to(folder).parts and not objects):
            continue
        said = [path.read_bytes().decode("latin-1")]
        if path.suffix == ".parquet":
            said.append(pd.read_parquet(path).to_csv())
        elif zipfile.is_zipfile(path):
            archive = zipfile.ZipFile(path)
            said += [archive.read(name).decode("latin-1") for name in archive.namelist()]
        yield path, "\n".join(said)


@contextmanager
def storage() -> Iterator[str]:
    """A storage service that takes every kind of object."""
    entity = AE(ae_title="PACS")
    for context in AllStoragePresentationContexts:
        entity.add_supported_context(context.abstract_syntax)
    server = entity.start_server(
        ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, lambda event: 0)]
    )
    try:
        yield f"PACS@127.0.0.1:{server.socket.getsockname()[1]}"
    finally:
        server.shutdown()


# Each command in one process; what it prints and logs is the real thing, not what a test catches.
SCRIPT = """
import json, sys
from patchad.cli.app import app
if __name__ == "__main__":
    codes = []
    for arguments in json.loads(sys.argv[1]):
        try:
            app(arguments)
        except SystemExit as end:
            codes.append(end.code or 0)
    print("CODES", codes)
"""
TINY = {
    **{"patch_size": 32, "stride": 16, "split.held_out": 0.4, "wei2018.epochs": 2},
    **{"wei2018.batch_size": 50, "wei2018.patches_per_epoch": 200},
}
COMMANDS = {"demo", "train", "screen", "evaluate", "selftest", "export", "push", "inspect",
            "methods", "manifest", "calibrate", "compare"}  # fmt: skip
NO_FILMS = {"demo", "methods"}  # they read none that they haven't drawn


def chain(films: Films, folder: Path, to: str, switches: list[str], deidentify: list[str]):
    """Every command that reads films, or what was made of them."""
    kinds = ",".join(KINDS)
    model, run, odd, again = (folder / name for name in ("model", "run", "odd", "again"))
    objects = ["--write", kinds, "--invent-geometry", *deidentify]
    tiny = [word for key, value in TINY.items() for word in ("--set", f"{key}={value}")]
    train = ["train", films.manifest, "--model", model, "--config", "wei2018_leaky", *tiny]
    screen = ["--allow-mismatch", *objects]
    commands = [
        train,
        ["screen", films.manifest, "--model", films.model, "--out", run, *screen],
        ["screen", films.spoilt, "--model", films.model, "--out", odd, *screen],
        ["evaluate", run, "--truth", films.manifest, "--regions", films.regions],
        ["screen", films.manifest, "--model", films.model, "--out", again, *screen],
        ["compare", run, again, "--truth", films.manifest, "--out", folder / "compared"],
        ["export", run, *objects],
        [
            "selftest",
            films.model,
            "--on",
            films.manifest,
            "--images",
            "1",
            "--out",
            folder / "self",
        ],
        ["push", run, "--to", to],
        ["push", odd, "--to", "PACS@127.0.0.1:1"],
        ["inspect", films.spoilt / "PhotometricInterpretation.dcm"],
        ["inspect", next(row.path for row in read_manifest(films.manifest))],
        ["manifest", films.manifest.parent, "--out", folder / "listed.csv"],
        [
            "calibrate",
            films.model,
            "--on",
            films.manifest,
            "--out",
            folder / "site",
            "--allow-mismatch",
        ],
    ]
    assert {str(command[0]) for command in commands} | NO_FILMS == COMMANDS
    return [[*switches, *map(str, command)] for command in commands]


def test_every_command_is_here() -> None:
    names = {command.name or command.callback.__name__ for command in app.registered_commands}
    assert names == COMMANDS


@pytest.mark.slow
@pytest.mark.parametrize(
    ("switches", "deidentify"),
    [(["-v"], []), (["-q", "--json"], ["--deidentify"])],
    ids=["verbose", "quiet JSON, deidentified"],
)
def test_no_command_says_or_writes_it(films: Films, tmp_path: Path, switches, deidentify) -> None:
    with storage() as to:
        commands = chain(films, tmp_path, to, switches, deidentify)
        script = tmp_path / "commands.py"
        script.write_text(SCRIPT)
        done = subprocess.run(
            [sys.executable, script, json.dumps(commands)],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            timeout=600,
        )
    assert "Traceback" not in done.stdout + done.stderr
    codes = json.loads(done.stdout.rpartition("CODES ")[2])
    assert codes == [0, 0, 1, 0, 0, 0, 0, 0, 0, 2, 2, 0, 0, 1], done.stderr
    for said in (done.stdout, done.stderr):
        assert SENTINEL not in said
    rows = pd.read_csv(tmp_path / "odd" / "images.csv")
    assert set(rows["status"]) >= {"ok", "failed"}
    assert len(rows) == len(list(films.spoilt.iterdir()))
    objects = list((tmp_path / "run" / "dicom").rglob("*.dcm"))
    assert {path.stem for path in objects} >= {"sc", "gsps", "sr", "cad-sr", "pm", "heatmap-seg"}
    for path, text in everything(tmp_path, objects=bool(deidentify)):
        assert SENTINEL not in str(path)
        assert SENTINEL not in text, path
    if not deidentify:
        for path in tmp_path.rglob("*.dcm"):
            with quiet():
                assert_only_listed(pydicom.dcmread(path))


def assert_only_listed(data: Dataset) -> None:
    """The sentinel stands only where the patient and the study may be named."""
    allowed = {*OF_THE_PATIENT, *OF_THE_STUDY, *OF_THE_EQUIPMENT, *OF_THE_CONTENT}
    allowed |= {keyword for rule in ITEMS.values() for keyword in rule.allowed}
    named = [e for e in data.iterall() if e.VR != "SQ" and SENTINEL in str(e.value)]
    assert named
    for element in named:
        assert element.keyword in allowed, element.tag
    assert not any(element.tag.is_private for element in data.iterall())


def test_whatever_parses_foreign_data_is_quiet() -> None:
    """Each call of dcmread stands within ``with quiet()``, or in a function called in there."""
    loud = []
    for path in sorted((ROOT / "patchad").rglob("*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        inside = {
            id(node)
            for block in ast.walk(tree)
            if isinstance(block, ast.With) and "quiet()" in ast.unparse(block.items[0])
            for node in ast.walk(block)
        }
        loud += [
            f"{path.relative_to(ROOT)}:{node.lineno}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Call)
            and ast.unparse(node.func) in ("dcmread", "pydicom.dcmread")
            and id(node) not in inside
        ]
    # parse is called within read_dicom and count_frames, _answer within send
    allowed = ("patchad/read/dicom_header.py", "patchad/net/send.py")
    assert [place for place in loud if place.partition(":")[0] not in allowed] == []
