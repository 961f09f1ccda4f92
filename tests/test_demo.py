import re
from pathlib import Path

import pytest
import torch

from patchad.commands import demo as verb
from patchad.errors import OutputError
from patchad.methods.configure import read_config
from patchad.phantoms.phantom import phantom_set

CPU = torch.device("cpu")


def test_a_folder_that_only_has_its_names_is_not_the_demos(tmp_path: Path) -> None:
    for name in ("breast", "chest"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "thesis.docx").write_text("years of work")
    with pytest.raises(OutputError, match="can't overwrite it"):
        verb.demo(tmp_path, seed=0, device=CPU, overwrite=True)
    found = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*"))
    assert found == ["breast/thesis.docx", "chest/thesis.docx"]


def test_it_shows_the_published_method_beside_the_recommended_one() -> None:
    recommended = {"breast": "mammography", "chest": "chest"}
    for part, shown in verb.SHOWN.items():
        assert [*shown] == ["wei2018", recommended[part]]
        for name, (config, overrides) in shown.items():
            quick, whole = read_config(config, overrides), read_config(name)
            assert quick.method == whole.method
            assert quick.preprocessing.body_part == part
            if name != "wei2018":
                assert [*quick.options.members] == [*whole.options.members]
                assert quick.preprocessing == whole.preprocessing


def figure(value: float) -> dict[str, object]:
    return {"value": value, "ci95": [None, None]}


def sections(patch: float) -> dict[str, dict[str, object]]:
    return {
        "patch": {"auroc": figure(patch), "within_image_auroc": figure(0.5)},
        "image": {"auroc": figure(0.6)},
        "patient": {"auroc": {"value": None, "ci95": [None, None]}},
    }


def test_a_baseline_is_named_once_where_it_scores_alike() -> None:
    evaluations = {
        "a": {**sections(0.7), "baselines": {"mean": sections(0.4), "std": sections(0.3)}},
        "b": {**sections(0.9), "baselines": {"mean": sections(0.4), "std": sections(0.2)}},
    }
    rows = [(row.name, row.baseline, row.figures[0]) for row in verb.compared(evaluations)]
    assert rows == [
        ("a", False, "0.70"),
        ("mean", True, "0.40"),
        ("std", True, "0.30"),
        ("b", False, "0.90"),
        ("std", True, "0.20"),
    ]
    assert next(verb.compared(evaluations)).figures == ("0.70", "0.50", "0.60", "not defined")


@pytest.mark.slow
def test_a_demo_over_another_keeps_what_is_not_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def small(folder: Path, **asked: object) -> tuple[Path, Path]:
        few = {"train_patients": 4, "test_patients": 2, "shape": (128, 104)}
        return phantom_set(folder, **{**asked, **few})

    common = ("patch_size=32", "stride=16", "preprocessing.spacing_mm=1.6")
    quick = (*common, "wei2018.epochs=1", "wei2018.patches_per_epoch=50")
    fused = (
        *common,
        *(f"fused.members.{name}=false" for name in ("calcification", "synthetic_lesions")),
    )
    shown_here = {
        "wei2018": ("wei2018_leaky", quick),
        "mammography": ("demo_mammography", fused),
    }
    monkeypatch.setattr(verb, "SHOWN", {"breast": shown_here})
    monkeypatch.setattr(verb, "phantom_set", small)

    def shown(seed: int) -> set[str]:
        made = verb.demo(tmp_path, seed=seed, device=CPU, overwrite=True)
        lines = "\n".join(made.lines())
        for part in ("wei2018  ", "mammography  ", "patch_mean", f"open {tmp_path}/report.html"):
            assert part in lines
        return {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")}

    first = shown(0)
    runs = [f"breast/run-{name}/report.html" for name in ("wei2018", "mammography")]
    models = [f"breast/model-{name}/card.json" for name in ("wei2018", "mammography")]
    assert {*runs, *models, "report.html"} < first
    page = (tmp_path / "report.html").read_text("utf-8")
    linked = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert set(runs) < set(linked) <= first
    assert sum(link.endswith(".png") for link in linked) == 2  # one patient has a lesion
    mine = ["notes.txt", "breast/model-wei2018/notes.txt", "breast/run-wei2018/heatmaps/notes.txt"]
    for name in mine:
        (tmp_path / name).write_text("mine")
    second = shown(1)
    assert {name for name in second if name.endswith("notes.txt")} == set(mine)
    for name in mine:
        assert (tmp_path / name).read_text() == "mine"
    kept = [name for name in second if name.startswith("breast/run-wei2018/patches/")]
    assert len(kept) == 4  # the films of this demo, and none of the one before
    assert not first & set(kept)
