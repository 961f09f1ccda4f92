"""Pipelines of chest films and mammograms, on small trees in their owners' layouts."""

import json
import plistlib
import sys
from pathlib import Path

import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid
from typer.testing import CliRunner

from patchad.errors import RequestError
from patchad.read.manifest import read_manifest, read_regions

sys.path.insert(0, str(Path(__file__).parents[1] / "pipelines"))  # scripts, not a package

import benchmark
import covidx
import inbreast
import nih_cxr
import nih_pii
import published
import rsna
import typer
import unlabelled_sets
import vindr_cxr
from nih_release import Box, Entry


def table(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def rsna_tree(folder: Path, normal: int = 12, ill: int = 8, other: int = 4) -> Path:
    kinds = [rsna.NORMAL] * normal + [rsna.OPACITY] * ill + [rsna.OTHER] * other
    names = [f"{k:03d}-ab" for k in range(len(kinds))]
    classes = ["patientId,class"]
    labels = ["patientId,x,y,width,height,Target"]
    for name, kind in zip(names, kinds, strict=True):
        classes += [f"{name},{kind}"] * (2 if kind == rsna.OPACITY else 1)  # a row a box
        if kind == rsna.OPACITY:
            labels += [f"{name},10,20,30,40,1", f"{name},60.5,20,5,6,1"]
        else:
            labels.append(f"{name},,,,,0")
        touch(folder / rsna.IMAGES / f"{name}.dcm")
    table(folder / rsna.CLASSES, "\n".join(classes))
    table(folder / rsna.LABELS, "\n".join(labels))
    return folder


def test_rsna_as_distributed(tmp_path: Path) -> None:
    stock = rsna.read_release(rsna_tree(tmp_path))
    assert stock.rows["label"].value_counts().to_dict() == {"negative": 12, "positive": 8}
    assert stock.kinds == (rsna.OPACITY,)
    assert stock.notes == (
        "Normal: 12 here, 8851 published.",
        "Lung Opacity: 8 here, 6012 published.",
        "No Lung Opacity / Not Normal: 4 here, 11821 published.",
    )
    (part,) = unlabelled_sets.parts_of(stock, rsna.SIZES, 0, tmp_path / "out")
    assert part.regions is not None
    regions = read_regions(part.regions)
    test = {row.path: row.label for row in read_manifest(part.tests[""])}
    assert {*regions} == {path for path, label in test.items() if label == "positive"}
    first = next(iter(regions.values()))
    assert [(r.x, r.y, r.width, r.height, r.kind) for r in first] == [
        (10, 20, 30, 40, "Lung Opacity"),
        (60.5, 20, 5, 6, "Lung Opacity"),
    ]
    assert any(note.startswith("training, normal: ") for note in part.notes)


def test_rsna_with_the_third_class_and_the_lists(tmp_path: Path) -> None:
    stock = rsna.read_release(rsna_tree(tmp_path), other=True)
    assert stock.kinds == (rsna.OPACITY, rsna.OTHER)
    parts = unlabelled_sets.parts_of(stock, rsna.SIZES, 0, tmp_path / "out", unseen=rsna.OTHER)
    assert [part.name for part in parts] == [*benchmark.UNSEEN_PARTS]
    assert {*parts[0].tests} == {benchmark.SEEN_TEST, benchmark.UNSEEN_TEST}
    content = {"train": {"0": ["000-ab.png"], "unlabeled": {"0": ["001-ab.png"], "1": []}},
               "test": {"0": ["002-ab.png"], "1": ["012-ab.png"]}}  # fmt: skip
    split = table(tmp_path / "data.json", json.dumps(content))
    (part,) = unlabelled_sets.parts_of(stock, rsna.SIZES, 0, tmp_path / "listed", split=split)
    assert [row.path.stem for row in read_manifest(part.training)] == ["000-ab"]
    assert sorted(row.path.stem for row in read_manifest(part.tests[""])) == ["002-ab", "012-ab"]


def test_rsna_that_is_no_rsna(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="is missing"):
        rsna.read_release(tmp_path)
    rsna_tree(tmp_path)
    for film in (tmp_path / rsna.IMAGES).iterdir():
        film.unlink()
    with pytest.raises(RequestError, match="holds none of the films"):
        rsna.read_release(tmp_path)
    table(tmp_path / rsna.CLASSES, "patientId,class\na,Abnormal\n")
    with pytest.raises(RequestError, match="has the class 'Abnormal'"):
        rsna.read_release(tmp_path)
    table(tmp_path / rsna.CLASSES, "id,class\na,Normal\n")
    with pytest.raises(RequestError, match="lacks patientid; it names id, class"):
        rsna.read_release(tmp_path)


def test_the_command_says_what_is_wrong_in_one_line(tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(rsna.main)
    run = CliRunner().invoke(app, [str(tmp_path)])
    assert run.exit_code == 2
    assert run.output.startswith("rsna.py: ")
    both = [str(tmp_path), "--anomaly-rate", "0,1", "--unseen", "Mass"]
    run = CliRunner().invoke(app, both)
    assert "are two ablations" in run.output


KAGGLE = """image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max
a,No finding,14,R1,,,,
a,No finding,14,R2,,,,
a,No finding,14,R3,,,,
b,Cardiomegaly,3,R1,10,20,40,60
b,Cardiomegaly,3,R2,11,20,40,60
b,No finding,14,R3,,,,
c,Nodule/Mass,8,R1,1,2,3,4
c,Cardiomegaly,3,R2,1,2,1,4
"""


def test_vindr_of_kaggle(tmp_path: Path) -> None:
    table(tmp_path / "train.csv", KAGGLE)
    touch(*(tmp_path / "train" / f"{name}.dicom" for name in "abc"))
    stock = vindr_cxr.read_release(tmp_path)
    rows = stock.rows.set_index("patient_id")
    assert rows["label"].to_dict() == {"a": "negative", "b": "positive", "c": "positive"}
    assert rows["kinds"]["c"] == ("Cardiomegaly", "Nodule/Mass")
    assert "1 films don't have three readers." in stock.notes
    assert "normal: 1 here, 10606 published." in stock.notes
    boxes = stock.regions
    assert boxes is not None
    assert boxes[["x", "y", "width", "height"]].to_numpy().tolist() == [
        [10, 20, 30, 40],
        [11, 20, 29, 40],
        [1, 2, 2, 2],  # c's second box has no width
    ]
    assert [Path(path).name for path in boxes["path"]] == ["b.dicom", "b.dicom", "c.dicom"]


def test_vindr_of_physionet_is_the_same(tmp_path: Path) -> None:
    labels = ["image_id,rad_id,Cardiomegaly,COPD,No finding"]
    labels += [
        f"{i},R{r},{c},{d},{n}" for i, c, d, n in (("a", 0, 0, 1), ("b", 1, 0, 0)) for r in "123"
    ]
    labels += ["d,R1,0,0,1", "d,R2,0,0,1", "d,R3,0,1,0"]  # a label without a box
    table(tmp_path / "annotations" / "image_labels_train.csv", "\n".join(labels))
    marks = "image_id,rad_id,class_name,x_min,y_min,x_max,y_max\na,R1,No finding,,,,\n"
    marks += "b,R1,Cardiomegaly,10,20,40,60\nd,R1,No finding,,,,\n"
    table(tmp_path / "annotations" / "annotations_train.csv", marks)
    touch(*(tmp_path / "train" / f"{name}.dicom" for name in "abd"))
    rows = vindr_cxr.read_release(tmp_path).rows.set_index("patient_id")
    assert rows["label"].to_dict() == {"a": "negative", "b": "positive", "d": "positive"}
    assert rows["kinds"].to_dict() == {"a": (), "b": ("Cardiomegaly",), "d": ("without box",)}


def test_vindr_that_is_neither(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"neither train\.csv"):
        vindr_cxr.read_release(tmp_path)
    table(tmp_path / "train.csv", KAGGLE)
    with pytest.raises(RequestError, match="holds none of the films"):
        vindr_cxr.read_release(tmp_path)
    table(tmp_path / "train.csv", KAGGLE.replace("10,20,40,60", "ten,20,40,60"))
    touch(tmp_path / "train" / "a.dicom")
    with pytest.raises(RequestError, match="a box has no numbers"):
        vindr_cxr.read_release(tmp_path)


def covidx_tree(folder: Path, *, val: bool = False) -> Path:
    lists = {
        "train": [f"p{k} film {k} (1).png negative rsna" for k in range(10)]
        + ["q1 c 1.png positive cohen", "t1 again.png negative rsna"],
        "test": ["t1 t one.png negative rsna", "t2 t2.png positive cohen"],
    }
    if val:
        lists["val"] = ["v1 v 1.png negative rsna"]
    for split, lines in lists.items():
        table(folder / f"{split}.txt", "\n".join(lines) + "\n")
        (folder / split).mkdir(exist_ok=True)
        for line in lines:
            name = line.split(" ", 1)[1].rsplit(" ", 2)[0]
            mode = "RGB" if name.startswith("t") else "L"
            Image.new(mode, (4, 4)).save(folder / split / name)
    return folder


def test_covidx_has_names_with_spaces(tmp_path: Path) -> None:
    rows, notes = covidx.read_release(covidx_tree(tmp_path / "data", val=True))
    assert "film 3 (1).png" in {*rows["file"]}
    assert rows["split"].value_counts().to_dict() == {"train": 12, "test": 2, "val": 1}
    assert "train, negative: 11 here, 13992 published." in notes
    (part,) = covidx.prepare(rows, notes, 0, tmp_path / "out", grey=tmp_path / "grey")
    found = read_manifest(part.training)
    assert "1 training films of the test's patients were left out." in part.notes
    assert len(found) == 11  # ten of train, one of val; not q1, which is positive, nor t1
    assert sum(row.split == "validation" for row in found) == 3  # 0.3 of 11 patients
    tests = read_manifest(part.tests[""])
    assert {row.label for row in tests} == {"negative", "positive"}
    assert all(row.path.is_relative_to(tmp_path / "grey") for row in tests)  # they were in colour
    assert all(row.path.is_file() for row in (*found, *tests))


@pytest.mark.parametrize(
    "line", ["p1 a.png unsure rsna", "a.png negative rsna", "p1 ../a.png negative rsna"]
)
def test_a_line_of_covidx_that_is_none(tmp_path: Path, line: str) -> None:
    covidx_tree(tmp_path)
    table(tmp_path / "test.txt", line)
    with pytest.raises(RequestError, match=r"test\.txt, line 1"):
        covidx.read_release(tmp_path)
    (tmp_path / "train.txt").unlink()
    with pytest.raises(RequestError, match=r"train\.txt can't be read"):
        covidx.read_release(tmp_path)


def dicom(path: Path, shape: tuple[int, int]) -> None:
    film = Dataset()
    film.file_meta = FileMetaDataset()
    film.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    film.SOPClassUID, film.SOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
    film.Rows, film.Columns = shape
    path.parent.mkdir(parents=True, exist_ok=True)
    pydicom.dcmwrite(path, film, enforce_file_format=True)


def inbreast_tree(folder: Path) -> Path:
    lines = ["Patient ID;File Name;Laterality;View;Acquisition date;ACR;Bi-Rads"]
    films = [(1, "aa", "1"), (2, "aa", "2"), (3, "bb", "5"), (4, "bb", "1"), (5, "cc", "4a"),
             (6, "dd", "1"), (7, "ee", "1"), (8, "ff", "2"), (9, "gg", "1")]  # fmt: skip
    for number, case, birads in films:
        name = f"2058{number}_{case}_MG_{'LR'[number % 2]}_{'CC' if number < 5 else 'ML'}_ANON"
        dicom(folder / "AllDICOMs" / f"{name}.dcm", (20, 30))
        lines.append(f"removed;2058{number};L;CC;201001;2;{birads}")
    table(folder / "INbreast.csv", "\n".join(lines))
    rois = [
        {"Name": "Mass", "Point_px": ["(2.0, 3.0)", "(6.0, 3.0)", "(6.0, 8.0)", "(2.0, 8.0)"]},
        {"Name": "Calcification", "Point_px": ["(15.4, 7.9)"]},
        {"Name": "Pectoral Muscle", "Point_px": ["(0, 0)", "(9, 0)", "(0, 9)"]},
    ]
    (folder / "AllXML").mkdir()
    (folder / "AllXML" / "20583.xml").write_bytes(plistlib.dumps({"Images": [{"ROIs": rois}]}))
    (folder / "AllXML" / "20582.xml").write_bytes(plistlib.dumps({"Images": [{"ROIs": rois[:1]}]}))
    return folder


def test_inbreast_by_patient(tmp_path: Path) -> None:
    films, regions, notes = inbreast.read_release(inbreast_tree(tmp_path / "in"), tmp_path / "m")
    assert films.loc[films["birads"] == "4a", "label"].tolist() == ["positive"]
    assert {*films["view"]} == {"CC", "MLO"}
    assert notes == [
        "films: 9 here, 410 published.",
        "BI-RADS 1: 5 here, 67 published.",
        "BI-RADS 5: 1 here, 49 published.",
    ]
    (part,) = inbreast.prepare(films, regions, notes, 0, tmp_path / "out")
    training, tests = read_manifest(part.training), read_manifest(part.tests[""])
    assert not {row.patient_id for row in training} & {row.patient_id for row in tests}
    assert {row.patient_id for row in tests} >= {"bb", "cc"}  # bb with the normal film too
    assert part.regions is not None
    ((path, found),) = read_regions(part.regions).items()  # not of the BI-RADS 2 film
    assert path.name.startswith("20583_bb")
    mass, speck = found
    # corners (2, 3) to (6, 8): pixels 2 to 6 across and 3 to 8 down, whose centres lie in it
    assert (mass.kind, mass.x, mass.y, mass.width, mass.height) == ("Mass", 2, 3, 5, 6)
    assert mass.mask is not None
    assert mass.mask.all()
    assert (speck.kind, speck.x, speck.y, speck.width) == ("Calcification", 15, 7, 1)


def test_inbreast_by_patch_as_published(tmp_path: Path) -> None:
    films, regions, notes = inbreast.read_release(inbreast_tree(tmp_path / "in"), tmp_path / "m")
    (part,) = inbreast.prepare(films, regions, notes, 0, tmp_path / "out", by_patch=True)
    assert len(read_manifest(part.training)) == 5  # BI-RADS 1
    labels = [row.label for row in read_manifest(part.tests[""])]
    assert sorted(labels) == ["negative"] * 5 + ["positive"]  # and BI-RADS 5
    assert any("in training and in the test set" in note for note in part.notes)
    study = published.Replication("", "mammogram", lambda s, f: [], inbreast.PUBLISHED,
                                  overrides={"split": {"by": "patch"}})  # fmt: skip
    config = published.arm_config("wei2018", study)
    assert config.split.by == "patch"
    assert config.preprocessing.spacing_mm is None  # the paper's own preparation


def test_inbreast_that_is_broken(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="holds no"):
        inbreast.read_release(tmp_path, tmp_path / "m")
    inbreast_tree(tmp_path)
    (tmp_path / "AllXML" / "20583.xml").write_text("<plist><dict>")
    with pytest.raises(RequestError, match="is no list of outlines"):
        inbreast.read_release(tmp_path, tmp_path / "m")
    csv = (tmp_path / "INbreast.csv").read_text()
    table(tmp_path / "INbreast.csv", csv.replace("20581;L;CC;201001;2;1", "20581;L;CC;201001;2;"))
    with pytest.raises(RequestError, match=r"film 20581 has BI-RADS \(none\)"):
        inbreast.read_release(tmp_path, tmp_path / "m")
    touch(tmp_path / "AllDICOMs" / "film one.dcm")
    with pytest.raises(RequestError, match=r"film one\.dcm: its name is not"):
        inbreast.read_release(tmp_path, tmp_path / "m")


def test_findings_of_nih_for_the_ablations(tmp_path: Path) -> None:
    chosen = [
        (Entry("a.png", "1", ("No Finding",), 50, "PA", (0.4, 0.4)), "negative"),
        (Entry("b.png", "2", ("Mass", "Nodule"), 50, "AP", (0.4, 0.4)), "positive"),
    ]
    images = {name: tmp_path / name for name in ("a.png", "b.png")}
    stock = nih_cxr.stock_of(chosen, [Box("b.png", "Mass", 1, 2, 3, 4)], images)
    assert stock.rows["kinds"].tolist() == [(), ("Mass", "Nodule")]
    assert stock.kinds == ("Mass", "Nodule")
    assert stock.regions is not None
    assert stock.regions["kind"].tolist() == ["Mass"]
    assert benchmark.rows_for("nih", (0.0, 1.0), "")[0].config == "ddad"
    assert {row.test for row in benchmark.rows_for("nih", (), "Mass")} == {
        benchmark.SEEN_TEST,
        benchmark.UNSEEN_TEST,
    }


def test_the_lists_of_pii(tmp_path: Path) -> None:
    names = [f"0000000{k}_000.png" for k in range(6)]
    entries = {n: Entry(n, n[:8], ("No Finding",), 50, "PA", (0.4, 0.4)) for n in names}
    images = {name: tmp_path / name for name in names}
    for group in nih_pii.GROUPS:
        table(tmp_path / "train_lists" / f"norm_{group}_train_list.txt", "\n".join(names[:3]))
        table(tmp_path / "test_lists" / f"norm_{group}_test_list.txt", f"{names[3]}\ngone.png\n")
        table(tmp_path / "test_lists" / f"Mass_{group}_test_list.txt", f"{names[4]}\n{names[5]}")
        table(tmp_path / "test_lists" / f"Hernia_{group}_test_list.txt", names[4])  # both
        table(tmp_path / "test_lists" / f"anomaly_{group}_bbox_list.txt", names[0])
    male, female = nih_pii.prepare(entries, images, tmp_path, 0, tmp_path / "out")
    assert (male.name, female.name) == nih_pii.GROUPS
    assert len(read_manifest(male.training)) == 3
    labels = [row.label for row in read_manifest(male.tests[""])]
    assert sorted(labels) == ["negative", "positive", "positive"]
    assert "MaleAdultPA: 1 films of the lists aren't in the release's folder." in male.notes
    assert "MaleAdultPA, training, normal: 3 here, 17852 published." in male.notes
    (tmp_path / "train_lists" / "norm_MaleAdultPA_train_list.txt").unlink()
    with pytest.raises(RequestError, match=r"norm_MaleAdultPA_train_list\.txt can't be read"):
        nih_pii.prepare(entries, images, tmp_path, 0, tmp_path / "out")
