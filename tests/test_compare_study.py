"""Comparing configurations: what is dealt, kept and pooled, and the whole chain on phantoms."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from run_builders import make_run

from patchad.errors import RequestError
from patchad.evaluation.common import match_runs
from patchad.evaluation.comparison import ALL, mean_row, rows_of
from patchad.evaluation.metrics import resample
from patchad.methods.configure import read_config
from patchad.model.config import Config
from patchad.prepare.preprocess import Preprocessing
from patchad.prepare.workers import Fault, How, Ready, read_ahead
from patchad.read.manifest import ManifestRow, read_manifest
from patchad.store.run import read_run

sys.path.insert(0, str(Path(__file__).parents[1] / "pipelines"))  # scripts, not a package

import compare
import compare_arm
import compare_judged
import film_store
import pooled_run

CPU = torch.device("cpu")


def manifest_of(folder: Path, rows: str) -> Path:
    path = folder / "films.csv"
    path.write_text("path,patient_id,label,split\n" + rows)
    return path


def test_unlabelled_films_are_dealt_to_every_fold_and_never_judged(tmp_path: Path) -> None:
    rows = "".join(f"{n}.png,p{n},{'positive' if n < 3 else 'negative'},\n" for n in range(12))
    rows += "x.png,q,positive,unlabelled\ny.png,r,unknown,unlabelled\n"
    rows += "u.png,s,unknown,\n"
    films = compare.read_films(manifest_of(tmp_path, rows))
    assert len(films.judged) == 12
    assert len(films.unlabelled) == 2
    assert any("1 films of unknown label were left out" in note for note in films.notes)
    dealt = compare._deal(films, None, tmp_path / "dealt", 3, seed=0)
    tested = []
    for fold in dealt.folds:
        training, test = read_manifest(fold.training), read_manifest(fold.test)
        loose = [row for row in training if row.split == "unlabelled"]
        assert {row.path.stem for row in loose} == {"x", "y"}
        assert {row.label for row in loose} == {"unknown"}  # their labels are nobody's business
        assert {row.label for row in training if row.split != "unlabelled"} == {"negative"}
        assert not {row.patient_id for row in training} & {row.patient_id for row in test}
        tested += [row.path.stem for row in test]
        aside = {row.patient_id for row in training if row.split == "validation"}
        assert len(aside) == 1  # a fifth of six
    assert sorted(tested) == sorted(map(str, range(12)))


def test_both_labels_are_needed(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="films of both labels"):
        compare.read_films(
            manifest_of(tmp_path, "a.png,a,negative,\nb.png,b,positive,unlabelled\n")
        )


def test_configurations_take_the_use_and_the_quick_options() -> None:
    plain, chest = compare.read_arms(["dae", "l2_ae"], "chest", quick=True)
    assert (plain.config.preprocessing.body_part, plain.config.calibration.folds) == ("chest", 0)
    assert chest.config.preprocessing.spacing_mm == 0.4
    (wrong,) = compare.read_arms(["dae"], "mammogram", quick=True)
    assert (wrong.config, wrong.reason) == (None, "it is not for the body part breast")
    (breast,) = compare.read_arms(["l2_ae"], "", quick=False)
    assert (breast.config.preprocessing.body_part, breast.quick) == ("breast", False)
    assert chest.config.options != breast.config.options  # quick, where it declares some
    with pytest.raises(RequestError, match="there is a ae already"):
        compare.read_arms(["ae", "ae"], "", quick=False)
    with pytest.raises(RequestError, match="no configuration 'aee'"):
        compare.read_arms(["aee"], "", quick=False)
    for hostile in ("=1+1.toml", "a|b.toml", "..", "-x"):
        with pytest.raises(RequestError, match="rename it"):
            compare.read_arms([hostile], "", quick=False)


def test_a_kept_film_is_the_film(study, tmp_path: Path) -> None:
    rows = read_manifest(study.manifest)[:2]
    broken = tmp_path / "broken.dcm"
    broken.write_bytes(b"nothing")
    rows = [*rows, ManifestRow(broken)]
    how = How(Preprocessing(canonical_side=True, assumed_side_mm=200.0))
    store = film_store.FilmStore(tmp_path / "films")
    expected = [ready for _, ready in read_ahead(rows, how)]
    for _ in range(2):  # read, then kept
        with store.readers(how) as ahead:
            found = [ready for _, ready in ahead(rows)]
        for one, other in zip(found, expected, strict=True):
            if isinstance(other, Fault):
                assert one == other
                continue
            assert isinstance(one, Ready)
            np.testing.assert_array_equal(one.prepared.pixels, other.prepared.pixels)
            mask = other.prepared.foreground.mask
            np.testing.assert_array_equal(one.prepared.foreground.mask, mask)
            for name in ("brightness", "spacing_mm", "turn", "cautions", "assumed_mm"):
                assert getattr(one.prepared, name) == getattr(other.prepared, name), name
            look = other.prepared.look
            np.testing.assert_array_equal(one.prepared.look.picture, look.picture)
            np.testing.assert_array_equal(one.prepared.look.outline, look.outline)
            assert one.prepared.look.measures == pytest.approx(look.measures, nan_ok=True)
            assert one.radiograph.source == other.radiograph.source
            assert one.radiograph.shape == other.radiograph.shape
            assert one.radiograph.spacing_mm == other.radiograph.spacing_mm
            assert one.content == other.content
    assert len(list((tmp_path / "films").iterdir())) == 2
    with store.readers(How(Preprocessing(body_part="chest"))) as ahead:
        list(ahead(rows[:1]))
    assert len(list((tmp_path / "films").iterdir())) == 3  # another preprocessing, another film


def test_an_image_score_of_its_own_has_a_scale_of_its_own(tmp_path: Path) -> None:
    run = make_run(tmp_path, {"a": (1, 2, 3, 4)})
    for method, images in (("wei2018", (2.5, 1.7065)), ("ae", (3.0, 1.0))):
        card = run_card(run, method=method, patient_scores=[1.0, 3.0, 3.0, 3.0, 5.0])
        card["calibration"]["patch_shares"] = {
            "values": [0.0, 5.0], "below": [0.0, 1.0], "at_most": [0.0, 1.0],
        }  # fmt: skip
        own = read_run(run)
        own.settings["card"].update(card)
        scale = pooled_run.Scale.of_any(own)
        assert scale.patches == pytest.approx((2.5, 1.7065))
        expected = images
        if method == "ae":  # quantiles 0.1587 and 0.8413 of five scores: 1 + 2 · 0.6348, 3 + …
            low, high = np.quantile([1, 3, 3, 3, 5], (0.1587, 0.8413))
            expected = (3.0, (high - low) / 2)
        assert scale.images == pytest.approx(expected)
    own.settings["card"]["method"] = "fused"
    assert pooled_run.Scale.of_any(own) == pooled_run.Scale()


@pytest.mark.parametrize("unit", [1.0, 1e-9, 1e9])
def test_the_scale_is_that_of_the_scores_whatever_their_unit(unit: float, tmp_path: Path) -> None:
    """Such as squared errors of a good network, or distances of codes drawn to one point."""
    run = read_run(make_run(tmp_path, {"a": (1, 2, 3, 4)}))
    card = run.settings["card"]
    card["calibration"]["patch_shares"] = {
        "values": [0.0, 5.0 * unit], "below": [0.0, 1.0], "at_most": [0.0, 1.0],
    }  # fmt: skip
    centre, spread = pooled_run.Scale.of_negatives(run).patches
    assert (centre / unit, spread / unit) == pytest.approx((2.5, 1.7065))
    card["calibration"]["patch_shares"]["values"] = [unit, unit]
    centre, spread = pooled_run.Scale.of_negatives(run).patches
    assert centre == unit
    assert spread > 0
    card["calibration"]["patch_shares"]["values"] = [0.0, 0.0]
    assert pooled_run.Scale.of_negatives(run).patches == (0.0, 1.0)


def test_what_another_configuration_gave_is_not_taken_over(tmp_path: Path) -> None:
    """A study begun with the paper's options can't go on as one of quick ones."""
    long, quick = (read_config("wei2018", ["calibration.folds=0"], quick=q) for q in (False, True))
    folder = tmp_path / "seed0" / "wei2018"
    made = make_run(folder, {"a": (1, 2, 3, 4)}, called="pooled", config=long.as_dict())
    assert read_run(made).settings["card"]["config"]["wei2018"]["epochs"] == 500
    (folder / compare_arm.DONE).write_text(json.dumps(asdict(compare_arm.Done(scored=1))))

    def task(config: Config) -> compare_arm.Task:
        return compare_arm.Task("wei2018", config, 0, (), folder, film_store.FilmStore(folder), "")

    compare_arm.require_same([task(long)])
    with pytest.raises(RequestError, match=r"wei2018\.epochs: 500 then, 40 now"):
        compare_arm.require_same([task(quick)])
    (folder / compare_arm.DONE).write_text(json.dumps(asdict(compare_arm.Done(reason="memory"))))
    compare_arm.require_same([task(quick)])  # what failed is tried again
    (folder / compare_arm.DONE).unlink()
    compare_arm.require_same([task(quick)])


def run_card(run: Path, **changes) -> dict:
    card = dict(read_run(run).settings["card"])
    scores = changes.pop("patient_scores")
    return {**card, **changes, "calibration": {**card["calibration"], "patient_scores": scores}}


def test_within_folds_only_films_of_one_fold_are_compared(tmp_path: Path) -> None:
    # Fold 0: a, b, c; fold 1: d, e, whose model scores far higher.
    names, scores = "abcde", (1.0, 2.0, 3.0, 11.0, 10.0)
    labels = ("negative", "positive", "negative", "positive", "negative")
    run = make_run(
        tmp_path,
        dict.fromkeys(names, (0, 0, 0, 0)),
        whole=dict(zip(names, scores, strict=True)),
    )
    truth = "path,patient_id,label\n" + "".join(
        f"{name}.png,{name},{label}\n" for name, label in zip(names, labels, strict=True)
    )
    (tmp_path / "truth.csv").write_text(truth)
    runs = {"one": read_run(run)}
    common = match_runs(runs, read_manifest(tmp_path / "truth.csv"), None)
    weights = resample(5, 10, seed=0, device=CPU)
    folds = [[str(tmp_path / f"{name}.png") for name in part] for part in ("abc", "de")]
    found = compare_judged.within_folds(common, "one", runs["one"].images, folds, weights)
    # b over a but not over c; d over e: two of three pairs. All five together: 4 of 6.
    assert found.value == pytest.approx(2 / 3)
    (row,) = [own[0] for own in rows_of(runs, common, weights)]
    assert row.figures[ALL]["image_auroc"].value == pytest.approx(4 / 6)


def test_the_mean_of_seeds_is_that_of_their_resamples(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    names = [f"i{n}" for n in range(30)]
    truth = "path,patient_id,label\n" + "".join(
        f"{name}.png,{name},{'positive' if n % 2 else 'negative'}\n" for n, name in enumerate(names)
    )
    (tmp_path / "truth.csv").write_text(truth)
    runs = {
        name: read_run(
            make_run(
                tmp_path,
                dict.fromkeys(names, (0, 0, 0, 0)),
                called=name,
                whole=dict(zip(names, generator.normal(size=30), strict=True)),
            )
        )
        for name in ("first", "second")
    }
    common = match_runs(runs, read_manifest(tmp_path / "truth.csv"), None)
    weights = resample(30, 50, seed=0, device=CPU)
    rows = [own[0] for own in rows_of(runs, common, weights)]
    mean = mean_row(rows).figures[ALL]["image_auroc"]
    each = [row.figures[ALL]["image_auroc"] for row in rows]
    assert mean.value == pytest.approx((each[0].value + each[1].value) / 2)
    torch.testing.assert_close(mean.draws, (each[0].draws + each[1].draws) / 2)


TINY = """
method = "{method}"
patch_size = 32
stride = 32
[preprocessing]
spacing_mm = 0.8
[calibration]
pooling = "max"
{options}
"""


@pytest.mark.slow
def test_the_chain_on_phantoms(study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare_judged, "RESAMPLES", 50)
    for name, method, options in (
        ("one", "convergence", ""),
        ("other", "wei2018", "[wei2018]\nepochs = 1\nbatch_size = 50\npatches_per_epoch = 100\n"),
        ("broken", "wei2018", "[wei2018]\nepochs = 1\n"),
    ):
        (tmp_path / f"{name}.toml").write_text(TINY.format(method=method, options=options))
    arms = compare.read_arms(
        [str(tmp_path / f"{name}.toml") for name in ("one", "other", "broken")], "", quick=False
    )
    # A method that fails: patches of 36 can't be halved as often as its network does.
    text = (tmp_path / "broken.toml").read_text().replace("patch_size = 32", "patch_size = 36")
    (tmp_path / "broken.toml").write_text(text)
    arms = (*arms[:2], *compare.read_arms([str(tmp_path / "broken.toml")], "", quick=False))
    rows = pd.read_csv(study.manifest)
    rows["path"] = [str(study.manifest.parent / path) for path in rows["path"]]
    rows["split"] = ""
    manifest = tmp_path / "films.csv"
    rows.to_csv(manifest, index=False)

    def run(**options):
        return compare.run_comparison(
            manifest, study.regions, arms, (0, 1), tmp_path / "out", folds=2, device=CPU, **options
        )

    report = run()
    out = tmp_path / "out"
    methods = pd.read_csv(out / "methods.csv").set_index("name")
    assert methods["failed"].notna().to_dict() == {"one": False, "other": False, "broken": True}
    assert (methods.loc[["one", "other"], "peak_mib"] > 50).all()
    assert (methods.loc[["one", "other"], "seconds_to_train"] > 0).all()
    assert methods.loc["one", "scored"] == len(rows)
    assert "* broken: " in report
    assert not list(out.rglob("*.tif"))  # dense maps of 45 methods would fill a disk
    results = pd.read_csv(out / "results.csv", keep_default_na=False)
    assert set(results["name"]) == {"one", "other", "patch mean", "patch std", "gradient energy"}
    whole = results.query("part == 'all' and figure == 'image_auroc'")
    values = whole.set_index(["name", "seed"])["value"].astype(float)
    assert values["other", "mean"] == pytest.approx(
        (values["other", "0"] + values["other", "1"]) / 2
    )
    excess = whole.set_index(["name", "seed"])["difference"].astype(float)
    assert excess["other", "mean"] == pytest.approx(values["other", "mean"] - values["one", "mean"])
    assert set(results["figure"]) >= {"image_auroc_within_folds", "lesions_found_at_1"}
    # Whoever judges a film has never seen its patient.
    for fold in (1, 2):
        training = read_manifest(out / "seed0" / f"fold{fold}-training.csv")
        scored = read_run(out / "seed0" / "one" / f"fold{fold}" / "run")
        test = {
            row.path.as_posix() for row in read_manifest(out / "seed0" / f"fold{fold}-test.csv")
        }
        assert {row.path for row in scored.rows} == test
        assert not test & {row.path.as_posix() for row in training}
    # Finished parts are kept; what failed is tried again.
    kept = (out / "seed0" / "one" / compare_arm.DONE).stat().st_mtime_ns
    again = run(resume=True)
    assert (out / "seed0" / "one" / compare_arm.DONE).stat().st_mtime_ns == kept
    assert figures_of(again) == figures_of(report)
    with pytest.raises(RequestError, match="folds: 2 then, 3 now"):
        compare.run_comparison(
            manifest, study.regions, arms, (0,), out, folds=3, device=CPU, resume=True
        )


def figures_of(report: str) -> str:
    return report[report.index("## Data") : report.index("## What each is")]
