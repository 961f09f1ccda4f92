"""Heatmaps as TIFF: bit by bit, with pixel size and unit."""

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from patchad.core.image import Heatmap
from patchad.errors import ImageError, OutputError
from patchad.export.tiff import read_heatmap, write_heatmap


def test_comes_back_bit_by_bit_with_nan_unit_and_non_square_spacing(tmp_path: Path) -> None:
    values = np.array([[0.1, np.nan, -3e-38], [1e30, 0.0, -0.0]], np.float32)
    write_heatmap(tmp_path / "h.tif", Heatmap(values, "RMSE (µ)", (0.07, 0.1234567890123)))
    back = read_heatmap(tmp_path / "h.tif")
    assert back.values.tobytes() == values.tobytes()
    assert back.values.dtype == np.float32
    assert back.unit == "RMSE (µ)"
    assert back.spacing_mm == (0.07, 0.1234567890123)


def test_tags_give_pixels_per_centimetre_x_along_the_row(tmp_path: Path) -> None:
    write_heatmap(tmp_path / "h.tif", Heatmap(np.zeros((3, 5), np.float32), "z", (0.2, 0.05)))
    with tifffile.TiffFile(tmp_path / "h.tif") as file:
        assert len(file.pages) == 1
        tags = {tag.name: tag.value for tag in file.pages.first.tags}
    x, y = tags["XResolution"], tags["YResolution"]
    assert x[0] / x[1] == pytest.approx(200)  # 0.05 mm from column to column
    assert y[0] / y[1] == pytest.approx(50)
    assert tags["ResolutionUnit"] == 3  # centimetre
    assert (tags["ImageWidth"], tags["ImageLength"]) == (5, 3)
    assert tags["SampleFormat"] == 3  # IEEE floating point
    assert tags["BitsPerSample"] == 32
    assert "Predictor" not in tags
    described = json.loads(tags["ImageDescription"])
    assert described["unit"] == "z"
    assert described["spacing_mm"] == [0.2, 0.05]


def test_unknown_spacing_makes_no_claim(tmp_path: Path) -> None:
    write_heatmap(tmp_path / "h.tif", Heatmap(np.zeros((2, 2), np.float32), "z"))
    with tifffile.TiffFile(tmp_path / "h.tif") as file:
        assert file.pages.first.tags["ResolutionUnit"].value == 1  # none
    assert read_heatmap(tmp_path / "h.tif").spacing_mm is None


def test_another_reader_sees_the_same_pixels(tmp_path: Path) -> None:
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    values[1, 2] = np.nan
    write_heatmap(tmp_path / "h.tif", Heatmap(values, "z", (0.1, 0.1)))
    with Image.open(tmp_path / "h.tif") as image:
        assert image.mode == "F"
        np.testing.assert_array_equal(np.asarray(image), values)
        assert image.info["dpi"] == pytest.approx((254, 254))  # 0.1 mm


@given(
    hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=40)),
    st.none() | st.tuples(*[st.floats(1e-3, 10)] * 2),
    st.text(st.characters(exclude_categories=["Cs"])),
)
def test_any_heatmap_comes_back(
    tmp_path_factory: pytest.TempPathFactory,
    values: np.ndarray,
    spacing: tuple[float, float] | None,
    unit: str,
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.tif"
    write_heatmap(path, Heatmap(values, unit, spacing))
    back = read_heatmap(path)
    assert back.values.tobytes() == values.tobytes()
    assert (back.unit, back.spacing_mm) == (unit, spacing)


def test_what_is_no_heatmap_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"none\.tif cannot be read .*export"):
        read_heatmap(tmp_path / "none.tif")
    (tmp_path / "text.tif").write_text("not a picture")
    with pytest.raises(ImageError, match=r"text\.tif is not a heatmap of patchad"):
        read_heatmap(tmp_path / "text.tif")
    tifffile.imwrite(tmp_path / "other.tif", np.zeros((2, 2), np.uint8), metadata=None)
    with pytest.raises(ImageError, match=r"other\.tif is not a heatmap of patchad"):
        read_heatmap(tmp_path / "other.tif")
    tifffile.imwrite(
        tmp_path / "bytes.tif",
        np.zeros((2, 2), np.uint8),
        description='{"unit": "z", "spacing_mm": null}',
        metadata=None,
    )
    with pytest.raises(ImageError, match="holds uint8"):
        read_heatmap(tmp_path / "bytes.tif")


@pytest.mark.parametrize("kept", [4, 100, 0.5, 0.95])
def test_a_truncated_file_is_refused(tmp_path: Path, kept: float) -> None:
    path = tmp_path / "h.tif"
    noise = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    write_heatmap(path, Heatmap(noise, "z", (0.1, 0.1)))
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if kept < 1 else int(kept)])
    with pytest.raises(ImageError, match=r"h\.tif"):
        read_heatmap(path)


def test_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tifffile, "imwrite", full)
    with pytest.raises(OutputError, match="No space left"):
        write_heatmap(tmp_path / "h.tif", Heatmap(np.zeros((2, 2), np.float32), "z"))
    assert list(tmp_path.iterdir()) == []
