"""The marker that a folder of patchad holds: what kind it is, where it was made, and what for."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from patchad.errors import OutputError
from patchad.files.whole import shown, write_whole

MARKER = ".patchad.json"
_FORMAT = 1


@dataclass(frozen=True)
class Marker:
    """What ``.patchad.json`` holds.

    ``path`` and ``inode`` tell the folder from its copies; ``request`` is what was asked for, None
    while the folder is being emptied; ``found`` is what the work remembers of its inputs.
    """

    kind: str
    patchad: str
    path: str
    inode: int
    request: dict[str, Any] | None
    found: dict[str, Any] = field(default_factory=dict)
    format: int = _FORMAT


_MARKER = TypeAdapter(Marker)


def read_marker(folder: Path) -> Marker | None:
    """The marker of a folder, None where there is none.

    Raises:
        OutputError: it is damaged, or of another patchad.
    """
    path = folder / MARKER
    remedy = "look what the folder holds and delete it yourself, or name another"
    try:
        if path.is_symlink():
            raise OutputError(f"{shown(path)} is a link, which patchad does not write: {remedy}")
        if not path.is_file():
            return None
        content = json.loads(path.read_text("utf-8"))
        if isinstance(content, dict) and content.get("format") != _FORMAT:
            raise OutputError(
                f"{shown(path)} is of format {content.get('format')!r:.40}, this patchad knows "
                f"{_FORMAT}: {remedy}"
            )
        return _MARKER.validate_python(content)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        said = f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}"
    except (ValueError, RecursionError):
        said = "it is not JSON"
    raise OutputError(f"{shown(path)} is damaged ({said}): {remedy}")


def kind_of(folder: Path) -> str:
    """The kind of a folder that patchad wrote, empty if it did not, or if nobody can tell."""
    try:
        marker = read_marker(folder)
    except OSError:
        return ""
    return marker.kind if marker else ""


def write_marker(folder: Path, marker: Marker) -> None:
    """Write the marker of a folder."""
    write_whole(folder / MARKER, json.dumps(asdict(marker), indent=1) + "\n")
