"""The studies' data preparation, on tables written by hand; the chain itself has its own tests."""

import math
import sys
import tarfile
from pathlib import Path

import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

from patchad.errors import RequestError
from patchad.read.manifest import read_manifest, read_regions

sys.path.insert(0, str(Path(__file__).parents[1] / "pipelines"))  # scripts, not a package

import mias
import nih_cxr
import study
import study_tables

INFO = """\
3rd column: Class of abnormality present:
                CALC - Calcification
mdb001 G CIRC B 535 425 197
mdb002 G NORM
mdb003 D NORM \n\
mdb004 D NORM
mdb005 F CIRC B 477 133 30
mdb005 F CALC M 500 168 26
mdb059 F CIRC B
mdb211 G CALC M 680 327 12
mdb212 G CALC B 687 882 33
mdb227 G CALC B 504 467 11
mdb233 G CALC M *NOTE 3*
mdb007 G NORM
mdb009 F NORM
mdb010 F NORM
mdb011 F NORM
"""


def mini_mias(folder: Path) -> Path:
    """A tarball in the distributed form, of empty films, with an Info.txt in it."""
    films = folder / "as-distributed"
    films.mkdir()
    names = {row.film for row in mias.parse_info(INFO)}
    for name in sorted(names):
        (films / f"{name}.pgm").write_bytes(b"P5\n1 1\n255\n\0")
    (films / "Info.txt").write_text(INFO)
    with tarfile.open(folder / "all-mias.tar.gz", "w:gz") as archive:
        for path in sorted(films.iterdir()):
            archive.add(path, path.name)
    return folder / "all-mias.tar.gz"


def test_y_of_mias_starts_at_the_bottom() -> None:
    (finding, *_) = mias.parse_info("mdb001 G CIRC B 535 425 197")
    assert finding.circle == (535, 425, 197)
    # centre: column 535, row 1023 − 425 = 598, of that pixel's middle; 197 to each side
    assert finding.box == (338.5, 401.5, 394, 394)


def test_a_circle_at_the_top_of_the_film_has_a_small_row() -> None:
    (finding,) = mias.parse_info("mdb144 F MISC B 233 994 29")
    assert finding.box is not None
    assert finding.box[1] == 0.5


def test_rows_of_info_txt() -> None:
    rows = mias.parse_info(INFO)
    assert len(rows) == 15
    assert [row.film for row in rows if row.film == "mdb005"] == ["mdb005", "mdb005"]
    by_film = {row.film: row for row in rows}
    assert by_film["mdb059"].circle is None  # the line just ends
    assert by_film["mdb059"].kind == "CIRC"
    assert by_film["mdb233"].circle is None  # NOTE 3
    assert by_film["mdb003"] == mias.Finding("mdb003", "D", "NORM", "", None)
    boxed = [row.film for row in rows if row.box is not None]
    # not mdb212, which lies in air, nor mdb227, whose radius is under 12
    assert boxed == ["mdb001", "mdb005", "mdb005", "mdb211"]


@pytest.mark.parametrize(
    "line", ["mdb001 G CIRC B 535 425", "mdb001 X NORM", "mdb001 G CIRC B a b c"]
)
def test_a_line_that_cannot_be_understood_is_named(line: str) -> None:
    with pytest.raises(RequestError, match="line 2: found 'mdb001"):
        mias.parse_info("\n" + line)


def test_info_txt_without_films() -> None:
    with pytest.raises(RequestError, match="names no film"):
        mias.parse_info("MAMMOGRAPHIC IMAGE ANALYSIS SOCIETY\n")


def test_films_of_a_pair_are_one_patient() -> None:
    assert [mias.patient_of(f"mdb{n:03d}") for n in (1, 2, 3, 322)] == [
        "p001",
        "p001",
        "p002",
        "p161",
    ]


def test_mias_is_prepared_as_tables_that_patchad_reads(tmp_path: Path) -> None:
    findings, films = mias.locate(mini_mias(tmp_path), tmp_path / "out")
    data = mias.prepare(findings, films, 0, tmp_path / "out" / "seed0")
    rows = {row.path.stem: row for row in read_manifest(data.training)}
    assert set(rows) == {finding.film for finding in findings}
    assert all(row.path.is_file() for row in rows.values())
    positive = {"mdb001", "mdb005", "mdb059", "mdb211", "mdb212", "mdb227", "mdb233"}
    assert {name for name, row in rows.items() if row.label == "positive"} == positive
    # whoever has an abnormal film is tested, on both films; her normal one is a negative
    assert all(rows[name].split == "test" for name in positive | {"mdb002"})
    assert (rows["mdb002"].label, rows["mdb002"].patient_id) == ("negative", "p001")
    assert rows["mdb005"].spacing_mm == (0.2, 0.2)
    assert rows["mdb005"].other == {"tissue": "F", "kind": "CIRC+CALC", "severity": "B+M"}
    # four normal patients (2, 4, 5, 6): two are tested, one of the rest calibrates
    normal = {row.patient_id: row.split for row in rows.values() if row.label == "negative"}
    del normal["p001"]
    assert sorted(normal.values()) == ["test", "test", "train", "validation"]
    regions = read_regions(data.regions)
    assert {path.stem: [region.kind for region in found] for path, found in regions.items()} == {
        "mdb001": ["CIRC"],
        "mdb005": ["CIRC", "CALC"],
        "mdb211": ["CALC"],
    }
    assert {row.path for row in read_manifest(data.test)} == {
        row.path for row in rows.values() if row.split == "test"
    }
    assert data.notes == (
        "Abnormalities without a region: no coordinates: mdb059, mdb233; radius under 12 pixels: "
        "mdb227; the circle lies in air: mdb212.",
    )


def test_the_seed_changes_the_split() -> None:
    patients = {f"p{number}" for number in range(40)}
    splits = [study.split_patients(patients, {"p3"}, seed) for seed in (0, 0, 1)]
    assert splits[0] == splits[1]
    assert splits[0] != splits[2]
    for tested, aside in splits:
        assert "p3" in tested
        assert (len(tested), len(aside)) == (1 + 20, 4)  # round(19.5) = 20; a fifth of 19
        assert not tested & aside


def test_a_tarball_is_extracted_once_and_stays_within_its_folder(tmp_path: Path) -> None:
    archive = mini_mias(tmp_path)
    _, films = mias.locate(archive, tmp_path / "out")
    before = films["mdb001"].stat().st_mtime_ns
    _, films = mias.locate(archive, tmp_path / "out")
    assert films["mdb001"].stat().st_mtime_ns == before
    with tarfile.open(tmp_path / "evil.tar", "w") as evil:
        evil.add(films["mdb001"], "../mdb001.pgm")
    with pytest.raises(RequestError, match=r"evil\.tar"):
        mias.locate(tmp_path / "evil.tar", tmp_path / "out" / "evil")
    assert not (tmp_path / "out" / "evil" / "mdb001.pgm").exists()


def test_info_txt_may_lie_beside_the_tarball(tmp_path: Path) -> None:
    archive = mini_mias(tmp_path)
    bare = tmp_path / "bare.tar"
    with tarfile.open(archive) as whole, tarfile.open(bare, "w") as other:
        for member in whole:
            if member.name != "Info.txt":
                other.addfile(member, whole.extractfile(member))
    with pytest.raises(RequestError, match=r"holds no Info\.txt"):
        mias.locate(bare, tmp_path / "out")
    (tmp_path / "Info.txt").write_text(INFO)
    assert len(mias.locate(bare, tmp_path / "out")[0]) == 15


NEW = """\
Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,\
OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]
a.png,No Finding,0,1,58,M,PA,2500,2048,0.168,0.168
b.png,Effusion|Pneumonia,1,1,59,M,AP,2500,2048,0.168,0.168
c.png,No Finding,0,2,17,F,PA,2048,2500,0.168,0.168
d.png,No Finding,0,3,412,F,PA,2048,2500,0.168,0.168
e.png,Mass,0,4,40,F,AP,2048,2500,0.168,0.168
f.png,No Finding,0,5,40,F,AP,2048,2500,1.68,1.68
"""
# The first release: quoted pairs here, ages with a unit, a last column without a name
OLD = """\
Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,\
"OriginalImage[Width,Height]","OriginalImagePixelSpacing[x,y]",
a.png,No Finding,0,1,058Y,M,PA,2500,2048,0.168,0.17,
c.png,No Finding,0,2,011M,F,PA,2048,2500,0.168,0.168,
"""


@pytest.mark.parametrize(
    "header",
    [
        "Image Index,Finding Label,Bbox [x,y,w,h],,,",
        'Image Index,Finding Label,"Bbox [x,y,w,h]"',
        "Image Index,Finding Label,Bbox [x,y,w,h]",
    ],
)
def test_boxes_of_the_release(header: str, tmp_path: Path) -> None:
    tail = ",,," if header.endswith(",,,") else ""
    path = tmp_path / "BBox_List_2017.csv"
    path.write_text(f"{header}\na.png,Infiltrate,225.5,370.25,686,400{tail}\n")
    assert nih_cxr.read_boxes(path) == [
        nih_cxr.Box("a.png", "Infiltration", 225.5, 370.25, 686.0, 400.0)
    ]


def test_boxes_without_numbers_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "BBox_List_2017.csv"
    path.write_text("Image Index,Finding Label,Bbox [x,y,w,h]\na.png,Mass,1,2\n")
    with pytest.raises(RequestError, match="row 2"):
        nih_cxr.read_boxes(path)


def test_entries_of_both_releases(tmp_path: Path) -> None:
    (tmp_path / "new.csv").write_text(NEW)
    (tmp_path / "old.csv").write_text(OLD)
    first = nih_cxr.read_entries(tmp_path / "new.csv")[0]
    # width 2500 · 0.168 mm over 1024 columns, height 2048 · 0.168 mm over 1024 rows
    assert first.spacing_mm == pytest.approx((0.336, 0.41015625))
    assert (first.patient, first.view, first.age, first.findings) == (
        "1",
        "PA",
        58,
        ("No Finding",),
    )
    old, infant = nih_cxr.read_entries(tmp_path / "old.csv")
    assert old.spacing_mm == pytest.approx((0.34, 0.41015625))  # x and y are not mixed up
    assert (old.age, infant.age) == (58, 0)


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    (tmp_path / "new.csv").write_text(NEW.replace("View Position", "View"))
    with pytest.raises(RequestError, match="lacks View Position"):
        nih_cxr.read_entries(tmp_path / "new.csv")


def test_who_takes_part(tmp_path: Path) -> None:
    (tmp_path / "new.csv").write_text(NEW)
    entries = nih_cxr.read_entries(tmp_path / "new.csv")
    images = {f"{name}.png": tmp_path / f"{name}.png" for name in "abcdef"}
    chosen, left_out = nih_cxr.choose(entries, images, "Pneumonia")
    assert [(entry.image, label) for entry, label in chosen] == [
        ("a.png", "negative"),
        ("b.png", "positive"),
    ]
    # c is a child, d is 412, e has a mass, f would be 3.4 m wide
    assert left_out == {
        "no adult, or age unknown": 2, "another finding": 1, "pixel spacing not plausible": 1,
    }  # fmt: skip
    chosen, left_out = nih_cxr.choose(entries, {"b.png": tmp_path, "e.png": tmp_path}, "")
    assert [label for _, label in chosen] == ["positive", "positive"]
    assert left_out["no such file"] == 4


def entry(number: int, view: str, *findings: str) -> nih_cxr.Entry:
    return nih_cxr.Entry(f"{number}.png", f"{number}", findings, 50, view, (0.35, 0.4))


def test_how_well_the_view_alone_predicts_the_label() -> None:
    rows = [
        (entry(1, "PA"), "positive"), (entry(2, "AP"), "positive"),
        (entry(3, "AP"), "negative"), (entry(4, "AP"), "negative"),
        (entry(5, "PA"), "negative"), (entry(6, "AP"), "negative"),
    ]  # fmt: skip
    # 8 pairs: PA wins 3 (the positive PA against the negative APs), ties 1 + 3, loses 1
    assert nih_cxr.view_auroc(rows) == (3 + 4 / 2) / 8
    assert math.isnan(nih_cxr.view_auroc(rows[:2]))


def test_nih_is_prepared_by_view_and_by_patient(tmp_path: Path) -> None:
    chosen = [(entry(n, "AP" if n % 2 else "PA", "No Finding"), "negative") for n in range(20)]
    chosen += [(entry(n, "AP", "Mass"), "positive") for n in (20, 21)]
    images = {row.image: tmp_path / row.image for row, _ in chosen}
    boxes = [nih_cxr.Box("20.png", "Mass", 10.5, 20, 30, 40)]
    boxes += [nih_cxr.Box("gone.png", "Mass", 1, 2, 3, 4)]
    data = nih_cxr.prepare(chosen, boxes, images, 0, tmp_path / "seed0", patients=100)
    rows = read_manifest(data.training)
    splits = pd.Series([row.split for row in rows]).value_counts()
    assert dict(splits) == {"test": 2 + 10, "train": 8, "validation": 2}
    assert rows[0].spacing_mm == (0.35, 0.4)
    assert list(data.subsets) == ["AP"]  # no PA view is positive: nothing to judge there
    assert {row.view for row in read_manifest(data.subsets["AP"])} == {"AP"}
    ((path, (region,)),) = read_regions(data.regions).items()
    assert path.name == "20.png"
    assert (region.x, region.y, region.width, region.height) == (10.5, 20, 30, 40)
    few = nih_cxr.prepare(chosen, boxes, images, 0, tmp_path / "few", patients=4)
    kept = {row.patient_id for row in read_manifest(few.training)}
    assert "20" in kept  # who has a box always takes part
    assert len(kept) in (4, 5)


def figures(value: float, low: float | None, kinds: dict[str, float], beaten: bool) -> dict:
    def sections(patch: float) -> dict:
        one = {"value": patch, "ci95": [low, low]}
        return {
            "patch": {
                "auroc": one, "average_precision": one, "within_image_auroc": one,
                "counts": {"positives": 7, "negatives": 9},
            },
            "image": {"auroc": {"value": None, "ci95": [None, None]}, "counts": {}},
            "froc": {"sensitivity_at_1": one, "counts": {"lesions": 3}},
        }  # fmt: skip

    names = ("patch_mean", "patch_std", "gradient_energy")
    baselines = {name: {**sections(0.5), "beaten": beaten} for name in names}
    by_kind = {
        kind: {**sections(own), "baselines": {name: sections(0.25) for name in names}}
        for kind, own in kinds.items()
    }
    return {**sections(value), "baselines": baselines, "by_kind": by_kind}


def test_tables_show_mean_and_range_over_the_seeds() -> None:
    rows = []
    for seed, value, beaten in ((0, 0.6, True), (1, 0.7, False)):
        judged = {"all": figures(value, 0.5, {"CALC": 0.8}, beaten)}
        rows += study_tables.figure_rows(judged, seed=seed, config="wei2018", intensity="voi")
    results = pd.DataFrame(rows).astype(dict.fromkeys(("value", "low", "high"), float))
    text = study_tables.results_report(
        results, pd.DataFrame({"seed": [0, 1], "films": [28, 30]}), ["a note"], {"paper": "0.84"}
    )
    lines = text.splitlines()
    assert "| paper | 0.84 |  |  |  |  |  |" in lines
    spread = "0.65 (0.60–0.70)"
    assert f"| wei2018, voi | {spread} | {spread} | {spread} | – | {spread} | 1 of 2 |" in lines
    half = "0.50 (0.50–0.50)"
    assert f"| *patch std, voi* | {half} | {half} | {half} | – | {half} |  |" in lines
    assert "|  | CALC (n = 3) |" in lines
    assert "| wei2018, voi | 0.80 (0.80–0.80) |" in lines
    assert "| *patch std, voi* | 0.25 (0.25–0.25) |" in lines
    assert "| wei2018, voi | 0.60 [0.50, 0.50] | 0.70 [0.50, 0.50] |" in lines
    assert "* a note" in lines


def test_an_unknown_verdict_is_not_counted() -> None:
    judged = {"all": figures(0.6, None, {}, True)}
    judged["all"]["baselines"]["patch_std"]["beaten"] = None
    rows = list(study_tables.figure_rows(judged, seed=0, config="wei2018", intensity="voi"))
    assert {row["beats_all_baselines"] for row in rows} == {None}
    results = pd.DataFrame(rows).astype(dict.fromkeys(("value", "low", "high"), float))
    assert "| unknown |" in study_tables.figures_table(results, {})
    assert "| wei2018, voi | 0.60 [–, –] |" in study_tables.seeds_table(results)


def test_seeds() -> None:
    assert study.read_seeds("0,2,2,1") == (0, 2, 1)
    for text in ("", "a", "1,-1"):
        with pytest.raises(RequestError, match="--seeds"):
            study.read_seeds(text)


@pytest.mark.parametrize("script", [mias, nih_cxr])
def test_data_that_is_not_there_is_a_message_and_exit_code_2(script, tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(script.main)
    result = CliRunner().invoke(app, [str(tmp_path / "gone"), "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert str(tmp_path / "gone") in result.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("script", [mias, nih_cxr])
def test_the_quick_setting_changes_nothing_but_the_training(script) -> None:
    long = study.Arm("wei2018", "local").resolve().as_dict()
    quick = study.Arm("wei2018", "local", script.QUICK).resolve().as_dict()
    assert {key for key in long if long[key] != quick[key]} == {"wei2018"}
    assert long["wei2018"]["epochs"] == 500
    assert quick["wei2018"]["epochs"] == 60


@pytest.mark.real
def test_the_real_mini_mias(real_data: Path, tmp_path: Path) -> None:
    info = real_data / "mini-mias" / "Info.txt"
    if not info.exists():
        pytest.skip(f"no mini-MIAS in {real_data}")
    findings = mias.parse_info(info.read_text("utf-8"))
    films = {finding.film: tmp_path / f"{finding.film}.pgm" for finding in findings}
    data = mias.prepare(findings, films, 0, tmp_path)
    boxes = [finding.box for finding in findings if finding.box]
    assert all(x >= 0 and y >= 0 for x, y, _, _ in boxes)
    assert all(x + width <= 1024 and y + height <= 1024 for x, y, width, height in boxes)
    without = {row.film for row in findings if row.kind != "NORM"} - {
        row.film for row in findings if row.box
    }
    # no coordinates; in air; the radius
    assert without & set(films) >= {"mdb059", "mdb233", "mdb245", "mdb227", "mdb248"} & set(films)
    assert read_manifest(data.training)
    assert data.facts["regions"] == len(boxes)


@pytest.mark.real
def test_the_real_nih_tables(real_data: Path) -> None:
    folder = real_data / "nih-cxr"
    if not (folder / nih_cxr.BOXES).exists():
        pytest.skip(f"no NIH ChestX-ray in {real_data}")
    table = next(folder / name for name in nih_cxr.TABLES if (folder / name).exists())
    entries = {entry.image: entry for entry in nih_cxr.read_entries(table)}
    boxes = nih_cxr.read_boxes(folder / nih_cxr.BOXES)
    assert boxes
    assert all(box.x >= 0 and box.x + box.width <= 1024 for box in boxes)
    assert all(box.y >= 0 and box.y + box.height <= 1024 for box in boxes)
    assert all(box.finding in entries[box.image].findings for box in boxes if box.image in entries)
    assert all(entry.spacing_mm is not None for entry in entries.values())
    assert {entry.view for entry in entries.values()} == {"AP", "PA"}
