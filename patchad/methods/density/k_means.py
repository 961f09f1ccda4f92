"""The distance of a patch's descriptor to the nearest of 100 centres of those of negatives.

The row k-means of P. Bergmann, M. Fauser, D. Sattlegger, C. Steger: Uninformed students. CVPR 2020,
https://arxiv.org/abs/1911.02357: descriptors of their teacher of 65 pixels, here trained on the
user's negatives (:mod:`patchad.methods.parts.teacher`), as principal components
(:mod:`patchad.methods.parts.descriptors`). The number of centres is chosen; 50,000 training
descriptors are from memory of the paper, not verified.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from patchad.errors import RequestError
from patchad.learn.run import Run
from patchad.learn.training_set import TrainingSet
from patchad.methods.parts.descriptors import Descriptors, by_patch, check_patch_size
from patchad.methods.parts.neighbours import nearest
from patchad.model.method import Gives, Method, Needs, Setting
from patchad.model.options import Count, Positive, Share, Weight

NAME = "k_means"


@dataclass(frozen=True)
class Config:
    """How to train.

    ``centres`` of ``samples`` patches' descriptors, drawn with replacement. ``variance``: what
    share of it the components hold. ``width`` of the teacher and of a descriptor; ``weights``: a
    file of a trained teacher, empty to train one. ``restarts``: how many seeds are tried.
    """

    centres: Count = 100
    samples: Count = 50_000
    variance: Share = 0.95
    width: Count = 128
    weights: str = ""
    teacher_steps: Count = 50_000
    teacher_batch: Count = 64
    teacher_rate: Positive = 2e-4
    decay: Weight = 1e-5
    restarts: Count = 3


class KMeansDistance(nn.Module):
    """Patches (N, 1, S, S) in [0, 1] → distances (N,); ``centres`` (n, width) are learnt."""

    unit = "distance of descriptors, in standard deviations of their numbers"
    pooling = ""
    centres: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.descriptors = Descriptors(config.width, config.variance)
        self.register_buffer("centres", torch.zeros(config.centres, config.width))

    def forward(self, patches: Tensor) -> Tensor:
        """The distance to the nearest centre; the mean where patches have many descriptors."""
        return by_patch(nearest(self.descriptors(patches), self.centres, 1)[:, 0], patches)


def build(config: Config, setting: Setting) -> KMeansDistance:
    """The module before training.

    Raises:
        RequestError: patches too small for a descriptor, or fewer than centres.
    """
    if config.samples < config.centres:
        raise RequestError(
            f"{NAME}.samples must be {NAME}.centres or more, got {config.samples} and "
            f"{config.centres}: raise the first or lower the other"
        )
    check_patch_size(setting.patch_size, NAME)
    return KMeansDistance(config)


def learn(module: KMeansDistance, config: Config, data: TrainingSet, run: Run) -> None:
    """Train the teacher, and find the centres of descriptors of negatives.

    Raises:
        GivenUp: the teacher describes all patches alike.
        RequestError: the file of weights does not hold such a teacher.
    """
    from sklearn.cluster import KMeans  # type: ignore[import-untyped]  # slow

    found = module.descriptors.learn(data, config, config.samples, run)
    fitted = KMeans(config.centres, n_init=1, random_state=run.seed % 2**32).fit(found)
    module.centres.copy_(torch.from_numpy(fitted.cluster_centers_))


METHOD = Method(
    name=NAME,
    family="density",
    paper="the row k-means of Bergmann et al., Uninformed students: student-teacher anomaly "
    "detection with discriminative latent embeddings, CVPR 2020, arXiv 1911.02357",
    needs=Needs("negative images, of two patients at least; no labels of lesions"),
    gives=Gives(
        "patch",
        "a score a patch (the distance of its descriptor to the nearest centre of negatives), "
        "stitched into a heatmap",
    ),
    config=Config,
    build=build,
    learn=learn,
    setting={"patch_size": 64, "stride": 32},
    quick={"samples": 10_000, "width": 32, "teacher_steps": 150, "teacher_rate": 2e-3},
)
