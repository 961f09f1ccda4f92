"""A denoising autoencoder of the registered chest, from negatives; the score is what it would undo.

A. Kascenas, N. Pugeault, A. Q. O'Neil: Denoising autoencoders for unsupervised anomaly detection
in brain MRI. MIDL 2022, PMLR 172:653-664. https://proceedings.mlr.press/v172/kascenas22a.html

As published, a U-Net with skips learns to take coarse noise (drawn on a 16 × 16 grid, enlarged) off
normal images, and the residual is what it takes off others. Other than published: films are
registered (:mod:`patchad.methods.parts.chest_frame`) and locally normalised, the row is a second
channel, and the loss counts near the lungs.
"""

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from monai.networks.nets.unet import UNet
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional as F

from patchad.core.grid import PatchGrid
from patchad.errors import ModelError, RequestError, TrainingError
from patchad.learn.checkpoint import epoch_generator
from patchad.learn.training_set import TrainingSet
from patchad.methods import About
from patchad.methods.parts.chest_frame import Registration, fit_registration, pool_patches
from patchad.model.card import ModelCard
from patchad.model.detector import ImageDetector
from patchad.model.scoring import Response
from patchad.prepare.preprocess import Prepared
from patchad.prepare.resize import resize
from patchad.progress import Progress, silent

Floats = NDArray[np.float32]

METHOD = "dae"
SCORE_UNIT = "residual in local standard deviations"
PATCH_POOLING = (
    "mean of the map over the patch's pixels near the lungs; with less than a tenth of them, the "
    "lowest value of the training negatives"
)

ABOUT = About(
    name=METHOD,
    paper="Kascenas, Pugeault, O'Neil, Denoising autoencoders for unsupervised anomaly detection "
    "in brain MRI, MIDL 2022, PMLR 172:653-664",
    needs="negative frontal chest films, some dozens at least; no labels of findings",
    gives="the brightness that a denoising network takes off, at each place near the lungs; an "
    "image score, the mean of its size",
)

SIDE = 128  # of what the network sees
NEAR = 2  # 32nds of the frame around the lungs that still count
_MEAN_SIGMA, _FLAT = 12.0, 0.05  # of the local normalisation: pixels at 128, least deviation
_GRID = 16  # of the noise
_OUTSIDE = 0.1  # weight of the loss away from the lungs
_SMOOTH = 2.0  # σ of the map, pixels at 128


@dataclass(frozen=True)
class Config:
    """How to train; the defaults take about a minute on two cores, a GPU can take larger ones.

    ``channels`` are those of the levels of the U-Net; ``noise`` is the deviation of the coarse
    noise, in local standard deviations.
    """

    channels: tuple[int, ...] = (12, 24, 32, 48)
    steps: int = 400
    batch_size: int = 16
    learning_rate: float = 2e-3
    noise: float = 0.8

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size"):
            if getattr(self, name) < 1:
                raise RequestError(f"{METHOD}.{name} must be at least 1, got {getattr(self, name)}")
        for name in ("learning_rate", "noise"):
            if not 0 < getattr(self, name) < math.inf:
                raise RequestError(f"{METHOD}.{name} must be positive, got {getattr(self, name)}")
        if not 2 <= len(self.channels) <= 7 or min(self.channels) < 1:
            raise RequestError(
                f"{METHOD}.channels are of 2 to 7 levels, each at least 1, got {self.channels}"
            )


_CONFIG = TypeAdapter(Config)


@dataclass(frozen=True, eq=False)
class Dae:
    """A trained model: a :class:`patchad.model.detector.ImageDetector`."""

    card: ModelCard
    registration: Registration
    network: nn.Module
    lowest: float  # of the maps of training negatives

    def respond(self, image: Prepared, grid: PatchGrid) -> Response:
        """See :class:`patchad.model.detector.Response`; the image score is the mean |residual|."""
        film = self.registration.register(image)
        near = self.registration.near_lungs(NEAR)
        device = next(self.network.parameters()).device
        seen = torch.from_numpy(normalise(film.pixels))[None].to(device)
        left = residual(self.network, seen)[0].cpu().numpy()
        counted = resize((near & film.inside).astype(np.float32), (SIDE, SIDE)) >= 0.5
        score = float(np.abs(left[counted]).mean()) if counted.any() else 0.0
        area = film.to_film(near.astype(np.float32), grid.shape) >= 0.5
        values = film.to_film(_smooth(left), grid.shape)
        values = np.where(area & image.foreground.mask, values, np.float32(np.nan))
        return Response(values, pool_patches(values, grid, self.lowest), score)

    def tensors(self) -> dict[str, Tensor]:
        """Template, lungs, weights of the network."""
        weights = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        return {**self.registration.tensors(), **weights, "lowest": torch.tensor(self.lowest)}


def fit(
    config: Config,
    data: TrainingSet,
    *,
    card: ModelCard,
    seed: int,
    device: torch.device,
    checkpoint: Path | None = None,
    progress: Progress = silent,
) -> ImageDetector:
    """Train the network on the registered negatives and their mirror images.

    ``checkpoint`` has no part: a training is short.

    Raises:
        TrainingError: no lungs are to be seen in the mean of the negatives, or the loss is no
            longer a number.
    """
    registration, films = fit_registration(data)
    progress("registration", 1, 1, math.nan)
    near = resize(registration.near_lungs(NEAR).astype(np.float32), (SIDE, SIDE))
    weight = torch.from_numpy(np.maximum(near, np.float32(_OUTSIDE))).to(device)
    weight = weight / weight.mean()
    bank = torch.from_numpy(np.stack([normalise(film.pixels) for film in films]))
    generator = epoch_generator(seed, 1)
    network = build_network(config, seed).to(device).train()
    optimiser = torch.optim.AdamW(network.parameters(), config.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, config.steps)
    for step in range(config.steps):
        drawn = torch.randint(len(bank), (config.batch_size,), generator=generator)
        clean, noise = bank[drawn], coarse_noise(config.batch_size, generator) * config.noise
        turned = torch.rand(config.batch_size, generator=generator) < 0.5
        clean = torch.where(turned[:, None, None], clean.flip(2), clean).to(device)
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
            found = network(with_row(clean + noise.to(device)))[:, 0]
            loss = ((found - clean).square() * weight).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        schedule.step()
        if not math.isfinite(mean := float(loss.detach())):
            raise TrainingError(
                f"the loss became {mean} in step {step + 1}: lower {METHOD}.learning_rate "
                f"({config.learning_rate:g})"
            )
        progress("training", step + 1, config.steps, mean)
    network.eval().requires_grad_(False)
    lowest = math.inf
    for one in bank:
        left = _smooth(residual(network, one[None].to(device))[0].cpu().numpy())
        lowest = min(lowest, float(left[near >= 0.5].min()))
    used = replace(
        card,
        config={**card.config, METHOD: asdict(config)},
        score_unit=SCORE_UNIT,
        patch_pooling=PATCH_POOLING,
        seed=seed,
    )
    return Dae(used, registration, network, lowest)


def restore(card: ModelCard, tensors: dict[str, Tensor], device: torch.device) -> ImageDetector:
    """The detector that was saved as ``card`` and ``tensors``.

    Raises:
        ModelError: they are not of this method.
    """
    registration = Registration.of(tensors)
    try:
        network = build_network(_CONFIG.validate_python(card.config.get(METHOD)), 0)
        prefix = "network."
        network.load_state_dict(
            {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        )
        lowest = float(tensors["lowest"])
    except (ValidationError, RuntimeError, KeyError) as error:
        raise ModelError(
            f"the model is not one of {METHOD} that this patchad can read: {error}; train anew"
        ) from None
    return Dae(card, registration, network.to(device).eval().requires_grad_(False), lowest)


def build_network(config: Config, seed: int) -> nn.Module:
    """The U-Net, on the CPU: (N, 2, 128, 128) → (N, 1, 128, 128)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(epoch_generator(seed, 0).initial_seed())
        return UNet(
            spatial_dims=2,
            in_channels=2,
            out_channels=1,
            channels=config.channels,
            strides=(2,) * (len(config.channels) - 1),
            num_res_units=1,
            act="SWISH",
            norm="BATCH",
        )


def normalise(pixels: Floats) -> Floats:
    """A registered film (256, 256), made (128, 128) float32 in local standard deviations."""
    small = resize(pixels, (SIDE, SIDE))
    mean = ndimage.gaussian_filter(small, _MEAN_SIGMA, mode="nearest")
    variance = ndimage.gaussian_filter(np.square(small - mean), _MEAN_SIGMA, mode="nearest")
    scaled = (small - mean) / (np.sqrt(np.maximum(variance, 0)) + np.float32(_FLAT))
    return np.asarray(scaled, np.float32)


def coarse_noise(count: int, generator: torch.Generator) -> Tensor:
    """Noise drawn on 16 × 16, enlarged and shifted around: (N, 128, 128), on the CPU."""
    noise = torch.randn(count, 1, _GRID, _GRID, generator=generator)
    noise = F.interpolate(noise, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
    row, col = torch.randint(SIDE, (2,), generator=generator).tolist()
    return noise[:, 0].roll((row, col), (1, 2))


def with_row(films: Tensor) -> Tensor:
    """Films (N, H, W) with their row from -1 to 1 as a second channel: (N, 2, H, W)."""
    row = torch.linspace(-1, 1, films.shape[1], device=films.device)
    return torch.stack([films, row[:, None].expand_as(films)], dim=1)


def residual(network: nn.Module, films: Tensor) -> Tensor:
    """What the network takes off ``films`` (N, 128, 128): the same shape, brighter = above."""
    with torch.inference_mode():
        clean: Tensor = network(with_row(films))[:, 0]
    return films - clean


def _smooth(values: Floats) -> Floats:
    smooth: Floats = ndimage.gaussian_filter(values, _SMOOTH, mode="nearest")
    return smooth
