"""The tables of a paper's split: which pictures train, which are unlabelled, which are judged."""

import json
from collections.abc import Iterable, Mapping, Sequence
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

    ``training`` is a manifest of negatives and unlabelled pictures; ``tests`` are manifests of test
    pictures by name, "" the paper's own. A test set without negatives gives the flagged share
    alone. ``regions`` are lesions of the test sets in ``marked``; ``facts`` are counts.
    """

    name: str
    training: Path
    tests: Mapping[str, Path]
    regions: Path | None = None
    marked: tuple[str, ...] = ("",)
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
    tests: Mapping[str, "pd.Series[bool]"] | None = None,
    grey: Path | None = None,
    notes: Sequence[str] = (),
) -> Part:
    """Write the tables of one part.

    Args:
        rows: path, patient_id, label, split (train, unlabelled or test), and other columns of a
            manifest. Of the split train only negatives are used.
        folder: to write into.
        name: of the part.
        regions: path, x, y, width, height, mask and kind (or some of them) of lesions.
        limit: the most pictures of each split and label, 0 for all.
        seed: of the choice of these.
        tests: the test rows to judge separately, by name; all together by default.
        grey: where grey copies of colour pictures go; None if there are none.
        notes: about the data.

    Raises:
        RequestError: a split is empty.
    """
    rows = limit_rows(rows, limit, seed)
    learnt = rows[(rows["split"] == "train") & (rows["label"] == "negative")]
    loose = rows[rows["split"] == "unlabelled"]
    judged = rows[rows["split"] == "test"]
    if learnt.empty or judged.empty:
        which = "negatives to train on" if learnt.empty else "pictures to test on"
        raise RequestError(f"{name or 'the data'}: no {which} found: check the folder and its lists")
    crossing = {*learnt["patient_id"], *loose["patient_id"]} & {*judged["patient_id"]}
    facts: dict[str, float] = {
        "training, normal": len(learnt),
        "unlabelled, normal": int((loose["label"] == "negative").sum()),
        "unlabelled, abnormal": int((loose["label"] == "positive").sum()),
        "test, normal": int((judged["label"] == "negative").sum()),
        "test, abnormal": int((judged["label"] == "positive").sum()),
    }
    if crossing:
        notes = [*notes, f"{len(crossing)} patients have pictures in training and in the test set."]
    paths: dict[object, Path] = {}
    if grey is not None:
        paths = {path: as_grey(Path(path), grey) for path in {*rows["path"]}}

    def table(part: pd.DataFrame, file: str) -> Path:
        shown = part.assign(path=[paths.get(path, path) for path in part["path"]])
        write_whole(folder / file, shown.to_csv(index=False))
        return folder / file

    training = pd.concat([learnt, loose.assign(label="unknown")])
    # A patient in two splits would be refused: the manifest of training names each use apart.
    training = training[~((training["split"] == "unlabelled")
                          & training["patient_id"].isin(learnt["patient_id"]))]  # fmt: skip
    lost = len(learnt) + len(loose) - len(training)
    if lost:
        notes = [*notes, f"{lost} unlabelled pictures of patients with training pictures left out."]
    sets = {"": judged}
    if tests is not None:
        sets = {test: judged[chosen.reindex(judged.index)] for test, chosen in tests.items()}
    manifests = {
        test: table(part, f"test-{number}.csv" if number else "test.csv")
        for number, (test, part) in enumerate(sets.items())
        if len(part)
    }
    marks = None
    if regions is not None and len(regions):
        kept = regions[regions["path"].astype(str).isin(judged["path"].astype(str))]
        if len(kept):
            marks = table(kept, "regions.csv")
            facts["regions"] = len(kept)
    marked = (*manifests,) if marks else ()
    return Part(name, table(training, "training.csv"), manifests, marks, marked, facts, (*notes,))


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
    """A table as text, with the columns that are needed.

    Raises:
        RequestError: it is missing or lacks one.
    """
    if not path.is_file():
        raise RequestError(f"{path} is missing: give the data as their owner distributes them")
    table = read_table(path)
    missing = [name for name in columns if name.lower() not in table.columns]
    if missing:
        raise RequestError(
            f"{path} lacks {', '.join(missing)}; it names {', '.join(table.columns)}: give the "
            "table as it is distributed"
        )
    return pd.DataFrame([record for _, record in table.records], columns=[*table.columns])


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


def from_lists(
    lists: Lists, files: Mapping[str, Path], *, rate: float = 0.6, most: int = 0
) -> tuple[pd.DataFrame, list[str]]:
    """The rows that the lists name, and a note on names without a file.

    Args:
        lists: of names.
        files: by name, without suffix.
        rate: the share of abnormal pictures among the unlabelled.
        most: the number of unlabelled pictures, fewer if the lists are too short; 0 for none.
    """
    named = [("train", "negative", name) for name in lists.train]
    named += [("test", label, name) for key, label in enumerate(("negative", "positive"))
              for name in lists.test[key]]  # fmt: skip
    abnormal = [name for name in lists.unlabelled[1] if name in files]
    normal = [name for name in lists.unlabelled[0] if name in files]
    count = largest(len(normal), len(abnormal), [rate], most)
    chosen = nested(normal, abnormal, rate, count)
    named += [("unlabelled", label, name) for label, names in chosen.items() for name in names]
    missing = sum(name not in files for _, _, name in named)
    rows = [
        {"path": files[name], "patient_id": name, "label": label, "split": split}
        for split, label, name in named
        if name in files
    ]
    notes = [f"{missing} pictures that the lists name have no file."] if missing else []
    return pd.DataFrame(rows, columns=["path", "patient_id", "label", "split"]), notes


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
