"""What options a method has, from its source: importing it would take seconds, for torch."""

import ast
from collections.abc import Mapping
from dataclasses import field, make_dataclass
from functools import cache
from pathlib import Path
from typing import Any

from patchad.methods import METHODS, TABLE

_PLAIN: Mapping[str, Any] = {"int": int, "float": float, "bool": bool, "int | None": int | None}


@cache
def declared_options(method: str) -> type:
    """A dataclass with the options of a method's ``Config``, and their types where they are plain.

    Its defaults are not those of the method. Of a method without source here it knows nothing.
    """
    source = (Path(__file__).parent / f"{TABLE[method]}.py").read_text("utf-8")
    bodies = [
        node.body
        for node in ast.parse(source).body
        if isinstance(node, ast.ClassDef) and node.name == "Config"
    ]
    fields = [
        (line.target.id, _PLAIN.get(ast.unparse(line.annotation), Any), field(default=None))
        for body in bodies
        for line in body
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)
    ]
    return make_dataclass("Config", fields)


def members(method: str, own: Any) -> dict[str, Any]:
    """The options of a fusion's members in its table ``own``, by their method."""
    found = own.get("members") if method == "fused" and isinstance(own, Mapping) else None
    if not isinstance(found, Mapping):
        return {}
    return {
        name: member.get("options", {})
        for name, member in found.items()
        if name in METHODS and isinstance(member, Mapping)
    }
