"""Objects pushed to a storage service that this file runs on loopback, and that may refuse."""

import json
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pydicom
import pytest
from pydicom.uid import (
    ComprehensiveSRStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLosslessSV1,
    RLELossless,
    SecondaryCaptureImageStorage,
)
from pynetdicom import AE, evt
from typer.testing import CliRunner

from patchad.cli.app import app
from patchad.commands.push import JOURNAL, once, push
from patchad.errors import OutputError, RequestError
from patchad.net.send import CStore, StowRs, destination
from patchad.read.dicom_native import compress_picture
from patchad.store.run import write_run

SECRETS = ("Sentinel^Jane", "SENTINEL-ID")
UIDS = ["1.2.1", "1.2.2", "1.2.3"]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Two pictures and a report."""
    folder = tmp_path / "run"
    for uid in UIDS:
        data = pydicom.Dataset()
        data.SOPClassUID = (
            ComprehensiveSRStorage if uid == "1.2.3" else SecondaryCaptureImageStorage
        )
        data.SOPInstanceUID = uid
        data.PatientName, data.PatientID = SECRETS
        if uid != "1.2.3":
            data.PixelData = np.zeros(64, np.uint8).tobytes()
            data["PixelData"].VR = "OB"
        data.file_meta = pydicom.dataset.FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        path = folder / "dicom" / uid.replace(".", "_") / "sc.dcm"
        path.parent.mkdir(parents=True)
        data.save_as(path, enforce_file_format=True)
    write_run(folder, {}, [])
    return folder


@contextmanager
def scp(
    answer: Callable[[str], int] = lambda uid: 0,
    classes=(SecondaryCaptureImageStorage, ComprehensiveSRStorage),
    syntax=ExplicitVRLittleEndian,
    **settings,
) -> Iterator[tuple[str, list]]:
    """A storage service that gives each instance the status that ``answer`` says."""
    got = []

    def store(event) -> int:
        data = event.dataset
        data.file_meta = event.file_meta
        got.append(data)
        return answer(str(data.SOPInstanceUID))

    entity = AE(ae_title="PACS")
    for name, value in settings.items():
        setattr(entity, name, value)
    for sop_class in classes:
        entity.add_supported_context(sop_class, syntax)
    server = entity.start_server(
        ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, store)]
    )
    try:
        yield f"PACS@127.0.0.1:{server.socket.getsockname()[1]}", got
    finally:
        server.shutdown()


received: list[pydicom.Dataset] = []  # the objects that the last STOW-RS service got


@contextmanager
def stow(answer: Callable[[str], tuple[int, dict]]) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """A STOW-RS service; ``got`` holds (path, authorization) of each request."""
    got = []
    received.clear()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            kind = self.headers["Content-Type"]
            boundary = re.fullmatch(
                r'multipart/related; type="application/dicom"; boundary=(\w+)', kind
            )[1]
            head, _, rest = body.partition(b"\r\n\r\n")
            assert head.decode() == f"--{boundary}\r\nContent-Type: application/dicom"
            part, _, end = rest.rpartition(f"\r\n--{boundary}--\r\n".encode())
            assert end == b""
            data = pydicom.dcmread(pydicom.filebase.DicomBytesIO(part))
            received.append(data)
            got.append((self.path, self.headers.get("Authorization", "")))
            status, reply = answer(str(data.SOPInstanceUID))
            self.send_response(status)
            if status == 302:
                self.send_header("Location", "/elsewhere")
            self.end_headers()
            self.wfile.write(reply if isinstance(reply, bytes) else json.dumps(reply).encode())

        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/dicom-web", got
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_all_are_sent_once(run: Path) -> None:
    with scp() as (to, got):
        first, second = push(run, to), push(run, to)
    assert (first.accepted, first.before, first.failed) == (3, 0, ())
    assert (second.accepted, second.before, second.failed) == (0, 3, ())
    assert [str(data.SOPInstanceUID) for data in got] == UIDS
    for data, path in zip(got, sorted(run.glob("dicom/*/*.dcm")), strict=True):
        assert data == pydicom.dcmread(path)


def test_two_pushes_of_a_run_do_not_meet(run: Path) -> None:
    refused = []

    def meanwhile(uid: str) -> int:
        with pytest.raises(
            OutputError, match=r"in use by `patchad push` \(process \d+ on .*\): wait"
        ) as raised:
            push(run, "ANY@127.0.0.1:104")
        refused.append(raised.value)
        return 0

    with scp(meanwhile) as (to, got):
        assert push(run, to).accepted == 3
    assert len(refused) == len(got) == 3
    with scp() as (to, _):
        assert push(run, to).accepted == 3  # the lock is gone


def test_another_destination_is_another_matter(run: Path) -> None:
    with scp() as (to, _):
        push(run, to)
    with scp() as (to, _):
        assert push(run, to).accepted == 3


def test_a_kind_that_is_not_taken_does_not_stop_the_others(run: Path) -> None:
    with scp(classes=[ComprehensiveSRStorage]) as (to, got):
        pushed = push(run, to)
    assert [str(data.SOPInstanceUID) for data in got] == ["1.2.3"]
    assert pushed.accepted == 1
    assert [reason for _, reason in pushed.failed] == [
        f"{to} does not accept Secondary Capture Image Storage"
    ] * 2
    with scp(classes=["1.2.840.10008.5.1.4.1.1.2"]) as (to, got):
        pushed = push(run, to)
    assert got == []
    assert [reason for _, reason in pushed.failed] == [
        f"{to} accepts none of the kinds of object offered"
    ] * 3


def test_a_service_of_implicit_vr_gets_it(run: Path) -> None:
    with scp(syntax=ImplicitVRLittleEndian) as (to, got):
        assert push(run, to).accepted == 3
    assert {data.file_meta.TransferSyntaxUID for data in got} == {ImplicitVRLittleEndian}


def test_refusals_are_told_and_only_they_are_sent_again(run: Path) -> None:
    with scp(lambda uid: 0xC123 if uid == "1.2.2" else 0xB000) as (to, got):
        pushed = push(run, to)
        assert pushed.accepted == 2
        assert [note.partition(": ")[2] for note in pushed.notes] == [
            "status 0xB000, it changed some values"
        ] * 2
        ((path, reason),) = pushed.failed
        assert Path(path) == run / "dicom" / "1_2_2" / "sc.dcm"
        assert reason == f"{to} refuses it (status 0xC123)"
        assert len(got) == 3  # a refusal is final
        push(run, to)
    assert [str(data.SOPInstanceUID) for data in got] == [*UIDS, "1.2.2"]


def test_what_is_put_off_is_sent_again(run: Path) -> None:
    times = Counter()

    def answer(uid: str) -> int:
        times[uid] += 1
        return 0xA700 if uid == "1.2.2" and times[uid] < 3 else 0

    with scp(answer) as (to, _):
        pushed = push(run, to, pauses=(0, 0))
    assert (pushed.accepted, pushed.failed) == (3, ())
    assert times == {"1.2.1": 1, "1.2.2": 3, "1.2.3": 1}


def test_an_object_that_is_there_already_counts_as_accepted(run: Path) -> None:
    with scp(lambda uid: 0x0111) as (to, _):
        assert push(run, to).accepted == 3


def test_an_association_that_is_rejected_says_why(run: Path) -> None:
    with scp(require_called_aet=True) as (to, _):
        pushed = push(run, to.replace("PACS", "OTHER"))
    assert {reason.partition(": ")[2] for _, reason in pushed.failed} == {"it has another AE title"}


def test_no_answer_at_all_is_an_error(run: Path) -> None:
    with scp() as (to, _):
        pass
    with pytest.raises(OutputError, match="nothing was sent"):
        push(run, to, pauses=(0,))
    with pytest.raises(OutputError, match="nothing was sent"):
        push(run, f"http://{to.partition('@')[2]}/dicom-web", pauses=(0,))
    assert not (run / JOURNAL).exists()


def test_a_broken_line_of_the_journal_costs_only_itself(run: Path) -> None:
    with scp() as (to, got):
        push(run, to)
        journal = run / JOURNAL
        journal.write_text(journal.read_text()[:-5])
        assert push(run, to).accepted == 1
        assert push(run, to).accepted == 0
    assert [str(data.SOPInstanceUID) for data in got] == [*UIDS, "1.2.3"]


def test_a_broken_object_is_a_failure_of_its_own(run: Path) -> None:
    (run / "dicom" / "1_2_2" / "sc.dcm").write_bytes(b"no DICOM")
    with scp() as (to, _):
        pushed = push(run, to)
    assert pushed.accepted == 2
    ((_, reason),) = pushed.failed
    assert "is not a complete DICOM object" in reason


def test_stow_sends_each_with_the_credentials_and_never_tells_them(run: Path) -> None:
    with stow(lambda uid: (200, stored(uid))) as (to, got):
        pushed = push(run, to.replace("://", "://user:p%40ss@"))
        assert pushed.to == to
        assert push(run, to + "/").before == 3
    assert got == [("/dicom-web/studies", "Basic dXNlcjpwQHNz")] * 3
    assert "user" not in (run / JOURNAL).read_text()


def stored(uid: str) -> dict:
    return {"00081199": {"vr": "SQ", "Value": [{"00081155": {"vr": "UI", "Value": [uid]}}]}}


def test_stow_that_names_nothing_stored_has_stored_nothing(run: Path) -> None:
    with stow(lambda uid: (200, {})) as (to, _):
        reasons = {reason for _, reason in push(run, to).failed}
    assert reasons == {"refused (the answer names no object that was stored)"}
    with stow(lambda uid: (200, b"<NativeDicomModel/>")) as (to, _):
        assert push(run, to).accepted == 3  # no JSON: by its status


def failed(uid: str, reason: int) -> dict:
    return {
        "00081198": {
            "vr": "SQ",
            "Value": [
                {
                    "00081155": {"vr": "UI", "Value": [uid]},
                    "00081197": {"vr": "US", "Value": [reason]},
                }
            ],
        }
    }


def test_stow_refusals_redirects_and_delays(run: Path) -> None:
    times = Counter()

    def answer(uid: str) -> tuple[int, dict]:
        times[uid] += 1
        if uid == "1.2.1":
            return 409, failed(uid, 0x0122)
        if uid == "1.2.2":
            return 302, {}
        return (503, {}) if times[uid] == 1 else (202, stored(uid))

    with stow(answer) as (to, _):
        pushed = push(run, to, pauses=(0,))
    assert pushed.accepted == 1
    assert [reason for _, reason in pushed.failed] == [
        "refused (HTTP 409 Conflict, status 0x0122)",
        "refused (HTTP 302 Found)",
    ]
    assert times == {"1.2.1": 1, "1.2.2": 1, "1.2.3": 2}


def test_stow_with_a_failure_in_a_success_is_a_failure(run: Path) -> None:
    with stow(lambda uid: (202, failed(uid, 0xA900))) as (to, _):
        assert [reason for _, reason in push(run, to).failed] == ["refused (status 0xA900)"] * 3


@pytest.mark.parametrize(
    "to",
    ["pacs", "@host:104", "A@host", "A@host:0", "A@:104", "A@host:x", "TOO-LONG-A-TITLE-X@h:1",
     "ftp://host/x", "https://", "https://host/a?b=c", "https://host:99999/"],
)  # fmt: skip
def test_what_is_no_destination_is_refused(to: str) -> None:
    with pytest.raises(RequestError, match="--to is"):
        destination(to)


def test_destinations() -> None:
    assert destination("PACS@host:104") == CStore("PACS", "host", 104)
    assert destination("PACS@[::1]:104") == CStore("PACS", "::1", 104)
    assert destination("https://host/dicom-web/") == StowRs("https://host/dicom-web")
    assert destination("http://[::1]:80/x") == StowRs("http://[::1]:80/x")


def test_the_command_and_its_exit_codes(run: Path, tmp_path: Path, caplog) -> None:
    caplog.set_level(logging.DEBUG)

    def patchad(*arguments: object):
        return CliRunner().invoke(app, [str(argument) for argument in ("-v", *arguments)])

    said = []
    with scp(lambda uid: 0xC000 if uid == "1.2.2" else 0) as (to, _):
        said.append(patchad("push", run, "--to", to))
        assert said[-1].exit_code == 1
        assert f"2 accepted by {to}, 1 not, 0 accepted before" in said[-1].stdout
        assert "status 0xC000" in said[-1].stderr
    with scp() as (to, _):
        said.append(patchad("--json", "push", run, "--to", to))
        assert said[-1].exit_code == 0
        assert json.loads(said[-1].stdout)["accepted"] == 3
    assert patchad("push", run, "--to", "nowhere").exit_code == 2
    assert patchad("push", tmp_path, "--to", to).exit_code == 2
    for path in run.glob("dicom/*/*.dcm"):
        path.unlink()
    empty = patchad("push", run, "--to", to)
    assert empty.exit_code == 2
    assert "patchad export" in empty.stderr
    told = caplog.text + "".join(result.output for result in said) + (run / JOURNAL).read_text()
    assert "entinel" not in told.lower()


PICTURE = np.random.default_rng(0).integers(0, 256, (48, 40, 3), np.uint8)
HEAT = np.repeat(np.arange(48, dtype=np.uint8), 40).reshape(48, 40)


@pytest.fixture
def compressed(run: Path) -> Path:
    """The run with one picture in JPEG Lossless and one in RLE."""
    for uid, pixels in (("1.2.1", PICTURE), ("1.2.2", HEAT)):
        path = run / "dicom" / uid.replace(".", "_") / "sc.dcm"
        data = pydicom.dcmread(path)
        data.Rows, data.Columns = pixels.shape[:2]
        data.SamplesPerPixel = pixels.shape[2] if pixels.ndim == 3 else 1
        data.PhotometricInterpretation = "RGB" if pixels.ndim == 3 else "MONOCHROME2"
        data.BitsAllocated = data.BitsStored = 8
        data.HighBit, data.PixelRepresentation = 7, 0
        if pixels.ndim == 3:
            data.PlanarConfiguration = 0
            compress_picture(data, pixels)
        else:
            data.PixelData = pixels.tobytes()
            data["PixelData"].VR = "OB"
            data.compress(RLELossless, generate_instance_uid=False)
        data.save_as(path, enforce_file_format=True)
    return run


def pixels_by_uid(got: list[pydicom.Dataset]) -> dict[str, np.ndarray]:
    return {
        str(data.SOPInstanceUID): data.pixel_array
        for data in got
        if not data.file_meta.TransferSyntaxUID.is_encapsulated and "Rows" in data
    }


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_a_service_without_compression_gets_the_same_pixels(compressed: Path, syntax) -> None:
    with scp(syntax=syntax) as (to, got):
        assert push(compressed, to).accepted == 3
    assert {data.file_meta.TransferSyntaxUID for data in got} == {syntax}
    shown = pixels_by_uid(got)
    np.testing.assert_array_equal(shown["1.2.1"], PICTURE)
    np.testing.assert_array_equal(shown["1.2.2"], HEAT)


def test_a_service_that_takes_the_compression_gets_it(compressed: Path) -> None:
    takes = [JPEGLosslessSV1, RLELossless, ExplicitVRLittleEndian]
    with scp(syntax=takes) as (to, got):
        assert push(compressed, to).accepted == 3
    syntaxes = {str(data.SOPInstanceUID): data.file_meta.TransferSyntaxUID for data in got}
    assert syntaxes == dict(zip(UIDS, takes, strict=True))
    sent = pydicom.dcmread(compressed / "dicom" / "1_2_1" / "sc.dcm")
    assert got[0].PixelData == sent.PixelData


def test_one_compression_of_two(compressed: Path) -> None:
    with scp(syntax=[RLELossless, ExplicitVRLittleEndian]) as (to, got):
        assert push(compressed, to).accepted == 3
    syntaxes = [data.file_meta.TransferSyntaxUID for data in got]
    assert syntaxes == [ExplicitVRLittleEndian, RLELossless, ExplicitVRLittleEndian]
    np.testing.assert_array_equal(got[0].pixel_array, PICTURE)


@pytest.mark.parametrize("reply", ["415", "failure", "silence"])
def test_stow_sends_again_without_compression_what_is_refused(compressed: Path, reply: str) -> None:
    def answer(uid: str) -> tuple[int, dict]:
        if not received[-1].file_meta.TransferSyntaxUID.is_encapsulated:
            return 200, stored(uid)
        return {"415": (415, {}), "failure": (409, failed(uid, 0xC122)), "silence": (200, {})}[
            reply
        ]

    with stow(answer) as (to, got):
        pushed = push(compressed, to)
    assert (pushed.accepted, pushed.failed) == (3, ())
    assert len(got) == 5  # two of three are sent twice
    shown = pixels_by_uid(received)
    np.testing.assert_array_equal(shown["1.2.1"], PICTURE)
    np.testing.assert_array_equal(shown["1.2.2"], HEAT)


def test_stow_takes_a_refusal_for_good_where_it_is_not_the_compression(compressed: Path) -> None:
    with stow(lambda uid: (403, {})) as (to, got):
        pushed = push(compressed, to)
    assert [reason for _, reason in pushed.failed] == ["refused (HTTP 403 Forbidden)"] * 3
    assert len(got) == 3


def test_a_dead_port_is_told_once_with_what_to_do(run: Path, monkeypatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with scp() as (to, _):
        pass
    for where in (to, f"http://{to.partition('@')[2]}/dicom-web"):
        said = CliRunner().invoke(app, ["push", str(run), "--to", where])
        assert said.exit_code == 2
        (line,) = said.output.splitlines()
        assert "no connection to" in line
        assert "check that it runs, its address, and the firewall" in line


def test_after_an_object_that_breaks_the_connection_the_others_are_sent(
    run: Path, monkeypatch
) -> None:
    def answer(uid: str) -> int:
        if uid == "1.2.1":
            for association in entity.active_associations:
                association.abort()
        return 0

    class Watched(AE):
        def __init__(self, *arguments, **settings) -> None:
            nonlocal entity
            super().__init__(*arguments, **settings)
            entity = self

    entity = None
    monkeypatch.setattr("test_push.AE", Watched)
    with scp(answer) as (to, got):
        pushed = push(run, to, pauses=())
    assert pushed.accepted == 2
    assert [data.SOPInstanceUID for data in got] == UIDS
    ((path, reason),) = pushed.failed
    assert Path(path).parent.name == "1_2_1"
    assert reason == f"{to} gave no answer"


def test_a_reason_is_told_once() -> None:
    failed = [("a", "no"), ("b", "why"), ("c", "no"), ("d", "no")]
    assert once(failed) == [("a and 2 more", "no"), ("b", "why")]


def test_an_object_with_other_things_than_uids_is_no_object(run: Path) -> None:
    path = run / "dicom" / "1_2_2" / "sc.dcm"
    path.write_bytes(path.read_bytes().replace(b"1.2.2\0", b"SENTIN"))
    with scp() as (to, _):
        pushed = push(run, to)
    ((_, reason),) = pushed.failed
    assert "is not a complete DICOM object" in reason
    assert "SENTIN" not in str(pushed) + (run / JOURNAL).read_text()
