"""A detector: a card, the method that it is of, and the trained module."""

from dataclasses import dataclass

import torch
from torch import nn

from patchad.model.card import ModelCard
from patchad.model.method import Method


@dataclass(frozen=True, eq=False)
class Detector:
    """What screens: ``module`` is trained, in eval mode, and holds all that was learnt."""

    card: ModelCard
    method: Method
    module: nn.Module

    @property
    def device(self) -> torch.device:
        """Where the module is."""
        tensors = (*self.module.parameters(), *self.module.buffers())
        return tensors[0].device if tensors else torch.device("cpu")
