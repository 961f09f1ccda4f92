"""The benchmark of DDAD on MR slices of brains.

M. Nickparvar: Brain Tumor MRI Dataset, Kaggle, 2021. Figures: see benchmark.py.

    python pipelines/brain_mri.py DATA --split data/BrainTumor/data.json --out studies/brain_mri

DATA holds ``{Training,Testing}/{glioma,meningioma,notumor,pituitary}/*.jpg``. As in DDAD, both
folders are mixed, abnormal are glioma and meningioma, and pituitary tumours aren't used. The set
names no patients, so slices of one may be in training and test.
"""

from pathlib import Path
from typing import Annotated

import pandas as pd
import typer
from benchmark import AnomalyRate
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
from repeat_benchmark import repeat_benchmark
from unlabelled_sets import Sizes, Stock

from patchad.errors import RequestError

FOLDERS = {"notumor": "", "glioma": "glioma", "meningioma": "meningioma"}
SIZES = Sizes(1000, 1000, 600)
_NOTES = (
    "No patients are known: slices of one may be trained on and judged, here as published.",
    "The paper counts 2,666 abnormal pictures in all; DDAD's lists have 1,200.",
)


def read_release(data: Path) -> Stock:
    """The slices of both folders with their labels.

    Raises:
        RequestError: a folder is missing or empty.
    """
    rows = []
    for part in ("Training", "Testing"):
        for name, kind in FOLDERS.items():
            files = sorted((data / part / name).glob("*.jpg"))
            if not files:
                raise RequestError(
                    f"{data / part / name} holds no *.jpg: give the folder with Training and "
                    "Testing"
                )
            for file in files:
                rows.append(
                    {
                        "path": str(file.resolve()),
                        "patient_id": f"{part}-{file.stem}",
                        "label": "positive" if kind else "negative",
                        "kinds": (kind,) if kind else (),
                    }
                )
    return Stock(pd.DataFrame(rows))


def main(
    data: Annotated[Path, typer.Argument(help="The folder with Training and Testing.")],
    split: Annotated[Path | None, typer.Option(help="DDAD's data.json.")] = None,
    anomaly_rate: AnomalyRate = "",
    out: Out = Path("studies/brain_mri"),
    configs: Configs = "",
    seeds: Seeds = "0",
    quick: Quick = False,
    limit: Limit = 0,
    resume: Resume = False,
    device: OnDevice = "auto",
    sets: Sets = [],  # noqa: B006, as typer wants it
) -> None:
    """Train on slices without tumour, and separate those with glioma or meningioma."""
    asked = Asked(out, configs, seeds, quick, limit, resume, device, tuple(sets))
    with refused("brain_mri.py"):
        report = repeat_benchmark(
            "brain",
            "Brain Tumor MRI",
            "picture",
            SIZES,
            lambda: read_release(data),
            asked,
            split=split,
            anomaly_rate=anomaly_rate,
            notes=_NOTES,
        )
        print(report)


if __name__ == "__main__":
    typer.run(main)
