"""DICOM objects sent to another machine: by C-STORE, or by STOW-RS (PS3.18, Store Transaction).

What the libraries log about what they send is kept quiet: it may quote the patient.
"""

import base64
import http.client
import json
import logging
import secrets
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.error import HTTPError
from urllib.parse import unquote, urlsplit

from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.ae import ApplicationEntity
from pynetdicom.association import Association
from pynetdicom.presentation import build_context

from patchad.errors import ImageError, RequestError
from patchad.io.raster import quiet

SECONDS = 60.0  # how long to wait for an answer
_CALLING = "PATCHAD"
_NATIVE = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
_TRY_AGAIN = {408, 425, 429, 500, 502, 503, 504}
# Statuses of C-STORE (PS3.4 table B.2-1, PS3.7 annex C) that deserve words.
_STATUSES = {
    0x0111: "it has this object already",
    0x0122: "it does not store this kind of object",
    0x0124: "not authorised",
    0xB000: "it changed some values",
    0xB006: "it left out some values",
    0xB007: "it finds the object unlike its kind",
}
# Why an association is rejected: (source, reason).
_REJECTIONS: Mapping[tuple[int | None, int | None], str] = {
    (1, 1): "no reason given",
    (1, 3): f"it does not know us, AE title {_CALLING}",
    (1, 7): "it goes by another AE title",
    (3, 1): "it is busy",
    (3, 2): "it has too many associations",
}


@dataclass(frozen=True)
class StoredObject:
    """A DICOM file, and by what it is negotiated."""

    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str

    @property
    def kind(self) -> str:
        """The name of its SOP class."""
        return str(build_context(self.sop_class_uid).abstract_syntax.name)  # type: ignore[union-attr]


@dataclass(frozen=True)
class Answer:
    """What became of an object: ``lost`` means that no answer came, and to try again."""

    outcome: Literal["accepted", "refused", "busy", "lost"]
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
        """Send over one association, and give an answer for each object, as it comes."""
        entity = ApplicationEntity(ae_title=_CALLING)
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = SECONDS
        entity.connection_timeout = min(SECONDS, 10)
        wanted = dict.fromkeys((one.sop_class_uid, one.transfer_syntax_uid) for one in objects)
        for sop_class, syntax in wanted:
            entity.add_requested_context(sop_class, syntax)
            if syntax in _NATIVE:  # each can be written as the other
                entity.add_requested_context(sop_class, [*_NATIVE])
        with _silent():
            association = entity.associate(self.host, self.port, ae_title=self.aet)
            try:
                taken = {
                    (context.abstract_syntax, syntax)
                    for context in association.accepted_contexts
                    for syntax in context.transfer_syntax
                }
                for one in objects:
                    yield one, self._answer(association, one, taken)
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
                return Answer("refused", f"{self} takes none of the kinds of object offered")
            return Answer("lost", f"no connection to {self}")
        syntaxes = _NATIVE if one.transfer_syntax_uid in _NATIVE else (one.transfer_syntax_uid,)
        if not any((one.sop_class_uid, syntax) in taken for syntax in syntaxes):
            return Answer("refused", f"{self} does not take {one.kind}")
        try:
            dataset = dcmread(one.path)
            status = association.send_c_store(dataset).get("Status")
        except RuntimeError:  # the association has ended
            status = None
        except Exception as error:  # reading and encoding fail in many ways; words quote values
            return Answer("refused", f"it cannot be encoded ({type(error).__name__})")
        if status is None:
            return Answer("lost", f"{self} gave no answer")
        words = _STATUSES.get(status, "")
        told = f"status 0x{status:04X}" + (f", {words}" if words else "")
        if status in (0x0000, 0x0111) or status >> 12 == 0xB:
            return Answer("accepted", told if status else "")
        if status >> 8 == 0xA7:
            return Answer("busy", f"{self} is out of resources ({told})")
        return Answer("refused", f"{self} refuses it ({told})")


@dataclass(frozen=True)
class StowRs:
    """A storage service over HTTP: ``url`` is the base of DICOMweb, without user and password."""

    url: str
    credentials: str = ""

    def __str__(self) -> str:
        return self.url

    def send(self, objects: Sequence[StoredObject]) -> Iterator[tuple[StoredObject, Answer]]:
        """Send each object in a request of its own, so that each has an answer of its own."""
        opener = urllib.request.build_opener(_NoRedirect)
        for one in objects:
            try:
                with opener.open(self._request(one), timeout=SECONDS) as reply:
                    answer = _stow_answer(one, reply.read(), "")
            except HTTPError as error:
                told = f"HTTP {error.code} {error.reason}"
                if error.code in _TRY_AGAIN:
                    answer = Answer("busy", f"{self} is not able to ({told})")
                else:
                    answer = _stow_answer(one, error.read(), told)
            except (OSError, http.client.HTTPException) as error:
                reason = getattr(error, "reason", error)
                answer = Answer("lost", f"no answer from {self} ({reason})")
            yield one, answer

    def _request(self, one: StoredObject) -> urllib.request.Request:
        boundary = secrets.token_hex(16)
        head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        headers = {
            "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
            "Accept": "application/dicom+json",
            "User-Agent": "patchad",
        }
        if self.credentials:
            headers["Authorization"] = f"Basic {self.credentials}"
        body = head + one.path.read_bytes() + f"\r\n--{boundary}--\r\n".encode()
        return urllib.request.Request(f"{self.url}/studies", body, headers, method="POST")


def destination(to: str) -> CStore | StowRs:
    """Read ``aet@host:port`` or a URL; user and password in a URL are sent, but never told.

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
    """By what a DICOM file is negotiated.

    Raises:
        ImageError: it is none, or says not what it is.
    """
    try:
        with quiet():
            meta = dcmread(path, stop_before_pixels=True, specific_tags=["SOPInstanceUID"])
            return StoredObject(
                path,
                str(meta.file_meta.MediaStorageSOPClassUID),
                str(meta.file_meta.MediaStorageSOPInstanceUID),
                str(meta.file_meta.TransferSyntaxUID),
            )
    except Exception as error:  # pydicom fails in many ways; its words may quote the header
        raise ImageError(
            f"{path.name} is no whole DICOM object ({type(error).__name__}): export it again"
        ) from None


def _rejection(to: CStore, association: Association) -> Answer:
    """Why an association was rejected (PS3.8 section 9.3.4)."""
    primitive = association.acceptor.primitive
    result = getattr(primitive, "result", None)
    why = getattr(primitive, "result_source", None), getattr(primitive, "diagnostic", None)
    told = _REJECTIONS.get(why, f"source {why[0]}, reason {why[1]}")
    return Answer("busy" if result == 2 else "refused", f"{to} rejects us: {told}")


def _stow_answer(one: StoredObject, body: bytes, fault: str) -> Answer:
    """What a response says of one object; one that does not name it counts by its HTTP status."""
    try:
        told = json.loads(body)
        told = told[0] if isinstance(told, list) else told
        failed = told.get("00081198", {}).get("Value", [])
        kept = told.get("00081199", {}).get("Value", [])
        reason = failed[0].get("00081197", {}).get("Value", [None])[0] if failed else None
    except (ValueError, LookupError, AttributeError, TypeError):
        failed, kept, reason = [], [], None
    if failed and reason == 0x0111:
        return Answer("accepted", f"status 0x0111, {_STATUSES[0x0111]}")
    if failed or (fault and not kept):
        status = f"status 0x{reason:04X}" if isinstance(reason, int) else ""
        return Answer("refused", f"refused ({', '.join(filter(None, (fault, status)))})")
    return Answer("accepted")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirected POST would become a GET, and its 200 would look like an acceptance."""

    def redirect_request(self, *_: Any) -> None:
        return None


@contextmanager
def _silent() -> Iterator[None]:
    """Keep pydicom and pynetdicom quiet, whose logs and warnings may quote what is sent."""
    logger = logging.getLogger("pynetdicom")
    before, logger.propagate = logger.propagate, False
    try:
        with quiet():
            yield
    finally:
        logger.propagate = before
