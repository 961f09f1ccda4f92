"""How far a patch lies from negatives in features that tell pasted parts from whole pictures.

C.-L. Li, K. Sohn, J. Yoon, T. Pfister: CutPaste: self-supervised learning for anomaly detection and
localization. CVPR 2021, https://arxiv.org/abs/2104.04015.

As published: a ResNet-18 with a perceptron learns to tell pictures from those with a rectangle
pasted elsewhere, and from those with a scar (:mod:`patchad.methods.parts.pseudo_anomalies` has the
numbers); SGD with 0.03 by a cosine, momentum 0.9, decay 3e-5, batches of 32 of each kind, 256 times
256 steps. Then a Gaussian is fitted to the 512 features of negatives; the score is the Mahalanobis
distance. From scratch, or from ImageNet weights that the user gives by path.

Chosen where the paper doesn't say, or other than published: patches of a film instead of whole
pictures of 256 × 256; with 128 pixels a scar is still 5 to 12 long, with 64 it would be a few
pixels. Batch norm and ReLU follow each dense layer but the last (public code differs). Features
have length 1 and the covariance is Ledoit and Wolf's, since features outnumber patches in small
sets. Shifts come from drawing patches anywhere; the paper's change of a whole picture's colours is
left out, since it gives no size.

``source = "unlabelled"`` takes what is pasted from unlabelled films, which are never pasted in; the
paper's comes from the same picture.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from patchad.core.grid import batches
from patchad.core.host import to_host
from patchad.errors import RequestError
from patchad.learn.checkpoint import epoch_generator
from patchad.learn.loop import Step, cosine, equal_epochs, train
from patchad.learn.patch_bank import PatchBank
from patchad.learn.run import Run
from patchad.learn.training_set import TrainingSet
from patchad.methods.parts.collapse import probing
from patchad.methods.parts.density import LedoitWolfGaussian
from patchad.methods.parts.outlining import Source, needs_source, source_of
from patchad.methods.parts.pseudo_anomalies import cut_paste, numpy_rng, scar
from patchad.methods.parts.resnet18 import PUBLISHED, SHRINKS, ResNet18, load_imagenet
from patchad.methods.parts.twins import PROBED, constant, judge_twins
from patchad.model.method import Gives, Method, Needs, Setting
from patchad.model.options import Count, Positive, Share, Weight

NAME = "cutpaste"

_EPOCH = 256  # steps, as the paper counts
_AT_ONCE = 256  # patches whose features are found together


@dataclass(frozen=True)
class Config:
    """How to train; the defaults are the paper's.

    ``classes``: 3 for whole, cut-paste and scar; 2 without scars. ``weights``: the path of ImageNet
    weights of torchvision's resnet18 (safetensors) to start from; None starts from scratch.
    ``channels`` of ResNet-18's layers; ``head`` are the units of the dense layers. ``batch_size``
    of each class. ``steps`` of the training; ``decay`` of all weights. ``density_patches`` are
    drawn to fit the Gaussian (chosen). ``source`` of what is pasted. ``restarts``: how many seeds
    are tried before training is given up.
    """

    classes: Literal[2, 3] = 3
    weights: str | None = None
    channels: tuple[Count, Count, Count, Count] = PUBLISHED
    head: tuple[Count, ...] = (512,) * 8 + (128,)
    steps: Count = 65_536
    batch_size: Count = 32
    learning_rate: Positive = 0.03
    momentum: Share = 0.9
    decay: Weight = 3e-5
    density_patches: Count = 10_000
    source: Source = "negatives"
    restarts: Count = 3

    def __post_init__(self) -> None:
        if self.weights is not None and self.channels != PUBLISHED:
            raise RequestError(
                f"{NAME}.weights are of a ResNet-18 with channels of {list(PUBLISHED)}, got "
                f"{list(self.channels)}: leave {NAME}.channels, or {NAME}.weights, out"
            )
        if not self.head:
            raise RequestError(f"{NAME}.head needs one dense layer at least, got none")
        if self.density_patches < 2:
            raise RequestError(
                f"{NAME}.density_patches must be at least 2 for a covariance, got "
                f"{self.density_patches}"
            )


class CutPaste(nn.Module):
    """The network with the Gaussian: patches (N, 1, S, S) in [0, 1] → distances (N,)."""

    unit = "Mahalanobis distance of features"
    pooling = ""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.network = Classifier(config.channels, config.head, config.classes)
        self.density = LedoitWolfGaussian(config.channels[-1])

    def forward(self, patches: Tensor) -> Tensor:
        """The distance of each patch from negatives."""
        found: Tensor = self.density(self.features(patches))
        return found

    def features(self, patches: Tensor) -> Tensor:
        """(N, 1, S, S) → (N, C) of length 1."""
        return functional.normalize(self.network.encoder.pooled(patches).float(), dim=1)


class Classifier(nn.Module):
    """Patches (N, 1, S, S) in [0, 1] → logits (N, classes): whole, cut-paste, scar."""

    def __init__(
        self, channels: tuple[int, int, int, int], head: tuple[int, ...], classes: int
    ) -> None:
        super().__init__()
        self.encoder = ResNet18(channels)
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise((channels[-1], *head[:-1])):
            layers += [nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs), nn.ReLU()]
        last = (channels[-1], *head[:-1])[-1]
        self.head = nn.Sequential(*layers, nn.Linear(last, head[-1]), nn.Linear(head[-1], classes))

    def forward(self, patches: Tensor) -> Tensor:
        """The logits of each patch."""
        found: Tensor = self.head(self.encoder.pooled(patches))
        return found


def build(config: Config, setting: Setting) -> CutPaste:
    """The network before training, without a Gaussian yet.

    Raises:
        RequestError: a patch too small for the network.
    """
    if setting.patch_size < SHRINKS:
        raise RequestError(
            f"{NAME} halves a patch 5 times, so patch_size must be at least {SHRINKS}; got "
            f"{setting.patch_size}"
        )
    return CutPaste(config)


def learn(module: CutPaste, config: Config, data: TrainingSet, run: Run) -> None:
    """Train the classifier on negative patches, whole and pasted in; then fit the Gaussian.

    Raises:
        GivenUp: the network answers the same to everything, or doesn't tell pasted patches.
        RequestError: ``weights`` is no file of ResNet-18's weights.
    """
    network, bank = module.network, data.bank
    sources = source_of(data, config.source, NAME, own=True).bank
    if config.weights is not None:
        load_imagenet(network.encoder, config.weights, f"{NAME}.weights")
        code = sha256(Path(config.weights).read_bytes()).hexdigest()
        text = f"The weights that training started from have the SHA-256 {code}."
        if not any(note.endswith(text) for note in run.notes):  # a resumed training has it already
            run.note(text)
    kinds = config.classes
    same = sources is bank

    def draw(step: Step) -> Tensor:
        return pasted(bank, sources, config.batch_size, kinds, step.generator, same=same)

    def losses(patches: Tensor, step: Step) -> Iterator[tuple[str, Tensor]]:
        yield "sgd", classification(network(patches.to(run.device, non_blocking=True)), kinds)

    probe = pasted(bank, sources, PROBED, kinds, epoch_generator(run.seed, 0), same=same)

    def answers() -> Tensor:
        """The probability of each probed patch to be pasted in: first those that are whole."""
        with probing(network), torch.inference_mode():
            parts = [probe[part] for part in batches(len(probe), PROBED)]
            logits = torch.cat([network(part.to(run.device)) for part in parts])
            return 1 - logits.float().softmax(1)[:, 0]

    epochs, steps = equal_epochs(config.steps, _EPOCH)
    train(
        run,
        {"network": network},
        {
            "sgd": torch.optim.SGD(
                network.parameters(),
                config.learning_rate,
                momentum=config.momentum,
                weight_decay=config.decay,
            )
        },
        epochs=epochs,
        steps=steps,
        draw=draw,
        losses=losses,
        rate=cosine(config.learning_rate, config.steps),
        health=lambda epoch: constant(answers()[PROBED:], epoch * steps),
    )
    found = answers()
    remedy = f"raise {NAME}.steps, or lower {NAME}.learning_rate"
    judge_twins(run, found[PROBED:], found[:PROBED], config.steps, remedy)
    module.density.learn(_features(module, config, bank, run))


def pasted(
    bank: PatchBank,
    sources: PatchBank,
    count: int,
    classes: int,
    generator: torch.Generator,
    *,
    same: bool,
) -> Tensor:
    """``count`` patches whole, the same with a rectangle pasted in, and, of 3 classes, with a scar.

    What is pasted comes from the patch itself where the sources are the ``same`` films. Returns
    (classes · count, 1, S, S) float32 on the CPU.
    """
    whole = bank.cut(bank.draw(count, generator))
    foreign = whole if same else sources.cut(sources.draw(count, generator))
    rng = numpy_rng(generator)
    pairs = [*zip(whole[:, 0].numpy(), foreign[:, 0].numpy(), strict=True)]
    made = [plant(rng, *pair) for plant in (cut_paste, scar)[: classes - 1] for pair in pairs]
    return torch.cat([whole, torch.from_numpy(np.stack(made))[:, None]])


def classification(logits: Tensor, classes: int) -> Tensor:
    """Mean cross-entropy of logits (classes · n, classes), n of each class in turn: a scalar."""
    each = len(logits) // classes
    truth = torch.arange(classes, device=logits.device).repeat_interleave(each)
    return functional.cross_entropy(logits.float(), truth)


def _features(module: CutPaste, config: Config, bank: PatchBank, run: Run) -> NDArray[np.float32]:
    """Features of patches drawn from negatives: (N, C)."""
    which = bank.draw(config.density_patches, epoch_generator(run.seed, 0))
    found = []
    with probing(module), torch.inference_mode():
        for part in batches(len(which), _AT_ONCE):
            patches = bank.cut(which[part]).to(run.device)
            found.append(to_host(module.features(patches))[0])
            run.tell("density", int(part.stop), len(which))
    return np.concatenate(found)


METHOD = Method(
    name=NAME,
    family="synthetic",
    paper="Li et al., CutPaste: self-supervised learning for anomaly detection and localization, "
    "CVPR 2021, arXiv 2104.04015",
    needs=Needs(
        "negative images, of two patients at least; no labels of lesions. With source = "
        "unlabelled, unlabelled films too"
    ),
    gives=Gives(
        "patch",
        "a score a patch (its distance from negatives in features that tell pasted parts), "
        "stitched into a heatmap",
    ),
    config=Config,
    build=build,
    learn=learn,
    narrow=needs_source,
    quick={
        "channels": [16, 32, 64, 128],
        "head": [128, 64],
        "steps": 400,
        "batch_size": 16,
        "density_patches": 2000,
    },
)
