"""A strided convolutional autoencoder of negative patches; the score is what it fails to redraw.

Q. Wei, B. Shi, J. Y. Lo, L. Carin, Y. Ren, R. Hou: Anomaly detection for medical images based on a
one-class classification. Proc. SPIE 10575, Medical Imaging 2018: Computer-Aided Diagnosis, 105751M.
https://doi.org/10.1117/12.2293408

As published: 128 × 128 patches; five strided convolutions down to 4 × 4 × 32 and five back, with
ReLU; squared error; Adam with 1e-3 and β 0.9, 0.999; batches of 200, 500 epochs; a patch's score is
its root mean squared error over all pixels.
"""

import hashlib
import json
import logging
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import torch
from monai.networks.nets.autoencoder import AutoEncoder
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from patchad.errors import ModelError, RequestError, TrainingError
from patchad.learn.loop import Checkpoint, Schedule, epoch_generator, train_epochs
from patchad.learn.training_set import TrainingSet
from patchad.methods import About
from patchad.model.detector import ModelCard, PatchDetector, card_as_dict
from patchad.prepare.preprocess import Intensity
from patchad.progress import Progress, silent

METHOD = "wei2018"
SCORE_UNITS: dict[Intensity, str] = {
    "voi": "RMSE of intensity [0, 1]",
    "percentiles": "RMSE of intensity [0, 1] between percentiles of the foreground",
    "local": "RMSE of local contrast (0.1 is one local standard deviation)",
}

ABOUT = About(
    name=METHOD,
    paper="Wei et al., Anomaly detection for medical images based on a one-class classification, "
    "SPIE Medical Imaging 2018, doi 10.1117/12.2293408",
    needs="negative images, of two patients at least; no labels of lesions",
    gives="a score a patch (the RMSE of an autoencoder's reconstruction), stitched into a heatmap",
)

Activation = Literal["relu", "leaky_relu"]

_CHANNELS = (2, 4, 8, 16, 32)
_SHRINKS = 2 ** len(_CHANNELS)  # patch side / side of the code
_NEGATIVE_SLOPE = 0.01  # of leaky_relu
_PROBED = 64  # training patches that the checks look at
_JUDGED_AFTER = {"dead": 300, "undertrained": 1000}  # steps; see fit
_SEED_STEP = 1_000_000  # between the seeds of restarts, away from the 0, 1, 2 of a study
_log = logging.getLogger(__name__)


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
                raise RequestError(f"{METHOD}.{name} must be at least 1, got {value}")
        if not 0 < self.learning_rate < math.inf:
            raise RequestError(f"{METHOD}.learning_rate must be positive, got {self.learning_rate}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise RequestError(f"{METHOD}.betas must lie in [0, 1), got {self.betas}")
        if self.activation not in get_args(Activation):
            raise RequestError(
                f"{METHOD}.activation is relu or leaky_relu, not {self.activation!r}"
            )


_CONFIG = TypeAdapter(Config)


@dataclass(frozen=True, eq=False)
class Wei2018:
    """A trained autoencoder: a :class:`patchad.model.detector.PatchDetector`."""

    card: ModelCard
    network: nn.Module

    def score(self, patches: Tensor) -> Tensor:
        """Root mean squared error of each patch (N, 1, S, S) in [0, 1]: (N,), same unit."""
        reconstructions: Tensor = self.network(patches)
        return rmse(reconstructions, patches)

    def tensors(self) -> dict[str, Tensor]:
        """The weights and biases by layer."""
        return self.network.state_dict()


def fit(
    config: Config,
    data: TrainingSet,
    *,
    card: ModelCard,
    seed: int,
    device: torch.device,
    checkpoint: Path | None = None,
    progress: Progress = silent,
) -> PatchDetector:
    """Train the autoencoder on negative patches.

    A network whose output no longer depends on its input is dead. With ReLU and so few channels
    that happens to some seeds, at their start or on the way, and no step can mend it, since no
    gradient reaches the first layer: looked for after each epoch. At the end, a network must redraw
    training patches better than each patch's own mean does; if not it is dead where all its
    reconstructions are nearly one picture, and undertrained where they aren't. Either way it is
    given up, and training starts again with seed + 1,000,000, then + 2,000,000 ….

    Short trainings are judged more mildly at the end: below 300 steps nearly one picture, below
    1,000 an error above the own means' is no fault. Live networks linger at the picture of the mean
    before they learn to tell patches apart, and needed 120 to 285 steps of 50 patches to beat the
    own mean on mini-MIAS (12 seeds), about 400 to 700 on locally normalised films (3 seeds).
    Another seed would be as short: the card says «undertrained» and the log warns.

    Args:
        config: this method's own table.
        data: where patches are drawn, and how many tile the foreground.
        card: a draft, without calibration.
        seed: decides weights and patches.
        device: where the bank is.
        checkpoint: a file, written after each epoch; resumed from where it exists. It stays.
        progress: told of each epoch and its mean squared error.

    Returns:
        The detector; its card has the seed that was used in the end, and notes on restarts.

    Raises:
        RequestError: a patch size that the network cannot halve five times; a checkpoint of
            another training.
        TrainingError: no try gave a usable network, or the loss is no longer a number.
    """
    check_patch_size(card.patch_size)
    schedule = Schedule(
        config.epochs,
        config.patches_per_epoch or data.patches,
        config.batch_size,
        config.learning_rate,
        config.betas,
    )
    digest = _digest(config, data, card, seed)
    state = Checkpoint.read(checkpoint, digest) if checkpoint else None
    first, notes = (state.attempt, state.notes) if state else (0, ())
    for attempt in range(first, config.restarts):
        own_seed = seed + attempt * _SEED_STEP
        probe = data.bank.draw(_PROBED, epoch_generator(own_seed, 0))
        network = build_network(config.activation, own_seed).to(device)
        epochs = train_epochs(
            network,
            data.bank,
            loss=squared_error,
            schedule=schedule,
            seed=own_seed,
            checkpoint=checkpoint,
            digest=digest,
            attempt=attempt,
            notes=notes,
        )
        stage = "training" if attempt == 0 else f"training, try {attempt + 1}"
        fault = ""
        for epoch, loss in epochs:
            progress(stage, epoch, config.epochs, loss)
            if is_dead(network, probe):
                fault = f"dead after epoch {epoch}: it redraws every patch as the same picture"
                break
        if not fault and (shortfall := _compare_with_means(network, probe)):
            kind = "dead" if is_flat(network, probe) else "undertrained"
            if schedule.steps < _JUDGED_AFTER[kind]:
                short = f"Undertrained, after only {schedule.steps} steps: {shortfall}."
                notes = _noted(notes, short)
            else:
                fault = f"{kind} at the end: {shortfall}"
        if not fault:
            config_used = {**card.config, METHOD: asdict(config)}
            return Wei2018(
                replace(
                    card,
                    config=config_used,
                    score_unit=SCORE_UNITS[card.preprocessing.intensity],
                    seed=own_seed,
                    notes=(*card.notes, *notes),
                ),
                network.eval().requires_grad_(False),
            )
        given_up = (
            f"Try {attempt + 1} of {config.restarts}, seed {own_seed}, was given up; {fault}."
        )
        notes = _noted(notes, given_up)
    raise TrainingError(_advice(notes))


def restore(card: ModelCard, tensors: dict[str, Tensor], device: torch.device) -> PatchDetector:
    """The detector that was saved as ``card`` and ``tensors``.

    Raises:
        ModelError: they are not of this method.
    """
    try:
        config = _CONFIG.validate_python(card.config.get(METHOD))
        network = build_network(config.activation, 0)
        network.load_state_dict(tensors)
    except (ValidationError, RuntimeError) as error:
        raise ModelError(
            f"the model is not one of {METHOD} that this patchad can read: {error}; train anew"
        ) from None
    return Wei2018(card, network.to(device).eval().requires_grad_(False))


def build_network(activation: Activation, seed: int) -> nn.Module:
    """The paper's autoencoder, on the CPU: (N, 1, S, S) → (N, 1, S, S), S a multiple of 32.

    Eleven layers as the paper counts (input, five down, five up); shapes below for S = 128. The
    last layer is linear. Kernels are 3 × 3 and start as MONAI's blocks do (PyTorch's default). With
    that start and ReLU, 38 of 200 seeds are dead before the first step on mini-MIAS; starts after
    He or Glorot, or with the last bias at the data's mean, were not shown to lose fewer in the end.
    """
    leaky = ("LEAKYRELU", {"negative_slope": _NEGATIVE_SLOPE})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(epoch_generator(seed, 0).initial_seed())
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
            f"{METHOD} halves a patch {len(_CHANNELS)} times, so patch_size must be a multiple of "
            f"{_SHRINKS}; got {size} (the paper's is 128)"
        )


def rmse(reconstructions: Tensor, patches: Tensor) -> Tensor:
    """Root mean squared difference of each patch over all its pixels: (N, 1, S, S) → (N,)."""
    return (reconstructions - patches).square().mean((1, 2, 3)).sqrt()


def squared_error(network: nn.Module, patches: Tensor) -> Tensor:
    """The loss: mean squared error of the reconstructions of ``patches`` (N, 1, S, S)."""
    reconstructions: Tensor = network(patches)
    return (reconstructions.float() - patches).square().mean()


def is_dead(network: nn.Module, patches: Tensor) -> bool:
    """Whether nothing in ``patches`` (N, 1, S, S) can reach the output, so that it is a constant.

    Asked of the gradient at the first layer, which is then exactly zero. Equal pictures alone would
    not tell: a network that has just started differs between patches by less than float32 shows.
    """
    weights = next(network.parameters())
    (gradient,) = torch.autograd.grad(squared_error(network, patches), weights)
    return not bool(gradient.any())


def is_flat(network: nn.Module, patches: Tensor) -> bool:
    """Whether reconstructions of ``patches`` (N, 1, S, S) are nearly the same picture.

    That is, whether they differ from their mean by less than 1 % of what the patches do from
    theirs. So ends a network in which a last unit still answers at a pixel or two; but a live one
    passes through it too, in its first hundred steps.
    """
    with torch.inference_mode():
        spread = [(x - x.mean(0)).square().mean().sqrt() for x in (network(patches), patches)]
    return bool(spread[0] < 0.01 * spread[1])


def _compare_with_means(network: nn.Module, patches: Tensor) -> str:
    """What is wrong where each patch's own mean is as good a reconstruction; empty: nothing."""
    with torch.inference_mode():
        own = float(squared_error(network, patches)) ** 0.5
        mean = float((patches - patches.mean((2, 3), keepdim=True)).square().mean()) ** 0.5
    _log.info("RMSE %.4f on %d training patches; of their own means %.4f", own, len(patches), mean)
    if own < mean:
        return ""
    return f"RMSE {own:.4f} on training patches, not below {mean:.4f} of each patch's own mean"


def _noted(notes: tuple[str, ...], note: str) -> tuple[str, ...]:
    _log.warning(note)
    return (*notes, note)


def _advice(notes: tuple[str, ...]) -> str:
    """The message of a training that was given up."""
    said = " ".join(notes)
    remedies = [f"raise {METHOD}.epochs or {METHOD}.learning_rate"] * ("undertrained" in said)
    remedies += ["use --config wei2018_leaky, whose units cannot die"] * ("dead" in said)
    return f"no try gave a usable network. {said} {', or '.join(remedies).capitalize()}."


def _digest(config: Config, data: TrainingSet, card: ModelCard, seed: int) -> str:
    """Names a training: whatever must be the same for a resumed one to end the same."""
    asked = [
        asdict(config),
        seed,
        data.patches,
        len(data.bank),
        card_as_dict(replace(card, notes=(), versions={})),
    ]
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
