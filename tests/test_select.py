from pathlib import Path

import pandas as pd
import pytest
import torch

from patchad.commands import select
from patchad.commands.select import pseudo_auroc, train_best
from patchad.errors import RequestError
from patchad.methods.configure import read_config
from patchad.model.config import Config
from patchad.model.folder import read_card
from patchad.model.trained_on import among
from patchad.read.manifest import read_manifest
from patchad.read.read import read_entry

CPU = torch.device("cpu")


def test_pseudo_auroc_by_hand() -> None:
    # 3 > 1 and 2; 2 > 1 and ties with 2; 0 is below both: 3.5 of 6 pairs
    assert pseudo_auroc([3, 2, 0], [1, 2]) == pytest.approx(3.5 / 6)


def config(folder: Path, name: str, rings: str) -> Config:
    path = folder / f"{name}.toml"
    path.write_text(f'method = "convergence"\n[convergence]\nrings_mm = {rings}\n')
    overrides = ["patch_size=32", "stride=16", "preprocessing.spacing_mm=0.8", "split.held_out=0.4"]
    return read_config(str(path), overrides)


def test_the_best_is_kept_and_the_card_says_among_whom(
    study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = pd.read_csv(study.manifest)
    table["path"] = [str(study.manifest.parent / path) for path in table["path"]]
    table.loc[table["split"] == "test", "split"] = "unlabelled"
    table.to_csv(tmp_path / "manifest.csv", index=False)
    configs = {
        "narrow": config(tmp_path, "narrow", "[[0, 1.7]]"),
        "wide": config(tmp_path, "wide", "[[0.6, 6.4]]"),
    }
    trained_on, asked = {}, {}
    real = select.train

    def watched(source, folder, config, **options):
        done = real(source, folder, config, **options)
        asked[folder.name] = set(options["leave_out"])
        trained_on[folder.name] = done.card
        return done

    monkeypatch.setattr(select, "train", watched)
    trained = train_best(tmp_path / "manifest.csv", tmp_path / "model", configs, device=CPU)
    card = read_card(tmp_path / "model")
    assert card == trained.card
    (note,) = (note for note in card.notes if note.startswith("Chosen without labels"))
    told = {name: float(note.split(f"{name} ")[1][:5]) for name in configs}
    best = max(told, key=lambda name: told[name])
    (ring,) = card.config["convergence"]["rings_mm"]
    assert tuple(ring) == {"narrow": (0, 1.7), "wide": (0.6, 6.4)}[best]
    assert not (tmp_path / "model" / "candidates").exists()
    assert "against 4 negative images of 2 patients (AUCp), set aside for this" in note
    assert "neither trained nor calibrated" in note
    # Who chose is whole patients, and neither trained nor calibrated any candidate.
    rows = [row for row in read_manifest(study.manifest) if row.split == "train"]
    judges = asked["narrow"]
    assert judges == asked["wide"]
    assert len(judges) == 4
    assert len({row.patient_id for row in rows if row.path in judges}) == 2
    assert not {row.patient_id for row in rows if row.path in judges} & {
        row.patient_id for row in rows if row.path not in judges
    }
    digests = [read_entry(row).source.digest for row in rows if row.path in judges]
    for card in trained_on.values():
        assert card.data.images + card.calibrated.images == 8
        assert not any(among(card.data.trained_on, digests))
        assert not any(among(card.calibrated.made_on, digests))


def test_a_choice_is_resumed_with_the_same_request_only(study, tmp_path: Path) -> None:
    table = pd.read_csv(study.manifest)
    table["path"] = [str(study.manifest.parent / path) for path in table["path"]]
    table.loc[table["split"] == "test", "split"] = "unlabelled"
    manifest, model = tmp_path / "manifest.csv", tmp_path / "model"
    table.to_csv(manifest, index=False)
    configs = {name: config(tmp_path, name, "[[0, 1.7]]") for name in ("one", "two")}

    def kill(stage: str, done: int, total: int, value: float) -> None:
        if stage == "choosing":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_best(manifest, model, configs, device=CPU, progress=kill)
    assert (model / "candidates" / "one" / "card.json").exists()
    notes = model / "candidates" / "notes.txt"
    notes.write_text("mine")
    with pytest.raises(RequestError, match="seed: 0 then, 1 now"):
        train_best(manifest, model, configs, device=CPU, seed=1, resume=True)
    fewer = table[table["patient_id"] != table["patient_id"].iloc[-1]]
    fewer.to_csv(manifest, index=False)
    with pytest.raises(RequestError, match="images: 20 then, 18 now"):
        train_best(manifest, model, configs, device=CPU, resume=True)
    table.to_csv(manifest, index=False)
    first = train_best(manifest, model, configs, device=CPU, resume=True)
    assert [path.name for path in (model / "candidates").iterdir()] == ["notes.txt"]
    assert train_best(manifest, model, configs, device=CPU, resume=True).card == first.card


def test_without_unlabelled_images_nothing_is_written(study, tmp_path: Path) -> None:
    configs = {"a": study.config, "b": study.config}
    with pytest.raises(RequestError, match="unlabelled"):
        train_best(study.manifest, tmp_path / "model", configs, device=CPU)
    assert not (tmp_path / "model").exists()


def test_too_few_negatives_to_choose_by_are_refused(study, tmp_path: Path) -> None:
    table = pd.read_csv(study.manifest)
    table["path"] = [str(study.manifest.parent / path) for path in table["path"]]
    table.loc[table["split"] == "test", "split"] = "unlabelled"
    few = sorted(set(table["patient_id"][table["split"] == "train"]))[:3]
    table = table[table["patient_id"].isin(few) | (table["split"] == "unlabelled")]
    table.to_csv(tmp_path / "manifest.csv", index=False)
    configs = {"a": study.config, "b": study.config}
    with pytest.raises(RequestError, match=r"takes 4 patients .*has 3; give more, or one --config"):
        train_best(tmp_path / "manifest.csv", tmp_path / "model", configs, device=CPU)
    assert not (tmp_path / "model").exists()
