"""Runs that are killed, changed under way, or asked for again: nothing lost, nothing mixed."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pydicom
import pytest
import torch

from patchad.commands.evaluate import evaluate
from patchad.commands.screen import screen_run
from patchad.commands.train import train
from patchad.engine.screener import ScreenOptions
from patchad.errors import OutputError, RequestError
from patchad.files.lock import LOCK
from patchad.files.marker import MARKER
from patchad.methods.configure import read_config
from patchad.read.manifest import read_manifest
from patchad.store.journal import JOURNAL

CPU = torch.device("cpu")
KINDS = ("heatmap", "overlay", "sr", "report")

# Screens films, and dies by SIGKILL at the n-th file of a name: before it is whole, or after.
KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from patchad.engine.screener import ScreenOptions
from patchad.commands.screen import screen_run

if __name__ == "__main__":
    out, model, kinds, when, name, left, *films = sys.argv[1:]
    left, rename = int(left), Path.replace

    def replace(self, target):
        global left
        left -= name in str(target)
        if left == 0 and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        moved = rename(self, target)
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return moved

    Path.replace = replace
    screen_run(
        [Path(film) for film in films],
        Path(model),
        Path(out),
        ScreenOptions(tuple(kinds.split(","))),
        device=torch.device("cpu"),
        resume=True,
    )
"""


@pytest.fixture(scope="module")
def films(study, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Copies of three films, which a test may change and put back, and one that is none."""
    folder = tmp_path_factory.mktemp("films")
    rows = [row for row in read_manifest(study.manifest) if row.split == "test"][:3]
    paths = [folder / f"{number}.dcm" for number in range(4)]
    for path, row in zip(paths, rows, strict=False):
        shutil.copy(row.path, path)
    paths[3].write_bytes(b"no film")
    return paths


def content(path: Path) -> object:
    """What a file says, but for times, and for where its folder is."""
    if path.name == "images.csv":
        return pd.read_csv(path).drop(columns="seconds").to_csv()
    if path.name == "run.json":
        said = json.loads(path.read_text())
        return {key: value for key, value in said.items() if key not in ("seconds", "command")}
    if path.name == JOURNAL:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        for line in lines:
            line.pop("seconds", None)
            line.get("row", {}).pop("seconds", None)
        return lines
    if path.name == MARKER:
        said = json.loads(path.read_text())
        return {key: value for key, value in said.items() if key not in ("path", "inode")}
    if path.suffix == ".dcm":
        said = pydicom.dcmread(path)
        for keyword in (
            "InstanceCreationDate",
            "InstanceCreationTime",
            "ContentDate",
            "ContentTime",
        ):
            said.pop(keyword, None)
        return json.loads(said.to_json())
    return path.read_bytes()


def everything(folder: Path) -> dict[str, object]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): content(path) for path in paths}


@pytest.mark.slow
def test_a_run_killed_again_and_again_ends_as_one_that_ran_through(
    study, films, tmp_path: Path
) -> None:
    script, out = tmp_path / "killed.py", tmp_path / "run"
    script.write_text(KILLED)
    for when, name, number in (
        ("before", "/overlays/", 2),
        ("after", "/patches/", 1),
        ("after", "images.csv", 1),
    ):
        killed = subprocess.run(
            [
                *(sys.executable, script, out, study.model, ",".join(KINDS)),
                *(when, name, str(number), *films),
            ],
            capture_output=True,
            text=True,
        )
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        # A file that was not whole stays behind, until the next one sweeps it.
        assert len(list(out.rglob(".patchad-*"))) == (when == "before")
    resumed = screen_run(films, study.model, out, ScreenOptions(KINDS), device=CPU, resume=True)
    whole = screen_run(films, study.model, tmp_path / "whole", ScreenOptions(KINDS), device=CPU)
    ended, through = everything(out), everything(whole.folder)
    assert ended.keys() == through.keys()
    for name, said in through.items():
        if name != "report.html":  # seconds stand in it
            assert ended[name] == said, name
    assert resumed.settings["seconds"]["score"] > 0


def test_a_killed_run_leaves_no_file_without_a_row(study, films, tmp_path: Path) -> None:
    def kill(stage: str, done: int, total: int, value: float) -> None:
        raise KeyboardInterrupt

    out, options = tmp_path / "run", ScreenOptions(("heatmap",))
    with pytest.raises(KeyboardInterrupt):
        screen_run(films[:2], study.model, out, options, device=CPU, progress=kill)
    with (out / JOURNAL).open("a") as journal:
        journal.write('{"begun": "half"}\n{"row": {"id": "x"}}\n\0\0\n{"begun": "cut o')
    for name in ("half", "x", "mine"):
        for path in (out / "patches" / f"{name}.parquet", out / "heatmaps" / f"{name}.tif"):
            path.touch()
    run = screen_run(films[:2], study.model, out, options, device=CPU, resume=True)
    ids = {row.id for row in run.rows}
    # of an id that no line tells of nobody knows whose it is
    assert {path.stem for path in (out / "patches").iterdir()} == ids | {"x", "mine"}
    assert {path.stem for path in (out / "heatmaps").iterdir()} == ids | {"x", "mine"}


def test_an_image_that_fails_half_way_leaves_nothing(
    study, films, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object, **options: object) -> None:
        raise ValueError("no overlay")

    monkeypatch.setattr("patchad.export.write.write_overlay", broken)
    options = ScreenOptions(("heatmap", "overlay"))
    run = screen_run(films[:1], study.model, tmp_path / "run", options, device=CPU)
    assert [row.status for row in run.rows] == ["failed"]
    assert not [*run.folder.glob("patches/*"), *run.folder.glob("heatmaps/*")]
    monkeypatch.undo()
    again = screen_run(films[:1], study.model, tmp_path / "run", options, device=CPU, resume=True)
    assert [row.status for row in again.rows] == ["ok"]


def test_a_request_that_is_done_says_so_and_writes_nothing(
    study, films, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out, options = tmp_path / "run", ScreenOptions(("heatmap", "report"))
    screen_run(films[:2], study.model, out, options, device=CPU)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.name != LOCK}
    stages: list[str] = []
    with caplog.at_level("INFO"):
        run = screen_run(
            films[:2],
            study.model,
            out,
            ScreenOptions(("report", "heatmap"), stride=16),  # the model's own
            device=CPU,
            resume=True,
            progress=lambda stage, *_: stages.append(stage),
        )
    assert "nothing is left to do" in caplog.text
    assert "screening" not in stages
    assert run.settings["counts"]["ok"] == 2
    assert before == {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.name != LOCK}


def test_results_that_were_deleted_are_made_again(study, films, tmp_path: Path) -> None:
    out, options = tmp_path / "run", ScreenOptions(("heatmap",))
    run = screen_run(films[:2], study.model, out, options, device=CPU)
    before = everything(out)
    run.heatmap_path(run.rows[1].id).unlink()
    screen_run(films[:2], study.model, out, options, device=CPU, resume=True)
    assert everything(out) == before


def test_a_film_that_changed_since_is_not_gone_on_with(study, films, tmp_path: Path) -> None:
    out, options, film = tmp_path / "run", ScreenOptions(()), tmp_path / "film.dcm"
    shutil.copy(films[0], film)
    before = film.stat()
    screen_run([film, films[1]], study.model, out, options, device=CPU)
    whole = film.read_bytes()
    film.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    os.utime(film, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert film.stat().st_size == before.st_size
    with pytest.raises(RequestError, match=r"film\.dcm changed since it was screened"):
        screen_run([film, films[1]], study.model, out, options, device=CPU, resume=True)
    film.write_bytes(whole)  # another time, the same film
    screen_run([film, films[1]], study.model, out, options, device=CPU, resume=True)


def test_facts_of_the_manifest_belong_to_the_request(study, films, tmp_path: Path) -> None:
    def listed(**columns: str) -> Path:
        table = pd.DataFrame(
            {
                "path": [str(film) for film in films[:2]],
                "patient_id": ["XQZ-1", "XQZ-2"],
                "label": "negative",
                "study_id": "XQZ-S",
                **columns,
            }
        )
        table.to_csv(tmp_path / "manifest.csv", index=False)
        return tmp_path / "manifest.csv"

    def again(manifest: Path) -> None:
        options = ScreenOptions(())
        screen_run([manifest], study.model, tmp_path / "run", options, device=CPU, resume=True)

    again(listed(spacing_mm="0.8"))
    with pytest.raises(RequestError, match=r"0\.dcm spacing_mm: \[0\.8, 0\.8\] then, \[0\.4, 0"):
        again(listed(spacing_mm="0.4"))
    with pytest.raises(RequestError, match=r"laterality: not given then, but now"):
        again(listed(spacing_mm="0.8", laterality="L"))
    again(listed(spacing_mm="0.8", label="positive", birads="6"))  # nothing depends on these
    manifest = listed(spacing_mm="0.8")
    header, *rows = manifest.read_text().splitlines()
    manifest.write_text("\n".join([header, *reversed(rows)]))
    with pytest.raises(RequestError, match="inputs: in another order now"):
        again(manifest)
    assert "XQZ" not in (tmp_path / "run" / MARKER).read_text()


def test_an_evaluation_of_fewer_rows_does_not_stay(study, films, tmp_path: Path) -> None:
    out, film = tmp_path / "run", tmp_path / "late.dcm"
    film.write_bytes(b"half of")
    inputs, options = [films[0], film], ScreenOptions(("report",))
    screen_run(inputs, study.model, out, options, device=CPU)
    truth = tmp_path / "truth.csv"
    truth.write_text(f"path,patient_id,label\n{films[0]},a,negative\n{film},b,positive\n")
    evaluate(out, truth, None, None, resamples=20, device=CPU)
    screen_run(inputs, study.model, out, options, device=CPU, resume=True)
    assert (out / "evaluation" / "evaluation.json").exists()  # it fails as before
    shutil.copy(films[1], film)
    run = screen_run(inputs, study.model, out, options, device=CPU, resume=True)
    assert [row.status for row in run.rows] == ["ok", "ok"]
    assert not (out / "evaluation").exists()


def test_a_table_without_the_run_is_finished_by_resuming(study, films, tmp_path: Path) -> None:
    out, options = tmp_path / "run", ScreenOptions(())
    screen_run(films[:2], study.model, out, options, device=CPU)
    before = everything(out)
    (out / "run.json").unlink()
    (out / JOURNAL).unlink()
    screen_run(films[:2], study.model, out, options, device=CPU, resume=True)
    assert everything(out) == before


def test_a_finished_model_of_another_request_is_refused(study, tmp_path: Path) -> None:
    def again(manifest: Path = study.manifest, **options: object) -> None:
        asked = {"seed": 0, "config": study.config, **options}
        train(manifest, study.model, device=CPU, resume=True, **asked)  # type: ignore[arg-type]

    again()
    with pytest.raises(RequestError, match="seed: 0 then, 1 now"):
        again(seed=1)
    other = read_config("wei2018_leaky", ["patch_size=32", "stride=16"])
    with pytest.raises(RequestError, match=r"wei2018 epochs: 4 then, \d+ now"):
        again(config=other)
    table = pd.read_csv(study.manifest, dtype=str)
    table["path"] = [str(study.folder / path) for path in table["path"]]
    here = tmp_path / "manifest.csv"
    table.to_csv(here, index=False)
    again(here)  # the same images by another way
    table.assign(spacing_mm="0.5").to_csv(here, index=False)
    with pytest.raises(RequestError, match=r"dcm spacing_mm: not given then, but now"):
        again(here)
    fewer = table[table["patient_id"] != "P0001"]
    fewer.to_csv(here, index=False)
    with pytest.raises(RequestError, match="images: 12 then, 10 now"):
        again(here)


def test_a_training_image_that_changed_since_is_named(study, tmp_path: Path) -> None:
    rows = [row for row in read_manifest(study.manifest) if row.split == "train"][:4]
    folder = tmp_path / "films"
    folder.mkdir()
    for number, row in enumerate(rows):
        shutil.copy(row.path, folder / f"{number}.dcm")
    (folder / "same.dcm").write_bytes((folder / "3.dcm").read_bytes())

    def kill(stage: str, done: int, total: int, value: float) -> None:
        if stage == "training":
            raise KeyboardInterrupt

    model = tmp_path / "model"
    with pytest.raises(KeyboardInterrupt):
        train(folder, model, study.config, device=CPU, progress=kill)
    shutil.copy(folder / "0.dcm", folder / "1.dcm")
    with pytest.raises(RequestError, match=r"1\.dcm: new, or changed since") as refused:
        train(folder, model, study.config, device=CPU, resume=True)
    assert "1 earlier images: missing, or changed since" in str(refused.value)
    shutil.copy(rows[1].path, folder / "1.dcm")
    train(folder, model, study.config, device=CPU, resume=True)
    assert (model / "card.json").exists()


def test_inputs_and_model_are_kept_apart_from_what_is_written(study, films, tmp_path: Path) -> None:
    out = tmp_path / "run"
    screen_run(films[:1], study.model, out, ScreenOptions(()), device=CPU)
    inside = out / "film.dcm"
    shutil.copy(films[0], inside)
    shutil.copytree(study.model, out / "model")
    with pytest.raises(RequestError, match=r"film\.dcm lies in .*run, which this command writes"):
        screen_run([inside], study.model, out, ScreenOptions(()), device=CPU, overwrite=True)
    with pytest.raises(RequestError, match=r"model lies in .*run"):
        screen_run(films[:1], out / "model", out, ScreenOptions(()), device=CPU, overwrite=True)
    with pytest.raises(OutputError, match="of kind model"):
        screen_run(
            films[:1], study.model, study.model, ScreenOptions(()), device=CPU, overwrite=True
        )
    assert inside.read_bytes() == films[0].read_bytes()
    assert (study.model / "card.json").exists()
