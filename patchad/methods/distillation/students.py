"""Students that learnt a teacher's description of normal pixels, and disagree with it elsewhere.

P. Bergmann, M. Fauser, D. Sattlegger, C. Steger: Uninformed students: student-teacher anomaly
detection with discriminative latent embeddings. CVPR 2020, https://arxiv.org/abs/1911.02357.

As published: pictures of 256 × 256; fields of 17, 33 and 65 pixels, each with a teacher and
students of its own; students learn the teacher's descriptors, standardised over training pixels, by
their squared error; Adam with 1e-4, decay 1e-5, one picture a step. A pixel's score is how far
their mean is from the teacher, and how much they vary, each standardised on negatives; the mean of
the fields. Three students as in public code, which takes the root of the distance by mistake.

Other than published: the teacher is trained on the user's negatives
(:mod:`patchad.methods.parts.teacher`); the two parts are standardised on training negatives, not on
others. Chosen: 100 epochs (from memory of the paper, not verified), and the mean of the top
1 % of pixels as the score of an image, for which the paper has none.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from patchad.core.grid import PatchGrid
from patchad.errors import RequestError
from patchad.learn.loop import Step, shuffled, train
from patchad.learn.run import Run
from patchad.learn.training_set import TrainingSet
from patchad.methods.parts.dense_patch_nets import Field, PatchNet, reach
from patchad.methods.parts.moments import Moments, moments_of
from patchad.methods.parts.teacher import LEAST, Windows, teach
from patchad.methods.parts.whole_film import POOLING, Over, respond, signed, square, squares
from patchad.model.method import Gives, Method, Needs, Setting
from patchad.model.options import Count, Positive, Share, Weight
from patchad.model.scoring import Response
from patchad.prepare.film import Film
from patchad.prepare.resize import resize_tensor

NAME = "students"

_LEAST = 1e-6  # of the two parts' deviations: a constant stays a constant


@dataclass(frozen=True)
class Config:
    """How to train.

    ``fields`` in pixels of the square of ``side``; ``width`` of the networks, and how many numbers
    a descriptor has; ``students`` of a field. ``weights``: a file of trained teachers, empty to
    train them. ``top``: the share of pixels whose mean is the image score, ``over`` the ``square``
    or the ``foreground``. ``restarts``: how many seeds are tried before training is given up.
    """

    fields: tuple[Field, ...] = (17, 33, 65)
    side: Count = 256
    width: Count = 128
    students: Count = 3
    weights: str = ""
    teacher_steps: Count = 50_000
    teacher_batch: Count = 64
    teacher_rate: Positive = 2e-4
    epochs: Count = 100
    batch_size: Count = 1
    learning_rate: Positive = 1e-4
    decay: Weight = 1e-5
    top: Share = 0.01
    over: Over = "square"
    restarts: Count = 3

    def __post_init__(self) -> None:
        if not self.fields or len(set(self.fields)) < len(self.fields):
            raise RequestError(
                f"{NAME}.fields are one or more of 17, 33 and 65, each once; got {self.fields}"
            )


class Scale(nn.Module):
    """The students of a field: ``descriptors`` scales the teacher's, ``parts`` error, variance."""

    def __init__(self, field: int, config: Config) -> None:
        super().__init__()
        self.students = nn.ModuleList(PatchNet(field, config.width) for _ in range(config.students))
        self.descriptors = Moments(config.width, LEAST)
        self.parts = Moments(2, _LEAST)

    def guesses(self, pictures: Tensor) -> Tensor:
        """What each student makes of each pixel: (N, 1, S, S) → (M, N, width, S, S) float32."""
        return torch.stack([_net(one).dense(pictures).float() for one in self.students])


class Students(nn.Module):
    """Teachers and students of all fields."""

    unit = "standard deviations of negatives, error plus variance"
    pooling = POOLING

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.side, self.top, self.over = config.side, config.top, config.over
        names = [str(field) for field in config.fields]
        self.teachers = nn.ModuleDict({n: PatchNet(int(n), config.width) for n in names})
        self.scales = nn.ModuleDict({n: Scale(int(n), config) for n in names})

    def forward(self, film: Film, grid: PatchGrid) -> Response:
        """See :class:`Response`; the image score is the mean of the map's highest pixels."""
        values = self.maps(square(film, self.side))[0]
        counted = torch.ones_like(values, dtype=torch.bool)
        if self.over == "foreground":
            share = resize_tensor(film.mask.float(), (self.side, self.side))
            counted = share >= share.amax().clamp_max(0.5)  # of a small foreground its most
        return respond(values, film, grid, image=top_mean(values, counted, self.top))

    def maps(self, squares: Tensor) -> Tensor:
        """Squares (N, 1, S, S) in [0, 1] → (N, S, S)."""
        found = [self.scale(n).parts(self.apart(n, signed(squares))) for n in self.scales]
        return torch.stack(found).mean(0).sum(1)

    def apart(self, name: str, pictures: Tensor) -> Tensor:
        """Error and variance of the field ``name``: (N, 1, S, S) in [-1, 1] → (N, 2, S, S)."""
        scale = self.scale(name)
        return disagreement(scale.guesses(pictures), self.taught(name, pictures))

    def taught(self, name: str, pictures: Tensor) -> Tensor:
        """The teacher's standardised descriptors: (N, width, S, S), float32 in training too."""
        with torch.autocast(pictures.device.type, enabled=False):
            found: Tensor = self.scale(name).descriptors(self.teacher(name).dense(pictures))
        return found

    def teacher(self, name: str) -> PatchNet:
        """The teacher of a field."""
        return _net(self.teachers[name])

    def scale(self, name: str) -> Scale:
        """The students of a field."""
        scale = self.scales[name]
        assert isinstance(scale, Scale)
        return scale


def build(config: Config, setting: Setting) -> Students:
    """The networks before training.

    Raises:
        RequestError: a square too small to be mirrored by half of the largest field.
    """
    half = reach(max(config.fields)) // 2
    if config.side <= half:
        raise RequestError(
            f"{NAME}.side must be more than {half} pixels for a field of {max(config.fields)}, got "
            f"{config.side}: raise it, or lower {NAME}.fields"
        )
    return Students(config)


def learn(module: Students, config: Config, data: TrainingSet, run: Run) -> None:
    """Train teacher and students of each field, then take the moments of negatives.

    Raises:
        GivenUp: a teacher describes all patches alike.
        RequestError: the file of weights does not hold the teachers.
    """
    found = squares(data, run, config.side)
    for field in config.fields:
        name, teacher = str(field), module.teacher(str(field))
        windows = Windows.around(found, teacher.reach)
        teach(run.member(f"teacher_{name}"), teacher, field, windows, config)
        teacher.eval().requires_grad_(False)
        pictures = signed(found)
        with torch.inference_mode():
            each = [moments_of(teacher.dense(one[None])[0]) for one in pictures]
        module.scale(name).descriptors.learn(each)
        _train_students(module, name, pictures, config, run.member(f"students_{name}"))


def _train_students(
    module: Students, name: str, pictures: Tensor, config: Config, run: Run
) -> None:
    scale = module.scale(name)
    epochs, steps, draw = shuffled(len(pictures), config.batch_size, config.epochs)

    def losses(drawn: Tensor, step: Step) -> Iterator[tuple[str, Tensor]]:
        batch = pictures[drawn.to(pictures.device, non_blocking=True)]
        with torch.no_grad():
            wanted = module.taught(name, batch)
        yield "adam", regression(scale.guesses(batch), wanted)

    parameters = scale.students.parameters()
    train(
        run,
        {"students": scale.students},
        {"adam": torch.optim.Adam(parameters, config.learning_rate, weight_decay=config.decay)},
        epochs=epochs,
        steps=steps,
        draw=draw,
        losses=losses,
    )
    with torch.inference_mode():
        scale.parts.learn([moments_of(module.apart(name, one[None])[0]) for one in pictures])
    error, constant = float(scale.parts.mean[0]), config.width
    if error >= constant:  # of students that answer the mean, whatever they see
        run.note(
            f"Undertrained: the students' squared error is {error:.3g} on training films, not "
            f"below the {constant} of the mean descriptor."
        )


def regression(guesses: Tensor, wanted: Tensor) -> Tensor:
    """Squared distances of guesses (M, N, K, H, W) to (N, K, H, W).

    Mean over pixels and pictures, sum over students: each has a gradient of its own.
    """
    return (guesses - wanted).square().sum((0, 2)).mean()


def disagreement(guesses: Tensor, taught: Tensor) -> Tensor:
    """How wrong and how varied students are at each pixel: (N, 2, H, W).

    Args:
        guesses: of M students, (M, N, K, H, W).
        taught: (N, K, H, W).

    Returns:
        ‖mean - taught‖², and the mean of ‖guess‖² less ‖mean‖².
    """
    mean = guesses.mean(0)
    error = (mean - taught).square().sum(1)
    variance = (guesses - mean).square().sum(2).mean(0)  # the same, without cancellation
    return torch.stack([error, variance], 1)


def top_mean(values: Tensor, counted: Tensor, top: float) -> Tensor:
    """The mean of the highest share ``top``, one at least, of the ``counted`` values: a scalar."""
    ordered = values.where(counted, -torch.inf).flatten().sort(descending=True).values
    most = (counted.sum() * top).ceil().clamp_min(1)
    chosen = torch.arange(len(ordered), device=values.device) < most
    return ordered.where(chosen, 0).sum() / most


def _net(module: nn.Module) -> PatchNet:
    assert isinstance(module, PatchNet)
    return module


METHOD = Method(
    name=NAME,
    family="distillation",
    paper="Bergmann et al., Uninformed students: student-teacher anomaly detection with "
    "discriminative latent embeddings, CVPR 2020, arXiv 1911.02357",
    needs=Needs(
        "negative films, some dozens at least; no labels of lesions",
        body_parts=("chest", "breast"),
    ),
    gives=Gives(
        "image",
        "how far students are from their teacher, and from one another, at each pixel of the film "
        "resized to a square; an image score, the mean of its top 1 %",
        map=True,
        image=True,
    ),
    config=Config,
    build=build,
    learn=learn,
    quick={
        "fields": [17, 33],
        "side": 64,
        "width": 32,
        "teacher_steps": 150,
        "teacher_rate": 2e-3,
        "epochs": 2,
        "learning_rate": 1e-3,
    },
)
