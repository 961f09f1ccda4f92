import os
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import pytest
import torch

from patchad.commands.compare import compare
from patchad.commands.evaluate import evaluate
from patchad.commands.export import export
from patchad.commands.screen import screen_run
from patchad.commands.selftest import selftest
from patchad.commands.train import train
from patchad.engine.screener import ScreenOptions
from patchad.errors import OutputError, RequestError
from patchad.export import DICOM_KINDS, KINDS
from patchad.files.claim import claimed
from patchad.files.clearing import clear
from patchad.files.lock import LOCK, locked
from patchad.files.marker import MARKER, read_marker
from patchad.phantoms.phantom import phantom_set
from patchad.read.manifest import read_manifest
from patchad.read.read import find_images
from patchad.store.journal import JOURNAL
from patchad.store.layouts import (
    _OBJECTS,
    COMPARISON,
    DEMO,
    EVALUATION,
    MODEL,
    RUN,
    SELFTEST,
    open_run,
)

CPU = torch.device("cpu")


def left(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.fixture(scope="module")
def films(study) -> list[Path]:
    return [row.path for row in read_manifest(study.manifest) if row.split == "test"][:3]


@pytest.fixture(scope="module")
def truth(films, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("truth") / "truth.csv"
    labels = ("positive", "negative", "negative")
    rows = [f"{film},{n},{labels[n]}\n" for n, film in enumerate(films)]
    path.write_text("path,patient_id,label\n" + "".join(rows))
    return path


@pytest.fixture(scope="module")
def run(study, films, truth, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with everything that a run folder may hold, and a file of its user's."""
    out = tmp_path_factory.mktemp("layouts") / "run"
    kinds = tuple(kind for kind in KINDS if kind != "pm")
    screen_run(films, study.model, out, ScreenOptions(kinds), device=CPU)
    images = pd.read_csv(out / "images.csv")
    images.assign(flagged=True).to_csv(out / "images.csv", index=False)
    export(out, ["ko"])
    evaluate(out, truth, None, None, resamples=20, device=CPU)
    (out / "pushed.jsonl").touch()
    (out / "heatmaps" / "notes.txt").write_text("mine")
    return out


def test_the_kinds_of_objects_are_those_of_the_exports() -> None:
    assert _OBJECTS == DICOM_KINDS


def test_a_run_folder_holds_only_what_its_layout_names(run: Path) -> None:
    before = left(run)
    assert {"evaluation/roc.png", "report.html", JOURNAL} < before
    assert sum(name.endswith("ko.dcm") for name in before) >= 1
    with locked(run, "test"):
        clear(run, RUN)
    assert left(run) == {MARKER, LOCK, "heatmaps", "heatmaps/notes.txt"}


def test_a_model_folder_holds_only_what_its_layout_names(study, tmp_path: Path) -> None:
    def kill(stage: str, done: int, total: int, value: float) -> None:
        if stage == "training":
            raise KeyboardInterrupt

    model = tmp_path / "model"
    with pytest.raises(KeyboardInterrupt):
        train(study.manifest, model, study.config, device=CPU, progress=kill)
    assert "checkpoint/training.safetensors" in left(model)
    (model / "checkpoint" / "thesis.txt").write_text("years of work")
    train(study.manifest, model, study.config, device=CPU, resume=True)
    own = {MARKER, LOCK, "card.json", "weights.safetensors"}
    theirs = {"checkpoint", "checkpoint/thesis.txt"}
    assert left(model) == own | theirs
    with locked(model, "test"):
        clear(model, MODEL)
    assert left(model) == {MARKER, LOCK} | theirs


def test_the_other_folders_hold_only_what_their_layouts_name(
    study, films, truth, tmp_path: Path
) -> None:
    names = ("judged", "compared", "tested", "demo")
    judged, compared, tested, shown = (tmp_path / name for name in names)
    screened = screen_run(films, study.model, tmp_path / "run", ScreenOptions(()), device=CPU)
    evaluate(screened.folder, truth, None, judged, resamples=20, device=CPU)
    other = screen_run(films, study.model, tmp_path / "other", ScreenOptions(()), device=CPU)
    compare([screened.folder, other.folder], truth, None, compared, resamples=20, device=CPU)
    selftest(study.model, study.manifest, tested, images=1, device=CPU)
    with claimed(shown, DEMO, {}, command="demo"):
        for part in ("breast", "chest"):
            phantom_set(
                shown / part / "phantoms",
                body_part=part,
                train_patients=1,
                test_patients=1,
                shape=(128, 104),
            )
    for folder, layout in (
        (judged, EVALUATION),
        (compared, COMPARISON),
        (tested, SELFTEST),
        (shown, DEMO),
    ):
        assert len(left(folder)) > 4
        with locked(folder, "test"):
            clear(folder, layout)
        assert left(folder) == {MARKER, LOCK}


def test_every_writer_is_refused_while_another_one_writes(
    study, films, truth, tmp_path: Path
) -> None:
    out = tmp_path / "run"

    def again(**options: bool) -> None:
        screen_run(films, study.model, out, ScreenOptions(()), device=CPU, **options)

    again()
    judged = evaluate(out, truth, None, tmp_path / "judged", resamples=20, device=CPU)
    with locked(out, "screen"):
        for writes in (
            lambda: again(resume=True),
            lambda: again(overwrite=True),
            lambda: export(out, ["overlay"]),
            lambda: evaluate(out, truth, None, None, device=CPU),
            lambda: evaluate(out, truth, None, out / "evaluation", device=CPU),
        ):
            (out / "evaluation").mkdir(exist_ok=True)
            with pytest.raises(OutputError, match=r"run is in use by `patchad screen`"):
                writes()
        # what only reads the run is not in the way
        elsewhere = tmp_path / "elsewhere"
        read = evaluate(out, truth, None, elsewhere, resamples=20, device=CPU)
    assert read == judged
    assert not (out / "overlays").exists()


def test_a_foreign_folder_gets_no_lock(tmp_path: Path) -> None:
    with (
        pytest.raises(RequestError, match=r"not a complete run \(run.json"),
        open_run(tmp_path, "export"),
    ):
        pytest.fail("opened")
    assert left(tmp_path) == set()


def test_an_export_renews_the_report_and_sweeps_what_was_never_finished(
    study, tmp_path: Path
) -> None:
    film = next(row.path for row in read_manifest(study.manifest) if row.split == "test")
    out = tmp_path / "run"
    run = screen_run([film], study.model, out, ScreenOptions(("report",)), device=CPU)
    (out / "patches" / ".patchad-0123456789abcdef.parquet").touch()
    (out / "report.html").write_text("stale")
    export(out, ["overlay"])
    assert run.overlay_path(run.rows[0].id).is_file()
    assert "Research use only" in (out / "report.html").read_text()
    assert not list((out / "patches").glob(".*"))


def test_a_new_evaluation_leaves_no_table_of_the_old_one(
    study, films, truth, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    screen_run(films, study.model, out, ScreenOptions(("report",)), device=CPU)
    evaluation = out / "evaluation"
    evaluation.mkdir()
    for name in ("by_kind.csv", "froc.png", "notes.txt"):
        (evaluation / name).write_text("stale")
    evaluate(out, truth, None, None, resamples=20, device=CPU)
    assert (evaluation / "notes.txt").read_text() == "stale"  # the user's
    for path in evaluation.iterdir():
        assert path.name == "notes.txt" or path.read_bytes() != b"stale"


def test_what_patchad_wrote_is_no_input(study, tmp_path: Path, caplog) -> None:
    film = next(row.path for row in read_manifest(study.manifest) if row.split == "test")
    films = tmp_path / "films"
    films.mkdir()
    (films / "film.dcm").write_bytes(film.read_bytes())
    out = films / "screening"  # where `patchad screen .` puts it
    options = ScreenOptions(("overlay", "heatmap"))
    first = screen_run([films], study.model, out, options, device=CPU)
    assert list((out / "overlays").iterdir())
    with caplog.at_level("INFO"):
        assert [row.path.name for row in find_images([films])] == ["film.dcm"]
    assert "screening: a run folder, which patchad wrote" in caplog.text
    again = screen_run([films], study.model, out, options, device=CPU, resume=True)
    assert [asdict(row) for row in again.rows] == [asdict(row) for row in first.rows]
    with pytest.raises(RequestError, match="is a run folder, which patchad wrote"):
        find_images([out])
    (out / MARKER).write_text("damaged")  # so nobody can tell: better a row too many
    assert len(find_images([films])) == 3


def test_a_model_folder_tells_no_path_and_no_patient(study) -> None:
    text = (study.model / MARKER).read_text()
    rows = read_manifest(study.manifest)
    assert not any(row.patient_id in text or row.path.name in text for row in rows)
    assert str(study.folder) not in text
    found = read_marker(study.model).found["images"]
    assert len(found) == 12
    assert {facts["use"] for _, facts in found} == {"train"}
    assert os.path.realpath(study.model) == read_marker(study.model).path
