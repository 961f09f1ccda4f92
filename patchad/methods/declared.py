"""What methods say of themselves, from their sources: importing them would take seconds, for torch.

What is read is checked against the imported method by the tests.
"""

import ast
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import field, make_dataclass
from functools import cache
from pathlib import Path
from typing import Any

from patchad.methods import METHODS, TABLE

FUSED = "fused"

_PLAIN: Mapping[str, Any] = {
    "int": int, "float": float, "bool": bool, "int | None": int | None,
    "Count": int, "Positive": float, "Share": float, "Weight": float,
}  # fmt: skip
_EITHER = ("breast", "chest")  # the default of Needs.body_parts


@cache
def declared_options(method: str, name: str = "Config") -> type:
    """A dataclass with the options of a method's ``Config``, and their types where they are plain.

    ``name`` is that of another dataclass in its file. The defaults are not those of the method.
    """
    fields = [
        (line.target.id, _PLAIN.get(ast.unparse(line.annotation), Any), field(default=None))
        for node in _source(method).body
        if isinstance(node, ast.ClassDef) and node.name == name
        for line in node.body
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)
    ]
    return make_dataclass(name, fields)


@cache
def body_parts(method: str) -> tuple[str, ...]:
    """``METHOD.needs.body_parts`` of a method: breast, chest or both."""
    needs = _declared(method, "needs")
    given = needs.keywords if isinstance(needs, ast.Call) else []
    parts = next((one.value for one in given if one.arg == "body_parts"), None)
    return tuple(ast.literal_eval(parts)) if parts else _EITHER


@cache
def own_setting(method: str) -> Mapping[str, Any]:
    """``METHOD.setting`` of a method: keys of a configuration that differ from the packaged use."""
    return _literal(method, "setting")


@cache
def quick_options(method: str) -> Mapping[str, Any]:
    """``METHOD.quick`` of a method: the options that train it in minutes on two cores."""
    return _literal(method, "quick")


@cache
def defaults(method: str) -> Mapping[str, Any]:
    """The options of a method as its ``Config`` has them, where they are literals: the paper's."""
    found: dict[str, Any] = {}
    for node in _source(method).body:
        if isinstance(node, ast.ClassDef) and node.name == "Config":
            for line in node.body:
                match line:
                    case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                        with suppress(ValueError):
                            found[name] = ast.literal_eval(value)
    return found


def _literal(method: str, name: str) -> Mapping[str, Any]:
    value = _declared(method, name)
    found: Mapping[str, Any] = ast.literal_eval(value) if value else {}
    return found


def _declared(method: str, name: str) -> ast.expr | None:
    """The expression that ``METHOD`` of a method's file has for ``name``."""
    for node in _source(method).body:
        match node:
            case ast.Assign(targets=[ast.Name(id="METHOD")], value=ast.Call(keywords=keywords)):
                return next((one.value for one in keywords if one.arg == name), None)
    return None


def purpose_of(method: str) -> str:
    """What a method is: the first line of its file."""
    return (ast.get_docstring(_source(method)) or "").partition("\n")[0]


def trainable() -> tuple[str, ...]:
    """The methods that train by their name alone: all but a fusion, which needs members."""
    return tuple(name for name in METHODS if name != FUSED)


def members(method: str, own: Any) -> dict[str, tuple[str, Any]]:
    """The members of a fusion in its table ``own``: by name, their method and their options.

    A member that names no method has that of its own name.
    """
    found = own.get("members") if method == FUSED and isinstance(own, Mapping) else None
    if not isinstance(found, Mapping):
        return {}
    return {
        name: (member.get("method") or name, member.get("options", {}))
        for name, member in found.items()
        if isinstance(member, Mapping)
    }


@cache
def _source(method: str) -> ast.Module:
    path = Path(__file__).parent / f"{TABLE[method]}.py"
    return ast.parse(path.read_text("utf-8"))
