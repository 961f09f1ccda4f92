"""The benchmark of DDAD, or one of its ablations, repeated on one of its data sets."""

from collections.abc import Callable
from pathlib import Path

from benchmark import NOTES, read_rates, rows_for
from published import Asked, Replication, replicate
from unlabelled_sets import Sizes, Stock, parts_of


def repeat_benchmark(
    name: str,
    title: str,
    use: str,
    sizes: Sizes,
    read: Callable[[], Stock],
    asked: Asked,
    *,
    split: Path | None,
    anomaly_rate: str,
    unseen: str = "",
    notes: tuple[str, ...] = (),
) -> str:
    """Train, screen and judge what was asked; returns the report.

    Args:
        name: of the data set in :mod:`benchmark`.
        title: of the report.
        use: the packaged use that pictures are prepared as.
        sizes: the paper's.
        read: the release; called once what was asked is known to be right.
        asked: of all pipelines.
        split: DDAD's ``data.json``; None draws the split by the seed.
        anomaly_rate: as ``--anomaly-rate`` has it, empty for none.
        unseen: as ``--unseen`` has it, empty for none.
        notes: more for the reader.

    Raises:
        RequestError: a wrong rate, both ablations at once, or as ``read``.
    """
    rates = read_rates(anomaly_rate) if anomaly_rate else ()
    published = rows_for(name, rates, unseen)
    stock = read()
    what = ", anomaly rate" if rates else f", unseen: {unseen}" if unseen else ""
    study = Replication(
        title=title + what + (", quick" if asked.quick else ""),
        use=use,
        prepare=lambda seed, folder: parts_of(
            stock,
            sizes,
            seed,
            folder,
            split=split,
            rates=rates,
            unseen=unseen,
            limit=asked.limit,
            grey=asked.out / "pictures" if use == "picture" else None,
        ),
        published=published,
        notes=(
            *NOTES,
            "The split is DDAD's." if split else "The split is drawn by the seed, not DDAD's.",
            *notes,
        ),
    )
    return replicate(study, asked)
