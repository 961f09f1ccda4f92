"""The network that refines discrepancies of reconstructions, by finding foreign patches (ASR-Net).

Of Y. Cai, H. Chen, X. Yang, Y. Zhou, K.-T. Cheng: Dual-distribution discrepancy with
self-supervised refinement for anomaly detection in medical images. Medical Image Analysis
86:102794, 2023, https://doi.org/10.1016/j.media.2023.102794; details are of the released code.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from patchad.errors import TrainingError
from patchad.learn.checkpoint import epoch_generator
from patchad.learn.loop import Step, shuffled, train
from patchad.learn.run import Run
from patchad.methods.parts.collapse import PROBED
from patchad.methods.parts.foreign_patch import ForeignPatches, draw_patches, paste
from patchad.methods.parts.losses import focal_loss

_LEAST_AUROC = 0.6  # of pasted patches against the same places untouched
_JUDGED_AFTER = 300  # steps: a shorter training that finds nothing is only noted


@dataclass(frozen=True)
class RefinerTraining:
    """How the network is trained, by Adam; ``weight_decay`` is its L2 penalty.

    ``remedy``: what a user can do where it learns nothing.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    betas: tuple[float, float]
    remedy: str


class Refiner(nn.Module):
    """Discrepancies (N, C, S, S) → logits (N, 2, S, S) of none, and of a foreign patch."""

    def __init__(self, inputs: int, channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for own in (inputs, channels):
            layers += [nn.Conv2d(own, channels, 3, 1, 1), nn.BatchNorm2d(channels), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Conv2d(channels, 2, 3, 1, 1))

    def forward(self, discrepancies: Tensor) -> Tensor:
        """The logits; see :meth:`score`."""
        logits: Tensor = self.layers(discrepancies)
        return logits

    def score(self, discrepancies: Tensor) -> Tensor:
        """The share of the softmax that a foreign patch has: (N, S, S) float32."""
        logits: Tensor = self(discrepancies)
        return logits.float().softmax(1)[:, 1]


def fit_refiner(
    refiner: Refiner,
    discrepancies: Callable[[Tensor], Tensor],
    pictures: Tensor,
    config: RefinerTraining,
    run: Run,
) -> None:
    """Train the network to find foreign patches, pasted into negatives.

    Args:
        refiner: on the run's device.
        discrepancies: pictures → what the network sees of them, by networks that stay as they are.
        pictures: (N, 1, S, S) float32, two or more, on the device.
        config: how.
        run: of this network.

    Raises:
        TrainingError: it doesn't find the patches in training films.
    """
    epochs, steps, draw_which = shuffled(len(pictures), config.batch_size, config.epochs)
    side = pictures.shape[-1]

    def draw(step: Step) -> tuple[Tensor, ForeignPatches]:
        which = draw_which(step)
        return which, draw_patches(len(which), len(pictures), side, step.generator)

    def losses(drawn: tuple[Tensor, ForeignPatches], step: Step) -> Iterator[tuple[str, Tensor]]:
        which, patches = drawn[0].to(pictures.device, non_blocking=True), drawn[1]
        pasted, inside = paste(pictures, which, patches.to(pictures.device))
        with torch.no_grad():
            seen = discrepancies(pasted)
        yield "adam", focal_loss(refiner(seen), inside.long())  # γ = 2, smoothed by 1e-5

    adam = torch.optim.Adam(
        refiner.parameters(),
        config.learning_rate,
        config.betas,
        weight_decay=config.weight_decay,
    )
    train(
        run,
        {"refiner": refiner},
        {"adam": adam},
        epochs=epochs,
        steps=steps,
        draw=draw,
        losses=losses,
    )
    found = found_pasted(refiner, discrepancies, pictures, run.seed)
    if found >= _LEAST_AUROC:
        return
    fault = (
        "the refining network hardly tells pasted patches in training films from the same places "
        f"untouched: AUROC {found:.2f}"
    )
    if epochs * steps >= _JUDGED_AFTER:
        raise TrainingError(f"{fault}, not {_LEAST_AUROC}: {config.remedy}")
    run.note(f"Undertrained, after only {epochs * steps} steps: {fault}.")


def found_pasted(
    refiner: Refiner, discrepancies: Callable[[Tensor], Tensor], pictures: Tensor, seed: int
) -> float:
    """How well the score tells pasted patches in a few pictures from the same places untouched.

    That is an AUROC, of mean scores over the patches; 0.5 where the network's output is a constant.
    """
    count = min(len(pictures), PROBED)
    drawn = draw_patches(count, len(pictures), pictures.shape[-1], epoch_generator(seed, 0), 1.0)
    which = torch.arange(count, device=pictures.device)
    pasted, inside = paste(pictures, which, drawn.to(pictures.device))
    with torch.inference_mode():
        scores = [refiner.score(discrepancies(x)) for x in (pasted, pictures[which])]
        inner = [(one * inside).sum((1, 2)) / inside.sum((1, 2)) for one in scores]
        above = inner[0][:, None] - inner[1]
        return float((above > 0).float().mean() + (above == 0).float().mean() / 2)
