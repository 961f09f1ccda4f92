"""f-AnoGAN's table, repeated on Kermany's OCT scans.

T. Schlegl et al.: f-AnoGAN. Medical Image Analysis 54:30-44, 2019,
https://doi.org/10.1016/j.media.2019.01.010. Their data are private, so D. S. Kermany et al., Cell
172:1122-1131, 2018 (https://doi.org/10.17632/rscbjbr9sj) stand in.

    python pipelines/oct2017.py DATA --out studies/oct2017

DATA is ``OCT2017``: ``{train,val,test}/{CNV,DME,DRUSEN,NORMAL}/<class>-<patient>-<number>.jpeg``.
Normal scans of ``train`` train, ``test`` is judged.
"""

import re
from pathlib import Path
from typing import Annotated

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
from published_data import Part, write_part
from published_tables import PublishedRow

from patchad.errors import RequestError

CLASSES = ("CNV", "DME", "DRUSEN", "NORMAL")
_NAME = re.compile(r"(?P<kind>[A-Z]+)-(?P<patient>[^-]+)-[^-]+")
_COLUMNS = ("precision", "recall", "specificity", "F1", "AUROC")
_TABLE = (
    ("f-AnoGAN, ziz", "fanogan+encoder=ziz", (0.7047, 0.8146, 0.8522, 0.7557, 0.9066)),
    ("f-AnoGAN, izi", "fanogan+encoder=izi", (0.7018, 0.7497, 0.8621, 0.7250, 0.8874)),
    ("f-AnoGAN, izi_f", "fanogan", (0.7863, 0.8091, 0.9049, 0.7975, 0.9301)),
    ("AE", "advae+adversarial_weight=0", (0.6824, 0.7195, 0.8550, 0.7005, 0.8688)),
    ("AdvAE", "advae", (0.6405, 0.7856, 0.8092, 0.7057, 0.8649)),
    ("ALI", "ali", (0.5063, 0.7434, 0.6863, 0.6023, 0.7897)),
    ("A_D, the critic", "a_d", (0.4909, 0.6831, 0.6931, 0.5713, 0.7504)),
    ("iterative", "anogan+generator=fanogan", (0.7202, 0.8049, 0.8645, 0.7602, 0.9114)),
)
PUBLISHED = tuple(
    PublishedRow(label, config, dict(zip(_COLUMNS, own, strict=True)), "Schlegl et al. 2019")
    for label, config, own in _TABLE
)
_NOTES = (
    "Published: 64 × 64 patches of private scans, 30.2 % of them anomalous (by arithmetic), at a "
    "threshold chosen on them; here whole scans of another camera, three in four anomalous, so "
    "that only the order of the methods compares, and precision not even that.",
    "AE: the generator and encoder of f-AnoGAN by squared error alone, AdvAE's with no critic.",
    "A patient of test or val with scans in train is left out of training.",
    "A tenth of the training patients calibrates the card's threshold and isn't trained on.",
)


def read_release(data: Path) -> tuple[pd.DataFrame, list[str]]:
    """The scans of train (normal) and test, and notes.

    Raises:
        RequestError: a folder is missing, or a name isn't one of the release.
    """
    rows = []
    for split in ("train", "test"):
        for kind in CLASSES if split == "test" else ("NORMAL",):
            folder = data / split / kind
            files = sorted(folder.glob("*.jpeg"))
            if not files:
                raise RequestError(f"{folder} holds no *.jpeg: give the folder OCT2017")
            for file in files:
                name = _NAME.fullmatch(file.stem)
                if name is None or name["kind"] != kind:
                    raise RequestError(f"{file}: its name is not {kind}-<patient>-<number>.jpeg")
                rows.append(
                    {
                        "path": str(file.resolve()),
                        "patient_id": name["patient"],
                        "label": "negative" if kind == "NORMAL" else "positive",
                        "split": split,
                        "kind": kind,
                    }
                )
    table = pd.DataFrame(rows)
    tested = {*table["patient_id"][table["split"] == "test"]}
    for file in (data / "val").glob("*/*.jpeg"):
        name = _NAME.fullmatch(file.stem)
        tested |= {name["patient"]} if name else set()
    shared = (table["split"] == "train") & table["patient_id"].isin(tested)
    notes = []
    if shared.any():
        notes.append(f"{shared.sum()} normal scans of train are of patients of test or val.")
    return table[~shared].reset_index(drop=True), notes


def prepare(
    rows: pd.DataFrame, notes: list[str], seed: int, folder: Path, *, grey: Path, limit: int = 0
) -> list[Part]:
    """Write the tables of one seed."""
    return [
        write_part(rows, folder, limit=limit, seed=seed, grey=grey, notes=notes,
                   published={"test, normal": 250, "test, abnormal": 750})
    ]  # fmt: skip


def main(
    data: Annotated[Path, typer.Argument(help="The folder OCT2017.")],
    out: Out = Path("studies/oct2017"),
    configs: Configs = "",
    seeds: Seeds = "0",
    quick: Quick = False,
    limit: Limit = 0,
    resume: Resume = False,
    device: OnDevice = "auto",
    sets: Sets = [],  # noqa: B006, as typer wants it
) -> None:
    """Train on normal scans, and separate those with CNV, DME or drusen."""
    with refused("oct2017.py"):
        rows, notes = read_release(data)
        study = Replication(
            title="OCT2017" + (", quick" if quick else ""),
            use="picture",
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
