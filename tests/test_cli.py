import json
import math
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
import pytest
from typer.testing import CliRunner

from patchad.cli import console
from patchad.cli.app import app, main
from patchad.cli.console import output
from patchad.methods import all_methods
from patchad.methods.declared import trainable
from patchad.model.configurations import packaged, purpose
from patchad.read.manifest import read_manifest

COMMANDS = (
    "demo",
    "train",
    "screen",
    "evaluate",
    "compare",
    "selftest",
    "calibrate",
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


# What users get wrong most: the command, and what the message must say. {…} are paths of the
# fixture `place`. Those before the line of dashes are answered before torch is loaded.
MISTAKES = """
screen nowhere.dcm | nowhere.dcm does not exist
screen {film} --model nowhere | nowhere holds no trained model (it does not exist)
screen {film} --model {run} | holds no trained model (card.json is missing; it is a run folder)
screen {film} --model {film} | holds no trained model (it is a file)
screen {run} | is a run folder, which patchad wrote: name the images themselves
screen {model} | is a model folder, which patchad wrote
screen {film} --write overlay,holograms | got 'overlay,holograms'
screen {film} --write overlays | did you mean overlay?
screen {film} --stride 99 | --stride lies in 1..32 (the model's patch size), got 99
screen {film} --stride 0 | --stride lies in 1..32
screen {film} --stride abc | Invalid value for '--stride'
screen {film} --device tpu | --device takes auto, cuda, cuda:NUMBER, mps or cpu; got 'tpu'
screen {film} --spacing-mm -1 | --spacing-mm is millimetres
screen {film} --frames both | --frames takes one of one, all; got 'both'
screen {film} --voi best | --voi takes one of auto, lut, window, full; got 'best'
screen {film} --mdel model | No such option: --mdel. Did you mean --model?
screen | Missing argument 'INPUT…'
scren {film} | No such command 'scren'. Did you mean 'screen'?
train nowhere | nowhere does not exist: name a file, a folder or a manifest
train {film} --config wei2081 | no configuration 'wei2081' (did you mean wei2018?)
train {film} --config {typo} | typo.toml: wei2018.epoch: no such option (did you mean epochs?)
train {film} --set epochs=5 | epochs: no such option (did you mean wei2018.epochs?)
train {film} --set wei2018.epochs=five | wei2018.epochs: Input should be a valid integer
train {film} --config fused | fused puts other methods together, and names none itself
train {film} --config mammography --set steps=5 | fused.members.synthetic_lesions.options.steps?
train {film} --config calcifcation | no configuration 'calcifcation' (did you mean calcification?)
train {film} --config chest --quick | fused has no quick setting, since its own takes minutes
train {film} --set epochs | --set takes KEY=VALUE, such as wei2018.epochs=5; got 'epochs'
train {film} --config mammography --set wei2018.epochs=5 | wei2018 is not its method, which is fused
evaluate nowhere --truth {manifest} | nowhere is not a complete run (it does not exist)
evaluate {model} --truth {manifest} | not a complete run (run.json is missing; it is a model folder)
evaluate {run} --truth nowhere.csv | nowhere.csv does not exist: name a manifest with labels
evaluate {run} --truth {run} | is a run folder: name a manifest with labels
evaluate {run} --truth {manifest} --regions nowhere.csv | nowhere.csv does not exist: name a table
evaluate {run} | Missing option '--truth'
compare {run} --truth {manifest} | a comparison takes two runs or more
compare {run} nowhere --truth {manifest} | nowhere is not a complete run (it does not exist)
compare {run} {model} --truth {manifest} | run.json is missing; it is a model folder
compare {run} {run} --truth nowhere.csv | nowhere.csv does not exist: name a manifest with labels
export nowhere --write overlay | not a complete run
export {run} | Missing option '--write'
push {model} --to A@b:1 | not a complete run
selftest {run} --on {manifest} | it is a run folder
selftest {model} --on nowhere | nowhere does not exist
inspect nowhere | nowhere does not exist
inspect {run} | is a run folder: give an image or a model folder
inspect {film} --body-part knee | --body-part takes one of breast, chest; got 'knee'
inspect {manifest} | the content is not an image patchad reads
---
screen {empty} | holds no images: name another folder, or a file
screen {film} --out {film} | is a file, not a folder: name a new or empty folder
screen {film} --out {run} | is not empty: continue with --resume, replace it with --overwrite
screen {film} --device cuda:99 | --device cuda:99
train {empty} | holds no images
train {broken} | no negative image could be used; the first,
train {unlabelled} | has neither a column label (negative, positive, unknown) nor birads
train {regions} | it looks like a table of regions
evaluate {run} --truth {regions} | lacks the column patient_id: row 1 must name it
evaluate {run} --truth {regions} | it looks like a table of regions, for --regions
evaluate {run} --truth {manifest} --regions {manifest} | it looks like a manifest, for --truth
evaluate {run} --truth {unlabelled} | has neither a column label
evaluate {run} --truth {manifest} | or judge the others alone with --only-screened
compare {run} {run} --truth {manifest} | each run is compared once
push {run} --to pacs | --to is aet@host:port
"""
BEFORE, AFTER = (
    [line.split(" | ") for line in part.strip().splitlines()] for part in MISTAKES.split("---\n")
)


@pytest.fixture(scope="module")
def place(study, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Right and wrong things to name, by a name."""
    folder = tmp_path_factory.mktemp("place")
    film = next(row.path for row in read_manifest(study.manifest) if row.split == "test")
    run = folder / "run"
    patchad("screen", film, "--model", study.model, "--out", run, "--write", "heatmap")
    typo, unlabelled = folder / "typo.toml", folder / "unlabelled.csv"
    typo.write_text('method = "wei2018"\n[wei2018]\nepoch = 3\n')
    unlabelled.write_text("path,patient_id\n1.dcm,P1\n")
    empty, broken = folder / "empty", folder / "broken"
    empty.mkdir()
    broken.mkdir()
    for name in "ab":
        (broken / f"{name}.dcm").write_text("no image")
    own = {"model": study.model, "manifest": study.manifest, "regions": study.regions}
    made = {"film": film, "run": run, "typo": typo, "unlabelled": unlabelled}
    return {**own, **made, "empty": empty, "broken": broken}


@pytest.mark.parametrize(("mistake", "said"), [*BEFORE, *AFTER])
def test_a_wrong_request_is_two_and_says_what_is_wrong(
    place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mistake: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = mistake.format(**place).split()
    model = "model" if arguments[0] == "train" else str(place["model"])
    result = patchad(*arguments, PATCHAD_MODEL=model)
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.split())
    assert result.stdout == ""
    assert [path for path in tmp_path.rglob("[!.]*") if path.is_file()] == []
    (tmp_path / "again").mkdir()
    monkeypatch.chdir(tmp_path / "again")
    told = patchad(*arguments, "--json", PATCHAD_MODEL=model)
    assert told.exit_code == 2
    assert said in " ".join(json.loads(told.stdout)["error"].split())


def test_wrong_requests_are_answered_before_torch_is_loaded(place, tmp_path: Path) -> None:
    code = """
import json, sys
from patchad.cli.app import app
for arguments in json.load(sys.stdin):
    try:
        app(arguments)
    except SystemExit as end:
        loaded = "torch" in sys.modules or "monai" in sys.modules
        print(end.code, loaded, *arguments)
"""
    asked = [mistake.format(**place).split() for mistake, _ in BEFORE]
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PATCHAD_MODEL": str(place["model"])},
        check=True,
    )
    assert done.stdout.splitlines() == [" ".join(["2 False", *words]) for words in asked]


def test_json_is_the_same_before_and_after_the_command(study) -> None:
    film = next(row.path for row in read_manifest(study.manifest) if row.split == "test")
    before = patchad("--json", "inspect", film).stdout
    assert json.loads(before)["rows"] == 256
    assert patchad("inspect", film, "--json").stdout == before
    assert patchad("inspect", "--json", film).stdout == before
    assert "rows: 256" in patchad("inspect", film).stdout  # JSON is forgotten again


def test_quiet_after_the_command(study, tmp_path: Path) -> None:
    film = next(row.path for row in read_manifest(study.manifest) if row.split == "test")
    common = ("screen", film, "--model", study.model, "--write", "heatmap")
    assert "screening 1/1" in patchad(*common, "--out", tmp_path / "a").stderr
    assert patchad(*common, "--out", tmp_path / "b", "-q").stderr == ""


def test_json_has_the_rows_of_a_run_though_some_failed(study, place, tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = patchad(
        "screen", place["film"], place["broken"], "--model", study.model, "--out", out,
        "--write", "heatmap", "--json",
    )  # fmt: skip
    assert result.exit_code == 1
    said = json.loads(result.stdout)
    rows = {Path(row["path"]).name: row for row in said["images"]}
    assert {name: row["status"] for name, row in rows.items()} == {
        place["film"].name: "ok", "a.dcm": "failed", "b.dcm": "failed",
    }  # fmt: skip
    assert rows["a.dcm"]["score"] is None
    assert rows[place["film"].name]["score"] > 0
    assert "not an image" in rows["a.dcm"]["reason"]


def test_json_holds_no_nan_and_no_numpy(capsys: pytest.CaptureFixture[str]) -> None:
    console.output.begin(["--json"])
    console.print_result(
        {
            "a": math.nan, "b": [np.float32(0.5), np.inf, np.array([1, 2])], "c": Path("x"),
            "d": (True, None), 3: Wrong("why"),
        },
        [],
    )  # fmt: skip
    console.output.begin([])
    assert json.loads(capsys.readouterr().out, parse_constant=pytest.fail) == {
        "a": None, "b": [0.5, None, [1, 2]], "c": "x", "d": [True, None], "3": {"reason": "why"},
    }  # fmt: skip


@dataclass(frozen=True)
class Wrong:
    reason: str


@pytest.mark.parametrize(("resumes", "hint"), [("methods", False), ("train", True)])
def test_ctrl_c_is_130_and_json_too(
    place, monkeypatch: pytest.MonkeyPatch, resumes: str, hint: bool
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("patchad.methods.all_methods", stop)
    monkeypatch.setattr("patchad.commands.select.train_best", stop)
    arguments = [resumes, *([place["manifest"]] if hint else [])]
    result = patchad(*arguments, "--json")
    assert result.exit_code == 130
    assert json.loads(result.stdout)["error"].startswith("stopped")
    assert ("--resume" in result.stderr) == hint


@pytest.mark.parametrize(
    "asked", ["--help", "--version", "inspect {film}", "inspect {film} --json", "nope --json"]
)
def test_nobody_reading_the_output_is_no_fault(place, asked: str) -> None:
    words = asked.format(**place).split()
    with subprocess.Popen(
        [sys.executable, "-c", "from patchad.cli.app import main; main()", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        process.stdout.close()
        said = process.stderr.read()
    assert process.returncode == 141
    assert "Traceback" not in said
    assert "Broken" not in said


def test_train_names_packaged_configurations_and_methods() -> None:
    shown = " ".join(patchad("train", "--help").output.split())
    for name, path in packaged().items():
        assert f"{name}: {purpose(path)}" in shown
    for name in trainable():
        assert re.search(rf"\b{name}\b", shown)
    assert not re.search(r"\bfused,", shown)


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("screen --write heatmap,o", ["heatmap,overlay"]),
        ("screen --write heatmap,overlay,heat", ["heatmap,overlay,heatmap-seg"]),
        ("screen --device c", ["cuda", "cpu"]),
        ("inspect --voi l", ["lut"]),
        ("screen --voi w", ["window"]),
        ("train --config wei", ["wei2018", "wei2018_leaky"]),
        ("train --config da", ["dae"]),
        ("train --config ./my", ["./my.toml"]),
        ("eval", ["evaluate"]),
        ("evaluate --only", ["--only-screened"]),
    ],
)
def test_completion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, typed: str, offered: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.toml").touch()
    words = f"patchad {typed}"
    result = CliRunner().invoke(
        app,
        [],
        env={
            "_PATCHAD_COMPLETE": "complete_bash",
            "COMP_WORDS": words,
            "COMP_CWORD": str(len(words.split()) - 1),
        },
        prog_name="patchad",
    )
    assert result.stdout.split() == offered


def test_resume_and_overwrite_together_are_refused(study, tmp_path: Path) -> None:
    film = next(row.path for row in read_manifest(study.manifest) if row.split == "test")
    for arguments in (
        ("screen", film, "--model", study.model, "--out", tmp_path / "out"),
        ("train", study.manifest, "--model", tmp_path / "out"),
    ):
        result = patchad(*arguments, "--resume", "--overwrite")
        assert result.exit_code == 2
        assert "--resume continues" in result.stderr
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
    monkeypatch.setattr(output, "command", ())
    assert ended.value.code == 0
    assert r"results: " + str(tmp_path) + r"/a\udcff" in capfd.readouterr().out
    assert json.loads((out / "run.json").read_text())["command"] == ["patchad", *typed]


def test_a_fault_of_patchad_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    read = "Doe^Jane"

    def fault() -> None:
        raise ZeroDivisionError(read)  # as a library does that quotes what it read

    monkeypatch.setattr("patchad.methods.all_methods", fault)
    result = patchad("-v", "methods")
    assert result.exit_code == 2
    assert "unexpected ZeroDivisionError at patchad/cli/methods.py:" in result.stderr
    assert "Doe" not in result.output
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            PermissionError(13, "Permission denied", "/films"),
            "/films cannot be used (Permission den",
        ),
        (OSError(28, "No space left on device"), "a file cannot be used (No space left on device)"),
        (OSError("odd"), "the system refused (OSError at patchad/cli/methods.py:"),
    ],
)
def test_what_the_system_refuses_is_no_fault_of_patchad(
    monkeypatch: pytest.MonkeyPatch, error: OSError, said: str
) -> None:
    def refuse() -> None:
        raise error

    monkeypatch.setattr("patchad.methods.all_methods", refuse)
    result = patchad("methods")
    assert result.exit_code == 2
    assert said in result.stderr
    assert "report" not in result.stderr


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
    for name, family in ((one.name, one.family) for one in all_methods()):
        assert f"\n  {name} " in shown
        assert shown.index(f"\n{family}: ") < shown.index(f"\n  {name} ")
    assert "Start with --config mammography" in shown
    assert "(Wei et al., 2018) [scores patches]" in shown
    assert "[chest only]" in shown
    # of two papers, the year is that of the authors who are named
    for words in ("Makhzani et al., 2015", "Dumoulin et al., 2017", "Parzen, 1962"):
        assert f"({words})" in shown


def test_one_method_is_told_with_its_options_and_its_quick_setting() -> None:
    shown = patchad("methods", "igd").stdout
    assert "arXiv 2101.10043" in shown
    assert "  epochs: 256\n" in shown
    assert "quick:\n  width: 8\n  epochs: 20\n" in shown
    told = json.loads(patchad("--json", "methods", "wei2018").stdout)
    assert told["options"]["batch_size"] == 200
    assert "10.1117/12.2293408" in told["paper"]
    wrong = patchad("methods", "memea")
    assert wrong.exit_code == 2
    assert "there is no method 'memea' (did you mean memae?)" in wrong.stderr


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

    said = call("train", study.manifest, "--model", "model", "--config", "wei2018_leaky", *quick)
    assert "specificity at the image threshold" in said
    assert "with as many films as these, have any film flagged" in said
    call("screen", study.folder)  # ./model and ./screening are the defaults
    told = call("evaluate", "screening", "--truth", study.manifest, "--regions", study.regions)
    assert "patch_std" in told
    assert "at the model's image threshold" in told
    figures = json.loads((tmp_path / "screening/evaluation/evaluation.json").read_text())
    assert 0 <= figures["patch"]["auroc"]["value"] <= 1
    assert set(figures["baselines"]) == {"patch_mean", "patch_std", "gradient_energy"}
    report = (tmp_path / "screening/report.html").read_text()
    assert "patch standard deviation" in report or "patch_std" in report or "patch std" in report
    call("export", "screening", "--write", "overlay")
