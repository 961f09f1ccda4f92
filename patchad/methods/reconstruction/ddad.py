"""How differently autoencoders of normal and of unlabelled films redraw a film (DDAD).

Y. Cai, H. Chen, X. Yang, Y. Zhou, K.-T. Cheng: Dual-distribution discrepancy for anomaly detection
in chest X-rays. MICCAI 2022, LNCS 13433:584-593, https://arxiv.org/abs/2206.03935; and, with the
refining network: Dual-distribution discrepancy with self-supervised refinement for anomaly
detection in medical images. Medical Image Analysis 86:102794, 2023,
https://doi.org/10.1016/j.media.2023.102794 (https://arxiv.org/abs/2210.04227).

Module B is K autoencoders of negatives, module A is K of negatives and unlabelled films; they
differ in weights and in the order of films. At each pixel, with m the mean reconstruction:
* ``rec``: the squared error of one network; ``ensemble_rec``: (x − m_B)²;
* ``intra``: the standard deviation of B's reconstructions; ``inter``: |m_A − m_B|;
* ``r_intra``, ``r_dual``: what a small network makes of intra, or of inter and intra, that learnt
  to find foreign patches in negatives.
An image's score is the mean over the square. ``inter`` and ``r_dual`` need unlabelled films; some
should be abnormal (60 % in the papers).

As published, with the released code where the text leaves something open: squares of 64 × 64 in
[-1, 1]; backbones AE, MemAE and AE-U with their own training; K = 3; the foreign patches, focal
loss and training of the refining network. With AE-U, discrepancies are over σ and errors over σ²,
where σ² is the mean of B's predicted variances (only the code has it).

Other than published: the standard deviation is over K as in the paper (the code has K − 1: the same
ranks); the last epoch counts (the code prints the best on test data beside it); ``rec`` is of one
network, where the code averages the figures of all; s of AE-U is kept within ± 10.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from types import ModuleType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from patchad.core.grid import PatchGrid
from patchad.errors import RequestError, TrainingError
from patchad.learn.checkpoint import epoch_generator
from patchad.learn.fitting import fit
from patchad.learn.run import Run
from patchad.learn.training_set import TrainingSet
from patchad.methods.parts.backbone import check_side
from patchad.methods.parts.refining import Refiner, RefinerTraining, fit_refiner
from patchad.methods.parts.whole_film import POOLING, Over, respond, signed, square, squares
from patchad.methods.reconstruction import ae, aeu, memae
from patchad.model.method import Gives, Method, Needs, Setting
from patchad.model.options import Betas, Channels, Count, Positive, Share, Weight
from patchad.model.scoring import Response
from patchad.prepare.film import Film

NAME = "ddad"

Score = Literal["rec", "ensemble_rec", "intra", "inter", "r_intra", "r_dual"]
_BACKBONES: Mapping[str, ModuleType] = {"ae": ae, "memae": memae, "aeu": aeu}
_DUAL, _REFINED, _SPREAD = (
    ("inter", "r_dual"),
    ("r_intra", "r_dual"),
    ("intra", "r_intra", "r_dual"),
)


@dataclass(frozen=True)
class Config:
    """How to train; the defaults are those of the released code for chest films.

    ``backbone``: which autoencoder; ``score``: what is scored, see the file. ``networks`` is K, of
    A and of B each; ``rec`` has one. ``slots``, ``shrink`` and ``entropy`` are for ``memae``; these
    and the rest as in its file and that of ``ae``. ``asr_…`` are for the refining network:
    ``asr_channels`` of its two hidden layers, and its training by Adam with ``betas``;
    ``asr_channels`` and ``asr_epochs`` may stand beside any score.
    """

    backbone: Literal["ae", "memae", "aeu"] = "ae"
    score: Score = "inter"
    networks: Count = 3
    side: Count = 64
    channels: Channels = (16, 32, 64, 64)
    hidden: Count = 2048
    code: Count = 16
    slots: Count = 25
    shrink: Share = 0.0
    entropy: Weight = 2e-4
    epochs: Count = 250
    batch_size: Count = 64
    learning_rate: Positive = 5e-4
    betas: Betas = (0.5, 0.999)
    asr_channels: Count = 128
    asr_epochs: Count = 100
    asr_batch_size: Count = 8
    asr_learning_rate: Positive = 1e-4
    asr_weight_decay: Weight = 1e-4
    over: Over = "square"
    restarts: Count = 3

    def __post_init__(self) -> None:
        if self.score != "rec":
            least = 2 if self.score in _SPREAD else 1
            if self.networks < least:
                raise RequestError(
                    f"{NAME}.score = {self.score} compares networks of the same films, so "
                    f"{NAME}.networks must be at least {least}; got {self.networks}"
                )
        own: list[tuple[str, bool, tuple[str, ...]]] = [
            ("backbone = memae", self.backbone == "memae", ("slots", "shrink", "entropy")),
            ("any score but rec", self.score != "rec", ("networks",)),
            (  # not asr_channels and asr_epochs: the quick options set them whatever the score
                "score = r_intra or r_dual",
                self.score in _REFINED,
                ("asr_batch_size", "asr_learning_rate", "asr_weight_decay"),
            ),
        ]
        for place, used, names in own:
            for name in names:
                if not used and getattr(self, name) != getattr(Config, name):
                    raise RequestError(
                        f"{NAME}.{name} is for {place}; leave it out, or change "
                        f"{NAME}.{'backbone' if 'backbone' in place else 'score'}"
                    )


class Ensemble(nn.Module):
    """Autoencoders of the same films."""

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor | None]:
        """Pictures (N, 1, S, S) in [-1, 1] → their K reconstructions, and AE-U's variance.

        Returns (K, N, S, S) float32 and (N, S, S) float32, None for other backbones.
        """
        redrawn: list[Tensor] = []
        variances: list[Tensor] = []
        for member in self.members:
            match member:
                case aeu.UncertainAutoencoder():
                    mean, s = member.predict(pictures)
                    variances.append(s.exp())
                case memae.MemoryAutoencoder():
                    mean = member.redraw(pictures)
                case _:
                    mean = member.network(pictures)  # type: ignore[operator]
            redrawn.append(mean[:, 0].float())
        variance = torch.cat(variances, 1).mean(1) if variances else None
        return torch.stack(redrawn), variance


class Ddad(nn.Module):
    """B's and A's autoencoders, and the refining network, where the score has them."""

    pooling = POOLING

    def __init__(self, config: Config, setting: Setting) -> None:
        super().__init__()
        self.side, self.over, self.score = config.side, config.over, config.score
        self.unit = _unit(config)
        backbone, own = _BACKBONES[config.backbone], backbone_config(config)
        count = 1 if config.score == "rec" else config.networks

        def ensemble() -> Ensemble:
            return Ensemble([backbone.build(own, setting) for _ in range(count)])

        self.normal = ensemble()  # module B
        self.mixed = ensemble() if config.score in _DUAL else None  # module A
        inputs = 2 if config.score == "r_dual" else 1
        refined = config.score in _REFINED
        self.refiner = Refiner(inputs, config.asr_channels) if refined else None

    def forward(self, film: Film, grid: PatchGrid) -> Response:
        """See :class:`Response`; the image score is the mean of the map."""
        return respond(self.maps(square(film, self.side))[0], film, grid, self.over)

    def maps(self, squares: Tensor) -> Tensor:
        """Squares (N, 1, S, S) in [0, 1] → (N, S, S) scores."""
        pictures = signed(squares)
        if self.refiner is not None:
            return self.refiner.score(self.discrepancies(pictures))
        if self.score in ("rec", "ensemble_rec"):
            redrawn, variance = self.normal(pictures)
            return error(pictures[:, 0], redrawn, variance)
        return self.discrepancies(pictures)[:, 0]

    def discrepancies(self, pictures: Tensor) -> Tensor:
        """Pictures (N, 1, S, S) in [-1, 1] → inter, intra or both, as the score asks for.

        (N, C, S, S) float32, always of float32 networks: differences of reconstructions are finer
        than what bfloat16 holds.
        """
        with torch.autocast(pictures.device.type, enabled=False):
            redrawn, variance = self.normal(pictures)
            found = []
            if self.mixed is not None:
                found.append(inter(self.mixed(pictures)[0], redrawn, variance))
            if self.score != "inter":
                found.append(intra(redrawn, variance))
        return torch.stack(found, 1)


def error(pictures: Tensor, redrawn: Tensor, variance: Tensor | None) -> Tensor:
    """(x − m)², over σ²: (N, S, S) and (K, N, S, S) → (N, S, S)."""
    found = (pictures - redrawn.mean(0)).square()
    return found if variance is None else found / variance


def intra(redrawn: Tensor, variance: Tensor | None) -> Tensor:
    """√(Σ(x̂ − m)²/K), over σ: (K, N, S, S) → (N, S, S)."""
    found = redrawn.std(0, correction=0)
    return found if variance is None else found / variance.sqrt()


def inter(mixed: Tensor, normal: Tensor, variance: Tensor | None) -> Tensor:
    """|m_A − m_B|, over σ: (K, N, S, S) each → (N, S, S)."""
    found = (mixed.mean(0) - normal.mean(0)).abs()
    return found if variance is None else found / variance.sqrt()


def backbone_config(config: Config) -> Any:
    """The configuration of one autoencoder."""
    kind = _BACKBONES[config.backbone].Config
    return kind(**{field.name: getattr(config, field.name) for field in fields(kind)})


def build(config: Config, setting: Setting) -> Ddad:
    """All networks before training.

    Raises:
        RequestError: a side that the networks cannot halve as often as they have channels.
    """
    check_side(config.side, NAME, len(config.channels))
    return Ddad(config, setting)


def learn(module: Ddad, config: Config, data: TrainingSet, run: Run) -> None:
    """Train B on negatives, A on negatives and unlabelled films, then the refining network.

    Each network restarts by itself where it collapses, and has a checkpoint of its own.

    Raises:
        TrainingError: no try gave a usable autoencoder, or the refining network finds nothing.
    """
    normal = signed(squares(data, run, config.side))
    if config.score in _REFINED and len(normal) < 2:
        raise TrainingError(
            f"{NAME}.score = {config.score} pastes patches of one negative film into another, and "
            "there is only one: give more"
        )
    count = len(module.normal.members)
    # B's come first, so that they are the same whatever else the score has.
    seeds = torch.randint(2**40, (2 * count,), generator=epoch_generator(run.seed, 0)).tolist()
    _fit_ensemble(module.normal, "b", seeds[:count], normal, config, data, run)
    if module.mixed is not None:
        assert data.unlabelled is not None  # the house refuses data without
        every = torch.cat([normal, signed(squares(data.unlabelled, run, config.side))])
        _fit_ensemble(module.mixed, "a", seeds[count:], every, config, data, run)
    if module.refiner is not None:
        training = RefinerTraining(
            config.asr_epochs,
            config.asr_batch_size,
            config.asr_learning_rate,
            config.asr_weight_decay,
            config.betas,
            f"raise {NAME}.asr_epochs or {NAME}.asr_learning_rate, or take another {NAME}.score",
        )
        fit_refiner(module.refiner, module.discrepancies, normal, training, run.member("asr"))


def _fit_ensemble(
    ensemble: Ensemble,
    name: str,
    seeds: Sequence[int],
    pictures: Tensor,
    config: Config,
    data: TrainingSet,
    run: Run,
) -> None:
    backbone = _BACKBONES[config.backbone]

    def learn_one(member: nn.Module, own: Any, _: TrainingSet, run: Run) -> None:
        backbone.fit_to(member, own, pictures, run, NAME)
        if isinstance(member, aeu.UncertainAutoencoder) and name == "b":  # whose variance counts
            aeu.note_certainty(member, pictures, data, run)

    method = replace(backbone.METHOD, learn=learn_one)
    kinds = 2 if config.score in _DUAL else 1
    for number, seed in enumerate(seeds):
        own = replace(run.member(f"{name}{number + 1}", kinds * len(seeds)), seed=seed)
        ensemble.members[number] = fit(method, backbone_config(config), data, own).module


def _unit(config: Config) -> str:
    if config.score in _REFINED:
        return "output of the refining network, 0 to 1"
    squared = config.score in ("rec", "ensemble_rec")
    if config.backbone == "aeu":
        return f"{'squared error' if squared else 'difference'} over the predicted " + (
            "variance" if squared else "standard deviation"
        )
    return f"{'squared error' if squared else 'difference'} of intensity [-1, 1]"


def narrow(needs: Needs, config: Config) -> Needs:
    """Only scores that compare with module A need unlabelled films."""
    return replace(needs, unlabelled=config.score in _DUAL)


METHOD = Method(
    name=NAME,
    family="reconstruction",
    paper="Cai et al., Dual-distribution discrepancy with self-supervised refinement for anomaly "
    "detection in medical images, Medical Image Analysis 86:102794, 2023, "
    "doi 10.1016/j.media.2023.102794; Cai et al., MICCAI 2022, arXiv 2206.03935",
    needs=Needs(
        "negative films, some dozens at least, and for the scores inter and r_dual unlabelled ones "
        "(split = unlabelled), of which some are abnormal; no labels of lesions",
        body_parts=("chest", "breast"),
        unlabelled=True,
    ),
    gives=Gives(
        "image",
        "how much reconstructions differ at each pixel of the film, resized to a square: between "
        "networks of negatives and of unlabelled films, or among those of negatives; an image "
        "score, its mean",
        map=True,
        image=True,
    ),
    config=Config,
    build=build,
    learn=learn,
    narrow=narrow,
    quick={"epochs": 50, "asr_channels": 32, "asr_epochs": 50},
)
