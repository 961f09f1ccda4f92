"""Values of headers: what is legal stays, what is plain is repaired, the rest is left out."""

import struct
from io import BytesIO

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.valuerep import VALIDATORS

from patchad.export.dicom.value import UNICODE, CharacterSet, character_set_of, legal_value
from patchad.read.quiet import quiet

ASCII = CharacterSet(("",))
A_KEYWORD = {
    **{"AS": "PatientAge", "CS": "PatientSex", "DA": "StudyDate", "DS": "PatientSize"},
    **{"IS": "InstanceNumber", "LO": "PatientID", "LT": "PatientComments", "PN": "PatientName"},
    **{"SH": "StudyID", "TM": "StudyTime", "UI": "StudyInstanceUID", "US": "PregnancyStatus"},
    **{"UT": "UniversalEntityID"},
}


def stored(**elements: bytes) -> Dataset:
    """A header whose elements hold these bytes."""
    header = Dataset()
    for keyword, value in elements.items():
        tag = Tag(keyword)
        header[tag] = RawDataElement(tag, None, len(value), value, 0, True, True)
    return header


def repaired(keyword: str, text: str | bytes, charset: CharacterSet = ASCII) -> object:
    """What is made of a value: None if it is left out."""
    raw = text if isinstance(text, bytes) else text.encode("latin-1")
    value = legal_value(stored(**{keyword: raw}), keyword, charset)
    return None if value is None else value.content


@pytest.mark.parametrize(
    ("keyword", "text", "legal"),
    [
        ("PatientAge", "061Y", "061Y"),
        ("PatientAge", "732.0m", "061Y"),
        ("PatientAge", "61", "061Y"),
        ("PatientAge", "61 Years", "061Y"),
        ("PatientAge", "9y", "009Y"),
        ("PatientAge", "18M", "018M"),
        ("PatientAge", "400 D", "013M"),
        ("PatientAge", "730 D", "002Y"),
        ("PatientAge", "30w", "006M"),
        ("PatientAge", "999", None),
        ("PatientAge", "old", None),
        ("StudyDate", "20230213", "20230213"),
        ("StudyDate", "2023.02.13", "20230213"),
        ("StudyDate", "2023-02-13", "20230213"),
        ("StudyDate", "2023/02.13", None),
        ("StudyDate", "20230230", None),
        ("StudyDate", "20230101-20231231", None),  # a range, as queries have it
        ("StudyDate", "13.02.2023", None),
        ("StudyTime", "12", "12"),
        ("StudyTime", "12:30:05", "123005"),
        ("StudyTime", "123005.123456789", "123005.123456"),
        ("StudyTime", "126000", None),
        ("StudyTime", "noon", None),
        ("PatientSize", "1.7", "1.7"),
        ("PatientSize", "1,7", "1.7"),
        ("PatientSize", "1.70000000000000000001", "1.7"),
        ("PatientSize", "0.333333333333333333", "0.33333333333333"),
        ("PatientSize", "nan", None),
        ("PatientSize", "1_0", None),
        ("InstanceNumber", "99999999999", None),
        ("InstanceNumber", " 7 ", "7"),
        ("PatientID", "Q1 \0\0", "Q1"),
        ("PatientID", "Q\x071", "Q 1"),
        ("PatientID", "Q1\\Q2", None),  # two values, where there may be one
        ("PatientID", "x" * 65, None),
        ("PatientID", "\x1b$Bx", None),
        ("PatientName", "Doe^Jane^^^", "Doe^Jane^^^"),
        ("PatientName", "A^B^C^D^E^F", "A^B^C^D^E"),
        ("PatientName", "A=B=C=D", "A=B=C"),
        ("PatientName", "x" * 65, None),
        ("OtherPatientNames", "A\\B", ["A", "B"]),
        ("PatientComments", "two\r\nlines \\ and all\0", "two\r\nlines \\ and all"),
        ("PatientSex", " f ", "F"),
        ("BodyPartExamined", "breast", "BREAST"),
        ("BodyPartExamined", "no such term!", None),
        ("BodyPartExamined", "X" * 17, None),
        ("StudyInstanceUID", "1.2.3\0", "1.2.3"),
        ("StudyInstanceUID", "../../1", None),
        ("StudyInstanceUID", "1.2.x", None),
        ("PregnancyStatus", b"\x02\0", 2),
        ("PregnancyStatus", b"\x02", None),
        ("PatientOrientation", "A\\F", ["A", "F"]),
        ("PatientOrientation", "A", None),
        ("StudyID", "", None),
    ],
)
def test_a_value_is_kept_mended_or_left_out(keyword: str, text, legal) -> None:
    assert repaired(keyword, text) == legal
    value = legal_value(stored(**{keyword: b""}), keyword, ASCII)
    assert value is not None
    assert (value.parts, value.repaired) == ((), False)


def test_what_was_mended_is_known_and_padding_is_no_fault() -> None:
    for text, changed in ((b"061Y", False), (b"061Y ", False), (b"732.0m", True)):
        value = legal_value(stored(PatientAge=text), "PatientAge", ASCII)
        assert value is not None
        assert value.repaired == changed


def test_terms_are_the_only_ones() -> None:
    terms = {"F": "F", "FEMALE": "F"}
    for text, kept in ((b"F", ("F",)), (b"Female", ("F",)), (b"X", None)):
        value = legal_value(stored(PatientSex=text), "PatientSex", ASCII, terms)
        assert (value and value.parts) == kept


def test_a_sequence_is_no_text() -> None:
    header = Dataset()
    header.add_new(Tag("PatientID"), "SQ", [Dataset()])
    assert legal_value(header, "PatientID", ASCII) is None


@pytest.mark.parametrize(
    ("said", "name", "terms", "guessed"),
    [
        (b"ISO_IR 100", "Mü".encode("latin-1"), ("ISO_IR 100",), False),
        (b"ISO IR 100", "Mü".encode("latin-1"), ("ISO_IR 100",), False),
        (b"iso_ir 192 ", "Mü".encode(), ("ISO_IR 192",), False),
        (b"UTF-8", "Mü".encode(), ("ISO_IR 192",), False),
        (b"\\ISO 2022 IR 87", b"x", ("", "ISO 2022 IR 87"), False),
        (b"", b"x", ("",), False),
        (b"", "Mü".encode("latin-1"), ("ISO_IR 100",), True),
        (b"", "Mü".encode(), ("ISO_IR 192",), True),
        (b"nonsense", b"x", ("",), True),
        (b"nonsense", "Mü".encode(), ("ISO_IR 192",), True),
    ],
)
def test_the_character_set_is_what_is_said_or_what_fits(said, name, terms, guessed) -> None:
    header = stored(SpecificCharacterSet=said, PatientName=name)
    charset = character_set_of(header)
    assert (charset.terms, charset.guessed) == (terms, guessed)
    if name != b"x":
        value = legal_value(header, "PatientName", charset)
        assert value is not None
        assert value.parts == ("Mü",)


def test_japanese_names_come_back() -> None:
    name = b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B"
    header = stored(SpecificCharacterSet=b"\\ISO 2022 IR 87", PatientName=name)
    charset = character_set_of(header)
    value = legal_value(header, "PatientName", charset)
    assert value is not None
    assert value.parts == ("Yamada^Tarou=山田^太郎",)
    assert charset.encodes("山田")
    assert not CharacterSet(("ISO_IR 100",)).encodes("山田")
    assert UNICODE.encodes("山田")
    assert ASCII.encodes("Yamada")
    assert not ASCII.encodes("é")  # Latin-1 only where the header says so


@given(st.sampled_from(sorted(A_KEYWORD)), st.binary(max_size=80), st.booleans())
def test_whatever_is_stored_something_legal_comes_of_it(vr: str, raw: bytes, utf8: bool) -> None:
    keyword, charset = A_KEYWORD[vr], UNICODE if utf8 else CharacterSet(("ISO_IR 100",))
    assert dictionary_VR(keyword) == vr
    with quiet():
        value = legal_value(stored(**{keyword: raw}), keyword, charset)
    if value is None or not value.parts:
        return
    for part in value.parts:
        if vr in VALIDATORS:
            assert VALIDATORS[vr](vr, part)[0] or vr == "UI", (vr, part)  # 1.02 is let through
    written = Dataset()
    written.SpecificCharacterSet = [*charset.terms]
    written.add_new(Tag(keyword), vr, value.content)
    file = BytesIO()
    pydicom.dcmwrite(file, written, implicit_vr=True, little_endian=True)
    file.seek(0)
    with quiet():
        again = pydicom.dcmread(file, force=True)
        read = legal_value(again, keyword, charset)
    assert read is not None
    assert read.parts == value.parts


def test_big_endian_numbers() -> None:
    header, tag = Dataset(), Tag("PregnancyStatus")
    header[tag] = RawDataElement(tag, "US", 2, struct.pack(">H", 3), 0, False, False)
    value = legal_value(header, "PregnancyStatus", ASCII)
    assert value is not None
    assert value.parts == (3,)
