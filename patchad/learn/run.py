"""The settings of one training, apart from its data: seed, device, checkpoint, progress."""

import hashlib
import json
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from patchad.errors import PatchadError
from patchad.model.method import Setting
from patchad.progress import Progress, silent

_log = logging.getLogger(__name__)


class GivenUp(PatchadError):  # noqa: N818  # it names what happened to the attempt
    """An attempt that another seed may improve: the ``fault``, and the user's ``remedy``.

    The house starts again with another seed, as often as the method's ``restarts`` says.
    """

    def __init__(self, fault: str, remedy: str = "") -> None:
        super().__init__(fault)
        self.remedy = remedy


@dataclass(frozen=True, eq=False)
class Run:
    """One training of one method.

    ``seed`` decides everything random. ``request`` names what was asked for (a digest), so that a
    checkpoint of something else is refused; ``checkpoint`` is the file, None for none. ``attempt``
    counts the restarts, and ``notes`` collect what a reader of the card must know. ``part`` is the
    name of the member of a fusion, empty otherwise. ``expect`` is told once of each training how
    many seconds it and the ``repeats`` like it will take.
    """

    seed: int
    device: torch.device
    setting: Setting
    request: str = ""
    checkpoint: Path | None = None
    progress: Progress = silent
    attempt: int = 0
    part: str = ""
    notes: list[str] = field(default_factory=list)
    expect: Callable[[float], None] = lambda seconds: None
    repeats: int = 1

    def tell(self, stage: str, done: int, total: int, value: float = math.nan) -> None:
        """Tell of ``done`` of ``total`` steps; ``value`` is a loss, NaN for none."""
        self.progress(f"{self.part}: {stage}" if self.part else stage, done, total, value)

    def note(self, text: str) -> None:
        """Add a sentence to the card's notes, and log it as a warning."""
        text = f"{self.part}: {text}" if self.part else text
        _log.warning(text)
        self.notes.append(text)

    def member(self, name: str, of: int = 1) -> "Run":
        """The run of a member: with its own checkpoint and name, the same notes.

        ``of`` is how many trainings like this one the method makes.
        """
        file = self.checkpoint and self.checkpoint.with_name(f"{name}-{self.checkpoint.name}")
        part = f"{self.part}.{name}" if self.part else name
        return replace(
            self,
            part=part,
            checkpoint=file,
            request=digest([self.request, name]),
            repeats=self.repeats * of,
        )


def digest(asked: object) -> str:
    """SHA-256 (hex) of a value that JSON can hold."""
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
