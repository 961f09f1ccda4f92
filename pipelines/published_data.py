"""The tables of a paper's split: which pictures train, which are unlabelled, which are judged."""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from PIL import Image

from patchad.errors import RequestError
from patchad.files.whole import write_whole
from patchad.read.table import read_table

_GREY = ("1", "L", "I", "F", "I;16", "I;16L", "I;16B")  # of Pillow
REGIONS = ("path", "x", "y", "width", "height", "mask", "kind")


@dataclass(frozen=True)
class Part:
    """A data set, or a part of it, that is trained and tested on its own.

    ``training`` is a manifest of negatives and unlabelled pictures, ``images`` one of all test
    pictures; ``tests`` are manifests of those judged together, by name, "" the paper's own. Of a
    set without negatives there is the flagged share alone. ``regions`` are lesions of test
    pictures; ``facts`` are counts.
    """

    name: str
    training: Path
    images: Path
    tests: Mapping[str, Path]
    regions: Path | None = None
    facts: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def write_part(
    rows: pd.DataFrame,
    folder: Path,
    *,
    name: str = "",
    regions: pd.DataFrame | None = None,
    limit: int = 0,
    seed: int = 0,
    tests: Mapping[str, Collection[object]] | None = None,
    published: Mapping[str, int] | None = None,
    grey: Path | None = None,
    notes: Sequence[str] = (),
) -> Part:
    """Write the tables of one part.

    Args:
        rows: path, patient_id, label, split (train, validation, unlabelled or test), and other
            columns of a manifest. Only negatives train and calibrate.
        folder: to write into.
        name: of the part.
        regions: path, x, y, width, height, mask and kind (or some of them) of lesions.
        limit: the most pictures of each split and label, 0 for all.
        seed: of the choice of these.
        tests: the paths of test pictures to judge separately, by name; all together by default.
        published: counts, by the names of the part's facts; a note says where they differ.
        grey: where grey copies of colour pictures go; None if there are none.
        notes: about the data.

    Raises:
        RequestError: a split is empty.
    """
    rows = limit_rows(rows, limit, seed)
    learnt = rows[rows["split"].isin(["train", "validation"]) & (rows["label"] == "negative")]
    loose = rows[rows["split"] == "unlabelled"]
    judged = rows[rows["split"] == "test"]
    if learnt.empty or judged.empty:
        which = "negatives to train on" if learnt.empty else "pictures to test on"
        raise RequestError(
            f"{name or 'the data'}: no {which} found: check the folder and its lists"
        )
    # a patient is never in two splits of a manifest
    own = loose["patient_id"].isin(learnt["patient_id"])
    if own.any():
        notes = [*notes, f"{own.sum()} unlabelled pictures of training patients were left out."]
        loose = loose[~own]
    crossing = {*learnt["patient_id"], *loose["patient_id"]} & {*judged["patient_id"]}
    if crossing:
        notes = [*notes, f"{len(crossing)} patients have pictures in training and in the test set."]
    facts = {
        "training, normal": int((learnt["split"] == "train").sum()),
        "validation, normal": int((learnt["split"] == "validation").sum()),
        "unlabelled, normal": int((loose["label"] == "negative").sum()),
        "unlabelled, abnormal": int((loose["label"] == "positive").sum()),
        "test, normal": int((judged["label"] == "negative").sum()),
        "test, abnormal": int((judged["label"] == "positive").sum()),
    }
    if not limit:
        of = f"{name}, " if name else ""
        notes = [*notes, *(of + note for note in count_notes(facts, published or {}))]
    used = pd.concat([learnt, loose, judged])["path"].astype(str)
    copies = {} if grey is None else {path: as_grey(Path(path), grey) for path in {*used}}

    def table(part: pd.DataFrame, file: str) -> Path:
        paths = part["path"].astype(str)
        shown = part.assign(path=[copies.get(path, path) for path in paths])
        write_whole(folder / file, shown.to_csv(index=False))
        return folder / file

    sets = {"": judged}
    if tests is not None:
        sets = {test: judged[judged["path"].isin(paths)] for test, paths in tests.items()}
    for test, own in sets.items():
        if test:
            facts[f"{test}, abnormal"] = int((own["label"] == "positive").sum())
    if "" in sets:
        facts["test, abnormal"] = int((sets[""]["label"] == "positive").sum())
    manifests = {
        test: table(own, f"test-{number}.csv")
        for number, (test, own) in enumerate(sets.items())
        if len(own)
    }
    together = judged[judged["path"].isin({*pd.concat([*sets.values()])["path"]})]
    marks = None
    if regions is not None:
        ill = judged["path"][judged["label"] == "positive"].astype(str)
        kept = regions[regions["path"].astype(str).isin(ill)]
        facts["regions"] = len(kept)
        marks = table(kept, "regions.csv") if len(kept) else None
    training = table(pd.concat([learnt, loose.assign(label="unknown")]), "training.csv")
    images = table(together, "test.csv")
    return Part(name, training, images, manifests, marks, facts, (*notes,))


def limit_rows(rows: pd.DataFrame, limit: int, seed: int) -> pd.DataFrame:
    """At most ``limit`` rows of each split and label, drawn by ``seed``; all with 0."""
    if not limit:
        return rows
    mixed = rows.sample(frac=1, random_state=seed)
    kept = mixed.groupby(["split", "label"], sort=False).head(limit)
    return rows.loc[sorted(kept.index)]


def as_grey(path: Path, folder: Path) -> Path:
    """The picture itself if it is grey, else a grey copy (ITU-R 601 luma) in ``folder``.

    Raises:
        RequestError: it is no picture.
    """
    try:
        with Image.open(path) as picture:
            if picture.mode in _GREY:
                return path
            parents = "-".join(path.parent.parts[-3:])  # names repeat between folders
            copy = folder / parents / f"{path.stem}.png"
            if not copy.exists():
                copy.parent.mkdir(parents=True, exist_ok=True)
                whole = copy.with_name(f"{copy.name}.part")
                picture.convert("L").save(whole, "PNG")
                whole.replace(copy)
            return copy
    except OSError as error:
        raise RequestError(f"{path} can't be read as a picture: {error}") from None


def count_notes(found: Mapping[str, int], published: Mapping[str, int]) -> list[str]:
    """A note on each count that isn't the published one; what isn't the same is never refused."""
    return [
        f"{name}: {found.get(name, 0)} here, {wanted} published."
        for name, wanted in published.items()
        if found.get(name, 0) != wanted
    ]


def read_rows(path: Path, columns: Iterable[str]) -> pd.DataFrame:
    """A table as text, its columns in small letters, with those that are needed.

    Raises:
        RequestError: it is missing or lacks one.
    """
    if not path.is_file():
        raise RequestError(f"{path} is missing: give the data as their owner distributes them")
    table = read_table(path)
    found = pd.DataFrame([record for _, record in table.records], columns=[*table.columns])
    found.columns = found.columns.str.lower()
    missing = [name for name in columns if name not in found.columns]
    if missing:
        raise RequestError(
            f"{path} lacks {', '.join(missing)}; it names {', '.join(table.columns)}: give the "
            "table as it is distributed"
        )
    return found


@dataclass(frozen=True)
class Lists:
    """DDAD's fixed lists of names: normal to train on, unlabelled and test by label."""

    train: tuple[str, ...]
    unlabelled: Mapping[int, tuple[str, ...]]
    test: Mapping[int, tuple[str, ...]]


def read_lists(path: Path) -> Lists:
    """Read ``data.json``: ``train.0``, ``train.unlabeled.{0,1}``, ``test.{0,1}``.

    Names are without their suffix and folder.

    Raises:
        RequestError: it is missing, no JSON, or lacks a list.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
        loose, test = content["train"].get("unlabeled", {}), content["test"]
        return Lists(
            _stems(content["train"]["0"]),
            {label: _stems(loose.get(str(label), [])) for label in (0, 1)},
            {label: _stems(test[str(label)]) for label in (0, 1)},
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise RequestError(
            f"{path} is not a split with train.0, train.unlabeled.0/1 and test.0/1 "
            f"({type(error).__name__}: {error}): give DDAD's data.json"
        ) from None


def largest(normal: int, abnormal: int, rates: Iterable[float], most: int) -> int:
    """The most unlabelled pictures, up to ``most``, that both lists can give at every rate."""
    counts = [most]
    for rate in rates:
        counts += [int(abnormal / rate + 1e-9)] if rate > 0 else []
        counts += [int(normal / (1 - rate) + 1e-9)] if rate < 1 else []
    return min(counts)


def nested(
    normal: Sequence[str], abnormal: Sequence[str], rate: float, count: int
) -> dict[str, Sequence[str]]:
    """An unlabelled set: the first ⌊rate · count⌋ abnormal names; the rest are normal ones.

    So the sets of two rates share all they can (Cai et al. 2023).
    """
    many = int(rate * count + 1e-9)
    return {"positive": abnormal[:many], "negative": normal[: count - many]}


def _stems(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(name.rsplit("/", 1)[-1].rsplit(".", 1)[0] for name in names)
