import json
import os
import shutil
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchad.errors import OutputError, RequestError
from patchad.files.claim import claimed
from patchad.files.clearing import Layout, clear
from patchad.files.lock import LOCK, locked
from patchad.files.marker import MARKER, kind_of, read_marker

INNER = Layout("inner", ("done.json", "parts/*.part"))
OUTER = Layout(
    "outer",
    ("done.json", "maps/{id}.tif", "objects/{id}/sc.dcm", "objects/*/ko.dcm", "list.txt"),
    nested={"inner/*": INNER},
    ids=lambda folder: frozenset(
        (folder / "list.txt").read_text().split() if (folder / "list.txt").exists() else ()
    ),
)


def names(folder):
    """What is in a folder, at any depth, but for markers and locks."""
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.name not in (MARKER, LOCK) and not path.is_dir()
    )


def take(folder, request=None, *, layout=OUTER, **options):
    with claimed(folder, layout, request or {"seed": 0}, command="test", **options) as claim:
        return claim


def fill(folder):
    """An outer folder as patchad leaves it, and files of its user's in every place."""
    take(folder)
    own = ["done.json", "maps/a.tif", "maps/b.tif", "objects/a/sc.dcm", "objects/s/ko.dcm"]
    theirs = ["notes.txt", "maps/mine.tif", "maps/a.txt", "objects/a/own.dcm", "thesis/done.json"]
    for name in [*own, *theirs]:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (folder / "list.txt").write_text("a b")
    return [*own, "list.txt"], sorted(theirs)


@pytest.mark.parametrize("options", [{}, {"resume": True}, {"overwrite": True}])
def test_a_folder_that_is_not_there_is_made_and_marked(tmp_path, options):
    folder = tmp_path / "deep" / "run"
    claim = take(folder, **options)
    assert not claim.resumed
    marker = json.loads((folder / MARKER).read_text())
    assert (marker["kind"], marker["request"]) == ("outer", {"seed": 0})
    assert (marker["path"], marker["inode"]) == (str(folder), folder.stat().st_ino)


def test_a_folder_in_use_is_refused_and_the_ways_out_are_named(tmp_path):
    (tmp_path / "a").touch()
    with pytest.raises(OutputError, match=r"not empty: continue with --resume, .*--overwrite"):
        take(tmp_path, resume=False, overwrite=False)
    with pytest.raises(OutputError, match=r"not empty: name a new or empty folder"):
        take(tmp_path)
    assert os.listdir(tmp_path) == ["a"]  # noqa: PTH208


def test_overwriting_deletes_what_patchad_wrote_and_nothing_else(tmp_path):
    folder = tmp_path / "run"
    own, theirs = fill(folder)
    (folder / ".patchad-0123456789abcdef.tif").touch()
    (folder / "maps" / ".patchad-0123456789abcdef.tif").touch()
    assert names(folder) != theirs
    take(folder, {"seed": 1}, overwrite=True)
    assert names(folder) == theirs
    assert not (folder / "objects" / "s").exists()  # empty, and made by patchad
    assert read_marker(folder).request == {"seed": 1}
    assert len(own) == 6


@given(st.sets(st.text(string.ascii_lowercase + "._-/", min_size=1, max_size=12), max_size=8))
def test_no_file_of_the_users_is_ever_deleted(tmp_path_factory, theirs):
    folder = tmp_path_factory.mktemp("any") / "run"
    own, _ = fill(folder)
    made = set()
    for name in theirs:
        path = folder / name.strip("/.")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                path.write_text("theirs")
                made.add(path)
        except OSError:
            continue  # a file is where its folder should be
    take(folder, overwrite=True)
    ours = {folder / name for name in own}
    assert all(path.read_text() == "theirs" for path in made - ours)
    assert not any(path.exists() for path in ours)


def test_a_folder_without_a_marker_is_never_emptied_nor_gone_on_with(tmp_path):
    for name in ("breast", "checkpoint"):  # names as a demo or a training has them
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoint" / "thesis.docx").touch()
    for options in ({"overwrite": True}, {"resume": True}):
        with pytest.raises(OutputError, match=r"no \.patchad\.json.* patchad can't"):
            take(tmp_path, **options)
    assert names(tmp_path) == ["checkpoint/thesis.docx"]
    assert not (tmp_path / LOCK).exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "damaged"),
        ('{"format": 1, "kind": "outer"', "damaged"),
        ("[]", "damaged"),
        ('{"format": 1, "kind": "outer"}', r"damaged \(patchad: Field required"),
        ('{"format": 99}', "of format 99"),
        ("\xff", "damaged"),
    ],
)
def test_a_marker_that_is_damaged_is_refused(tmp_path, content, said):
    own, _ = fill(tmp_path)
    (tmp_path / MARKER).write_bytes(content.encode("latin-1"))
    for options in ({"overwrite": True}, {"resume": True}):
        with pytest.raises(OutputError, match=said):
            take(tmp_path, **options)
    assert set(own) <= set(names(tmp_path))
    assert kind_of(tmp_path) == ""


def test_a_folder_of_another_kind_is_refused(tmp_path):
    take(tmp_path / "run")
    for options in ({"overwrite": True}, {"resume": True}):
        with pytest.raises(OutputError, match=r"kind outer, and .* of kind inner"):
            take(tmp_path / "run", layout=INNER, **options)


def test_a_copied_marker_lets_nothing_be_deleted_but_a_moved_folder_stays_ours(tmp_path):
    folder = tmp_path / "run"
    fill(folder)
    shutil.copytree(folder, tmp_path / "copy")
    before = names(tmp_path / "copy")
    with pytest.raises(OutputError, match="this is a copy, which patchad does not empty"):
        take(tmp_path / "copy", overwrite=True)
    assert names(tmp_path / "copy") == before
    assert take(tmp_path / "copy", resume=True).resumed  # which deletes nothing
    folder.rename(tmp_path / "moved")
    take(tmp_path / "moved", overwrite=True)
    assert "done.json" not in names(tmp_path / "moved")


@pytest.mark.parametrize("name", ["done.json", "maps", "objects/a", MARKER])
def test_a_link_where_patchad_writes_is_refused_before_anything_is_deleted(tmp_path, name):
    folder, other = tmp_path / "run", tmp_path / "other"
    fill(folder)
    path = folder / name
    path.rename(other)
    path.symlink_to(other)
    before = [names(folder), names(other) if other.is_dir() else other.read_text()]
    with pytest.raises(OutputError, match="is a link"):
        take(folder, overwrite=True)
    assert before == [names(folder), names(other) if other.is_dir() else other.read_text()]


def test_other_links_are_neither_followed_nor_deleted(tmp_path):
    folder, other = tmp_path / "run", tmp_path / "other"
    fill(folder)
    other.mkdir()
    (other / "ko.dcm").touch()
    (folder / "objects" / "mine").symlink_to(other)
    (folder / "link").symlink_to(other)
    take(folder, overwrite=True)
    assert names(other) == ["ko.dcm"]
    assert (folder / "link").is_symlink()
    assert (folder / "objects" / "mine").is_symlink()


def test_a_folder_by_another_name_is_the_same_folder(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    take(tmp_path / "link")
    assert read_marker(tmp_path / "real").path == str(tmp_path / "real")
    with (
        locked(tmp_path / "real", "screen"),
        pytest.raises(OutputError, match="in use"),
    ):
        take(tmp_path / "link", resume=True)
    (tmp_path / "nowhere").symlink_to(tmp_path / "missing")
    with pytest.raises(OutputError, match="a link to nothing"):
        take(tmp_path / "nowhere")


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path):
    taken = tmp_path / "run"
    taken.write_text("mine")
    with pytest.raises(OutputError, match="run is a file, not a folder"):
        take(taken, overwrite=True)
    with pytest.raises(OutputError, match="cannot be used"):
        take(taken / "below")
    assert taken.read_text() == "mine"


@pytest.mark.parametrize("inner", ["", "films", "maps/a.tif"])
def test_inputs_in_the_folder_that_is_written_are_refused(tmp_path, inner):
    folder = tmp_path / "run"
    fill(folder)
    (tmp_path / "by-link").symlink_to(folder)
    before = names(folder)
    for given_as in (folder, tmp_path / "by-link", tmp_path / "x" / ".." / "run"):
        with pytest.raises(RequestError, match=r"lies in .*run, which this command writes"):
            take(folder, overwrite=True, apart=[given_as / inner])
    assert names(folder) == before
    take(folder, overwrite=True, apart=[tmp_path, tmp_path / "run-2"])  # it may lie in an input


def test_resume_and_overwrite_contradict_each_other(tmp_path):
    with pytest.raises(RequestError, match=r"--resume .* --overwrite .*: give one"):
        take(tmp_path / "run", resume=True, overwrite=True)
    assert not (tmp_path / "run").exists()


def test_a_resumed_request_equals_the_first_or_names_what_differs(tmp_path):
    folder = tmp_path / "run"
    first = {"seed": 0, "settings": {"stride": 16, "kinds": ("a", "b")}, "inputs": {"a": {}}}
    take(folder, first)
    assert take(folder, first, resume=True).resumed
    other = {"seed": 1, "settings": {"stride": 32, "kinds": ["a"]}, "inputs": {"b": {}}}
    with pytest.raises(RequestError) as refused:
        take(folder, other, resume=True)
    assert [line.strip() for line in str(refused.value).splitlines()[1:-1]] == [
        "seed: 0 then, 1 now",
        "settings stride: 16 then, 32 now",
        "settings kinds: ['a', 'b'] then, ['a'] now",
        "inputs a: given then, not now",
        "inputs b: not given then, but now",
    ]
    many = {"seed": 0, "inputs": {str(n): {} for n in range(20)}}
    with pytest.raises(RequestError, match="… and 17 more"):
        take(folder, many, resume=True)


def test_what_another_version_began_is_not_gone_on_with(tmp_path, monkeypatch):
    take(tmp_path / "run")
    monkeypatch.setattr("patchad.files.claim.__version__", "99.0")
    with pytest.raises(RequestError, match=r"patchad: .* then, 99\.0 now"):
        take(tmp_path / "run", resume=True)


def test_what_was_found_is_compared_when_resuming(tmp_path):
    folder = tmp_path / "run"

    def compare(found):
        return [f"film: {found['film']} then"] if found["film"] != "same" else []

    take(folder).remember({"film": "same"})
    assert take(folder, resume=True, compare=compare).marker.found == {"film": "same"}
    take(folder, overwrite=True).remember({"film": "other"})
    with pytest.raises(RequestError, match="film: other then"):
        take(folder, resume=True, compare=compare)


def test_resuming_sweeps_what_was_never_finished(tmp_path):
    folder = tmp_path / "run"
    _, theirs = fill(folder)
    left = [".patchad-0123456789abcdef.tif", "maps/.patchad-ffffffffffffffff.tif"]
    for name in [*left, "objects/a/.patchad-0123456789abcdef", "maps/.patchad-mine.tif"]:
        (folder / name).touch()
    take(folder, resume=True)
    assert [name for name in names(folder) if "/." in name or name[0] == "."] == [
        "maps/.patchad-mine.tif"
    ]
    assert set(theirs) < set(names(folder))


def test_a_folder_that_was_being_emptied_is_not_gone_on_with(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    fill(folder)

    def killed(*args, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("patchad.files.claim.clear", killed)
        with pytest.raises(KeyboardInterrupt):
            take(folder, overwrite=True)
    with pytest.raises(OutputError, match="was being emptied"):
        take(folder, resume=True)
    take(folder, overwrite=True)
    assert "done.json" not in names(folder)


def test_nested_folders_are_emptied_by_their_own_markers(tmp_path):
    folder = tmp_path / "run"
    fill(folder)
    for name in ("one", "two"):
        take(folder / "inner" / name, layout=INNER)
        (folder / "inner" / name / "done.json").touch()
    (folder / "inner" / "two" / "notes.txt").touch()
    with (
        locked(folder / "inner" / "one", "train"),
        pytest.raises(OutputError, match=r"inner/one is in use by `patchad train`"),
    ):
        clear(folder, OUTER, "inner")
    clear(folder, OUTER, "inner")
    assert names(folder / "inner") == ["two/notes.txt"]
    assert not (folder / "inner" / "one").exists()
    assert "done.json" in names(folder)  # only what lies below
    (folder / "inner" / "thesis").mkdir()
    (folder / "inner" / "thesis" / "done.json").touch()
    with pytest.raises(OutputError, match=r"inner/thesis .*move it away first"):
        take(folder, overwrite=True)
    assert "done.json" in names(folder)


def test_files_of_some_ids_only(tmp_path):
    fill(tmp_path)
    clear(tmp_path, OUTER, ids={"a"})
    left = names(tmp_path)
    assert "maps/a.tif" not in left
    assert "objects/a/sc.dcm" not in left
    assert {"maps/b.tif", "objects/s/ko.dcm", "done.json", "objects/a/own.dcm"} < set(left)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_said_so(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="cannot be"):
        take(tmp_path)
    with pytest.raises(OutputError, match="cannot be used"):
        take(tmp_path / "run")


def test_names_that_are_no_text_are_folders_like_others(tmp_path):
    folder = tmp_path / os.fsdecode(b"a\nb\xff")
    take(folder)
    assert take(folder, resume=True).resumed
    with pytest.raises(OutputError) as refused:
        take(folder)
    assert r"a\nb\udcff is not empty" in str(refused.value)
    take(folder, overwrite=True)
