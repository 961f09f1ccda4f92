from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from patchad.commands.other_breast import (
    Side,
    calibrate_two_breasts,
    less_other_side,
    other_sides,
    with_two_breasts,
)
from patchad.commands.screen import screen_run
from patchad.commands.train import train
from patchad.engine.screener import ScreenOptions
from patchad.errors import RequestError
from patchad.methods import load
from patchad.methods.configure import read_config
from patchad.model.calibration import TwoBreasts
from patchad.read.manifest import read_manifest

CPU = torch.device("cpu")


def test_sides_are_of_one_patient_study_and_view() -> None:
    sides = [
        Side("a", "1", "MLO", "L"),
        Side("a", "1", "MLO", "R"),  # the other breast of the first
        Side("a", "1", "CC", "L"),  # alone in its view
        Side("b", "", "MLO", ""),
        Side("b", "", "MLO", ""),  # the other of the fourth: nobody said which is which
        Side("c", "1", "MLO", "L"),
        Side("c", "1", "MLO", "L"),  # twice the same breast
        Side("", "1", "MLO", "L"),
        Side("", "1", "MLO", "R"),  # nobody said whose
    ]
    assert other_sides(sides) == [1, 0, None, 4, 3, None, None, None, None]


def test_half_of_the_other_side_is_taken_off() -> None:
    assert less_other_side([6.0, 2.0, 5.0], [1, 0, None], 3.0) == [5.0, -1.0, 3.5]


def test_the_threshold_is_counted_by_patient() -> None:
    # a has both breasts, c and d one: half of the median, 3.5, is taken off theirs
    sides = [Side("a", "1", "MLO", x) for x in "LR"] + [Side(x, "1", "MLO", "L") for x in "cd"]
    scores, patients = [6.0, 2.0, 5.0, 1.0], ["a", "a", "c", "d"]
    found = calibrate_two_breasts(scores, sides, patients, 0.05)
    assert found == TwoBreasts(3.5, (-0.75, 3.25, 5.0), 5.0)
    assert calibrate_two_breasts(scores, sides, patients, 0.5).image_threshold == 3.25
    assert calibrate_two_breasts(scores[2:], sides[2:], patients[2:], 0.5) is None


@pytest.fixture(scope="module")
def paired(study, tmp_path_factory) -> tuple[Path, Path]:
    """A manifest of patients with both breasts, and a model trained on its negatives."""
    folder = tmp_path_factory.mktemp("pairs")
    rows = read_manifest(study.manifest)
    both = [p for p in {r.patient_id for r in rows}
            if {r.laterality for r in rows if r.patient_id == p} == {"L", "R"}]  # fmt: skip
    table = pd.DataFrame(
        [
            (r.path, r.patient_id, r.label, r.split, r.laterality, r.view)
            for r in rows
            if r.patient_id in both
        ],
        columns=["path", "patient_id", "label", "split", "laterality", "view"],
    )
    table.to_csv(folder / "manifest.csv", index=False)
    config = folder / "alone.toml"
    config.write_text('method = "fused"\n[fused.members.convergence]\nweight = 1.0\n')
    overrides = ["patch_size=32", "stride=16", "preprocessing.spacing_mm=0.8", "split.held_out=0.5"]
    train(
        folder / "manifest.csv", folder / "model", read_config(str(config), overrides), device=CPU
    )
    return folder / "manifest.csv", folder / "model"


def test_a_run_takes_it_off_and_says_so(paired, tmp_path: Path) -> None:
    manifest, model = paired
    options = ScreenOptions(kinds=("overlay", "sr", "report"))
    plain = screen_run([manifest], model, tmp_path / "plain", options, device=CPU)
    two = replace(options, two_breasts=True)
    run = screen_run([manifest], model, tmp_path / "two", two, device=CPU)
    before = {row.path: row for row in plain.rows}
    entries = {str(row.path): row for row in read_manifest(manifest)}
    for row in run.rows:
        own = before[row.path].score
        (other,) = (
            r.score
            for path, r in before.items()
            if path != row.path and entries[path].patient_id == entries[row.path].patient_id
        )
        assert row.score == pytest.approx(own - 0.5 * other)
        assert "less 0.5 × that of the other breast" in row.reason
        assert row.flagged == (row.score > run.settings["card"]["calibration"]["image_threshold"])
        assert row.reason.startswith("flagged") == row.flagged
        assert run.overlay_path(row.id).exists()
        assert (tmp_path / "two" / "dicom" / row.id / "sr.dcm").exists()
    card = load(model, CPU).card
    assert run.settings["card"]["digest"] == plain.settings["card"]["digest"]
    threshold = card.calibrated.two_breasts.image_threshold
    assert run.settings["card"]["calibration"]["image_threshold"] == threshold
    # The score less the other breast's is no mark's.
    assert plain.settings["card"]["calibration"]["marks"]["decides"]
    assert not run.settings["card"]["calibration"]["marks"]["decides"]
    assert "its score has a scale of its own" in (run.folder / "report.html").read_text()
    assert (run.folder / "marks.csv").is_file()


def test_a_model_without_pairs_cannot(paired) -> None:
    _, model = paired
    card = load(model, CPU).card
    alone = replace(card, calibration=replace(card.calibrated, two_breasts=None))
    with pytest.raises(RequestError, match="both breasts"):
        with_two_breasts(alone)
