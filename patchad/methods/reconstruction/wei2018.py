"""A strided convolutional autoencoder of negative patches; the score is what it fails to redraw.

Q. Wei, B. Shi, J. Y. Lo, L. Carin, Y. Ren, R. Hou: Anomaly detection for medical images based on a
one-class classification. Proc. SPIE 10575, Medical Imaging 2018: Computer-Aided Diagnosis, 105751M.
https://doi.org/10.1117/12.2293408

As published: 128 × 128 patches; five strided convolutions down to 4 × 4 × 32 and five back, with
ReLU; squared error; Adam with 1e-3 and β 0.9, 0.999; batches of 200, 500 epochs; a patch's score is
its root mean squared error over all pixels.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from monai.networks.nets.autoencoder import AutoEncoder
from torch import Tensor, nn

from patchad.errors import RequestError
from patchad.learn.checkpoint import epoch_generator
from patchad.learn.loop import Step, train
from patchad.learn.run import Run
from patchad.learn.training_set import TrainingSet
from patchad.methods.parts.collapse import PROBED, is_dead, judge
from patchad.model.method import Gives, Method, Needs, Setting
from patchad.prepare.preprocess import Intensity

NAME = "wei2018"
SCORE_UNITS: dict[Intensity, str] = {
    "voi": "RMSE of intensity [0, 1]",
    "percentiles": "RMSE of intensity [0, 1] between percentiles of the foreground",
    "local": "RMSE of local contrast (0.1 is one local standard deviation)",
}

Activation = Literal["relu", "leaky_relu"]

_CHANNELS = (2, 4, 8, 16, 32)
_SHRINKS = 2 ** len(_CHANNELS)  # patch side / side of the code
_NEGATIVE_SLOPE = 0.01  # of leaky_relu
_LEAKY = "use --config wei2018_leaky, whose units cannot die"
_LONGER = f"raise {NAME}.epochs or {NAME}.learning_rate"


@dataclass(frozen=True)
class Config:
    """How to train; the defaults are the paper's.

    ``patches_per_epoch``: None takes as many as tile the training foreground without overlap.
    ``restarts``: how many seeds are tried before training is given up.
    """

    epochs: int = 500
    batch_size: int = 200
    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    activation: Activation = "relu"
    patches_per_epoch: int | None = None
    restarts: int = 3

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "restarts", "patches_per_epoch"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise RequestError(f"{NAME}.{name} must be at least 1, got {value}")
        if not 0 < self.learning_rate < math.inf:
            raise RequestError(f"{NAME}.learning_rate must be positive, got {self.learning_rate}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise RequestError(f"{NAME}.betas must lie in [0, 1), got {self.betas}")
        if self.activation not in get_args(Activation):
            raise RequestError(f"{NAME}.activation is relu or leaky_relu, not {self.activation!r}")


class Wei2018(nn.Module):
    """The autoencoder: patches (N, 1, S, S) in [0, 1] → the RMSE of each one's reconstruction (N,).

    ``unit`` is the unit of the score.
    """

    pooling = ""

    def __init__(self, activation: Activation, unit: str) -> None:
        super().__init__()
        self.network = autoencoder(activation)
        self.unit = unit

    def forward(self, patches: Tensor) -> Tensor:
        """Root mean squared error of each patch, in the unit of the pixels."""
        return rmse(self.network(patches).float(), patches)


def build(config: Config, setting: Setting) -> Wei2018:
    """The autoencoder before training.

    Raises:
        RequestError: a patch size that the network cannot halve five times.
    """
    check_patch_size(setting.patch_size)
    return Wei2018(config.activation, SCORE_UNITS[setting.preprocessing.intensity])


def learn(module: Wei2018, config: Config, data: TrainingSet, run: Run) -> None:
    """Train the autoencoder on negative patches.

    A network whose output no longer depends on its input is dead. With ReLU and so few channels
    that happens to some seeds, at their start or on the way, and no step can mend it, since no
    gradient reaches the first layer: looked for after each epoch. At the end, a network must redraw
    training patches better than each patch's own mean does
    (:func:`patchad.methods.parts.collapse.judge`). Live networks linger at the picture of the mean
    before they learn to tell patches apart, and needed 120 to 285 steps of 50 patches to beat the
    own mean on mini-MIAS (12 seeds), about 400 to 700 on locally normalised films (3 seeds).

    Raises:
        GivenUp: the network is dead, or redraws no better than means.
    """
    bank, network = data.bank.to(run.device), module.network
    patches = config.patches_per_epoch or max(1, data.patches)
    steps = math.ceil(patches / config.batch_size)
    probe = bank.cut(bank.draw(PROBED, epoch_generator(run.seed, 0)))

    def draw(step: Step) -> Tensor:
        count = min(config.batch_size, patches - step.index * config.batch_size)
        return bank.draw(count, step.generator)

    def losses(drawn: Tensor, step: Step) -> Iterator[tuple[str, Tensor]]:
        yield "adam", squared_error(network, bank.cut(drawn))

    def health(epoch: int) -> str:
        if not is_dead(network, next(network.parameters()), probe):
            return ""
        return f"dead after epoch {epoch}: it redraws every patch as the same picture"

    train(
        run,
        {"network": network},
        {"adam": torch.optim.Adam(network.parameters(), config.learning_rate, config.betas)},
        epochs=config.epochs,
        steps=steps,
        draw=draw,
        losses=losses,
        health=health,
        remedy=_LEAKY,
    )
    judge(run, network, probe, config.epochs * steps, _LEAKY, _LONGER)


def autoencoder(activation: Activation) -> nn.Module:
    """The paper's autoencoder: (N, 1, S, S) → (N, 1, S, S), S a multiple of 32.

    Eleven layers as the paper counts (input, five down, five up); shapes below for S = 128. The
    last layer is linear. Kernels are 3 × 3 and start as MONAI's blocks do (PyTorch's default). With
    that start and ReLU, 38 of 200 seeds are dead before the first step on mini-MIAS; starts after
    He or Glorot, or with the last bias at the data's mean, were not shown to lose fewer in the end.
    """
    leaky = ("LEAKYRELU", {"negative_slope": _NEGATIVE_SLOPE})
    return AutoEncoder(
        spatial_dims=2,
        in_channels=1,  # 128 × 128 × 1
        channels=_CHANNELS,  # 64 × 64 × 2, 32 × 32 × 4, 16 × 16 × 8, 8 × 8 × 16, 4 × 4 × 32
        out_channels=1,  # and back the same way to 128 × 128 × 1
        strides=(2,) * len(_CHANNELS),
        kernel_size=3,
        up_kernel_size=3,
        act="RELU" if activation == "relu" else leaky,
        norm=None,  # type: ignore[arg-type]  # MONAI hands it to Convolution, which takes None
    )


def check_patch_size(size: int) -> None:
    """Refuse patches that cannot be halved five times (RequestError)."""
    if size < _SHRINKS or size % _SHRINKS:
        raise RequestError(
            f"{NAME} halves a patch {len(_CHANNELS)} times, so patch_size must be a multiple of "
            f"{_SHRINKS}; got {size} (the paper's is 128)"
        )


def rmse(reconstructions: Tensor, patches: Tensor) -> Tensor:
    """Root mean squared difference of each patch over all its pixels: (N, 1, S, S) → (N,)."""
    return (reconstructions - patches).square().mean((1, 2, 3)).sqrt()


def squared_error(network: nn.Module, patches: Tensor) -> Tensor:
    """The loss: mean squared error of the reconstructions of ``patches`` (N, 1, S, S)."""
    reconstructions: Tensor = network(patches)
    return (reconstructions.float() - patches).square().mean()


METHOD = Method(
    name=NAME,
    family="reconstruction",
    paper="Wei et al., Anomaly detection for medical images based on a one-class classification, "
    "SPIE Medical Imaging 2018, doi 10.1117/12.2293408",
    needs=Needs("negative images, of two patients at least; no labels of lesions"),
    gives=Gives(
        "patch",
        "a score a patch (the RMSE of an autoencoder's reconstruction), stitched into a heatmap",
        onnx=True,
    ),
    config=Config,
    build=build,
    learn=learn,
    quick={"epochs": 40},
)
