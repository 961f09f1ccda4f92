"""Tables of options checked against dataclasses: unknown keys and wrong types are errors."""

from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from difflib import get_close_matches
from typing import Annotated, Any, TypeVar, get_type_hints

from pydantic import AllowInfNan, Field, TypeAdapter, ValidationError

from patchad.errors import RequestError
from patchad.model.configurations import did_you_mean

# Types of options: a number of 1 or more, a number above 0, one of 0 or more, one from 0 to 1, and
# the two β of Adam; counts of channels, one layer at least.
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0), AllowInfNan(False)]
Weight = Annotated[float, Field(ge=0), AllowInfNan(False)]
Share = Annotated[float, Field(ge=0, le=1)]
Betas = tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]]
Channels = Annotated[tuple[Count, ...], Field(min_length=1)]

_T = TypeVar("_T")


def parse(kind: type[_T], content: Any, prefix: str, elsewhere: Sequence[str] = ()) -> _T:
    """``content`` (of TOML) as a dataclass ``kind``; ``prefix`` is the name of its table.

    ``elsewhere`` are dotted names of all options, to suggest one for a key in the wrong table.

    Raises:
        RequestError: unknown keys or wrong values, a line each.
    """
    unknown = _unknown(kind, content, prefix, elsewhere)
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


def _unknown(kind: Any, content: Any, prefix: str, elsewhere: Sequence[str]) -> list[str]:
    """A line for each key of ``content``, at any depth, that dataclass ``kind`` does not have."""
    if not (is_dataclass(kind) and isinstance(content, Mapping)):
        return []
    known = get_type_hints(kind)
    lines = []
    for key, value in content.items():
        if key in known:
            lines += _unknown(known[key], value, f"{prefix}{key}.", elsewhere)
        else:
            meant = _elsewhere(key, elsewhere, exact=True) or did_you_mean(key, known)
            meant = meant or _elsewhere(key, elsewhere, exact=False)
            lines.append(f"{prefix}{key}: no such option{meant}; there are {', '.join(known)}")
    return lines


def _elsewhere(key: str, options: Sequence[str], *, exact: bool) -> str:
    """The dotted names that end in ``key``, or in the word nearest to it."""
    last = {option: option.rpartition(".")[2] for option in options}
    ends = [key] if exact else get_close_matches(key, set(last.values()), n=1)
    found = [option for option, end in last.items() if end in ends]
    return f" (did you mean {' or '.join(found)}?)" if found else ""
