"""Every method on real films, where there are some."""

import io
import tarfile
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from builders import CPU, run_with, state, training_set
from method_cases import Untouched, config_of, detector_of, setting_of
from PIL import Image

from patchad.core.image import Radiograph, Source
from patchad.engine.screener import Screener
from patchad.learn.fitting import fit
from patchad.methods import METHODS, method_of, restore
from patchad.prepare.preprocess import Prepared, Preprocessing, prepare
from patchad.read.read import read_radiograph

CHEST_MM, BREAST_MM = 1.6, 0.6  # a pixel: films of some 260 and 340 pixels


@cache
def chests(folder: Path) -> list[Prepared]:
    files = sorted((folder / "nih-cxr" / "images").glob("*.png"))[:10]
    preprocessing = Preprocessing(body_part="chest", spacing_mm=CHEST_MM)
    return [prepare(read_radiograph(file, spacing_mm=(0.4, 0.4)), preprocessing) for file in files]


@cache
def breasts(folder: Path) -> list[Prepared]:
    path = folder / "mini-mias" / "all-mias.tar.gz"
    if not path.is_file():
        return []
    found: list[Radiograph] = []
    with tarfile.open(path) as archive:
        for member in archive:
            if member.name.endswith(".pgm"):
                content = archive.extractfile(member).read()
                pixels = np.asarray(Image.open(io.BytesIO(content)), np.float32) / 255
                found.append(Radiograph(pixels, (0.2, 0.2), Source(member.name, "")))
            if len(found) == 10:
                break
    preprocessing = Preprocessing(body_part="breast", spacing_mm=BREAST_MM)
    return [prepare(one, preprocessing) for one in found]


@pytest.mark.real
@pytest.mark.parametrize("name", METHODS)
def test_a_method_scores_a_real_film_alike_when_loaded_again(name: str, real_data: Path) -> None:
    method, config, setting = method_of(name), config_of(name), setting_of(name)
    of_breasts = setting.preprocessing.body_part == "breast"
    films = breasts(real_data) if of_breasts else chests(real_data)
    if len(films) < 10:
        pytest.skip("no films of mini-mias or nih-cxr in the folder of real data")
    unlabelled = method.needs_with(config).unlabelled
    data = replace(
        training_set(films[:6], setting.patch_size),
        unlabelled=training_set(films[6:9], setting.patch_size) if unlabelled else Untouched(),
    )
    one = fit(method, config, data, run_with(5, setting))
    detector = detector_of(name, one)
    scored = Screener(detector).score(films[9])
    assert scored.scores.values.dtype == np.float32
    assert scored.scores.scored.any()
    assert np.isfinite(scored.scores.values[scored.scores.scored]).mean() > 0.5
    if method.gives.image and name != "fused":  # whose tiny members score patches
        assert np.isfinite(scored.image)
    if scored.map is not None:
        assert scored.map.shape == films[9].pixels.shape
        assert np.isfinite(scored.map[films[9].foreground.mask]).any()
    again = Screener(restore(detector.card, state(one.module), CPU)).score(films[9])
    np.testing.assert_array_equal(again.scores.values, scored.scores.values)
