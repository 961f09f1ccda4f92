"""What the pipelines share: splits as tables, counts, figures chosen on test, the report."""

import json
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from patchad.errors import RequestError
from patchad.read.manifest import read_manifest, read_regions

sys.path.insert(0, str(Path(__file__).parents[1] / "pipelines"))  # scripts, not a package

import benchmark
import published
import published_data
import published_tables
import unlabelled_sets


def rows_of(*wanted: tuple[str, str, str, str]) -> pd.DataFrame:
    return pd.DataFrame(wanted, columns=["path", "patient_id", "label", "split"])


def test_a_part_is_written_as_two_manifests(tmp_path: Path) -> None:
    rows = rows_of(
        ("/a.png", "a", "negative", "train"),
        ("/b.png", "b", "positive", "train"),  # never trained on
        ("/c.png", "c", "positive", "unlabelled"),
        ("/d.png", "a", "negative", "unlabelled"),  # of a training patient
        ("/e.png", "e", "negative", "test"),
        ("/f.png", "c", "positive", "test"),  # has an unlabelled picture too
    )
    boxes = pd.DataFrame({"path": ["/f.png", "/e.png"], "x": 1, "y": 2, "width": 3, "height": 4})
    part = published_data.write_part(
        rows, tmp_path, regions=boxes, published={"training, normal": 3, "test, normal": 1}
    )
    training = {str(row.path): (row.label, row.split) for row in read_manifest(part.training)}
    assert training == {"/a.png": ("negative", "train"), "/c.png": ("unknown", "unlabelled")}
    tests = {str(row.path): row.label for row in read_manifest(part.tests[""])}
    assert tests == {"/e.png": "negative", "/f.png": "positive"}
    assert part.regions is not None
    assert [str(path) for path in read_regions(part.regions)] == ["/f.png"]  # not of a negative
    assert part.facts["unlabelled, abnormal"] == 1
    assert part.facts["unlabelled, normal"] == 0
    assert part.notes == (
        "1 unlabelled pictures of training patients were left out.",
        "1 patients have pictures in training and in the test set.",
        "training, normal: 1 here, 3 published.",
    )


def test_a_part_without_negatives_is_refused(tmp_path: Path) -> None:
    rows = rows_of(("/b.png", "b", "positive", "train"), ("/e.png", "e", "negative", "test"))
    with pytest.raises(RequestError, match="no negatives to train on"):
        published_data.write_part(rows, tmp_path)


def test_a_limit_holds_for_each_split_and_label() -> None:
    rows = rows_of(*((f"/{n}", str(n), "negative", "train") for n in range(5)),
                   *((f"/{n}", str(n), "positive", "test") for n in range(5, 9)))  # fmt: skip
    some = published_data.limit_rows(rows, 2, 0)
    assert some["split"].value_counts().to_dict() == {"train": 2, "test": 2}
    more = published_data.limit_rows(rows, 3, 0)
    assert {*some["path"]} < {*more["path"]}
    assert len(published_data.limit_rows(rows, 0, 0)) == 9


def test_colour_becomes_grey_and_names_do_not_clash(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (2, 2), (255, 0, 0)).save(tmp_path / folder / "a b.png")
    Image.new("L", (2, 2)).save(tmp_path / "grey.png")
    grey = tmp_path / "copies"
    copies = [published_data.as_grey(tmp_path / f / "a b.png", grey) for f in ("one", "two")]
    assert copies[0] != copies[1]
    assert np.asarray(Image.open(copies[0])).tolist() == [[76, 76], [76, 76]]  # 0.299 · 255
    assert published_data.as_grey(tmp_path / "grey.png", grey) == tmp_path / "grey.png"
    (tmp_path / "no.png").write_bytes(b"no")
    with pytest.raises(RequestError, match=r"no\.png can't be read as a picture"):
        published_data.as_grey(tmp_path / "no.png", grey)


def test_unlabelled_sets_of_two_rates_share_all_they_can() -> None:
    normal, ill = [f"n{k}" for k in range(10)], [f"a{k}" for k in range(6)]
    rates = (0, 0.2, 0.6, 1)
    count = published_data.largest(10, 6, rates, 8)
    assert count == 6  # rate 1 needs that many abnormal ones
    sets = [published_data.nested(normal, ill, rate, count) for rate in rates]
    assert [len(own["positive"]) for own in sets] == [0, 1, 3, 6]
    assert [len(own["negative"]) for own in sets] == [6, 5, 3, 0]
    for less, more in pairwise(sets):
        assert {*less["positive"]} <= {*more["positive"]}
        assert {*more["negative"]} <= {*less["negative"]}
    # the published numbers: LAG has just enough of both lists for 1500 at 0.6
    assert published_data.largest(832, 900, [0.6], 1500) == 1500
    assert published_data.largest(400, 600, [0.6], 1000) == 1000


def test_lists_of_ddad(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    content = {"train": {"0": ["a.png"], "unlabeled": {"0": ["b.png"], "1": ["c.d.png"]}},
               "test": {"0": ["x/e.png"], "1": []}}  # fmt: skip
    path.write_text(json.dumps(content))
    lists = published_data.read_lists(path)
    assert lists.train == ("a",)
    assert lists.unlabelled == {0: ("b",), 1: ("c.d",)}
    assert lists.test == {0: ("e",), 1: ()}
    path.write_text('{"train": {"0": []}}')
    with pytest.raises(RequestError, match=r"no.* a split with train\.0"):
        published_data.read_lists(path)


def test_a_table_that_lacks_columns_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("patientId,Target\np,1\n")
    rows = published_data.read_rows(tmp_path / "a.csv", ("patientid", "target"))
    assert rows.to_dict("records") == [{"patientid": "p", "target": "1"}]
    with pytest.raises(RequestError, match="lacks x; it names patientId, Target"):
        published_data.read_rows(tmp_path / "a.csv", ("patientid", "x"))
    with pytest.raises(RequestError, match="is missing"):
        published_data.read_rows(tmp_path / "b.csv", ("x",))


def test_youden_by_hand() -> None:
    scores = np.array([1.0, 2, 3, 4, 5])
    positive = np.array([False, False, True, False, True])
    # at 3: recall 1, specificity 2/3; at 5: recall 1/2, specificity 1
    assert published_tables.youden(scores, positive) == pytest.approx(
        {"precision": 2 / 3, "recall": 1, "specificity": 2 / 3, "F1": 4 / 5, "accuracy": 4 / 5}
    )
    assert published_tables.youden(scores, ~np.zeros(5, bool)) == {}


def study_of(*rows: published_tables.PublishedRow, use: str = "chest") -> published.Replication:
    return published.Replication("a study", use, lambda seed, folder: [], rows)


def test_configurations_take_the_use_of_the_data() -> None:
    study = study_of(use="picture")
    config = published.arm_config("ddad_r_dual+backbone=memae", study, quick=True,
                                  sets=["ddad.epochs=2", "ae.epochs=3", "stride=32"])  # fmt: skip
    assert config.preprocessing.body_part == "other"
    assert config.preprocessing.spacing_mm is None
    assert config.options.backbone == "memae"
    assert config.options.epochs == 2
    assert config.calibration.folds == 0
    patches = published.arm_config("fanogan+encoder=ziz", study_of())
    assert (patches.patch_size, patches.options.encoder) == (64, "ziz")
    assert patches.preprocessing.body_part == "chest"
    with pytest.raises(RequestError, match="chest alone"):
        published.arm_config("position_gaussian", study)
    with pytest.raises(RequestError, match="did you mean"):
        published.arm_config("ddadd", study)


def test_every_published_row_has_a_configuration_or_is_only_listed() -> None:
    for data in benchmark.SETS:
        rows = benchmark.benchmark_rows(data)
        study = study_of(*rows)
        for name in published.default_configs(study):
            published.arm_config(name, study, quick=True)
    found = {row.label: row.figures for row in benchmark.benchmark_rows("lag")}
    assert found["R_dual, AE-U"] == pytest.approx({"AUROC": 0.931, "AP": 0.923})
    assert found["AE"] == pytest.approx({"AUROC": 0.793, "AP": 0.761})
    own = study_of(published_tables.PublishedRow("of others", "not_ours", {}, ""))
    assert published.default_configs(own) == ()


def test_the_report_lays_published_rows_below_ours() -> None:
    results = pd.DataFrame(
        [
            {"seed": seed, "config": "ae", "part": "", "test": "", "scorer": scorer,
             "figure": "AUROC", "value": value}
            for seed, scorer, value in ((0, "", 0.5), (1, "", 0.7), (0, "patch_mean", 0.4))
        ]
    )  # fmt: skip
    rows = [
        published_tables.PublishedRow("AE", "ae", {"AUROC": 0.669}, "them"),
        published_tables.PublishedRow("GAN", "gan", {"AUROC": 0.7}, "them"),
        published_tables.PublishedRow("AE", "ae", {"AUROC": 0.8}, "them", part="elsewhere"),
    ]
    facts = pd.DataFrame([{"seed": 0, "part": "", "training, normal": 3.0}])
    text = published_tables.published_report(results, facts, rows, ["x: why"], average=False)
    lines = text.splitlines()
    at = lines.index("| `ae` | 0.600 (0.500–0.700) |")
    assert lines[at + 1] == "| *AE (them)* | *0.669* |"
    assert lines[at + 2] == "| *GAN (them, not run here)* | *0.700* |"
    assert lines[at + 3] == "| patch mean | 0.400 |"
    assert "* AE (elsewhere): AUROC 0.800" in lines
    assert "* x: why" in lines


def test_published_means_stand_beside_the_mean_of_the_parts() -> None:
    results = pd.DataFrame(
        [
            {"seed": 0, "config": "vae", "part": part, "test": "", "scorer": "", "figure": "PRO",
             "value": value}
            for part, value in (("carpet", 0.5), ("zipper", 0.8))
        ]
    )  # fmt: skip
    rows = [
        published_tables.PublishedRow("VAE", "vae", {"PRO": 0.639}, "them"),
        published_tables.PublishedRow("no figures", "vae", {}, "them"),
    ]
    facts = pd.DataFrame([{"seed": 0, "part": "carpet"}])
    text = published_tables.published_report(results, facts, rows, [], average=True)
    lines = text.splitlines()
    at = lines.index("| `vae` | 0.650 |")
    assert lines[at + 1] == "| *VAE (them)* | *0.639* |"
    assert "| `vae` | 0.500 |" in lines  # carpet alone
    assert "no figures" not in text
    one = results[results["part"] == "carpet"]
    text = published_tables.published_report(one, facts, rows, [], average=True)
    assert "### Mean of carpet" in text
    assert "*0.639*" in text


def stock_of(normal: int, ill: int) -> unlabelled_sets.Stock:
    names = [f"n{k}" for k in range(normal)] + [f"a{k}" for k in range(ill)]
    kinds = [() if name[0] == "n" else (("A",) if k % 2 else ("A", "B"))
             for k, name in enumerate(names)]  # fmt: skip
    rows = pd.DataFrame(
        {
            "path": [f"/{name}.png" for name in names],
            "patient_id": names,
            "label": ["negative" if name[0] == "n" else "positive" for name in names],
            "kinds": kinds,
        }
    )
    return unlabelled_sets.Stock(rows)


SIZES = unlabelled_sets.Sizes(10, 10, 5)


def splits_of(part: published_data.Part) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {"train": set(), "unlabelled": set()}
    for row in read_manifest(part.training):
        found[row.split].add(row.path.stem)
    return found


def test_the_usual_split_has_the_papers_sizes(tmp_path: Path) -> None:
    (part,) = unlabelled_sets.parts_of(stock_of(30, 20), SIZES, 0, tmp_path)
    found = splits_of(part)
    assert len(found["train"]) == 10
    assert sum(name[0] == "a" for name in found["unlabelled"]) == 6  # 0.6 of 10
    assert sum(name[0] == "n" for name in found["unlabelled"]) == 4
    test = read_manifest(part.tests[""])
    assert sorted(row.label for row in test) == ["negative"] * 5 + ["positive"] * 5
    assert not {row.path.stem for row in test} & (found["train"] | found["unlabelled"])
    assert not part.notes  # all counts are the paper's


def test_only_the_unlabelled_differ_between_rates(tmp_path: Path) -> None:
    parts = unlabelled_sets.parts_of(
        stock_of(30, 20), SIZES, 0, tmp_path, rates=benchmark.read_rates("0,0.5,1")
    )
    assert [part.name for part in parts] == [f"anomaly rate {rate}" for rate in ("0", "0.5", "1")]
    found = [splits_of(part) for part in parts]
    assert found[0]["train"] == found[1]["train"] == found[2]["train"]
    ill = [{name for name in own["unlabelled"] if name[0] == "a"} for own in found]
    assert [len(own) for own in ill] == [0, 5, 10]
    assert ill[0] < ill[1] < ill[2]
    assert [len(own["unlabelled"]) for own in found] == [10, 10, 10]


def test_unseen_findings_are_never_unlabelled(tmp_path: Path) -> None:
    stock = stock_of(30, 20)
    parts = unlabelled_sets.parts_of(stock, SIZES, 0, tmp_path, unseen="B")
    assert [part.name for part in parts] == list(benchmark.UNSEEN_PARTS)
    kinds = dict(zip(stock.rows["patient_id"], stock.rows["kinds"], strict=True))
    without, with_seen = (splits_of(part)["unlabelled"] for part in parts)
    assert all(name[0] == "n" for name in without)
    assert {kinds[name] for name in with_seen if name[0] == "a"} == {("A",)}
    assert sum(name[0] == "a" for name in with_seen) == 3  # 1588/4000 of 10, rounded down
    for test, wanted in ((benchmark.SEEN_TEST, {("A",)}), (benchmark.UNSEEN_TEST, {("A", "B")})):
        judged = read_manifest(parts[0].tests[test])
        assert {kinds[row.path.stem] for row in judged if row.label == "positive"} <= wanted
        assert sum(row.label == "negative" for row in judged) == 5
    with pytest.raises(RequestError, match="--unseen takes some, not all, of A, B"):
        unlabelled_sets.parts_of(stock, SIZES, 0, tmp_path, unseen="C")


@pytest.mark.parametrize("text", ["", "a", "0,1.1", "-0.1"])
def test_rates_are_shares(text: str) -> None:
    with pytest.raises(RequestError, match="--anomaly-rate takes shares"):
        benchmark.read_rates(text)


def test_the_lists_of_ddad_give_the_split(tmp_path: Path) -> None:
    content = {
        "train": {"0": ["n0.png", "n1.png", "gone.png"],
                  "unlabeled": {"0": [f"n{k}.png" for k in range(2, 8)],
                                "1": [f"a{k}.png" for k in range(6)]}},
        "test": {"0": ["n9.png"], "1": ["a7.png"]},
    }  # fmt: skip
    (tmp_path / "data.json").write_text(json.dumps(content))
    (part,) = unlabelled_sets.parts_of(
        stock_of(10, 8), SIZES, 0, tmp_path, split=tmp_path / "data.json"
    )
    found = splits_of(part)
    assert found["train"] == {"n0", "n1"}
    # the first 6 abnormal and the first 4 normal names
    assert found["unlabelled"] == {f"a{k}" for k in range(6)} | {f"n{k}" for k in range(2, 6)}
    assert {row.path.stem for row in read_manifest(part.tests[""])} == {"n9", "a7"}
    assert "1 pictures of the split's lists have no file." in part.notes


def test_views_are_judged_apart_where_they_are_known(tmp_path: Path) -> None:
    stock = stock_of(30, 20)
    views = ["AP" if k % 2 else "PA" for k in range(50)]
    stock = unlabelled_sets.Stock(stock.rows.assign(view=views))
    (part,) = unlabelled_sets.parts_of(stock, SIZES, 0, tmp_path)
    together = {row.path for row in read_manifest(part.tests[""])}
    apart = [{row.path for row in read_manifest(part.tests[f"{v} views"])} for v in ("AP", "PA")]
    assert apart[0] | apart[1] == together == {row.path for row in read_manifest(part.images)}
    assert not apart[0] & apart[1]
