"""The methods: one file a published method, found by the name that a configuration gives."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from patchad.errors import RequestError

if TYPE_CHECKING:  # the names of methods are there without torch, which takes seconds to import
    import torch

    from patchad.model.detector import Detector

# Where each method is; the one place that lists them.
TABLE: Mapping[str, str] = {
    "wei2018": "reconstruction/wei2018",
    "convergence": "filters/convergence",
    "calcification": "filters/calcification",
    "synthetic_lesions": "synthetic/synthetic_lesions",
    "position_gaussian": "density/position_gaussian",
    "dae": "reconstruction/dae",
    "synthetic_opacities": "synthetic/synthetic_opacities",
    "fused": "fused",
}
METHODS = tuple(TABLE)


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
    if name not in TABLE:
        raise RequestError(f"there is no method {name!r}: use one of {', '.join(METHODS)}")
    # Imported here: a method may bring in libraries that the others don't need.
    return import_module(f"patchad.methods.{TABLE[name].replace('/', '.')}")


def about() -> list[About]:
    """All methods, in words."""
    return [module_of(name).ABOUT for name in METHODS]


def load(folder: Path, device: "torch.device") -> "Detector":
    """Load a trained detector from its model folder onto ``device``.

    Raises:
        ModelError: the folder holds no model that this patchad can use.
        RequestError: its method is unknown here.
    """
    from patchad.model.detector import read_model

    card, tensors = read_model(folder)
    detector: Detector = module_of(card.method).restore(card, tensors, device)
    return detector
