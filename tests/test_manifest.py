import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image

from patchad.errors import RequestError
from patchad.read.manifest import ManifestRow, read_manifest, read_regions


@pytest.fixture
def table(tmp_path):
    def write(text, *, name="films.csv", encoding="utf-8"):
        path = tmp_path / name
        path.write_bytes(text.encode(encoding))
        return path

    return write


# --- manifests -----------------------------------------------------------------------------------


def test_every_column_has_its_place(table, tmp_path):
    path = table(
        "path,patient_id,label,split,birads,laterality,view,study_id,acquired,spacing_mm,reader\n"
        "a/1.dcm,P1,positive,test,2,L,mlo,S1,2020-01-02,0.1 0.2,Ann\n"
    )
    assert read_manifest(path) == [
        ManifestRow(
            path=tmp_path / "a" / "1.dcm",
            patient_id="P1",
            label="positive",
            split="test",
            laterality="L",
            view="MLO",
            study_id="S1",
            spacing_mm=(0.1, 0.2),
            other={"birads": "2", "acquired": "2020-01-02", "reader": "Ann"},
        )
    ]


def test_three_columns_are_enough(table, tmp_path):
    (row,) = read_manifest(table("path,patient_id,label\n1.png,007,unknown\n"))
    assert row == ManifestRow(tmp_path / "1.png", "007")
    assert (row.split, row.spacing_mm, row.other) == ("", None, {})


def test_birads_give_the_label_where_there_is_none(table):
    values = ["0", "1", "2", "3", "4", "4a", "4C", "5", "6", "2.0"]
    lines = "".join(f"{index}.png,P{index},{value}\n" for index, value in enumerate(values))
    rows = read_manifest(table("path,patient_id,birads\n" + lines))
    assert [row.label for row in rows] == ["unknown"] + ["negative"] * 2 + ["positive"] * 6 + [
        "negative"
    ]
    rows = read_manifest(table("path,patient_id,label,birads\n1.png,P1,,5\n2.png,P2,negative,5\n"))
    assert [row.label for row in rows] == ["positive", "negative"]


def test_paths_are_relative_to_the_manifest_and_absolute_ones_stay(table, tmp_path):
    path = table("path,patient_id,label\n../x/1.png,P1,negative\n/data/2.png,P2,negative\n")
    one, two = read_manifest(path)
    assert one.path == tmp_path.parent / "x" / "1.png"
    assert str(two.path) == "/data/2.png"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_utf8_with_and_without_its_mark(table, encoding):
    path = table("path,patient_id,label\nbrüst.png,Ö1,negative\n", encoding=encoding)
    (row,) = read_manifest(path)
    assert (row.path.name, row.patient_id) == ("brüst.png", "Ö1")


def test_words_that_pandas_takes_for_missing_stay(table):
    (row,) = read_manifest(table("path,patient_id,label,note\n1.png,NA,negative,null\n"))
    assert (row.patient_id, row.other) == ("NA", {"note": "null"})


def test_spaces_quotes_and_empty_rows(table):
    path = table(
        'path , patient_id,label\n\n 1.png , P1 , Negative \n,,\n"a,b.png",P2,positive\n\n'
    )
    one, two = read_manifest(path)
    assert (one.path.name, one.patient_id, one.label) == ("1.png", "P1", "negative")
    assert two.path.name == "a,b.png"
    bad = table("path,patient_id,label\n\n1.png,P1,negative\n\n2.png,P2,bad\n")
    with pytest.raises(RequestError, match="row 5, column label"):
        read_manifest(bad)


def test_parquet_as_csv(tmp_path):
    path = tmp_path / "films.parquet"
    pd.DataFrame(
        {
            "path": ["1.png", "2.png", "3.png"],
            "patient_id": [7, 8, 9],
            "birads": [4.0, 2.0, None],
            "label": [None, None, "unknown"],
            "spacing_mm": [0.2, 1.0, float("nan")],
        }
    ).to_parquet(path)
    rows = read_manifest(path)
    assert [row.patient_id for row in rows] == ["7", "8", "9"]
    assert [row.label for row in rows] == ["positive", "negative", "unknown"]
    assert [row.spacing_mm for row in rows] == [(0.2, 0.2), (1.0, 1.0), None]
    assert rows[0].path == tmp_path / "1.png"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("path,patient_id,label\n", "no rows below its header"),
        ("path,label\n1.png,negative\n", "lacks the column patient_id.*it names path, label"),
        ("file,id,label\n1.png,P1,negative\n", "lacks the columns path, patient_id"),
        ("path,patient_id\n1.png,P1\n", "neither a column label.*nor birads"),
        ("path;patient_id;label\n1.png;P1;nein\n", "row 2, column label: found nein; allowed"),
        ("path,patient_id,label,label\n1.png,P1,negative,negative\n", "row 1 names label twice"),
        ("path,patient_id,label\n1.png,P1,benign\n", "row 2, column label: found benign; allowed"),
        ("path,patient_id,label\n1.png,P1,\n", r"row 2, column label: found \(empty\)"),
        ("path,patient_id,label\n,P1,negative\n", "row 2, column path"),
        ("path,patient_id,label\n1.png,,negative\n", "row 2, column patient_id"),
        ("path,patient_id,birads\n1.png,P1,7\n", "row 2, column birads: found 7; allowed: 0, 1"),
        ("path,patient_id,birads\n1.png,P1,\n", r"row 2, column birads: found \(empty\)"),
        (
            "path,patient_id,label,split\n1.png,P1,negative,dev\n",
            "row 2, column split: found dev; allowed: train, validation, test, unlabelled",
        ),
        ("path,patient_id,label,laterality\n1.png,P1,negative,X\n", "column laterality: found X"),
        ("path,patient_id,label,spacing_mm\n1.png,P1,negative,0\n", "column spacing_mm: found 0"),
        ("path,patient_id,label,spacing_mm\n1.png,P1,negative,a b\n", "column spacing_mm"),
        ("path,patient_id,label,spacing_mm\n1.png,P1,negative,1 2 3\n", "column spacing_mm"),
        ("path,patient_id,label\n1.png,P1,negative,more\n", r"row 2 has more cells .*\(3\)"),
        ('path,patient_id,label\n"1.png,P1,negative\n', "line 2: unexpected end of data"),
        ("path,patient_id,label\n1.png,P1,negative\n2.png,P2\n", "row 3, column label"),
        (
            "path,patient_id,label\n1.png,P1,negative\nx/../1.png,P1,negative\n",
            "row 3, column path: .*1.png was named in row 2 already",
        ),
        (
            "path,patient_id,label,split\n1.png,P1,negative,train\n2.png,P1,negative,test\n",
            "row 3, column split: patient P1 is in test here and in train in row 2",
        ),
    ],
)
def test_an_error_names_the_row_and_the_column(table, text, message):
    with pytest.raises(RequestError, match=message):
        read_manifest(table(text))


def test_files_that_are_no_tables(table, tmp_path):
    with pytest.raises(RequestError, match="is not UTF-8 text"):
        read_manifest(table("path,patient_id,label\nbrüst.png,P,negative\n", encoding="latin-1"))
    with pytest.raises(RequestError, match="cannot be read"):
        read_manifest(tmp_path / "none.csv")
    with pytest.raises(RequestError, match=r"films\.parquet is not a table"):
        read_manifest(table("no parquet at all", name="films.parquet"))


# --- regions -------------------------------------------------------------------------------------


def test_boxes_by_image(table, tmp_path):
    path = table(
        "path,x,y,width,height,kind\n"
        "1.png,10,20,30.5,40,mass\n"
        "2.png,-5,0,10,10,\n"
        "1.png,0,0,1,1,calcification\n"
    )
    regions = read_regions(path)
    assert list(regions) == [tmp_path / "1.png", tmp_path / "2.png"]
    first, second = regions[tmp_path / "1.png"]
    assert (first.x, first.y, first.width, first.height, first.kind) == (10, 20, 30.5, 40, "mass")
    assert first.mask is None
    assert second.kind == "calcification"
    assert regions[tmp_path / "2.png"][0].x == -5


def lesion_mask():
    mask = np.zeros((8, 10), np.uint8)
    mask[1:3, 2:5] = 255
    mask[3, 5] = 7  # touches the corner of the first
    mask[6, 0:2] = 1
    return mask


def check_lesions(regions):
    one, two = regions
    assert (one.x, one.y, one.width, one.height) == (2, 1, 4, 3)
    np.testing.assert_array_equal(one.mask, [[1, 1, 1, 0], [1, 1, 1, 0], [0, 0, 0, 1]])
    assert (two.x, two.y, two.width, two.height) == (0, 6, 2, 1)
    np.testing.assert_array_equal(two.mask, [[1, 1]])


def test_each_part_of_a_mask_is_a_region(table, tmp_path):
    (tmp_path / "masks").mkdir()
    mask = lesion_mask()
    Image.fromarray(mask).save(tmp_path / "masks" / "8.png")
    Image.fromarray(mask > 0).save(tmp_path / "masks" / "1.png")
    Image.fromarray(mask.astype(np.uint16) * 256).save(tmp_path / "masks" / "16.png")
    Image.fromarray(np.dstack([mask * 0, mask, mask * 0, mask * 0 + 255])).save(
        tmp_path / "masks" / "rgba.png"
    )
    tifffile.imwrite(tmp_path / "masks" / "float.tif", (mask / 255).astype(np.float32))
    Image.fromarray(mask).save(tmp_path / "masks" / "8.pgm")
    names = ["8.png", "1.png", "16.png", "rgba.png", "float.tif", "8.pgm"]
    lines = "".join(f"film-{name},masks/{name},mass\n" for name in names)
    regions = read_regions(table("path,mask,kind\n" + lines))
    for name in names:
        found = regions[tmp_path / f"film-{name}"]
        check_lesions(found)
        assert {region.kind for region in found} == {"mass"}


def test_boxes_and_masks_in_one_file(table, tmp_path):
    Image.fromarray(lesion_mask()).save(tmp_path / "m.png")
    path = table("path,x,y,width,height,mask\n1.dcm,1,2,3,4,\n1.dcm,,,,,m.png\n")
    box, *parts = read_regions(path)[tmp_path / "1.dcm"]
    assert (box.x, box.y, box.width, box.height, box.mask) == (1, 2, 3, 4, None)
    check_lesions(parts)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,x,y,w,h\n1.png,1,1,1,1\n", "lacks the columns width, height.*it names path, x"),
        ("x,y,width,height\n1,1,1,1\n", "lacks the column path"),
        ("path,x,y,width,height\n,1,1,1,1\n", "row 2, column path"),
        ("path,x,y,width,height\n1.png,1,1,a,1\n", "row 2, column width: found a"),
        ("path,x,y,width,height\n1.png,nan,1,1,1\n", "row 2, column x: found nan"),
        ("path,x,y,width,height\n1.png,1,1,0,1\n", "row 2, column width: found 0"),
        ("path,x,y,width,height\n1.png,1,-9,5,5\n", "row 2, column height.*reach into"),
        ("path,x,y,width,height\n1.png,1,1,,1\n", "row 2, column width: found x, y, height"),
        ("path,mask\n1.png,\n", r"row 2, column mask: found \(nothing\)"),
        ("path,mask\n1.png,none.png\n", "row 2, column mask: .*none.png.*No such file"),
        ("path,mask\n1.png,films.csv\n", "row 2, column mask: .*not an image"),
        ("path,x,y,width,height,mask\n1.png,1,1,1,1,m.png\n", "row 2, column mask: found x, y"),
        ("path,mask\n1.png,zero.png\n", "row 2, column mask: .*zero.png.*all 0"),
    ],
)
def test_a_wrong_region_names_the_row_and_the_column(table, tmp_path, text, message):
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "zero.png")
    with pytest.raises(RequestError, match=message):
        read_regions(table(text))
