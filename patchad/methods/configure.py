"""The configuration of `train`: a packaged name, a method or a TOML file, with overrides.

An unknown key, a value of the wrong kind or an option that the method does not have is an error
that names it, and the key that was meant.
"""

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any, TypeGuard, get_type_hints

from patchad.errors import RequestError
from patchad.methods import METHODS, method_of
from patchad.methods.declared import (
    FUSED,
    body_parts,
    declared_options,
    defaults,
    members,
    own_setting,
    quick_options,
    trainable,
)
from patchad.model.config import Config
from patchad.model.configurations import (
    did_you_mean,
    find,
    merge,
    packaged,
    read_file,
    read_use,
)
from patchad.model.options import parse

_USES = {"breast": "mammogram", "chest": "chest"}  # by body part: files in configs/use


def read_config(name_or_file: str, overrides: Sequence[str] = (), *, quick: bool = False) -> Config:
    """Read a configuration, and apply ``KEY=VALUE`` overrides.

    It is a packaged name, the name of a method (with the packaged use of its body part), or a file.
    Keys are dotted (``wei2018.epochs=5``); values are TOML (``"text"``, 3, true, [1, 2]), and
    what is not TOML is taken as text. ``quick`` takes the options that the method declares for two
    cores in place of the paper's; what a file has other than the paper stands, and so do overrides.

    Raises:
        RequestError: no such configuration, an unknown key, a wrong value.
    """
    content, source = _content(name_or_file, overrides, quick)
    return resolve(content, source)


def check_config(name_or_file: str, overrides: Sequence[str] = (), *, quick: bool = False) -> None:
    """Refuse most of what :func:`read_config` would, without the libraries that methods need.

    Known are the names and plain types of the methods' options, not their ranges.

    Raises:
        RequestError: as :func:`read_config`.
    """
    content, source = _content(name_or_file, overrides, quick)
    _check(*_parts(content, source), source)


def resolve(content: Mapping[str, Any], source: str = "configuration") -> Config:
    """Check a configuration's content and write out its defaults; see :func:`read_config`."""
    method, own, rest = _parts(content, source)
    _check(method, own, rest, source)
    options: Any = parse(method_of(method).config, own, f"{source}: {method}.")
    config = parse(Config, {**rest, "options": options}, f"{source}: ")
    parts = method_of(method).needs_with(config.options).body_parts
    if config.preprocessing.body_part == "other" and len(parts) == 1:
        raise RequestError(
            f"{source}: {method} is for the body part {parts[0]} alone, preprocessing.body_part "
            "is other: take a method that is for any, see patchad methods"
        )
    return config


def _check(method: str, own: Any, rest: Mapping[str, Any], source: str) -> None:
    """Refuse unknown keys and plain values of the wrong kind, in every table."""
    keys = [*_keys(method, own)]
    parse(declared_options(method), own, f"{source}: {method}.", keys)
    for name, (of, options) in members(method, own).items():
        prefix = f"{method}.members.{name}"
        if of not in trainable():
            raise RequestError(
                f"{source}: {prefix}: there is no method {of!r} for a member"
                f"{did_you_mean(str(of), trainable())}; take one of {', '.join(trainable())}"
            )
        member = own["members"][name]
        parse(declared_options(FUSED, "Member"), member, f"{source}: {prefix}.", keys)
        parse(declared_options(of), options, f"{source}: {prefix}.options.", keys)
    parse(Config, {**rest, "options": None}, f"{source}: ", keys)


def _content(
    name_or_file: str, overrides: Sequence[str], quick: bool
) -> tuple[dict[str, Any], str]:
    """What a configuration holds with its overrides, and what errors call it."""
    if name_or_file in METHODS and name_or_file not in packaged():
        content, source = _of_method(name_or_file), name_or_file
    else:
        path = find(name_or_file, trainable())
        content, source = read_file(path), path.name
    if quick:
        method, own, _ = _parts(content, source)
        content = merge(content, {method: _quick(method, own, source)}, "--quick")
    for override in overrides:
        content = merge(content, _table(override), f"--set {override}")
    return content, source


def _of_method(method: str) -> dict[str, Any]:
    """The content of the configuration that a method's name stands for."""
    if method == FUSED:
        raise RequestError(
            f"{FUSED} puts other methods together, and names none itself: use mammography or "
            'chest, or a file with base = "mammography" and members of its own'
        )
    use = _USES[body_parts(method)[0]]
    return {**merge(read_use(use), own_setting(method), method), "method": method}


def _quick(method: str, own: Any, source: str) -> Mapping[str, Any]:
    """The options with which the method trains in minutes on two cores.

    Without those for which its ``own`` table has another value than the paper: that value is what
    the configuration is for, such as the one field of ``students_17``.
    """
    found = quick_options(method)
    if not found:
        raise RequestError(
            f"{source}: {method} has no quick setting, since its own takes minutes: leave --quick "
            "out"
        )
    paper, given = defaults(method), own if isinstance(own, Mapping) else {}
    return {
        key: value
        for key, value in found.items()
        if key not in given or _plain(given[key]) == _plain(paper.get(key))
    }


def _plain(value: Any) -> Any:
    """Arrays of TOML and tuples of Python alike."""
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value


def _parts(content: Mapping[str, Any], source: str) -> tuple[str, Any, dict[str, Any]]:
    """The method, its own table, and the rest of a configuration."""
    method = content.get("method")
    if method not in METHODS:
        raise RequestError(
            f"{source}: method is {method!r}{did_you_mean(str(method), METHODS)}, but one of "
            f"{', '.join(METHODS)} is needed"
        )
    rest = {key: value for key, value in content.items() if key != method}
    others = [key for key in rest if key in METHODS]
    if others:
        raise RequestError(
            f"{source}: {others[0]} is not its method, which is {method}: options of the method "
            f"stand in the table [{method}], such as {next(_keys(method, content.get(method)))}"
        )
    if "options" in rest:
        raise RequestError(f"{source}: the method's own options stand in the table [{method}]")
    return method, content.get(method, {}), rest


def _keys(method: str, own: Any) -> Iterator[str]:
    """All keys that a configuration of this method can have, as ``--set`` names them."""
    tables = {method: declared_options(method)}
    for name, (of, _) in members(method, own).items():
        tables[f"{method}.members.{name}"] = declared_options(FUSED, "Member")
        if of in METHODS:
            tables[f"{method}.members.{name}.options"] = declared_options(of)
    hints = {key: kind for key, kind in get_type_hints(Config).items() if key != "options"}
    tables |= {key: kind for key, kind in hints.items() if _is_table(kind)}
    for table, kind in tables.items():
        yield from (f"{table}.{key}" for key in get_type_hints(kind))
    yield from (key for key, kind in hints.items() if not _is_table(kind))


def _is_table(kind: Any) -> TypeGuard[type]:
    return isinstance(kind, type) and is_dataclass(kind)


def _table(override: str) -> dict[str, Any]:
    """``KEY=VALUE`` as the tables that TOML would hold."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise RequestError(f"--set takes KEY=VALUE, such as wei2018.epochs=5; got {override!r}")
    try:
        content: Any = tomllib.loads(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError):
        content = text
    for name in reversed(key.strip().split(".")):
        content = {name: content}
    return dict(content)
