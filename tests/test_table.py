import csv
import io
import os
import subprocess
import sys
from datetime import date, datetime

import openpyxl
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchad.errors import RequestError
from patchad.read.manifest import read_manifest, read_regions
from patchad.read.read import find_images
from patchad.read.table import read_table

ROWS = [
    ["path", "patient_id", "label", "spacing_mm", "note"],
    ["ä/1.png", "007", "negative", "0.2", "a, b; c"],
    ["", "", "", "", ""],
    ["2.png", "P2", "positive", "0.2 0.25", ""],
]


def written(rows, separator, comma=False):
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=separator, lineterminator="\r\n").writerows(
        [[cell.replace(".", ",") if comma and cell[:2] == "0." else cell for cell in row]
         for row in rows]
    )  # fmt: skip
    return text.getvalue()


@pytest.mark.parametrize(
    ("name", "separator", "encoding", "comma"),
    [
        ("films.csv", ",", "utf-8", False),
        ("films.csv", ",", "utf-8-sig", False),
        ("films.csv", ";", "utf-8-sig", True),  # Excel's CSV UTF-8 where the comma is decimal
        ("films.csv", ";", "utf-8", False),
        ("films.tsv", "\t", "utf-8", True),
        ("films.txt", "\t", "utf-16", True),  # Excel's Unicode text
        ("films.csv", ";", "utf-16", True),
    ],
)
def test_text_as_editors_and_excel_write_it(tmp_path, name, separator, encoding, comma):
    path = tmp_path / name
    text = written(ROWS, separator, comma)
    if comma:
        text = text.replace("0,2 0.25", "0,2 0,25")
    path.write_bytes(text.encode(encoding))
    one, two = read_manifest(path)
    assert (one.path, one.patient_id) == (tmp_path / "ä" / "1.png", "007")
    assert (one.spacing_mm, two.spacing_mm) == ((0.2, 0.2), (0.2, 0.25))
    assert one.other == {"note": "a, b; c"}
    assert [number for number, _ in read_table(path).records] == [2, 4]


def test_the_line_by_which_excel_is_told_the_separator(tmp_path):
    path = tmp_path / "films.csv"
    path.write_text("sep=|\npath|patient_id|label\n1.png|P1|negative\n")
    (row,) = read_manifest(path)
    assert (row.path.name, row.label) == ("1.png", "negative")


def test_a_decimal_comma_is_one_only_where_columns_are_separated_otherwise(tmp_path):
    path = tmp_path / "regions.csv"
    header = ["path", "x", "y", "width", "height"]
    path.write_text(written([header, ["1.png", "0,5", "1", "2,25", "3"]], ";"))
    (region,) = read_regions(path)[tmp_path / "1.png"]
    assert (region.x, region.y, region.width, region.height) == (0.5, 1, 2.25, 3)
    path.write_text(written([header, ["1.png", "1,234", "1", "2", "3"]], ","))
    with pytest.raises(RequestError, match="row 2, column x: found 1,234"):
        read_regions(path)
    path.write_text(written([header, ["1.png", "1.234,5", "1", "2", "3"]], ";"))
    with pytest.raises(RequestError, match=r"row 2, column x: found 1\.234,5"):
        read_regions(path)


def test_workbooks(tmp_path):
    path = tmp_path / "films.xlsx"
    book = openpyxl.Workbook()
    sheet = book.active
    sheet.append(["path", "patient_id", "birads", "spacing_mm", "acquired", "seen", "full"])
    sheet.append(["a/1.png", 7, 4.0, 0.2, date(2020, 1, 2), datetime(2020, 1, 2, 3, 4), True])
    sheet.append([])
    sheet.append(["2.png", "P2", "4a", "0,1 0,2"])
    book.create_sheet("other").append(["path"])
    book.save(path)
    one, two = read_manifest(path)
    assert (one.path, one.patient_id, one.label) == (tmp_path / "a/1.png", "7", "positive")
    assert (one.spacing_mm, two.spacing_mm) == ((0.2, 0.2), (0.1, 0.2))
    seen = {"acquired": "2020-01-02", "seen": "2020-01-02T03:04:00", "full": "True", "birads": "4"}
    assert one.other == seen
    assert two.other == dict.fromkeys(("acquired", "seen", "full"), "") | {"birads": "4a"}
    sheet["B4"] = None
    book.save(path)
    with pytest.raises(RequestError, match="row 4, column patient_id"):
        read_manifest(path)


def test_parquet_keeps_its_text_and_leaves_out_its_index(tmp_path):
    path = tmp_path / "films.parquet"
    frame = pd.DataFrame(
        {"path": ["1.png", None, "2.png"], "patient_id": ["a", None, "a"], "n": [1.0, None, 2.5]},
        index=["x", "y", "z"],
    )
    frame.to_parquet(path)
    table = read_table(path)
    assert table.columns == ("path", "patient_id", "n")
    assert [*table.records] == [
        (2, {"path": "1.png", "patient_id": "a", "n": "1"}),
        (4, {"path": "2.png", "patient_id": "a", "n": "2.5"}),
    ]


CELL = st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), max_size=8).map(str.strip)


@given(
    st.lists(st.lists(CELL, min_size=3, max_size=3), min_size=1, max_size=5),
    st.sampled_from(",;\t"),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
def test_what_was_written_is_read(tmp_path_factory, rows, separator, encoding):
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_bytes(written([["a", "b", "c"], *rows], separator).encode(encoding))
    filled = [(n, row) for n, row in enumerate(rows, start=2) if any(row)]
    if not filled:
        with pytest.raises(RequestError, match="no rows below"):
            read_table(path)
        return
    assert [(n, [*record.values()]) for n, record in read_table(path).records] == filled


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", "path,x\n".encode("utf-16-le"), "not a table of text: save it as CSV UTF-8"),
        ("a.csv", b"\xff\xfea", "is not UTF-8 text"),
        ("a.csv", b"path;x\n1;2;3\n", r"row 2 has more cells than row 1 names columns \(2\)"),
        ("a.csv", b"path;;\n1;2;\n", "row 2 has more cells"),
        ("a.csv", b";path\n1;2\n;\n", None),
        ("a.csv", b"path,x,,\n1,2,,\n", None),
        ("a.xlsx", b"PK no zip", "not a workbook that can be read"),
        ("a.xls", b"", "save it as .xlsx or CSV UTF-8"),
        ("none.xlsx", None, "cannot be read: No such file"),
        ("none.csv", None, "cannot be read: No such file"),
        ("none.parquet", None, "cannot be read"),
    ],
)
def test_what_cannot_be_read_is_said(tmp_path, name, content, said):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    if said is None:
        assert len(read_table(path).records) == 1
        return
    with pytest.raises(RequestError, match=said):
        read_table(path)


def test_every_kind_of_table_is_an_input(tmp_path):
    (tmp_path / "1.png").touch()
    for name in ("a.csv", "a.tsv", "a.txt"):
        (tmp_path / name).write_text("path,patient_id,label\n1.png,P1,negative\n")
        (row,) = find_images([tmp_path / name])
        assert (row.path, row.patient_id) == (tmp_path / "1.png", "P1")


def test_a_table_without_images_is_refused_before_torch_is_loaded(tmp_path):
    table = tmp_path / "films.csv"
    table.write_text("path,patient_id,label\nnone.png,P1,negative\nx/none.png,P2,negative\n")
    code = """
import sys
from patchad.cli.app import main
try:
    main()
except SystemExit as end:
    print(end.code, "torch" in sys.modules)
"""
    for command in (["train"], ["screen"], ["selftest", "model", "--on"]):
        done = subprocess.run(
            [sys.executable, "-c", code, *command, str(table)],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            cwd=tmp_path,
        )
        assert done.stdout == "2 False\n"
        assert f"none of the 2 images that {table} names exists" in done.stderr
        assert "relative to the folder of the manifest" in done.stderr
    assert [*tmp_path.iterdir()] == [table]
