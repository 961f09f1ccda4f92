"""The files that patchad writes into each kind of folder, and so may delete from it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from patchad.files.clearing import Layout, sweep
from patchad.files.lock import locked
from patchad.files.marker import MARKER
from patchad.store.journal import JOURNAL, ids_in
from patchad.store.run import Run, read_run

_EVALUATION = (
    "evaluation.json",
    *("figures.csv", "by_kind.csv", "operating_points.csv", "marks.csv", "rarity.csv"),
    *("roc.png", "pr.png", "froc.png", "histogram.png", "rarity.png"),
)
EVALUATION = Layout("evaluation", _EVALUATION)
COMPARISON = Layout("comparison", ("comparison.json", "comparison.csv", "comparison.png"))
SELFTEST = Layout("selftest", ("selftest.json", "detail.csv", "contrast_detail.png"))
# The same as export.DICOM_KINDS, which is in a higher layer.
_OBJECTS = ("sc", "gsps", "sr", "seg", "heatmap-seg", "cad-sr", "pm")
RUN = Layout(
    "run",
    (
        "run.json",
        "report.html",
        "pushed.jsonl",
        *(f"evaluation/{name}" for name in _EVALUATION),
        "patches/{id}.parquet",
        "heatmaps/{id}.tif",
        "overlays/{id}.png",
        "geojson/{id}.geojson",
        *(f"dicom/{{id}}/{kind}.dcm" for kind in _OBJECTS),
        "dicom/*/ko.dcm",  # by study
        "images.csv",
        "marks.csv",
        JOURNAL,
    ),
    ids=ids_in,
)
_CHECKPOINTS = ("training.safetensors", "*-training.safetensors")
_MODEL = (
    "card.json",
    "weights.safetensors",
    *(f"checkpoint/{name}" for name in _CHECKPOINTS),
    *(f"checkpoint/fold[0-9]*/{name}" for name in _CHECKPOINTS),
    "checkpoint/fold[0-9]*.safetensors",
)
MODEL = Layout("model", _MODEL, nested={"candidates/*": Layout("model", _MODEL)})
_PHANTOMS = ("manifest.csv", "regions.csv", "P[0-9]*/[12]-*.dcm")
DEMO = Layout(
    "demo",
    (
        "report.html",
        *(f"{part}/phantoms/{name}" for part in ("breast", "chest") for name in _PHANTOMS),
    ),
    nested={
        f"{part}/{name}-{config}": kind
        for part, configs in {
            "breast": ("wei2018", "mammography"),
            "chest": ("wei2018", "chest"),
        }.items()
        for config in configs
        for name, kind in {"model": MODEL, "run": RUN}.items()
    },
)


@contextmanager
def open_run(folder: Path, command: str) -> Iterator[Run]:
    """A complete run, its folder locked for a command that writes into it.

    Raises:
        RequestError: it is no run folder, or an incomplete one.
        OutputError: another command writes into it, or it cannot be written.
    """
    if not (folder / MARKER).exists():
        read_run(folder)  # before a lock is written into a folder that may not be patchad's
    with locked(folder, command):
        run = read_run(folder)
        sweep(folder, RUN)
        yield run
