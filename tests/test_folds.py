import gc
import weakref
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from patchad.commands.calibrate import NegativeImage
from patchad.commands.folds import FoldScores, deal_folds, read_fold, side_of, write_fold
from patchad.commands.negatives import Negative, Tiles
from patchad.commands.train import Trained, train
from patchad.core.grid import PatchGrid
from patchad.core.image import PatchScores, Source
from patchad.engine.screener import Scored
from patchad.errors import ModelError, RequestError
from patchad.learn.patch_bank import PatchBank
from patchad.methods.configure import read_config
from patchad.model.config import Config
from patchad.read.manifest import ManifestRow, read_manifest

CPU = torch.device("cpu")
FOLDS = 3


@pytest.fixture(scope="module")
def config() -> Config:
    return read_config(
        "wei2018_leaky",
        [
            *("patch_size=32", "stride=16", f"calibration.folds={FOLDS}", "calibration.top_k=1"),
            *("wei2018.epochs=2", "wei2018.batch_size=50", "wei2018.patches_per_epoch=200"),
        ],
    )


@pytest.fixture(scope="module")
def cross(study, config: Config, tmp_path_factory) -> tuple[Trained, Path, list[str], list[int]]:
    """A training by folds, its folder, its stages, and how many banks were alive at a time."""
    model, stages, alive = tmp_path_factory.mktemp("cross") / "model", [], []
    banks: list[weakref.ref] = []
    make = PatchBank.of

    def watched(parts, size):
        def counted():
            for part in parts:
                gc.collect()
                alive.append(sum(bank() is not None for bank in banks))
                yield part

        bank = make(counted(), size)
        banks.append(weakref.ref(bank))
        return bank

    def told(stage: str, done: int, total: int, value: float) -> None:
        if stage not in stages:
            stages.append(stage)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PatchBank, "of", watched)
        trained = train(study.manifest, model, config, device=CPU, progress=told)
    assert len(banks) == FOLDS + 1
    return trained, model, stages, alive


def test_every_negative_calibrates_and_trains(cross) -> None:
    card, calibration = cross[0].card, cross[0].card.calibrated
    assert (card.data.images, card.data.patients, card.data.split) == (12, 6, "3 folds by patient")
    assert (calibration.images, calibration.patients, calibration.folds) == (12, 6, 3)
    assert len(calibration.patient_scores) == 6
    assert calibration.made.startswith("all negatives, in 3 folds by patient")
    assert "cross-conformal, 3 folds, n = 6 patients" in calibration.statements[1]
    assert calibration.made_on == card.data.trained_on  # which is said, and unlike a split


def test_stages_are_named_by_fold(cross) -> None:
    stages = cross[2]
    for number in range(1, FOLDS + 1):
        for stage in ("reading training images", "training", "calibrating"):
            assert f"fold {number} of 3: {stage}" in stages
    assert stages.index("fold 3 of 3: calibrating") < stages.index("reading training images")


def test_films_of_one_fold_at_a_time_are_in_memory(cross) -> None:
    assert len(cross[3]) == 12 * FOLDS - 12 + 12  # each film in all folds but one, and at the end
    assert max(cross[3]) == 0  # while a bank is filled, no other is left


def test_scores_are_those_of_the_models_that_did_not_see_the_patient(
    study, config: Config, cross, tmp_path: Path
) -> None:
    # Training on the other folds' patients by hand gives the calibration's own scores.
    rows = [row for row in read_manifest(study.manifest) if row.split == "train"]
    dealt = deal_folds({row.patient_id for row in rows}, FOLDS, 0)
    assert sorted(patient for fold in dealt for patient in fold) == sorted(
        {row.patient_id for row in rows}
    )
    held_out = replace(config, calibration=replace(config.calibration, folds=0))
    found = []
    for number, fold in enumerate(dealt):
        table = pd.DataFrame(
            [
                (r.path, r.patient_id, r.label, "validation" if r.patient_id in fold else "train")
                for r in rows
            ],
            columns=["path", "patient_id", "label", "split"],
        )
        table.to_csv(tmp_path / f"{number}.csv", index=False)
        card = train(tmp_path / f"{number}.csv", tmp_path / str(number), held_out, device=CPU).card
        found += card.calibrated.patient_scores
        assert card.calibrated.made == "the negatives of the manifest's split validation"
    np.testing.assert_allclose(sorted(found), cross[0].card.calibrated.patient_scores, rtol=1e-6)


@pytest.mark.parametrize("kill_at", ["fold 2 of 3: training", "training"])
def test_a_killed_training_resumes_without_its_finished_folds(
    study, config: Config, cross, tmp_path: Path, kill_at: str
) -> None:
    def kill(stage: str, done: int, total: int, value: float) -> None:
        if stage == kill_at and done == 1:
            raise KeyboardInterrupt

    model, stages = tmp_path / "model", []
    with pytest.raises(KeyboardInterrupt):
        train(study.manifest, model, config, device=CPU, progress=kill)
    assert (model / "checkpoint" / "fold1.safetensors").exists()
    assert not (model / "checkpoint" / "fold1").exists()  # its training is no longer needed
    train(
        study.manifest, model, config, device=CPU, resume=True,
        progress=lambda stage, *_: stages.append(stage),
    )  # fmt: skip
    assert not any(stage.startswith("fold 1") for stage in stages)
    if kill_at == "training":
        assert not any(stage.startswith("fold") for stage in stages)
    for name in ("card.json", "weights.safetensors"):
        assert (model / name).read_bytes() == (cross[1] / name).read_bytes()
    assert not (model / "checkpoint").exists()


def test_negatives_of_the_split_validation_calibrate_instead(
    study, config: Config, tmp_path: Path
) -> None:
    rows = [row for row in read_manifest(study.manifest) if row.split == "train"]
    last = rows[-1].patient_id
    lines = [
        f"{r.path},{r.patient_id},negative,{'validation' if r.patient_id == last else 'train'}"
        for r in rows
    ]
    manifest = tmp_path / "manifest.csv"
    manifest.write_text("\n".join(["path,patient_id,label,split", *lines]))
    card = train(manifest, tmp_path / "model", config, device=CPU).card
    assert (card.calibrated.images, card.calibrated.patients, card.calibrated.folds) == (2, 1, 0)
    assert "split validation, so calibration.folds = 3 was not needed" in card.calibrated.made
    manifest.write_text(
        "\n".join(
            ["path,patient_id,label,split", *(x.replace(",train", ",validation") for x in lines)]
        )
    )
    with pytest.raises(RequestError, match="none is left to train on"):
        train(manifest, tmp_path / "none", config, device=CPU)


def test_folds_take_as_many_patients(study, config: Config, tmp_path: Path) -> None:
    many = replace(config, calibration=replace(config.calibration, folds=7))
    with pytest.raises(RequestError, match=r"folds = 7 takes negatives of 7 patients.*are 6.*=0"):
        train(study.manifest, tmp_path / "model", many, device=CPU)
    assert not (tmp_path / "model").exists()


def test_patches_cannot_be_held_out_of_folds() -> None:
    with pytest.raises(RequestError, match=r"split\.by = patch .* calibration\.folds = 5"):
        read_config("wei2018", ["split.by=patch", "calibration.folds=5"])
    with pytest.raises(RequestError, match="folds is 0"):
        read_config("wei2018", ["calibration.folds=-1"])
    assert read_config("wei2018", ["split.by=patch", "calibration.folds=1"]).calibration.folds == 1


@given(st.sets(st.text("abcdef", min_size=1), min_size=2, max_size=40), st.data())
def test_folds_are_dealt_evenly_and_whole(patients: set[str], data) -> None:
    folds = data.draw(st.integers(2, len(patients)))
    dealt = deal_folds(patients, folds, 5)
    assert sorted(patient for fold in dealt for patient in fold) == sorted(patients)
    sizes = [len(fold) for fold in dealt]
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) >= 1


def a_negative(number: int, *, mapped: bool) -> tuple[Negative, NegativeImage]:
    rng = np.random.default_rng(number)
    grid = PatchGrid((5, 7), 2, 1 + number % 2)
    values = rng.random(len(grid), dtype=np.float32)
    values[0] = np.nan
    scores = PatchScores(grid, values, rng.random(len(grid), dtype=np.float32))
    row = ManifestRow(Path(f"/films/{number}.png"), patient_id="Jane", laterality="L")
    source = Source(str(row.path), f"{number:064x}", laterality="L", view="CC")
    tiles = Tiles(grid, np.ones(len(grid), bool), np.zeros(len(grid), bool))
    negative = Negative(row, source, None, 0.5, tiles, None)
    scored = Scored(scores, rng.random((5, 7), dtype=np.float32) if mapped else None)
    own = replace(scored, image=0.1 + number) if mapped else scored
    return negative, NegativeImage.of("Jane", side_of(negative), own, None)


def same(one: object, other: object) -> bool:
    if isinstance(one, np.ndarray):
        return (
            isinstance(other, np.ndarray)
            and one.dtype == other.dtype
            and np.array_equal(one, other, equal_nan=True)
        )
    if isinstance(one, (Scored, PatchScores)):
        return all(same(getattr(one, f.name), getattr(other, f.name)) for f in fields(one))
    return one == other or (one != one and other != other)


@pytest.mark.parametrize("mapped", [False, True])
def test_all_of_a_fold_comes_back_but_no_patient_is_stored(tmp_path: Path, mapped: bool) -> None:
    pairs = tuple(a_negative(number, mapped=mapped) for number in range(3))
    path = tmp_path / "fold1.safetensors"
    write_fold(path, "asked", FoldScores(pairs, ("a note",)))
    found = read_fold(path, "asked", [negative for negative, _ in pairs])
    assert found.notes == ("a note",)
    assert [negative for negative, _ in found.images] == [negative for negative, _ in pairs]
    for (_, one), (_, other) in zip(pairs, found.images, strict=True):
        for field in fields(NegativeImage):
            assert same(getattr(one, field.name), getattr(other, field.name)), field.name
    assert b"Jane" not in path.read_bytes()
    assert read_fold(tmp_path / "fold2.safetensors", "asked", []) is None


def test_a_fold_of_another_training_or_damaged_is_refused(tmp_path: Path) -> None:
    pairs = (a_negative(1, mapped=False),)
    path = tmp_path / "fold1.safetensors"
    write_fold(path, "asked", FoldScores(pairs, ()))
    with pytest.raises(RequestError, match="another configuration, data or seed"):
        read_fold(path, "other", [pairs[0][0]])
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ModelError, match="delete it and resume"):
        read_fold(path, "asked", [pairs[0][0]])
