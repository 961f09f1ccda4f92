"""Comparing requests: whether a resumed request is the same as the first."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

_LONGEST = 60  # characters of a value in a difference


def content_of(path: Path) -> str:
    """The SHA-256 of a file, empty if it cannot be read.

    Size and modification time are not enough: a film may be replaced by another of the same size
    with its time kept.
    """
    try:
        if not path.is_file():
            return ""
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def differences(then: Any, now: Any, name: str = "") -> list[str]:
    """A line for each value that differs between two nested requests (of JSON)."""
    if not (isinstance(then, Mapping) and isinstance(now, Mapping)):
        return [] if then == now else [f"{name}: {_value(then)} then, {_value(now)} now"]
    lines = []
    for key in {**then, **now}:
        inner = f"{name} {key}".lstrip()
        if key not in now:
            lines.append(f"{inner}: given then, not now")
        elif key not in then:
            lines.append(f"{inner}: not given then, but now")
        else:
            lines += differences(then[key], now[key], inner)
    if not lines and [*then] != [*now]:
        lines.append(f"{name}: in another order now")
    return lines


def numbered(names: Iterable[str]) -> list[int]:
    """A number for each name, equal for equal names: it shows which belong together."""
    seen: dict[str, int] = {}
    return [seen.setdefault(name, len(seen) + 1) for name in names]


def listed(images: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """One digest of a list of images and their facts, which reveals none of them."""
    digest = hashlib.sha256()
    for name, facts in images:
        digest.update(f"{name}\0{sorted(facts.items())}\0".encode("utf-8", "backslashreplace"))
    return digest.hexdigest()


def _value(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
