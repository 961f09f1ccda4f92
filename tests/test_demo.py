from functools import partial
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


@pytest.mark.slow
def test_a_demo_over_another_keeps_what_is_not_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = partial(phantom_set, train_patients=4, test_patients=2, shape=(128, 104))
    quick = ["patch_size=32", "stride=16", "wei2018.epochs=1", "wei2018.patches_per_epoch=50"]
    monkeypatch.setattr(verb, "INTENSITIES", {"breast": "voi"})
    monkeypatch.setattr(verb, "phantom_set", small)
    monkeypatch.setattr(
        verb, "read_config", lambda name, more: read_config("wei2018_leaky", [*quick, *more])
    )

    def shown(seed: int) -> set[str]:
        verb.demo(tmp_path, seed=seed, device=CPU, overwrite=True)
        return {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")}

    first = shown(0)
    assert {"breast/model/card.json", "breast/screening/report.html"} < first
    mine = ["notes.txt", "breast/model/notes.txt", "breast/screening/heatmaps/notes.txt"]
    for name in mine:
        (tmp_path / name).write_text("mine")
    second = shown(1)
    assert {name for name in second if name.endswith("notes.txt")} == set(mine)
    for name in mine:
        assert (tmp_path / name).read_text() == "mine"
    kept = [name for name in second if name.startswith("breast/screening/patches/")]
    assert len(kept) == 4  # the films of this demo, and none of the one before
    assert not first & set(kept)
