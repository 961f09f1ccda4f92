"""Packaged configurations and TOML files: finding, describing and reading them.

A file may begin with ``base = "NAME"``: a packaged name, such as ``use/mammogram``, or a path
relative to the file. Its own tables are merged over those of the base.
"""

import tomllib
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import Any

from patchad.errors import RequestError

DEFAULT = "wei2018"
_LONGEST = 16  # chain of bases
_MEMBERS = "fused.members"  # in it, ``NAME = false`` removes a member of the base


def packaged() -> dict[str, Path]:
    """The packaged configurations by name."""
    return {path.stem: path for path in sorted(_folder().glob("*.toml"))}


def purpose(path: Path) -> str:
    """The purpose of a packaged configuration: its first line."""
    with path.open(encoding="utf-8") as file:
        return file.readline().strip("# \n")


def find(name_or_file: str, more: Iterable[str] = ()) -> Path:
    """The file of a packaged name, or the file itself.

    ``more`` are other names that could have been meant.

    Raises:
        RequestError: there is none.
    """
    known = packaged()
    if name_or_file in known:
        return known[name_or_file]
    path = Path(name_or_file)
    if _is_file(path):
        return path
    names = [*dict.fromkeys([*known, *more])]
    raise RequestError(
        f"there is no configuration {name_or_file!r}{did_you_mean(name_or_file, names)}: give a "
        f"file, or one of {', '.join(names)}"
    )


def read_file(path: Path) -> dict[str, Any]:
    """The content of a TOML file, merged over its chain of bases.

    Raises:
        RequestError: a file of the chain is missing or not readable, or the chain is circular.
    """
    chain = [path]
    layers = [_own(path)]
    while "base" in layers[-1]:
        base = _base(layers[-1].pop("base"), chain[-1])
        if any(base.samefile(seen) for seen in chain):
            circle = " → ".join(str(file) for file in [*chain, base])
            raise RequestError(f"the chain of bases is circular: {circle}; remove one base")
        chain.append(base)
        if len(chain) > _LONGEST:
            raise RequestError(f"{path} has a chain of more than {_LONGEST} bases: shorten it")
        layers.append(_own(base))
    content: dict[str, Any] = {}
    for file, layer in zip(reversed(chain), reversed(layers), strict=True):
        content = merge(content, layer, file.name)
    return content


def read_use(name: str) -> dict[str, Any]:
    """The content of a packaged use, ``mammogram`` or ``chest``: everything but the method."""
    return read_file(_folder() / "use" / f"{name}.toml")


def merge(base: Mapping[str, Any], own: Mapping[str, Any], source: str) -> dict[str, Any]:
    """``own`` over ``base``: tables key by key; arrays and plain values are replaced.

    Another method removes the table of the base's method. ``fused.members.NAME = false`` removes
    a member.

    Raises:
        RequestError: a table for a plain value of the base, or a member that it doesn't have.
    """
    method = base.get("method")
    if own.get("method", method) != method:
        base = {key: value for key, value in base.items() if key != method}
    try:
        return _merged(base, own, source, "")
    except RecursionError:
        raise RequestError(f"{source}: tables are nested too deep") from None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The nearest known word, as the end of a sentence; empty if none is near."""
    near = get_close_matches(word, [*known], n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def _merged(
    base: Mapping[str, Any], own: Mapping[str, Any], source: str, table: str
) -> dict[str, Any]:
    found = dict(base)
    for key, value in own.items():
        name = f"{table}.{key}" if table else key
        if table == _MEMBERS and value is False:
            if key not in found:
                raise RequestError(
                    f"{source}: {name} = false removes a member, but there is none of this "
                    f"name{did_you_mean(key, found)}; there are {', '.join(found) or 'none'}"
                )
            del found[key]
        elif isinstance(value, Mapping):
            below = found.get(key, {})
            if not isinstance(below, Mapping):
                raise RequestError(f"{source}: {name} is not a table; it is {below!r}")
            found[key] = _merged(below, value, source, name)
        else:
            found[key] = value
    return found


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # too long a name, for one
        return False


def _own(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RequestError(f"{path} is not a readable TOML file: {error}") from None


def _base(name: Any, file: Path) -> Path:
    """The file that ``base = name`` in ``file`` refers to."""
    if not isinstance(name, str):
        raise RequestError(f"{file}: base is a name or a path in quotes; got {name!r}")
    known = {path.relative_to(_folder()).with_suffix("").as_posix(): path for path in _bases()}
    if name in known:
        return known[name]
    path = file.parent / name
    if _is_file(path):
        return path
    raise RequestError(
        f"{file}: there is no base {name!r}{did_you_mean(name, known)}: give a file, by its path "
        f"from this one, or one of {', '.join(known)}"
    )


def _bases() -> list[Path]:
    return sorted(_folder().rglob("*.toml"))


def _folder() -> Path:
    """Where the packaged configurations are: in the wheel, or next to the package in a checkout."""
    package = Path(str(resources.files("patchad")))
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"
