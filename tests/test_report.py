"""The report: one file, no network, everything escaped, every layer in its place."""

import base64
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from builders import stitch
from PIL import Image

from patchad.core.grid import PatchGrid
from patchad.core.image import Heatmap, PatchScores, Radiograph, Screening
from patchad.errors import RequestError
from patchad.export.layer import palette
from patchad.export.report import write_report
from patchad.export.tiff import write_heatmap
from patchad.files.names import new_id
from patchad.model.calibration import Calibration, MarkCalibration, Shares
from patchad.model.card import ModelCard, TrainingData, card_as_dict
from patchad.model.rarity import Rarity
from patchad.prepare.preprocess import Preprocessing
from patchad.read.read import read_radiograph
from patchad.store.run import (
    ImageRow,
    done_row,
    heatmap_path,
    patches_path,
    write_patches,
    write_run,
)

CARD = ModelCard(
    method="wei2018",
    config={"method": "wei2018", "note": "</script><b>"},
    preprocessing=Preprocessing(),
    patch_size=32,
    stride=32,
    weighting="mean",
    min_foreground=0.5,
    score_unit="RMSE",
    seed=7,
    data=TrainingData("a" * 64, 40, 20, "by patient, 10 % held out", ("MG",), None, (0.2, 0.6)),
    calibration=Calibration(
        pooling="top_mean",
        top_k=3,
        patch_shares=Shares((0.0, 1.0), (0.0, 1.0), (0.0, 1.0)),
        patient_scores=(0.1, 0.2, 0.3, 0.4),
        patch_threshold=0.5,
        image_threshold=0.45,
        display_range=(0.3, 0.7),
        images=4,
        patients=4,
        patches=1234,
        marks=MarkCalibration(
            threshold=0.5,
            per_film=1.0,
            dense=False,
            decides=False,
            stride=32,
            rarity=Rarity((1.25, 1.75), (1.0, 0.5, 0.0625), (2.0, 1.0, 0.25), 15, 6),
        ),
        statements=("A promise of n = 4.",),
    ),
    notes=("Restarted once: the first seed died.",),
    versions={"patchad": "0.1.0", "torch": "2.13.0"},
)


class Page(HTMLParser):
    """The elements of a page, and its text; fails where tags do not close in order."""

    VOID = frozenset({"meta", "img", "input", "br", "path"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str, **attributes: str) -> list[dict[str, str]]:
        wanted = attributes.items()
        return [found for name, found in self.elements if name == tag and wanted <= found.items()]


def screened(path: Path, values: np.ndarray, *, score: float) -> tuple[Radiograph, Screening]:
    """A film of 64 × 96 pixels with a score for each of its 2 × 3 patches."""
    pixels = np.tile(np.linspace(20, 200, 96), (64, 1)).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    radiograph = read_radiograph(path)
    grid = PatchGrid((64, 96), 32, 32)
    scores = PatchScores(grid, values.astype(np.float32), np.ones(6, np.float32))
    heatmap = Heatmap(stitch(grid, scores.values, weighting="mean"), "RMSE", None)
    return radiograph, Screening(
        radiograph.source,
        scores,
        heatmap,
        score=score,
        percentile=80.0,
        flagged=score > 0.45,
        patch_percentiles=np.full(6, 50, np.float32),
        baselines={},
        reasons=("flagged: score over the threshold",) if score > 0.45 else (),
    )


def make_run(
    folder: Path, scores: dict[str, float], failures: tuple[ImageRow, ...] = ()
) -> dict[str, str]:
    """A run over films with these names and scores; their ids by name."""
    folder.mkdir(exist_ok=True)
    rows, taken, ids = [], set[str](), {}
    for name, score in scores.items():
        film, screening = screened(
            folder.parent / name, np.array([np.nan, 0.3, 0.9, 0.45, 0.5, 0.6]), score=score
        )
        ids[name] = new_id(Path(name).stem, taken)
        write_patches(patches_path(folder, ids[name]), screening)
        write_heatmap(heatmap_path(folder, ids[name]), screening.heatmap)
        rows.append(done_row(ids[name], screening, film, 0.5))
    rows += failures
    counts = {s: sum(row.status == s for row in rows) for s in ("ok", "failed", "skipped")}
    settings = {
        "command": ["screen", "films"],
        "model": card_as_dict(CARD)["digest"],
        "settings": {"kinds": ["report"], "stride": None, "spacing_mm": None},
        "versions": CARD.versions,
        "device": "cpu",
        "card": card_as_dict(CARD),
        "counts": counts,
        "seconds": {"read": 1.0, "score": 2.5, "write": 0.25},
    }
    write_run(folder, settings, rows)
    return ids


def report(folder: Path, **options: int) -> tuple[str, Page]:
    path = write_report(folder, **options)
    assert path == folder / "report.html"
    text = path.read_text("utf-8")
    return text, Page(text)


def picture(uri: str) -> Image.Image:
    kind, content = uri.split(",", 1)
    assert kind in ("data:image/png;base64", "data:image/jpeg;base64")
    return Image.open(io.BytesIO(base64.b64decode(content, validate=True)))


def test_nothing_is_fetched(tmp_path: Path) -> None:
    make_run(tmp_path / "run", {"a.png": 0.4})
    text, page = report(tmp_path / "run")
    assert not re.search(r"https?:|//cdn|@import|<link|<iframe", text)
    for _, attributes in page.elements:
        assert attributes.get("src", "data:").startswith("data:")
        assert attributes.get("href", "#").startswith("#")
    assert page.all("meta", content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
                    "script-src 'unsafe-inline'")  # fmt: skip


def test_research_use_stands_first(tmp_path: Path) -> None:
    make_run(tmp_path / "run", {"a.png": 0.4})
    _, page = report(tmp_path / "run")
    body = page.text.split("Screening report – patchad", 1)[1]
    assert body.strip().startswith("Research use only. Not for diagnosis.")


def test_says_what_was_run_and_what_the_thresholds_promise(tmp_path: Path) -> None:
    make_run(tmp_path / "run", {"a.png": 0.4, "b.png": 0.5})
    _, page = report(tmp_path / "run")
    for words in (
        "wei2018",
        card_as_dict(CARD)["digest"],
        "Seed 7",
        "torch 2.13.0",
        "A promise of n = 4.",
        "Restarted once: the first seed died.",
        "Line: image threshold 0.45",
        "Line: threshold 0.5",
        "stride not given",
        "2 screened 1 flagged 0 failed 0 skipped",
        "4 negative patients of the model, by their highest image, 0 over the threshold",
        "2 images of this run, 1 over the threshold",
        "1,234 patches",
        "score 2.5",
    ):
        assert words in page.text


def test_ranked_by_score(tmp_path: Path) -> None:
    make_run(tmp_path / "run", {"low.png": 0.1, "high.png": 0.9, "middle.png": 0.5})
    _, page = report(tmp_path / "run")
    places = [page.text.index(name) for name in ("1. high.png", "2. middle.png", "3. low.png")]
    assert places == sorted(places)


def test_layers_are_aligned_and_show_what_was_found(tmp_path: Path) -> None:
    make_run(tmp_path / "run", {"a.png": 0.4})
    _, page = report(tmp_path / "run")
    (film,), (heat,) = page.all("img", **{"class": "film"}), page.all("img", **{"class": "heat"})
    # 64 × 96 is enlarged five times, film and heatmap alike.
    assert (film["width"], film["height"]) == (heat["width"], heat["height"]) == ("480", "320")
    grey, layer = picture(film["src"]), picture(heat["src"])
    assert grey.size == layer.size == (480, 320)
    assert grey.format == "JPEG"
    assert grey.mode == "L"
    np.testing.assert_allclose(np.asarray(grey)[160, [2, 477]], [20, 200], atol=4)
    rgba = np.asarray(layer.convert("RGBA"))
    # The patches: NaN, 0.3 (the low end), 0.9 (over the top); 0.45, 0.5 (not over), 0.6.
    assert rgba[80, 80, 3] == 0
    assert rgba[80, 240, 3] == 0
    assert rgba[80, 400].tolist() == palette()[254].tolist()
    assert rgba[240, 80].tolist() == palette()[95].tolist()
    assert rgba[240, 240].tolist() == palette()[127].tolist()
    cyan = np.all(rgba == [0, 255, 255, 255], axis=2)
    expected = np.zeros((320, 480), bool)
    for patch in (np.s_[:160, 320:], np.s_[160:, 320:]):  # 0.9 and 0.6
        expected[patch] = True
    for inside in (np.s_[1:159, 321:479], np.s_[161:319, 321:479]):
        expected[inside] = False
    np.testing.assert_array_equal(cyan, expected)
    assert (
        "5 scored Marks 2 marks, a normal film has 1; its score has a scale of its own" in page.text
    )
    # 0.9, below all that was counted: 15 marks on 15 films
    assert (
        "1 a normal film has about 1 mark this strong (at most 2 a film, 95 % bound); " in page.text
    )
    assert "score 0.9, around x 80, y 16" in page.text
    assert "score 0.6, around x 80, y 48" in page.text


def test_each_picture_and_all_of_them_have_a_slider(tmp_path: Path) -> None:
    make_run(tmp_path / "run", {"a.png": 0.4, "b.png": 0.5})
    _, page = report(tmp_path / "run")
    sliders = page.all("input", type="range", min="0", max="100")
    assert [slider.get("aria-label", "") for slider in sliders] == [
        "",
        "Heatmap opacity of b.png",
        "Heatmap opacity of a.png",
    ]
    assert all("alt" in image for image in page.all("img"))


def test_the_heatmap_is_stitched_again_where_none_was_written(tmp_path: Path) -> None:
    ids = make_run(tmp_path / "run", {"a.png": 0.4})
    heatmap_path(tmp_path / "run", ids["a.png"]).unlink()
    _, page = report(tmp_path / "run")
    (heat,) = page.all("img", **{"class": "heat"})
    rgba = np.asarray(picture(heat["src"]).convert("RGBA"))
    assert rgba[80, 400].tolist() == palette()[254].tolist()


def test_file_names_are_escaped(tmp_path: Path) -> None:
    name = "<script>alert(1)<&'quote.png"
    failed = ImageRow("x", "a/<img src=x onerror=1>.dcm", "failed", "<script>boom()</script>")
    make_run(tmp_path / "run", {name: 0.4}, (failed,))
    text, page = report(tmp_path / "run")
    assert text.count("<script>") == 1  # its own
    assert "alert(1)" in page.text
    assert "<img src=x onerror=1>.dcm <script>boom()</script>" in page.text
    assert not page.all("img", src="x")
    assert name in page.all("img", **{"class": "film"})[0]["alt"]


def test_a_missing_or_changed_film_keeps_its_row(tmp_path: Path) -> None:
    make_run(tmp_path / "run", {"gone.png": 0.4, "changed.png": 0.5})
    (tmp_path / "gone.png").unlink()
    Image.fromarray(np.full((64, 96), 9, np.uint8)).save(tmp_path / "changed.png")
    _, page = report(tmp_path / "run")
    assert "2. gone.png No picture: the file cannot be read" in page.text
    assert "1. changed.png flagged No picture: the file has changed" in page.text
    assert not page.all("img", **{"class": "film"})


def test_lost_patches_keep_their_row(tmp_path: Path) -> None:
    ids = make_run(tmp_path / "run", {"a.png": 0.4})
    patches_path(tmp_path / "run", ids["a.png"]).unlink()
    _, page = report(tmp_path / "run")
    assert "No picture: " in page.text


def test_only_the_top_have_pictures_and_it_says_so(tmp_path: Path) -> None:
    make_run(tmp_path / "run", {f"{n}.png": n / 10 for n in range(5)})
    _, page = report(tmp_path / "run", top=2)
    assert len(page.all("img", **{"class": "film"})) == 2
    assert "Only the 2 highest of 5 images" in page.text
    assert "0.png" in page.text
    assert [link["href"] for link in page.all("a") if "image" in link["href"]] == [
        "#image-1",
        "#image-2",
    ]


def test_only_failures(tmp_path: Path) -> None:
    rows = (
        ImageRow("a", "a.dcm", "failed", "the file is empty: fetch it again"),
        ImageRow("b", "b.dcm", "skipped", "a colour image"),
    )
    make_run(tmp_path / "run", {}, rows)
    _, page = report(tmp_path / "run")
    assert "0 screened 0 flagged 1 failed 1 skipped" in page.text
    assert (
        "failed a.dcm the file is empty: fetch it again skipped b.dcm a colour image" in page.text
    )
    assert "No image was screened." in page.text


def test_an_empty_run(tmp_path: Path) -> None:
    make_run(tmp_path / "run", {})
    _, page = report(tmp_path / "run")
    assert "0 images of this run" in page.text


def test_the_evaluation_stands_beside_its_baselines(tmp_path: Path) -> None:
    make_run(tmp_path / "run", {"a.png": 0.4})
    folder = tmp_path / "run" / "evaluation"
    folder.mkdir()

    def figures(value: float) -> dict[str, object]:
        auroc = {"value": value, "ci95": [value - 0.1, value + 0.1], "dropped": 0}
        nothing = {"value": None, "ci95": [None, None], "dropped": 0}
        alone = {"value": value, "ci95": [None, None], "dropped": 0}
        return {
            "patch": {"auroc": auroc, "counts": {"positives": 12}},
            "image": {"auroc": nothing},
            "froc": {"sensitivity_at_1": alone},
        }

    def beside(by: float) -> dict[str, object]:
        return {
            name: {**figures(value - by), "beaten": beaten}
            for name, value, beaten in (
                ("patch_mean", 0.5, True),
                ("patch_std", 0.7, None),
                ("gradient_energy", 0.6, False),
            )
        }

    content = {
        **figures(0.81),
        "counts": {"images": 1, "patients": 1},
        "notes": ["Films were few."],
        "definitions": {"patch": "A definition."},
        "threshold": {"patch": {"value": 0.5, "from": "card", **figures(0.3)["patch"]}},
        "pixel": None,
        "by_kind": {"<mass>": {**figures(0.9), "baselines": beside(0.1)}},
        "baselines": beside(0),
    }
    (folder / "evaluation.json").write_text(json.dumps(content))
    Image.new("RGB", (30, 20), "white").save(folder / "roc.png")
    _, page = report(tmp_path / "run")
    for words in (
        "images: 1, patients: 1. Films were few.",
        "figure wei2018 patch mean patch std gradient energy",
        "patch · auroc 0.810 (0.710 to 0.910) 0.500 (0.400 to 0.600) "
        "0.700 (0.600 to 0.800) 0.600 (0.500 to 0.700)",
        "image · auroc – – – –",
        "froc · sensitivity at 1 0.810 0.500 0.700 0.600",
        "threshold · patch · auroc 0.300 (0.200 to 0.400) – – –",
        "paired by patient) yes not known no",
        "<mass> figure wei2018",
        "patch · auroc 0.900 (0.800 to 1.000) 0.400 (0.300 to 0.500)",
        "A definition.",
    ):
        assert words in page.text
    (curve,) = page.all("img", alt="Receiver operating characteristic")
    assert picture(curve["src"]).size == (30, 20)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"by_kind": {}, "baselines": 1}'])
def test_a_foreign_evaluation_is_refused(tmp_path: Path, content: str) -> None:
    make_run(tmp_path / "run", {"a.png": 0.4})
    (tmp_path / "run" / "evaluation").mkdir()
    (tmp_path / "run" / "evaluation" / "evaluation.json").write_text(content)
    with pytest.raises(RequestError, match=r"evaluation\.json .*run `patchad evaluate` again"):
        write_report(tmp_path / "run")
    assert not (tmp_path / "run" / "report.html").exists()


def test_unscored_images_rank_last(tmp_path: Path) -> None:
    make_run(tmp_path / "run", {"a.png": 0.4, "b.png": 0.2})
    odd = ImageRow("odd", "odd.png", "ok", "", score=None)
    text = (tmp_path / "run" / "images.csv").read_text()
    (tmp_path / "run" / "images.csv").write_text(text + f"{odd.id},{odd.path},ok" + "," * 19 + "\n")
    _, page = report(tmp_path / "run")
    assert "3. odd.png" in page.text


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"run\.json is missing"):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_strip_holds_a_degenerate_axis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calibration = replace(CARD.calibrated, patient_scores=(0.4,), image_threshold=0.4)
    monkeypatch.setattr(f"{__name__}.CARD", replace(CARD, calibration=calibration))
    make_run(tmp_path / "run", {"a.png": 0.4})
    _, page = report(tmp_path / "run")
    assert "M5.0 5V15" in page.all("path")[0]["d"]
