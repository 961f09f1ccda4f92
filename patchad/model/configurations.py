"""The packaged configurations: where they are, and what each is for."""

from collections.abc import Iterable
from difflib import get_close_matches
from importlib import resources
from pathlib import Path

from patchad.errors import RequestError

DEFAULT = "wei2018"


def packaged() -> dict[str, Path]:
    """The packaged configurations by name."""
    return {path.stem: path for path in sorted(_folder().glob("*.toml"))}


def purpose(path: Path) -> str:
    """What a packaged configuration is for: its first line."""
    with path.open(encoding="utf-8") as file:
        return file.readline().strip("# \n")


def find(name_or_file: str) -> Path:
    """The file of a packaged name, or the file itself.

    Raises:
        RequestError: there is none.
    """
    known = packaged()
    if name_or_file in known:
        return known[name_or_file]
    path = Path(name_or_file)
    if path.is_file():
        return path
    raise RequestError(
        f"there is no configuration {name_or_file!r}{did_you_mean(name_or_file, known)}: give a "
        f"file, or one of {', '.join(known)}"
    )


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The known word that is nearest, as the end of a sentence; empty where none is near."""
    near = get_close_matches(word, [*known], n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def _folder() -> Path:
    """Where the packaged configurations are: in the wheel, or beside the package in a checkout."""
    package = Path(str(resources.files("patchad")))
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"
