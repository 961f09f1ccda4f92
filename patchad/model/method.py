"""The contract of a method: what its file declares, and what the house does with it.

A method is its science alone. A trained detector is a ``torch.nn.Module`` that holds everything it
learnt as parameters and buffers: so its ``state_dict`` is what a model folder keeps, and the house
alone saves, loads, checkpoints, resumes, reports progress and restarts.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from torch import nn

from patchad.core.grid import PatchGrid, Weighting
from patchad.prepare.film import Before
from patchad.prepare.preprocess import Preprocessing

Kind = Literal["patch", "image"]
Family = Literal[
    "reconstruction", "adversarial", "density", "synthetic", "filters", "distillation", "fusion"
]


@dataclass(frozen=True)
class Setting:
    """How images are prepared and cut: the part of a configuration that no method owns.

    ``min_foreground`` is the share of foreground below which a patch is not scored.
    """

    preprocessing: Preprocessing
    patch_size: int
    stride: int
    min_foreground: float
    weighting: Weighting

    def grid(self, shape: tuple[int, int]) -> PatchGrid:
        """The patches of a prepared image of ``shape`` as they are screened."""
        return PatchGrid(shape, self.patch_size, self.stride)


class _Set(Protocol):
    @property
    def preprocessing(self) -> Preprocessing: ...
    @property
    def patch_size(self) -> int: ...
    @property
    def stride(self) -> int: ...
    @property
    def min_foreground(self) -> float: ...
    @property
    def weighting(self) -> Weighting: ...


def setting_of(described: _Set) -> Setting:
    """The setting that a configuration or a card holds."""
    return Setting(
        described.preprocessing,
        described.patch_size,
        described.stride,
        described.min_foreground,
        described.weighting,
    )


@dataclass(frozen=True)
class Needs:
    """What a method must be given.

    ``words`` say it to a user. ``body_parts``: those it can be used for, that of its paper first.
    ``unlabelled``: films of ``split = unlabelled`` too. ``spacing``:
    the pixel spacing of each image. ``before`` are functions of a prepared image that use a library
    of the CPU; their results are on the device when ``forward`` asks for them by
    :meth:`patchad.prepare.film.Film.given`.
    """

    words: str
    body_parts: tuple[str, ...] = ("breast", "chest")
    unlabelled: bool = False
    spacing: bool = False
    before: tuple[Before, ...] = ()


@dataclass(frozen=True)
class Gives:
    """What ``forward`` answers.

    ``patch``: patches (N, 1, S, S) float32 in [0, 1] → scores (N,). ``image``: a
    :class:`patchad.prepare.film.Film` and a grid → a :class:`patchad.model.scoring.Response`, with
    a ``map`` and an ``image`` score of its own where these are true. ``onnx``: the module can be
    exported.
    """

    kind: Kind
    words: str
    map: bool = False
    image: bool = False
    onnx: bool = False


def _same(needs: Needs, config: Any) -> Needs:
    return needs


@dataclass(frozen=True)
class Method:
    """A published method, or patchad's own, as its file declares it.

    Args:
        name: as ``--config`` and the card have it.
        family: which folder of :mod:`patchad.methods` it stands in.
        paper: the reference, with its DOI or address.
        needs: what it must be given.
        gives: what it answers.
        config: a frozen dataclass; the defaults are the paper's. A field ``restarts`` says how many
            seeds are tried where ``learn`` may give up (:class:`patchad.learn.run.GivenUp`).
        build: (config, setting) → the module before training, with every buffer in its final shape.
            The house has seeded PyTorch's generator. Its attribute ``unit`` is the unit of scores;
            ``pooling`` tells how a patch score is pooled from the map; empty without a map.
        learn: (module, config, data, run) → None: fits the module in place.
        narrow: for a method whose needs hang on its configuration, the needs with that one.
        setting: where the paper cuts or prepares images other than the packaged use does, the keys
            of a configuration that differ, such as ``{"patch_size": 64, "stride": 32}``.
        quick: options that train it in minutes on two cores, where the paper's don't; only what
            differs from ``config``. Empty if the paper's are quick.
    """

    name: str
    family: Family
    paper: str
    needs: Needs
    gives: Gives
    config: type
    build: Callable[[Any, Setting], nn.Module]
    learn: Callable[[Any, Any, Any, Any], None]
    narrow: Callable[[Needs, Any], Needs] = field(default=_same, repr=False)
    setting: Mapping[str, Any] = field(default_factory=dict)
    quick: Mapping[str, Any] = field(default_factory=dict)

    def needs_with(self, config: Any) -> Needs:
        """What it needs with this configuration."""
        return self.narrow(self.needs, config)
