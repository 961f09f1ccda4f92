"""Pipelines of other pictures, on small trees in their owners' layouts; one runs to its table."""

import gzip
import struct
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from patchad.errors import RequestError
from patchad.read.manifest import read_manifest, read_regions

sys.path.insert(0, str(Path(__file__).parents[1] / "pipelines"))  # scripts, not a package

import brain_mri
import lag
import medmnist
import mvtec
import oct2017
import unlabelled_sets
from published_tables import FALSELY, FLAGGED


def digits(count: int, seed: int, *, bright: bool = False) -> np.ndarray:
    """Ramps with noise; ``bright`` ones have a square too."""
    rng = np.random.default_rng(seed)
    found = np.add.outer(np.arange(28), np.arange(28))[None] * 3 + rng.integers(
        0, 40, (count, 28, 28)
    )
    if bright:
        found[:, 8:18, 8:18] = 250
    return found.astype(np.uint8)


def npz(path: Path, counts: dict[str, tuple[int, int]]) -> Path:
    """Normal pictures have the label 0, others 1."""
    content = {}
    for seed, (split, (normal, ill)) in enumerate(counts.items()):
        content[f"{split}_images"] = np.concatenate(
            [digits(normal, seed), digits(ill, 9 + seed, bright=True)]
        )
        content[f"{split}_labels"] = np.repeat([0, 1], [normal, ill])[:, None].astype(np.uint8)
    np.savez(path, **content)
    return path


def idx(folder: Path, train: int = 20, test: int = 10) -> Path:
    folder.mkdir()
    for name, count in (("train", train), ("t10k", test)):
        head = struct.pack(">iiii", 2051, count, 28, 28)
        file = folder / f"{name}-images-idx3-ubyte.gz"
        file.write_bytes(gzip.compress(head + digits(count, count).tobytes()))
    return folder


def test_pneumoniamnist_is_divided_as_the_paper_says(tmp_path: Path) -> None:
    path = npz(tmp_path / "pneumoniamnist.npz", {"train": (30, 5), "val": (6, 4), "test": (8, 3)})
    data, other = medmnist.read_pictures(path), medmnist.read_pictures(idx(tmp_path / "fashion"))
    assert (other.name, other.labels) == ("fashionmnist", None)
    (part,) = medmnist.prepare(data, other, 0, 0, tmp_path / "out", pictures=tmp_path / "png")
    assert len(read_manifest(part.training)) == 36  # normal ones of train and val
    real, noise, others = (read_manifest(part.tests[t]) for t in ("", "noise", "other set"))
    assert sorted(row.label for row in real) == ["negative"] * 8 + ["positive"] * 7
    assert len(noise) == 500
    assert len(others) == 30  # all there are
    assert {row.label for row in (*noise, *others)} == {"positive"}
    first = np.asarray(Image.open(read_manifest(part.training)[0].path))
    np.testing.assert_array_equal(first, data.images["train"][0])
    noisy = np.asarray(Image.open(noise[0].path)) / 255.0
    spread = min(np.std(noisy - clean / 255) for clean in data.images["test"][:8])
    assert 0.1 < spread < 0.21  # 0.2, less what is clipped
    assert "pneumoniamnist, train: 35 here, 4708 published." in part.notes
    assert "pneumoniamnist, test: 11 here, 624 published." in part.notes


def test_mnist_has_no_real_anomalies(tmp_path: Path) -> None:
    data = medmnist.read_pictures(idx(tmp_path / "mnist"))
    (part,) = medmnist.prepare(data, None, None, 0, tmp_path / "out", pictures=tmp_path / "png")
    assert len(read_manifest(part.training)) == 20
    assert {row.label for row in read_manifest(part.tests[""])} == {"negative"}
    assert {*part.tests} == {"", "noise"}


def test_files_that_are_not_of_medmnist(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"no")
    with pytest.raises(RequestError, match="is no file of MedMNIST"):
        medmnist.read_pictures(tmp_path / "a.npz")
    with pytest.raises(RequestError, match="is no file of MedMNIST"):
        medmnist.read_pictures(tmp_path / "missing.npz")
    colour = {f"{s}_images": np.zeros((2, 28, 28, 3), np.uint8) for s in ("train", "val", "test")}
    colour |= {f"{s}_labels": np.zeros((2, 1), np.uint8) for s in ("train", "val", "test")}
    np.savez(tmp_path / "path mnist.npz", **colour)
    with pytest.raises(RequestError, match="the paper's are grey"):
        medmnist.read_pictures(tmp_path / "path mnist.npz")
    idx(tmp_path / "mnist")
    with pytest.raises(RequestError, match="can't be read"):
        medmnist.read_pictures(tmp_path)
    file = tmp_path / "mnist" / "train-images-idx3-ubyte.gz"
    file.write_bytes(gzip.compress(gzip.decompress(file.read_bytes())[:-1]))
    with pytest.raises(RequestError, match="no complete IDX file"):
        medmnist.read_pictures(tmp_path / "mnist")


def test_a_table_from_the_command_line(tmp_path: Path) -> None:
    path = npz(tmp_path / "pneumoniamnist.npz", {"train": (24, 2), "val": (4, 1), "test": (6, 5)})
    app = typer.Typer()
    app.command()(medmnist.main)
    out = tmp_path / "study"
    fashion = str(idx(tmp_path / "fashion"))
    asked = [str(path), "--other", fashion, "--out", str(out), "--limit", "24",
             "--device", "cpu", "--set", "vanhetreve2023.epochs=60",
             "--set", "vanhetreve2023.restarts=9"]  # fmt: skip
    run = CliRunner().invoke(app, asked)
    assert run.exit_code == 0, run.output
    results = pd.read_csv(out / "results.csv", keep_default_na=False)
    own = results[results["scorer"] == ""]
    found = {(row.test, row.figure): float(row.value) for row in own.itertuples() if row.value}
    scores = pd.read_csv(next(out.rglob("run/images.csv")))
    scores = scores[~scores["path"].str.contains("noise|other-")]
    positive = ~scores["path"].str.contains(r"test-[0-5]\.png")
    assert found["", FLAGGED] == pytest.approx((scores["score"][positive] > 2).mean())
    assert found["", FALSELY] == pytest.approx((scores["score"][~positive] > 2).mean())
    assert {"noise", "other set"} <= {test for test, figure in found if figure == FLAGGED}
    assert 0 < found["", "BCE"] < 1
    assert found["", "AUROC"] > 0.9
    chosen = {figure for figure in own["figure"] if figure.endswith("†")}
    assert {*own["figure"][own["chosen_on_test"].astype(str) == "True"]} == chosen != set()
    text = (out / "results.md").read_text()
    assert "| *van het Reve (2023)* |" in text
    assert "*0.260*" in text
    assert "at most 24 pictures of each split and label: a try" in text
    begun = next(out.rglob("model/card.json")).stat().st_mtime_ns
    assert CliRunner().invoke(app, [*asked, "--resume"]).exit_code == 0
    assert next(out.rglob("model/card.json")).stat().st_mtime_ns == begun  # nothing was done again
    run = CliRunner().invoke(app, [*asked, "--resume", "--quick"])
    assert run.exit_code == 2  # another study
    run = CliRunner().invoke(app, [*asked, "--configs", "ae2"])
    assert "medmnist.py: " in run.output
    assert "did you mean" in run.output


def picture(path: Path, mode: str = "L", size: tuple[int, int] = (8, 8)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size).save(path)
    return path


def mvtec_tree(folder: Path) -> Path:
    for name in ("carpet", "metal_nut"):
        for number in range(3):
            picture(folder / name / "train" / "good" / f"00{number}.png", "RGB", (40, 20))
        picture(folder / name / "test" / "good" / "000.png", "RGB", (40, 20))
        picture(folder / name / "test" / "hole" / "000.png", "RGB", (40, 20))
        mask = np.zeros((20, 40), np.uint8)
        mask[5, 10] = 255
        path = folder / name / "ground_truth" / "hole" / "000_mask.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(mask).save(path)
    return folder


def test_mvtec_has_a_part_for_each_category(tmp_path: Path) -> None:
    data = mvtec_tree(tmp_path / "data")
    parts = mvtec.prepare(data, ("carpet", "metal_nut"), 0, tmp_path / "out",
                          pictures=tmp_path / "png")  # fmt: skip
    assert [part.name for part in parts] == ["carpet", "metal_nut"]
    assert parts[0].facts["training, normal"] == 3
    labels = {row.path.stem: row.label for row in read_manifest(parts[0].tests[""])}
    assert labels == {"carpet-test-good-000": "negative", "carpet-test-hole-000": "positive"}
    assert parts[0].regions is not None
    ((path, (region,)),) = read_regions(parts[0].regions).items()
    with Image.open(path) as film:
        assert (film.size, film.mode) == ((256, 256), "L")
    # a pixel of 20 × 40 is 12.8 × 6.4 of 256 × 256: rows 64 to 76.8, columns 64 to 70.4, and those
    # whose centres lie in it
    assert (region.y, region.height, region.x, region.width) == (64, 13, 64, 6)
    assert region.kind == "hole"


def test_mvtec_without_a_mask(tmp_path: Path) -> None:
    data = mvtec_tree(tmp_path)
    (data / "carpet" / "ground_truth" / "hole" / "000_mask.png").unlink()
    with pytest.raises(RequestError, match=r"000_mask\.png is missing"):
        mvtec.find_rows(data, "carpet")
    app = typer.Typer()
    app.command()(mvtec.main)
    run = CliRunner().invoke(app, [str(data), "--categories", "carpet,screw"])
    assert "holds carpet, metal_nut, not screw" in run.output
    assert run.exit_code == 2


def oct_tree(folder: Path) -> Path:
    for number in range(4):
        picture(folder / "train" / "NORMAL" / f"NORMAL-10{number}-{number}.jpeg")
        picture(folder / "train" / "CNV" / f"CNV-20{number}-1.jpeg")
    picture(folder / "test" / "NORMAL" / "NORMAL-103-9.jpeg")  # train has this patient too
    for kind in ("CNV", "DME", "DRUSEN"):
        picture(folder / "test" / kind / f"{kind}-300-1.jpeg")
    return folder


def test_oct2017_has_patients_in_its_names(tmp_path: Path) -> None:
    rows, notes = oct2017.read_release(oct_tree(tmp_path / "in"))
    assert notes == ["1 normal scans of train are of patients of test or val."]
    (part,) = oct2017.prepare(rows, notes, 0, tmp_path / "out", grey=tmp_path / "grey")
    assert {row.patient_id for row in read_manifest(part.training)} == {"100", "101", "102"}
    tests = read_manifest(part.tests[""])
    assert sorted(row.label for row in tests) == ["negative"] + ["positive"] * 3
    assert "test, normal: 1 here, 250 published." in part.notes


def test_oct2017_with_a_strange_name(tmp_path: Path) -> None:
    data = oct_tree(tmp_path)
    picture(data / "train" / "NORMAL" / "NORMAL 7.jpeg")
    with pytest.raises(RequestError, match=r"NORMAL 7\.jpeg: its name is not"):
        oct2017.read_release(data)
    with pytest.raises(RequestError, match=r"holds no \*\.jpeg"):
        oct2017.read_release(tmp_path / "elsewhere")


def test_brains_of_both_folders_without_pituitary(tmp_path: Path) -> None:
    data = tmp_path / "in"
    for part in ("Training", "Testing"):
        for kind in ("glioma", "meningioma", "notumor", "pituitary"):
            for number in range(3):
                picture(data / part / kind / f"{part[:2]}-{kind[:2]}_{number}.jpg", "RGB")
    stock = brain_mri.read_release(data)
    assert stock.rows["label"].value_counts().to_dict() == {"positive": 12, "negative": 6}
    assert stock.kinds == ("glioma", "meningioma")
    (part,) = unlabelled_sets.parts_of(
        stock, brain_mri.SIZES, 0, tmp_path / "out", grey=tmp_path / "grey"
    )
    tests = read_manifest(part.tests[""])
    assert all(row.path.is_relative_to(tmp_path / "grey") for row in tests)
    (data / "Testing" / "notumor").rename(data / "Testing" / "no tumor")
    with pytest.raises(RequestError, match=r"Testing/notumor holds no"):
        brain_mri.read_release(data)


def test_lag_counts_its_pictures(tmp_path: Path) -> None:
    for name in lag.FOLDERS:
        for number in range(4):
            picture(tmp_path / name / "image" / f"{number}.jpg", "RGB")
            picture(tmp_path / name / "attention_map" / f"{number}.jpg")
    stock = lag.read_release(tmp_path)
    assert stock.rows["label"].value_counts().to_dict() == {"negative": 4, "positive": 4}
    assert stock.rows["patient_id"].is_unique  # names repeat between the folders
    assert stock.notes == (
        "non_glaucoma: 4 here, 3143 published.",
        "suspicious_glaucoma: 4 here, 1711 published.",
    )
    with pytest.raises(RequestError, match="give the folder LAG_database_part_1"):
        lag.read_release(tmp_path / "elsewhere")


def test_a_benchmark_from_the_command_line(tmp_path: Path) -> None:
    """The way that all data sets of the benchmark share, with bright squares as glaucoma."""
    rng, data = np.random.default_rng(0), tmp_path / "LAG_database_part_1"
    for name, kind in lag.FOLDERS.items():
        (data / name / "image").mkdir(parents=True)
        for number in range(16):
            pixels = rng.normal(120, 25, (32, 32))
            pixels[8:20, 8:20] += 90 * bool(kind)
            shown = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
            shown.save(data / name / "image" / f"{number}.jpg")
    app, out = typer.Typer(), tmp_path / "study"
    app.command()(lag.main)
    tiny = ("ae.side=16", "ae.channels=[4,8]", "ae.hidden=8", "ae.epochs=20")
    asked = [str(data), "--configs", "ae", "--out", str(out), "--device", "cpu"]
    run = CliRunner().invoke(app, [*asked, *(word for key in tiny for word in ("--set", key))])
    assert run.exit_code == 0, run.output
    text = (out / "results.md").read_text()
    assert text.startswith("# LAG\n")
    assert "The split is drawn by the seed, not DDAD's." in text
    assert "| *AE (Cai et al. 2023)* | *0.793* | *0.761* |" in text
    results = pd.read_csv(out / "results.csv", keep_default_na=False)
    found = results[(results["scorer"] == "") & (results["figure"] == "AUROC")]["value"]
    assert float(found.iloc[0]) > 0.9
    run = CliRunner().invoke(app, [*asked, "--anomaly-rate", "2"])
    assert run.exit_code == 2
    assert "lag.py: --anomaly-rate takes shares" in run.output
