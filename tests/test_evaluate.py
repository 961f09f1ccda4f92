import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from run_builders import SIZE, make_run
from sklearn import metrics as reference

from patchad.commands.evaluate import evaluate, summary
from patchad.errors import OutputError, RequestError

CPU = torch.device("cpu")
# image: its patches' scores, by rows; score NaN: not scored
SCORES = {
    "n1": (1, 2, 3, 4),
    "n2": (0, 0, 1, 5),
    "p1": (2.5, 1, 6, 3),
    "p2": (2, 7, 4, math.nan),
}
TRUTH = """path,patient_id,label
n1.png,A,negative
n2.png,B,negative
p1.png,C,positive
p2.png,D,positive
broken.png,E,positive
"""
# In the first patch of p1, and in the second and the last of p2.
REGIONS = """path,x,y,width,height,kind
p1.png,4,4,6,6,mass
p2.png,24,4,6,6,mass
p2.png,24,24,6,6,calcification
"""


def judge(folder, run, truth=TRUTH, regions=REGIONS, **options):
    (folder / "truth.csv").write_text(truth)
    (folder / "regions.csv").write_text(regions or "")
    return evaluate(
        run,
        folder / "truth.csv",
        folder / "regions.csv" if regions else None,
        options.pop("out", None),
        device=CPU,
        **{"resamples": 100, **options},
    )


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    folder = tmp_path_factory.mktemp("judged")
    run = make_run(folder, SCORES)
    return run, judge(folder, run)


def values(section):
    return {
        name: part["value"]
        for name, part in section.items()
        if isinstance(part, dict) and "ci95" in part
    }


def test_patches_by_hand(judged):
    _, result = judged
    # 2.5 beats 1, 2, 0, 0, 1 of the eight negatives, 7 beats all.
    assert result["patch"]["auroc"]["value"] == pytest.approx(13 / 16)
    # p1: 2.5 against 1, 6 and 3; p2: 7 against 2 and 4.
    assert result["patch"]["within_image_auroc"]["value"] == pytest.approx((1 / 3 + 1) / 2)
    # From the top: 7+, then 5, 4, 3, then 2.5+.
    assert result["patch"]["average_precision"]["value"] == pytest.approx((1 + 2 / 5) / 2)
    assert result["patch"]["sensitivity_at_80_specificity"]["value"] == 0.5
    assert result["patch"]["counts"] == {
        "positives": 2, "negatives": 8, "prevalence": 0.2, "positive_patients": 2,
        "negative_patients": 2, "images_within": 2, "negatives_within": 5, "not_counted": 0,
    }  # fmt: skip


def test_images_by_hand(judged):
    _, result = judged
    assert values(result["image"]) == dict.fromkeys(values(result["image"]), 1.0)
    assert result["image"]["counts"]["positives"] == 2


def test_patients_by_hand(tmp_path):
    run = make_run(tmp_path, SCORES)
    truth = TRUTH.replace("p2.png,D", "p2.png,A").replace("n2.png,B", "n2.png,C")
    truth += "n3.png,F,negative\nn4.png,F,negative\n"
    run = make_run(tmp_path, {**SCORES, "n3": (0, 6.5, 0, 0), "n4": (0, 1, 0, 0)})
    result = judge(tmp_path, run, truth)
    # A has n1 (4) and p2 (7), C has n2 (5) and p1 (6), F has n3 (6.5) and n4 (1).
    assert result["patient"]["auroc"]["value"] == 1 / 2
    assert result["patient"]["counts"]["positives"] == 2
    assert result["patient"]["counts"]["negatives"] == 1
    # p1 and p2 against n1, n2, n3, n4: only 6 lies below 6.5.
    assert result["image"]["auroc"]["value"] == 7 / 8
    calcification = result["by_kind"]["calcification"]["patient"]
    assert (calcification["auroc"]["value"], calcification["counts"]["positives"]) == (1, 1)


def test_the_pointing_game_by_hand(judged):
    _, result = judged
    # p1's highest patch is its third, off the lesion; p2's is its second: x 20-40, y 0-20, with
    # its centre (30, 10) just outside of the region that ends there.
    assert result["pointing"] == {
        "hits": {"value": 0.0, "ci95": [None, None], "dropped": 0},
        "counts": {"images": 2, "hits": 0, "patients": 2},
    }


def test_pointing_by_kind(tmp_path):
    regions = """path,x,y,width,height,kind
p1.png,2,22,10,10,mass
p2.png,26,6,6,6,mass
p2.png,2,2,6,6,calcification
"""
    run = make_run(tmp_path, SCORES)
    result = judge(tmp_path, run, regions=regions)
    # The centre of p1's third patch is (10, 30), of p2's second (30, 10).
    assert result["pointing"]["hits"]["value"] == 1
    assert result["by_kind"]["mass"]["pointing"]["hits"]["value"] == 1
    other = result["by_kind"]["calcification"]["pointing"]
    assert (other["hits"]["value"], other["counts"]["images"]) == (0, 1)
    # Turned over, the highest patches are p1's second and p2's first, or its last without a score.
    turned = result["by_kind"]["mass"]["baselines"]["gradient_energy"]["pointing"]
    assert turned["hits"]["value"] == 0


def test_lesions_by_hand(judged):
    _, result = judged
    # Best marks 7, 2.5 and none; false marks 5, 4, 3, 2, 1, 1, 0, 0 on two images.
    assert values(result["froc"]) == pytest.approx(
        {
            "sensitivity_at_0.25": 1 / 3, "sensitivity_at_0.5": 1 / 3, "sensitivity_at_1": 1 / 3,
            "sensitivity_at_2": 2 / 3, "sensitivity_at_4": 2 / 3,
        }
    )  # fmt: skip
    assert result["froc"]["counts"] == {
        "lesions": 3, "lesions_not_scored": 1, "lesions_never_marked": 1, "lesion_patients": 2,
        "negative_images": 2, "marks_on_negative_images": 8,
    }  # fmt: skip


def test_thresholds_are_the_cards(judged):
    _, result = judged
    patch, image = result["threshold"]["patch"], result["threshold"]["image"]
    # Above 3: 7 of (7, 2.5), and 4, 5 of eight negatives; 3 itself is not above.
    assert patch["value"] == 3.0
    assert values(patch) == pytest.approx(
        {
            "sensitivity": 1 / 2, "specificity": 6 / 8, "precision": 1 / 3, "f1": 2 / 5,
            "accuracy": 7 / 10, "false_patches_per_negative_image": 1.0,
        }
    )  # fmt: skip
    assert image["value"] == 4.5
    assert values(image) == pytest.approx(
        {"sensitivity": 1, "specificity": 1 / 2, "precision": 2 / 3, "f1": 4 / 5, "accuracy": 3 / 4}
    )


def test_marks_by_hand(judged):
    run, result = judged
    # Over 3, with neighbours together: n1 its last patch (4), n2 its last (5), p1 its third (6),
    # p2 the second (7) and the third (4), which touch at a corner alone.
    marks = result["marks"]
    assert values(marks) == pytest.approx(
        {"marks_a_negative_image": 1, "lesions_marked": 1 / 3, "precision": 1 / 5}
    )
    assert marks["counts"] == {
        "lesions": 3, "lesions_marked": 1, "negative_images": 2, "marks_on_negative_images": 2,
        "negative_images_without_marks": 0, "marks_on_lesions": 1, "marks": 5,
    }  # fmt: skip
    assert result["by_kind"]["mass"]["marks"]["lesions_marked"]["value"] == 1 / 2
    assert result["by_kind"]["calcification"]["marks"]["lesions_marked"]["value"] == 0
    # Rarity: 1 up to 4, 0.5 up to 6, then 0.1. n1 has 1.0, n2 has 0.5.
    observed = {row["expected"]: row["observed"]["value"] for row in marks["rarity"]}
    assert observed == {1.0: 1.0, 0.5: 0.5, 0.2: 0.0, 0.1: 0.0}  # no further than the model tells
    table = pd.read_csv(run / "evaluation" / "marks.csv").set_index(["image_id", "number"])
    assert table.loc[("p2", 1), "lesions_hit"] == 1
    assert table.loc[("p2", 2), "lesions_hit"] == 0
    assert not table.loc[("n1", 1), "positive_image"]
    rarity = pd.read_csv(run / "evaluation" / "rarity.csv")
    assert rarity["marks"].tolist() == [2, 1, 0, 0]


def test_marks_are_those_of_the_run(tmp_path):
    run = make_run(tmp_path, SCORES)
    marks = pd.read_csv(run / "marks.csv")
    marks[marks["image_id"] != "n2"].to_csv(run / "marks.csv", index=False)
    found = judge(tmp_path, run)["marks"]
    assert found["counts"]["marks_on_negative_images"] == 1
    assert found["counts"]["negative_images_without_marks"] == 1
    marks.drop(columns="rarity").to_csv(run / "marks.csv", index=False)
    with pytest.raises(RequestError, match=r"marks.csv .*lacks the columns rarity.*screen again"):
        judge(tmp_path, run)
    (run / "marks.csv").unlink()
    with pytest.raises(RequestError, match=r"marks.csv .*No such file.*screen again"):
        judge(tmp_path, run)


def test_a_lesion_that_nobody_located_leaves_precision_alone(tmp_path):
    run = make_run(tmp_path, SCORES)
    found = judge(tmp_path, run, regions="path,x,y,width,height\np1.png,4,24,6,6\n")["marks"]
    assert found["counts"]["lesions_marked"] == 1  # the third patch of p1
    assert found["precision"]["value"] == pytest.approx(1 / 3)  # n1, n2, p1; nothing of p2


def test_pixels_against_scikit_learn(judged):
    _, result = judged
    truth, scores = [], []
    for name, patches in SCORES.items():
        picture = np.kron(np.reshape(patches, (2, 2)), np.ones((20, 20)))
        lesion = np.zeros((SIZE, SIZE), bool)
        if name[0] == "p":
            lesion[4:10, slice(4, 10) if name == "p1" else slice(24, 30)] = True
        scored = np.isfinite(picture)
        truth.append(lesion[scored])
        scores.append(picture[scored])
    truth, scores = np.concatenate(truth), np.concatenate(scores)
    assert values(result["pixel"]) == pytest.approx(
        {
            "auroc": reference.roc_auc_score(truth, scores),
            "average_precision": reference.average_precision_score(truth, scores),
            # 36 lesion pixels above 3 of 108, one lesion not having been scored; above: 5 patches
            "dice": 2 * 36 / (108 + 5 * 400),
            # over a threshold that only the patch of 7 reaches
            "dice_chosen_on_test": 2 * 36 / (108 + 400),
            # at 7 a third of the lesions and 364 of 5928 negative pixels; more only beyond 0.3
            "pro": (364 / 5928 / 6 + (0.3 - 364 / 5928) / 3) / 0.3,
        }
    )
    assert result["pixel"]["counts"]["lesion_pixels_not_scored"] == 36


def test_kinds_of_lesions(judged):
    _, result = judged
    mass, calcification = result["by_kind"]["mass"], result["by_kind"]["calcification"]
    assert values(mass["patch"]) == values(result["patch"])
    assert calcification["patch"]["auroc"] == {"value": None, "ci95": [None, None], "dropped": 0}
    assert calcification["image"]["auroc"]["value"] == 1
    assert calcification["image"]["counts"]["positives"] == 1
    assert calcification["froc"]["sensitivity_at_4"]["value"] == 0
    assert mass["baselines"]["patch_mean"]["patch"]["auroc"]["value"] == 0.5


def test_baselines_stand_beside_the_method(judged):
    _, result = judged
    mean, same, turned = (
        result["baselines"][n] for n in ("patch_mean", "patch_std", "gradient_energy")
    )
    assert mean["patch"]["auroc"]["value"] == 0.5
    assert mean["image"]["auroc"]["value"] == 0.5
    assert same["image"]["auroc"]["value"] == 1
    assert turned["patch"]["auroc"]["value"] == pytest.approx(3 / 16)  # never turned over
    excess = turned["method_minus_baseline"]["patch"]["auroc"]
    assert excess["value"] == pytest.approx(10 / 16)
    assert same["method_minus_baseline"]["patch"]["auroc"]["value"] == 0
    assert mean["beaten"] is None  # two patients show nothing


def test_few_patients_get_no_interval(judged):
    _, result = judged
    assert result["patch"]["auroc"]["ci95"] == [None, None]


def test_what_was_left_out_is_counted(judged):
    _, result = judged
    counts = result["counts"]
    assert (counts["images"], counts["patients"], counts["positive_images"]) == (4, 4, 2)
    assert counts["positive_images_failed"] == 1
    assert any("1 positive images failed" in note for note in result["notes"])
    assert any("no split column" in note for note in result["notes"])


def test_files(judged):
    run, result = judged
    folder = run / "evaluation"
    assert {path.name for path in folder.iterdir()} == {
        "evaluation.json", "roc.png", "pr.png", "froc.png", "histogram.png", "rarity.png",
        "figures.csv", "by_kind.csv", "operating_points.csv", "marks.csv", "rarity.csv",
    }  # fmt: skip
    assert json.loads((folder / "evaluation.json").read_text()) == result
    for name in ("roc", "pr", "froc", "histogram"):
        with Image.open(folder / f"{name}.png") as picture:
            assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 4
    table = pd.read_csv(folder / "figures.csv", keep_default_na=False)
    chosen = table.query("scorer == 'wei2018' and kind == '' and figure == 'auroc'")
    assert chosen.set_index("level")["value"].astype(float)["patch"] == pytest.approx(13 / 16)
    assert set(table["scorer"]) >= {"patch_mean", "wei2018 - patch_mean"}
    points = pd.read_csv(folder / "operating_points.csv")
    assert points.query("level == 'patch' and threshold == 3")["sensitivity"].item() == 0.5
    kinds = pd.read_csv(folder / "by_kind.csv").set_index(["kind", "scorer"])
    assert kinds.loc[("calcification", "wei2018"), "lesions_not_scored"] == 1


def test_summary_tells_who_was_not_beaten(judged):
    _, result = judged
    text = "\n".join(summary(result))
    assert "4 images (2 positive) of 4 patients" in text
    assert "wei2018          0.81" in text
    assert (
        "marks: 1.00 a negative image, on 0.33 of 3 lesions; 0.20 of all marks lie on one" in text
    )
    assert "marks as rare as 1 in 10 normal films: 0.00 a negative image (0.10 promised)" in text
    assert "not shown to beat (patch AUROC, paired by patient): patch_mean" in text


def many(signal, patients=24):
    """Two images a patient; half of the patients have a lesion in the first patch of each."""
    generator = np.random.default_rng(0)
    scores, truth, regions = {}, "path,patient_id,label\n", "path,x,y,width,height\n"
    for number in range(2 * patients):
        name, positive = f"i{number}", number % 4 < 2
        scores[name] = generator.normal(size=4) + signal * positive * np.array([1, 0, 0, 0])
        truth += f"{name}.png,{number // 2},{'positive' if positive else 'negative'}\n"
        regions += f"{name}.png,2,2,8,8\n" * positive
    noise = {"patch_std": lambda v: generator.normal(size=4).astype(np.float32)}
    return scores, truth, regions, lambda v: {name: make(v) for name, make in noise.items()}


def test_intervals_and_paired_differences(tmp_path):
    scores, truth, regions, baselines = many(signal=2.0)
    run = make_run(tmp_path, scores, baselines=baselines)
    result = judge(tmp_path, run, truth, regions, resamples=300)
    figure = result["patch"]["auroc"]
    low, high = figure["ci95"]
    assert 0.5 < low < figure["value"] < high < 1
    excess = result["baselines"]["patch_std"]["method_minus_baseline"]["patch"]["auroc"]
    assert 0 < excess["ci95"][0] < excess["value"] < excess["ci95"][1]
    assert result["baselines"]["patch_std"]["beaten"] is True
    assert result["patch"]["within_image_auroc"]["ci95"][0] > 0.5
    assert judge(tmp_path, run, truth, regions, resamples=300) == result  # one seed, one result


def test_noise_beats_nothing(tmp_path):
    scores, truth, regions, baselines = many(signal=0.0)
    run = make_run(tmp_path, scores, baselines=baselines)
    result = judge(tmp_path, run, truth, regions)
    low, high = result["patch"]["auroc"]["ci95"]
    assert low < 0.5 < high
    assert result["baselines"]["patch_std"]["beaten"] is False


def test_one_class_is_null_never_a_half(tmp_path):
    run = make_run(tmp_path, {name: SCORES[name] for name in ("n1", "n2")})
    truth = "path,patient_id,label\nn1.png,A,negative\nn2.png,B,negative\n"
    result = judge(tmp_path, run, truth, regions=None)
    for level in ("patch", "image", "patient", "pointing", "froc"):
        assert set(values(result[level]).values()) == {None}
    assert result["pixel"] is None
    assert result["by_kind"] == {}
    assert result["threshold"]["image"]["specificity"]["value"] == 0.5
    assert result["threshold"]["image"]["sensitivity"]["value"] is None


def test_positive_images_without_regions_count_as_images_alone(tmp_path):
    run = make_run(tmp_path, SCORES)
    regions = "path,x,y,width,height\np1.png,4,4,6,6\n"
    result = judge(tmp_path, run, regions=regions)
    assert result["image"]["counts"]["positives"] == 2
    assert result["patch"]["counts"]["positives"] == 1
    assert result["patch"]["counts"]["not_counted"] == 3
    assert result["counts"]["positive_images_without_regions"] == 1
    assert result["pixel"]["counts"]["images"] == 3
    assert list(result["by_kind"]) == ["unspecified"]


def test_without_heatmaps_there_are_no_pixel_figures(tmp_path):
    run = make_run(tmp_path, SCORES, heatmaps=False)
    result = judge(tmp_path, run)
    assert result["pixel"] is None
    assert any("heatmaps are missing" in note for note in result["notes"])


def test_only_test_rows_count_where_there_are_splits(tmp_path):
    run = make_run(tmp_path, SCORES)
    truth = """path,patient_id,label,split
n1.png,A,negative,train
n2.png,B,negative,test
p1.png,C,positive,validation
p2.png,D,positive,
broken.png,E,unknown,test
"""
    result = judge(tmp_path, run, truth)
    counts = result["counts"]
    assert (counts["images"], counts["truth_rows_of_other_splits"]) == (2, 2)
    assert (counts["truth_rows_of_unknown_label"], counts["run_images_not_in_truth"]) == (1, 3)
    assert any("split is test" in note for note in result["notes"])


def test_a_study_that_moved_as_a_whole_is_judged_and_says_so(tmp_path):
    run = make_run(tmp_path, SCORES, images=Path("/elsewhere"))
    result = judge(tmp_path, run)
    assert result["counts"]["matched_by_moved_path"] == 5
    assert result["counts"]["matched_by_path"] == 0
    assert result["patch"]["auroc"]["value"] == pytest.approx(13 / 16)
    assert any(f"{tmp_path} was assumed to be what is now /elsewhere" in n for n in result["notes"])


def test_regions_that_moved_as_a_whole_are_matched_alike(tmp_path):
    run = make_run(tmp_path, SCORES)
    result = judge(tmp_path, run, regions=REGIONS.replace("\np", "\n/elsewhere/p"))
    assert result["counts"]["regions_matched_by_moved_path"] == 2
    assert result["counts"]["regions"] == 3
    assert any("2 files that have regions were matched" in note for note in result["notes"])


def named_alike(folder, named, exists=False):
    """A run of P0009/film.png and P0008/other.png; the truth names P0008/``named``."""
    run = make_run(folder, {"a": SCORES["p1"], "b": SCORES["n1"]})
    table = pd.read_csv(run / "images.csv")[:2]
    table["path"] = [str(folder / "P0009/film.png"), str(folder / "P0008/other.png")]
    table.to_csv(run / "images.csv", index=False)
    if exists:
        (folder / "P0008").mkdir()
        (folder / "P0008" / named).touch()
    truth = f"path,patient_id,label\nP0008/{named},8,positive\n"
    return run, truth


@pytest.mark.parametrize("exists", [False, True])
@pytest.mark.parametrize("other", ["", "P0008/other.png,8,negative\n"])
def test_another_patients_film_of_the_same_name_is_never_judged(tmp_path, exists, other):
    run, truth = named_alike(tmp_path, "film.png", exists=exists)
    if not (exists or other):  # nothing but the name of the patient's folder speaks against it
        truth = truth.replace(",8,", ",P0008,")
    with pytest.raises(RequestError, match=r"P0009.film\.png has only its file name"):
        judge(tmp_path, run, truth + other, regions=None)


def test_regions_of_another_patients_film_of_the_same_name_mark_nothing(tmp_path):
    run, truth = named_alike(tmp_path, "other.png")
    truth = truth.replace("other", "film") + "P0009/film.png,9,positive\n"
    table = pd.read_csv(run / "images.csv").replace(r"P0008.other", "P0008/film", regex=True)
    table.to_csv(run / "images.csv", index=False)
    regions = "path,x,y,width,height\nP0009/film.png,4,4,6,6\nP0007/film.png,24,4,6,6\n"
    result = judge(tmp_path, run, truth, regions)
    counts = result["counts"]
    assert (counts["regions"], counts["positive_images_without_regions"]) == (1, 1)
    assert counts["region_files_not_in_truth"] == 1
    assert any("1 files that have regions are in no row" in note for note in result["notes"])


def test_a_path_with_another_uid_is_refused(tmp_path):
    run = make_run(tmp_path, {"n1": SCORES["n1"]})
    table = pd.read_csv(run / "images.csv")
    table["sop_instance_uid"] = ["1.2.3", ""]
    table.to_csv(run / "images.csv", index=False)
    truth = "path,patient_id,label,sop_instance_uid\nn1.png,A,negative,1.2.{}\n"
    with pytest.raises(RequestError, match="another SOP instance UID"):
        judge(tmp_path, run, truth.format(4), regions=None)
    assert judge(tmp_path, run, truth.format(3), regions=None)["counts"]["images"] == 1


def test_of_a_part_of_the_truth_only_what_was_screened_is_judged(tmp_path):
    run = make_run(tmp_path, SCORES)
    truth = TRUTH + "p9.png,F,positive\nn8.png,G,negative\nn9.png,H,negative\n"
    regions = REGIONS + "p9.png,4,4,6,6,mass\n"
    with pytest.raises(RequestError, match="--only-screened"):
        judge(tmp_path, run, truth, regions)
    result = judge(tmp_path, run, truth, regions, only_screened=True)
    counts = result["counts"]
    assert (counts["images"], counts["regions"]) == (4, 3)
    assert counts["positive_images_not_screened"] == 1
    assert counts["negative_images_not_screened"] == 2
    assert result["patch"] == judge(tmp_path, run)["patch"]
    note = "3 of 8 rows of the truth have no image in the run and were left out (1 positive, 2 neg"
    assert any(note in line for line in summary(result))
    truth = "path,patient_id,label\nn8.png,G,negative\n"
    with pytest.raises(RequestError, match=r"none of the 1 rows .* 1 were not screened"):
        judge(tmp_path, run, truth, regions=None, only_screened=True)


@pytest.mark.parametrize(
    ("truth", "regions", "message"),
    [
        (TRUTH + "n9.png,F,negative\n", REGIONS, r"1 of 6 have none, the first .*n9\.png"),
        (TRUTH + "sub/n1.png,F,negative\n", REGIONS, r"1 of 6 have none"),
        (TRUTH, REGIONS + "n1.png,1,1,2,2,mass\n", "a negative image holds no lesion"),
        (TRUTH, REGIONS + "p1.png,60,4,6,6,mass\n", "40 columns × 40 rows"),
        (TRUTH, "path,x,y,width,height\nq.png,1,1,2,2\n", "none of the 1 files that have regions"),
        ("path,patient_id,label\nn1.png,A,unknown\n", None, "none of the .* can be judged"),
    ],
)
def test_what_does_not_fit_together_is_refused(tmp_path, truth, regions, message):
    run = make_run(tmp_path, SCORES)
    with pytest.raises(RequestError, match=message):
        judge(tmp_path, run, truth, regions)
    assert not (run / "evaluation").exists()


def test_ambiguous_names_are_refused(tmp_path):
    run = make_run(tmp_path, SCORES, images=Path("/elsewhere"))
    truth = TRUTH + "sub/n1.png,F,negative\n"
    with pytest.raises(RequestError, match=r"1 fit several images, .* the first .*n1\.png"):
        judge(tmp_path, run, truth)


def test_a_folder_in_use_is_refused(tmp_path):
    run = make_run(tmp_path, SCORES)
    with pytest.raises(OutputError, match="new or empty folder"):
        judge(tmp_path, run, out=tmp_path)
    judge(tmp_path, run, out=tmp_path / "new")
    assert (tmp_path / "new" / "evaluation.json").exists()


def test_a_file_of_several_frames_is_judged_by_its_highest(tmp_path):
    scores = {"n1": SCORES["n1"], "p1_frame1": (1, 1, 2, 1), "p1_frame2": SCORES["p1"]}
    run = make_run(tmp_path, scores)
    table = pd.read_csv(run / "images.csv")
    frames = table["id"].str.startswith("p1")
    table.loc[frames, "path"] = str(tmp_path / "p1.png")
    table.loc[frames, "frame"] = [1, 2]
    table.to_csv(run / "images.csv", index=False)
    truth = "path,patient_id,label\nn1.png,A,negative\np1.png,C,positive\n"
    regions = "path,x,y,width,height\np1.png,24,4,6,6\np1.png,4,24,6,6\n"
    result = judge(tmp_path, run, truth, regions)
    counts = result["counts"]
    assert (counts["images"], counts["run_images"], counts["matched_by_path"]) == (2, 3, 2)
    assert result["image"]["auroc"]["value"] == 1  # 6, of the second frame, over 4
    # positive 1 and 6 of the second frame, against 1, 2, 3, 4 of the negative image and its own 2.5
    assert result["patch"]["counts"]["positives"] == 2
    assert any("2 frames of 1 files" in note for note in result["notes"])
