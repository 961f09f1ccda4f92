"""Fusions and whole-image detectors, through train, screen and export."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import fitted, prepared, run_with, setting_with, state, training_set
from torch import nn

from patchad.commands.export import export
from patchad.commands.screen import screen_run
from patchad.commands.train import train
from patchad.core.grid import PatchGrid
from patchad.engine.marks import marks
from patchad.engine.screener import Screener, ScreenOptions, screen
from patchad.errors import ModelError, RequestError, TrainingError
from patchad.methods import load, method_of
from patchad.methods.configure import read_config
from patchad.methods.fused import Config, Fused, Member
from patchad.model.folder import save, write_model
from patchad.model.scoring import Response
from patchad.prepare.film import Film, tissue
from patchad.prepare.preprocess import prepare
from patchad.read.read import read_radiograph

CPU = torch.device("cpu")
OVERRIDES = ["patch_size=32", "stride=16", "preprocessing.spacing_mm=0.8", "split.held_out=0.4"]


@pytest.fixture(scope="module")
def model(study, tmp_path_factory) -> Path:
    """Convergence alone, as a fusion, on the phantoms."""
    folder = tmp_path_factory.mktemp("fused")
    config = folder / "alone.toml"
    config.write_text('method = "fused"\n[calibration]\npooling = "max"\n'
                      "[fused.members.convergence]\nweight = 2.0\n")  # fmt: skip
    train(study.manifest, folder / "model", read_config(str(config), OVERRIDES), device=CPU)
    return folder / "model"


@pytest.fixture(scope="module")
def run(study, model: Path, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("run") / "run"
    options = ScreenOptions(kinds=("overlay", "sr", "gsps", "seg", "report"))
    screen_run([study.folder], model, out, options, device=CPU)
    return out


class Planted(nn.Module):
    """Gives its map and its patch scores; a stand-in for a member."""

    unit, pooling = "none", "none"

    def __init__(self, values: torch.Tensor, patches: torch.Tensor) -> None:
        super().__init__()
        self.values, self.patches = values, patches

    def forward(self, film: Film, grid: PatchGrid) -> Response:
        return Response(self.values, self.patches)


def fusion(config: Config, *members: Planted) -> Fused:
    """A fusion of stand-ins, whose methods are of the image kind."""
    module = Fused(config, setting_with(min_foreground=0.1))
    module.members = nn.ModuleList(members)
    return module


def film_with(spacing_mm: tuple[float, float] | None) -> Film:
    image = prepared(np.zeros((64, 64), np.float32), spacing_mm=spacing_mm)
    return Film.of(image, CPU, [tissue] if spacing_mm else [])


def test_an_affine_change_of_a_member_changes_nothing() -> None:
    generator, grid = torch.Generator().manual_seed(0), PatchGrid((64, 64), 32, 16)
    planes = torch.randn(2, 64, 64, generator=generator)
    pools = torch.randn(2, len(grid), generator=generator)
    config = Config(
        {"one": Member("convergence"), "other": Member("convergence", 0.5)}, film_offset=False
    )

    def answer(scale: float, shift: float) -> Response:
        first = Planted(scale * planes[0] + shift, scale * pools[0] + shift)
        second = Planted(planes[1], pools[1])
        module = fusion(config, first, second)
        module.patches.learn(torch.stack([first.patches, second.patches], -1).numpy())
        maps = torch.stack([first.values.flatten(), second.values.flatten()], -1)
        module.maps.learn(maps.numpy())
        response: Response = module(film_with((1.0, 1.0)), grid)
        return response

    plain, changed = answer(1, 0), answer(40, -7)
    torch.testing.assert_close(plain.patches, changed.patches, atol=1e-4, rtol=0)
    torch.testing.assert_close(plain.map, changed.map, atol=1e-4, rtol=0)
    # by hand: (value − median) / deviation, weighted 1 and ½
    z = [(p - np.median(p)) / p.std() for p in pools.numpy()]
    np.testing.assert_allclose(plain.patches.numpy(), z[0] + 0.5 * z[1], atol=1e-5)


def test_the_film_s_offset_is_taken_off_all_scores() -> None:
    grid = PatchGrid((64, 64), 32, 16)
    ones = Planted(torch.ones(64, 64), torch.ones(len(grid)))
    module = fusion(Config({"one": Member("convergence")}), ones)
    module.slopes[-1] = 0.25  # of the member's median patch score, which is 1
    response = module(film_with((1.0, 1.0)), grid)
    torch.testing.assert_close(response.patches, torch.full((len(grid),), 0.75))
    torch.testing.assert_close(response.map, torch.full((64, 64), 0.75))


def test_what_was_saved_scores_alike(study, model: Path, tmp_path: Path) -> None:
    detector = load(model, CPU)
    save(detector, tmp_path / "again")
    film = read_radiograph(sorted(study.folder.rglob("*.dcm"))[0])
    image = prepare(film, detector.card.preprocessing)
    again = load(tmp_path / "again", CPU)
    first, second = (Screener(one).score(image) for one in (detector, again))
    np.testing.assert_array_equal(first.scores.values, second.scores.values)
    np.testing.assert_array_equal(first.map, second.map)
    assert np.isnan(first.map[~image.tissue]).all()
    assert "maximum in the patch" in detector.card.patch_pooling


def test_the_image_score_is_the_highest_patch(study, model: Path) -> None:
    film = sorted(study.folder.rglob("*.dcm"))[0]
    result = screen(film, load(model, CPU), ScreenOptions())
    assert result.score == pytest.approx(np.nanmax(result.scores.values))


def test_marks_outline_the_map_around_its_peak(study, model: Path) -> None:
    detector = load(model, CPU)
    calibration = detector.card.calibrated
    assert calibration.marks.dense
    low = calibration.display_range[0]
    sharp = 0
    for path in sorted(study.folder.rglob("*.dcm")):
        result = screen(path, detector, ScreenOptions())
        covered = np.zeros(result.heatmap.values.shape, int)
        for mark in marks(result, calibration):
            x, y, width, height = mark.box
            values = result.heatmap.values[y : y + height, x : x + width]
            covered[y : y + height, x : x + width] += mark.mask
            assert mark.area_mm2 == pytest.approx(mark.mask.sum() * 0.8 * 0.8, rel=1e-3)
            assert mark.score > calibration.marks.threshold
            peak = np.nanmax(values[mark.mask])
            if peak > low and not mark.mask.all():
                sharp += 1
                half = low + (peak - low) / 2
                assert np.mean(values[mark.mask] >= half - 1e-5) > 0.9  # all but holes
        assert covered.max() <= 1  # no place in two marks
    assert sharp


def test_held_out_films_have_one_mark_on_average(model: Path) -> None:
    how = load(model, CPU).card.calibrated.marks
    assert (how.decides, how.per_film, how.rarity.films) == (True, 1.0, 4)


def test_exports_are_made_again_from_the_stored_map(study, run: Path) -> None:
    name = next((run / "heatmaps").glob("*.tif")).stem
    kept = (run / "overlays" / f"{name}.png").read_bytes()
    (run / "overlays" / f"{name}.png").unlink()
    assert not export(run, ["overlay"]).failed
    assert (run / "overlays" / f"{name}.png").read_bytes() == kept


def test_a_map_that_is_gone_cannot_be_made_from_scores(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    gone = next((copy / "heatmaps").glob("*.tif"))
    gone.unlink()
    failed = export(copy, ["overlay"]).failed
    assert len(failed) == 1
    assert gone.name in failed[0][1]
    assert "screen this image again" in failed[0][1]


def test_the_report_tells_marks_with_their_area(run: Path) -> None:
    page = (run / "report.html").read_text("utf-8")
    assert "Marks are outlined in" in page
    assert "mm²" in page


def test_weights_of_another_method_are_refused(model: Path, tmp_path: Path) -> None:
    write_model(load(model, CPU).card, {"slopes": torch.zeros(6)}, tmp_path / "broken")
    with pytest.raises(ModelError, match="train again"):
        load(tmp_path / "broken", CPU)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("fused.members.nosuch.weight=1", "nosuch"),
        ("fused.members.convergence.weight=-1", "positive"),
        ("fused.members.convergence.options.radius=1", "radius: no such option"),
        ("fused.members.convergence.options.rings_mm=[[5, 1]]", "rings_mm"),
        ("fused.members.fused.weight=1", "fused"),
    ],
)
def test_wrong_members_are_named(override: str, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        read_config("mammography", [override])


def test_the_resolved_members_stand_in_the_card(model: Path) -> None:
    content = json.loads((model / "card.json").read_text())
    member = content["config"]["fused"]["members"]["convergence"]
    assert member == {
        "method": "convergence",
        "weight": 2.0,
        "options": {"rings_mm": [[0.6, 4.0], [0.6, 6.4], [1.2, 9.6]]},
    }


def test_without_an_offset_no_spacing_is_needed() -> None:
    grid = PatchGrid((64, 64), 32, 16)
    member = Planted(torch.ones(64, 64), torch.ones(len(grid)))
    module = fusion(Config({"one": Member("convergence")}, film_offset=False), member)
    assert module(film_with(None), grid).patches.tolist() == [1] * len(grid)
    config = Config({"one": Member("position_gaussian")}, film_offset=False)
    assert not method_of("fused").needs_with(config).spacing
    assert method_of("fused").needs_with(replace(config, film_offset=True)).spacing


def test_a_film_without_a_scored_patch_takes_no_part_in_the_scales() -> None:
    rows, cols = np.mgrid[:128, :128]
    full = [
        prepared((0.5 + 0.3 * np.sin((rows + k * cols) / 9)).astype(np.float32)) for k in (1, 2)
    ]
    mask = np.zeros((128, 128), bool)
    mask[32:96, 32:96] = True  # a quarter of each patch of the grid
    between = prepared(full[0].pixels, mask)
    config = Config({"convergence": Member()})
    run = run_with(setting=setting_with(patch_size=64, stride=64))
    found = state(fitted("fused", config, training_set([*full, between], 64), run).module)
    assert all(tensor.isfinite().all() for tensor in found.values())
    assert found["slopes"].any()
    with pytest.raises(TrainingError, match="min_foreground or the stride"):
        fitted("fused", replace(config, film_offset=False), training_set([between], 64), run)


def test_an_own_score_that_is_no_number_is_refused(model: Path, study) -> None:
    detector = load(model, CPU)
    image = prepare(
        read_radiograph(sorted(study.folder.rglob("*.dcm"))[0]), detector.card.preprocessing
    )
    forward = detector.module.forward

    def broken(film: Film, grid: PatchGrid) -> Response:
        return replace(forward(film, grid), image=torch.tensor(torch.nan))

    detector.module.forward = broken  # type: ignore[method-assign]
    with pytest.raises(ModelError, match="not numbers"):
        Screener(detector).score(image)


@pytest.mark.parametrize(
    ("names", "said"), [(("w" * 65,), "up to 64"), (("a b",), "letters"), (("a", "A"), "case")]
)
def test_names_of_members_can_name_files(names: tuple[str, ...], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        Config({name: Member("convergence") for name in names})
