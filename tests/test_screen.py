from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import cut, means, stitch
from PIL import Image
from torch import nn

import patchad
from patchad.core import patches
from patchad.core.grid import PatchGrid
from patchad.core.image import Radiograph
from patchad.core.turn import AS_STORED, MIRRORED
from patchad.engine.mismatch import mismatches
from patchad.errors import ImageError, MismatchError, ModelError, RequestError
from patchad.methods import load
from patchad.model.detector import Detector
from patchad.model.folder import read_model
from patchad.model.method import Gives, Method, Needs
from patchad.model.scoring import Response
from patchad.phantoms.phantom import chest
from patchad.prepare.film import Film
from patchad.prepare.preprocess import prepare
from patchad.prepare.resize import resize
from patchad.read.manifest import read_manifest
from patchad.read.read import read_radiograph


@pytest.fixture(scope="module")
def film(study) -> Path:
    return next(row.path for row in read_manifest(study.manifest) if row.split == "test")


@pytest.fixture(scope="module")
def detector(study):
    return patchad.load(study.model, device="cpu")


def test_the_promised_python(film: Path, detector) -> None:
    result = patchad.screen(str(film), detector)
    assert result.heatmap.values.shape == (256, 208)
    assert result.heatmap.unit == detector.card.score_unit
    assert isinstance(result.flagged, bool)
    assert result.score == np.nanmax(result.scores.values)
    assert result.flagged == (result.score > detector.card.calibrated.image_threshold)


def test_scores_are_the_rmse_of_each_patch(film: Path, detector) -> None:
    result = patchad.screen(film, detector)
    radiograph = read_radiograph(film)
    grid = result.scores.grid
    which = np.flatnonzero(result.scores.scored)[[0, 5, -1]]
    patches = torch.from_numpy(cut(grid, radiograph.pixels, which))[:, None]
    with torch.inference_mode():
        errors = (detector.module.network(patches) - patches).square().mean((1, 2, 3)).sqrt()
    np.testing.assert_allclose(result.scores.values[which], errors.numpy(), rtol=1e-5)


def test_the_heatmap_speaks_where_there_is_breast_and_only_there(film: Path, detector) -> None:
    result = patchad.screen(film, detector)
    mask = prepare(read_radiograph(film), detector.card.preprocessing).foreground.mask
    spoken = np.isfinite(result.heatmap.values)
    assert not spoken[~mask].any()
    assert spoken[mask].mean() > 0.9
    whole = stitch(result.scores.grid, result.scores.values, weighting="gaussian", mask=mask)
    np.testing.assert_array_equal(result.heatmap.values, whole)


def test_stride_is_the_users_and_is_said_to_uncalibrate(film: Path, detector) -> None:
    result = patchad.screen(film, detector, stride=32)
    assert result.scores.grid == PatchGrid((256, 208), 32, 32)
    assert any("stride 32 instead of 16" in reason for reason in result.reasons)


def test_another_spacing_is_refused_and_can_be_let_through(film: Path, detector) -> None:
    radiograph = read_radiograph(film)
    coarse = Radiograph(radiograph.pixels, (1.0, 1.0), radiograph.source)
    with pytest.raises(MismatchError, match=r"1 × 1 mm, trained at 0\.8 × 0\.8 mm.*--allow-mism"):
        patchad.screen(coarse, detector)
    result = patchad.screen(coarse, detector, allow_mismatch=True)
    assert any("1 × 1 mm" in reason for reason in result.reasons)
    unknown = Radiograph(radiograph.pixels, None, radiograph.source)
    with pytest.raises(MismatchError, match="pixel spacing unknown"):
        patchad.screen(unknown, detector)


def test_another_modality_is_refused(film: Path, detector) -> None:
    radiograph = read_radiograph(film)
    chest = replace(radiograph, source=replace(radiograph.source, modality="DX"))
    with pytest.raises(MismatchError, match="modality DX, trained on MG"):
        patchad.screen(chest, detector)


def test_an_inverted_image_is_refused(film: Path, detector) -> None:
    # Turned over within the breast, as a forgotten MONOCHROME1 would be, air staying air.
    radiograph = read_radiograph(film)
    mask = prepare(radiograph, detector.card.preprocessing).foreground.mask
    bright = np.where(mask, 0.3 + 0.7 * (1 - radiograph.pixels), 0).astype(np.float32)
    wrong = replace(radiograph, pixels=np.clip(bright + 0.25 * mask, 0, 1).astype(np.float32))
    prepared = prepare(wrong, detector.card.preprocessing)
    assert any("brightness" in reason for reason in mismatches(wrong, prepared, detector.card))


@pytest.mark.parametrize("wrong", ["a chest", "on its side", "16 pixels"])
def test_a_picture_that_nothing_but_its_looks_betrays_is_refused(
    film: Path, detector, wrong
) -> None:
    # No modality, the right spacing and brightness: as a PNG has it.
    read = read_radiograph(film)
    source = replace(read.source, modality="", for_processing=None, directions=("", ""))
    pixels = {
        "a chest": chest(np.random.default_rng(0), shape=(256, 208), spacing_mm=1.7).pixels,
        "on its side": np.rot90(read.pixels),
        "16 pixels": resize(read.pixels, (16, 13)),
    }[wrong]
    image = Radiograph(np.ascontiguousarray(pixels), read.spacing_mm, source)
    with pytest.raises(MismatchError, match="--allow-mismatch screens it anyway") as caught:
        patchad.screen(image, detector)
    said = {"16 pixels": "16 pixels along the longer side, trained on 256 and more"}
    assert said.get(wrong, "the training images") in str(caught.value)
    if wrong != "16 pixels":
        result = patchad.screen(image, detector, allow_mismatch=True)
        (reason,) = [one for one in result.reasons if "the training images" in one]
        assert reason in str(caught.value)


def test_films_like_those_trained_on_are_not_refused(study, detector) -> None:
    rows = [row for row in read_manifest(study.manifest) if row.split == "test"]
    for row in rows:
        assert mismatches_of(row.path, detector) == []


def mismatches_of(path: Path, detector) -> list[str]:
    read = read_radiograph(path)
    return mismatches(read, prepare(read, detector.card.preprocessing), detector.card)


def test_air_alone_and_images_smaller_than_a_patch(film: Path, detector) -> None:
    radiograph = read_radiograph(film)
    air = replace(radiograph, pixels=np.zeros((256, 208), np.float32))
    with pytest.raises(ImageError, match="every pixel is 0"):
        patchad.screen(air, detector)
    tiny = np.zeros((24, 20), np.float32)
    tiny[2:22, :14] = 0.45
    tiny[6:18, 14:17] = 0.4
    small = replace(radiograph, pixels=tiny)
    result = patchad.screen(small, detector, allow_mismatch=True)
    assert len(result.scores.values) == 1
    assert any("smaller than a patch" in reason for reason in result.reasons)


def test_resampled_images_come_back_in_their_own_frame(study, film: Path, detector) -> None:
    # The same film with pixels half as large screens to the same scores, in its own pixels.
    card = replace(
        detector.card, preprocessing=replace(detector.card.preprocessing, spacing_mm=0.8)
    )
    resampling = replace(detector, card=card)
    radiograph = read_radiograph(film)
    fine = Radiograph(radiograph.pixels.repeat(2, 0).repeat(2, 1), (0.4, 0.4), radiograph.source)
    found, expected = patchad.screen(fine, resampling), patchad.screen(radiograph, detector)
    assert found.heatmap.values.shape == (512, 416)
    np.testing.assert_array_equal(found.boxes, 2 * expected.boxes)
    np.testing.assert_allclose(found.score, expected.score, rtol=0.02)
    both = np.isfinite(found.heatmap.values[::2, ::2]) & np.isfinite(expected.heatmap.values)
    apart = np.abs(found.heatmap.values[::2, ::2] - expected.heatmap.values)[both]
    assert np.quantile(apart / expected.heatmap.values[both], 0.95) < 0.05


def test_a_changed_model_is_refused(study, tmp_path: Path) -> None:
    for name in ("card.json", "weights.safetensors"):
        (tmp_path / name).write_bytes((study.model / name).read_bytes())
    read_model(tmp_path)
    card = (tmp_path / "card.json").read_text()
    (tmp_path / "card.json").write_text(card.replace('"stride": 16', '"stride": 8', 1))
    with pytest.raises(ModelError, match="changed"):
        load(tmp_path, torch.device("cpu"))


@pytest.mark.parametrize("columns", [208, 200, 24])  # the grid's last column shifted, or narrower
def test_a_film_and_its_mirror_image_give_mirrored_results(film: Path, detector, columns) -> None:
    preprocessing = replace(detector.card.preprocessing, canonical_side=True)
    canonical = replace(detector, card=replace(detector.card, preprocessing=preprocessing))
    read = read_radiograph(film)
    assert (read.source.laterality, read.source.directions[0]) == ("R", "P")
    pixels = read.pixels[:, ::-1][:, :columns]
    if columns < 32:  # fading out towards the other side, as a breast does
        shade = np.linspace(1, 0, columns) > np.abs(np.linspace(-1, 1, 256))[:, None]
        pixels = np.where(shade, 0.3 + 0.5 * pixels, 0).astype(np.float32)
    right = replace(read, pixels=np.ascontiguousarray(pixels[:, ::-1]))
    source = replace(read.source, laterality="L", directions=("A", "FR"))
    left = replace(read, pixels=np.ascontiguousarray(pixels), source=source)
    found = patchad.screen(left, canonical, allow_mismatch=True)
    turned = patchad.screen(right, canonical, allow_mismatch=True)
    assert (found.scores.grid.turn, turned.scores.grid.turn) == (AS_STORED, MIRRORED)
    assert turned.score == found.score
    np.testing.assert_array_equal(turned.heatmap.values, found.heatmap.values[:, ::-1])
    order = found.scores.grid.turn_values(np.arange(len(found.boxes)), MIRRORED)
    top, start, height, width = found.boxes[order].T
    np.testing.assert_array_equal(
        turned.boxes, np.stack([top, columns - start - width, height, width], 1)
    )
    np.testing.assert_array_equal(turned.scores.values, found.scores.values[order])
    np.testing.assert_array_equal(turned.patch_percentiles, found.patch_percentiles[order])
    for name, scores in found.baselines.items():
        np.testing.assert_array_equal(turned.baselines[name], scores[order])


def test_regions_of_a_mirrored_film_lie_where_the_film_has_them(film: Path, detector) -> None:
    # A bright square is drawn into a right breast; the region found must cover it.
    preprocessing = replace(detector.card.preprocessing, canonical_side=True)
    canonical = replace(detector, card=replace(detector.card, preprocessing=preprocessing))
    read = read_radiograph(film)
    pixels = read.pixels.copy()
    rows, cols = np.nonzero(prepare(read, preprocessing).as_stored().foreground.mask)
    row, col = int(np.median(rows)), int(np.median(cols))
    board = np.indices((24, 24)).sum(0) % 6 < 3
    pixels[row - 12 : row + 12, col - 12 : col + 12] = np.where(board, 1, 0.1)
    result = patchad.screen(replace(read, pixels=pixels), canonical, allow_mismatch=True)
    assert result.scores.grid.turn == MIRRORED
    top, left, height, width = result.boxes[np.nanargmax(result.scores.values)]
    assert abs(top + height / 2 - row) <= 16
    assert abs(left + width / 2 - col) <= 16
    peak = np.unravel_index(np.nanargmax(result.heatmap.values), result.heatmap.values.shape)
    assert np.abs(np.subtract(peak, (row, col))).max() <= 24


class Brightness(nn.Module):
    """Its map is the picture, and its patches are the means."""

    unit, pooling = "brightness", "mean"

    def forward(self, film: Film, grid: PatchGrid) -> Response:
        return Response(film.pixels.where(film.mask, torch.nan), patches.means(grid, film.pixels))


BRIGHTNESS = Method(
    "brightness", "filters", "none", Needs("nothing"), Gives("image", "a map", map=True),
    type(None), lambda config, setting: Brightness(), lambda module, config, data, run: None,
)  # fmt: skip


def test_a_map_of_a_mirrored_film_lies_where_the_film_has_it(film: Path, detector) -> None:
    preprocessing = replace(detector.card.preprocessing, canonical_side=True)
    card = replace(detector.card, preprocessing=preprocessing, patch_pooling="mean")
    read = read_radiograph(film)
    assert read.source.directions[0] == "P"  # a right breast
    result = patchad.screen(read, Detector(card, BRIGHTNESS, None, Brightness()))
    spoken = np.isfinite(result.heatmap.values)
    assert spoken.mean() > 0.2
    np.testing.assert_array_equal(result.heatmap.values[spoken], read.pixels[spoken])
    brightness = means(PatchGrid((256, 208), 32, 16, MIRRORED), read.pixels)
    scored = result.scores.scored
    np.testing.assert_allclose(result.scores.values[scored], brightness[scored], rtol=1e-5)


def test_a_file_is_held_to_caps_and_read_at_the_depth_that_is_said(
    film: Path, detector, tmp_path: Path
) -> None:
    with pytest.raises(ImageError, match="256 × 208 pixels, more than the 50,000"):
        patchad.screen(film, detector, max_pixels=50_000)
    pixels = read_radiograph(film).pixels
    path = tmp_path / "film.png"
    twelve = np.round(pixels * 4095).astype(np.uint16)
    Image.fromarray(twelve).save(path)
    spacing = read_radiograph(film).spacing_mm
    exact = Radiograph(np.divide(twelve, np.float32(4095)), spacing, read_radiograph(film).source)
    score = patchad.screen(exact, detector).score
    guessed = patchad.screen(path, detector, spacing_mm=spacing)
    assert guessed.score == score
    assert [r for r in guessed.reasons if r.startswith("caution: depth guessed: 12 bits, by")]
    said = patchad.screen(path, detector, spacing_mm=spacing, bits=12)
    assert said.score == score
    assert not [reason for reason in said.reasons if "depth" in reason]
    dark = patchad.screen(path, detector, spacing_mm=spacing, bits=16, allow_mismatch=True)
    assert "median brightness" in "; ".join(dark.reasons)
    with pytest.raises(RequestError, match="8 to 16"):
        patchad.screen(path, detector, bits=7)
