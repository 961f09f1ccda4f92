"""Jahan and Hasan's table on COVIDx: normal films against COVID-19.

Jahan, Hasan: autoencoder-based unsupervised anomaly detection for Covid-19 screening on chest X-ray
images (2022; venue and DOI unknown to us). Data: L. Wang, Z. Q. Lin, A. Wong, COVID-Net, Scientific
Reports 10:19549, 2020; Kaggle (covidx-cxr2).

    python pipelines/covidx.py DATA --out studies/covidx

DATA holds ``train.txt``, ``test.txt``, ``train/`` and ``test/``; later releases ``val.txt`` and
``val/`` too. A line is patient, file, class and source; names of files may hold spaces.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer
from published import (
    Asked,
    Configs,
    Limit,
    OnDevice,
    Out,
    Quick,
    Replication,
    Resume,
    Seeds,
    Sets,
    refused,
    replicate,
)
from published_data import Part, count_notes, write_part
from published_tables import PublishedRow

from patchad.errors import RequestError

CLASSES = ("negative", "positive")
COUNTS = {"train, negative": 13992, "train, positive": 16490, "test, negative": 200,
          "test, positive": 200}  # of COVIDx 9B  # fmt: skip
VALIDATION = 4732 / 15773  # of the normal films, as published
SPLITS = ("train", "val", "test")

PUBLISHED = (
    PublishedRow("CAE and KDE", "jahan2022", {"recall": 0.66, "AUROC": 0.672}, "Jahan, Hasan 2022"),
    PublishedRow("Tang 2019, 4,479 normal films", "", {"AUROC": 0.662}, "as they cite it"),
    PublishedRow("Khan 2020, 8,851 normal films", "", {"AUROC": 0.69}, "as they cite it"),
    PublishedRow("Nakao 2021, 6,853 normal films", "", {"AUROC": 0.630}, "as they cite it"),
)
_NOTES = (
    "Published: 11,041 normal films to train on, 4,732 to calibrate, 200 + 200 to test on. Their "
    "15,773 normal films are more than COVIDx's 13,992; they may be those with the test's 200 and "
    "1,583 of Kermany's, less 2, so that test films may have been trained on (our guess).",
    "Here 30 % of the patients with normal films calibrate; none of the test's patients trains.",
    "Negative in COVIDx is anything but COVID-19: pneumonia of other kinds too.",
)


def read_release(data: Path) -> tuple[pd.DataFrame, list[str]]:
    """The films of all splits, with columns of a manifest, and notes.

    Raises:
        RequestError: a list is missing or a line can't be understood; or there are no films.
    """
    rows = []
    for split in SPLITS:
        path = data / f"{split}.txt"
        if split == "val" and not path.exists():
            continue
        try:
            lines = path.read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise RequestError(
                f"{path} can't be read ({error}): give the folder of COVIDx"
            ) from None
        for number, line in enumerate(lines, start=1):
            if line.strip():
                rows.append({**_parsed(path, number, line), "split": split})
    table = pd.DataFrame(rows)
    paths = [(data / s / f).resolve() for s, f in zip(table["split"], table["file"], strict=True)]
    there = np.array([path.is_file() for path in paths], bool)
    if not there.any():
        raise RequestError(
            f"{data} holds none of the files that its lists name, in train/ and test/"
        )
    counts = table.value_counts(["split", "label"])
    found = {f"{split}, {label}": int(n) for (split, label), n in counts.items()}
    notes = count_notes(found, COUNTS)
    if not there.all():
        notes.append(f"{(~there).sum()} films that the lists name have no file.")
    return table.assign(path=[str(path) for path in paths])[there].reset_index(drop=True), notes


def _parsed(path: Path, number: int, line: str) -> dict[str, str]:
    """A line from its ends, since names of files may hold spaces."""
    words = line.split()
    if len(words) < 4 or words[-2] not in CLASSES:
        raise RequestError(
            f"{path}, line {number}: found {line!r}; needed: patient, file, "
            f"{' or '.join(CLASSES)}, source"
        )
    file = line.strip().split(maxsplit=1)[1].rsplit(maxsplit=2)[0]
    if Path(file).name != file:
        raise RequestError(f"{path}, line {number}: {file!r} is no name of a file")
    return {"patient_id": words[0], "file": file, "label": words[-2], "source": words[-1]}


def prepare(
    rows: pd.DataFrame, notes: list[str], seed: int, folder: Path, *, grey: Path, limit: int = 0
) -> list[Part]:
    """Write the tables of one seed: val films are for training and calibration too."""
    tested = {*rows["patient_id"][rows["split"] == "test"]}
    shared = (rows["split"] != "test") & rows["patient_id"].isin(tested)
    if shared.any():
        notes = [*notes, f"{shared.sum()} training films of the test's patients were left out."]
        rows = rows[~shared]
    normal = rows[(rows["split"] != "test") & (rows["label"] == "negative")]
    patients = np.random.default_rng(seed).permutation(sorted({*normal["patient_id"]})).tolist()
    aside = {*patients[: max(1, round(VALIDATION * len(patients)))]}
    held = (rows["split"] != "test") & rows["patient_id"].isin(aside)
    splits = np.where(rows["split"] == "test", "test", np.where(held, "validation", "train"))
    published = {"training, normal": 11041, "validation, normal": 4732, "test, normal": 200,
                 "test, abnormal": 200}  # fmt: skip
    return [
        write_part(
            rows.drop(columns="file").assign(split=splits), folder, limit=limit, seed=seed,
            published=published, grey=grey, notes=notes,
        )
    ]  # fmt: skip


def main(
    data: Annotated[Path, typer.Argument(help="The folder of covidx-cxr2.")],
    out: Out = Path("studies/covidx"),
    configs: Configs = "",
    seeds: Seeds = "0",
    quick: Quick = False,
    limit: Limit = 0,
    resume: Resume = False,
    device: OnDevice = "auto",
    sets: Sets = [],  # noqa: B006, as typer wants it
) -> None:
    """Train on films without COVID-19, and separate films with it from others."""
    with refused("covidx.py"):
        rows, notes = read_release(data)
        study = Replication(
            title="COVIDx" + (", quick" if quick else ""),
            use="chest",
            prepare=lambda seed, folder: prepare(
                rows, notes, seed, folder, grey=out / "pictures", limit=limit
            ),
            published=PUBLISHED,
            notes=_NOTES,
        )
        asked = Asked(out, configs, seeds, quick, limit, resume, device, tuple(sets))
        print(replicate(study, asked))


if __name__ == "__main__":
    typer.run(main)
