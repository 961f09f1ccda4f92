"""The benchmark of DDAD on RSNA's pneumonia challenge, and its two ablations.

G. Shih et al.: Augmenting the NIH chest radiograph dataset … Radiology: Artificial Intelligence
1:e180041, 2019. Data by Kaggle (rsna-pneumonia-detection-challenge). Figures: see benchmark.py.

    python pipelines/rsna.py DATA --split data/RSNA/data.json --out studies/rsna
    python pipelines/rsna.py DATA --anomaly-rate 0,0.2,0.4,0.6,0.8,1
    python pipelines/rsna.py DATA --unseen "No Lung Opacity / Not Normal"

DATA holds ``stage_2_train_images/<patientId>.dcm``, ``stage_2_train_labels.csv`` and
``stage_2_detailed_class_info.csv``. Normal are films of the class Normal, abnormal those with lung
opacity; the third class takes part only with --unseen.
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

IMAGES, LABELS = "stage_2_train_images", "stage_2_train_labels.csv"
CLASSES = "stage_2_detailed_class_info.csv"
NORMAL, OPACITY, OTHER = "Normal", "Lung Opacity", "No Lung Opacity / Not Normal"
COUNTS = {NORMAL: 8851, OPACITY: 6012, OTHER: 11821}
SIZES = Sizes(3851, 4000, 1000)


def read_release(data: Path, *, other: bool = False) -> Stock:
    """The films with their labels and boxes; with ``other``, also those of the third class.

    Raises:
        RequestError: a table is missing or has other columns or classes; or there are no films.
    """
    classes = read_rows(data / CLASSES, ("patientid", "class")).drop_duplicates("patientid")
    strange = sorted({*classes["class"]} - {*COUNTS})
    if strange:
        raise RequestError(
            f"{data / CLASSES} has the class {strange[0]!r}; the challenge has {', '.join(COUNTS)}"
        )
    found = classes["class"].value_counts().to_dict()
    notes = count_notes(found, COUNTS)
    if not other:
        classes = classes[classes["class"] != OTHER]
    paths = [(data / IMAGES / f"{patient}.dcm").resolve() for patient in classes["patientid"]]
    there = pd.Series([path.is_file() for path in paths], classes.index)
    if not there.any():
        raise RequestError(f"{data / IMAGES} holds none of the films that {CLASSES} names")
    if not there.all():
        notes.append(f"{(~there).sum()} films that {CLASSES} names have no file.")
    rows = pd.DataFrame(
        {
            "path": [str(path) for path in paths],
            "patient_id": classes["patientid"],
            "label": ["negative" if own == NORMAL else "positive" for own in classes["class"]],
            "kinds": [() if own == NORMAL else (own,) for own in classes["class"]],
        }
    )[there.to_numpy()]
    return Stock(rows.reset_index(drop=True), _boxes(data, rows), tuple(notes))


def _boxes(data: Path, rows: pd.DataFrame) -> pd.DataFrame:
    box = ["x", "y", "width", "height"]
    labels = read_rows(data / LABELS, ("patientid", *box, "target"))
    labels = labels[labels["target"] == "1"]
    places = dict(zip(rows["patient_id"], rows["path"], strict=True))
    labels = labels[labels["patientid"].isin(places)]
    return labels[box].assign(path=labels["patientid"].map(places), kind=OPACITY)


def main(
    data: Annotated[Path, typer.Argument(help="The challenge's folder.")],
    split: Annotated[Path | None, typer.Option(help="DDAD's data.json.")] = None,
    anomaly_rate: AnomalyRate = "",
    unseen: Unseen = "",
    out: Out = Path("studies/rsna"),
    configs: Configs = "",
    seeds: Seeds = "0",
    quick: Quick = False,
    limit: Limit = 0,
    resume: Resume = False,
    device: OnDevice = "auto",
    sets: Sets = [],  # noqa: B006, as typer wants it
) -> None:
    """Train on normal films, and separate films with lung opacity from others."""
    asked = Asked(out, configs, seeds, quick, limit, resume, device, tuple(sets))
    with refused("rsna.py"):
        report = repeat_benchmark(
            "rsna",
            "RSNA",
            "chest",
            SIZES,
            lambda: read_release(data, other=bool(unseen)),
            asked,
            split=split,
            anomaly_rate=anomaly_rate,
            unseen=unseen,
        )
        print(report)


if __name__ == "__main__":
    typer.run(main)
