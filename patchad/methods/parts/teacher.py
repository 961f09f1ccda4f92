"""A teacher: a network that tells patches apart, trained on the user's own negatives.

P. Bergmann, M. Fauser, D. Sattlegger, C. Steger: Uninformed students. CVPR 2020,
https://arxiv.org/abs/1911.02357.

As published: a triplet loss, in which a patch is nearer to itself shifted, brighter or noisier than
to another patch; a loss on the correlations between descriptor dimensions; Adam with 2e-4, decay
1e-5, batches of 64. Other than published: descriptors of an ImageNet network, which the paper's
teacher also learns to repeat, are left out (λ_k = 0), since such weights are never downloaded; and
patches are of the negatives, not of ImageNet. Squared correlations are averaged over pairs where
the paper adds them up: without the ImageNet term the sum drowns the triplets (150 steps on chest
films at width 32: deviation of descriptors 0.005, triplet loss 1.00 of 1; with the mean 0.43 and
0.10). Public code correlates samples by mistake. The paper's 50,000 steps are not verified. It
doesn't say margin, shift, brightness or noise: chosen here. The other patch is the batch's next.

Weights may come from a file instead: safetensors with ``teachers.FIELD.convolutions.N.weight`` and
``.bias``, such as the ``weights.safetensors`` of a trained model of any method that has a teacher.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from patchad.errors import RequestError
from patchad.learn.checkpoint import epoch_generator
from patchad.learn.loop import Step, equal_epochs, train
from patchad.learn.run import Run
from patchad.methods.parts.collapse import PROBED, probing
from patchad.methods.parts.dense_patch_nets import PatchNet
from patchad.methods.parts.weights import put_weights, read_weights

LEAST = 1e-3  # deviation of a descriptor's number below which it is a constant

_MARGIN = 1.0
_SHIFT = 8  # the farthest that a patch is shifted: its reach / 8
_BRIGHTER, _NOISE = 0.2, 0.02  # intensities are in [-1, 1]
_EPOCH = 100  # steps at most between checkpoints


class Training(Protocol):
    """What a configuration says of the teacher."""

    @property
    def width(self) -> int:
        """Of the network; a descriptor has as many numbers."""
        ...

    @property
    def weights(self) -> str:
        """The file of a trained teacher; empty to train one."""
        ...

    @property
    def teacher_steps(self) -> int:
        """Steps of training."""
        ...

    @property
    def teacher_batch(self) -> int:
        """Patches of a step."""
        ...

    @property
    def teacher_rate(self) -> float:
        """Learning rate of Adam."""
        ...

    @property
    def decay(self) -> float:
        """Weight decay of Adam."""
        ...


class Patches(Protocol):
    """Patches to train on, such as a :class:`patchad.learn.patch_bank.PatchBank`."""

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Which, (count,) int64 on the CPU."""
        ...

    def cut(self, which: Tensor) -> Tensor:
        """Those patches: (count, 1, S, S) float32 in [0, 1] on the device, S ≥ the reach."""
        ...


@dataclass(frozen=True, eq=False)
class Windows:
    """All windows of ``size`` pixels in ``squares`` (N, 1, S, S), which are mirrored beyond."""

    size: int
    squares: Tensor

    @classmethod
    def around(cls, squares: Tensor, reach: int) -> "Windows":
        """Windows with room for a patch of ``reach`` and its shifts, anywhere in the squares."""
        padded = F.pad(squares, (reach // 2,) * 4, mode="reflect")
        return cls(min(reach + 2 * (reach // _SHIFT), padded.shape[-1]), padded)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Which windows, (count,) int64 on the CPU."""
        places = (self.squares.shape[-1] - self.size + 1) ** 2
        return torch.randint(len(self.squares) * places, (count,), generator=generator)

    def cut(self, which: Tensor) -> Tensor:
        """Those windows: (count, 1, size, size)."""
        each = self.squares.shape[-1] - self.size + 1
        which = which.to(self.squares.device, non_blocking=True)
        windows = self.squares[:, 0].unfold(1, self.size, 1).unfold(2, self.size, 1)
        return windows[which // each**2, which // each % each, which % each][:, None]


def teach(run: Run, network: PatchNet, field: int, patches: Patches, config: Training) -> None:
    """Train the teacher of a ``field`` in place, or take it from the file that is given.

    Raises:
        GivenUp: it describes all patches alike.
        RequestError: the file does not hold such a teacher, or a batch holds one patch.
    """
    if config.weights:
        option = f"weights, the teacher of {field}"
        prefix, given = f"teachers.{field}.", read_weights(config.weights, option)
        names = {key.removeprefix("descriptors."): key for key in given}  # of shallow rows
        own = {k.removeprefix(prefix): given[names[k]] for k in names if k.startswith(prefix)}
        put_weights(network, own, option)
        if alike(network, _probe(run, network, patches)):
            run.note(f"The teacher of {field} pixels from the file describes all patches alike.")
        return
    batch, reach = config.teacher_batch, network.reach
    if batch < 2:
        raise RequestError(
            f"teacher_batch must be 2 or more, got {batch}: a patch is told from the batch's next"
        )
    probe = _probe(run, network, patches)

    def draw(step: Step) -> tuple[Tensor, ...]:
        generator = step.generator
        which = patches.draw(batch, generator)
        anchors = torch.rand(batch, 2, generator=generator)
        shifts = torch.randint(
            -(reach // _SHIFT), reach // _SHIFT + 1, (batch, 2), generator=generator
        )
        brighter = (torch.rand(batch, 1, 1, 1, generator=generator) * 2 - 1) * _BRIGHTER
        noise = torch.randn(batch, 1, reach, reach, generator=generator) * _NOISE
        return which, anchors, shifts, brighter, noise

    def losses(drawn: tuple[Tensor, ...], step: Step) -> Iterator[tuple[str, Tensor]]:
        cut = patches.cut(drawn[0]) * 2 - 1
        anchors, shifts, brighter, noise = (
            part.to(run.device, non_blocking=True) for part in drawn[1:]
        )
        room = cut.shape[-1] - reach
        places = (anchors * (room + 1)).long()
        near = cropped(cut, (places + shifts).clamp(0, room), reach) + brighter + noise
        both: Tensor = network(torch.cat([cropped(cut, places, reach), near]))
        found = both.float().mean((2, 3))
        yield "adam", triplet(*found.chunk(2)) + correlation(found)

    def health(epoch: int) -> str:
        # At the start patches are described nearly alike too: judged from the middle on.
        if 2 * epoch < epochs or not alike(network, probe):
            return ""
        return f"after epoch {epoch} the teacher of {field} pixels describes all patches alike"

    epochs, steps = equal_epochs(config.teacher_steps, _EPOCH)
    train(
        run,
        {"network": network},
        {
            "adam": torch.optim.Adam(
                network.parameters(), config.teacher_rate, weight_decay=config.decay
            )
        },
        epochs=epochs,
        steps=steps,
        draw=draw,
        losses=losses,
        health=health,
    )


def cropped(windows: Tensor, places: Tensor, size: int) -> Tensor:
    """From each window (N, 1, S, S) the square of ``size`` at its place (N, 2) (row, col)."""
    number = torch.arange(len(windows), device=windows.device)
    views = windows[:, 0].unfold(1, size, 1).unfold(2, size, 1)
    return views[number, places[:, 0], places[:, 1]][:, None]


def squared(one: Tensor, other: Tensor) -> Tensor:
    """Squared Euclidean distances of rows: (N, K) each → (N,)."""
    return (one - other).square().sum(1)


def triplet(anchors: Tensor, near: Tensor) -> Tensor:
    """Mean of max(0, 1 + d(a, a⁺) - min(d(a, a⁻), d(a⁺, a⁻))), d squared distances: a scalar.

    Args:
        anchors: descriptors (N, K) of patches.
        near: (N, K) of the same patches, changed; the other patch a⁻ is the batch's next anchor.
    """
    return F.triplet_margin_with_distance_loss(
        anchors, near, anchors.roll(-1, 0), distance_function=squared, margin=_MARGIN, swap=True
    )


def correlation(descriptors: Tensor) -> Tensor:
    """The mean over pairs of dimensions of their squared correlation over (N, K): a scalar."""
    count, width = descriptors.shape
    variance, mean = torch.var_mean(descriptors, 0, correction=0)
    scaled = (descriptors - mean) / (variance + 1e-12).sqrt()
    with torch.autocast(descriptors.device.type, enabled=False):  # it would take bfloat16
        shared = (scaled.T @ scaled / count).square()
    return shared.triu(1).sum() / max(width * (width - 1) / 2, 1)


def alike(network: PatchNet, probe: Tensor) -> bool:
    """Whether descriptors of patches (N, 1, S, S) in [-1, 1] hardly differ: the collapse."""
    with probing(network), torch.inference_mode():
        found = network(probe).float().mean((2, 3))
    return len(probe) > 1 and bool(found.std(0, correction=0).square().mean().sqrt() < LEAST)


def _probe(run: Run, network: PatchNet, patches: Patches) -> Tensor:
    which = patches.draw(PROBED, epoch_generator(run.seed, 0))
    return patches.cut(which) * 2 - 1
