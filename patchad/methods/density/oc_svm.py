"""A one-class support vector machine on the descriptors of patches of negatives.

The row OC-SVM of P. Bergmann, M. Fauser, D. Sattlegger, C. Steger: Uninformed students. CVPR 2020,
https://arxiv.org/abs/1911.02357: descriptors of their teacher of 65 pixels, here trained on the
user's negatives (:mod:`patchad.methods.parts.teacher`), as principal components
(:mod:`patchad.methods.parts.descriptors`). The machine: B. Schölkopf et al., Estimating the support
of a high-dimensional distribution, Neural Computation 13, 2001,
https://doi.org/10.1162/089976601750264965. 10,000 training descriptors, since its time grows with
their square. The paper gives neither kernel nor ν: a Gaussian with scikit-learn's ν and γ chosen.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from patchad.errors import RequestError
from patchad.learn.run import Run
from patchad.learn.training_set import TrainingSet
from patchad.methods.parts.descriptors import Descriptors, by_patch, check_patch_size
from patchad.methods.parts.neighbours import radial_sum
from patchad.model.method import Gives, Method, Needs, Setting
from patchad.model.options import Count, Positive, Share, Weight

NAME = "oc_svm"


@dataclass(frozen=True)
class Config:
    """How to train.

    ``samples``: patches whose descriptors the machine learns from, drawn with replacement. ``nu``,
    in (0, 1]: at most this share of them lies outside. ``variance``: what share of it the
    components hold. ``width`` of the teacher and of a descriptor; ``weights``: a file of a trained
    teacher, empty to train one. ``restarts``: how many seeds are tried.
    """

    samples: Count = 10_000
    nu: Share = 0.5
    variance: Share = 0.95
    width: Count = 128
    weights: str = ""
    teacher_steps: Count = 50_000
    teacher_batch: Count = 64
    teacher_rate: Positive = 2e-4
    decay: Weight = 1e-5
    restarts: Count = 3


class SupportVectors(nn.Module):
    """Patches (N, 1, S, S) in [0, 1] → scores (N,).

    ``vectors`` (n, width) and their ``coefficients`` (n,), which add up to 1, are 0 behind those
    that training keeps; ``gamma`` and ``offset`` are scalars.
    """

    unit = "offset less the mean kernel to support vectors; 0 on the boundary"
    pooling = ""
    vectors: Tensor
    coefficients: Tensor
    gamma: Tensor
    offset: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.descriptors = Descriptors(config.width, config.variance)
        self.register_buffer("vectors", torch.zeros(config.samples, config.width))
        self.register_buffer("coefficients", torch.zeros(config.samples))
        self.register_buffer("gamma", torch.zeros(()))
        self.register_buffer("offset", torch.zeros(()))

    def forward(self, patches: Tensor) -> Tensor:
        """The score of each patch; the mean of its descriptors' where patches have many."""
        return by_patch(self.outside(self.descriptors(patches)), patches)

    def outside(self, points: Tensor) -> Tensor:
        """Minus the decision function of components (N, width), over the sum of coefficients."""
        inside = radial_sum(points, self.vectors, self.coefficients, self.gamma)
        return self.offset - inside

    def keep(self, machine: Any) -> None:
        """Take over a OneClassSVM of scikit-learn, fitted with a ``gamma`` in numbers."""
        weights = torch.from_numpy(machine.dual_coef_[0])
        self.vectors.zero_()
        self.vectors[: len(weights)].copy_(torch.from_numpy(machine.support_vectors_))
        self.coefficients.zero_()
        self.coefficients[: len(weights)].copy_(weights / weights.sum())
        self.gamma.fill_(machine.gamma)
        self.offset.fill_(float(machine.offset_[0]) / float(weights.sum()))


def build(config: Config, setting: Setting) -> SupportVectors:
    """The module before training.

    Raises:
        RequestError: patches too small for a descriptor, or a ν of 0.
    """
    if config.nu == 0:
        raise RequestError(f"{NAME}.nu must be more than 0, got {config.nu}: 0.5 is the default")
    check_patch_size(setting.patch_size, NAME)
    return SupportVectors(config)


def learn(module: SupportVectors, config: Config, data: TrainingSet, run: Run) -> None:
    """Train the teacher, and fit the machine to descriptors of negatives.

    Raises:
        GivenUp: the teacher describes all patches alike.
        RequestError: the file of weights does not hold such a teacher.
    """
    from sklearn.svm import OneClassSVM  # type: ignore[import-untyped]  # slow

    found = module.descriptors.learn(data, config, config.samples, run)
    gamma = 1 / (found.shape[1] * float(found.var()))  # scikit-learn's "scale"
    module.keep(OneClassSVM(kernel="rbf", gamma=gamma, nu=config.nu).fit(found))


METHOD = Method(
    name=NAME,
    family="density",
    paper="the row OC-SVM of Bergmann et al., Uninformed students: student-teacher anomaly "
    "detection with discriminative latent embeddings, CVPR 2020, arXiv 1911.02357",
    needs=Needs("negative images, of two patients at least; no labels of lesions"),
    gives=Gives(
        "patch",
        "a score a patch (how far its descriptor lies outside a one-class support vector machine), "
        "stitched into a heatmap",
    ),
    config=Config,
    build=build,
    learn=learn,
    setting={"patch_size": 64, "stride": 32},
    quick={"samples": 3000, "width": 32, "teacher_steps": 150, "teacher_rate": 2e-3},
)
