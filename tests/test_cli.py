import json
import os
import subprocess
import sys
from pathlib import Path

import pydicom
import pytest
from typer.testing import CliRunner

from patchad.cli import app, main
from patchad.console import voice
from patchad.io.manifest import read_manifest

COMMANDS = (
    "demo",
    "train",
    "screen",
    "evaluate",
    "selftest",
    "export",
    "push",
    "inspect",
    "methods",
)


def patchad(*arguments: object, **environment: str):
    result = CliRunner().invoke(app, [str(a) for a in arguments], env=environment)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.output
    return result


def test_every_command_helps() -> None:
    shown = patchad("--help").output
    for command in COMMANDS:
        assert command in shown
        assert patchad(command, "--help").exit_code == 0


def test_screening_a_folder_of_good_and_broken_files(study, tmp_path: Path) -> None:
    films = [row.path for row in read_manifest(study.manifest) if row.split == "test"][:2]
    folder = tmp_path / "study"
    folder.mkdir()
    for film in films:
        (folder / film.name).write_bytes(film.read_bytes())
    (folder / "broken.dcm").write_bytes(films[0].read_bytes()[:3000])
    out = tmp_path / "run"
    result = patchad("screen", folder, "--model", study.model, "--out", out)
    assert result.exit_code == 1
    assert "2 screened" in result.stdout
    assert "1 failed" in result.stdout
    assert "broken.dcm" in result.stderr
    assert "Traceback" not in result.output
    assert (out / "report.html").exists()


def test_all_good_is_zero_and_json_is_the_only_output(study, tmp_path: Path) -> None:
    film = next(row.path for row in read_manifest(study.manifest) if row.split == "test")
    result = patchad(
        "--json", "screen", film, "--out", tmp_path / "run", "--write", "heatmap",
        PATCHAD_MODEL=str(study.model),
    )  # fmt: skip
    assert result.exit_code == 0
    said = json.loads(result.stdout)
    assert said["counts"] == {"ok": 1, "failed": 0, "skipped": 0}
    assert said["settings"]["kinds"] == ["heatmap"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["screen", "nowhere.dcm"], "nowhere.dcm does not exist"),
        (["screen", "FILM", "--write", "overlay,hologram"], "hologram"),
        (["screen", "FILM", "--stride", "99"], "1..32"),
        (["screen", "FILM", "--device", "tpu"], "auto"),
        (["screen", "FILM", "--spacing-mm", "-1"], "--spacing-mm is millimetres"),
        (["train", "FILM", "--config", "resnet"], "no configuration 'resnet'"),
        (["train", "FILM", "--set", "wei2018.epoch=1"], "no such option"),
        (["evaluate", "nowhere", "--truth", "t.csv"], "not a whole run"),
        (["export", "nowhere", "--write", "overlay"], "not a whole run"),
        (["inspect", "nowhere"], "does not exist"),
        (["inspect", "FILM", "--body-part", "knee"], "breast or chest"),
    ],
)
def test_a_wrong_request_is_two_and_writes_nothing(
    study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    film = next(row.path for row in read_manifest(study.manifest) if row.split == "test")
    real = [str(film) if argument == "FILM" else argument for argument in arguments]
    result = patchad(*real, PATCHAD_MODEL=str(study.model) if real[0] == "screen" else "model")
    assert result.exit_code == 2
    assert said in result.stderr.replace("\n", " ")
    assert list(tmp_path.iterdir()) == []


def test_resume_and_overwrite_together_are_refused(study, tmp_path: Path) -> None:
    film = next(row.path for row in read_manifest(study.manifest) if row.split == "test")
    for arguments in (
        ("screen", film, "--model", study.model, "--out", tmp_path / "out"),
        ("train", study.manifest, "--model", tmp_path / "out"),
    ):
        result = patchad(*arguments, "--resume", "--overwrite")
        assert result.exit_code == 2
        assert "--resume goes on" in result.stderr
        assert "give one" in result.stderr
    assert not (tmp_path / "out").exists()


def test_the_run_holds_the_command_as_typed_even_if_it_is_no_text(
    study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    film = next(row.path for row in read_manifest(study.manifest) if row.split == "test")
    out = tmp_path / os.fsdecode(b"a\xff")
    typed = ["-q", "screen", str(film), "--model", str(study.model), "--out", str(out)]
    typed += ["--write", "heatmap", "--stride", "32", "--timeout", "60"]
    monkeypatch.setattr(sys, "argv", ["/usr/bin/patchad", *typed])
    with pytest.raises(SystemExit) as ended:
        main()
    monkeypatch.setattr(voice, "command", ())
    assert ended.value.code == 0
    assert r"results: " + str(tmp_path) + r"/a\udcff" in capfd.readouterr().out
    assert json.loads((out / "run.json").read_text())["command"] == ["patchad", *typed]


def test_a_fault_of_patchad_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("patchad.methods.about", lambda: 1 / 0)
    result = patchad("methods")
    assert result.exit_code == 2
    assert "unexpected ZeroDivisionError" in result.stderr
    assert "Traceback" not in result.stderr


def test_inspect_shows_what_is_read(study) -> None:
    film = next(row.path for row in read_manifest(study.manifest) if row.split == "test")
    shown = patchad("inspect", film).stdout
    for part in ("rows: 256", "spacing_mm: 0.8, 0.8", "modality: MG", "VOI", "share_of_image"):
        assert part in shown
    side = {"L": "left", "R": "right"}[pydicom.dcmread(film).ImageLaterality]
    assert f"chest_wall: {side}, by Patient Orientation" in shown
    assert "chest_wall" not in patchad("inspect", film, "--body-part", "chest").stdout
    card = json.loads(patchad("--json", "inspect", study.model).stdout)
    assert card["method"] == "wei2018"


def test_methods_names_papers() -> None:
    shown = patchad("methods").stdout
    assert "wei2018" in shown
    assert "10.1117/12.2293408" in shown


@pytest.mark.slow
def test_the_installed_command_from_training_to_evaluation(study, tmp_path: Path) -> None:
    command = Path(sys.executable).with_name("patchad")
    quick = [
        "--set", "patch_size=32", "--set", "stride=16", "--set", "split.held_out=0.4",
        "--set", "wei2018.epochs=3", "--set", "wei2018.patches_per_epoch=600",
    ]  # fmt: skip

    def call(*arguments: object) -> str:
        done = subprocess.run(
            [str(command), *map(str, arguments)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout

    call("train", study.manifest, "--model", "model", "--config", "wei2018_leaky", *quick)
    call("screen", study.folder)  # ./model and ./screening are the defaults
    told = call("evaluate", "screening", "--truth", study.manifest, "--regions", study.regions)
    assert "patch_std" in told
    figures = json.loads((tmp_path / "screening/evaluation/evaluation.json").read_text())
    assert 0 <= figures["patch"]["auroc"]["value"] <= 1
    assert set(figures["baselines"]) == {"patch_mean", "patch_std", "gradient_energy"}
    report = (tmp_path / "screening/report.html").read_text()
    assert "patch standard deviation" in report or "patch_std" in report or "patch std" in report
    call("export", "screening", "--write", "overlay")
