"""Pictures of other than breast or chest: all of them is foreground, none is turned."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from builders import CPU
from PIL import Image

from patchad.commands.screen import screen_run
from patchad.commands.selftest import measure
from patchad.commands.train import train
from patchad.core.turn import AS_STORED
from patchad.engine.screener import ScreenOptions
from patchad.errors import ImageError, RequestError
from patchad.methods import load
from patchad.methods.configure import resolve
from patchad.model.config import Config
from patchad.model.configurations import read_use
from patchad.model.fit import fit_note
from patchad.prepare.preprocess import Preprocessing, prepare
from patchad.read.read import read_radiograph

OTHER = Preprocessing(body_part="other")


def picture(path: Path, pixels: np.ndarray) -> Path:
    Image.fromarray(pixels.astype(np.uint8)).save(path)
    return path


def test_the_whole_picture_is_foreground(tmp_path: Path) -> None:
    pixels = np.zeros((28, 20))
    pixels[5] = 10 * np.arange(20)  # nearly all black: no breast and no field
    radiograph = read_radiograph(picture(tmp_path / "a.png", pixels))
    found = prepare(radiograph, OTHER)
    assert found.foreground.mask.all()
    assert found.foreground.mask.shape == found.pixels.shape == (28, 20)
    assert found.foreground.measures == {"area_fraction": 1.0}
    np.testing.assert_allclose(found.pixels, pixels / 255, atol=1e-6)
    assert found.look is None
    assert found.turn == AS_STORED


def test_pixels_outside_the_film_are_not_foreground(tmp_path: Path) -> None:
    radiograph = read_radiograph(picture(tmp_path / "a.png", np.arange(64).reshape(8, 8)))
    outside = np.zeros((8, 8), bool)
    outside[:, 6:] = True
    found = prepare(replace(radiograph, outside=outside), OTHER)
    assert (found.foreground.mask == ~outside).all()


def test_a_constant_picture_is_refused(tmp_path: Path) -> None:
    radiograph = read_radiograph(picture(tmp_path / "a.png", np.full((8, 8), 7)))
    with pytest.raises(ImageError, match="so there is nothing to find"):
        prepare(radiograph, OTHER)


def test_methods_of_one_body_part_refuse_others() -> None:
    content = {**read_use("picture"), "method": "dae", "dae": {}}
    with pytest.raises(RequestError, match="dae is for the body part chest alone"):
        resolve(content)
    for_any = resolve({**read_use("picture"), "method": "ae", "ae": {}})
    assert for_any.preprocessing.body_part == "other"
    with pytest.raises(RequestError, match="breast, chest or other, not 'brain'"):
        Preprocessing(body_part="brain")  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="canonical_side is for breasts"):
        Preprocessing(body_part="other", canonical_side=True)


def test_the_card_says_that_looks_are_not_compared() -> None:
    (note,) = fit_note(None, "other")
    assert "not known what they must look like" in note


def test_small_pictures_go_through_the_commands(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    ramp = np.add.outer(np.arange(28), np.arange(28)) * 4
    lines = ["path,patient_id,label,split"]
    for number in range(12):
        picture(tmp_path / f"{number}.png", ramp + rng.integers(0, 20, ramp.shape))
        lines.append(f"{number}.png,{number},negative,train")
    (tmp_path / "train.csv").write_text("\n".join(lines))
    other = {**read_use("picture"), "method": "vanhetreve2023", "patch_size": 28, "stride": 28}
    other |= {"calibration": {"folds": 0}, "vanhetreve2023": {"epochs": 60, "restarts": 9}}
    config: Config = resolve(other)
    trained = train(tmp_path / "train.csv", tmp_path / "model", config, device=CPU)
    assert any("must look like" in note for note in trained.card.notes)
    upside_down = picture(tmp_path / "odd.png", ramp[::-1, ::-1] + 10)
    run = screen_run([upside_down], tmp_path / "model", tmp_path / "run", ScreenOptions(),
                     device=CPU)  # fmt: skip
    (row,) = run.rows
    assert row.status == "ok"
    assert (row.n_patches, row.rows, row.columns) == (1, 28, 28)
    with pytest.raises(RequestError, match="drawn into breasts and chests"):
        measure(load(tmp_path / "model", CPU), [], images=1, seed=0)
