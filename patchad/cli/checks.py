"""What a command can refuse before it loads torch, which takes seconds.

The command itself repeats each check; none is made only here.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path

from patchad.errors import ModelError, RequestError
from patchad.files.kinds import kind_of, no_model, no_run
from patchad.files.whole import shown


def check_inputs(inputs: Sequence[Path]) -> None:
    """Refuse missing files, folders that patchad wrote, and manifests without images.

    Raises:
        RequestError: names the first one.
    """
    from patchad.read.manifest import is_manifest  # these take longer than `--help` may
    from patchad.read.read import find_images

    for path in inputs:
        if not path.exists():
            raise RequestError(f"{shown(path)} does not exist: name a file, a folder or a manifest")
        kind = kind_of(path) if path.is_dir() else ""
        if kind:
            raise RequestError(
                f"{shown(path)} is {kind}, which patchad wrote: name the images themselves"
            )
        if is_manifest(path) and path.is_file():
            find_images([path])


def check_table(path: Path, what: str) -> None:
    """Refuse a missing table; ``what`` names the kind that was requested.

    Raises:
        RequestError: it is missing, or a folder.
    """
    if not path.exists():
        raise RequestError(f"{shown(path)} does not exist: name {what}")
    if not path.is_file():
        raise RequestError(f"{shown(path)} is {kind_of(path) or 'a folder'}: name {what}")


def check_model(folder: Path, stride: int | None = None) -> None:
    """Refuse a folder without a trained model, and a stride that this model can't have.

    Raises:
        ModelError: there is no model.
        RequestError: the stride is larger than a patch of the model, or less than 1.
    """
    card = folder / "card.json"
    if not card.is_file():
        raise ModelError(no_model(folder))
    if stride is None:
        return
    try:
        size = json.loads(card.read_text("utf-8"))["patch_size"]
    except (OSError, ValueError, KeyError, TypeError):
        return  # faults of the card are reported when it is read completely
    if isinstance(size, int):
        from patchad.core.grid import check_stride  # NumPy, which other checks don't need

        check_stride(stride, size)


def check_inspected(path: Path) -> None:
    """Refuse a path that is neither a file nor a model folder.

    Raises:
        RequestError: says what the path is.
    """
    if not path.exists():
        raise RequestError(f"{shown(path)} does not exist: give an image or a model folder")
    if path.is_dir() and not (path / "card.json").is_file():
        kind = kind_of(path) or "a folder without a model"
        raise RequestError(f"{shown(path)} is {kind}: give an image or a model folder")


def check_run(folder: Path) -> None:
    """Refuse a folder that is not a complete run.

    Raises:
        RequestError: a file of it is missing.
    """
    for name in ("run.json", "images.csv"):
        if not (folder / name).is_file():
            raise RequestError(no_run(folder, name))


def check_device(name: str) -> None:
    """Refuse a name that is not a device.

    Raises:
        RequestError: patchad doesn't know it; whether the machine has it is checked later.
    """
    if not re.fullmatch(r"auto|mps|cpu|cuda(:\d+)?", name):
        raise RequestError(f"--device takes auto, cuda, cuda:NUMBER, mps or cpu; got {name!r}")
