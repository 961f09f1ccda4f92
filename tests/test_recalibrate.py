import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch
from typer.testing import CliRunner

from patchad.cli.app import app
from patchad.commands.evaluate import evaluate, summary
from patchad.commands.screen import screen_run
from patchad.engine.screener import ScreenOptions
from patchad.model.card import card_as_dict
from patchad.model.folder import read_model
from patchad.model.trained_on import among
from patchad.phantoms.phantom import phantom_set
from patchad.read.manifest import read_manifest

CPU = torch.device("cpu")


def patchad(*arguments: object):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.output
    return result


@pytest.fixture(scope="module")
def site(study, tmp_path_factory) -> Path:
    """Another site's normal films in a folder: 8 good of 4 patients, and some that don't fit."""
    folder = tmp_path_factory.mktemp("site")
    manifest, _ = phantom_set(
        folder / "phantoms", train_patients=4, test_patients=0, shape=(256, 208), seed=7
    )
    films = folder / "films"
    films.mkdir()
    for number, row in enumerate(read_manifest(manifest)):
        shutil.copy(row.path, films / f"{number}.dcm")
    coarse = pydicom.dcmread(films / "0.dcm")
    coarse.PatientID, coarse.ImagerPixelSpacing = "other", [1.6, 1.6]
    coarse.PixelData = np.ascontiguousarray(coarse.pixel_array[:, ::-1]).tobytes()
    coarse.save_as(films / "coarse.dcm")
    (films / "broken.dcm").write_bytes((films / "1.dcm").read_bytes()[:900])
    trained = next(row.path for row in read_manifest(study.manifest) if row.split == "train")
    shutil.copy(trained, films / "trained.dcm")
    return films


@pytest.fixture(scope="module")
def made(study, site: Path, tmp_path_factory) -> tuple[Path, object]:
    out = tmp_path_factory.mktemp("made") / "model"
    return out, patchad("calibrate", study.model, "--on", site, "--out", out, "--device", "cpu")


def test_another_calibration_of_the_same_weights(study, made) -> None:
    out, result = made
    before, weights = read_model(study.model)
    card, same = read_model(out)
    assert all(torch.equal(weights[name], same[name]) for name in weights)
    unlike = replace(card, calibration=None, data=replace(card.data, fit=None))
    assert unlike == replace(before, calibration=None, data=replace(before.data, fit=None))
    assert card.data.fit.centre != before.data.fit.centre  # learnt anew
    calibration = card.calibrated
    assert (calibration.images, calibration.patients, calibration.folds) == (8, 4, 0)
    assert card_as_dict(before)["digest"][:12] in calibration.made
    assert "patchad calibrate" in calibration.made
    assert calibration.image_threshold == max(calibration.patient_scores)
    assert "at most 20 % of new negative patients" in calibration.statements[1]
    assert any("4 patients were found" in note for note in calibration.notes) or any(
        "patients were found in" in note for note in calibration.notes
    )
    assert result.exit_code == 1  # since some images failed
    assert "0 of 4 flagged" in result.stdout
    assert str(out) in result.stdout


def test_images_that_do_not_fit_fail_alone(made) -> None:
    _, result = made
    said = " ".join(result.stderr.split())
    assert "coarse.dcm: pixel spacing" in said
    assert "trained.dcm: the model was trained on this image" in said
    assert "broken.dcm: " in said


def test_its_scores_are_those_that_screening_gives(made, site: Path, tmp_path: Path) -> None:
    out, _ = made
    good = [site / f"{number}.dcm" for number in range(8)]
    run = screen_run(good, out, tmp_path / "run", ScreenOptions(()), device=CPU)
    highest = sorted(row.score for row in run.rows)[-1]
    card, _ = read_model(out)
    assert highest == pytest.approx(card.calibrated.image_threshold)
    assert not any(row.flagged for row in run.rows)
    assert among(card.calibrated.made_on, [row.digest for row in run.rows]) == [True] * 8


@pytest.mark.parametrize(
    ("on", "out", "said"),
    [
        ("nowhere", "new", "does not exist"),
        ("TRAINED", "new", "none of the 1 negatives"),
        ("SITE", "MODEL", "not empty"),
    ],
)
def test_a_wrong_request_is_two(study, site, tmp_path: Path, on: str, out: str, said: str) -> None:
    sources = {"TRAINED": site / "trained.dcm", "SITE": site, "nowhere": tmp_path / "nowhere"}
    folder = study.model if out == "MODEL" else tmp_path / out
    before = (study.model / "card.json").read_bytes()
    result = patchad("calibrate", study.model, "--on", sources[on], "--out", folder)
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.split())
    assert (study.model / "card.json").read_bytes() == before
    assert not (tmp_path / "new" / "card.json").exists()


def test_an_outlier_is_named_with_a_command(study, site: Path, tmp_path: Path) -> None:
    films = tmp_path / "films"
    films.mkdir()
    for number in range(8):
        ds = pydicom.dcmread(site / f"{number}.dcm")
        ds.PatientID, ds.StudyInstanceUID = f"p{number}", f"1.2.{number}"
        if number == 5:  # an artefact: stripes on a part of the breast
            pixels = ds.pixel_array.copy()
            row, col = (int(place.mean()) for place in np.nonzero(pixels > pixels.mean()))
            part = pixels[row - 40 : row + 40, col - 20 : col + 20]
            part[::4], part[1::4] = pixels.min(), pixels.max()
            ds.PixelData = pixels.tobytes()
        ds.save_as(films / f"{number}.dcm")
    result = patchad("calibrate", study.model, "--on", films, "--out", tmp_path / "model")
    assert result.exit_code == 0, result.stderr
    said = result.stderr.replace("\n", " ")
    assert "One negative image alone sets the image threshold (" in said
    assert f"): {films / '5.dcm'}. Such an image may be" in said
    assert f"patchad screen {films / '5.dcm'} --model {tmp_path / 'model'} --out" in said
    card, _ = read_model(tmp_path / "model")
    (note,) = (n for n in card.calibrated.notes if "alone sets" in n)
    assert "5.dcm" not in note
    assert str(tmp_path) not in (tmp_path / "model" / "card.json").read_text()


def test_evaluation_tells_what_the_model_has_seen_and_its_operating_point(
    study, tmp_path: Path
) -> None:
    rows = [row for row in read_manifest(study.manifest) if row.label == "negative"]
    seen = [row for row in rows if row.split == "train"][:4]
    fresh = [row for row in read_manifest(study.manifest) if row.split == "test"]
    run = screen_run(
        [row.path for row in [*seen, *fresh]],
        study.model, tmp_path / "run", ScreenOptions(()), device=CPU,
    )  # fmt: skip
    truth = tmp_path / "truth.csv"
    lines = [f"{row.path},{row.patient_id},{row.label}" for row in [*seen, *fresh]]
    truth.write_text("\n".join(["path,patient_id,label", *lines]))
    result = evaluate(tmp_path / "run", truth, None, None, resamples=20, device=CPU)
    card, _ = read_model(study.model)
    digests = {row.path: row.digest for row in run.rows}
    known = [digests[str(row.path)] for row in seen]
    trained = sum(among(card.data.trained_on, known))
    calibrated = sum(among(card.calibrated.made_on, known))
    assert trained + calibrated == 4
    notes = "\n".join(result["notes"])
    for count, done in ((trained, "trained on"), (calibrated, "calibrated on")):
        assert (f"The model was {done} {count} of the {len(lines)} judged" in notes) == (count > 0)
    threshold = card.calibrated.image_threshold
    scores = {row.path: row.score for row in run.rows}
    positive = [row for row in fresh if row.label == "positive"]
    found = [row for row in positive if scores[str(row.path)] > threshold]
    point = result["threshold"]["image"]
    assert point["sensitivity"]["value"] == pytest.approx(len(found) / len(positive))
    patients = {row.patient_id for row in positive}
    hit = {row.patient_id for row in fresh if row.patient_id in patients
           and scores[str(row.path)] > threshold}  # fmt: skip
    by_patient = result["threshold"]["patient"]
    assert by_patient["sensitivity"]["value"] == pytest.approx(len(hit) / len(patients))
    (line,) = (x for x in summary(result) if x.startswith("at the model's image") and "images" in x)
    assert f"sensitivity {len(found) / len(positive):.2f}" in line
    assert "specificity" in line
    stored = json.loads((tmp_path / "run" / "evaluation" / "evaluation.json").read_text())
    assert stored["threshold"]["patient"]["value"] == threshold
