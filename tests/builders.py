"""What several test files build: settings, training sets, runs, films."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from patchad.core.image import Foreground
from patchad.learn.patch_bank import PatchBank
from patchad.learn.run import Run
from patchad.learn.training_set import PackedMask, TrainingSet
from patchad.lesions.shapes import insert, opacity
from patchad.model.method import Setting
from patchad.phantoms.phantom import chest
from patchad.prepare.film import Film
from patchad.prepare.preprocess import Prepared, Preprocessing

CPU = torch.device("cpu")
CHEST = Setting(Preprocessing(body_part="chest"), 26, 13, 0.5, "gaussian")
CHEST_SHAPE = (208, 176)
_HOST = ("cpu", "numpy", "item", "tolist", "__float__", "__int__", "__bool__", "__array__")


def run(setting: Setting, seed: int = 0, **changes: Any) -> Run:
    """A run on the CPU."""
    return replace(Run(seed, CPU, setting), **changes)


def training_set(images: Sequence[Prepared], setting: Setting) -> TrainingSet:
    """Whole films, with one corner each to draw patches from."""
    corner = np.zeros((1, 2), np.int64)
    bank = PatchBank.of(((image.pixels, corner) for image in images), setting.patch_size)
    return TrainingSet(bank, len(images), tuple(PackedMask.of(image) for image in images))


def on_cpu(image: Prepared) -> Film:
    """The film of a prepared image, nothing of it made yet."""
    return Film.of(image, CPU)


@contextmanager
def kept_on_device() -> Iterator[None]:
    """Within it, whatever brings a tensor to the host raises."""
    with mock.patch.multiple(Tensor, **{name: _host(name) for name in _HOST}):
        yield


def _host(name: str) -> Any:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError(f"Tensor.{name} waits for the device")

    return refuse


def chest_film(seed: int, shape: tuple[int, int] = CHEST_SHAPE) -> Prepared:
    """A phantom of a chest without a finding, 430 mm high."""
    phantom = chest(np.random.default_rng(seed), shape=shape, spacing_mm=430 / shape[0])
    return Prepared(phantom.pixels, Foreground(phantom.foreground, "", 0.0), 0.5, None)


def with_opacity(image: Prepared, lungs: NDArray[np.bool_], seed: int) -> Prepared:
    """The same film with a consolidation of 70 mm somewhere in ``lungs`` (H, W)."""
    rng = np.random.default_rng(seed)
    rows, cols = np.nonzero(lungs)
    at = int(rng.integers(len(rows)))
    spacing = 430 / lungs.shape[0]
    lesion = opacity(rng, diameter_mm=70.0, spacing_mm=(spacing, spacing))
    centre = (int(rows[at]), int(cols[at]))
    pixels, _ = insert(image.pixels, lungs, lesion, centre, amplitude=0.25)
    return replace(image, pixels=pixels)
