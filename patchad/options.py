"""Tables of options checked against dataclasses: every key is known, every value of its kind."""

from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Any, TypeVar, get_type_hints

from pydantic import TypeAdapter, ValidationError

from patchad.errors import RequestError

_T = TypeVar("_T")


def parse(kind: type[_T], content: Any, prefix: str) -> _T:
    """``content`` (as TOML gives it) as a dataclass ``kind``; ``prefix`` is where it stands.

    Raises:
        RequestError: unknown keys or wrong values, a line each.
    """
    unknown = _unknown(kind, content, prefix)
    if unknown:
        raise RequestError("\n".join(unknown))
    try:
        return TypeAdapter(kind).validate_python(content)
    except ValidationError as error:
        raise RequestError(
            "\n".join(
                f"{prefix}{'.'.join(map(str, fault['loc']))}: "
                f"{fault['msg'].removeprefix('Value error, ')} (found {fault['input']!r})"
                for fault in error.errors(include_url=False)
            )
        ) from None


def _unknown(kind: Any, content: Any, prefix: str) -> list[str]:
    """A line for each key of ``content``, at any depth, that dataclass ``kind`` does not have."""
    if not (is_dataclass(kind) and isinstance(content, Mapping)):
        return []
    known = get_type_hints(kind)
    lines = []
    for key, value in content.items():
        if key in known:
            lines += _unknown(known[key], value, f"{prefix}{key}.")
        else:
            lines.append(f"{prefix}{key}: no such option; there are {', '.join(known)}")
    return lines
