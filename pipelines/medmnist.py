"""Van het Reve's table: three flagged shares on pictures of 28 × 28 pixels.

S. van het Reve: anomaly detection in medical images with a convolutional autoencoder. 40th Twente
Student Conference on IT, 2023. Data: J. Yang et al., MedMNIST v2, Scientific Data 10:41, 2023
(https://doi.org/10.5281/zenodo.10519652); MNIST and FashionMNIST as their owners distribute them.

    python pipelines/medmnist.py pneumoniamnist.npz --other fashion/ --out studies/medmnist

DATA is ``pneumoniamnist.npz`` or ``octmnist.npz`` (or any set of MedMNIST whose pictures are grey,
with --normal for the normal label), or a folder with ``train-images-idx3-ubyte.gz``. OTHER is
another such file or folder, whose pictures are all anomalies.
"""

import gzip
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
import typer
from numpy.typing import NDArray
from PIL import Image
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
from published_tables import FLAGGED, PublishedRow

from patchad.errors import RequestError
from patchad.methods import load

SIDE = 28
ANOMALIES = 500  # of each kind, as published
NOISE = 0.2  # standard deviation, of intensities in [0, 1]
MOST = 11_000  # MNIST and OCTMNIST: the published images ÷ seconds are of so many
NORMAL = {"pneumoniamnist": 0, "octmnist": 3}
COUNTS = {  # as distributed, by split
    "pneumoniamnist": {"train": 4708, "val": 524, "test": 624},
    "octmnist": {"train": 97477, "val": 10832, "test": 1000},
}
# Other set, noise, real; BCE; images and training seconds.
_TABLE = {
    "mnist": (0.962, 0.873, None, 0.3408, 11000 / 324.35),
    "pneumoniamnist": (0.862, 0.825, 0.260, 0.7381, 5232 / 145.52),
    "octmnist": (0.698, 0.859, 0.190, 0.5146, 11000 / 336.17),
}
OTHER_SET, NOISY, REAL = "other set", "noise", ""
_NOTES = (
    "Trained on normal pictures alone. The published 5232 pictures of PneumoniaMNIST are its train "
    "and val splits together, so pneumonia was among them; of the second and third set it says "
    "11000, which we take as so many normal ones, drawn by the seed.",
    "A tenth of them calibrates the card's threshold and isn't trained on.",
    "The published binary cross-entropy of PneumoniaMNIST, 0.738, is above that of a constant 0.5 "
    "(ln 2 = 0.693) and can't be that of a trained network as described.",
    "Noise: held-out normal pictures + N(0, 0.2²), clipped to [0, 1], as 8-bit pictures. The paper "
    "doesn't say which of its own pictures got it.",
    "About 5 % of normal pictures are beyond 2 standard deviations by construction: see normals "
    "flagged.",
)


@dataclass(frozen=True, eq=False)
class Pictures:
    """A set: ``images`` by split (N, 28, 28) uint8, ``labels`` (N,); None where it has none."""

    name: str
    images: Mapping[str, NDArray[np.uint8]]
    labels: Mapping[str, NDArray[np.int64]] | None


def read_pictures(path: Path) -> Pictures:
    """Read a file of MedMNIST, or a folder of IDX files.

    Raises:
        RequestError: it is neither, or its pictures aren't 28 × 28 and grey.
    """
    if path.is_dir():
        return _read_idx(path)
    try:
        with np.load(path, allow_pickle=False) as content:
            images = {s: content[f"{s}_images"] for s in ("train", "val", "test")}
            labels = {s: content[f"{s}_labels"].astype(np.int64) for s in images}
    except (OSError, ValueError, LookupError, zipfile.BadZipFile) as error:
        raise RequestError(
            f"{path} is no file of MedMNIST with train, val and test images and labels ({error}): "
            "give an .npz of 28 × 28, or a folder with IDX files"
        ) from None
    for split, pictures in images.items():
        _check(path, pictures)
        if labels[split].shape != (len(pictures), 1):
            raise RequestError(f"{path}: {split}_labels are not one for each picture")
    return Pictures(path.stem, images, {s: own[:, 0] for s, own in labels.items()})


def _read_idx(folder: Path) -> Pictures:
    images = {}
    for split, name in (("train", "train"), ("test", "t10k")):
        file = folder / f"{name}-images-idx3-ubyte.gz"
        try:
            content = gzip.decompress(file.read_bytes())
        except (OSError, EOFError) as error:
            raise RequestError(
                f"{file} can't be read ({error}): give a folder with train-images-idx3-ubyte.gz "
                "and t10k-images-idx3-ubyte.gz"
            ) from None
        head = np.frombuffer(content[:16], ">i4")
        if len(head) < 4 or head[0] != 2051 or len(content) != 16 + int(head[1:].prod()):
            raise RequestError(f"{file} is no complete IDX file of pictures: fetch it again")
        images[split] = np.frombuffer(content[16:], np.uint8).reshape(head[1:])
        _check(file, images[split])
    name = "fashionmnist" if "fashion" in folder.resolve().name.lower() else "mnist"
    return Pictures(name, images, None)


def _check(path: Path, pictures: NDArray[np.generic]) -> None:
    if pictures.shape[1:] != (SIDE, SIDE) or pictures.dtype != np.uint8:
        raise RequestError(
            f"{path} holds {pictures.dtype} pictures of {pictures.shape[1:]}: the paper's are "
            "grey, 8-bit, 28 × 28"
        )


def prepare(
    data: Pictures,
    other: Pictures | None,
    normal: int | None,
    seed: int,
    folder: Path,
    *,
    pictures: Path,
    limit: int = 0,
) -> list[Part]:
    """Write pictures and tables for one seed.

    Normal pictures of train and val are trained on, those of test are judged. Anomalies are 500 of
    each kind: of the other set, noisy ones, and real ones of test, then of val.

    Raises:
        RequestError: no picture is normal.
    """
    rng = np.random.default_rng(seed)
    held = {split: data.labels[split] != normal if data.labels else np.zeros(len(own), bool)
            for split, own in data.images.items()}  # fmt: skip
    learnt = [(s, n) for s in held if s != "test" for n in np.flatnonzero(~held[s]).tolist()]
    if not learnt:
        raise RequestError(
            f"{data.name} has no picture of label {normal}: give another by --normal"
        )
    if data.name in ("mnist", "octmnist") and len(learnt) > MOST:
        learnt = [learnt[n] for n in sorted(rng.permutation(len(learnt))[:MOST].tolist())]
    judged = [("test", n) for n in np.flatnonzero(~held["test"]).tolist()]
    ill = [(s, n) for s in ("test", "val") if s in held for n in np.flatnonzero(held[s]).tolist()]
    first = int(held["test"].sum())  # of test before val, in an order that the seed draws
    order = [*rng.permutation(first), *(first + rng.permutation(len(ill) - first))]
    real = [ill[int(n)] for n in order[:ANOMALIES]]
    rows = [*(_row(data, s, n, "negative", "train", pictures) for s, n in learnt)]
    rows += [_row(data, s, n, "negative", "test", pictures) for s, n in judged]
    rows += [_row(data, s, n, "positive", "test", pictures) for s, n in real]
    kinds = [REAL] * len(rows)
    for number in range(ANOMALIES):
        split, index = judged[int(rng.integers(len(judged)))]
        clean = data.images[split][index] / 255
        noisy = np.clip(clean + rng.normal(0, NOISE, clean.shape), 0, 1)
        name = f"{data.name}-noise{number}-{seed}"
        rows.append(_write(np.rint(255 * noisy), name, "positive", "test", pictures))
        kinds.append(NOISY)
    if other is not None:
        stock = np.concatenate([*other.images.values()])
        for n in rng.permutation(len(stock))[:ANOMALIES].tolist():
            name = f"other-{other.name}-{n}"
            rows.append(_write(stock[n], name, "positive", "test", pictures))
            kinds.append(OTHER_SET)
    table = pd.DataFrame(rows)
    kind = pd.Series(kinds)
    if limit:  # of each kind of anomaly
        mixed = table.assign(kind=kind).sample(frac=1, random_state=seed)
        kept = mixed.groupby(["split", "label", "kind"], sort=False).head(limit).index
        table, kind = table.loc[sorted(kept)], kind.loc[sorted(kept)]
    found = {split: len(own) for split, own in data.images.items()}
    wanted = COUNTS.get(data.name, {})
    part = write_part(
        table,
        folder,
        name=data.name,
        tests={test: {*table["path"][kind == test]} for test in (REAL, NOISY, OTHER_SET)},
        notes=[f"{data.name}, {note}" for note in count_notes(found, wanted)],
    )
    return [part]


def _row(data: Pictures, split: str, n: int, label: str, use: str, folder: Path) -> dict[str, str]:
    return _write(data.images[split][n], f"{data.name}-{split}-{n}", label, use, folder)


def _write(
    picture: NDArray[np.generic], name: str, label: str, split: str, folder: Path
) -> dict[str, str]:
    """Write a picture as PNG, unless it is there; its row of the manifest."""
    path = folder / f"{name}.png"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture.astype(np.uint8)).save(path)
    return {"path": str(path.resolve()), "patient_id": name, "label": label, "split": split}


def cross_entropy(method: str, model: Path) -> dict[str, float]:
    """The mean cross-entropy of van het Reve's network on its training pictures."""
    if method != "vanhetreve2023":
        return {}
    module = load(model, torch.device("cpu")).module
    return {"BCE": float(module.mean)}  # type: ignore[arg-type]


def published_rows(name: str) -> tuple[PublishedRow, ...]:
    """The rows of the paper about this set, by test set; unknown sets have none."""
    config = "vanhetreve2023"
    if name not in _TABLE:
        return (PublishedRow("van het Reve", config, {}, "2023, other sets", name),)
    other, noise, real, bce, rate = _TABLE[name]
    source, label = "2023", "van het Reve"
    whole = {"BCE": bce, "training images a second": rate}
    rows = [
        PublishedRow(label, config, {FLAGGED: noise}, source, name, NOISY),
        PublishedRow(label, config, {FLAGGED: other}, source, name, OTHER_SET),
    ]
    first = {**whole} if real is None else {FLAGGED: real, **whole}
    return (PublishedRow(label, config, first, source, name), *rows)


def main(
    data: Annotated[Path, typer.Argument(help="An .npz of MedMNIST, or a folder of IDX files.")],
    other: Annotated[Path | None, typer.Option(help="Of other pictures: all anomalies.")] = None,
    normal: Annotated[
        int | None, typer.Option(help="The normal label; known of PneumoniaMNIST and OCTMNIST.")
    ] = None,
    out: Out = Path("studies/medmnist"),
    configs: Configs = "",
    seeds: Seeds = "0",
    quick: Quick = False,
    limit: Limit = 0,
    resume: Resume = False,
    device: OnDevice = "auto",
    sets: Sets = [],  # noqa: B006, as typer wants it
) -> None:
    """Train on normal pictures, and flag another set's, noisy ones and real anomalies."""
    with refused("medmnist.py"):
        own = read_pictures(data)
        label = NORMAL.get(own.name, normal) if normal is None else normal
        if own.labels is not None and label is None:
            raise RequestError(f"which label of {own.name} is normal? Give --normal")
        others = read_pictures(other) if other else None
        missing = () if others else ("No other set was given: --other PATH.",)
        study = Replication(
            title=f"{own.name}, 28 × 28" + (", quick" if quick else ""),
            use="picture",
            overrides={"patch_size": SIDE, "stride": SIDE},
            prepare=lambda seed, folder: prepare(
                own, others, label, seed, folder, pictures=out / "pictures", limit=limit
            ),
            published=published_rows(own.name),
            notes=(*_NOTES, *missing),
            measure=cross_entropy,
        )
        asked = Asked(out, configs, seeds, quick, limit, resume, device, tuple(sets))
        print(replicate(study, asked))


if __name__ == "__main__":
    typer.run(main)
