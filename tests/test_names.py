"""Names of files: one plain part of a path, whatever the header or the user says."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import DataElement, Dataset

from patchad.errors import RequestError
from patchad.files.names import checked, is_uid, new_id
from patchad.read.dicom_header import uid_of
from patchad.store.run import heatmap_path, object_path, overlay_path, patches_path

HOSTILE = ("../../../X", "/abs/X", "..", ".", "", "a/b", "a\\b", "a\0b", "C:x", "x" * 500, "NUL",
           "nul.dcm", "COM1", "con.", "x.", ".hidden", "naïve", "a b", "\u202eX")  # fmt: skip


def test_ids_are_safe_file_names_and_never_twice() -> None:
    taken: set[str] = set()
    assert new_id("Film 1/../x", taken) == "Film_1_.._x"
    assert new_id("film_1_.._X", taken) == "film_1_.._X-2"  # where A and a are one file
    assert new_id("..", taken) == "image"
    assert len(new_id("a" * 500, taken)) == 100
    assert new_id("NUL", taken) == "image_NUL"  # a device of Windows
    assert new_id("Com1.x", taken) == "image_Com1.x"
    assert new_id("nullius", taken) == "nullius"


@given(st.lists(st.one_of(st.sampled_from(HOSTILE), st.text()), min_size=1, max_size=8))
def test_every_id_is_a_plain_name_and_another(texts: list[str]) -> None:
    taken: set[str] = set()
    names = [new_id(text, taken) for text in texts]
    assert len({name.lower() for name in names}) == len(texts)
    for name in names:
        assert checked(name) == name
        assert Path(name).name == name
        assert re.fullmatch(r"[A-Za-z0-9-][A-Za-z0-9._-]*", name)
        assert not re.fullmatch(r"(?i)(con|prn|aux|nul|com\d|lpt\d)", name.split(".")[0])


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("path", [patches_path, heatmap_path, overlay_path, object_path])
def test_no_path_of_a_run_is_made_of_anything_else(tmp_path: Path, name: str, path) -> None:
    more = ("ko",) if path is object_path else ()
    with pytest.raises(RequestError, match="no plain file name") as refused:
        path(tmp_path, name, *more)
    assert not name.strip(".") or name not in str(refused.value)
    assert path(tmp_path, "1.2.840.1-2", *more).is_relative_to(tmp_path)


def test_what_can_stand_for_a_uid() -> None:
    for text in ("1.2.840.10008", "2.25.0", "1" * 64, "1.02.3"):
        assert is_uid(text)
    for text in ("", "1..2", ".1", "1.", "..", "1.2/../3", "1.2\n", "1" * 65, "1.x", "1.2\0"):
        assert not is_uid(text)


def test_of_several_values_none_is_a_uid() -> None:
    data = Dataset()
    data.add(DataElement("SOPInstanceUID", "UI", ["1.2.3", "..", "x"], validation_mode=0))
    data.StudyInstanceUID = "1.2.3"
    assert uid_of(data, "SOPInstanceUID") == ""
    assert uid_of(data, "StudyInstanceUID") == "1.2.3"
