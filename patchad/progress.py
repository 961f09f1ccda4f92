"""How long work says how far it is; who listens decides what to show."""

from collections.abc import Callable

# (stage, done, total, value): value is the loss while training, NaN where there is none.
Progress = Callable[[str, int, int, float], None]


def silent(stage: str, done: int, total: int, value: float) -> None:
    """Say nothing."""
