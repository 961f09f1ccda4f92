import errno
import os
import stat

import pytest

from patchad.errors import OutputError
from patchad.files.whole import TEMPORARY, shown, write_whole


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def full_disk(aside):
    aside.write_bytes(b"half of")
    raise OSError(errno.ENOSPC, "No space left on device")


def test_text_bytes_and_writers_all_arrive(tmp_path):
    write_whole(tmp_path / "a.txt", "µ\n")
    write_whole(tmp_path / "new" / "folder" / "b.bin", b"\0\1")
    write_whole(tmp_path / "c.tif", lambda aside: aside.write_text(aside.suffix))
    assert (tmp_path / "a.txt").read_bytes() == "µ\n".encode()
    assert (tmp_path / "new" / "folder" / "b.bin").read_bytes() == b"\0\1"
    assert (tmp_path / "c.tif").read_text() == ".tif"  # writers that go by the name still can
    assert names(tmp_path) == ["a.txt", "c.tif", "new"]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o002, 0o664)])
def test_a_file_is_as_readable_as_any_other(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        write_whole(tmp_path / "a.txt", "")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == mode


def test_the_umask_of_other_threads_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "umask")  # it belongs to the process: even reading it sets it
    write_whole(tmp_path / "a.txt", "")
    assert names(tmp_path) == ["a.txt"]


def test_a_full_disk_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "card.json"
    write_whole(path, "old")
    with pytest.raises(OutputError, match=r"card\.json .*No space left.*--resume"):
        write_whole(path, full_disk)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["card.json"]


def test_a_writer_that_fails_otherwise_leaves_nothing_and_is_heard(tmp_path):
    def broken(aside):
        aside.write_text("half of")
        raise KeyError("score")

    with pytest.raises(KeyError, match="score"):
        write_whole(tmp_path / "table.csv", broken)
    assert names(tmp_path) == []


def test_a_folder_that_is_a_file_is_named(tmp_path):
    (tmp_path / "out").touch()
    with pytest.raises(OutputError, match=r"out/a\.txt could not be written"):
        write_whole(tmp_path / "out" / "a.txt", "")


def test_what_is_written_aside_is_known_by_its_name(tmp_path):
    seen = []
    write_whole(tmp_path / "map.tif", lambda aside: (seen.append(aside.name), aside.touch()))
    assert [bool(TEMPORARY.fullmatch(name)) for name in seen] == [True]
    for name in (".patchad.json", ".patchad.lock", ".patchad-1.tif", "map.tif", ".476add.png"):
        assert not TEMPORARY.fullmatch(name)


def test_a_path_in_a_message_is_one_line_of_letters():
    assert shown("films/µ 1.dcm") == "films/µ 1.dcm"
    assert shown(os.fsdecode(b"a\nb\xff\x1b[1m")) == "a\\nb\\udcff\\x1b[1m"
