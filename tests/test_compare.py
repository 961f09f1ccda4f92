"""`patchad compare`: two tiny runs computed by hand, and what must be refused."""

import json
import math
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from run_builders import make_run
from typer.testing import CliRunner

from patchad.cli.app import app
from patchad.commands.compare import compare
from patchad.commands.compare_words import summary
from patchad.errors import OutputError, RequestError
from patchad.evaluation.common import names_of
from patchad.evaluation.metrics import resample
from patchad.model.trained_on import pack_digests

CPU = torch.device("cpu")
ONE = {
    "n1": (1, 2, 3, 4),
    "n2": (0, 0, 1, 5),
    "p1": (2.5, 1, 6, 3),
    "p2": (2, 7, 4, math.nan),
}
# The highest patch of n1 is higher than that of p1; on the lesion of p1 it is higher than beside.
TWO = {**ONE, "n1": (1, 2, 3, 6.5), "p1": (6, 1, 2.5, 3)}
TRUTH = """path,patient_id,label,view
n1.png,A,negative,CC
n2.png,B,negative,MLO
p1.png,C,positive,CC
p2.png,D,positive,MLO
broken.png,E,positive,
"""
REGIONS = """path,x,y,width,height,kind
p1.png,4,4,6,6,mass
p2.png,24,4,6,6,mass
p2.png,24,24,6,6,calcification
"""


def judge(folder, runs, truth=TRUTH, regions=REGIONS, **options):
    (folder / "truth.csv").write_text(truth)
    (folder / "regions.csv").write_text(regions or "")
    return compare(
        runs,
        folder / "truth.csv",
        folder / "regions.csv" if regions else None,
        options.pop("out", folder / "comparison"),
        device=CPU,
        **{"resamples": 100, **options},
    )


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    folder = tmp_path_factory.mktemp("judged")
    runs = [make_run(folder, ONE, called="one"), make_run(folder, TWO, called="two")]
    return folder / "comparison", judge(folder, runs).result


def row_of(result, name):
    return next(row for row in result["rows"] if row["name"] == name)


def values(row):
    return {
        name: (part["value"], part["difference"]["value"])
        for name, part in row.items()
        if isinstance(part, dict) and "ci95" in part
    }


def test_two_runs_by_hand(judged):
    _, result = judged
    # Images: 6 and 7 over 4 and 5. Patches: 2.5 and 7 against 1 2 3 4 0 0 1 5, 13 pairs of 16.
    # Within: 2.5 against 1, 6 and 3, a third; 7 against 2 and 4, all.
    # Lesions 7, 2.5 and one that was not scored; false marks 5, 4, 3 on two images are above 2.5.
    # The highest patch of p1 is off its lesion; the centre of p2's lies on the edge of its lesion.
    assert values(row_of(result, "one")) == {
        name: (pytest.approx(value), 0)
        for name, value in {
            "image_auroc": 1, "image_average_precision": 1, "patient_auroc": 1,
            "patch_auroc": 13 / 16, "within_image_auroc": 2 / 3,
            "lesions_found_at_0.25": 1 / 3, "lesions_found_at_0.5": 1 / 3,
            "lesions_found_at_1": 1 / 3, "lesions_found_at_2": 2 / 3, "pointing_hits": 0,
        }.items()
    }  # fmt: skip
    # Images: 6 and 7 against 6.5 and 5, three of four; from the top 7+, 6.5, 6+.
    # Patches: 6 beats all but 6.5 of the eight, 7 all. p1's highest patch is now that of its
    # lesion, which spans 4 to 10, with its centre at (10, 10), just outside.
    assert values(row_of(result, "two")) == {
        name: (pytest.approx(value), pytest.approx(value - less))
        for name, (value, less) in {
            "image_auroc": (3 / 4, 1), "image_average_precision": ((1 + 2 / 3) / 2, 1),
            "patient_auroc": (3 / 4, 1), "patch_auroc": (15 / 16, 13 / 16),
            "within_image_auroc": (1, 2 / 3),
            "lesions_found_at_0.25": (1 / 3, 1 / 3), "lesions_found_at_0.5": (2 / 3, 1 / 3),
            "lesions_found_at_1": (2 / 3, 1 / 3), "lesions_found_at_2": (2 / 3, 2 / 3),
            "pointing_hits": (0, 0),
        }.items()
    }  # fmt: skip


def test_by_view_and_by_kind_by_hand(judged):
    _, result = judged
    one, two = row_of(result, "one"), row_of(result, "two")
    # CC holds n1 and p1, MLO n2 and p2.
    assert {view: part["image_auroc"]["value"] for view, part in two["by_view"].items()} == {
        "CC": 0, "MLO": 1,
    }  # fmt: skip
    assert one["by_view"]["CC"]["image_auroc"]["value"] == 1
    assert two["by_view"]["CC"]["image_auroc"]["difference"]["value"] == -1
    # In CC: 6 of the lesion against 1, 2, 3 and 6.5; in MLO 7 against 0, 0, 1, 5.
    assert two["by_view"]["CC"]["patch_auroc"]["value"] == 3 / 4
    assert two["by_view"]["MLO"]["patch_auroc"]["value"] == 1
    assert two["by_view"]["CC"]["counts"]["lesions"] == 1
    assert two["by_view"]["MLO"]["lesions_found_at_1"]["value"] == 1 / 2
    assert two["by_kind"]["mass"]["patch_auroc"]["value"] == 15 / 16
    # The calcification has no scored patch; the image that holds it scores 7.
    assert two["by_kind"]["calcification"]["patch_auroc"]["value"] is None
    assert two["by_kind"]["calcification"]["image_auroc"]["value"] == 1
    assert two["by_kind"]["calcification"]["lesions_found_at_2"]["value"] == 0


def test_baselines_are_rows_once_if_they_are_the_same(judged, tmp_path):
    _, result = judged
    # `make_run` gives a constant mean, the score as s.d., and its negative as gradient energy:
    # so the two runs differ, and each has baselines of its own.
    names = [row["name"] for row in result["rows"]]
    assert names == [
        "one", "two", "patch mean (one)", "patch std (one)", "gradient energy (one)",
        "patch mean (two)", "patch std (two)", "gradient energy (two)",
    ]  # fmt: skip
    mean = row_of(result, "patch mean (one)")
    assert mean["baseline"] == "patch_mean"
    assert mean["image_auroc"]["value"] == 0.5
    assert mean["image_auroc"]["difference"]["value"] == -0.5
    assert row_of(result, "gradient energy (one)")["patch_auroc"]["value"] == 3 / 16
    runs = [make_run(tmp_path, ONE, called=name) for name in "ab"]
    names = [row["name"] for row in judge(tmp_path, runs).result["rows"]]
    assert names == ["a", "b", "patch mean", "patch std", "gradient energy"]


def test_files(judged):
    out, result = judged
    assert {path.name for path in out.iterdir() if path.name[0] != "."} == {
        "comparison.json", "comparison.csv", "comparison.png",
    }  # fmt: skip
    assert json.loads((out / "comparison.json").read_text()) == result
    table = pd.read_csv(out / "comparison.csv", keep_default_na=False)
    chosen = table.query("name == 'two' and part == 'view CC' and figure == 'image_auroc'").iloc[0]
    assert (float(chosen["value"]), float(chosen["difference"])) == (0, -1)
    assert (chosen["ci95_low"], chosen["above"], chosen["lesions"]) == ("", "", 1)
    assert set(table["part"]) == {
        "all", "view CC", "view MLO", "kind calcification", "kind mass",
    }  # fmt: skip
    with Image.open(out / "comparison.png") as picture:
        assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 4


def test_summary(judged):
    _, result = judged
    lines = summary(result)
    assert lines[0].startswith("4 images (2 positive) of 4 patients, 3 regions")
    assert "  one is wei2018" in lines
    two = [line.split() for line in lines if line.startswith("two")]
    assert two[0] == ["two", "0.75", "-0.25", "–", "0.83", "0.75"]
    assert two[1] == ["two", "0.94", "+0.12", "–", "1.00", "0.33", "0.67", "0.67", "0.67", "0.00"]
    assert two[2] == ["two", "0.00", "1.00"]  # by view
    assert two[3] == ["two", "1.00", "0.75"]  # by kind: 7, and 7 and 6, against 6.5 and 5


def many(patients=24, seed=0):
    """Two images a patient, of image scores of their own; half of the patients are positive."""
    generator = np.random.default_rng(seed)
    names = [f"i{number}" for number in range(2 * patients)]
    owner = np.arange(2 * patients) // 2
    positive = owner % 2 == 0
    truth = "path,patient_id,label\n" + "".join(
        f"{name}.png,{who},{'positive' if ill else 'negative'}\n"
        for name, who, ill in zip(names, owner, positive, strict=True)
    )
    scores = {name: generator.normal(size=4) for name in names}
    shared = generator.normal(size=len(names))  # what both runs see
    first = shared + positive * 0.8
    second = shared + positive * 1.2 + generator.normal(size=len(names)) * 0.3
    return scores, truth, owner, positive, (first, second)


def weighted_auroc(values, positive, weights):
    """Slowly: every pair of a positive and a negative, by the product of their weights."""
    above = (values[:, None] > values) + 0.5 * (values[:, None] == values)
    pairs = np.outer(weights * positive, weights * ~positive)
    return (above * pairs).sum() / pairs.sum()


def test_the_difference_is_drawn_with_the_same_resamples(tmp_path):
    scores, truth, owner, positive, both = many()
    runs = [
        make_run(tmp_path, scores, called=name, whole=dict(zip(scores, own, strict=True)))
        for name, own in zip("ab", both, strict=True)
    ]
    result = judge(tmp_path, runs, truth, regions=None, resamples=200, seed=3).result
    drawn = resample(24, 200, seed=3, device=CPU).numpy()
    a, b = (
        np.array([weighted_auroc(own, positive, weights[owner]) for weights in drawn])
        for own in both
    )
    figure = row_of(result, "b")["image_auroc"]
    assert figure["value"] == pytest.approx(weighted_auroc(both[1], positive, np.ones(48)))
    assert figure["ci95"] == pytest.approx(np.quantile(b, [0.025, 0.975]).tolist())
    excess = figure["difference"]
    assert excess["ci95"] == pytest.approx(np.quantile(b - a, [0.025, 0.975]).tolist())
    assert excess["above"] == (b > a).mean()
    assert excess["below"] == (b < a).mean()
    # With resamples of its own for each run the interval would be far wider.
    apart = np.quantile(b - np.roll(a, 1), [0.025, 0.975])
    assert np.ptp(apart) > 2 * np.ptp(excess["ci95"])


def test_identical_runs_differ_by_exactly_nothing(tmp_path):
    scores, truth, _, _, (own, _) = many()
    whole = dict(zip(scores, own, strict=True))
    first = make_run(tmp_path, scores, called="a", whole=whole)
    shutil.copytree(first, tmp_path / "copy")
    # Another unit, the same order: it ranks alike in every resample.
    other = make_run(
        tmp_path, scores, called="c", whole={name: 10 * s + 3 for name, s in whole.items()}
    )
    result = judge(tmp_path, [first, tmp_path / "copy", other], truth, regions=None).result
    for name in ("copy", "c"):
        for figure in ("image_auroc", "image_average_precision", "patient_auroc"):
            excess = row_of(result, name)[figure]["difference"]
            assert excess == {
                "value": 0, "ci95": [0, 0], "dropped": 0, "above": 0, "below": 0,
            }  # fmt: skip
    assert row_of(result, "a")["patch_auroc"]["difference"]["ci95"] == [None, None]


def test_two_perfect_runs_tell_nothing_of_a_new_patient(tmp_path):
    scores, truth, _, positive, _ = many()
    whole = dict(zip(scores, positive * 1.0, strict=True))
    runs = [make_run(tmp_path, scores, called=name, whole=whole) for name in "ab"]
    excess = judge(tmp_path, runs, truth, regions=None).result["rows"][1]["image_auroc"]
    assert excess["ci95"] == [None, None]
    assert excess["difference"]["ci95"] == [None, None]


def test_images_that_not_all_have_scored_are_refused_or_left_out(tmp_path):
    first = make_run(tmp_path, {**ONE, "n3": (9, 9, 9, 9)}, called="a")
    second = make_run(tmp_path, TWO, called="b")
    truth = TRUTH + "n3.png,F,negative,\n"
    with pytest.raises(RequestError) as refused:
        judge(tmp_path, [first, second], truth)
    assert "1 of 6 rows of the truth don't have a score in every run" in str(refused.value)
    assert f"b has no image of 1 ({tmp_path}/n3.png)" in str(refused.value)
    assert "compare on the 4 images common to all with --only-common" in str(refused.value)
    assert not (tmp_path / "comparison").exists()
    result = judge(tmp_path, [first, second], truth, only_common=True).result
    assert result["counts"]["images"] == 4
    assert result["counts"]["not_scored_by_every_run"] == 1
    assert result["counts"]["not_scored_by_any_run"] == 1  # broken.png, that both tried
    assert values(row_of(result, "b"))["image_auroc"] == (3 / 4, -1 / 4)
    assert any(note.startswith("--only-common: 1 of 6 rows") for note in result["notes"])


def test_an_image_that_failed_in_one_run_alone_is_refused(tmp_path):
    first = make_run(tmp_path, ONE, called="a")
    second = make_run(tmp_path, TWO, called="b")
    table = pd.read_csv(second / "images.csv")
    table.loc[table["id"] == "n2", ["status", "score"]] = ["failed", math.nan]
    table.to_csv(second / "images.csv", index=False)
    with pytest.raises(RequestError, match=r"b has no score of 1 \(.*n2\.png\)"):
        judge(tmp_path, [first, second])


def test_patients_are_counted_as_they_are_common(tmp_path):
    """Another image order and a lost patient must not mix up whom a resample draws."""
    scores, truth, owner, positive, both = many()
    names = [*scores]
    gone = {name: scores[name] for name in names[6:]}
    kept = dict(list(zip(names, both[1], strict=True))[6:])
    first = make_run(tmp_path, scores, called="a", whole=dict(zip(names, both[0], strict=True)))
    second = make_run(tmp_path, dict(reversed(gone.items())), called="b", whole=kept)
    result = judge(tmp_path, [first, second], truth, regions=None, only_common=True).result
    drawn = resample(21, 100, seed=0, device=CPU).numpy()
    who, ill = owner[6:] - 3, positive[6:]
    a, b = (
        np.array([weighted_auroc(own[6:], ill, weights[who]) for weights in drawn]) for own in both
    )
    excess = row_of(result, "b")["image_auroc"]["difference"]
    assert excess["ci95"] == pytest.approx(np.quantile(b - a, [0.025, 0.975]).tolist())


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ("a", "each run is compared once, but .*a is given 2 times"),
        ("link", "each run is compared once"),
        ("elsewhere", "elsewhere: none of the 5 rows of the truth can be judged: .* not screened"),
        ("bare", "the card in .*bare is not one that patchad"),
        ("nothing", "nothing is not a complete run"),
        ("larger", r"n1.png has \(40, 40\) pixels in a and \(80, 40\) in larger"),
    ],
)
def test_what_does_not_fit_together_is_refused(tmp_path, second, message):
    first = make_run(tmp_path, ONE, called="a")
    (tmp_path / "link").symlink_to(first)
    others = {f"x{name}": own for name, own in ONE.items()}
    make_run(tmp_path, others, called="elsewhere", images=tmp_path / "another")
    bare = make_run(tmp_path, ONE, called="bare")
    settings = json.loads((bare / "run.json").read_text())
    (bare / "run.json").write_text(json.dumps({**settings, "card": {"method": "wei2018"}}))
    larger = make_run(tmp_path, ONE, called="larger")
    table = pd.read_csv(larger / "images.csv")
    table.loc[table["id"] == "n1", "rows"] = 80
    table.to_csv(larger / "images.csv", index=False)
    with pytest.raises(RequestError, match=message):
        judge(tmp_path, [first, tmp_path / second])
    assert not (tmp_path / "comparison").exists()


@pytest.mark.parametrize(
    ("part", "changed"),
    [
        ("calibration", {"pooling": "median"}),
        ("calibration", {"pooling": ["max"]}),
        ("calibration", {"pooling": "top_mean", "top_k": "3"}),
        ("calibration", {"made_on": 5}),
        ("config", {"wei2018": {"epochs": math.nan}}),
        ("data", {"trained_on": 5}),
        ("data", ["ab"]),
        ("settings", [1]),
    ],
)
def test_a_card_of_another_kind_is_refused(tmp_path, part, changed):
    """As another version may have written it, or a hand."""
    first, other = (make_run(tmp_path, ONE, called=name) for name in ("a", "other"))
    settings = json.loads((other / "run.json").read_text())
    place = settings if part == "settings" else settings["card"]
    own = place.get(part, {})
    place[part] = {**own, **changed} if isinstance(changed, dict) else changed
    (other / "run.json").write_text(json.dumps(settings))
    with pytest.raises(RequestError, match=r"the card in .*other is not one that patchad"):
        judge(tmp_path, [first, other])


def test_one_run_is_no_comparison(tmp_path):
    with pytest.raises(RequestError, match="two runs or more"):
        judge(tmp_path, [make_run(tmp_path, ONE)])


def test_models_that_saw_the_judged_images_are_named(tmp_path):
    runs = [make_run(tmp_path, ONE, called=name) for name in "ab"]
    digest = "ab" * 32
    for run in runs:
        table = pd.read_csv(run / "images.csv", dtype={"digest": str})
        table.loc[table["id"] == "p1", "digest"] = digest
        table.to_csv(run / "images.csv", index=False)
    settings = json.loads((runs[1] / "run.json").read_text())
    settings["card"]["data"] = {"trained_on": pack_digests([digest])}
    (runs[1] / "run.json").write_text(json.dumps(settings))
    notes = judge(tmp_path, runs).result["notes"]
    assert any(note.startswith("b: The model was trained on 1 of the 4") for note in notes)
    assert not any(note.startswith("a: ") for note in notes)


def test_other_pixels_of_the_same_file_are_noted(tmp_path):
    runs = [make_run(tmp_path, ONE, called=name) for name in "ab"]
    for run, digest in zip(runs, ("ab" * 32, "cd" * 32), strict=True):
        table = pd.read_csv(run / "images.csv", dtype={"digest": str})
        table.loc[table["id"] == "p1", "digest"] = digest
        table.to_csv(run / "images.csv", index=False)
    notes = judge(tmp_path, runs).result["notes"]
    assert any(note.startswith("1 of 4 images have other pixels in b than in a") for note in notes)


def test_settings_that_tell_runs_apart_are_listed(tmp_path):
    runs = [
        make_run(
            tmp_path, ONE, called=name, config={"stride": 10, "wei2018": {"epochs": n, "depth": 3}}
        )
        for name, n in (("a", 40), ("b", 500))
    ]
    runs += [make_run(tmp_path, ONE, called="c", method="dae")]
    found = judge(tmp_path, runs)
    apart = {run["name"]: run["differs_in"] for run in found.result["runs"]}
    assert apart == {"a": {"wei2018.epochs": 40}, "b": {"wei2018.epochs": 500}, "c": {}}
    assert "  b is wei2018: wei2018.epochs = 500" in summary(found.result)


def test_other_grids_are_noted(tmp_path):
    runs = [make_run(tmp_path, ONE, called=name) for name in "ab"]
    settings = json.loads((runs[1] / "run.json").read_text())
    settings["card"] |= {"patch_size": 64, "config": {"stride": 32}}
    (runs[1] / "run.json").write_text(json.dumps(settings))
    notes = judge(tmp_path, runs).result["notes"]
    assert any("patches of 64, 32 apart: b" in note for note in notes)


def test_one_class_has_no_figures(tmp_path):
    runs = [
        make_run(tmp_path, {name: ONE[name] for name in ("n1", "n2")}, called=name) for name in "ab"
    ]
    truth = "path,patient_id,label\nn1.png,A,negative\nn2.png,B,negative\n"
    result = judge(tmp_path, runs, truth, regions=None).result
    assert {part[0] for row in result["rows"] for part in values(row).values()} == {None}
    assert (tmp_path / "comparison" / "comparison.png").exists()


def test_a_folder_in_use_is_refused(tmp_path):
    runs = [make_run(tmp_path, ONE, called=name) for name in "ab"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(OutputError):
            judge(tmp_path, runs, out=tmp_path / "mine", overwrite=overwrite)
    judge(tmp_path, runs)
    with pytest.raises(OutputError, match="replace it with --overwrite"):
        judge(tmp_path, runs)
    judge(tmp_path, runs, overwrite=True)
    with pytest.raises(RequestError, match="lies in"):
        judge(tmp_path, runs, out=tmp_path / "new" / "..", overwrite=True)


def test_names_are_the_folders_with_what_tells_them_apart(tmp_path):
    wanted = ["x/run", "y/run", "z", "-dash", "=1+1", "line\nfeed"]
    for name in wanted:
        (tmp_path / name).mkdir(parents=True)
    assert names_of([tmp_path / name for name in wanted]) == [
        "x/run", "y/run", "z", "./-dash", "./=1+1", "line\\nfeed",
    ]  # fmt: skip


def test_hostile_names_are_shown_harmlessly(tmp_path, capsys):
    names = ["=cmd|'/C calc'!A0", "_a $x_2$ [red]", "b\n\x1b[31m", "🫁" * 60, os.fsdecode(b"\xff")]
    (tmp_path / "truth.csv").write_text(TRUTH)
    (tmp_path / "regions.csv").write_text(REGIONS)
    runs = [make_run(tmp_path, ONE, called=name) for name in names]
    told = CliRunner().invoke(
        app,
        [
            "compare", *map(str, runs), "--truth", str(tmp_path / "truth.csv"),
            "--regions", str(tmp_path / "regions.csv"), "--out", str(tmp_path / "c"), "--json",
        ],
    )  # fmt: skip
    assert told.exit_code == 0, told.stderr
    result = json.loads(told.stdout)
    assert [row["name"] for row in result["rows"][:4]] == [
        "./=cmd|'/C calc'!A0".rpartition("/")[2], names[1], "b\\n\\x1b[31m", names[3],
    ]  # fmt: skip
    assert result["rows"][4]["name"] == "\\udcff"
    table = pd.read_csv(tmp_path / "c" / "comparison.csv")
    assert not table["name"].str.startswith(("=", "+", "-", "@")).any()
    text = "\n".join(summary(result))
    assert "\x1b" not in text
    assert (tmp_path / "c" / "comparison.png").exists()


def test_json_is_valid_when_refused(tmp_path):
    run = make_run(tmp_path, ONE)
    (tmp_path / "truth.csv").write_text(TRUTH)
    for arguments in ([run], [run, tmp_path / "no"], [run, run]):
        told = CliRunner().invoke(
            app, ["compare", *map(str, arguments), "--truth", str(tmp_path / "truth.csv"), "--json"]
        )
        assert told.exit_code == 2
        assert "error" in json.loads(told.stdout)


def test_the_figure_takes_many_runs(tmp_path):
    runs = [make_run(tmp_path, ONE, called=f"r{number}") for number in range(12)]
    judge(tmp_path, runs)
    with Image.open(Path(tmp_path / "comparison" / "comparison.png")) as picture:
        assert picture.height > 700
