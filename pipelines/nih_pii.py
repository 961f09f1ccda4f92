"""PII's table on NIH ChestX-ray: average precision, men and women apart.

J. Tan et al.: Detecting outliers with Poisson image interpolation. MICCAI 2021, LNCS 12905:581-591,
https://arxiv.org/abs/2107.02622. Data: the NIH release, and the authors' lists of file names.

    python pipelines/nih_pii.py DATA LISTS --out studies/nih_pii

DATA is the release's folder, as of nih_cxr.py. LISTS holds ``train_lists/`` and ``test_lists/``, as
in the authors' repository: ``norm_<group>_train_list.txt``, ``norm_<group>_test_list.txt`` and, of
each finding, ``<finding>_<group>_test_list.txt``, where the group is MaleAdultPA or FemaleAdultPA.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer
from nih_release import TABLES, Entry, find_images, read_entries
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

GROUPS = ("MaleAdultPA", "FemaleAdultPA")
COUNTS = {  # training, normal and abnormal test films
    "MaleAdultPA": (17852, 2634, 3366),
    "FemaleAdultPA": (14720, 2002, 2748),
}
_AP = (
    ("Deep SVDD", "deep_svdd", (0.565, 0.556)),
    ("VQ-VAE-2", "vqvae2", (0.503, 0.516)),
    ("FPI", "fpi", (0.533, 0.586)),
    ("PII", "pii", (0.690, 0.703)),
)
PUBLISHED = tuple(
    PublishedRow(label, config, {"AP": value}, "Tan et al. 2021", group)
    for label, config, values in _AP
    for group, value in zip(GROUPS, values, strict=True)
)
_NOTES = (
    "Published films are 256 × 256 and scaled film by film; ours are prepared by patchad and "
    "resized inside each method.",
    "The paper's images of fetal hearts are private: their rows can't be repeated.",
    "A tenth of the training patients calibrates the card's threshold and isn't trained on.",
)


def read_list(path: Path) -> list[str]:
    """The file names of a list.

    Raises:
        RequestError: it can't be read, or holds none.
    """
    try:
        names = path.read_text("utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(
            f"{path} can't be read ({error}): give PII's train_lists and test_lists"
        ) from None
    if not names:
        raise RequestError(f"{path} names no films")
    return names


def prepare(
    entries: Mapping[str, Entry], images: Mapping[str, Path], lists: Path, seed: int, folder: Path,
    *, limit: int = 0,
) -> list[Part]:  # fmt: skip
    """Write the tables of both groups.

    Raises:
        RequestError: a list is missing.
    """
    parts = []
    for group in GROUPS:
        tests = lists / "test_lists"
        files = sorted(tests.glob(f"*_{group}_test_list.txt"))
        ill = [path for path in files if not path.name.startswith(("norm_", "anomaly_"))]
        if not ill:
            raise RequestError(
                f"{tests} holds no <finding>_{group}_test_list.txt: give PII's lists"
            )
        named = {
            ("train", "negative"): read_list(
                lists / "train_lists" / f"norm_{group}_train_list.txt"
            ),
            ("test", "negative"): read_list(tests / f"norm_{group}_test_list.txt"),
            ("test", "positive"): [name for path in ill for name in read_list(path)],
        }
        rows = [
            {
                "path": str(images[name]),
                "patient_id": entries[name].patient,
                "label": label,
                "split": split,
                "view": entries[name].view,
                "spacing_mm": " ".join(f"{mm:.6g}" for mm in entries[name].spacing_mm or ()),
            }
            for (split, label), names in named.items()
            for name in dict.fromkeys(names)  # a film with two findings is in two lists
            if name in images and name in entries
        ]
        missing = sum(len({*names}) for names in named.values()) - len(rows)
        published = dict(zip(("training, normal", "test, normal", "test, abnormal"),
                             COUNTS[group], strict=True))  # fmt: skip
        notes = [f"{group}: {missing} films of the lists aren't in the release's folder."]
        columns = ["path", "patient_id", "label", "split", "view", "spacing_mm"]
        parts.append(
            write_part(
                pd.DataFrame(rows, columns=columns), folder / group, name=group, limit=limit,
                seed=seed, published=published, notes=notes if missing else (),
            )
        )  # fmt: skip
    return parts


def main(
    data: Annotated[Path, typer.Argument(help="The NIH release's folder.")],
    lists: Annotated[Path, typer.Argument(help="The folder with train_lists and test_lists.")],
    out: Out = Path("studies/nih_pii"),
    configs: Configs = "",
    seeds: Seeds = "0",
    quick: Quick = False,
    limit: Limit = 0,
    resume: Resume = False,
    device: OnDevice = "auto",
    sets: Sets = [],  # noqa: B006, as typer wants it
) -> None:
    """Train on films without finding, and separate films with one from others."""
    with refused("nih_pii.py"):
        table = next((data / name for name in TABLES if (data / name).exists()), None)
        if table is None:
            raise RequestError(
                f"{data} holds none of {', '.join(TABLES)}: give the release's folder"
            )
        entries = {entry.image: entry for entry in read_entries(table)}
        images = find_images(data)
        study = Replication(
            title="NIH ChestX-ray, PII's lists" + (", quick" if quick else ""),
            use="chest",
            prepare=lambda seed, folder: prepare(entries, images, lists, seed, folder, limit=limit),
            published=PUBLISHED,
            notes=_NOTES,
        )
        asked = Asked(out, configs, seeds, quick, limit, resume, device, tuple(sets))
        print(replicate(study, asked))


if __name__ == "__main__":
    typer.run(main)
