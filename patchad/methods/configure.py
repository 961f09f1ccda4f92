"""What `train` is told: a TOML file (packaged or the user's own), with single keys overridden.

An unknown key, a value of the wrong kind or an option that the method does not have is an error
that names it.
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass
from typing import Any, Literal, get_type_hints

from pydantic import TypeAdapter

from patchad.core.grid import Weighting
from patchad.errors import RequestError
from patchad.methods import METHODS, module_of
from patchad.methods.declared import declared_options, members
from patchad.model.calibration import Pooling
from patchad.model.configurations import did_you_mean, find
from patchad.model.options import parse
from patchad.prepare.preprocess import Preprocessing


@dataclass(frozen=True)
class Split:
    """How negatives are set aside for calibration.

    ``by = "patient"`` keeps whole patients away from training. ``by = "patch"`` holds out patches
    of the training images, as Wei et al. did: it leaks, since neighbours of the held-out patches
    were trained on, and the card and every report say so.
    """

    held_out: float = 0.1
    by: Literal["patient", "patch"] = "patient"

    def __post_init__(self) -> None:
        if not 0 < self.held_out < 1:
            raise ValueError(f"held_out is a share between 0 and 1, got {self.held_out}")


@dataclass(frozen=True)
class CalibrationConfig:
    """How scores become percentiles, flags and colours; see :mod:`patchad.commands.calibrate`.

    ``pooling`` makes the image score of the patch scores: ``max``; ``top_mean``, the mean of the
    ``top_k`` highest; ``excess``, the mean excess over the threshold of marks. ``false_marks`` is
    the number of marks an ordinary negative image may have, ``false_images`` the share of
    negative patients who may have an image flagged.

    ``folds``: with 0 or 1, the negatives that ``split`` holds out calibrate. With K of 2 or more
    none are held out: the patients are dealt into K folds, each fold is scored by a model trained
    on the others, and the model itself is trained on all. It costs about K trainings more.
    """

    pooling: Pooling = "max"
    top_k: int = 3
    false_marks: float = 1.0
    false_images: float = 0.05
    folds: int = 0

    def __post_init__(self) -> None:
        if self.top_k < 1:
            raise ValueError(f"top_k is at least 1, got {self.top_k}")
        if not self.false_marks > 0:
            raise ValueError(f"false_marks is more than 0 an image, got {self.false_marks}")
        if not 0 < self.false_images < 1:
            raise ValueError(f"false_images is a share between 0 and 1, got {self.false_images}")
        if self.folds < 0:
            raise ValueError(f"folds is 0 (none) or a number of folds, got {self.folds}")


@dataclass(frozen=True)
class Config:
    """A resolved configuration. ``options`` is the method's own table, of its ``Config`` type."""

    method: str
    options: Any
    patch_size: int = 128
    stride: int = 64
    min_foreground: float = 0.5
    weighting: Weighting = "gaussian"
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    split: Split = field(default_factory=Split)
    calibration: CalibrationConfig = field(default_factory=CalibrationConfig)

    def __post_init__(self) -> None:
        if not 1 <= self.stride <= self.patch_size:
            raise ValueError(f"stride lies in 1..{self.patch_size} (patch_size), got {self.stride}")
        if not 0 < self.min_foreground <= 1:
            raise ValueError(f"min_foreground is a share in (0, 1], got {self.min_foreground}")
        if self.split.by == "patch" and self.calibration.folds > 1:
            raise ValueError(
                f"split.by = patch holds out patches and calibration.folds = "
                f"{self.calibration.folds} patients: set split.by = patient, or "
                "calibration.folds = 0"
            )

    def as_dict(self) -> dict[str, Any]:
        """The configuration as TOML would hold it, every default written out."""
        content: dict[str, Any] = TypeAdapter(Config).dump_python(self, mode="json")
        options = content.pop("options")
        return {**content, self.method: options}


def read_config(name_or_file: str, overrides: Sequence[str] = ()) -> Config:
    """Read a packaged configuration or a file, and apply ``KEY=VALUE`` overrides.

    Keys are dotted (``wei2018.epochs=5``); values are TOML (``"text"``, 3, true, [1, 2]), and
    what is not TOML is taken as text.

    Raises:
        RequestError: no such configuration, an unknown key, a wrong value.
    """
    content, source = _content(name_or_file, overrides)
    return resolve(content, source)


def check_config(name_or_file: str, overrides: Sequence[str] = ()) -> None:
    """Refuse most of what :func:`read_config` would, without the libraries that methods need.

    Known are the names and plain types of the methods' options, not their ranges.

    Raises:
        RequestError: as :func:`read_config`.
    """
    content, source = _content(name_or_file, overrides)
    method, own, rest = _parts(content, source)
    parse(declared_options(method), own, f"{source}: {method}.")
    for name, member in members(method, own).items():
        prefix = f"{source}: {method}.members.{name}.options."
        parse(declared_options(name), member, prefix)
    parse(Config, {**rest, "options": None}, f"{source}: ", _dotted(method, own))


def resolve(content: Mapping[str, Any], source: str = "configuration") -> Config:
    """Check a configuration's content and write out its defaults; see :func:`read_config`."""
    method, own, rest = _parts(content, source)
    options = parse(module_of(method).Config, own, f"{source}: {method}.")
    return parse(Config, {**rest, "options": options}, f"{source}: ", _dotted(method, own))


def _content(name_or_file: str, overrides: Sequence[str]) -> tuple[dict[str, Any], str]:
    """What a configuration holds with its overrides, and what errors call it."""
    path = find(name_or_file)
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise RequestError(f"{path} is not a readable TOML file: {error}") from None
    for override in overrides:
        _set(content, override)
    return content, path.name


def _parts(content: Mapping[str, Any], source: str) -> tuple[str, Any, dict[str, Any]]:
    """The method, its own table, and the rest of a configuration."""
    method = content.get("method")
    if method not in METHODS:
        raise RequestError(
            f"{source}: method is {method!r}{did_you_mean(str(method), METHODS)}, but one of "
            f"{', '.join(METHODS)} is needed"
        )
    rest = {key: value for key, value in content.items() if key != method}
    others = [key for key in rest if key in METHODS]
    if others:
        raise RequestError(
            f"{source}: {others[0]} is not its method, which is {method}: options of the method "
            f"stand in the table [{method}], such as {_dotted(method, content.get(method))[0]}"
        )
    if "options" in rest:
        raise RequestError(f"{source}: the method's own options stand in the table [{method}]")
    return method, content.get(method, {}), rest


def _dotted(method: str, own: Any) -> list[str]:
    """Options that stand in a table, as ``--set`` names them."""
    tables = {method: declared_options(method)}
    for name in members(method, own):
        tables[f"{method}.members.{name}.options"] = declared_options(name)
    for name, kind in get_type_hints(Config).items():
        if isinstance(kind, type) and is_dataclass(kind):
            tables[name] = kind
    return [f"{table}.{key}" for table, kind in tables.items() for key in get_type_hints(kind)]


def _set(content: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise RequestError(f"--set takes KEY=VALUE, such as wei2018.epochs=5; got {override!r}")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *tables, name = key.strip().split(".")
    for table in tables:
        content = content.setdefault(table, {})
        if not isinstance(content, dict):
            raise RequestError(f"--set {override}: {table} is not a table")
    content[name] = value
