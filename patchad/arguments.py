"""What the texts of the command line's options mean; what they can't mean is a RequestError."""

from collections.abc import Sequence

from patchad.errors import RequestError
from patchad.export import KINDS


def kinds_of(text: str) -> tuple[str, ...]:
    """The kinds of ``--write``, each once."""
    kinds = tuple(dict.fromkeys(kind.strip() for kind in text.split(",") if kind.strip()))
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds:
        raise RequestError(f"--write takes some of {','.join(KINDS)}; got {text!r}")
    return kinds


def one_of(option: str, text: str, allowed: Sequence[str]) -> None:
    """Refuse what isn't allowed."""
    if text not in allowed:
        raise RequestError(f"{option} takes one of {', '.join(allowed)}; got {text!r}")


def spacing_of(text: str | None) -> tuple[float, float] | None:
    """``--spacing-mm`` as (row, col), None where it was not given."""
    if text is None:
        return None
    try:
        numbers = [float(part) for part in text.split(",")]
        row, col = numbers * 2 if len(numbers) == 1 else numbers
    except ValueError:
        row = col = -1.0
    if not (0 < row < float("inf") and 0 < col < float("inf")):
        raise RequestError(f"--spacing-mm is millimetres, one number or ROW,COL; got {text!r}")
    return row, col
