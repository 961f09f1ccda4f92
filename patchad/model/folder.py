"""The model folder: a card and the tensors of a module, both checked by digest."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import safetensors
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from patchad.errors import ModelError
from patchad.files.kinds import no_model
from patchad.files.whole import write_whole
from patchad.model.calibration import Calibration
from patchad.model.card import FORMAT, ModelCard, card_as_dict, card_from_dict, digest_of
from patchad.model.detector import Detector
from patchad.version import __version__

_NAMED = 3  # tensors that an error lists


def save(detector: Detector, folder: Path, calibration: Calibration | None = None) -> ModelCard:
    """Write the model folder, with the detector's or a new calibration.

    Returns the card as written, with the digest of the weights.
    """
    card = replace(detector.card, calibration=calibration or detector.card.calibration)
    return write_model(card, detector.module.state_dict(), folder)


def write_model(card: ModelCard, tensors: Mapping[str, Tensor], folder: Path) -> ModelCard:
    """Write a card and its weights; returns the card with the digest of the weights."""
    weights = save_tensors(
        {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    )
    card = replace(card, weights_sha256=hashlib.sha256(weights).hexdigest())
    write_whole(folder / "weights.safetensors", weights)
    write_whole(folder / "card.json", json.dumps(card_as_dict(card), indent=2) + "\n")
    return card


def read_model(folder: Path) -> tuple[ModelCard, dict[str, Tensor]]:
    """Read a model folder: its card and weights.

    Raises:
        ModelError: there is none, or a file was changed, is not patchad's or is of another version.
    """
    card = read_card(folder)
    path = folder / "weights.safetensors"
    try:
        weights = path.read_bytes()
    except OSError as error:
        raise ModelError(
            f"{path} cannot be read ({error.strerror}): is the folder complete?"
        ) from None
    if hashlib.sha256(weights).hexdigest() != card.weights_sha256:
        raise ModelError(
            f"{path} is not the file that card.json was written for (its SHA-256 "
            "differs): copy the model folder again, or train again"
        )
    try:
        return card, load_tensors(weights)
    except safetensors.SafetensorError as error:
        raise ModelError(f"{path} is not a safetensors file: {error}") from None


def load_into(module: nn.Module, tensors: Mapping[str, Tensor], method: str) -> None:
    """Load the tensors of a folder into a module built for them.

    Raises:
        ModelError: a tensor is missing, unknown, or of another shape or type.
    """
    wanted = module.state_dict()
    faults = [f"{name} is missing" for name in wanted if name not in tensors]
    faults += [f"{name} is unknown to it" for name in tensors if name not in wanted]
    for name in wanted.keys() & tensors.keys():
        have, want = tensors[name], wanted[name]
        if have.shape != want.shape or have.dtype != want.dtype:
            faults.append(f"{name} is {_described(have)} instead of {_described(want)}")
    if faults:
        more = f" and {len(faults) - _NAMED} more" if len(faults) > _NAMED else ""
        raise ModelError(
            f"the weights are not those of a {method} that this patchad ({__version__}) can use "
            f"({'; '.join(sorted(faults)[:_NAMED])}{more}): train again"
        )
    module.load_state_dict(dict(tensors))


def read_card(folder: Path) -> ModelCard:
    """Read and check ``card.json`` of a model folder."""
    path = folder / "card.json"
    try:
        content = json.loads(path.read_text("utf-8"))
        if not isinstance(content, dict):
            raise ValueError(f"it holds a {type(content).__name__}, not an object")
    except FileNotFoundError:
        raise ModelError(no_model(folder)) from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not the card of a model: {error}") from None
    if content.get("format") != FORMAT:
        made_with = content.get("versions")
        version = made_with.get("patchad") if isinstance(made_with, dict) else None
        raise ModelError(
            f"{path} has format {content.get('format')}, this patchad ({__version__}) reads "
            f"{FORMAT}: train again or use the version it was trained with ({version or 'unknown'})"
        )
    if content.pop("digest", None) != digest_of(content):
        raise ModelError(
            f"{path} was changed after it was written (its digest differs): copy the "
            "model folder again, or train again"
        )
    return card_from_dict(content, str(path))


def _described(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
