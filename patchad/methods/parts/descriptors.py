"""What shallow detectors see of a patch: its teacher's descriptor, as principal components.

The shallow rows of P. Bergmann et al., Uninformed students, CVPR 2020,
https://arxiv.org/abs/1911.02357: descriptors of the teacher of 65 pixels
(:mod:`patchad.methods.parts.teacher`), standardised. Of 65 pixels 60 reach the output, so patches
of 64 serve as well, which other methods have too. The paper doesn't say how many components it
keeps: 95 % of the variance chosen.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from patchad.core.grid import batches
from patchad.core.host import to_host
from patchad.errors import RequestError
from patchad.learn.checkpoint import epoch_generator
from patchad.learn.patch_bank import PatchBank
from patchad.learn.run import Run
from patchad.learn.training_set import TrainingSet
from patchad.methods.parts.components import Components
from patchad.methods.parts.dense_patch_nets import PatchNet, reach
from patchad.methods.parts.teacher import Training, teach

FIELD = 65

_AT_ONCE = 256  # patches that are described together
_APART = 8  # pixels between descriptors of a larger patch


class Descriptors(nn.Module):
    """The teacher and the components of its descriptors."""

    def __init__(self, width: int, variance: float) -> None:
        super().__init__()
        self.teachers = nn.ModuleDict({str(FIELD): PatchNet(FIELD, width)})
        self.components = Components(width, variance)

    @property
    def teacher(self) -> PatchNet:
        """The network."""
        network = self.teachers[str(FIELD)]
        assert isinstance(network, PatchNet)
        return network

    def forward(self, patches: Tensor) -> Tensor:
        """Patches (N, 1, S, S) in [0, 1] → components (N · k, width), k descriptors a patch."""
        found: Tensor = self.components(self.raw(patches))
        return found

    def raw(self, patches: Tensor) -> Tensor:
        """The descriptors as the teacher gives them: (N · k, width) float32."""
        spare = (patches.shape[-1] - reach(FIELD)) % _APART // 2
        found: Tensor = self.teacher(patches[..., spare:, spare:] * 2 - 1)
        return found.float().permute(0, 2, 3, 1).flatten(0, 2)

    def middle(self, patches: Tensor) -> Tensor:
        """The descriptor of the middle of each patch: (N, width) float32."""
        seen = reach(FIELD)
        first = (patches.shape[-1] - seen) // 2
        return self.raw(patches[..., first : first + seen, first : first + seen])

    def learn(
        self, data: TrainingSet, config: Training, samples: int, run: Run
    ) -> NDArray[np.float32]:
        """Train the teacher, or read it, and learn the components of negatives.

        Returns:
            Components (``samples``, width) of the middles of patches drawn with replacement.

        Raises:
            GivenUp: the teacher describes all patches alike.
            RequestError: the file of weights does not hold such a teacher.
        """
        bank = data.bank.to(run.device)
        teach(run.member("teacher"), self.teacher, FIELD, bank, config)
        self.teacher.eval().requires_grad_(False)
        return self.components.learn(described(self.middle, bank, samples, run))


def described(
    describe: Callable[[Tensor], Tensor], bank: PatchBank, samples: int, run: Run
) -> NDArray[np.float32]:
    """What ``describe`` makes of patches drawn with replacement: (``samples``, K)."""
    which = bank.draw(samples, epoch_generator(run.seed, 0))
    found: list[NDArray[np.float32]] = []
    with torch.inference_mode():
        for part in batches(samples, _AT_ONCE):
            found += to_host(describe(bank.cut(which[part])))
            run.tell("descriptors", part.stop, samples)
    return np.concatenate(found)


def by_patch(scores: Tensor, patches: Tensor) -> Tensor:
    """The mean over the descriptors of each of the N ``patches``: (N · k,) → (N,)."""
    return scores.reshape(len(patches), -1).mean(1)


def check_patch_size(size: int, name: str) -> None:
    """Refuse patches smaller than what reaches the descriptor (RequestError)."""
    least = reach(FIELD)
    if size < least:
        raise RequestError(
            f"{name} describes a patch by its middle {least} pixels, so patch_size must be at "
            f"least {least}; got {size} (64 is packaged, the paper's is {FIELD})"
        )
