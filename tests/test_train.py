import json
import logging
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from patchad.commands.outlier import Outliers
from patchad.commands.screen import screen_run
from patchad.commands.train import train
from patchad.commands.training_data import one_intent
from patchad.engine.screener import ScreenOptions
from patchad.errors import OutputError, RequestError
from patchad.methods.configure import read_config
from patchad.model.config import Config
from patchad.model.folder import read_model
from patchad.prepare import workers
from patchad.read.manifest import read_manifest

CPU = torch.device("cpu")


def test_the_card_says_what_screening_needs(study) -> None:
    card, _ = read_model(study.model)
    negatives = [row for row in read_manifest(study.manifest) if row.split == "train"]
    assert card.data.images + card.calibrated.images == len(negatives) == 12
    assert card.calibrated.images == 4  # 2 of 6 patients, 0.4 of them, two images each
    assert card.data.modalities == ("MG",)
    assert card.data.spacing_mm == pytest.approx((0.8, 0.8))
    assert 0 < card.data.brightness[0] <= card.data.brightness[1] < 1
    assert (card.patch_size, card.stride, card.seed) == (32, 16, 0)
    assert card.config == study.config.as_dict()
    assert set(card.versions) == {"patchad", "python", "torch", "numpy"}
    assert not (study.model / "checkpoint").exists()


def test_one_seed_gives_one_model(study, tmp_path: Path) -> None:
    train(study.manifest, tmp_path / "again", study.config, device=CPU)
    for name in ("card.json", "weights.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (study.model / name).read_bytes()


def test_a_killed_training_goes_on_to_the_same_model(study, tmp_path: Path) -> None:
    def kill(stage: str, done: int, total: int, value: float) -> None:
        if "train" in stage and done == 2 and not np.isnan(value):
            raise KeyboardInterrupt

    model = tmp_path / "model"
    with pytest.raises(KeyboardInterrupt):
        train(study.manifest, model, study.config, device=CPU, progress=kill)
    assert list((model / "checkpoint").iterdir())
    with pytest.raises(OutputError, match="--resume"):
        train(study.manifest, model, study.config, device=CPU)
    train(study.manifest, model, study.config, device=CPU, resume=True)
    assert (model / "card.json").read_bytes() == (study.model / "card.json").read_bytes()


def test_patients_are_never_in_training_and_calibration(study, tmp_path: Path) -> None:
    # The same images under one patient's name leave nobody to calibrate on.
    table = study.manifest.read_text().splitlines()
    header, *rows = [line.split(",") for line in table]
    patient = header.index("patient_id")
    for row in rows:
        row[0] = str(study.folder / row[0])
        row[patient] = "same" if "train" in row else row[patient]
    manifest = tmp_path / "manifest.csv"
    manifest.write_text("\n".join(",".join(row) for row in [header, *rows]))
    with pytest.raises(RequestError, match=r"1 patient.*split\.by=patch"):
        train(manifest, tmp_path / "model", study.config, device=CPU)


def test_holding_out_by_patch_says_that_it_leaks(study, tmp_path: Path) -> None:
    config = read_config(
        "wei2018_leaky",
        [
            "patch_size=32",
            "stride=16",
            "split.by=patch",
            "wei2018.epochs=1",
            "wei2018.patches_per_epoch=200",
        ],
    )
    card = train(study.manifest, tmp_path / "model", config, device=CPU).card
    assert any("LEAK" in note for note in card.calibrated.notes)
    assert "LEAK" in card.calibrated.statements[0]
    assert card.calibrated.images == card.data.images == 12


def test_a_folder_is_taken_as_negatives_and_said_so(
    study, tmp_path: Path, caplog: pytest.LogCaptureFixture, tiny_config: Config
) -> None:
    films = tmp_path / "films"
    films.mkdir()
    for row in [r for r in read_manifest(study.manifest) if r.split == "train"][:6]:
        shutil.copy(row.path, films / f"{row.path.parent.name}-{row.path.name}")
    (films / "broken.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"junk")
    with caplog.at_level(logging.WARNING):
        trained = train(films, tmp_path / "model", tiny_config, device=CPU)
    assert "all 7 images are taken as negatives" in caplog.text
    (note,) = (note for note in trained.card.notes if "patients were found" in note)
    assert note.startswith("3 patients were found in 6 images, by the Patient ID and Study")
    assert any("1 images could not be used" in note for note in trained.card.notes)
    assert [Path(path).name for path, _ in trained.failed] == ["broken.dcm"]


def test_scales_that_differ_are_refused(tmp_path: Path, tiny_config: Config) -> None:
    rng = np.random.default_rng(0)
    lines = ["path,patient_id,label,spacing_mm"]
    for number, spacing in enumerate([0.2, 0.2, 0.4, 0.2]):
        film = np.zeros((200, 160), np.uint8)
        row, col = np.ogrid[:200, :160]
        breast = ((row - 100) / 90) ** 2 + (col / 120) ** 2 < 1
        film[breast] = rng.integers(90, 160, breast.sum())
        Image.fromarray(film).save(tmp_path / f"{number}.png")
        lines.append(f"{number}.png,p{number},negative,{spacing}")
    manifest = tmp_path / "manifest.csv"
    manifest.write_text("\n".join(lines))
    with pytest.raises(RequestError, match=r"from 0\.2 to 0\.4 mm.*preprocessing\.spacing_mm"):
        train(manifest, tmp_path / "a", tiny_config, device=CPU)
    manifest.write_text("\n".join(lines).replace(",0.4", ","))
    with pytest.raises(RequestError, match="1 of 4 training images have no pixel spacing"):
        train(manifest, tmp_path / "b", tiny_config, device=CPU)


def test_no_negatives_is_an_error_that_says_so(tmp_path: Path, tiny_config: Config) -> None:
    manifest = tmp_path / "manifest.csv"
    (tmp_path / "a.png").touch()
    manifest.write_text("path,patient_id,label\na.png,p,positive\n")
    with pytest.raises(RequestError, match="no row with label negative"):
        train(manifest, tmp_path / "model", tiny_config, device=CPU)
    assert not (tmp_path / "model").exists()


def test_a_foreign_folder_is_never_overwritten(study, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match="can't overwrite it"):
        train(study.manifest, tmp_path, study.config, device=CPU, overwrite=True)
    assert (tmp_path / "thesis.txt").exists()


def test_a_finished_model_is_not_trained_again(study) -> None:
    before = json.loads((study.model / "card.json").read_text())["digest"]
    card = train(study.manifest, study.model, study.config, device=CPU, resume=True).card
    assert json.loads((study.model / "card.json").read_text())["digest"] == before
    assert card.weights_sha256


def test_a_film_that_alone_sets_the_threshold_is_named(
    study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked = []

    def find(patients, scores, false_images):
        asked.append((patients, scores, false_images))
        return Outliers((1,), 9.0, 2.0)

    monkeypatch.setattr("patchad.commands.train.find_outliers", find)
    card = train(study.manifest, tmp_path / "model", study.config, device=CPU).card
    ((patients, scores, share),) = asked
    assert (len(patients), len(set(patients)), share) == (4, 2, 0.05)
    assert max(scores) == card.calibrated.image_threshold
    (line,) = (r.message for r in caplog.records if "alone sets" in r.message)
    films = {str(row.path): row.patient_id for row in read_manifest(study.manifest)}
    path = line.partition("scores 2): ")[2].partition(". Such")[0]
    assert films[path] == patients[1]
    (note,) = card.calibrated.notes
    assert note.startswith("One negative image alone sets the image threshold (9; ")
    assert Path(path).name not in note


@pytest.mark.parametrize(("raw", "expected"), [([True] * 2, True), ([False, None], False)])
def test_the_card_says_whether_the_images_were_raw(raw, expected) -> None:
    images = [SimpleNamespace(source=SimpleNamespace(for_processing=value)) for value in raw]
    assert one_intent(images) is expected


def test_raw_and_finished_images_are_not_mixed() -> None:
    images = [SimpleNamespace(source=SimpleNamespace(for_processing=v)) for v in (True, False)]
    with pytest.raises(RequestError, match="1 of 2 training images are For Processing"):
        one_intent(images)


def serve_badly(link, how):
    """A process that reads images, until one kills it."""
    read = workers._read

    def badly(entry, how):
        if entry.path.stem == "crash":
            os.abort()
        return read(entry, how)

    workers._read = badly
    serve(link, how)


serve = workers._serve


def test_a_film_that_crashes_its_decoder_is_left_out(
    study, tmp_path: Path, tiny_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "_serve", serve_badly)
    films = tmp_path / "films"
    films.mkdir()
    for row in [r for r in read_manifest(study.manifest) if r.split == "train"][:5]:
        shutil.copy(row.path, films / f"{row.path.parent.name}-{row.path.name}")
    (films / "crash.dcm").write_bytes(row.path.read_bytes())
    trained = train(films, tmp_path / "model", tiny_config, device=CPU)
    ((path, reason),) = trained.failed
    assert Path(path).name == "crash.dcm"
    assert "died of SIGABRT" in reason
    assert trained.card.data.images + trained.card.calibrated.images == 5


def test_the_card_says_what_scales_the_grey_and_screening_does_so(study, tmp_path: Path) -> None:
    config = read_config(
        "wei2018_leaky",
        [
            *("patch_size=32", "stride=16", "split.held_out=0.4", "preprocessing.voi=full"),
            *("wei2018.epochs=1", "wei2018.patches_per_epoch=200"),
        ],
    )
    card = train(study.manifest, tmp_path / "model", config, device=CPU).card
    assert (card.preprocessing.voi, card.format) == ("full", 4)
    assert card.config["preprocessing"]["voi"] == "full"
    films = [row.path for row in read_manifest(study.manifest) if row.split == "test"][:1]
    model = tmp_path / "model"
    run = screen_run(films, model, tmp_path / "run", ScreenOptions(()), device=CPU)
    assert run.settings["settings"]["voi"] == "full"
    assert "VOI: full was requested" in run.rows[0].reading
    asked = ScreenOptions((), voi="window")
    run = screen_run(films, model, tmp_path / "window", asked, device=CPU)
    assert run.settings["settings"]["voi"] == "window"
    assert "VOI: the first window" in run.rows[0].reading
    with pytest.raises(RequestError, match="preprocessing"):
        read_config("wei2018", ["preprocessing.voi=nice"])
