"""A network that finds patches of other films cloned into negatives so that they look natural.

H. M. Schlüter, J. Tan, B. Hou, B. Kainz: Natural synthetic anomalies for self-supervised anomaly
detection and localization. ECCV 2022, https://arxiv.org/abs/2109.15222, with the settings that its
released code has for chest films.

As published: squares of 256 × 256, turned by up to 3° and cropped to 224 × 224; one to three
patches, resized and shifted, each with 70 % of object at least, cloned with the larger of both
gradients; the label is a logistic function of the change of brightness, smoothed by a median
(:class:`patchad.methods.parts.pseudo_anomalies.Natural` has the numbers); ResNet-18 with a decoder
of three transposed blocks, cross-entropy, Adam from 1e-3 to 1e-6 by a cosine, batches of 64, 240
epochs. A pixel's score is the output, an image's its mean over the middle crop.

Other than published: Poisson's equation is solved exactly, by sine transforms, where the code calls
OpenCV; the object is the film's foreground, where the code takes what is brighter than 20 of 255;
the map covers the whole square, as the mean of the middle crop and those at the corners, and only
the image score keeps to the middle one. The code scales pixels in a way that could not be read;
here the network takes them less 0.449 and over 0.226.

``source = "unlabelled"`` takes the patches from unlabelled films, which are never planted in.
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

NAME = "nsa"


@dataclass(frozen=True)
class Config:
    """How to train; the defaults are those of the paper and its released code for chest films.

    ``side`` of the square and of the ``crop`` in it, in pixels; ``channels`` of ResNet-18's layers;
    ``learning_rate`` at the start; ``source`` of the patches; ``over``: which pixels make the image
    score, the middle ``crop``, ``square`` or ``foreground``. ``restarts``: how many seeds are tried
    before training is given up.
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
    unit = "grade of a cloned patch [0, 1]"
    return PatchOutliner(config.side, config.crop, config.channels, config.over, unit)


def learn(module: PatchOutliner, config: Config, data: TrainingSet, run: Run) -> None:
    """Train the network on cloned patches.

    Raises:
        GivenUp: the network is constant, or doesn't find what was planted.
        TrainingError: there is only one film.
    """
    fit_patches(module, config, data, run, NAME, Natural())


METHOD = Method(
    name=NAME,
    family="synthetic",
    paper="Schlüter et al., Natural synthetic anomalies for self-supervised anomaly detection and "
    "localization, ECCV 2022, arXiv 2109.15222",
    needs=Needs(
        "negative films, some dozens at least; no labels of lesions. With source = unlabelled, "
        "unlabelled films too",
        body_parts=("chest", "breast"),
    ),
    gives=Gives(
        "image",
        "at each pixel, how surely a network takes it for part of a cloned patch; an image score, "
        "its mean over the middle of the film",
        map=True,
        image=True,
    ),
    config=Config,
    build=build,
    learn=learn,
    narrow=needs_source,
    quick={
        # at 64 pixels what is cloned in changes too little to be told
        "side": 146,
        "crop": 128,
        "channels": [8, 16, 32, 64],
        "epochs": 150,
        "batch_size": 16,
    },
)
