"""Values of a DICOM header, checked against their element and repaired in clear cases.

PS3.5 section 6.2 (value representations) and 6.4 (multiplicity), PS3.6 (which element has which).
Bytes are read as stored, since pydicom's conversions warn and quote values.
"""

import math
import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydicom import Dataset
from pydicom.charset import convert_encodings, decode_bytes, encode_string, python_encoding
from pydicom.datadict import dictionary_VM, dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.multival import MultiValue
from pydicom.tag import Tag
from pydicom.valuerep import MAX_VALUE_LEN, PN_DELIMS, TEXT_VR_DELIMS, DSfloat

from patchad.files.names import is_uid

_IN_A_CHARACTER_SET = ("LO", "LT", "PN", "SH", "ST", "UC", "UT")
_UNDIVIDED = ("LT", "ST", "UT")  # a backslash is no separator in them
_ENDS = " \0\t\r\n\f"
_UTF8, _LATIN1 = "ISO_IR 192", "ISO_IR 100"
_DAYS, _WEEKS, _MONTHS = 60, 26, 24  # ages from here on are given in the next larger unit


@dataclass(frozen=True)
class Value:
    """The legal values of an element, maybe none; ``repaired`` if they differ from the stored."""

    parts: tuple[str | int, ...]
    repaired: bool = False

    @property
    def content(self) -> Any:
        """In pydicom's form: one value, several, or None."""
        return self.parts[0] if len(self.parts) == 1 else [*self.parts] or None


@dataclass(frozen=True)
class CharacterSet:
    """How text is encoded, by its defined terms; ``guessed`` if the header doesn't give it."""

    terms: tuple[str, ...]
    guessed: bool = False

    @property
    def encodings(self) -> list[str]:
        """Its name in Python."""
        return convert_encodings([*self.terms])

    def encodes(self, text: str) -> bool:
        """Whether ``text`` survives a round trip in it; only ASCII by default."""
        if not any(self.terms):  # pydicom would take it for Latin-1
            return text.isascii()
        try:
            stored = encode_string(text, self.encodings)
            return decode_bytes(stored, self.encodings, TEXT_VR_DELIMS) == text
        except Exception:  # codecs fail in many ways
            return False


UNICODE = CharacterSet((_UTF8,))


def character_set_of(header: Dataset) -> CharacterSet:
    """The character set of a header; if it gives no valid one, one that fits its texts.

    That is UTF-8 if all texts beyond ASCII are valid UTF-8, else Latin-1.
    """
    named = "\\".join(_texts(header, "SpecificCharacterSet", "CS", CharacterSet(("",))))
    terms = tuple(_spelt(term) for term in named.split("\\"))
    if any(terms) and all(term in python_encoding for term in terms):
        return CharacterSet(terms)
    stored = [raw for tag in header.keys() if (raw := _text_bytes(header, tag))]  # noqa: SIM118
    beyond = [raw for raw in stored if not raw.isascii()]
    if not beyond:
        return CharacterSet(("",), guessed=any(terms))
    try:
        for raw in beyond:
            raw.decode("utf-8")
    except UnicodeDecodeError:
        return CharacterSet((_LATIN1,), guessed=True)
    return CharacterSet((_UTF8,), guessed=True)


def legal_value(
    header: Dataset,
    keyword: str,
    charset: CharacterSet,
    terms: Mapping[str, str] | None = None,
) -> Value | None:
    """The element's value in legal form; None if it is missing or can't be repaired.

    ``terms`` are its enumerated values, by their spelling in capitals.
    """
    vr = dictionary_VR(keyword)
    try:
        stored = _numbers(header, keyword) if vr == "US" else _texts(header, keyword, vr, charset)
        if not any(str(part).strip(_ENDS) for part in stored):
            return Value(())
        if not _fits(len(stored), dictionary_VM(keyword)):
            return None
        parts = [_MENDERS[vr](vr, part) for part in stored]
        if terms is not None:
            known = [terms.get(str(part).upper()) for part in parts]
            parts = [int(term) if term and vr == "US" else term for term in known]
    except Exception:  # of a codec, or any error that a damaged element causes in pydicom
        return None
    kept = tuple(part for part in parts if part is not None)
    if len(kept) < len(parts):
        return None
    if not any(str(part) for part in kept):
        kept = ()
    return Value(kept, kept != tuple(_trimmed(part) for part in stored))


def _spelt(term: str) -> str:
    """A defined term with frequent misspellings corrected."""
    term = term.upper().strip(_ENDS)
    if term in ("UTF-8", "UTF8"):
        return _UTF8
    term = re.sub(r"^ISO.?2022.?IR.?(\d+)$", r"ISO 2022 IR \1", term)
    return re.sub(r"^ISO.?IR.?(\d+)$", r"ISO_IR \1", term)


def _text_bytes(header: Dataset, tag: Any) -> bytes:
    """The bytes of a text that depends on the character set; none for any other element."""
    found = header.get_item(tag)
    try:
        counts = dictionary_VR(tag) in _IN_A_CHARACTER_SET
    except KeyError:  # a private one
        counts = False
    if counts and isinstance(found, RawDataElement) and isinstance(found.value, bytes):
        return found.value
    return b""


def _texts(header: Dataset, keyword: str, vr: str, charset: CharacterSet) -> list[str]:
    """The values of an element as text, without padding."""
    found = header.get_item(Tag(keyword))
    if found is None or found.value is None:
        return []
    value, encodings = found.value, ["latin-1"]
    if found.VR == "SQ":
        raise ValueError("a sequence")
    if vr in _IN_A_CHARACTER_SET:
        encodings = charset.encodings
    if isinstance(value, bytes):
        if vr == "PN":
            groups = value.split(b"=")
            text = "=".join(decode_bytes(group, encodings, PN_DELIMS) for group in groups)
        else:
            text = decode_bytes(value, encodings, TEXT_VR_DELIMS)
    else:
        several = isinstance(value, MultiValue | list | tuple)
        text = "\\".join(map(str, value)) if several else str(value)
    return [text] if vr in _UNDIVIDED else text.split("\\")


def _numbers(header: Dataset, keyword: str) -> list[int]:
    found = header.get_item(Tag(keyword))
    value = None if found is None else found.value
    if isinstance(value, bytes):
        little = not isinstance(found, RawDataElement) or found.is_little_endian
        return [n for (n,) in struct.iter_unpack("<H" if little else ">H", value)]
    several = isinstance(value, MultiValue | list | tuple)
    return [] if value is None else [int(n) for n in (value if several else [value])]


def _trimmed(part: str | int) -> str | int:
    return part.strip(_ENDS) if isinstance(part, str) else part


def _fits(count: int, multiplicity: str) -> bool:
    """Whether this number of values is allowed; ``multiplicity`` as 1, 2, 1-3, 1-n or 2-2n."""
    lowest, _, highest = multiplicity.partition("-")
    if not highest:
        return count == int(lowest)
    step = int(highest.strip("n") or 1)
    if highest.endswith("n"):
        return count >= int(lowest) and count % step == 0
    return int(lowest) <= count <= step


def _code(vr: str, text: str) -> str | None:
    text = " ".join(text.strip(_ENDS).upper().split())
    legal = len(text) <= MAX_VALUE_LEN["CS"] and re.fullmatch(r"[A-Z0-9 _]*", text)
    return text if legal else None


def _text(vr: str, text: str) -> str | None:
    """Without control characters, except line ends in longer texts."""
    kept = "\n\f\r" if vr in _UNDIVIDED else ""
    text = re.sub(f"[^{kept}\x1b\x20-\x7e\xa0-\U0010ffff]", " ", text)
    text = text.strip(_ENDS)
    # an escape to a character set that the header doesn't name: the text is not what it seems
    return text if "\x1b" not in text and len(text) <= MAX_VALUE_LEN.get(vr, 2**20) else None


def _name(vr: str, text: str) -> str | None:
    """Up to three groups (letters, ideographs, sounds) of up to five components."""
    groups = [_text(vr, "^".join(group.split("^")[:5])) for group in text.split("=")[:3]]
    kept = [group for group in groups if group is not None and len(group) <= 64]
    return "=".join(kept) if len(kept) == len(groups) else None


def _uid(vr: str, text: str) -> str | None:
    text = text.strip(_ENDS)
    return text if is_uid(text) else None


def _number(vr: str, text: str) -> str | None:
    """A finite decimal number of up to 16 characters; a comma is read as a point."""
    text = text.strip(_ENDS).replace(",", ".")
    if not re.fullmatch(_DECIMAL, text, re.ASCII):
        return None
    number = float(text)
    short = len(text) <= MAX_VALUE_LEN["DS"] and math.isfinite(number)
    return text if short else str(DSfloat(number, auto_format=True))


def _whole(vr: str, text: str) -> str | None:
    text = text.strip(_ENDS)
    legal = re.fullmatch(r"[+-]?\d{1,11}", text, re.ASCII) and -(2**31) <= int(text) < 2**31
    return text if legal else None


def _date(vr: str, text: str) -> str | None:
    """An existing date, as YYYYMMDD."""
    found = re.fullmatch(r"(\d{4})([-./ ]?)(\d{2})\2(\d{2})", text.strip(_ENDS), re.ASCII)
    if not found:
        return None
    day = found[1] + found[3] + found[4]
    datetime.strptime(day, "%Y%m%d")
    return day


def _time(vr: str, text: str) -> str | None:
    found = re.fullmatch(_CLOCK, text.strip(_ENDS), re.ASCII)
    if not found:
        return None
    hour, minute, second, fraction = (found[part] or "" for part in ("h", "m", "s", "f"))
    return hour + minute + second + (f".{fraction[:6]}" if fraction else "")


def _age(vr: str, text: str) -> str | None:
    """Three digits and a unit; larger numbers use the next larger unit, rounded down."""
    text = text.strip(_ENDS).upper()
    if re.fullmatch(r"\d{3}[DWMY]", text, re.ASCII):
        return text
    found = re.fullmatch(
        r"(\d{1,6})(?:[.,]\d*)?\s*([DWMY])?(?:AYS?|EEKS?|ONTHS?|EARS?)?", text, re.A
    )
    if not found:
        return None
    number, unit = int(found[1]), found[2] or "Y"
    if unit == "D" and number >= _DAYS:
        number, unit = (number // 7, "W") if number < 7 * _WEEKS else (number * 12 // 365, "M")
    if unit == "W" and number >= _WEEKS:
        number, unit = number * 12 // 52, "M"
    if unit == "M" and number >= _MONTHS:
        number, unit = number // 12, "Y"
    return f"{number:03d}{unit}" if number <= 150 else None


_DECIMAL = r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?"
_CLOCK = r"(?P<h>[01]\d|2[0-3])(?::?(?P<m>[0-5]\d)(?::?(?P<s>[0-5]\d|60)(?:\.(?P<f>\d+))?)?)?"
_MENDERS: Mapping[str, Callable[[str, Any], str | int | None]] = {
    **dict.fromkeys(("LO", "LT", "SH", "ST", "UC", "UT"), _text),
    "AS": _age,
    "CS": _code,
    "DA": _date,
    "DS": _number,
    "IS": _whole,
    "PN": _name,
    "TM": _time,
    "UI": _uid,
    "US": lambda vr, number: number if 0 <= number < 2**16 else None,
}
