"""Names of files: any name from a header or a user becomes one plain part of a path."""

import re

from patchad.errors import RequestError

_LONGEST = 100
# Windows keeps these for devices, with any ending.
_DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)


def is_uid(text: str) -> bool:
    """Whether ``text`` can stand for a UID: up to 64 digits and single dots.

    A part may begin with 0, and the first part may be any number, which PS3.5 section 9.1 forbids:
    archives have such UIDs, and an object has to refer to its source by the UID it was given.
    """
    return len(text) <= 64 and re.fullmatch(r"[0-9]+(\.[0-9]+)*", text) is not None


def new_id(preferred: str, taken: set[str]) -> str:
    """A file name for one image's results: ``preferred`` made safe, numbered if ``taken``."""
    safe = re.sub(r"[^A-Za-z0-9._-]+", "_", preferred).strip("._")[:_LONGEST].rstrip("._")
    safe = safe or "image"
    if _DEVICES.fullmatch(safe):
        safe = f"image_{safe}"
    name, number = safe, 1
    while name.lower() in taken:  # some file systems do not tell a from A
        number += 1
        name = f"{safe}-{number}"
    taken.add(name.lower())
    return name


def checked(name: str) -> str:
    """``name`` unchanged, if :func:`new_id` could have made it; every path is made with it.

    Raises:
        RequestError: it could lead out of its folder, or isn't a file name everywhere.
    """
    plain = re.fullmatch(r"[A-Za-z0-9-][A-Za-z0-9._-]*", name) and name[-1] not in "._"
    if not plain or len(name) > _LONGEST + 20 or _DEVICES.fullmatch(name):
        raise RequestError(
            "an id of this run is no plain file name (letters, digits, dots, dashes): it was not "
            "written by patchad, or was changed by hand: screen again"
        )
    return name
