"""DICOM objects against a validator, a renderer and a server that others wrote; see the Makefile.

Nothing here listens beyond loopback: Orthanc and storescp, which can't be told to, run only where
there is no other network (.ci/alone).
"""

import json
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pydicom
import pytest
from dicom_builders import (
    CARD,
    CASES,
    KINDS,
    LESIONS,
    SHAPE,
    film,
    items,
    pixels_of,
    screened,
)
from hostile_headers import NAMED, complete, spoilt
from pydicom.dataset import Dataset
from pydicom.uid import JPEGLosslessSV1, RLELossless

from patchad.commands.push import push
from patchad.export.write import write_image_kinds, write_run_kinds
from patchad.model.card import card_as_dict
from patchad.read.quiet import quiet
from patchad.read.read import read_radiograph
from patchad.store.run import done_row, write_run

STUDIES = ("breast", "chest")  # each with its selection of flagged images
pytestmark = pytest.mark.conformance

DICOMWEB = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


def part(name: str, package: str) -> str:
    """The program of a Debian package; not what a Python package put before it on the PATH."""
    found = shutil.which(name, path="/usr/bin:/usr/sbin:/usr/local/bin")
    if found is None:
        pytest.skip(f"{name} is not installed: apt-get install {package}")
    return found


@dataclass(frozen=True)
class Run:
    folder: Path
    films: dict[str, Path]

    def __getitem__(self, key: tuple[str, str]) -> Dataset:
        return pydicom.dcmread(self.path(*key))

    @property
    def objects(self) -> list[Path]:
        return sorted(self.folder.glob("dicom/*/*.dcm"))

    def path(self, case: str, kind: str) -> Path:
        return self.folder / "dicom" / case.replace(" ", "-") / f"{kind}.dcm"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The objects of every case of test_dicom_out.py, in one run folder."""
    folder = tmp_path_factory.mktemp("conformance")
    films, rows = {}, []
    for number, case in enumerate(CASES):
        path = films[case] = film(folder / f"film{number}.dcm", case)
        data = pydicom.dcmread(path)
        data.SOPInstanceUID += f".{number}"
        data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
        data.save_as(path)
        radiograph, screening = screened(path, LESIONS)
        name = case.replace(" ", "-")
        write_image_kinds(folder, name, screening, radiograph, CARD, KINDS)
        rows.append(done_row(name, screening, radiograph, 0.0))
    write_run(folder, {"card": card_as_dict(CARD)}, rows)
    assert write_run_kinds(folder, ("ko",)) == ()
    return Run(folder, films)


def test_dciodvfy_finds_no_error(run: Run) -> None:
    dciodvfy = part("dciodvfy", "dicom3tools")
    objects = run.objects
    assert len(objects) == len(CASES) * len(KINDS) + len(STUDIES)
    faults = []
    for path in objects:  # it prints its findings and always exits with 0
        done = subprocess.run([dciodvfy, path], capture_output=True, text=True, check=False)
        said = (done.stdout + done.stderr).splitlines()
        assert said, "it names the kind of object at least"
        faults += [f"{path}: {line}" for line in said if line.startswith("Error")]
    assert faults == []


@pytest.mark.parametrize("keyword", NAMED)
def test_dciodvfy_finds_no_error_whatever_the_source_holds(tmp_path: Path, keyword: str) -> None:
    dciodvfy = part("dciodvfy", "dicom3tools")
    header = complete(pydicom.dcmread(film(tmp_path / "film.dcm", "R-MLO")))
    faults = []
    for number, (_, broken) in enumerate(spoilt(header, keyword)):
        path, name = tmp_path / f"{number}.dcm", str(number)
        with quiet():
            broken.save_as(path, enforce_file_format=True)
        radiograph, screening = screened(path, LESIONS)
        write_image_kinds(tmp_path, name, screening, radiograph, CARD, KINDS)
        for kind in KINDS:
            made = tmp_path / "dicom" / name / f"{kind}.dcm"
            done = subprocess.run([dciodvfy, made], capture_output=True, text=True, check=False)
            said = (done.stdout + done.stderr).splitlines()
            faults += [f"{number} {kind}: {line}" for line in said if line.startswith("Error")]
    assert faults == []


@pytest.mark.parametrize("case", CASES)
def test_outlines_masks_and_coordinates_agree_within_a_pixel(run: Run, case: str) -> None:
    (annotation,) = run[case, "gsps"].GraphicAnnotationSequence
    drawn = [np.reshape(g.GraphicData, (-1, 2)) for g in annotation.GraphicObjectSequence]
    report = run[case, "sr"]
    told = [np.reshape(item.GraphicData, (-1, 2)) for item in items(report, "Image Region")]
    segmentation = run[case, "seg"]
    masks = mask_of_each_segment(segmentation)
    assert len(drawn) == len(told) == len(masks) == 2
    for outline, region, mask in zip(drawn, told, masks, strict=True):
        np.testing.assert_allclose(outline, region, atol=1e-3)
        rows, cols = np.nonzero(mask)  # the pixel (row, col) reaches from col to col + 1
        np.testing.assert_allclose(outline.min(0), [cols.min(), rows.min()], atol=1)
        np.testing.assert_allclose(outline.max(0), [cols.max() + 1, rows.max() + 1], atol=1)
        edge = np.argwhere(mask & ~surrounded(mask))[:, ::-1] + 0.5
        apart = np.linalg.norm(outline[:, None] - edge[None], axis=2)
        assert apart.min(1).max() <= 1  # each point of the outline lies on the mask's edge


def mask_of_each_segment(segmentation: Dataset) -> list[np.ndarray]:
    frames = np.reshape(segmentation.pixel_array, (-1, *SHAPE)).astype(bool)
    masks = [np.zeros(SHAPE, bool) for _ in segmentation.SegmentSequence]
    groups = segmentation.PerFrameFunctionalGroupsSequence
    for frame, group in zip(frames, groups, strict=True):
        (segment,) = group.SegmentIdentificationSequence
        masks[segment.ReferencedSegmentNumber - 1] |= frame
    return masks


def surrounded(mask: np.ndarray) -> np.ndarray:
    """Pixels whose four neighbours are all in the mask."""
    padded = np.pad(mask, 1)
    return padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]


@pytest.mark.parametrize("case", CASES)
def test_dcmp2pgm_shows_the_film_the_right_way_round(run: Run, case: str, tmp_path: Path) -> None:
    state, saved, pgm = run[case, "gsps"], tmp_path / "state.dcm", tmp_path / "shown.pgm"
    state.PatientName = str(state.PatientName) or "Nobody"  # dcmtk refuses one without a name
    state.save_as(saved)
    subprocess.run(
        [part("dcmp2pgm", "dcmtk"), "-p", saved, run.films[case], pgm],
        check=True, timeout=60, capture_output=True,
    )  # fmt: skip
    shown = read_radiograph(pgm).pixels
    expected = read_radiograph(run.films[case]).pixels
    assert shown.shape == expected.shape
    assert np.corrcoef(shown.ravel(), expected.ravel())[0, 1] > 0.95


@dataclass(frozen=True)
class Server:
    """A running Orthanc: ``aet`` and ``web`` are destinations, ``rest`` its own interface."""

    aet: str
    web: str
    rest: str

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"{self.rest}/{path}", timeout=30) as reply:
            return reply.read()

    def objects(self) -> dict[str, Dataset]:
        """What it holds, by SOP instance."""
        files = [self.get(f"instances/{name}/file") for name in json.loads(self.get("instances"))]
        held = [pydicom.dcmread(BytesIO(file)) for file in files]
        return {str(data.SOPInstanceUID): data for data in held}


def only_loopback() -> None:
    """Skip where a server that listens on every address could be reached from elsewhere."""
    if {name for _, name in socket.if_nameindex()} != {"lo"}:
        pytest.skip("it listens on every address: run it where there is but loopback, .ci/alone")


@contextmanager
def storescp(folder: Path, *options: str) -> Iterator[str]:
    """A storage service of dcmtk, by default of uncompressed syntaxes alone."""
    only_loopback()
    port = free_port()
    command = [part("storescp", "dcmtk"), *options, "-od", folder, str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(100):
            with socket.socket() as one:
                if one.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield f"STORESCP@127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


@pytest.mark.parametrize(
    "options", [(), ("+xi",), ("+xs",), ("+xr",)], ids=["native", "implicit", "JPEG", "RLE"]
)
def test_dcmtk_gets_what_it_takes_and_the_same_pixels(run: Run, tmp_path: Path, options) -> None:
    (run.folder / "pushed.jsonl").unlink(missing_ok=True)
    sent = {data.SOPInstanceUID: data for data in map(pydicom.dcmread, run.objects)}
    with storescp(tmp_path, *options) as to:
        pushed = push(run.folder, to)
    assert (pushed.accepted, pushed.failed) == (len(sent), ())
    got = [pydicom.dcmread(path) for path in tmp_path.iterdir()]
    assert {data.SOPInstanceUID for data in got} == set(sent)
    kept = {"+xs": JPEGLosslessSV1, "+xr": RLELossless}.get(options[0] if options else "")
    for data in got:
        own = sent[data.SOPInstanceUID].file_meta.TransferSyntaxUID
        assert data.file_meta.TransferSyntaxUID.is_encapsulated == (own == kept)
        if "PixelData" in data:
            np.testing.assert_array_equal(pixels_of(data), pixels_of(sent[data.SOPInstanceUID]))


def test_dcmtk_decompresses_the_pictures_to_the_same_pixels(run: Run, tmp_path: Path) -> None:
    for case in CASES:
        native = tmp_path / "native.dcm"
        subprocess.run([part("dcmdjpeg", "dcmtk"), run.path(case, "sc"), native], check=True)
        shown = pydicom.dcmread(native)
        assert shown.PhotometricInterpretation == "RGB"
        np.testing.assert_array_equal(shown.pixel_array, pixels_of(run[case, "sc"]))


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.fixture
def orthanc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """An empty Orthanc with DICOMweb and no other plugin: its GDCM plugin crashes it."""
    program = part("Orthanc", "orthanc")
    if not DICOMWEB.exists():
        pytest.skip("no DICOMweb plugin: apt-get install orthanc-dicomweb")
    only_loopback()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    http, dicom = free_port(), free_port()
    settings = {
        "Name": "patchad",
        "StorageDirectory": str(tmp_path / "storage"),
        "IndexDirectory": str(tmp_path / "storage"),
        "Plugins": [str(DICOMWEB)],
        "HttpPort": http,
        "DicomPort": dicom,
        "DicomAet": "ORTHANC",
        "DicomCheckCalledAet": True,
        # And it answers no other address.
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomAlwaysAllowStore": False,
        "DicomAlwaysAllowEcho": False,
        "DicomCheckModalityHost": True,
        "DicomModalities": {"patchad": ["PATCHAD", "127.0.0.1", 104]},
    }
    config = tmp_path / "orthanc.json"
    config.write_text(json.dumps(settings))
    server = Server(
        f"ORTHANC@127.0.0.1:{dicom}",
        f"http://127.0.0.1:{http}/dicom-web",
        f"http://127.0.0.1:{http}",
    )
    with (tmp_path / "orthanc.log").open("w+") as log:
        process = subprocess.Popen([program, str(config)], stdout=log, stderr=log, cwd=tmp_path)
        try:
            for _ in range(100):
                try:
                    server.get("system")
                    break
                except (URLError, ConnectionError):
                    assert process.poll() is None, (tmp_path / "orthanc.log").read_text()
                    time.sleep(0.1)
            else:
                pytest.fail("Orthanc does not answer after 10 s")
            yield server
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.mark.parametrize("way", ["aet", "web"], ids=["C-STORE", "STOW-RS"])
def test_orthanc_takes_all_and_gives_them_back_identical(
    run: Run, orthanc: Server, way: str
) -> None:
    (run.folder / "pushed.jsonl").unlink(missing_ok=True)
    sent = [pydicom.dcmread(path) for path in run.objects]
    pushed = push(run.folder, getattr(orthanc, way))
    assert (pushed.accepted, pushed.failed, pushed.notes) == (len(sent), (), ())
    assert push(run.folder, getattr(orthanc, way)).before == len(sent)
    held = orthanc.objects()
    assert len(held) == len(sent)
    for data in sent:  # datasets compare without group 2
        assert held[str(data.SOPInstanceUID)] == data, data.SOPClassUID.name
