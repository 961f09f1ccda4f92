"""DICOM objects sent to another machine: by C-STORE, or by STOW-RS (PS3.18, Store Transaction).

Logs of the libraries are suppressed: they may quote the patient. An object whose compression the
other machine doesn't accept is sent decompressed.
"""

import base64
import http.client
import json
import secrets
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Literal
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit

from pydicom import Dataset, dcmread
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.ae import ApplicationEntity
from pynetdicom.association import Association

from patchad.errors import ImageError, RequestError
from patchad.files.names import is_uid
from patchad.read.dicom_native import COMPRESSED, decompress
from patchad.read.quiet import quiet

SECONDS = 60.0  # how long to wait for an answer
_CALLING = "PATCHAD"
_NATIVE = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
_TRY_AGAIN = {408, 425, 429, 500, 502, 503, 504}
_FOR_GOOD = {301, 302, 303, 307, 308, 401, 403, 404}  # not about the compression
# Errors of a single transfer: another object may succeed.
_BROKEN = (BrokenPipeError, ConnectionResetError, ConnectionAbortedError)
# Explanations of C-STORE statuses (PS3.4 table B.2-1, PS3.7 annex C).
_STATUSES = {
    0x0111: "it has this object already",
    0x0122: "it does not store this kind of object",
    0x0124: "not authorised",
    0xB000: "it changed some values",
    0xB006: "it left out some values",
    0xB007: "the object doesn't match its SOP class",
}
# Why an association is rejected: (source, reason).
_REJECTIONS: Mapping[tuple[int | None, int | None], str] = {
    (1, 1): "no reason given",
    (1, 3): f"it does not know us, AE title {_CALLING}",
    (1, 7): "it has another AE title",
    (3, 1): "it is busy",
    (3, 2): "it has too many associations",
}


@dataclass(frozen=True)
class StoredObject:
    """A DICOM file, with the UIDs to negotiate its transfer."""

    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str

    @property
    def kind(self) -> str:
        """The name of its SOP class in the standard."""
        named = UID(self.sop_class_uid)
        return named.name if named.keyword else "its kind of object"

    @property
    def syntaxes(self) -> tuple[str, ...]:
        """The transfer syntaxes in which it can be sent, its own first."""
        own = self.transfer_syntax_uid
        convertible = own in (*COMPRESSED, *_NATIVE)  # native syntaxes can be converted
        return tuple(dict.fromkeys((own, *(_NATIVE if convertible else ()))))


@dataclass(frozen=True)
class Answer:
    """The outcome for an object. ``lost``: no answer came; ``unfit``: it must be decompressed."""

    outcome: Literal["accepted", "refused", "busy", "lost", "unfit"]
    words: str = ""


@dataclass(frozen=True)
class CStore:
    """A storage service over the DICOM protocol."""

    aet: str
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.aet}@{self.host}:{self.port}"

    def send(self, objects: Sequence[StoredObject]) -> Iterator[tuple[StoredObject, Answer]]:
        """Send over one association, and yield the answer for each object as it comes.

        If the association breaks at an object, the next ones are sent over a new one.
        """
        entity = ApplicationEntity(ae_title=_CALLING)
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = SECONDS
        entity.connection_timeout = min(SECONDS, 10)
        wanted = dict.fromkeys(
            (one.sop_class_uid, syntaxes)
            for one in objects
            for syntaxes in ((one.transfer_syntax_uid,), one.syntaxes[-2:])
        )
        for sop_class, syntaxes in wanted:
            entity.add_requested_context(sop_class, [*syntaxes])
        waiting = [*objects]
        with quiet():
            while waiting:
                association = entity.associate(self.host, self.port, ae_title=self.aet)
                taken = {
                    (context.abstract_syntax, syntax)
                    for context in association.accepted_contexts
                    for syntax in context.transfer_syntax
                }
                try:
                    if not association.is_established:
                        yield from ((one, self._answer(association, one, taken)) for one in waiting)
                        return
                    lost = False
                    while waiting and not lost:
                        one = waiting.pop(0)
                        answer = self._answer(association, one, taken)
                        lost = answer.outcome == "lost"
                        yield one, answer
                    if lost:  # the association may not have noticed yet
                        association.abort()
                finally:
                    if association.is_established:
                        association.release()

    def _answer(
        self, association: Association, one: StoredObject, taken: set[tuple[Any, Any]]
    ) -> Answer:
        if association.is_rejected:
            return _rejection(self, association)
        if not association.is_established:
            if association.acceptor.primitive is not None and not taken:
                return Answer("refused", f"{self} accepts none of the kinds of object offered")
            return Answer("lost", f"no connection to {self}")
        agreed = [syntax for syntax in one.syntaxes if (one.sop_class_uid, syntax) in taken]
        if not agreed:
            return Answer("refused", f"{self} does not accept {one.kind}")
        try:
            dataset = dcmread(one.path)
            if one.transfer_syntax_uid in COMPRESSED and agreed[0] in _NATIVE:
                decompress(dataset)
            status = association.send_c_store(dataset).get("Status")
        except RuntimeError:  # the association has ended
            status = None
        except Exception as error:  # many kinds; the texts quote values
            return Answer("refused", f"it cannot be encoded ({type(error).__name__})")
        if status is None:
            return Answer("lost", f"{self} gave no answer")
        words = _STATUSES.get(status, "")
        shown = f"status 0x{status:04X}" + (f", {words}" if words else "")
        if status in (0x0000, 0x0111) or status >> 12 == 0xB:
            return Answer("accepted", shown if status else "")
        if status >> 8 == 0xA7:
            return Answer("busy", f"{self} is out of resources ({shown})")
        return Answer("refused", f"{self} refuses it ({shown})")


@dataclass(frozen=True)
class StowRs:
    """A storage service over HTTP: ``url`` is the base of DICOMweb, without user and password."""

    url: str
    credentials: str = ""

    def __str__(self) -> str:
        return self.url

    def send(self, objects: Sequence[StoredObject]) -> Iterator[tuple[StoredObject, Answer]]:
        """Send each object in its own request, so that each has its own answer."""
        nobody = ""
        for one in objects:
            if nobody:  # waiting for each would take hours
                yield one, Answer("lost", nobody)
                continue
            try:
                answer = self._send(one)
                if answer.outcome == "unfit":
                    answer = self._send(one, native=True)
            except URLError as error:
                answer = Answer("lost", f"no connection to {self} ({error.reason})")
                if not isinstance(error.reason, _BROKEN):
                    nobody = answer.words
            except (OSError, http.client.HTTPException) as error:
                answer = Answer("lost", f"no answer from {self} ({error})")
            yield one, answer

    def _send(self, one: StoredObject, *, native: bool = False) -> Answer:
        try:
            request = self._request(one, native=native)
        except Exception as error:  # many kinds; the texts quote values
            return Answer("refused", f"it cannot be encoded ({type(error).__name__})")
        opener = urllib.request.build_opener(_NoRedirect)
        try:
            with opener.open(request, timeout=SECONDS) as reply:
                answer = _stow_answer(reply.read(), "")
        except HTTPError as error:
            status = f"HTTP {error.code} {error.reason}"
            if error.code in _TRY_AGAIN:
                return Answer("busy", f"{self} can't do it now ({status})")
            answer = _stow_answer(error.read(), status)
            if error.code in _FOR_GOOD:
                return answer
        compressed = one.transfer_syntax_uid in COMPRESSED and not native
        return Answer("unfit") if compressed and answer.outcome == "refused" else answer

    def _request(self, one: StoredObject, *, native: bool) -> urllib.request.Request:
        content = one.path.read_bytes()
        if native:
            content = _decompressed(content)
        boundary = secrets.token_hex(16)
        # The file has the syntax. If it is named here too, Orthanc ignores the object.
        head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        headers = {
            "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
            "Accept": "application/dicom+json",
            "User-Agent": "patchad",
        }
        if self.credentials:
            headers["Authorization"] = f"Basic {self.credentials}"
        body = head + content + f"\r\n--{boundary}--\r\n".encode()
        return urllib.request.Request(f"{self.url}/studies", body, headers, method="POST")


def _decompressed(content: bytes) -> bytes:
    """The file of an object, decompressed."""
    with quiet():
        dataset: Dataset = dcmread(BytesIO(content))
        decompress(dataset)
        file = BytesIO()
        dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def destination(to: str) -> CStore | StowRs:
    """Read ``aet@host:port`` or a URL; user and password in a URL are sent, but never shown.

    Raises:
        RequestError: it is neither.
    """
    rule = "--to is aet@host:port or https://host/dicom-web"
    if "://" in to:
        try:
            url = urlsplit(to)
            port = url.port
        except ValueError:
            raise RequestError(f"{rule}; this URL is damaged") from None
        if url.scheme not in ("http", "https") or not url.hostname:
            raise RequestError(f"{rule}; got a URL of {url.scheme or 'nothing'}")
        if url.query or url.fragment:
            raise RequestError(f"{rule}; this URL has a query or a fragment")
        host = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
        base = f"{url.scheme}://{host}{'' if port is None else f':{port}'}{url.path.rstrip('/')}"
        login = f"{unquote(url.username or '')}:{unquote(url.password or '')}"
        return StowRs(base, base64.b64encode(login.encode()).decode() if url.username else "")
    aet, _, address = to.rpartition("@")
    host, _, number = address.rpartition(":")
    if not (host and number.isdecimal() and 0 < int(number) < 65536):
        raise RequestError(f"{rule}; got {to!r}")
    if not (0 < len(aet.strip()) <= 16 and aet.isascii() and aet.isprintable()) or "\\" in aet:
        raise RequestError(f"{rule}; an AE title has 1 to 16 plain characters; got {aet!r}")
    return CStore(aet.strip(), host.strip("[]"), int(number))


def read_object(path: Path) -> StoredObject:
    """The UIDs of a DICOM file that its transfer is negotiated by.

    Raises:
        ImageError: it is no DICOM file, or lacks these UIDs.
    """
    try:
        with quiet():
            read = dcmread(path, stop_before_pixels=True, specific_tags=["SOPInstanceUID"])
            meta = read.file_meta
            uids = [
                str(meta.MediaStorageSOPClassUID),
                str(meta.MediaStorageSOPInstanceUID),
                str(meta.TransferSyntaxUID),
            ]
        if not all(map(is_uid, uids)):
            raise ValueError("something other than UIDs")
        return StoredObject(path, *uids)
    except Exception as error:  # many kinds from pydicom; the texts may quote the header
        raise ImageError(
            f"{path.name} is not a complete DICOM object ({type(error).__name__}): export it again"
        ) from None


def _rejection(to: CStore, association: Association) -> Answer:
    """Why an association was rejected (PS3.8 section 9.3.4)."""
    primitive = association.acceptor.primitive
    result = getattr(primitive, "result", None)
    why = getattr(primitive, "result_source", None), getattr(primitive, "diagnostic", None)
    words = _REJECTIONS.get(why, f"source {why[0]}, reason {why[1]}")
    return Answer("busy" if result == 2 else "refused", f"{to} rejects us: {words}")


def _stow_answer(body: bytes, fault: str) -> Answer:
    """The answer in a response about one object; a response that isn't JSON counts by HTTP status.

    A success in JSON lists the stored objects: one that lists none has stored nothing.
    """
    silent = False
    try:
        content = json.loads(body)
        content = content[0] if isinstance(content, list) else content
        failed = content.get("00081198", {}).get("Value", [])
        kept = content.get("00081199", {}).get("Value", [])
        reason = failed[0].get("00081197", {}).get("Value", [None])[0] if failed else None
        silent = not (failed or kept)
    except (ValueError, LookupError, AttributeError, TypeError):
        failed, kept, reason = [], [], None
    if failed and reason == 0x0111:
        return Answer("accepted", f"status 0x0111, {_STATUSES[0x0111]}")
    if failed or (fault and not kept):
        status = f"status 0x{reason:04X}" if isinstance(reason, int) else ""
        return Answer("refused", f"refused ({', '.join(filter(None, (fault, status)))})")
    if silent:
        return Answer("refused", "refused (the answer names no object that was stored)")
    return Answer("accepted")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """No redirects: a redirected POST would become a GET, and its 200 look like an acceptance."""

    def redirect_request(self, *_: Any) -> None:
        return None
