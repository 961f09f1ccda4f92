"""Which of patchad's folders a folder is, for whoever names the one in place of the other."""

from pathlib import Path

_KINDS = (  # what is in it for certain, and what it is
    (("card.json", "weights.safetensors"), "a model folder"),
    (("checkpoint/training.safetensors",), "a model folder whose training has not ended"),
    (("run.json", "images.csv"), "a run folder"),
    ((".rows.jsonl",), "a run folder whose screening has not ended"),
    (("selftest.json", "detail.csv"), "the folder of a self-test"),
    (("evaluation.json",), "the folder of an evaluation"),
)


def kind_of(folder: Path) -> str:
    """What ``folder`` is in words, such as "a model folder"; empty if it is not patchad's."""
    return next(
        (kind for marks, kind in _KINDS if all((folder / mark).is_file() for mark in marks)), ""
    )


def no_model(folder: Path) -> str:
    """That a folder holds no trained model, what it is instead, and what to do."""
    return (
        f"{folder} holds no trained model ({_why(folder, 'card.json')}): train one with `patchad "
        "train SOURCE --model FOLDER`, or name another folder with --model"
    )


def no_run(folder: Path, missing: str) -> str:
    """That a folder is not a whole run, what it is instead, and what to do."""
    return (
        f"{folder} is not a whole run ({_why(folder, missing)}): give the --out folder of "
        "`patchad screen`, and finish a broken one with --resume"
    )


def _why(path: Path, missing: str) -> str:
    if not path.exists():
        return "it does not exist"
    if not path.is_dir():
        return "it is a file"
    kind = kind_of(path)
    return f"{missing} is missing" + (f"; it is {kind}" if kind else "")
