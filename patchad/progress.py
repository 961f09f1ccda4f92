"""Progress reports of long work; the caller decides what to show."""

from collections.abc import Callable

# (stage, done, total, value): value is the loss while training, NaN if there is none.
Progress = Callable[[str, int, int, float], None]


def silent(stage: str, done: int, total: int, value: float) -> None:
    """Report nothing."""
