import json
import os
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
import tifffile
import torch
from PIL import Image

from patchad.commands.export import export
from patchad.commands.screen import screen_run
from patchad.core.image import Source
from patchad.core.turn import QUARTERS, Turn
from patchad.engine.screener import ScreenOptions
from patchad.errors import ModelError, OutputError, RequestError
from patchad.export import DEFAULT_KINDS
from patchad.export.stored_marks import stored_marks
from patchad.methods import load
from patchad.model.card import card_from_dict
from patchad.model.folder import read_card, save
from patchad.prepare.orientation import turned
from patchad.prepare.workers import Limits
from patchad.read.manifest import read_manifest
from patchad.read.read import read_radiograph
from patchad.store.marks_table import read_marks, run_in_words, write_marks
from patchad.store.run import ImageRow, read_run, stored_scores

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def films(study) -> list[Path]:
    return [row.path for row in read_manifest(study.manifest) if row.split == "test"][:3]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory, films: list[Path]) -> Path:
    """A folder of a DICOM film, the same as PNG, and every sort of broken file."""
    folder = tmp_path_factory.mktemp("mixed")
    whole = films[0].read_bytes()
    (folder / "good.dcm").write_bytes(whole)
    (folder / "truncated.dcm").write_bytes(whole[: len(whole) // 2])
    (folder / "notes.dcm").write_text("not an image at all")
    (folder / "empty.png").write_bytes(b"")
    Image.new("RGB", (64, 64), (255, 0, 0)).save(folder / "colour.png")
    Image.new("I;16", (64, 64), 0).save(folder / "air.png")
    nan = np.full((64, 64), np.nan, np.float32)
    tifffile.imwrite(folder / "nan.tif", nan)
    tifffile.imwrite(folder / "pages.tif", np.zeros((5, 64, 64), np.uint16))
    (folder / "readme.txt").write_text("left out: obviously no image")
    return folder


@pytest.fixture(scope="module")
def run(study, mixed: Path, tmp_path_factory: pytest.TempPathFactory):
    out = tmp_path_factory.mktemp("runs") / "mixed"
    return screen_run([mixed], study.model, out, ScreenOptions(DEFAULT_KINDS), device=CPU)


def test_every_file_has_its_row_and_reason(run) -> None:
    rows = {Path(row.path).name: row for row in run.rows}
    assert {name: row.status for name, row in rows.items()} == {
        "good.dcm": "ok",
        "truncated.dcm": "failed",
        "notes.dcm": "failed",
        "empty.png": "failed",
        "colour.png": "skipped",
        "air.png": "failed",
        "nan.tif": "failed",
        "pages.tif": "skipped",
    }
    assert run.settings["counts"] == {"ok": 1, "failed": 5, "skipped": 2}
    for name, said in {
        "truncated.dcm": "fetch",
        "notes.dcm": "not an image patchad reads",
        "empty.png": "empty",
        "colour.png": "colour",
        "air.png": "every pixel is 0",
        "nan.tif": "NaN",
    }.items():
        assert said in rows[name].reason, rows[name].reason
        assert rows[name].score is None
        assert "Traceback" not in rows[name].reason


def test_the_files_of_the_contract(run, study) -> None:
    (row,) = [row for row in run.rows if row.status == "ok"]
    settings = json.loads((run.folder / "run.json").read_text())
    assert settings["model"] == json.loads((study.model / "card.json").read_text())["digest"]
    assert settings["card"]["calibration"]["patch_threshold"] > 0
    assert set(settings["seconds"]) == {"read", "score", "write"}
    table = pd.read_csv(run.folder / "images.csv")
    assert list(table.columns) == [field.name for field in fields(ImageRow)]
    patches = pd.read_parquet(run.patches_path(row.id))
    scored = patches["score"].notna()
    assert scored.sum() == row.n_patches
    assert (patches.loc[scored, "foreground"] >= 0.5).all()
    assert patches.loc[scored, "percentile"].between(0, 100).all()
    assert (patches["x"] == patches["col"]).all()
    assert (patches["height"] == 32).all()
    with tifffile.TiffFile(run.heatmap_path(row.id)) as heatmap:
        values = heatmap.asarray()
    assert (values.dtype, values.shape) == (np.float32, (256, 208))
    assert np.isnan(values).any()
    assert np.isfinite(values).any()
    with Image.open(run.overlay_path(row.id)) as overlay:
        assert overlay.size[1] >= 256
    assert "Research use only" in (run.folder / "report.html").read_text()


def test_scores_stored_are_scores_read(run) -> None:
    (row,) = [row for row in run.rows if row.status == "ok"]
    scores = stored_scores(run, row)
    assert row.score == float(np.nanmax(scores.values))
    assert row.spacing_mm == pytest.approx((0.8, 0.8))


def test_export_gives_the_same_pictures_again(run) -> None:
    (row,) = [row for row in run.rows if row.status == "ok"]
    paths = [run.heatmap_path(row.id), run.overlay_path(row.id)]
    before = [path.read_bytes() for path in paths]
    for path in paths:
        path.unlink()
    exported = export(run.folder, ["heatmap", "overlay"])
    assert (exported.written, exported.failed) == (1, ())
    assert [path.read_bytes() for path in paths] == before


@pytest.fixture(scope="module")
def marked(study, films, tmp_path_factory: pytest.TempPathFactory):
    """A run of two films by a model that marks a tenth of negative patches."""
    folder = tmp_path_factory.mktemp("marked")
    detector = load(study.model, CPU)
    calibration = detector.card.calibrated
    drawn = replace(calibration.marks, threshold=calibration.display_range[0])
    save(detector, folder / "model", replace(calibration, marks=drawn))
    return screen_run(films[:2], folder / "model", folder / "run", ScreenOptions(()), device=CPU)


def test_marks_are_stored_and_found_again(marked) -> None:
    calibration = card_from_dict(marked.settings["card"], "card").calibrated
    again = {row.id: stored_marks(marked, row, calibration) for row in marked.rows}
    found = read_marks(marked.folder)
    assert len(found) >= 2
    kept = (marked.folder / "marks.csv").read_bytes()
    write_marks(marked.folder, again)
    assert (marked.folder / "marks.csv").read_bytes() == kept
    assert export(marked.folder, ["geojson"]).failed == ()
    assert (marked.folder / "marks.csv").read_bytes() == kept
    for name, rows in found.groupby("image_id"):
        content = json.loads((marked.folder / "geojson" / f"{name}.geojson").read_text())
        told = [feature["properties"] for feature in content["features"]]
        assert [one["score"] for one in told] == rows["score"].tolist()
        assert [one["rarity"] for one in told] == rows["rarity"].tolist()


def test_a_run_in_words(marked) -> None:
    found = read_marks(marked.folder)
    assert run_in_words(marked) == (
        f"{len(found)} marks on {found['image_id'].nunique()} of 2 images, a normal film has 1; "
        "its strongest mark decides whether an image is flagged"
    )


def test_a_flagged_image_has_a_mark(study, films, tmp_path: Path) -> None:
    detector = load(study.model, CPU)
    calibration = detector.card.calibrated
    # An image threshold below that of marks: as where many marks lie on few negatives.
    drawn = replace(calibration.marks, threshold=1.0)
    low = replace(calibration, marks=drawn, image_threshold=0.0)
    save(detector, tmp_path / "model", low)
    run = screen_run(films, tmp_path / "model", tmp_path / "run", ScreenOptions(()), device=CPU)
    found = read_marks(run.folder)
    assert all(row.flagged for row in run.rows)
    strongest = found[found["number"] == 1].set_index("image_id")["score"]
    for row in run.rows:
        assert strongest[row.id] == row.score


def test_an_uncalibrated_stride_has_no_rarity(study, films, tmp_path: Path) -> None:
    drawn = replace(load(study.model, CPU).card.calibrated.marks, threshold=0.0)
    detector = load(study.model, CPU)
    save(detector, tmp_path / "model", replace(detector.card.calibrated, marks=drawn))
    options = ScreenOptions(("overlay",), stride=32)
    run = screen_run(films[:1], tmp_path / "model", tmp_path / "run", options, device=CPU)
    found = read_marks(run.folder)
    assert len(found)
    assert found["score"].notna().all()
    assert found[["rarity", "rarity_upper"]].isna().all(axis=None)
    assert "the rarity of marks are not calibrated" in run.rows[0].reason


def test_export_refuses_an_image_that_changed(study, films, tmp_path: Path) -> None:
    film = tmp_path / "film.dcm"
    film.write_bytes(films[0].read_bytes())
    run = screen_run([film], study.model, tmp_path / "run", ScreenOptions(()), device=CPU)
    film.write_bytes(films[1].read_bytes())
    exported = export(run.folder, ["overlay"])
    assert exported.written == 0
    assert "not the image that was screened" in exported.failed[0][1]


def test_a_killed_run_goes_on(study, films, tmp_path: Path) -> None:
    def kill(stage: str, done: int, total: int, value: float) -> None:
        if done == 2:
            raise KeyboardInterrupt

    out, options = tmp_path / "run", ScreenOptions(("heatmap",))
    with pytest.raises(KeyboardInterrupt):
        screen_run(films, study.model, out, options, device=CPU, progress=kill)
    assert not (out / "images.csv").exists()
    with (out / ".rows.jsonl").open("a") as journal:
        journal.write('{"id": "cut o')  # the machine went down while it wrote
    seen: list[tuple[str, int]] = []
    resumed = screen_run(
        films,
        study.model,
        out,
        options,
        device=CPU,
        resume=True,
        progress=lambda stage, done, total, value: seen.append((stage, total)),
    )
    assert [total for stage, total in seen if stage == "screening"] == [1]  # the third was left
    whole = screen_run(films, study.model, tmp_path / "whole", options, device=CPU)
    marks = [(run.folder / "marks.csv").read_text() for run in (resumed, whole)]
    assert marks[0] == marks[1]
    for a, b in zip(resumed.rows, whole.rows, strict=True):
        assert (a.id, a.status, a.score, a.digest) == (b.id, b.status, b.score, b.digest)


def test_resume_refuses_other_settings(study, films, tmp_path: Path) -> None:
    screen_run(films[:1], study.model, tmp_path / "run", ScreenOptions(()), device=CPU)
    with pytest.raises(OutputError, match="not empty"):
        screen_run(films[:1], study.model, tmp_path / "run", ScreenOptions(()), device=CPU)
    with pytest.raises(RequestError, match=r"settings stride: 16 then, 32 now"):
        screen_run(
            films, study.model, tmp_path / "run", ScreenOptions((), 32), device=CPU, resume=True
        )


def test_a_full_disk_stops_the_run_and_leaves_nothing_half_written(
    study, films, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tifffile.TiffWriter, "write", _no_space)
    out = tmp_path / "run"
    with pytest.raises(OutputError, match=r"No space left.*--resume"):
        screen_run(films, study.model, out, ScreenOptions(("heatmap",)), device=CPU)
    monkeypatch.undo()
    assert not list(out.rglob("*.tif"))
    run = screen_run(films, study.model, out, ScreenOptions(("heatmap",)), device=CPU, resume=True)
    assert run.settings["counts"]["ok"] == 3


def _no_space(*args: object, **options: object) -> None:
    raise OSError(28, "No space left on device")


def test_requests_that_are_wrong_write_nothing(study, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(RequestError, match="does not exist"):
        screen_run([tmp_path / "no"], study.model, out, ScreenOptions(DEFAULT_KINDS), device=CPU)
    (tmp_path / "empty").mkdir()
    with pytest.raises(RequestError, match="no images"):
        screen_run([tmp_path / "empty"], study.model, out, ScreenOptions(DEFAULT_KINDS), device=CPU)
    with pytest.raises(ModelError, match="no trained model"):
        screen_run(
            [study.folder], tmp_path / "model", out, ScreenOptions(DEFAULT_KINDS), device=CPU
        )
    with pytest.raises(RequestError, match=r"1\.\.32"):
        screen_run([study.folder], study.model, out, ScreenOptions((), 33), device=CPU)
    assert not out.exists()


def test_names_that_are_no_utf8_cost_nothing(study, films, tmp_path: Path) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    try:
        (folder / os.fsdecode(b"film\xff.dcm")).write_bytes(films[0].read_bytes())
        (folder / os.fsdecode(b"bad\xff.dcm")).write_bytes(b"?")
    except OSError:
        pytest.skip("this file system takes only UTF-8")
    run = screen_run(
        [folder], study.model, tmp_path / "run", ScreenOptions(DEFAULT_KINDS), device=CPU
    )
    assert {Path(row.path).name: row.status for row in run.rows} == {
        "film\\udcff.dcm": "ok",
        "bad\\udcff.dcm": "failed",
    }


def test_a_folder_that_is_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"not a complete run \(run.json"):
        read_run(tmp_path)
    (tmp_path / "run.json").write_text('{"format": 99}')
    (tmp_path / "images.csv").write_text("id,path\n")
    with pytest.raises(RequestError, match="format 99"):
        read_run(tmp_path)


def test_unknown_is_empty_in_the_table_and_none_when_read(run) -> None:
    failed = next(row for row in run.rows if row.status == "failed")
    assert failed.flagged is None
    assert failed.rows is None
    assert failed.percentile is None
    done = next(row for row in run.rows if row.status == "ok")
    assert isinstance(done.flagged, bool)
    assert 0 <= done.percentile < 100


def test_dicom_objects_of_dicom_files_only_and_the_same_uids_again(
    study, films, tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "film.dcm").write_bytes(films[0].read_bytes())
    pixels = read_radiograph(films[0]).pixels
    Image.fromarray(np.rint(pixels * 255).astype(np.uint8)).save(folder / "film.png")
    options = ScreenOptions(("sc", "gsps", "sr"), spacing_mm=(0.8, 0.8), allow_mismatch=True)
    run = screen_run([folder], study.model, tmp_path / "run", options, device=CPU)
    assert [row.status for row in run.rows] == ["ok", "ok"]
    written = sorted((run.folder / "dicom").rglob("*.dcm"))
    assert [path.name for path in written] == ["gsps.dcm", "sc.dcm", "sr.dcm"]
    name = next(row.id for row in run.rows if row.path.endswith(".dcm"))
    assert {path.parent.name for path in written} == {name}

    before = [pydicom.dcmread(path).SOPInstanceUID for path in written]
    for path in written:
        path.unlink()
    exported = export(run.folder, ["sc", "gsps", "sr", "heatmap-seg"])
    assert (exported.written, exported.failed) == (2, ())
    assert [pydicom.dcmread(path).SOPInstanceUID for path in written] == before
    assert (written[0].parent / "heatmap-seg.dcm").exists()

    images = pd.read_csv(run.folder / "images.csv")
    images.assign(flagged=True).to_csv(run.folder / "images.csv", index=False)
    export(run.folder, ["ko"])
    study_uid = pydicom.dcmread(films[0]).StudyInstanceUID
    selection = pydicom.dcmread(run.folder / "dicom" / study_uid / "ko.dcm")
    assert len(selection.CurrentRequestedProcedureEvidenceSequence) == 1


def edited(film: Path, path: Path, **elements: object) -> Path:
    ds = pydicom.dcmread(film)
    for keyword, value in elements.items():
        setattr(ds, keyword, value)
    ds.save_as(path)
    return path


def test_raw_detector_values_are_refused_unless_the_model_knows_them(
    study, films, tmp_path: Path
) -> None:
    raw = edited(films[0], tmp_path / "raw.dcm", PresentationIntentType="FOR PROCESSING")
    run = screen_run([raw], study.model, tmp_path / "run", ScreenOptions(()), device=CPU)
    (row,) = run.rows
    assert row.status == "failed"
    assert "For Processing (raw detector values), trained on For Presentation" in row.reason
    detector = load(study.model, CPU)
    known = replace(detector.card.data, for_processing=True)
    detector = replace(detector, card=replace(detector.card, data=known))
    save(detector, tmp_path / "model")
    assert read_card(tmp_path / "model").data.for_processing
    both = [raw, films[1]]
    run = screen_run(both, tmp_path / "model", tmp_path / "two", ScreenOptions(()), device=CPU)
    assert [row.status for row in run.rows] == ["ok", "failed"]
    assert "For Presentation, trained on For Processing" in run.rows[1].reason


def test_the_choice_of_voi_and_the_cautions_are_in_the_row_and_hold_for_export(
    study, films, tmp_path: Path
) -> None:
    film = edited(
        films[0],
        tmp_path / "film.dcm",
        WindowCenter=2000,
        WindowWidth=4000,
        BreastImplantPresent="YES",
    )
    options = ScreenOptions((), allow_mismatch=True, voi="full")
    run = screen_run([film], study.model, tmp_path / "run", options, device=CPU)
    (row,) = run.rows
    assert "VOI: full was requested" in row.reading
    assert "caution: breast implant" in row.reason
    assert run.settings["limits"] == {"max_pixels": 100_000_000, "seconds": 120.0}
    assert export(run.folder, ["overlay"]).failed == ()


def test_the_depth_that_was_used_is_in_the_run_and_holds_for_export(
    study, films, tmp_path: Path
) -> None:
    film = read_radiograph(films[0])
    folder = tmp_path / "films"
    folder.mkdir()
    Image.fromarray(np.round(film.pixels * 4095).astype(np.uint16)).save(folder / "a.png")
    for bits, told in ((None, True), (12, False), (14, False)):
        options = ScreenOptions(("heatmap",), spacing_mm=film.spacing_mm, bits=bits)
        options = replace(options, allow_mismatch=True)  # at 14 bits it is dark
        run = screen_run([folder], study.model, tmp_path / str(bits), options, device=CPU)
        (row,) = run.rows
        assert row.status == "ok"
        assert ("caution: depth guessed: 12 bits" in row.reason) == told
        assert run.settings["settings"]["bits"] == bits
        assert export(run.folder, ("overlay",)).failed == ()


def test_each_frame_is_a_row_where_that_is_asked_for(study, films, tmp_path: Path) -> None:
    ds = pydicom.dcmread(films[0])
    frames = edited(films[0], tmp_path / "frames.dcm", NumberOfFrames=2, PixelData=ds.PixelData * 2)
    run = screen_run([frames], study.model, tmp_path / "one", ScreenOptions(()), device=CPU)
    assert [(row.status, row.frame) for row in run.rows] == [("skipped", None)]
    options = ScreenOptions(("heatmap",), frames="all")
    run = screen_run([frames, films[1]], study.model, tmp_path / "all", options, device=CPU)
    assert [(row.status, row.frame) for row in run.rows] == [("ok", 1), ("ok", 2), ("ok", None)]
    first, second, _ = run.rows
    assert (first.id + "x").replace("_frame1x", "_frame2") == second.id
    assert first.score == second.score
    assert first.reason == second.reason == ""
    options = ScreenOptions(("sc",), frames="all")
    run = screen_run([frames], study.model, tmp_path / "objects", options, device=CPU)
    assert {row.reason for row in run.rows} == {"no DICOM objects: it has several frames"}
    run = read_run(tmp_path / "all")
    assert export(run.folder, ["overlay"]).failed == ()


def test_more_pixels_than_asked_for_cost_a_row(study, films, tmp_path: Path) -> None:
    limits = Limits(max_pixels=1000)
    run = screen_run(
        films[:1], study.model, tmp_path / "run", ScreenOptions(()), device=CPU, limits=limits
    )
    assert "more than the 1,000 that are read" in run.rows[0].reason


def test_a_run_may_be_deidentified_and_so_may_what_is_exported(
    study, films, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    with pytest.raises(RequestError, match="--invent-geometry"):
        screen_run(films[:1], study.model, out, ScreenOptions(("pm",)), device=CPU)
    assert not out.exists()
    options = ScreenOptions(("sr", "pm"), deidentify=True, invent_geometry=True)
    run = screen_run(films[:1], study.model, out, options, device=CPU)
    assert run.settings["settings"]["deidentify"] is True
    (objects,) = (out / "dicom").iterdir()
    first = [pydicom.dcmread(objects / f"{kind}.dcm") for kind in ("sr", "pm")]
    export(out, ["sr", "pm"], deidentify=True, invent_geometry=True)
    again = [pydicom.dcmread(objects / f"{kind}.dcm") for kind in ("sr", "pm")]
    for made in (*first, *again):
        assert (made.PatientIdentityRemoved, made.PatientID) == ("YES", "")
    assert [made.SOPInstanceUID for made in first] == [made.SOPInstanceUID for made in again]
    export(out, ["sr"])
    assert pydicom.dcmread(objects / "sr.dcm").PatientID == pydicom.dcmread(films[0]).PatientID


def test_what_was_mirrored_for_the_model_is_stored_and_exported_as_the_film_lies(
    study, films, tmp_path: Path
) -> None:
    detector = load(study.model, CPU)
    preprocessing = replace(detector.card.preprocessing, canonical_side=True)
    card = replace(detector.card, preprocessing=preprocessing)
    save(replace(detector, card=card), tmp_path / "model")
    assert read_card(tmp_path / "model").preprocessing.canonical_side
    ds = pydicom.dcmread(films[0])
    assert ds.PatientOrientation[0].startswith("P")  # a right breast
    turned = edited(
        films[0],
        tmp_path / "turned.dcm",
        PixelData=np.ascontiguousarray(ds.pixel_array[:, ::-1]).tobytes(),
        PatientOrientation=["A", *ds.PatientOrientation[1:]],
        SOPInstanceUID=ds.SOPInstanceUID + ".1",
    )
    run = screen_run(
        [turned, films[0]],
        tmp_path / "model",
        tmp_path / "run",
        ScreenOptions(("heatmap", "overlay", "report")),
        device=CPU,
    )
    one, other = run.rows
    assert (one.status, other.status) == ("ok", "ok")
    assert one.score == other.score
    assert "mirrored for the model" not in one.reading
    assert "mirrored for the model" in other.reading
    tables = [run.patches(row.id) for row in run.rows]
    mirror_x = 208 - tables[0]["x"] - tables[0]["width"]
    keys = [tables[0].assign(x=mirror_x), tables[1]]
    same = [table.sort_values(["y", "x"])[["y", "x", "score"]].to_numpy() for table in keys]
    np.testing.assert_array_equal(*same)
    assert stored_scores(run, other).values.tolist() == pytest.approx(
        tables[1]["score"].tolist(), nan_ok=True
    )
    paths = [run.heatmap_path(other.id), run.overlay_path(other.id)]
    maps = [tifffile.imread(run.heatmap_path(row.id)) for row in run.rows]
    np.testing.assert_array_equal(maps[1], maps[0][:, ::-1])
    before = [path.read_bytes() for path in paths]
    for path in paths:
        path.unlink()
    assert export(run.folder, ["heatmap", "overlay", "report"]).failed == ()
    assert [path.read_bytes() for path in paths] == before


@pytest.mark.parametrize("turn", QUARTERS[1:], ids=lambda turn: turn.name)
@pytest.mark.parametrize("spacing_mm", [None, 1.0])
def test_what_was_turned_for_the_model_is_stored_and_exported_as_the_film_lies(
    study, films, tmp_path: Path, turn: Turn, spacing_mm
) -> None:
    detector = load(study.model, CPU)
    preprocessing = replace(detector.card.preprocessing, spacing_mm=spacing_mm)
    save(
        replace(detector, card=replace(detector.card, preprocessing=preprocessing)), tmp_path / "m"
    )
    ds = pydicom.dcmread(films[0])
    said = turned(Source("", "", directions=tuple(ds.PatientOrientation)), turn)
    lying = turn.picture(ds.pixel_array)
    film = edited(
        films[0],
        tmp_path / "turned.dcm",
        PixelData=lying.tobytes(),
        Rows=lying.shape[0],
        Columns=lying.shape[1],
        PatientOrientation=[*said.directions],
        SOPInstanceUID=ds.SOPInstanceUID + ".1",
    )
    options = ScreenOptions(("heatmap", "overlay", "sc", "sr", "seg"))
    run = screen_run([films[0], film], tmp_path / "m", tmp_path / "run", options, device=CPU)
    one, other = run.rows
    assert (one.status, other.status) == ("ok", "ok"), other.reason
    assert (one.turned, other.turned) == ("", turn.inverse.name)
    assert f"{turn.inverse.name} for the model" in other.reading
    assert one.score == other.score
    maps = [tifffile.imread(run.heatmap_path(row.id)) for row in run.rows]
    np.testing.assert_array_equal(maps[1], turn.picture(maps[0]))
    tables = [run.patches(row.id) for row in run.rows]
    boxes = [table[["y", "x", "height", "width"]].to_numpy() for table in tables]
    expected = turn.boxes(boxes[0], (one.rows, one.columns))
    keys = [
        np.column_stack([box.round(6), table["score"], table["patch_mean"]])
        for box, table in zip((expected, boxes[1]), tables, strict=True)
    ]
    first, second = (key[np.lexsort(key.T[::-1])] for key in keys)
    np.testing.assert_array_equal(first, second)
    scores = stored_scores(run, other)
    np.testing.assert_array_equal(scores.values, tables[1]["score"].to_numpy(np.float32))
    assert scores.grid.turn == turn
    paths = [run.heatmap_path(other.id), run.overlay_path(other.id)]
    before = [path.read_bytes() for path in paths]
    for path in paths:
        path.unlink()
    assert export(run.folder, ["heatmap", "overlay"]).failed == ()
    assert [path.read_bytes() for path in paths] == before


def test_a_turn_that_nobody_knows_is_named(run) -> None:
    (row,) = [row for row in run.rows if row.status == "ok"]
    with pytest.raises(RequestError, match=r"column turned of .*'askew' is no turn"):
        stored_scores(run, replace(row, turned="askew"))


def test_assumed_spacings_are_counted_and_told_once(
    study, films, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    detector = load(study.model, CPU)
    preprocessing = replace(detector.card.preprocessing, spacing_mm=0.8, assumed_side_mm=204.8)
    save(
        replace(detector, card=replace(detector.card, preprocessing=preprocessing)), tmp_path / "m"
    )
    bare = [tmp_path / f"{n}.png" for n in range(2)]
    for film, path in zip(films, bare, strict=False):
        grey = np.rint(read_radiograph(film).pixels * 65535).astype(np.uint16)
        Image.fromarray(grey).save(path)
    tiny = tmp_path / "tiny.png"
    Image.fromarray(grey[::16, ::16]).save(tiny)
    inputs = [*bare, films[2], tiny]
    run = screen_run(inputs, tmp_path / "m", tmp_path / "run", ScreenOptions(()), device=CPU)
    assert [row.status for row in run.rows] == ["ok", "ok", "ok", "failed"], run.rows
    assert [row.assumed_row_mm for row in run.rows] == [0.8, 0.8, None, None]
    assert run.settings["assumed_spacing"] == {
        "images": 2,
        "side_mm": 204.8,
        "pixel_mm": [0.8, 0.8],
    }
    (told,) = [message for message in caplog.messages if "no pixel spacing" in message]
    assert told.startswith(
        "2 of 4 images have no pixel spacing: their longer side was assumed to be "
    )
    assert "an image of 16 × 13 pixels without pixel spacing" in run.rows[3].reason
    assert "at least 200" in run.rows[3].reason
