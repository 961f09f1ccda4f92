import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchad.errors import OutputError
from patchad.read.manifest import ManifestRow
from patchad.store.journal import JOURNAL, Entry, Journal, ids_in
from patchad.store.run import ImageRow

IMAGES = [ManifestRow(Path(f"/films/{name}.png")) for name in "abc"]
ENTRIES = [
    Entry(ImageRow(f"id-{one.path.stem}", str(one.path), "ok", "", score=0.5), "sha", {"read": 1.5})
    for one in IMAGES
]


def written(folder: Path) -> Journal:
    journal = Journal.read(folder)
    for entry in ENTRIES:
        journal.begin(entry.row.id)
        journal.add(entry)
    return journal


def test_what_was_written_is_read(tmp_path: Path) -> None:
    written(tmp_path).begin("id-d")
    journal = Journal.read(tmp_path)
    assert [journal.of(image) for image in IMAGES] == ENTRIES
    assert journal.of(replace(IMAGES[0], frame=2)) is None
    assert journal.orphans == {"id-d"}
    assert journal.taken == {"id-a", "id-b", "id-c"}
    assert not journal.finished
    journal.rewrite(IMAGES[::-1], finished=True)
    journal = Journal.read(tmp_path)
    assert [*journal.entries.values()] == ENTRIES[::-1]
    assert (journal.finished, journal.orphans) == (True, set())


@given(st.data())
def test_a_journal_that_is_cut_off_anywhere_gives_whole_rows(tmp_path_factory, data) -> None:
    folder = tmp_path_factory.mktemp("cut")
    written(folder)
    whole = (folder / JOURNAL).read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    (folder / JOURNAL).write_bytes(whole[:cut])
    journal = Journal.read(folder)
    found = [*journal.entries.values()]
    assert found == ENTRIES[: len(found)]
    assert len(found) == sum(b"content" in line for line in whole[:cut].splitlines(True)
                             if line.endswith(b"\n"))  # fmt: skip


def test_damaged_lines_cost_their_images_and_are_told_of(tmp_path: Path, caplog) -> None:
    written(tmp_path)
    lines = (tmp_path / JOURNAL).read_text().splitlines()
    lines[1] = lines[1].replace('"ok"', '"fine"')
    lines[3] = "\0" * 20
    lines.append(json.dumps([1]))
    (tmp_path / JOURNAL).write_text("\n".join(lines) + "\n")
    journal = Journal.read(tmp_path)
    assert [*journal.entries.values()] == ENTRIES[2:]
    assert journal.orphans == {"id-a", "id-b"}
    assert "2 damaged lines" in caplog.text


def test_what_failed_is_tried_again_and_what_was_skipped_is_not(tmp_path: Path) -> None:
    journal = Journal.read(tmp_path)
    for image, status in zip(IMAGES, ("failed", "skipped", "ok"), strict=True):
        journal.add(Entry(ImageRow(image.path.stem, str(image.path), status, "why"), ""))
    journal = Journal.read(tmp_path)
    assert [entry.row.status for entry in journal.entries.values()] == ["skipped", "ok"]
    assert journal.orphans == {"a", "b"}


def test_ids_are_those_of_journal_and_table_that_are_names_of_files(tmp_path: Path) -> None:
    assert ids_in(tmp_path) == set()
    written(tmp_path).begin("../up")
    (tmp_path / "images.csv").write_text("id,path\nold,x\n..,y\n/etc/z,z\n,w\n")
    assert ids_in(tmp_path) == {"id-a", "id-b", "id-c", "old"}


def test_a_journal_that_cannot_be_written_or_read_is_said_so(tmp_path: Path) -> None:
    (tmp_path / JOURNAL).mkdir()
    with pytest.raises(OutputError, match="cannot be read"):
        Journal.read(tmp_path)
    with pytest.raises(OutputError, match="could not be written"):
        Journal(tmp_path / JOURNAL).begin("a")
    assert asdict(ENTRIES[0])["content"] == "sha"
