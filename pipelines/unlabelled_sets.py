"""Splits with unlabelled pictures, and the two ablations: anomaly rate, and unseen findings."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from benchmark import (
    RATE,
    SEEN_TEST,
    UNSEEN_PARTS,
    UNSEEN_RATE,
    UNSEEN_TEST,
    rate_name,
    read_kinds,
)
from published_data import Lists, Part, largest, nested, read_lists, write_part


@dataclass(frozen=True)
class Sizes:
    """How many pictures a paper has: normal to train on, unlabelled, of each label to test on."""

    train: int
    unlabelled: int
    test: int


@dataclass(frozen=True, eq=False)
class Stock:
    """The pictures of a data set before they are divided.

    ``rows`` have path, patient_id, label (negative or positive), kinds (a tuple of findings) and
    other columns of a manifest; ``regions`` the lesions.
    """

    rows: pd.DataFrame
    regions: pd.DataFrame | None = None
    notes: tuple[str, ...] = ()

    @property
    def kinds(self) -> tuple[str, ...]:
        """All findings, sorted."""
        return tuple(sorted({kind for kinds in self.rows["kinds"] for kind in kinds}))


@dataclass(frozen=True, eq=False)
class Pools:
    """A stock divided by patient: for tests, for training, and candidates for unlabelled."""

    test: pd.DataFrame
    train: pd.DataFrame
    normal: pd.DataFrame
    abnormal: pd.DataFrame


def divide(stock: Stock, sizes: Sizes, seed: int) -> Pools:
    """Divide a stock by patient, in an order that the seed draws.

    First the test pictures of both labels; then normal ones to train on; the rest may be unlabelled
    (normal pictures up to the paper's number, all abnormal ones). Where there are fewer pictures
    than the paper's, each share shrinks alike.
    """
    rows, rng = stock.rows, np.random.default_rng(seed)
    rank = {p: n for n, p in enumerate(rng.permutation(sorted({*rows["patient_id"]})).tolist())}
    rows = rows.iloc[np.argsort([rank[p] for p in rows["patient_id"]], kind="stable")]
    normal, ill = (rows[rows["label"] == label] for label in ("negative", "positive"))
    wanted = sizes.test + sizes.train + sizes.unlabelled
    share = min(1.0, len(normal) / wanted)
    most = min(round(share * sizes.test), max(1, len(ill) // 2))
    tested = pd.concat([normal.head(most), ill.head(most)])
    rest = rows[~rows["patient_id"].isin({*tested["patient_id"]})]
    normal, ill = (rest[rest["label"] == label] for label in ("negative", "positive"))
    train = normal.head(round(share * sizes.train))
    left = rest[~rest["patient_id"].isin({*train["patient_id"]})]
    normal, ill = (left[left["label"] == label] for label in ("negative", "positive"))
    return Pools(tested, train, normal, ill)


def divide_by_lists(stock: Stock, lists: Lists) -> tuple[Pools, list[str]]:
    """Divide a stock by DDAD's lists, and a note on names without a picture."""
    rows = stock.rows
    place = {Path(path).stem: number for number, path in zip(rows.index, rows["path"], strict=True)}

    def named(names: Sequence[str], label: str) -> pd.DataFrame:
        return rows.loc[[place[name] for name in names if name in place]].assign(label=label)

    pools = Pools(
        pd.concat([named(lists.test[0], "negative"), named(lists.test[1], "positive")]),
        named(lists.train, "negative"),
        named(lists.unlabelled[0], "negative"),
        named(lists.unlabelled[1], "positive"),
    )
    every = [
        *lists.train,
        *(n for own in (lists.test, lists.unlabelled) for k in own for n in own[k]),
    ]
    missing = sum(name not in place for name in every)
    return pools, [f"{missing} pictures of the split's lists have no file."] if missing else []


def _by_view(tested: pd.DataFrame) -> dict[str, set[object]] | None:
    """Views too, where they are known: what differs between films may be no more than the view."""
    if "view" not in tested.columns:
        return None
    views = {view: own for view, own in tested.groupby("view") if own["label"].nunique() == 2}
    return {"": {*tested["path"]}, **{f"{v} views": {*own["path"]} for v, own in views.items()}}


def _loose(normal: pd.DataFrame, ill: pd.DataFrame, rate: float, count: int) -> pd.DataFrame:
    chosen = nested([*normal.index], [*ill.index], rate, count)
    return pd.concat([ill.loc[[*chosen["positive"]]], normal.loc[[*chosen["negative"]]]])


def parts_of(
    stock: Stock,
    sizes: Sizes,
    seed: int,
    folder: Path,
    *,
    split: Path | None = None,
    rates: Sequence[float] = (),
    unseen: str = "",
    limit: int = 0,
    grey: Path | None = None,
) -> list[Part]:
    """The parts of a paper with unlabelled pictures: one, or those of an ablation.

    Args:
        stock: all pictures.
        sizes: the paper's.
        seed: of the division, unless ``split`` gives it.
        folder: to write into.
        split: DDAD's ``data.json``.
        rates: of anomalies among the unlabelled, a part each: the sets of two rates share all they
            can, and are equally large.
        unseen: kinds of findings. Two parts, without and with the other kinds among the unlabelled;
            each judges seen and unseen ones apart. A picture with an unseen finding, alone or
            beside others, counts as unseen and is never unlabelled.
        limit: the most pictures of each split and label, 0 for all.
        grey: where grey copies of colour pictures go.

    Raises:
        RequestError: the lists or kinds are wrong, or a split is empty.
    """
    notes = list(stock.notes)
    if split is None:
        pools = divide(stock, sizes, seed)
    else:
        pools, missing = divide_by_lists(stock, read_lists(split))
        notes += missing
    normal, ill = pools.normal, pools.abnormal
    new = pd.Series(False, ill.index)
    if unseen:
        kinds = {*read_kinds(unseen, stock.kinds)}
        new, strange = (own["kinds"].map(lambda k: bool(kinds & {*k})) for own in (ill, pools.test))
        ill = ill[~new.astype(bool)]
        judged = pools.test["label"] == "negative"
        tests = {
            SEEN_TEST: {*pools.test["path"][judged | ~strange]},
            UNSEEN_TEST: {*pools.test["path"][judged | strange]},
        }
        named = dict(zip(UNSEEN_PARTS, (0.0, UNSEEN_RATE), strict=True))
    else:
        tests = _by_view(pools.test)
        named = {rate_name(rate): rate for rate in rates} or {"": RATE}
    count = largest(len(normal), len(ill), named.values(), sizes.unlabelled)
    if limit and len(named) > 1:  # a limit by label would undo the rates
        count = min(count, limit)
    parts = []
    for number, (name, rate) in enumerate(named.items()):
        loose = _loose(normal, ill, rate, count)
        table = pd.concat(
            [
                own.assign(split=split)
                for split, own in {
                    "train": pools.train,
                    "unlabelled": loose,
                    "test": pools.test,
                }.items()
            ],
            ignore_index=True,
        )
        table["kinds"] = ["|".join(own) for own in table["kinds"]]
        abnormal = int(rate * sizes.unlabelled)
        published = {
            "training, normal": sizes.train,
            "unlabelled, normal": sizes.unlabelled - abnormal,
            "unlabelled, abnormal": abnormal,
            "test, normal": sizes.test,
            "test, abnormal": sizes.test,
        }
        parts.append(
            write_part(
                table,
                folder / f"part{number}" if len(named) > 1 else folder,
                name=name,
                regions=stock.regions,
                limit=limit,
                seed=seed,
                tests=tests,
                published=published,
                grey=grey,
                notes=notes,
            )
        )
    return parts
