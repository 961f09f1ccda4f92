"""A network that finds, pixel by pixel, patches of other films mixed evenly into negatives.

J. Tan, B. Hou, J. Batten, H. Qiu, B. Kainz: Detecting outliers with foreign patch interpolation.
Machine Learning for Biomedical Imaging 1, 2022:013, https://arxiv.org/abs/2011.04197, as it was
compared on chest films by J. Tan et al. (PII, MICCAI 2021).

As published: squares of 256 × 256, each standardised; a square with half-widths of 5 to 20 % of
the side, its middle in the middle 80 %, becomes (1 - α) of the film + α of another,
α ~ U(0.05, 0.95); a wide residual network (16-4) with a decoder estimates α at each pixel, 0 where
nothing changed; cross-entropy, L2 penalty of 5e-4, Adam with 1e-3, batches of 32, 50 epochs. A
pixel's score is the network's output. The paper scores a volume by its slices' top quartile; a film
is one slice: its score is the mean.

Other than published: an epoch plants in each film once, while the released code plants in both
films of a pair; batch norm keeps PyTorch's momentum (the code's framework averages over ten times
as many steps, too many for short trainings).

``source = "unlabelled"`` takes the foreign patches from unlabelled films. The benchmark with such a
row doesn't say how they enter; here they are never planted in, since nothing outside a patch counts
as foreign.
"""

from dataclasses import dataclass

from patchad.learn.run import Run
from patchad.learn.training_set import TrainingSet
from patchad.methods.parts.interpolation import PatchInterpolator, check_square, fit_interpolator
from patchad.methods.parts.outlining import Source, needs_source
from patchad.methods.parts.pseudo_anomalies import interpolate
from patchad.methods.parts.whole_film import Over
from patchad.model.method import Gives, Method, Needs, Setting
from patchad.model.options import Count, Positive, Weight

NAME = "fpi"


@dataclass(frozen=True)
class Config:
    """How to train; the defaults are those of the paper and its released code.

    ``side`` of the square in pixels; ``width`` of the network's blocks; ``decay`` is the L2 penalty
    of the kernels; ``source`` of foreign patches; ``over``: which pixels make the image score,
    ``square`` or ``foreground``. ``restarts``: how many seeds are tried before training is given
    up.
    """

    side: Count = 256
    width: Count = 4
    epochs: Count = 50
    batch_size: Count = 32
    learning_rate: Positive = 1e-3
    decay: Weight = 5e-4
    source: Source = "negatives"
    over: Over = "square"
    restarts: Count = 3


def build(config: Config, setting: Setting) -> PatchInterpolator:
    """The network before training.

    Raises:
        RequestError: a side that the network cannot halve four times.
    """
    check_square(config.side, NAME)
    return PatchInterpolator(config.side, config.width, config.over)


def learn(module: PatchInterpolator, config: Config, data: TrainingSet, run: Run) -> None:
    """Train the network on patches mixed evenly.

    Raises:
        GivenUp: the network is constant, or doesn't find what was planted.
        TrainingError: there is only one film.
    """
    fit_interpolator(module, config, data, run, NAME, interpolate)


METHOD = Method(
    name=NAME,
    family="synthetic",
    paper="Tan et al., Detecting outliers with foreign patch interpolation, MELBA 2022:013, "
    "arXiv 2011.04197",
    needs=Needs(
        "negative films, some dozens at least; no labels of lesions. With source = unlabelled, "
        "unlabelled films too",
        body_parts=("chest", "breast"),
    ),
    gives=Gives(
        "image",
        "at each pixel, how much of it a network takes for another film's; an image score, its "
        "mean",
        map=True,
        image=True,
    ),
    config=Config,
    build=build,
    learn=learn,
    narrow=needs_source,
    quick={"side": 64, "width": 1, "epochs": 150, "batch_size": 16},
)
