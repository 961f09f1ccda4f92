"""What objects take over from a header: listed elements alone, each legal, none quoted."""

import io
import shutil
import subprocess
from functools import partial
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_builders import CARD, KINDS, LESIONS, assert_conforms, film, no_picture, screened
from hostile_headers import NAMED, complete, spoilt
from PIL import Image
from pydicom.dataset import Dataset

from patchad.core.image import Screening
from patchad.export.dicom.gsps import presentation_state
from patchad.export.dicom.object import Finding, Maker, stamp, write_object
from patchad.export.dicom.taken import take_over
from patchad.export.write import write_image_kinds
from patchad.read.quiet import quiet


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, Screening]:
    """A header that is complete and legal, and a screening of its film."""
    path = film(tmp_path_factory.mktemp("whole") / "film.dcm", "R-MLO")
    return complete(pydicom.dcmread(path, stop_before_pixels=True)), screened(path, LESIONS)[1]


def stored(header: Dataset) -> Dataset:
    """The header as it is read from a file."""
    file = io.BytesIO()
    with quiet():
        header.save_as(file, enforce_file_format=True)
        file.seek(0)
        return pydicom.dcmread(file)


def test_a_legal_header_is_taken_over_as_it_is(whole) -> None:
    header, _ = whole
    taken = take_over(stored(header))
    assert taken.notes == ()
    for keyword in NAMED:
        assert taken.header[keyword].value == header[keyword].value, keyword


@pytest.mark.parametrize("keyword", NAMED)
def test_a_header_with_one_illegal_element_gives_legal_objects(
    whole, keyword: str, tmp_path: Path
) -> None:
    header, screening = whole
    for number, (illegal, broken) in enumerate(spoilt(header, keyword)):
        taken = take_over(stored(broken))
        if illegal:
            name = pydicom.datadict.dictionary_description(illegal)
            assert any(name in note and "not legal" in note for note in taken.notes)
        found = Finding(taken, screening, Maker(CARD), no_picture)
        path = tmp_path / "dicom" / str(number) / "gsps.dcm"
        write_object(path, taken.header, found.maker, partial(presentation_state, found))
    assert_conforms(tmp_path)


def table(values: np.ndarray, first: int, bits: int) -> Dataset:
    """A lookup table of 16-bit words."""
    item = Dataset()
    descriptor = [len(values) % 2**16, first % 2**16, bits]
    item.add_new("LUTDescriptor", "US", descriptor)
    item.add_new("LUTData", "OW", values.astype("<u2").tobytes())
    item.LUTExplanation = "SENTINEL"
    item.PatientName = "SENTINEL"
    item.private_block(0x0029, "SENTINEL", create=True).add_new(1, "LO", "SENTINEL")
    return item


def with_tables(path: Path, **tables: Dataset) -> Path:
    data = pydicom.dcmread(film(path, "L-MLO"))
    if "ModalityLUTSequence" in tables:
        del data.RescaleSlope, data.RescaleIntercept, data.RescaleType
    for keyword, made in tables.items():
        setattr(data, keyword, [made])
    data.save_as(path)
    return path


CURVE = np.arange(4096) ** 2 >> 12  # 12 bits in, 12 bits out


@pytest.mark.parametrize(
    ("tables", "voi"),
    [
        ({"VOILUTSequence": table(CURVE, 0, 12)}, "lut"),
        ({"VOILUTSequence": table(CURVE >> 4, 0, 8)}, "lut"),
        ({"VOILUTSequence": table(CURVE[:3000], 500, 14)}, "lut"),
        ({"VOILUTSequence": table(np.arange(2**16), 0, 16)}, "lut"),  # a count of 0
        ({"VOILUTSequence": table(CURVE[:3000] >> 1, 500, 12)}, "lut"),  # nothing is white
        ({"ModalityLUTSequence": table(CURVE << 4, 0, 16)}, "full"),
        ({"ModalityLUTSequence": table(CURVE, 0, 12)}, "full"),
        ({"ModalityLUTSequence": table(CURVE, 0, 12)}, "window"),
        (
            {"ModalityLUTSequence": table(CURVE, 0, 12), "VOILUTSequence": table(CURVE, 0, 12)},
            "lut",
        ),
    ],
)
def test_tables_of_any_depth_show_the_film_as_patchad_read_it(tmp_path: Path, tables, voi) -> None:
    path = with_tables(tmp_path / "film.dcm", **tables)
    radiograph, screening = screened(path, LESIONS, voi)
    assert radiograph.source.voi == voi
    write_image_kinds(tmp_path, "a", screening, radiograph, CARD, ("gsps",))
    state = tmp_path / "dicom" / "a" / "gsps.dcm"
    assert b"SENTINEL" not in state.read_bytes()
    assert_conforms(tmp_path)
    if shutil.which("dcmp2pgm") is None:
        pytest.skip("dcmp2pgm is not installed: apt install dcmtk")
    shown = tmp_path / "shown.pgm"
    subprocess.run(["dcmp2pgm", "-p", state, path, shown], check=True, capture_output=True)
    with Image.open(shown) as picture:
        grey = np.asarray(picture) / 255
    np.testing.assert_allclose(grey, radiograph.pixels, atol=1.5 / 255)


def test_a_table_has_16_bits_and_a_signed_start_where_it_needs_one(tmp_path: Path) -> None:
    path = with_tables(tmp_path / "film.dcm", VOILUTSequence=table(CURVE, -1024, 12))
    data = pydicom.dcmread(path)
    data.RescaleIntercept = "-1024"
    taken = take_over(data)
    (voi,) = taken.header.VOILUTSequence
    assert voi["LUTDescriptor"].VR == "SS"
    assert voi.LUTDescriptor == [4096, -1024, 16]
    entries = np.frombuffer(voi.LUTData, "<u2")
    np.testing.assert_array_equal(entries, np.rint(CURVE * (65535 / 4095)))
    assert taken.notes == ("DICOM objects: VOI LUT Sequence repaired",)
    assert len(voi) == 2


@pytest.mark.parametrize("broken", ["LUTData", "LUTDescriptor"])
def test_a_damaged_table_is_left_out(tmp_path: Path, broken: str) -> None:
    spoilt_table = table(CURVE, 0, 12)
    del spoilt_table[broken]
    path = with_tables(tmp_path / "film.dcm", VOILUTSequence=spoilt_table)
    radiograph, screening = screened(path, LESIONS)
    assert radiograph.source.voi == "window"
    told = write_image_kinds(tmp_path, "a", screening, radiograph, CARD, ("gsps",))
    assert told.notes == ("DICOM objects: VOI LUT Sequence left out, not legal",)
    state = pydicom.dcmread(tmp_path / "dicom" / "a" / "gsps.dcm")
    assert state.SoftcopyVOILUTSequence[0].WindowCenter == 2048
    assert_conforms(tmp_path)


def test_numbers_of_too_many_digits_are_shortened(tmp_path: Path) -> None:
    path = film(tmp_path / "film.dcm", "L-MLO")
    data = complete(pydicom.dcmread(path))
    digits = {"RescaleSlope": "1.0000000000000000000", "WindowWidth": "4096.00000000000000001"}
    for keyword, text in digits.items():
        data.add_new(pydicom.tag.Tag(keyword), "UT", text)
    del data.RescaleIntercept
    with quiet():
        data.save_as(path)
    radiograph, screening = screened(path, LESIONS)
    write_image_kinds(tmp_path, "a", screening, radiograph, CARD, ("gsps",))
    state = pydicom.dcmread(tmp_path / "dicom" / "a" / "gsps.dcm")
    assert (state.RescaleSlope, state.RescaleIntercept) == (1, 0)
    assert state.SoftcopyVOILUTSequence[0].WindowWidth == 4096
    assert_conforms(tmp_path)


def test_a_text_beyond_its_character_set_is_written_in_unicode(tmp_path: Path) -> None:
    data = pydicom.dcmread(film(tmp_path / "film.dcm", "L-MLO"))
    data.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
    with quiet():
        data.SpecificCharacterSet = "nonsense"
    data.add_new("PatientName", "UN", "Müller^Zoë".encode())
    taken = take_over(stored(data))
    assert taken.notes == ("DICOM objects: Specific Character Set repaired",)
    made = Dataset()
    made.file_meta = data.file_meta
    made.SOPClassUID, made.SOPInstanceUID = data.SOPClassUID, data.SOPInstanceUID
    stamp(made, taken.header, Maker(CARD))
    assert stored(made).SpecificCharacterSet == "ISO_IR 192"
    assert str(stored(made).PatientName) == "Müller^Zoë"


def test_a_japanese_name_gets_into_every_object(tmp_path: Path) -> None:
    path = film(tmp_path / "film.dcm", "L-MLO")
    data = pydicom.dcmread(path)
    data.SpecificCharacterSet = ["", "ISO 2022 IR 87"]
    data.PatientName = "Yamada^Tarou=山田^太郎"
    data.save_as(path)
    radiograph, screening = screened(path, LESIONS)
    told = write_image_kinds(tmp_path, "a", screening, radiograph, CARD, KINDS)
    assert told.notes == ()
    for kind in KINDS:
        made = pydicom.dcmread(tmp_path / "dicom" / "a" / f"{kind}.dcm")
        assert made.PatientName == "Yamada^Tarou=山田^太郎"
        assert list(made.SpecificCharacterSet) == ["", "ISO 2022 IR 87"]
    assert_conforms(tmp_path)


def test_an_object_that_cannot_be_encoded_quotes_nothing(tmp_path: Path, whole) -> None:
    header, _ = whole
    made = Dataset()
    with quiet():
        made.add_new("PregnancyStatus", "US", "SENTINEL")
    with pytest.raises(Exception, match="its header is unusual") as raised:
        write_object(tmp_path / "sr.dcm", header, Maker(CARD), lambda: made)
    assert type(raised.value).__name__ == "ImageError"
    assert "SENTINEL" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []
