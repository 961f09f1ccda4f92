"""The self-test: hand-computed shares of a detector whose score is the brightest pixel."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from builders import CARD, detector_with
from PIL import Image
from typer.testing import CliRunner

from patchad.cli.app import app
from patchad.commands.selftest import measure, selftest
from patchad.commands.selftest_lesions import Wanted, all_wanted, find_places, packed
from patchad.commands.selftest_words import summary
from patchad.core.grid import PatchGrid
from patchad.core.image import Radiograph, Region, Source
from patchad.errors import OutputError, RequestError
from patchad.evaluation.contrast_detail import (
    Level,
    Tried,
    half_found,
    levels_of,
    mark_threshold,
    marks_and_places,
)
from patchad.lesions.recipes import SELFTEST, Graded, Recipe, draw
from patchad.model.trained_on import pack_digests
from patchad.prepare.preprocess import Preprocessing
from patchad.prepare.workers import Limits
from patchad.read.manifest import ManifestRow
from patchad.read.read import read_entry

SPACING = (0.5, 0.5)
SHAPE = (400, 320)
BASE, STEP = 0.4, 0.05
MASS = Graded(Recipe("mass", "breast"), (12,))


BRIGHTEST = replace(
    CARD,
    preprocessing=Preprocessing(body_part="breast"),
    patch_size=32,
    stride=16,
    data=replace(CARD.data, spacing_mm=SPACING, brightness=(0.3, 0.5), modalities=()),
)


def brightest(card=BRIGHTEST):
    """Scores a patch by the brightest pixel of its middle half: each pixel counts for one patch."""
    return detector_with(card, lambda patches: patches[..., 8:24, 8:24].amax((1, 2, 3)))


def film(path: Path, spots: tuple[tuple[int, int], ...] = (), height: float = 0.0) -> ManifestRow:
    """A half disc of a fine checkerboard, BASE ± STEP, so that its deviation is STEP anywhere.

    ``spots`` (row, col) are single pixels of ``height`` deviations above BASE.
    """
    y, x = np.indices(SHAPE)
    pixels = BASE + STEP * np.where((y + x) % 2, 1.0, -1.0)
    for spot in spots:
        pixels[spot] = BASE + height * STEP
    pixels[np.hypot((y - 200) / 190, x / 280) > 1] = 0
    pixels[-1, -20:] = np.arange(20) / 65535  # in the air: a film has more than four grey levels
    Image.fromarray(np.round(pixels * 65535).astype(np.uint16)).save(path)
    return ManifestRow(path, label="negative", spacing_mm=SPACING)


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> list[ManifestRow]:
    """Two films: three spots 2.5 deviations bright on the first, none on the second."""
    folder = tmp_path_factory.mktemp("films")
    spots = ((60, 20), (200, 20), (340, 20))
    return [film(folder / "a.png", spots, 2.5), film(folder / "b.png")]


def test_the_threshold_is_one_false_mark_an_image() -> None:
    marks = [np.array([5.0, 3.0, 1.0]), np.array([4.0, 2.0])]
    assert mark_threshold(marks, 1.0) == 3.0  # 5 and 4 lie above it: two marks on two images
    assert mark_threshold(marks, 0.5) == 4.0
    assert mark_threshold(marks, 9.0) == 1.0  # fewer marks than allowed: the lowest


def test_marks_and_places_of_regions() -> None:
    grid = PatchGrid((4, 8), 4, 2)  # patches from columns 0, 2, 4
    regions = [Region(0, 0, 2, 4), Region(5, 0, 2, 4)]
    # The middle patch is the highest and silences those whose centre lies on its edge.
    marks, places = marks_and_places(grid.boxes(), np.array([1, 3, 2], np.float32), regions)
    assert marks.tolist() == [-math.inf, 3]
    assert places.tolist() == [1, 2]
    marks, places = marks_and_places(grid.boxes(), np.array([3, np.nan, 2], np.float32), regions)
    assert marks.tolist() == [3, 2]
    assert places.tolist() == [3, 2]
    _, places = marks_and_places(grid.boxes(), np.array([np.nan, 3, 2], np.float32), regions)
    assert places.tolist() == [-math.inf, 2]


def test_levels_count_what_was_found() -> None:
    def tried(mark: float, mark_without: float, place: float) -> Tried:
        return Tried("mass", 8.0, 2.0, mark, mark_without, place, 1.0)

    (level,) = levels_of(
        [tried(3, 0, 3), tried(2, 3, 2), tried(2, 0, 1), tried(-math.inf, 0, 0.5)], 2.0
    )
    assert (level.n, level.found, level.by_chance) == (4, 0.25, 0.25)  # above is strictly above
    assert level.outranks_twin == (1 + 1 + 0.5 + 0) / 4
    # Wilson: (p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n)
    z2 = 1.959964**2
    half = math.sqrt(z2) * math.sqrt(0.25 * 0.75 / 4 + z2 / 64)
    assert level.ci95 == pytest.approx(
        [(0.25 + z2 / 8 + sign * half) / (1 + z2 / 4) for sign in (-1, 1)], abs=1e-6
    )


@pytest.mark.parametrize(
    ("shares", "contrast"),
    [
        ((0, 0, 1, 1), math.sqrt(2)),  # half way from 1 to 2 in log contrast
        ((0, 0.25, 0.75, 1), math.sqrt(2)),
        ((0.1, 0.3, 0.4, 0.45), math.nan),
        ((0.6, 0.7, 0.9, 1), 0.5),
        ((0.4, 0.2, 0.7, 1), 2 ** (0.2 / 0.4)),  # 0.4 and 0.2 fall: both become 0.3
    ],
)
def test_the_contrast_at_which_half_are_found(shares, contrast) -> None:
    levels = [
        Level("mass", 8.0, c, 20, share, (0, 1), 0, 0.5)
        for c, share in zip((0.5, 1.0, 2.0, 4.0), shares, strict=True)
    ]
    assert half_found(levels) == pytest.approx(contrast, nan_ok=True)


@pytest.mark.parametrize("right", [False, True], ids=["left", "right"])
def test_found_are_those_that_outshine_the_third_brightest_spot(
    films, tmp_path: Path, right: bool
) -> None:
    # Untouched: three marks of 2.5 deviations, all others of 1. Two may exceed the threshold on
    # two images, so it is the third: 2.5. A mass of contrast c reaches 1 + c (12 mm are wide
    # enough for a bright pixel at its peak), so it is found from c = 2 on.
    detector = brightest()
    if right:
        one_side = Preprocessing(body_part="breast", canonical_side=True)
        detector = brightest(replace(BRIGHTEST, preprocessing=one_side))
        for row in films:
            with Image.open(row.path) as picture:
                turned = np.ascontiguousarray(np.asarray(picture)[:, ::-1])
            Image.fromarray(turned).save(tmp_path / row.path.name)
        films = [replace(row, path=tmp_path / row.path.name) for row in films]
    result = measure(
        detector, films, images=2, seed=1, kinds=[MASS], contrasts=(0, 0.5, 1, 2, 4), lesions=6
    )
    assert result["threshold"] == pytest.approx(BASE + 2.5 * STEP, abs=1e-4)
    assert result["false_marks_an_image"] == 0
    levels = result["levels"]
    assert [level["contrast"] for level in levels] == [0, 0.5, 1, 2, 4]
    assert [level["n"] for level in levels] == [6] * 5
    assert [level["found"] for level in levels] == [0, 0, 0, 1, 1]
    assert [level["by_chance"] for level in levels] == [0] * 5
    assert [level["outranks_twin"] for level in levels[:1] + levels[3:]] == [0.5, 1, 1]
    assert result["half_found"] == [
        {"kind": "mass", "diameter_mm": 12.0, "contrast": pytest.approx(2**0.5), "or_less": False}
    ]
    assert result["counts"]["lesions"] == 30
    assert any("half found at" in line for line in summary(result))


def test_lesions_of_no_contrast_are_found_as_often_as_their_places_are_marked(
    tmp_path: Path,
) -> None:
    # Of four spots on three films, three may exceed the threshold. A place is hit by a spot's patch
    # within some 16 pixels to all sides: about 3 × 32² of the three films' 3 × 70,000 pixels.
    spots = ((120, 80), (200, 140), (280, 80))
    rows = [film(tmp_path / "a.png", spots, 5), film(tmp_path / "b.png")]
    rows.append(film(tmp_path / "c.png", ((200, 100),), 3))
    result = measure(brightest(), rows, images=3, seed=0, kinds=[MASS], contrasts=(0,), lesions=300)
    assert result["false_marks_an_image"] == 1
    (level,) = result["levels"]
    assert level["found"] == level["by_chance"]
    assert 0 < level["found"] < 0.05
    assert level["outranks_twin"] == 0.5
    assert result["half_found"][0]["contrast"] is None


def test_a_seed_decides_everything(films) -> None:
    def run(seed: int):
        return measure(brightest(), films, images=2, seed=seed, kinds=[MASS], lesions=3)

    assert run(3) == run(3)
    assert run(3)["counts"] == run(4)["counts"]


@pytest.mark.parametrize("seed", range(3))
def test_lesions_at_once_lie_apart_and_inside_and_all_get_their_turn(seed: int) -> None:
    mask = np.zeros((200, 100), bool)
    mask[20:180, :80] = True
    radiograph = Radiograph(np.where(mask, 0.5, 0).astype(np.float32), (0.5, 0.5), Source("x", ""))
    places = find_places(radiograph, mask, "breast", (0.5, 0.5))
    wanted = [Wanted(MASS.recipe, size, 1.0) for size in (4.0, 8.0, 16.0, 200.0) for _ in range(5)]
    batches = list(packed(np.random.default_rng(seed), wanted, places, (40, 30)))
    drawn = [one.diameter_mm for batch in batches for one, _ in batch]
    assert sorted(drawn) == [4.0] * 5 + [8.0] * 5 + [16.0] * 5  # 200 mm fit nowhere
    for batch in batches:
        for one, (row, col) in batch:
            radius = one.diameter_mm / 0.5 / 2
            assert 20 + radius <= row + 1 <= 181 - radius
            assert radius <= col + 1 <= 81 - radius
        for n, (_, here) in enumerate(batch):
            for _, there in batch[:n]:
                assert abs(here[0] - there[0]) >= 40 or abs(here[1] - there[1]) >= 30
    assert max(len(batch) for batch in batches) > 1


def test_chest_lesions_lie_in_the_dark_parts_within_the_body() -> None:
    y, x = np.indices((300, 300))
    lungs = [np.hypot((y - 150) / 90, (x - at) / 45) < 1 for at in (90, 210)]
    pixels = np.where(lungs[0] | lungs[1], 0.2, 0.7).astype(np.float32)
    pixels[:, :15] = 0.05  # air beside the body touches the border
    radiograph = Radiograph(pixels, (1.0, 1.0), Source("x", ""))
    places = find_places(radiograph, np.ones((300, 300), bool), "chest", (1.0, 1.0))
    inside = (lungs[0] | lungs[1])[places.rows, places.cols]
    assert inside.mean() > 0.95
    assert len(places.rows) > 0.9 * (lungs[0] | lungs[1]).sum()


def test_kinds_are_those_that_are_found_in_the_body_part() -> None:
    assert {kind.recipe.kind for kind in SELFTEST["breast"]} == {
        "mass", "spiculated mass", "architectural distortion", "calcifications",
    }  # fmt: skip
    assert {kind.recipe.kind for kind in SELFTEST["chest"]} == {"nodule", "consolidation"}
    rng = np.random.default_rng(0)
    for body_part, kinds in SELFTEST.items():
        for kind in kinds:
            drawn = draw(rng, kind.recipe, (0.5, 0.5), diameter_mm=kind.diameters_mm[0])
            assert drawn.lesion.kind == kind.recipe.kind
            assert kind.recipe.body_part == body_part


def test_every_size_and_contrast_is_wanted_evenly_in_every_image() -> None:
    kinds = [MASS, Graded(Recipe("nodule", "chest"), (8, 15))]
    wanted = all_wanted(kinds, (1, 2), at_least=5, images=2)  # 3 an image, so that 2 give 5
    assert wanted[:6] == [
        Wanted(kind.recipe, size, contrast)
        for kind, size in ((MASS, 12.0), (kinds[1], 8.0), (kinds[1], 15.0))
        for contrast in (1.0, 2.0)
    ]
    assert wanted == wanted[:6] * 3


def test_without_spacing_no_millimetres(films) -> None:
    unknown = [replace(row, spacing_mm=None) for row in films]
    blind = brightest(replace(BRIGHTEST, data=replace(BRIGHTEST.data, spacing_mm=None)))
    with pytest.raises(RequestError, match=r"millimetres.*--spacing-mm"):
        measure(blind, unknown, images=2, seed=0)
    result = measure(blind, unknown, images=1, seed=0, spacing_mm=SPACING, kinds=[MASS], lesions=1)
    assert result["counts"]["images"] == 1


def test_images_that_were_trained_on_are_counted(films) -> None:
    known = pack_digests([read_entry(films[0]).source.digest])
    detector = brightest(replace(BRIGHTEST, data=replace(BRIGHTEST.data, trained_on=known)))
    for chosen, count in ((films[:2], 1), (films[1:2], 0)):
        notes = measure(
            detector, chosen, images=2, seed=0, kinds=[MASS], contrasts=(1,), lesions=1
        )["notes"]
        assert f"The model was trained on {count} of these {len(chosen)} images" in notes[0]
        assert ("too good" in notes[0]) == (count > 0)


def test_images_unlike_the_training_images_are_refused(films) -> None:
    other = [replace(row, spacing_mm=(0.2, 0.2)) for row in films]
    with pytest.raises(RequestError, match=r"no image could be tested: pixel spacing 0\.2 × 0\.2"):
        measure(brightest(), other, images=2, seed=0)


def patchad(*arguments: object):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """One kind and size instead of all, for the tests to be quick."""
    kind = Graded(Recipe("spiculated mass", "breast"), (8,))
    monkeypatch.setitem(SELFTEST, "breast", (kind,))


def test_the_command(study, few, tmp_path: Path) -> None:
    table = pd.read_csv(study.manifest, dtype=str)
    table["path"] = [str(study.manifest.parent / path) for path in table["path"]]
    broken = tmp_path / "broken.dcm"
    broken.write_bytes(Path(table["path"][0]).read_bytes()[:3000])
    negatives = table[table["label"] == "negative"].iloc[-1:]
    manifest = tmp_path / "manifest.csv"
    bad = negatives.assign(path=str(broken), patient_id="other")
    pd.concat([negatives, bad]).to_csv(manifest, index=False)

    out = tmp_path / "out"
    result = patchad("selftest", study.model, "--on", manifest, "--out", out, "--images", 2)
    assert result.exit_code == 1  # one image could not be read
    assert "broken.dcm" in result.stderr
    assert "spiculated mass, 8 mm" in result.stdout
    assert "The model was trained on 0 of these 1 images (1 of split test)." in result.stdout
    assert sorted(path.name for path in out.glob("[!.]*")) == [
        "contrast_detail.png",
        "detail.csv",
        "selftest.json",
    ]
    said = json.loads((out / "selftest.json").read_text())
    assert said["counts"]["images"] == 1
    assert len(pd.read_csv(out / "detail.csv")) == len(said["levels"])
    assert "negative" not in (out / "detail.csv").read_text()

    again = patchad("selftest", study.model, "--on", manifest, "--out", out)
    assert again.exit_code == 2
    assert "not empty" in again.stderr


def test_what_is_no_film_is_told_and_what_costs_too_much_fails(films, tmp_path: Path) -> None:
    """Images are decoded in processes of their own, within limits."""
    Image.new("RGB", (64, 64), (255, 0, 0)).save(tmp_path / "colour.png")
    Image.fromarray(np.zeros((2000, 2000), np.uint16)).save(tmp_path / "large.png")
    others = [ManifestRow(tmp_path / name) for name in ("colour.png", "large.png")]
    result = measure(
        brightest(),
        [*others, films[1]],
        images=3,
        seed=0,
        limits=Limits(max_pixels=1_000_000),
        kinds=[MASS],
        lesions=1,
    )
    assert result["counts"]["images"] == 1
    ((large, too_large),) = result["failed"]
    assert (Path(large).name, "2000 × 2000 pixels, more than" in too_large) == ("large.png", True)
    ((colour, reason),) = result["skipped"]
    assert (Path(colour).name, "colour" in reason) == ("colour.png", True)


def test_the_same_seed_writes_the_same_files(study, few, tmp_path: Path) -> None:
    written = []
    for name in ("one", "two"):
        out = tmp_path / name
        selftest(study.model, study.manifest, out, images=1, seed=5, device=torch.device("cpu"))
        written.append([(out / file).read_text() for file in ("selftest.json", "detail.csv")])
    assert written[0] == written[1]
    assert json.loads(written[0][0])["images"][0]["split"] == "test"  # taken first
    with pytest.raises(OutputError, match="not empty"):
        selftest(study.model, study.manifest, tmp_path / "one", device=torch.device("cpu"))


def test_wrong_requests_are_two(study, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for arguments, said in (
        (("selftest", study.model, "--on", "nowhere"), "does not exist"),
        (("selftest", "nowhere", "--on", study.manifest), "no trained model"),
        (("selftest", study.model, "--on", study.manifest, "--spacing-mm", "0"), "millimetres"),
    ):
        result = patchad(*arguments)
        assert result.exit_code == 2
        assert said in result.stderr.replace("\n", " ")
        assert list(tmp_path.iterdir()) == []
    table = pd.read_csv(study.manifest, dtype=str)
    table["path"] = [str(study.manifest.parent / path) for path in table["path"]]
    table[table["label"] == "positive"].to_csv(tmp_path / "positives.csv", index=False)
    result = patchad("selftest", study.model, "--on", "positives.csv")
    assert result.exit_code == 2
    assert "no row with label negative" in result.stderr.replace("\n", " ")
