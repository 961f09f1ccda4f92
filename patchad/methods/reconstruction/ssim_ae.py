"""An autoencoder of patches that learns, and is judged, by structural similarity.

P. Bergmann, S. Löwe, M. Fauser, D. Sattlegger, C. Steger: Improving unsupervised defect
segmentation by applying structural similarity to autoencoders. VISAPP 2019, 372-380,
https://doi.org/10.5220/0007364503720380, https://arxiv.org/abs/1807.02011.

As published: 128 × 128 patches; eight convolutions down to a code of 100 and as many back; the loss
is 1 - SSIM with a window of 11 pixels; Adam with 2e-4; batches of 128; 200 epochs of 10,000 patches
(that number and the sigmoid at the end are those of public implementations).

The paper gives a map of 1 - SSIM, and averages it where patches overlap. Here a patch's score is
the mean of its map, and the house averages the scores where patches overlap: chosen. The code's
kernel adapts to patches of other sizes.
"""

from dataclasses import dataclass

from torch import Tensor

from patchad.learn.run import Run
from patchad.learn.training_set import TrainingSet
from patchad.methods.parts.losses import ssim_loss, ssim_map
from patchad.methods.parts.patch_autoencoder import PatchAutoencoder, check_patch_size, fit_patches
from patchad.model.method import Gives, Method, Needs, Setting
from patchad.model.options import Count, Positive

NAME = "ssim_ae"


@dataclass(frozen=True)
class Config:
    """How to train; the defaults are the paper's.

    ``code``: its length. ``patches_per_epoch`` are drawn anew for each. ``restarts``: how many
    seeds are tried before training is given up.
    """

    code: Count = 100
    epochs: Count = 200
    patches_per_epoch: Count = 10_000
    batch_size: Count = 128
    learning_rate: Positive = 2e-4
    restarts: Count = 3


def unlikeness(redrawn: Tensor, patches: Tensor) -> Tensor:
    """1 - SSIM at each pixel: (N, 1, S, S) float32 in [0, 2]."""
    return 1 - ssim_map(redrawn, patches)


def build(config: Config, setting: Setting) -> PatchAutoencoder:
    """The network before training.

    Raises:
        RequestError: a patch size that the network cannot halve four times.
    """
    check_patch_size(setting.patch_size, NAME)
    return PatchAutoencoder(setting.patch_size, config.code, unlikeness, "1 - SSIM")


def learn(module: PatchAutoencoder, config: Config, data: TrainingSet, run: Run) -> None:
    """Train the network on negative patches.

    Raises:
        GivenUp: the network is dead, or its patches are no more similar than their means are.
    """
    fit_patches(run, module, data, config, NAME, ("1 - SSIM", ssim_loss))


METHOD = Method(
    name=NAME,
    family="reconstruction",
    paper="Bergmann et al., Improving unsupervised defect segmentation by applying structural "
    "similarity to autoencoders, VISAPP 2019, doi 10.5220/0007364503720380",
    needs=Needs("negative images, of two patients at least; no labels of lesions"),
    gives=Gives(
        "patch",
        "a score a patch (the mean of 1 - SSIM of an autoencoder's reconstruction), stitched into "
        "a heatmap",
    ),
    config=Config,
    build=build,
    learn=learn,
    quick={"epochs": 4, "patches_per_epoch": 1600, "batch_size": 16, "learning_rate": 1e-3},
)
