"""A denoising autoencoder of the registered chest, from negatives; the score is what it would undo.

A. Kascenas, N. Pugeault, A. Q. O'Neil: Denoising autoencoders for unsupervised anomaly detection
in brain MRI. MIDL 2022, PMLR 172:653-664. https://proceedings.mlr.press/v172/kascenas22a.html

As published, a U-Net with skips learns to take coarse noise (drawn on a 16 × 16 grid, enlarged) off
normal images, and the residual is what it removes from others. Other than published: films are
registered (:mod:`patchad.methods.parts.chest_frame`) and locally normalised, the row is a second
channel, and the loss counts near the lungs.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from monai.networks.nets.unet import UNet
from torch import Tensor, nn
from torch.nn import functional as F

from patchad.core.grid import PatchGrid
from patchad.errors import RequestError
from patchad.learn.loop import Step, cosine, equal_epochs, train
from patchad.learn.run import Run
from patchad.learn.training_set import TrainingSet
from patchad.methods.parts.chest_frame import (
    POOLING,
    ChestFrame,
    fit_frame,
    pool_patches,
    to_film,
)
from patchad.model.method import Gives, Method, Needs, Setting
from patchad.model.scoring import Response
from patchad.prepare.film import Film
from patchad.prepare.resize import resize_tensor
from patchad.prepare.smoothing import gaussian

NAME = "dae"

SIDE = 128  # of what the network sees
_MEAN_SIGMA, _FLAT = 12.0, 0.05  # of the local normalisation: pixels at 128, least deviation
_GRID = 16  # of the noise
_OUTSIDE = 0.1  # weight of the loss away from the lungs
_SMOOTH = 2.0  # σ of the map, pixels at 128
_EPOCH = 50  # steps at most


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
                raise RequestError(f"{NAME}.{name} must be at least 1, got {getattr(self, name)}")
        for name in ("learning_rate", "noise"):
            if not 0 < getattr(self, name) < math.inf:
                raise RequestError(f"{NAME}.{name} must be positive, got {getattr(self, name)}")
        if (
            not 2 <= len(self.channels) <= 7
            or not 1 <= min(self.channels) <= max(self.channels) <= 1024
        ):
            raise RequestError(
                f"{NAME}.channels are of 2 to 7 levels, each of 1 to 1024, got {self.channels}"
            )


class Dae(nn.Module):
    """The network that takes noise off, in the frame of the template.

    ``lowest`` is that of the maps of training negatives near the lungs.
    """

    unit = "residual in local standard deviations"
    pooling = POOLING
    lowest: Tensor

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.registration = ChestFrame()
        self.network: nn.Module = UNet(  # (N, 2, 128, 128) → (N, 1, 128, 128)
            spatial_dims=2,
            in_channels=2,
            out_channels=1,
            channels=channels,
            strides=(2,) * (len(channels) - 1),
            num_res_units=1,
            act="SWISH",
            norm="BATCH",
        )
        self.register_buffer("lowest", torch.zeros(()))

    def forward(self, film: Film, grid: PatchGrid) -> Response:
        """See :class:`Response`; the image score is the mean |residual| near the lungs."""
        frame = self.registration
        registered = frame.register(film)
        left = self.residual(normalise(registered.pixels)[None])[0]
        near = (frame.near & registered.inside).float()
        counted = left[resize_tensor(near, (SIDE, SIDE)) >= 0.5]
        score = counted.abs().mean() if counted.numel() else left.new_zeros(())
        values = to_film(_smooth(left), registered.affine, film.shape)
        values = values.where(frame.near_lungs(film), torch.nan)
        return Response(values, pool_patches(values, grid, self.lowest), score)

    def residual(self, films: Tensor) -> Tensor:
        """What the network removes from ``films``: (N, 128, 128) each, brighter = above."""
        clean: Tensor = self.network(with_row(films))[:, 0]
        return films - clean


def build(config: Config, setting: Setting) -> Dae:
    """The module before training."""
    return Dae(config.channels)


def learn(module: Dae, config: Config, data: TrainingSet, run: Run) -> None:
    """Train the network on the registered negatives and their mirror images.

    Raises:
        TrainingError: no lungs found in the mean of the negatives, or the loss is no
            longer a number.
    """
    fitted, network = fit_frame(data, run), module.network
    module.registration.load_state_dict(fitted.frame.state_dict())
    near = resize_tensor(fitted.frame.near.float(), (SIDE, SIDE))
    weight = near.clamp_min(_OUTSIDE)
    weight = weight / weight.mean()
    bank = torch.stack([normalise(film.pixels) for film in fitted.films])
    epochs, steps = equal_epochs(config.steps, _EPOCH)

    def draw(step: Step) -> tuple[Tensor, Tensor, Tensor]:
        generator = step.generator
        drawn = torch.randint(len(bank), (config.batch_size,), generator=generator)
        noise = coarse_noise(config.batch_size, generator) * config.noise
        return drawn, noise, torch.rand(config.batch_size, generator=generator) < 0.5

    def losses(drawn: tuple[Tensor, Tensor, Tensor], step: Step) -> Iterator[tuple[str, Tensor]]:
        which, noise, turned = (part.to(bank.device, non_blocking=True) for part in drawn)
        clean = bank[which]
        clean = torch.where(turned[:, None, None], clean.flip(2), clean)
        found: Tensor = network(with_row(clean + noise))[:, 0]
        yield "adamw", ((found.float() - clean).square() * weight).mean()

    train(
        run,
        {"network": network},
        {"adamw": torch.optim.AdamW(network.parameters(), config.learning_rate)},
        epochs=epochs,
        steps=steps,
        draw=draw,
        losses=losses,
        rate=cosine(config.learning_rate, config.steps),
    )
    with torch.inference_mode():
        lowest = [_smooth(module.residual(one[None])[0])[near >= 0.5].min() for one in bank]
    module.lowest.copy_(torch.stack(lowest).min())


def normalise(pixels: Tensor) -> Tensor:
    """A registered film (256, 256), made (128, 128) float32 in local standard deviations."""
    small = resize_tensor(pixels, (SIDE, SIDE))
    apart = small - _local_mean(small)
    variance = _local_mean(apart.square())
    return apart / (variance.clamp_min(0).sqrt() + _FLAT)


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


def _local_mean(values: Tensor) -> Tensor:
    return gaussian(values, (_MEAN_SIGMA, _MEAN_SIGMA), border="nearest", truncate=4.0)


def _smooth(values: Tensor) -> Tensor:
    return gaussian(values, (_SMOOTH, _SMOOTH), border="nearest", truncate=4.0)


METHOD = Method(
    name=NAME,
    family="reconstruction",
    paper="Kascenas, Pugeault, O'Neil, Denoising autoencoders for unsupervised anomaly detection "
    "in brain MRI, MIDL 2022, PMLR 172:653-664",
    needs=Needs(
        "negative frontal chest films, some dozens at least; no labels of findings",
        body_parts=("chest",),
    ),
    gives=Gives(
        "image",
        "the brightness that a denoising network removes, at each place near the lungs; an "
        "image score, the mean of its size",
        map=True,
        image=True,
    ),
    config=Config,
    build=build,
    learn=learn,
)
