"""A network that finds, pixel by pixel, patches moved within negatives: CutPaste end to end.

C.-L. Li, K. Sohn, J. Yoon, T. Pfister: CutPaste: self-supervised learning for anomaly detection and
localization. CVPR 2021, https://arxiv.org/abs/2104.04015, trained as its end-to-end row in the
comparisons of NSA (H. M. Schlüter et al., ECCV 2022, https://arxiv.org/abs/2109.15222) and of the
benchmarks after it: NSA's network learns by cross-entropy which pixels were pasted.

All as in :mod:`patchad.methods.synthetic.nsa`, but that a patch comes from the same film, isn't
resized, and replaces what it is pasted on; the label is 1 where that changed a pixel by more than
one of 255, else 0.

``source = "unlabelled"`` takes the patches from unlabelled films, which are never pasted in.
"""

from dataclasses import dataclass

from patchad.learn.run import Run
from patchad.learn.training_set import TrainingSet
from patchad.methods.parts.outlining import Source, needs_source
from patchad.methods.parts.patch_cloning import Over, PatchOutliner, check_crop, fit_patches
from patchad.methods.parts.pseudo_anomalies import Natural
from patchad.methods.parts.resnet18 import PUBLISHED
from patchad.model.method import Gives, Method, Needs, Setting
from patchad.model.options import Count, Positive

NAME = "cutpaste_e2e"

_PASTED = Natural(resize=(1.0, 1.0), blend="swap", label="binary")


@dataclass(frozen=True)
class Config:
    """How to train; the defaults are those of NSA's paper and code.

    All as in :class:`patchad.methods.synthetic.nsa.Config`.
    """

    side: Count = 256
    crop: Count = 224
    channels: tuple[Count, Count, Count, Count] = PUBLISHED
    epochs: Count = 240
    batch_size: Count = 64
    learning_rate: Positive = 1e-3
    source: Source = "negatives"
    over: Over = "crop"
    restarts: Count = 3


def build(config: Config, setting: Setting) -> PatchOutliner:
    """The network before training.

    Raises:
        RequestError: a crop that the network cannot halve five times, or too small a side.
    """
    check_crop(config.side, config.crop, NAME)
    unit = "probability of a pasted patch [0, 1]"
    return PatchOutliner(config.side, config.crop, config.channels, config.over, unit)


def learn(module: PatchOutliner, config: Config, data: TrainingSet, run: Run) -> None:
    """Train the network on pasted patches.

    Raises:
        GivenUp: the network is constant, or doesn't find what was planted.
    """
    fit_patches(module, config, data, run, NAME, _PASTED, own=True)


METHOD = Method(
    name=NAME,
    family="synthetic",
    paper="Li et al., CutPaste: self-supervised learning for anomaly detection and localization, "
    "CVPR 2021, arXiv 2104.04015, end to end as in Schlüter et al., ECCV 2022, arXiv 2109.15222",
    needs=Needs(
        "negative films, some dozens at least; no labels of lesions. With source = unlabelled, "
        "unlabelled films too",
        body_parts=("chest", "breast"),
    ),
    gives=Gives(
        "image",
        "at each pixel, how surely a network takes it for part of a pasted patch; an image score, "
        "its mean over the middle of the film",
        map=True,
        image=True,
    ),
    config=Config,
    build=build,
    learn=learn,
    narrow=needs_source,
    quick={
        "side": 73,
        "crop": 64,
        "channels": [16, 32, 64, 128],
        "epochs": 200,
        "batch_size": 16,
    },
)
