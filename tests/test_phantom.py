"""Phantoms: what they look like in numbers, and that their DICOM files are sound."""

import csv
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest
from builders import cut, means
from scipy import ndimage
from sklearn.metrics import roc_auc_score

from patchad.core.grid import PatchGrid
from patchad.errors import RequestError
from patchad.evaluation.labelling import NEGATIVE, POSITIVE, label_patches
from patchad.phantoms import phantom
from patchad.phantoms.phantom import Phantom, chest, mammogram, phantom_set, write_dicom

SMALL = (512, 416)  # half the usual size: pixels of 0.4 and 0.84 mm


def small(seed: int, kind: str | None) -> Phantom:
    rng = np.random.default_rng(seed)
    lesions = () if kind is None else (kind,)
    if kind in phantom.CHEST_LESIONS:
        return chest(rng, shape=SMALL, spacing_mm=0.84, lesions=lesions)
    return mammogram(
        rng, shape=SMALL, spacing_mm=0.4, view=("MLO", "CC")[seed % 2], lesions=lesions
    )


@pytest.fixture(scope="module")
def breasts() -> list[Phantom]:
    return [small(i, phantom.BREAST_LESIONS[i % 3]) for i in range(24)]


@pytest.fixture(scope="module")
def chests() -> list[Phantom]:
    return [small(i, phantom.CHEST_LESIONS[i % 2]) for i in range(20)]


@pytest.fixture(params=["breasts", "chests"])
def phantoms(request: pytest.FixtureRequest) -> list[Phantom]:
    found: list[Phantom] = request.getfixturevalue(request.param)
    return found


@pytest.mark.parametrize("kind", ["mass", "nodule"])
def test_a_seed_gives_one_phantom(kind):
    one, same, other = small(1, kind), small(1, kind), small(3, kind)
    assert np.array_equal(one.pixels, same.pixels)
    assert not np.array_equal(one.pixels, other.pixels)


def test_lesions_lie_in_the_foreground(phantoms):
    for made in phantoms:
        assert made.pixels.dtype == np.float32
        assert made.pixels.min() >= 0
        assert made.pixels.max() <= 1
        (region,) = made.regions
        rows = slice(int(region.y), int(region.y + region.height))
        cols = slice(int(region.x), int(region.x + region.width))
        assert made.foreground[rows, cols][region.mask].mean() > 0.99  # a letter may cover some
        assert 0.15 < made.foreground.mean() < 0.95


def test_air_is_dark_and_tissue_is_not(phantoms):
    for made in phantoms:
        # Away from the skin's blur; letters are bright, but few.
        outside = ~ndimage.binary_dilation(made.foreground, iterations=4)
        assert np.median(made.pixels[made.foreground]) > 0.25
        if outside.any():
            assert np.median(made.pixels[outside]) < 0.12


def test_lesions_can_be_seen(phantoms):
    """Most are brighter than what surrounds them; calcifications have a bright speck."""
    contrast = []
    for made in phantoms:
        (region,) = made.regions
        inside = np.zeros(made.pixels.shape, bool)
        rows = slice(int(region.y), int(region.y + region.height))
        cols = slice(int(region.x), int(region.x + region.width))
        inside[rows, cols] = region.mask
        around = ndimage.binary_dilation(inside, iterations=12) & ~inside & made.foreground
        top = 99 if region.kind == "calcifications" else 50
        contrast.append(
            np.percentile(made.pixels[inside], top) - np.percentile(made.pixels[around], top)
        )
    assert np.mean(contrast) > 0.03
    assert np.mean(np.array(contrast) > 0) > 0.75


def test_mean_and_deviation_of_a_patch_do_not_find_the_lesions(phantoms):
    """Whichever way round they are read; else the phantoms would be too easy."""
    mean, deviation, positive = [], [], []
    for made in phantoms:
        grid = PatchGrid(SMALL, size=64, stride=32)
        label = label_patches(grid.boxes(), made.regions).label
        label[means(grid, made.foreground) < 0.5] = -1
        counted = np.flatnonzero((label == POSITIVE) | (label == NEGATIVE))
        patches = cut(grid, made.pixels, counted)
        mean.append(patches.mean((1, 2)))
        deviation.append(patches.std((1, 2)))
        positive.append(label[counted] == POSITIVE)
    for statistic in (mean, deviation):
        auroc = roc_auc_score(np.concatenate(positive), np.concatenate(statistic))
        assert 0.15 < auroc < 0.85


def test_the_chest_wall_is_on_the_side_of_the_other_breast():
    for side, view in (("L", "MLO"), ("R", "MLO"), ("L", "CC"), ("R", "CC")):
        made = mammogram(
            np.random.default_rng(0), shape=SMALL, spacing_mm=0.4, laterality=side, view=view
        )
        at_wall, at_air = made.foreground.mean(0)[[0, -1] if side == "L" else [-1, 0]]
        assert at_wall > 0.6
        assert at_air == 0
        assert (made.laterality, made.view) == (side, view)


def test_a_mirrored_breast_is_marked_where_it_is():
    left, right = (
        mammogram(
            np.random.default_rng(5), shape=SMALL, spacing_mm=0.4, laterality=side,
            lesions=("spiculated mass",),
        )
        for side in ("L", "R")
    )  # fmt: skip
    (a,), (b,) = left.regions, right.regions
    assert (b.y, b.width, b.height) == (a.y, a.width, a.height)
    assert b.x == SMALL[1] - a.x - a.width
    np.testing.assert_array_equal(b.mask, a.mask[:, ::-1])


def test_density_makes_a_breast_brighter():
    fatty, dense = (
        np.mean([
            np.median(made.pixels[made.foreground])
            for made in (
                mammogram(np.random.default_rng(i), shape=SMALL, spacing_mm=0.4, density=share)
                for i in range(4)
            )
        ])
        for share in (0.1, 0.9)
    )  # fmt: skip
    assert dense > fatty + 0.05


def test_a_lesion_of_another_body_part_is_refused_by_name():
    with pytest.raises(RequestError, match="a breast phantom has no lesion called 'nodule'"):
        mammogram(np.random.default_rng(0), shape=SMALL, spacing_mm=0.4, lesions=("nodule",))
    with pytest.raises(RequestError, match="use consolidation, nodule"):
        chest(np.random.default_rng(0), shape=SMALL, spacing_mm=0.84, lesions=("mass",))


@pytest.mark.parametrize("kind", ["mass", "nodule"])
@pytest.mark.parametrize("monochrome1", [False, True])
def test_a_dicom_file_reads_back_exactly(tmp_path, kind, monochrome1):
    made = small(2, kind)
    path, again = tmp_path / "a.dcm", tmp_path / "b.dcm"
    for each in (path, again):
        write_dicom(made, each, patient_id="P1", seed=4, monochrome1=monochrome1)
    assert path.read_bytes() == again.read_bytes()
    data = pydicom.dcmread(path)
    expected = np.rint(made.pixels * 4095)
    if monochrome1:
        expected = 4095 - expected
    np.testing.assert_array_equal(data.pixel_array, expected)
    assert (data.BitsStored, data.BitsAllocated, data.HighBit) == (12, 16, 11)
    assert data.PhotometricInterpretation == ("MONOCHROME1" if monochrome1 else "MONOCHROME2")
    assert [float(s) for s in data.ImagerPixelSpacing] == list(made.spacing_mm)
    if kind == "mass":
        assert (data.Modality, data.ImageLaterality) == ("MG", "L")
        assert data.ViewCodeSequence[0].CodeValue == "399368009"
        assert data.PatientOrientation == ["A", "FR"]
    else:
        assert (data.Modality, data.ImageLaterality) == ("DX", "U")
        assert data.PatientOrientation == ["L", "F"]


def test_uids_follow_from_seed_patient_and_instance(tmp_path):
    made = small(0, None)

    def uids(**names: object) -> tuple[str, str]:
        write_dicom(made, tmp_path / "x.dcm", **{"patient_id": "P1", **names})
        data = pydicom.dcmread(tmp_path / "x.dcm")
        assert data.SOPInstanceUID.is_valid
        assert data.file_meta.MediaStorageSOPInstanceUID == data.SOPInstanceUID
        return data.StudyInstanceUID, data.SOPInstanceUID

    first = uids()
    assert uids() == first
    study, image = uids(instance=2)
    assert study == first[0]
    assert image != first[1]
    assert uids(seed=1)[0] != first[0]
    assert uids(patient_id="P2")[0] != first[0]


@pytest.mark.skipif(
    shutil.which("dciodvfy") is None, reason="dciodvfy is absent: install dicom3tools"
)
@pytest.mark.parametrize("kind", ["mass", "nodule"])
@pytest.mark.parametrize("monochrome1", [False, True])
def test_a_dicom_file_has_no_fault(tmp_path, kind, monochrome1):
    for seed in (0, 1):  # both views of a breast
        path = tmp_path / "a.dcm"
        write_dicom(small(seed, kind), path, patient_id="P1", monochrome1=monochrome1)
        told = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False)
        assert "Error" not in told.stdout + told.stderr


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("body_part", ["breast", "chest"])
def test_a_set_of_phantoms_keeps_its_promises(tmp_path, body_part):
    def make(folder: Path) -> tuple[Path, Path]:
        return phantom_set(
            folder, body_part=body_part, train_patients=2, test_patients=4, shape=(256, 208), seed=3
        )

    manifest, regions = make(tmp_path / "a")
    images, marks = rows_of(manifest), rows_of(regions)
    assert list(images[0]) == ["path", "patient_id", "label", "split", "laterality", "view"]
    assert list(marks[0]) == ["path", "x", "y", "width", "height", "kind"]
    assert len(images) == 12
    splits = {row["patient_id"]: row["split"] for row in images}
    assert sorted(splits.values()) == ["test"] * 4 + ["train"] * 2
    assert all(row["split"] == splits[row["patient_id"]] for row in images)
    ill = {row["patient_id"] for row in images if row["label"] == "positive"}
    assert len(ill) == 2
    assert all(splits[name] == "test" for name in ill)
    assert {row["path"] for row in marks} == {
        row["path"] for row in images if row["label"] == "positive"
    }
    for row in images:
        data = pydicom.dcmread(manifest.parent / row["path"])
        assert data.PatientID == row["patient_id"]
        assert (data.Rows, data.Columns) == (256, 208)
        assert data.ViewPosition == row["view"]
    for row in marks:
        assert 0 <= int(row["x"]) < int(row["x"]) + int(row["width"]) <= 208
        assert 0 <= int(row["y"]) < int(row["y"]) + int(row["height"]) <= 256

    make(tmp_path / "b")
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*.*"))
    assert len(files) == 14
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
