"""The methods: one file a published method, found by the name that a configuration gives."""

from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from patchad.errors import RequestError

if TYPE_CHECKING:  # the names of methods are there without torch, which takes seconds to import
    import torch

    from patchad.detector import Detector

METHODS = (
    "wei2018",
    "convergence",
    "calcification",
    "synthetic_lesions",
    "position_gaussian",
    "dae",
    "synthetic_opacities",
    "fused",
)


@dataclass(frozen=True)
class About:
    """A method in words: its paper, what it needs to be trained, what it gives."""

    name: str
    paper: str
    needs: str
    gives: str


def module_of(name: str) -> ModuleType:
    """The module of a method: it holds ``ABOUT``, ``Config``, ``fit`` and ``restore``.

    Raises:
        RequestError: no method has this name.
    """
    match name:  # imported here: a method may bring in libraries that the others don't need
        case "wei2018":
            from patchad.methods import wei2018

            return wei2018
        case "convergence":
            from patchad.methods import convergence

            return convergence
        case "calcification":
            from patchad.methods import calcification

            return calcification
        case "synthetic_lesions":
            from patchad.methods import synthetic_lesions

            return synthetic_lesions
        case "position_gaussian":
            from patchad.methods import position_gaussian

            return position_gaussian
        case "dae":
            from patchad.methods import dae

            return dae
        case "synthetic_opacities":
            from patchad.methods import synthetic_opacities

            return synthetic_opacities
        case "fused":
            from patchad.methods import fused

            return fused
        case _:
            raise RequestError(f"there is no method {name!r}: use one of {', '.join(METHODS)}")


def about() -> list[About]:
    """All methods, in words."""
    return [module_of(name).ABOUT for name in METHODS]


def load(folder: Path, device: "torch.device") -> "Detector":
    """Load a trained detector from its model folder onto ``device``.

    Raises:
        ModelError: the folder holds no model that this patchad can use.
        RequestError: its method is unknown here.
    """
    from patchad.detector import read_model

    card, tensors = read_model(folder)
    detector: Detector = module_of(card.method).restore(card, tensors, device)
    return detector
