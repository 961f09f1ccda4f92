"""A network that finds, pixel by pixel, patches of other films blended into negatives without seam.

J. Tan, B. Hou, T. Day, J. Simpson, D. Rueckert, B. Kainz: Detecting outliers with Poisson image
interpolation. MICCAI 2021, LNCS 12905:581-591, https://arxiv.org/abs/2107.02622.

All as in :mod:`patchad.methods.synthetic.fpi`, but for what is planted: within the square, each
pair of neighbours has the larger in size of (1 - α) × the film's difference and α × the other's,
and Poisson's equation gives the pixels. (A source's formula has the other's gradients alone; the
released code mixes.) It is solved exactly here, by sine transforms.

An image's score is the map's mean; ``over = "upper_quartile"`` is the paper's other one, which
three quarters of the pixels are below.

Other than published, as in FPI; the released code's own training step leaves out the L2 penalty
that its network declares, which ``decay = 0`` does too.
"""

from dataclasses import dataclass
from typing import Literal

from patchad.learn.run import Run
from patchad.learn.training_set import TrainingSet
from patchad.methods.parts.interpolation import PatchInterpolator, check_square, fit_interpolator
from patchad.methods.parts.outlining import Source, needs_source
from patchad.methods.parts.pseudo_anomalies import interpolate_gradients
from patchad.model.method import Gives, Method, Needs, Setting
from patchad.model.options import Count, Positive, Weight

NAME = "pii"


@dataclass(frozen=True)
class Config:
    """How to train; the defaults are those of the paper and its released code.

    All as in :class:`patchad.methods.synthetic.fpi.Config`; ``over`` may be ``upper_quartile``.
    """

    side: Count = 256
    width: Count = 4
    epochs: Count = 50
    batch_size: Count = 32
    learning_rate: Positive = 1e-3
    decay: Weight = 5e-4
    source: Source = "negatives"
    over: Literal["square", "foreground", "upper_quartile"] = "square"
    restarts: Count = 3


def build(config: Config, setting: Setting) -> PatchInterpolator:
    """The network before training.

    Raises:
        RequestError: a side that the network cannot halve four times.
    """
    check_square(config.side, NAME)
    return PatchInterpolator(config.side, config.width, config.over)


def learn(module: PatchInterpolator, config: Config, data: TrainingSet, run: Run) -> None:
    """Train the network on patches blended by Poisson's equation.

    Raises:
        GivenUp: the network is constant, or doesn't find what was planted.
        TrainingError: there is only one film.
    """
    fit_interpolator(module, config, data, run, NAME, interpolate_gradients)


METHOD = Method(
    name=NAME,
    family="synthetic",
    paper="Tan et al., Detecting outliers with Poisson image interpolation, MICCAI 2021, "
    "arXiv 2107.02622",
    needs=Needs(
        "negative films, some dozens at least; no labels of lesions. With source = unlabelled, "
        "unlabelled films too",
        body_parts=("chest", "breast"),
    ),
    gives=Gives(
        "image",
        "at each pixel, how much of it a network takes for another film's, blended in; an image "
        "score, its mean",
        map=True,
        image=True,
    ),
    config=Config,
    build=build,
    learn=learn,
    narrow=needs_source,
    quick={"side": 64, "width": 1, "epochs": 150, "batch_size": 16},
)
