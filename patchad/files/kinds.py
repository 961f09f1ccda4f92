"""Which of patchad's folders a folder is, for errors about the wrong one."""

from pathlib import Path

from patchad.files import marker
from patchad.files.whole import shown

_WHOLE = (  # a copy may lack the marker
    (("card.json", "weights.safetensors"), "a model folder"),
    (("run.json", "images.csv"), "a run folder"),
)
_MARKED = {
    "model": "a model folder whose training has not ended",
    "run": "a run folder whose screening has not ended",
    "selftest": "a selftest folder",
    "evaluation": "an evaluation folder",
    "comparison": "a comparison folder",
}


def kind_of(folder: Path) -> str:
    """The kind of ``folder`` in words, such as "a model folder"; empty if it holds no results."""
    for names, kind in _WHOLE:
        if all((folder / name).is_file() for name in names):
            return kind
    return _MARKED.get(marker.kind_of(folder), "")


def no_model(folder: Path) -> str:
    """The error text for a folder without a trained model: what it is instead, and the remedy."""
    return (
        f"{shown(folder)} holds no trained model ({_why(folder, 'card.json')}): train one with "
        "`patchad train SOURCE --model FOLDER`, or name another folder with --model"
    )


def no_run(folder: Path, missing: str) -> str:
    """The error text for a folder that is no complete run: what it is instead, and the remedy."""
    return (
        f"{shown(folder)} is not a complete run ({_why(folder, missing)}): give the --out folder "
        "of `patchad screen`, and finish an interrupted one with --resume"
    )


def _why(path: Path, missing: str) -> str:
    if not path.exists():
        return "it does not exist"
    if not path.is_dir():
        return "it is a file"
    kind = kind_of(path)
    return f"{missing} is missing" + (f"; it is {kind}" if kind else "")
