"""Cross-validation by patient: who is dealt where, what is pooled, and the chain on phantoms."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score

from patchad.core.image import Heatmap
from patchad.errors import RequestError
from patchad.export.tiff import read_heatmap, write_heatmap
from patchad.methods.parts.scale import NegativeScale
from patchad.read.manifest import read_manifest
from patchad.store.marks_table import COLUMNS, read_marks, write_marks_table
from patchad.store.run import ImageRow, Run, heatmap_path, patches_path, read_run, write_run

sys.path.insert(0, str(Path(__file__).parents[1] / "pipelines"))  # scripts, not a package

import cross_tables
import cross_validation
import folds
import mias
import nih_cxr
import places
import pooled_run

CPU = torch.device("cpu")


def test_patients_are_dealt_once_and_evenly() -> None:
    patients = [f"p{number}" for number in range(10)]
    dealt = folds.deal_patients(patients * 2, {"p1", "p3", "p5", "p7"}, 3, seed=0)
    assert sorted(patient for own in dealt for patient in own) == patients
    assert [len(own) for own in dealt] == [4, 3, 3]
    assert [len(own & {"p1", "p3", "p5", "p7"}) for own in dealt] == [2, 1, 1]
    assert dealt == folds.deal_patients(reversed(patients), {"p7", "p5", "p3", "p1"}, 3, seed=0)
    assert dealt != folds.deal_patients(patients, {"p1", "p3", "p5", "p7"}, 3, seed=1)
    for count in (1, 11):
        with pytest.raises(RequestError, match=f"got {count}"):
            folds.deal_patients(patients, set(), count, seed=0)


def test_each_fold_learns_from_the_others_negatives(tmp_path: Path) -> None:
    # film 2k − 1 and 2k are one patient's; patients 1 to 6 have a lesion in the odd film
    findings, films = [], {}
    for number in range(1, 25):
        film = f"mdb{number:03d}"
        films[film] = tmp_path / f"{film}.pgm"
        ill = number % 2 == 1 and number <= 11
        kind = ("CALC", "SPIC", "ARCH")[number // 2 % 3] if ill else "NORM"
        findings.append(mias.Finding(film, "F", kind, "", (500, 500, 40) if ill else None))
    dealt = mias.deal(findings, films, 0, tmp_path, 3)
    everything = {path.stem for path in films.values()}
    positive = {f.film for f in findings if f.kind != "NORM"}
    scored = []
    for fold in dealt.folds:
        learnt, test = read_manifest(fold.training), read_manifest(fold.test)
        own = {row.path.stem for row in test}
        scored += sorted(own)
        # all negatives of the others, the healthy breast of whoever has a lesion with them
        assert {row.path.stem for row in learnt} == everything - own - positive
        assert not {row.patient_id for row in learnt} & {row.patient_id for row in test}
        assert {row.split for row in test} == {"test"}
        aside = {row.patient_id for row in learnt if row.split == "validation"}
        assert len(aside) == 1  # a tenth of eight patients
        assert len(own & positive) == 2
    assert sorted(scored) == sorted(everything)
    assert dealt.facts["fold 1: training"] + dealt.facts["fold 1: calibration"] == 18 - 6
    kinds = pd.read_csv(dealt.regions)["kind"]
    assert sorted(kinds) == ["ARCH, ASYM"] * 2 + ["CALC"] * 2 + ["mass"] * 2


def test_views_are_judged_apart_where_they_have_both_labels(tmp_path: Path) -> None:
    def entry(number: int, view: str) -> nih_cxr.Entry:
        return nih_cxr.Entry(f"{number}.png", f"{number}", (), 50, view, (0.35, 0.4))

    chosen = [(entry(n, "AP" if n % 2 else "PA"), "negative") for n in range(8)]
    chosen += [(entry(n, "AP"), "positive") for n in (8, 9)]
    images = {row.image: tmp_path / row.image for row, _ in chosen}
    boxes = [nih_cxr.Box("9.png", "Mass", 1, 2, 3, 4), nih_cxr.Box("1.png", "Mass", 1, 2, 3, 4)]
    dealt = nih_cxr.deal(chosen, boxes, images, 0, tmp_path, patients=100, folds=2)
    assert list(dealt.subsets) == ["AP"]
    assert {row.view for row in read_manifest(dealt.subsets["AP"])} == {"AP"}
    assert len(pd.read_csv(dealt.regions)) == 1  # a negative image has no region
    assert dealt.facts["images"] == 10


def a_run(folder: Path, name: str, scores: list[float], middle: float) -> Run:
    """One image, whose fold's negatives lie evenly from ``middle`` − 1 to ``middle`` + 1."""
    calibration = {
        "patch_shares": {
            "values": [middle - 1, middle + 1], "below": [0.0, 1.0], "at_most": [0.0, 1.0],
        },
        "patch_threshold": middle, "image_threshold": middle + 1,
        "display_range": [middle - 1, middle + 1],
        "marks": {
            "threshold": middle, "dense": False,
            "rarity": {"scores": [middle], "expected": [1, 0.5]},
        },
    }  # fmt: skip
    patches_path(folder, name).parent.mkdir(parents=True)
    pd.DataFrame({"score": np.array(scores, np.float32)}).to_parquet(patches_path(folder, name))
    picture = np.array([[middle, np.nan]], np.float32)
    write_heatmap(heatmap_path(folder, name), Heatmap(picture, "RMSE"))
    mark = dict.fromkeys(COLUMNS, 1.0) | {"image_id": name, "number": 1, "score": max(scores)}
    write_marks_table(folder, pd.DataFrame([mark | {"rarity": 0.25}]))
    row = ImageRow(name, f"{name}.png", "ok", "", score=max(scores), rows=1, columns=2)
    return write_run(folder, {"card": {"calibration": calibration}}, [row])


def test_folds_are_pooled_on_one_scale(tmp_path: Path) -> None:
    parts = [a_run(tmp_path / "a", "a", [5, 5.6826], 5), a_run(tmp_path / "b", "b", [1, 7], 7)]
    as_is = pooled_run.pool_runs(parts, tmp_path / "as-is", [pooled_run.Scale()] * 2)
    assert as_is.images["score"].tolist() == pytest.approx([5.6826, 7])
    assert as_is.settings["card"]["calibration"]["patch_threshold"] == 6  # the median of 5 and 7
    scales = [pooled_run.Scale.of_negatives(part) for part in parts]
    run = pooled_run.pool_runs(parts, tmp_path / "pooled", scales)
    # Evenly from −1 to 1, the 84.13th percentile lies 0.6826 above the median.
    assert run.patches("a")["score"].tolist() == pytest.approx([0, 1])
    assert run.patches("b")["score"].tolist() == pytest.approx([-6 / 0.6826, 0])
    assert run.images["score"].tolist() == pytest.approx([1, 0])
    calibration = run.settings["card"]["calibration"]
    assert calibration["patch_threshold"] == 0
    assert calibration["image_threshold"] == pytest.approx(1 / 0.6826)
    shown = read_heatmap(heatmap_path(tmp_path / "pooled", "b")).values
    np.testing.assert_array_equal(shown, np.array([[0, np.nan]], np.float32))
    assert calibration["marks"]["threshold"] == 0
    assert calibration["display_range"] == pytest.approx([-1 / 0.6826, 1 / 0.6826])
    marks = read_marks(tmp_path / "pooled")
    assert marks["image_id"].tolist() == ["a", "b"]
    assert marks["score"].tolist() == pytest.approx([1, 0])
    assert marks["rarity"].tolist() == [0.25, 0.25]  # each fold's own
    with pytest.raises(RequestError, match="the same image"):
        pooled_run.pool_runs([parts[0], parts[0]], tmp_path / "twice", scales)


def test_members_are_on_the_scale_of_their_fusion() -> None:
    def scale(centre: tuple[float, float], spread: tuple[float, float]) -> NegativeScale:
        found = NegativeScale(2)
        found.centre.copy_(torch.tensor(centre))
        found.spread.copy_(torch.tensor(spread))
        return found

    def fusion(images: NegativeScale) -> SimpleNamespace:
        return SimpleNamespace(
            config=SimpleNamespace(members={"dae": None, "convergence": None}),
            patches=scale((1, 2), (3, 4)),
            maps=scale((5, 6), (7, 8)),
            images=images,
        )

    pooled = pooled_run.Scale.of_member(fusion(NegativeScale(2)), "convergence")
    assert pooled == pooled_run.Scale((2, 4), (6, 8), (2, 4))
    own = pooled_run.Scale.of_member(fusion(scale((0.5, 9), (0.25, 9))), "dae")
    assert own.images == (0.5, 0.25)


def test_places_count_only_where_the_heatmap_speaks(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    rows, each, values, truth = [], [], [], []
    for name in ("a", "b", "n"):
        shown = generator.normal(size=(80, 80)).astype(np.float32)
        lesion = np.zeros((80, 80), bool)
        lesion[:20, :40] = name != "n"
        shown[lesion] += 1 if name == "a" else -1
        shown[:, 60:] = np.nan
        write_heatmap(heatmap_path(tmp_path / "run", name), Heatmap(shown, "z"))
        rows.append(ImageRow(name, str(tmp_path / name), "ok", "", score=1, rows=80, columns=80))
        if name != "n":
            seen, inside = shown[::4, ::4], lesion[::4, ::4]
            spoken = np.isfinite(seen)
            each.append(roc_auc_score(inside[spoken], seen[spoken]))
            values.append(seen[spoken])
            truth.append(inside[spoken])
    run = write_run(tmp_path / "run", {}, rows)
    (tmp_path / "truth.csv").write_text(
        "path,patient_id,label\na,A,positive\nb,B,positive\nn,N,negative\n"
    )
    (tmp_path / "regions.csv").write_text("path,x,y,width,height\na,0,0,40,20\nb,0,0,40,20\n")
    found = places.judge_places(run, tmp_path / "truth.csv", tmp_path / "regions.csv", seed=0)
    assert each[0] > 0.7 > 0.3 > each[1]
    assert found["by_film"]["value"] == pytest.approx(np.mean(each))
    pooled = roc_auc_score(np.concatenate(truth), np.concatenate(values))
    assert found["pooled"]["value"] == pytest.approx(pooled, abs=0.002)
    assert found["by_film"]["ci95"] == [None, None]  # of two patients
    assert found["counts"] == {"films": 2, "films_with_both": 2}


def test_tables_give_range_and_interval() -> None:
    def sections(value: float) -> dict:
        return {"image": {"auroc": {"value": value, "ci95": [value - 0.1, value + 0.1]}}}

    columns = {
        "image AUROC": cross_tables.Column("image", "auroc"),
        "… CALC": cross_tables.Column("image", "auroc", "CALC"),
        "… AP": cross_tables.Column("image", "auroc", subset="AP"),
        "seconds": cross_tables.Column("seconds", "image"),
    }
    rows = []
    for seed, value in ((0, 0.6), (1, 0.7)):
        whole = {**sections(value), "seconds": {"image": {"value": 2.0, "ci95": [None, None]}}}
        whole |= {"baselines": {"patch_mean": sections(0.5)}, "by_kind": {"CALC": sections(0.9)}}
        judged = {"all": whole, "AP": sections(value - 0.2)}
        rows += cross_tables.cross_rows(judged, columns, "ours", seed, baselines=True)
    results = pd.DataFrame(rows).astype(dict.fromkeys(("value", "low", "high"), float))
    facts = pd.DataFrame({"seed": [0, 1], "images": [9, 9]})
    lines = cross_tables.cross_report(results, facts, ["a note"], columns).splitlines()
    assert "|  | image AUROC | … CALC | … AP | seconds |" in lines
    ours = "0.65 (0.60–0.70) | 0.90 (0.90–0.90) | 0.45 (0.40–0.50) | 2.00 (2.00–2.00)"
    assert f"| ours | {ours} |" in lines
    assert "| *patch mean* | 0.50 (0.50–0.50) | – | – | – |" in lines
    first = "0.60 [0.50, 0.70] | 0.90 [0.80, 1.00] | 0.40 [0.30, 0.50] | 2.00"
    assert f"| ours | {first} |" in lines


def test_arms_are_chosen_by_name() -> None:
    assert [arm.name for arm in cross_validation.choose_arms(mias.CROSS_ARMS, "convergence")] == [
        "convergence"
    ]
    assert cross_validation.choose_arms(mias.CROSS_ARMS, "") == mias.CROSS_ARMS
    with pytest.raises(RequestError, match="--arms nothing: no such arm; choose from mammography"):
        cross_validation.choose_arms(mias.CROSS_ARMS, "convergence,nothing")


@pytest.mark.slow
def test_the_chain_on_phantoms(study, tmp_path: Path) -> None:
    config = tmp_path / "fusion.toml"
    config.write_text(
        'method = "fused"\npatch_size = 32\nstride = 16\n[preprocessing]\nspacing_mm = 0.8\n'
        '[calibration]\npooling = "max"\n[fused.members.convergence]\nweight = 2.0\n'
    )
    rows = pd.read_csv(study.manifest)
    rows["path"] = [str(study.manifest.parent / path) for path in rows["path"]]
    regions = pd.read_csv(study.regions)
    regions["path"] = [str(study.regions.parent / path) for path in regions["path"]]
    columns = ["path", "patient_id", "label", "laterality", "view"]

    def deal(seed: int, folder: Path) -> folds.Folds:
        return folds.write_folds(
            rows[columns], regions, folder, folds=2, seed=seed, subsets={}, notes=("phantoms",)
        )

    arms = (
        cross_validation.CrossArm("both", str(config)),
        cross_validation.CrossArm("one", str(config), member="convergence"),
        cross_validation.CrossArm("moved", str(config), standardise=True),
        cross_validation.CrossArm("two", str(config), two_breasts=True),
    )
    whole = cross_validation.CrossStudy(
        "phantoms", arms, (2,), deal, mias.CROSS_COLUMNS, kinds=("heatmap",)
    )
    report = cross_validation.run_cross_validation(whole, tmp_path / "out", device=CPU)
    assert "# phantoms" in report
    results = pd.read_csv(tmp_path / "out" / "results.csv").set_index(["arm", "figure"])["value"]
    # One member: each patch's score is that of the fusion, but for scale and the film's offset.
    within = "within-image AUROC"
    assert results["both", within] == pytest.approx(results["one", within], abs=1e-6)
    assert results["both", "seconds an image"] > 0
    own = tmp_path / "out" / "seed2"
    single = json.loads((own / "fold1" / "models" / "fusion-convergence" / "card.json").read_text())
    assert single["method"] == "convergence"
    assert single["calibration"]["patches"] > 0
    pooled = read_run(own / "pooled" / "both" / "run")
    assert len(pooled.rows) == len(rows)
    plain = {row.path: row.score for row in pooled.rows}
    two = {row.path: row.score for row in read_run(own / "pooled" / "two" / "run").rows}
    right, left = rows["path"][rows["patient_id"] == "P0008"]
    assert two[right] == pytest.approx(plain[right] - plain[left] / 2, abs=1e-5)
    again = cross_validation.run_cross_validation(
        whole, tmp_path / "out", device=CPU, arms="both,one", resume=True
    )
    assert "| moved |" not in again
    other = replace(whole, title="another")
    with pytest.raises(RequestError, match="title: phantoms then, another now"):
        cross_validation.run_cross_validation(other, tmp_path / "out", device=CPU, resume=True)


def test_a_share_of_patients_without_boxes_is_unlabelled(tmp_path: Path) -> None:
    """Ten patients of two films: 0 to 3 are positive, 0 and 1 have boxes."""
    rows = pd.DataFrame(
        {
            "path": [f"/films/{n}{side}.png" for n in range(10) for side in "ab"],
            "patient_id": [f"p{n}" for n in range(10) for _ in "ab"],
            "label": ["positive"] * 8 + ["negative"] * 12,
        }
    )
    regions = pd.DataFrame({"path": ["/films/0a.png", "/films/1b.png"]})
    folds.write_tables(rows, regions, tmp_path, 0.5)
    found = pd.read_csv(tmp_path / "manifest.csv")
    unlabelled = found[found["split"] == "unlabelled"]
    assert len(found) == 20
    assert sorted(unlabelled["label"]) == ["negative"] * 6 + ["positive"] * 2
    assert (unlabelled.groupby("patient_id").size() == 2).all()
    assert not {"p0", "p1"} & set(unlabelled["patient_id"])
