"""Films with a score set by hand in each patch, and the DICOM objects made of them."""

import dataclasses
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest
from builders import stitch
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.uid import JPEGLosslessSV1
from skimage.draw import polygon2mask

from patchad.core.grid import PatchGrid
from patchad.core.image import Heatmap, PatchScores, Radiograph, Screening, Voi
from patchad.export.write import write_image_kinds
from patchad.model.calibration import Calibration, MarkCalibration, Shares
from patchad.model.card import ModelCard, TrainingData
from patchad.model.rarity import Rarity
from patchad.phantoms.phantom import chest, mammogram, write_dicom
from patchad.prepare.preprocess import Preprocessing
from patchad.read.codecs import decode_stream
from patchad.read.read import read_radiograph

SHAPE = (192, 160)
CARD = ModelCard(
    method="fake",
    config={},
    preprocessing=Preprocessing(),
    patch_size=32,
    stride=16,
    weighting="mean",
    min_foreground=0.5,
    score_unit="units",
    seed=0,
    data=TrainingData("ab" * 32, 3, 2, "by patient", ("MG",), None, (0.2, 0.8)),
    calibration=Calibration(
        pooling="max",
        top_k=1,
        patch_shares=Shares((0.0, 4.0), (0.0, 1.0), (0.0, 1.0)),
        patient_scores=(0.5, 0.75, 1.0),
        patch_threshold=1.0,
        image_threshold=1.5,
        display_range=(0.0, 3.0),
        images=3,
        patients=3,
        patches=40,
        marks=MarkCalibration(
            threshold=1.0,
            per_film=1.0,
            dense=False,
            decides=True,
            stride=16,
            rarity=Rarity((1.25, 1.75), (1.0, 0.5, 0.0625), (2.0, 1.0, 0.25), 15, 6),
        ),
    ),
    weights_sha256="cd" * 32,
)
KINDS = ("sc", "gsps", "sr", "seg", "heatmap-seg", "cad-sr", "pm")


def screened(
    path: Path, scores: dict[tuple[int, int], float], voi: Voi = "auto"
) -> tuple[Radiograph, Screening]:
    """An image whose patches score 0.5, but for those named by their corner (row, col)."""
    radiograph = read_radiograph(path, voi=voi)
    grid = PatchGrid(radiograph.shape, 32, 16)
    values = np.full(len(grid), 0.5, np.float32)
    for corner, score in scores.items():
        values[(grid.corners == corner).all(1)] = score
    image_score = float(values.max())
    return radiograph, Screening(
        source=radiograph.source,
        scores=PatchScores(grid, values, np.ones(len(grid), np.float32)),
        heatmap=Heatmap(stitch(grid, values, weighting="mean"), "units", radiograph.spacing_mm),
        score=image_score,
        percentile=75.0,
        flagged=image_score > 1.5,
        patch_percentiles=25 * values,
        baselines={},
    )


# A patch and one beside it, whose centre it covers; and one apart.
LESIONS = {(32, 48): 2.0, (48, 64): 1.25, (128, 96): 1.5}
CASES = (
    *("L-MLO", "R-MLO", "L-CC", "R-CC", "chest"),
    *("MONOCHROME1", "no spacing", "not square", "bare", "left chest", "hand"),
)
BARE = ("Manufacturer", "ImageLaterality", "BodyPartExamined", "PatientOrientation", "PatientName")


def film(path: Path, case: str) -> Path:
    rng = np.random.default_rng(0)
    if "chest" in case or case == "hand":
        phantom = chest(rng, shape=SHAPE, spacing_mm=2.2)
    else:
        side, _, view = case.partition("-")
        phantom = mammogram(
            rng,
            shape=SHAPE,
            spacing_mm=1.1,
            laterality=side if view else "L",
            view=view or "MLO",
        )
    write_dicom(phantom, path, patient_id="Q1", monochrome1=case == "MONOCHROME1")
    data = pydicom.dcmread(path)
    match case:
        case "no spacing":
            del data.PixelSpacing, data.ImagerPixelSpacing
        case "not square":
            del data.PixelSpacing
            data.ImagerPixelSpacing = [0.2, 0.1]
        case "bare":
            for keyword in BARE:
                delattr(data, keyword)
        case "left chest":
            data.ImageLaterality = "L"
        case "hand":  # it has a side, which nobody said
            data.BodyPartExamined = "HAND"
            del data.ImageLaterality
    data.save_as(path)
    return path


def no_picture() -> np.ndarray:
    raise AssertionError("nothing here draws an overlay")


@dataclasses.dataclass(frozen=True)
class Written:
    film: Path
    header: Dataset
    screening: Screening
    folder: Path

    def __getitem__(self, kind: str) -> Dataset:
        return pydicom.dcmread(self.folder / "dicom" / "a" / f"{kind}.dcm")


def write(folder: Path, path: Path, scores=LESIONS, kinds=KINDS, card=CARD) -> Written:
    radiograph, screening = screened(path, scores)
    write_image_kinds(folder, "a", screening, radiograph, card, (*kinds, "overlay"))
    return Written(path, pydicom.dcmread(path), screening, folder)


def pixels_of(data: Dataset) -> np.ndarray:
    """The stored pixels of an object; pydicom alone decodes no JPEG Lossless."""
    if data.file_meta.TransferSyntaxUID != JPEGLosslessSV1:
        return data.pixel_array
    (stream,) = generate_frames(data.PixelData, number_of_frames=1)
    return decode_stream("JPEG Lossless", stream, (data.Rows, data.Columns))


def items(data: Dataset, meaning: str) -> list[Dataset]:
    """The content items of a name, in the order of the tree."""
    found = []
    for item in data.get("ContentSequence", []):
        name = item.get("ConceptNameCodeSequence")
        if name and name[0].CodeMeaning == meaning:
            found.append(item)
        found += items(item, meaning)
    return found


def assert_conforms(folder: Path) -> None:
    """No error of dciodvfy, which prints its findings and always exits with 0."""
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy is not installed: apt install dicom3tools")
    objects = sorted((folder / "dicom").rglob("*.dcm"))
    assert objects
    for path in objects:
        done = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False)
        said = (done.stdout + done.stderr).splitlines()
        assert [line for line in said if line.startswith("Error")] == [], path.name


def flagged_pixels() -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    for row, col in ((32, 48), (128, 96)):
        mask[row : row + 32, col : col + 32] = True
    return mask


def assert_outlines(outlines: list[np.ndarray]) -> None:
    """The corners of the patches, each by half a pixel at most; (x, y), closed."""
    first, second = outlines
    np.testing.assert_array_equal(first[0], first[-1])
    np.testing.assert_allclose([first.min(0), first.max(0)], [[48, 32], [80, 64]])
    np.testing.assert_allclose([second.min(0), second.max(0)], [[96, 128], [128, 160]])
    filled = np.zeros(SHAPE, bool)
    for outline in outlines:
        filled |= polygon2mask(SHAPE, outline[:, ::-1] - 0.5)
    assert np.count_nonzero(filled ^ flagged_pixels()) <= 14  # a pixel a corner


def numbers(data: Dataset, meaning: str) -> list[float]:
    return [
        float(item.MeasuredValueSequence[0].NumericValue)
        for item in items(data, meaning)
        if "MeasuredValueSequence" in item
    ]
