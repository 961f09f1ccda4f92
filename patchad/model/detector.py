"""A detector: its card, its method and the trained module."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from patchad.model.card import ModelCard
from patchad.model.method import Method


@dataclass(frozen=True, eq=False)
class Detector:
    """A model ready to screen: ``module`` is trained and in eval mode.

    ``options`` is the method's own configuration, of its ``config`` type.
    """

    card: ModelCard
    method: Method
    options: Any
    module: nn.Module

    @property
    def device(self) -> torch.device:
        """The device of the module."""
        tensors = (*self.module.parameters(), *self.module.buffers())
        return tensors[0].device if tensors else torch.device("cpu")
