"""The declaration of a kind of DICOM object; each module of a kind ends with its ``KIND``."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Generic, Literal, TypeVar

from pydicom import Dataset

from patchad.export.dicom import OF_A_RUN, OF_AN_IMAGE

Of = TypeVar("Of")


def _nothing(_: object) -> str:
    return ""


@dataclass(frozen=True)
class Need:
    """An option without which a kind is refused: its name in Python, and why it is needed."""

    option: str
    why: str


@dataclass(frozen=True)
class Kind(Generic[Of]):
    """A kind of DICOM object, made from a finding (scope "image") or a selection (scope "run").

    ``name`` is that of ``--write`` and of the file, and part of every UID. ``title`` is in the
    Series Description, ``number`` is the Series Number. ``build`` gives the object, None if it
    would be empty. ``alone``: each object has its own series. ``obstacle`` says why this image in
    particular can't have the object; empty if it can.
    """

    name: str
    title: str
    number: int
    scope: Literal["image", "run"]
    build: Callable[[Of], Dataset | None]
    alone: bool = False
    needs: Need | None = None
    obstacle: Callable[[Of], str] = _nothing


def image_kinds(names: Sequence[str]) -> tuple[Kind[Any], ...]:
    """Those of ``names`` that are DICOM objects of an image, in the order of the table."""
    return tuple(_load(module) for name, module in OF_AN_IMAGE.items() if name in names)


def run_kinds(names: Sequence[str]) -> tuple[Kind[Any], ...]:
    """Those of ``names`` that are DICOM objects of a run, in the order of the table."""
    return tuple(_load(module) for name, module in OF_A_RUN.items() if name in names)


def _load(module: str) -> Any:
    # Imported here: a kind may bring in libraries that the others don't need.
    return import_module(f"patchad.export.dicom.{module}").KIND
