"""The mean distance of a patch's features to the nearest words of a dictionary of negatives.

P. Napoletano, F. Piccoli, R. Schettini: Anomaly detection in nanofibrous materials by CNN-based
self-similarity. Sensors 18(1):209, 2018, https://doi.org/10.3390/s18010209.

As published: features of a patch are the last means of a ResNet-18 trained on ImageNet; principal
components that hold 95 % of the variance; a dictionary of 10 centres by k-means. (Neither number is
verified.) Not verified either is how many of the nearest words a patch is compared with: 3 chosen.
Features are standardised first, patches are of 64 pixels, and grey is repeated in three channels:
chosen too.

The weights of ImageNet are never downloaded: ``weights`` is the path of a safetensors file with
torchvision's names (``conv1.weight``, ``layer1.0.bn1.running_mean``, …). From scratch that network
would mean nothing. ``features = "teacher"`` is a variant without such weights, and not as
published: descriptors of a teacher trained on the negatives (:mod:`patchad.methods.parts.teacher`),
whose options and ``weights`` those of the teacher then are.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from monai.networks.nets.resnet import resnet18
from numpy.typing import NDArray
from torch import Tensor, nn

from patchad.errors import RequestError
from patchad.learn.run import Run
from patchad.learn.training_set import TrainingSet
from patchad.methods.parts.components import Components
from patchad.methods.parts.descriptors import Descriptors, by_patch, check_patch_size, described
from patchad.methods.parts.neighbours import nearest
from patchad.methods.parts.weights import put_weights, read_weights
from patchad.model.method import Gives, Method, Needs, Setting
from patchad.model.options import Count, Positive, Share, Weight

NAME = "cnn_dictionary"

_FEATURES = 512  # of a ResNet-18
_LEAST_PATCH = 32  # the network halves five times
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's channels


@dataclass(frozen=True)
class Config:
    """How to train.

    ``features``: of a ``resnet18`` whose ``weights`` are given by path, or of a ``teacher`` trained
    on the negatives; the last five options are the teacher's. ``words`` of the dictionary, found
    among the features of ``samples`` patches, drawn with replacement; ``nearest``: to how many of
    them distances are averaged. ``variance``: what share of it the components hold.
    """

    features: Literal["resnet18", "teacher"] = "resnet18"
    weights: str = ""
    words: Count = 10
    nearest: Count = 3
    samples: Count = 50_000
    variance: Share = 0.95
    restarts: Count = 3
    width: Count = 128
    teacher_steps: Count = 50_000
    teacher_batch: Count = 64
    teacher_rate: Positive = 2e-4
    decay: Weight = 1e-5


class ResnetFeatures(nn.Module):
    """A ResNet-18 and the components of its features."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, variance: float) -> None:
        super().__init__()
        self.network = resnet18(
            spatial_dims=2,
            n_input_channels=3,
            conv1_t_stride=2,
            feed_forward=False,
            bias_downsample=False,  # as torchvision's
        )
        self.components = Components(_FEATURES, variance)
        for name, colours in (("mean", _MEAN), ("deviation", _DEVIATION)):
            values = torch.tensor(colours)[:, None, None]
            self.register_buffer(name, values, persistent=False)  # ImageNet's, not learnt

    def forward(self, patches: Tensor) -> Tensor:
        """Patches (N, 1, S, S) in [0, 1] → components (N, 512)."""
        found: Tensor = self.components(self.raw(patches))
        return found

    def raw(self, patches: Tensor) -> Tensor:
        """The network's last means: (N, 512) float32."""
        found: Tensor = self.network((patches - self.mean) / self.deviation)
        return found.float()

    def learn(
        self, data: TrainingSet, config: Config, samples: int, run: Run
    ) -> NDArray[np.float32]:
        """Read the weights, and learn the components; returns those of patches (samples, 512).

        Raises:
            RequestError: the file does not hold the weights.
        """
        option = f"{NAME}.weights"
        put_weights(self.network, read_weights(config.weights, option), option)
        self.eval().requires_grad_(False)
        return self.components.learn(described(self.raw, data.bank.to(run.device), samples, run))


class CnnDictionary(nn.Module):
    """Patches (N, 1, S, S) in [0, 1] → mean distances (N,); ``words`` (n, K) are learnt."""

    unit = "distance of features, in standard deviations of their numbers"
    pooling = ""
    words: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.nearest = config.nearest
        self.descriptors: Descriptors | ResnetFeatures
        if config.features == "teacher":
            self.descriptors = Descriptors(config.width, config.variance)
        else:
            self.descriptors = ResnetFeatures(config.variance)
        count = len(self.descriptors.components.mean)
        self.register_buffer("words", torch.zeros(config.words, count))

    def forward(self, patches: Tensor) -> Tensor:
        """The mean distance to the nearest words."""
        return by_patch(
            nearest(self.descriptors(patches), self.words, self.nearest).mean(1), patches
        )


def build(config: Config, setting: Setting) -> CnnDictionary:
    """The module before training.

    Raises:
        RequestError: no weights for the ResNet-18, patches too small for the network, fewer words
            than are asked for, or fewer samples than words.
    """
    if config.features == "teacher":
        check_patch_size(setting.patch_size, NAME)
    elif not config.weights:
        raise RequestError(
            f"{NAME} needs ImageNet weights of a ResNet-18, which are never downloaded: give "
            f'{NAME}.weights, the path of a safetensors file, or set {NAME}.features to "teacher", '
            "which is trained on the negatives (not as published)"
        )
    elif setting.patch_size < _LEAST_PATCH:
        raise RequestError(
            f"{NAME} halves a patch five times, so patch_size must be at least {_LEAST_PATCH}; got "
            f"{setting.patch_size} (64 is packaged)"
        )
    if not config.nearest <= config.words <= config.samples:
        raise RequestError(
            f"{NAME}: nearest, words and samples must not fall in this order, got {config.nearest},"
            f" {config.words} and {config.samples}: lower nearest or words, or raise samples"
        )
    return CnnDictionary(config)


def learn(module: CnnDictionary, config: Config, data: TrainingSet, run: Run) -> None:
    """Learn the components of negatives, and the dictionary.

    Raises:
        GivenUp: the teacher describes all patches alike.
        RequestError: the file of weights does not hold such a network.
    """
    from sklearn.cluster import KMeans  # type: ignore[import-untyped]  # slow

    found = module.descriptors.learn(data, config, config.samples, run)
    fitted = KMeans(config.words, n_init=1, random_state=run.seed % 2**32).fit(found)
    module.words.copy_(torch.from_numpy(fitted.cluster_centers_))
    if config.features == "teacher":
        run.note("Not as published: features are of a teacher, not of a ResNet-18 of ImageNet.")


METHOD = Method(
    name=NAME,
    family="density",
    paper="Napoletano et al., Anomaly detection in nanofibrous materials by CNN-based "
    "self-similarity, Sensors 2018, doi 10.3390/s18010209",
    needs=Needs(
        "negative images, of two patients at least, and ImageNet weights of a ResNet-18 by path "
        '(weights), or else features = "teacher"; no labels of lesions'
    ),
    gives=Gives(
        "patch",
        "a score a patch (the mean distance of its features to the nearest words of negatives), "
        "stitched into a heatmap",
    ),
    config=Config,
    build=build,
    learn=learn,
    setting={"patch_size": 64, "stride": 32},
    quick={
        "features": "teacher",
        "samples": 10_000,
        "width": 32,
        "teacher_steps": 150,
        "teacher_rate": 2e-3,
    },
)
