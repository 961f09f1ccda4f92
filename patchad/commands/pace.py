"""What a user is told of a training's length, and of a setting that is not the paper's."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

from patchad.methods import method_of
from patchad.model.config import Config

LONG = 3600.0  # seconds: a training that takes longer is announced
log = logging.getLogger(__name__)


def announce(config: Config, device: str) -> Callable[[float], None]:
    """A function that is told of the seconds a training will take, and warns once if they are many.

    The warning says when it will be done, and what is quicker.
    """
    told = False

    def expect(seconds: float) -> None:
        nonlocal told
        if told or seconds <= LONG:
            return
        told = True
        log.warning(
            "at this pace %s takes %s on %s, until %s. %s Ctrl-C stops; the same command with "
            "--resume continues.",
            config.method,
            in_words(seconds),
            device,
            f"{datetime.now().astimezone() + timedelta(seconds=seconds):%d %B, %H:%M}",
            _quicker(config),
        )

    return expect


def in_words(seconds: float) -> str:
    """A time in hours, or in days from two on."""
    hours = seconds / 3600
    if hours < 48:
        return f"about {hours:.{int(hours < 10)}f} hours"
    return f"about {hours / 24:.0f} days"


def quick_note(config: Config) -> str:
    """A note for the card of a training with options of its method's quick setting; else empty.

    Some of these options may have been set otherwise; the note lists all that aren't the paper's.
    """
    own = asdict(config.options)
    differs = {
        key: (_plain(own[key]), paper)
        for key, (_, paper) in _differences(config.method).items()
        if _plain(own[key]) != paper
    }
    quick = method_of(config.method).quick
    if not any(value == _plain(quick[key]) for key, (value, _) in differs.items()):
        return ""
    return (
        f"Trained at {config.method}'s quick setting for two cores ({_listed(differs)}): its "
        "figures are not those of the published method."
    )


def _quicker(config: Config) -> str:
    """What makes it quicker."""
    ways = []
    differs, own = _differences(config.method), asdict(config.options)
    if any(_plain(own[key]) == paper for key, (_, paper) in differs.items()):
        ways.append(f"--quick takes minutes on two cores ({_listed(differs)})")
    if config.calibration.folds > 1:
        ways.append(
            f"--set calibration.folds=0 trains once, not {config.calibration.folds + 1} times"
        )
    return "; ".join(ways)[:1].upper() + "; ".join(ways)[1:] + "." if ways else ""


def _differences(method: str) -> Mapping[str, tuple[Any, Any]]:
    """The options that the quick setting changes: (quick, the paper's)."""
    declared = method_of(method)
    if not declared.quick:
        return {}
    paper = asdict(declared.config())
    return {key: (_plain(value), _plain(paper[key])) for key, value in declared.quick.items()}


def _listed(differs: Mapping[str, tuple[Any, Any]]) -> str:
    return ", ".join(f"{key} {quick} for {paper}" for key, (quick, paper) in differs.items())


def _plain(value: Any) -> Any:
    """Arrays of TOML and tuples of Python alike."""
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value
