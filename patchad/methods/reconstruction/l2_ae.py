"""The autoencoder of patches to which ssim_ae is compared: the same network, by squared error.

P. Bergmann, S. Löwe, M. Fauser, D. Sattlegger, C. Steger: Improving unsupervised defect
segmentation by applying structural similarity to autoencoders. VISAPP 2019, 372-380,
https://doi.org/10.5220/0007364503720380, https://arxiv.org/abs/1807.02011.

As published: 128 × 128 patches; eight convolutions down to a code of 100 and as many back; mean
squared error; Adam with 2e-4; batches of 128; 200 epochs of 10,000 patches (that number and the
sigmoid at the end are those of public implementations). A pixel's score is its squared error; a
patch's is their mean: chosen, as in :mod:`patchad.methods.reconstruction.ssim_ae`.
"""

from dataclasses import dataclass

from torch import Tensor

from patchad.learn.run import Run
from patchad.learn.training_set import TrainingSet
from patchad.methods.parts.collapse import rmse
from patchad.methods.parts.patch_autoencoder import PatchAutoencoder, check_patch_size, fit_patches
from patchad.model.method import Gives, Method, Needs, Setting
from patchad.model.options import Count, Positive

NAME = "l2_ae"


@dataclass(frozen=True)
class Config:
    """How to train; the defaults are the paper's.

    All as in :class:`patchad.methods.reconstruction.ssim_ae.Config`.
    """

    code: Count = 100
    epochs: Count = 200
    patches_per_epoch: Count = 10_000
    batch_size: Count = 128
    learning_rate: Positive = 2e-4
    restarts: Count = 3


def squared(redrawn: Tensor, patches: Tensor) -> Tensor:
    """The squared difference of each pixel."""
    return (redrawn - patches).square()


def build(config: Config, setting: Setting) -> PatchAutoencoder:
    """The network before training.

    Raises:
        RequestError: a patch size that the network cannot halve four times.
    """
    check_patch_size(setting.patch_size, NAME)
    unit = "squared error of intensity [0, 1]"
    return PatchAutoencoder(setting.patch_size, config.code, squared, unit)


def learn(module: PatchAutoencoder, config: Config, data: TrainingSet, run: Run) -> None:
    """Train the network on negative patches.

    Raises:
        GivenUp: the network is dead, or redraws no better than means.
    """
    fit_patches(run, module, data, config, NAME, ("RMSE", rmse))


METHOD = Method(
    name=NAME,
    family="reconstruction",
    paper="Bergmann et al., Improving unsupervised defect segmentation by applying structural "
    "similarity to autoencoders, VISAPP 2019, doi 10.5220/0007364503720380",
    needs=Needs("negative images, of two patients at least; no labels of lesions"),
    gives=Gives(
        "patch",
        "a score a patch (the mean squared error of an autoencoder's reconstruction), stitched "
        "into a heatmap",
        onnx=True,
    ),
    config=Config,
    build=build,
    learn=learn,
    quick={"epochs": 4, "patches_per_epoch": 1600, "batch_size": 16, "learning_rate": 1e-3},
)
