"""UIDs of objects: the same for the same request on the same pixels, others for anything else."""

import dataclasses
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch
from dicom_builders import CARD, KINDS, LESIONS, film, no_picture, screened, write

from patchad.commands.export import export
from patchad.commands.screen import screen_run
from patchad.core.image import PatchScores, Screening
from patchad.core.turn import MIRRORED
from patchad.engine.screener import ScreenOptions
from patchad.export.dicom.ko import Selection, key_objects
from patchad.export.dicom.object import Finding, Maker, finding
from patchad.export.dicom.sr import KIND as SR
from patchad.export.dicom.taken import take_over
from patchad.export.write import write_image_kinds, write_run_kinds
from patchad.model.card import ModelCard, card_as_dict
from patchad.read.manifest import read_manifest
from patchad.store.run import done_row, write_run


@pytest.fixture(scope="module")
def breast(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return film(tmp_path_factory.mktemp("breast") / "film.dcm", "R-MLO")


@pytest.fixture(scope="module")
def screening(breast: Path) -> Screening:
    return screened(breast, LESIONS)[1]


def found(screening: Screening, card: ModelCard = CARD, **how: bool) -> Finding:
    made = finding(screening, card, no_picture, **how)
    assert made is not None
    return made


def test_they_are_kept_from_run_to_run(breast: Path, tmp_path: Path) -> None:
    first, again = (write(tmp_path / name, breast) for name in ("first", "again"))
    for kind in KINDS:
        assert first[kind].SOPInstanceUID == again[kind].SOPInstanceUID
        assert first[kind].SeriesInstanceUID == again[kind].SeriesInstanceUID
        assert first[kind].SOPInstanceUID.startswith("2.25.")


def sourced(screening: Screening, **changes: object) -> Screening:
    source = dataclasses.replace(screening.source, **changes)
    return dataclasses.replace(screening, source=source)


def on_grid(screening: Screening, **changes: object) -> Screening:
    grid = dataclasses.replace(screening.scores.grid, **changes)
    values = np.zeros(len(grid), np.float32)
    return dataclasses.replace(screening, scores=PatchScores(grid, values, values))


def another_spacing(screening: Screening) -> Screening:
    heatmap = dataclasses.replace(screening.heatmap, spacing_mm=(0.3, 0.3))
    return dataclasses.replace(screening, heatmap=heatmap)


CHANGES = {
    "the pixels": lambda s: sourced(s, digest="0" * 64),
    "--voi": lambda s: sourced(s, voi="full"),
    "the side, from a manifest": lambda s: sourced(s, laterality="L"),
    "the view, from a manifest": lambda s: sourced(s, view="CC"),
    "--stride": lambda s: on_grid(s, stride=8),
    "the model's side": lambda s: on_grid(s, turn=MIRRORED),
    "the prepared size": lambda s: on_grid(s, shape=(96, 80)),
    "--spacing-mm": another_spacing,
    "--two-breasts: the score": lambda s: dataclasses.replace(s, score=s.score - 0.5),
    "--two-breasts: the flag": lambda s: dataclasses.replace(s, flagged=not s.flagged),
    "the percentile": lambda s: dataclasses.replace(s, percentile=74.0),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_a_result_changes_them(screening: Screening, change: str) -> None:
    other = CHANGES[change](screening)
    for kind in (*KINDS, "region"):
        assert found(other).uid(kind) != found(screening).uid(kind)


def test_a_score_that_differs_by_rounding_alone_is_the_same(screening: Screening) -> None:
    other = dataclasses.replace(screening, score=screening.score * (1 + 1e-7))
    assert found(other).uid("sr") == found(screening).uid("sr")


def test_another_threshold_another_model_another_version(screening: Screening, monkeypatch) -> None:
    before, series = (
        found(screening).uid("sr"),
        Maker(CARD).identity(SR)["series_instance_uid"],
    )
    stricter = dataclasses.replace(CARD.calibrated, image_threshold=1.75)
    for card in (
        dataclasses.replace(CARD, calibration=stricter),
        dataclasses.replace(CARD, weights_sha256="ef" * 32),
    ):
        assert found(screening, card).uid("sr") != before
    without = found(screening, deidentify=True)
    assert without.uid("sr") != before
    monkeypatch.setattr("patchad.export.dicom.object.__version__", "0.0.0")
    assert found(screening).uid("sr") != before
    # what a series says of its equipment is true of all that is in it
    assert Maker(CARD).identity(SR)["series_instance_uid"] != series


def test_those_of_a_selection_are_of_the_images_in_it(breast: Path) -> None:
    headers = [take_over(pydicom.dcmread(breast)).header for _ in range(2)]
    headers[1].SOPInstanceUID = "1.2.3"
    maker = Maker(CARD)
    both, again, one = (
        key_objects(Selection(chosen, maker)) for chosen in (headers, headers[::-1], headers[:1])
    )
    assert both.SOPInstanceUID == again.SOPInstanceUID
    assert both.SOPInstanceUID != one.SOPInstanceUID
    assert both.SeriesInstanceUID == one.SeriesInstanceUID


def test_export_gives_the_same_as_screen(study, tmp_path: Path) -> None:
    path = next(row.path for row in read_manifest(study.manifest) if row.split == "test")
    options = ScreenOptions(kinds=("sr", "gsps"), voi="full", stride=8)
    run = tmp_path / "run"
    screen_run([path], study.model, run, options, device=torch.device("cpu"))
    objects = sorted(run.glob("dicom/*/*.dcm"))
    assert len(objects) == 2
    before = [pydicom.dcmread(path).SOPInstanceUID for path in objects]
    for path in objects:
        path.unlink()
    assert export(run, ("sr", "gsps")).failed == ()
    assert [pydicom.dcmread(path).SOPInstanceUID for path in objects] == before


@pytest.mark.parametrize("hostile", ["../../../X", "/abs/X", "..", "NUL", "1" * 65, "1.2\0/../x"])
def test_a_study_uid_that_is_a_path_names_no_folder(
    breast: Path, tmp_path: Path, hostile: str
) -> None:
    data = pydicom.dcmread(breast)
    data.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
    data.add_new(pydicom.tag.Tag("StudyInstanceUID"), "UT", hostile)
    film = tmp_path / "deep" / "down" / "film.dcm"
    film.parent.mkdir(parents=True)
    data.save_as(film)
    radiograph, screening = screened(film, LESIONS)
    assert radiograph.source.study_instance_uid == ""
    run = tmp_path / "deep" / "down" / "run"
    told = write_image_kinds(run, "a", screening, radiograph, CARD, ("gsps",))
    assert told.no_objects == "no DICOM objects: it lacks a valid Study Instance UID"
    write_run(run, {"card": card_as_dict(CARD)}, [done_row("a", screening, radiograph, 0.0)])
    ((path, reason),) = write_run_kinds(run, ("ko",))
    assert path == str(film)
    assert reason == "not among the key objects: it lacks a valid Study Instance UID"
    written = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert written == {film, run / "run.json", run / "images.csv"}
    assert not Path("/abs/X").exists()
