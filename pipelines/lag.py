"""The benchmark of DDAD on fundus pictures of glaucoma (LAG).

L. Li et al.: Attention based glaucoma detection. CVPR 2019. Figures: see benchmark.py.

    python pipelines/lag.py LAG_database_part_1 --split data/LAG/data.json --out studies/lag

DATA is ``LAG_database_part_1``: ``{non_glaucoma,suspicious_glaucoma}/image/*.jpg``. The set names
no patients. Pictures are made grey.
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
from published_data import count_notes
from repeat_benchmark import repeat_benchmark
from unlabelled_sets import Sizes, Stock

from patchad.errors import RequestError

FOLDERS = {"non_glaucoma": "", "suspicious_glaucoma": "suspicious glaucoma"}
COUNTS = {"non_glaucoma": 3143, "suspicious_glaucoma": 1711}  # in DDAD's lists
SIZES = Sizes(1500, 1500, 811)
_NOTES = (
    "Grey pictures: patchad's methods see one channel, and glaucoma shows in colour too.",
    "No patients are known: both eyes of one may be trained on and judged, as published.",
)


def read_release(data: Path) -> Stock:
    """The pictures with their labels.

    Raises:
        RequestError: a folder is missing or empty.
    """
    rows, found = [], {}
    for name, kind in FOLDERS.items():
        folder = data / name / "image"
        files = sorted(folder.glob("*.jpg"))
        if not files:
            raise RequestError(f"{folder} holds no *.jpg: give the folder LAG_database_part_1")
        found[name] = len(files)
        for file in files:
            rows.append(
                {
                    "path": str(file.resolve()),
                    "patient_id": f"{name}-{file.stem}",
                    "label": "positive" if kind else "negative",
                    "kinds": (kind,) if kind else (),
                }
            )
    return Stock(pd.DataFrame(rows), notes=tuple(count_notes(found, COUNTS)))


def main(
    data: Annotated[Path, typer.Argument(help="The folder LAG_database_part_1.")],
    split: Annotated[Path | None, typer.Option(help="DDAD's data.json.")] = None,
    anomaly_rate: AnomalyRate = "",
    out: Out = Path("studies/lag"),
    configs: Configs = "",
    seeds: Seeds = "0",
    quick: Quick = False,
    limit: Limit = 0,
    resume: Resume = False,
    device: OnDevice = "auto",
    sets: Sets = [],  # noqa: B006, as typer wants it
) -> None:
    """Train on eyes without glaucoma, and separate those with it."""
    asked = Asked(out, configs, seeds, quick, limit, resume, device, tuple(sets))
    with refused("lag.py"):
        report = repeat_benchmark(
            "lag",
            "LAG",
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
