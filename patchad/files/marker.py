"""The marker in a folder of patchad: its kind, its path and its request."""

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
    """The content of ``.patchad.json``.

    ``path`` and ``inode`` distinguish the folder from its copies; ``request`` is None while the
    folder is being emptied; ``found`` is what the command stored about its inputs.
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
    """The marker of a folder, None if it has none.

    Raises:
        OutputError: it is damaged, or of another version of patchad.
    """
    path = folder / MARKER
    remedy = "check what the folder holds and delete it yourself, or name another"
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
        reason = f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}"
    except (ValueError, RecursionError):
        reason = "it is not JSON"
    raise OutputError(f"{shown(path)} is damaged ({reason}): {remedy}")


def kind_of(folder: Path) -> str:
    """The kind of a folder that patchad wrote, empty if it did not, or if unknown."""
    try:
        marker = read_marker(folder)
    except OSError:
        return ""
    return marker.kind if marker else ""


def write_marker(folder: Path, marker: Marker) -> None:
    """Write the marker of a folder."""
    write_whole(folder / MARKER, json.dumps(asdict(marker), indent=1) + "\n")
