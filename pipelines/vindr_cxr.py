"""The benchmark of DDAD on VinDr-CXR (VinBigData), and its two ablations.

H. Q. Nguyen et al.: VinDr-CXR: an open dataset of chest X-rays with radiologist's annotations.
Scientific Data 9:429, 2022. Figures: see benchmark.py.

    python pipelines/vindr_cxr.py DATA --split data/VinCXR/data.json --out studies/vindr
    python pipelines/vindr_cxr.py DATA --unseen "Pulmonary fibrosis,Pleural thickening"

DATA is PhysioNet's folder (``train/*.dicom`` and ``annotations/image_labels_train.csv``,
``annotations_train.csv``) or Kaggle's (``train/*.dicom``, ``train.csv``). Three radiologists read
each film. Normal is what all of them call so; boxes are those of all readers, so that one finding
has up to three; pixel figures are of their union.
"""

from pathlib import Path
from typing import Annotated

import pandas as pd
import typer
from benchmark import AnomalyRate, Unseen
from published import (
    Asked,
    Configs,
    Limit,
    OnDevice,
    Out,
    Quick,
    Resume,
    Seeds,
    Sets,
    refused,
)
from published_data import count_notes, read_rows
from repeat_benchmark import repeat_benchmark
from unlabelled_sets import Sizes, Stock

from patchad.errors import RequestError

NO_FINDING = "No finding"
COUNTS = {"normal": 10606, "abnormal": 4394}
SIZES = Sizes(4000, 4000, 1000)
_BOX = ("x_min", "y_min", "x_max", "y_max")


def read_release(data: Path) -> Stock:
    """The films of the training set with the findings and boxes of their readers.

    Raises:
        RequestError: neither layout is there, a table lacks columns, or there are no films.
    """
    kaggle, labels = data / "train.csv", data / "annotations" / "image_labels_train.csv"
    if kaggle.is_file():
        marks = read_rows(kaggle, ("image_id", "class_name", "rad_id", *_BOX))
        findings = _findings(marks["image_id"], marks["class_name"])
        readers = marks.groupby("image_id")["rad_id"].nunique()
    elif labels.is_file():
        table = read_rows(labels, ("image_id", "rad_id", NO_FINDING.lower()))
        marks = read_rows(data / "annotations" / "annotations_train.csv",
                          ("image_id", "class_name", *_BOX))  # fmt: skip
        findings = _findings(marks["image_id"], marks["class_name"])
        healthy = table.groupby("image_id")[NO_FINDING.lower()].agg(
            lambda own: all(value in ("1", "1.0") for value in own)
        )
        # labels of the whole film have no box: they still make it abnormal
        findings |= {i: findings.get(i) or ("without box",) for i in healthy.index[~healthy]}
        findings |= dict.fromkeys(healthy.index[healthy], ())
        readers = table.groupby("image_id")["rad_id"].nunique()
    else:
        raise RequestError(
            f"{data} has neither train.csv (Kaggle) nor annotations/image_labels_train.csv "
            "(PhysioNet): give the data set's folder"
        )
    rows = pd.DataFrame(
        {
            "path": str((data / "train" / f"{image}.dicom").resolve()),
            "patient_id": image,  # the release names no patients
            "label": "positive" if kinds else "negative",
            "kinds": kinds,
        }
        for image, kinds in sorted(findings.items())
    )
    there = rows["path"].map(lambda path: Path(path).is_file())
    if not there.any():
        raise RequestError(f"{data / 'train'} holds none of the films (*.dicom) of the tables")
    by_label = rows["label"].value_counts()
    found = {
        "normal": int(by_label.get("negative", 0)),
        "abnormal": int(by_label.get("positive", 0)),
    }
    notes = count_notes(found, COUNTS)
    if not there.all():
        notes.append(f"{(~there).sum()} films that the tables name have no file.")
    if (readers != 3).any():
        notes.append(f"{(readers != 3).sum()} films don't have three readers.")
    return Stock(rows[there].reset_index(drop=True), _boxes(marks, rows), tuple(notes))


def _findings(images: "pd.Series[str]", names: "pd.Series[str]") -> dict[str, tuple[str, ...]]:
    found: dict[str, set[str]] = {}
    for image, name in zip(images, names, strict=True):
        found.setdefault(image, set()).update({name} - {NO_FINDING})
    return {image: tuple(sorted(kinds)) for image, kinds in found.items()}


def _boxes(marks: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    marks = marks[(marks["class_name"] != NO_FINDING) & (marks["x_min"] != "")]
    places = dict(zip(rows["patient_id"], rows["path"], strict=True))
    try:
        left, top, right, bottom = (marks[name].astype(float) for name in _BOX)
    except ValueError as error:
        raise RequestError(
            f"a box has no numbers ({error}): give the table as distributed"
        ) from None
    boxes = pd.DataFrame(
        {
            "path": marks["image_id"].map(places), "x": left, "y": top, "width": right - left,
            "height": bottom - top, "kind": marks["class_name"],
        }
    )  # fmt: skip
    return boxes[(boxes["width"] > 0) & (boxes["height"] > 0)]


def main(
    data: Annotated[Path, typer.Argument(help="The folder of PhysioNet or Kaggle.")],
    split: Annotated[Path | None, typer.Option(help="DDAD's data.json.")] = None,
    anomaly_rate: AnomalyRate = "",
    unseen: Unseen = "",
    out: Out = Path("studies/vindr_cxr"),
    configs: Configs = "",
    seeds: Seeds = "0",
    quick: Quick = False,
    limit: Limit = 0,
    resume: Resume = False,
    device: OnDevice = "auto",
    sets: Sets = [],  # noqa: B006, as typer wants it
) -> None:
    """Train on films without finding, and separate films with one from others."""
    asked = Asked(out, configs, seeds, quick, limit, resume, device, tuple(sets))
    with refused("vindr_cxr.py"):
        report = repeat_benchmark(
            "vindr",
            "VinDr-CXR",
            "chest",
            SIZES,
            lambda: read_release(data),
            asked,
            split=split,
            anomaly_rate=anomaly_rate,
            unseen=unseen,
            notes=("Boxes are those of all readers together.",),
        )
        print(report)


if __name__ == "__main__":
    typer.run(main)
