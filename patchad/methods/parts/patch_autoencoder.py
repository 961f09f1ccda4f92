"""The autoencoder of patches of Bergmann et al., whatever measures its reconstructions.

P. Bergmann, S. Löwe, M. Fauser, D. Sattlegger, C. Steger: Improving unsupervised defect
segmentation by applying structural similarity to autoencoders. VISAPP 2019, 372-380,
https://doi.org/10.5220/0007364503720380.
"""

import math
from collections.abc import Callable, Iterator
from typing import Protocol

import torch
from torch import Tensor, nn

from patchad.errors import RequestError
from patchad.learn.checkpoint import epoch_generator
from patchad.learn.loop import Step, train
from patchad.learn.run import Run
from patchad.learn.training_set import TrainingSet
from patchad.methods.parts.collapse import PROBED, Measure, is_dead, judge

# Each layer of the encoder: channels, kernel; a kernel of 4 halves the picture. Shapes for S = 128.
_LAYERS = (
    (32, 4),  # 64 × 64
    (32, 4),  # 32 × 32
    (32, 3),
    (64, 4),  # 16 × 16
    (64, 3),
    (128, 4),  # 8 × 8
    (64, 3),
    (32, 3),
)
_SHRINKS = 2 ** sum(kernel == 4 for _, kernel in _LAYERS)
_SLOPE = 0.2  # of the leaky units

Difference = Callable[[Tensor, Tensor], Tensor]  # reconstructions, patches → a map of each


class Training(Protocol):
    """What a configuration says of the training."""

    @property
    def epochs(self) -> int:
        """How many."""
        ...

    @property
    def patches_per_epoch(self) -> int:
        """Drawn anew for each."""
        ...

    @property
    def batch_size(self) -> int:
        """Patches of a step."""
        ...

    @property
    def learning_rate(self) -> float:
        """Of Adam."""
        ...


class PatchAutoencoder(nn.Module):
    """Patches (N, 1, S, S) in [0, 1] → the mean difference of each from its reconstruction (N,).

    ``difference``: (reconstructions, patches) → (N, 1, S, S) float32, 0 where they are equal.
    ``unit`` is its unit, and so that of the score.
    """

    pooling = ""

    def __init__(self, size: int, code: int, difference: Difference, unit: str) -> None:
        super().__init__()
        self.network = network(size, code)
        self.difference, self.unit = difference, unit

    def forward(self, patches: Tensor) -> Tensor:
        """The mean of each patch's map; the papers give maps alone, so that is chosen."""
        return self.maps(patches).mean((1, 2))

    def maps(self, patches: Tensor) -> Tensor:
        """The difference at each pixel: (N, S, S) float32."""
        redrawn: Tensor = self.network(patches)
        return self.difference(redrawn.float(), patches)[:, 0]


def network(size: int, code: int) -> nn.Sequential:
    """(N, 1, S, S) → (N, 1, S, S) in [0, 1], S a multiple of 16, by a code of 1 × 1 × ``code``.

    Leaky units with slope 0.2 after each layer but the code; a sigmoid at the end, as public
    implementations have it. The decoder mirrors the encoder. Weights start after He, which the
    papers don't say: seventeen layers without normalisation left the picture of the mean after 60
    to 120 steps so, and hadn't after 150 with PyTorch's start or Glorot's (two seeds each).
    """
    left = size // _SHRINKS  # 8 for 128: the kernel of the layer that makes the code
    inner = _LAYERS[-1][0]
    layers: list[nn.Module] = []
    channels = 1
    for count, kernel in _LAYERS:
        layers += [nn.Conv2d(channels, count, kernel, kernel // 2, 1), nn.LeakyReLU(_SLOPE)]
        channels = count
    layers += [nn.Conv2d(inner, code, left), nn.ConvTranspose2d(code, inner, left)]
    for (count, kernel), after in zip(
        reversed(_LAYERS), [*(count for count, _ in _LAYERS[-2::-1]), 1], strict=True
    ):
        kind = nn.Conv2d if kernel == 3 else nn.ConvTranspose2d
        layers += [nn.LeakyReLU(_SLOPE), kind(count, after, kernel, kernel // 2, 1)]
    for layer in layers:
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            transposed = isinstance(layer, nn.ConvTranspose2d)  # its weights are (in, out, …)
            nn.init.kaiming_normal_(layer.weight, _SLOPE, "fan_out" if transposed else "fan_in")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers, nn.Sigmoid())


def check_patch_size(size: int, name: str) -> None:
    """Refuse patches that cannot be halved four times (RequestError)."""
    if size % _SHRINKS:
        raise RequestError(
            f"{name} halves a patch four times, so patch_size must be a multiple of {_SHRINKS}; "
            f"got {size} (the paper's is 128)"
        )


def fit_patches(
    run: Run,
    module: PatchAutoencoder,
    data: TrainingSet,
    config: Training,
    name: str,
    measure: Measure,
) -> None:
    """Train the autoencoder in place on negative patches, by the mean of its own maps.

    Args:
        run: of the method.
        module: on the run's device.
        data: its bank has the patches.
        config: epochs, patches, batch size, learning rate.
        name: the method's, for the names of its options in remedies.
        measure: what is asked of it at the end, beside each patch's own mean.

    Raises:
        GivenUp: the network is dead, or redraws no better than each patch's own mean.
    """
    bank, redraw = data.bank.to(run.device), module.network
    steps = math.ceil(config.patches_per_epoch / config.batch_size)
    probe = bank.cut(bank.draw(PROBED, epoch_generator(run.seed, 0)))
    first = next(redraw.parameters())

    def draw(step: Step) -> Tensor:
        left = config.patches_per_epoch - step.index * config.batch_size
        return bank.draw(min(config.batch_size, left), step.generator)

    def losses(drawn: Tensor, step: Step) -> Iterator[tuple[str, Tensor]]:
        yield "adam", module(bank.cut(drawn)).mean()

    def health(epoch: int) -> str:
        if not is_dead(redraw, first, probe):
            return ""
        return f"dead after epoch {epoch}: it redraws every patch as the same picture"

    train(
        run,
        {"network": redraw},
        {"adam": torch.optim.Adam(redraw.parameters(), config.learning_rate)},
        epochs=config.epochs,
        steps=steps,
        draw=draw,
        losses=losses,
        health=health,
    )
    longer = f"raise {name}.epochs or {name}.learning_rate"
    judge(run, redraw, probe, config.epochs * steps, longer, longer, measure)
