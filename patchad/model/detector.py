"""A detector: a card, the method that it is of, and the trained module."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from patchad.model.card import ModelCard
from patchad.model.method import Method


@dataclass(frozen=True, eq=False)
class Detector:
    """What screens: ``module`` is trained, in eval mode, and holds all that was learnt.

    ``options`` is the method's own configuration, of its ``config`` type.
    """

    card: ModelCard
    method: Method
    options: Any
    module: nn.Module

    @property
    def device(self) -> torch.device:
        """Where the module is."""
        tensors = (*self.module.parameters(), *self.module.buffers())
        return tensors[0].device if tensors else torch.device("cpu")
