"""What tests build from nothing: settings, prepared films, training sets, runs."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from patchad.core import patches
from patchad.core.grid import PatchGrid, Weighting
from patchad.core.image import Foreground
from patchad.learn.fitting import Fitted, fit
from patchad.learn.patch_bank import PatchBank
from patchad.learn.run import Run
from patchad.learn.training_set import PackedMask, TrainingSet
from patchad.methods import method_of
from patchad.model.method import Setting
from patchad.prepare.preprocess import Prepared, Preprocessing

CPU = torch.device("cpu")


def setting_with(**changes: Any) -> Setting:
    """Patches of 32 pixels, 16 apart, of breasts as read."""
    usual = {
        "preprocessing": Preprocessing(),
        "patch_size": 32,
        "stride": 16,
        "min_foreground": 0.5,
        "weighting": "gaussian",
    }
    return Setting(**{**usual, **changes})


def prepared(
    pixels: NDArray[np.float32],
    mask: NDArray[np.bool_] | None = None,
    spacing_mm: tuple[float, float] | None = (1.0, 1.0),
) -> Prepared:
    """A prepared film, all of it foreground unless a mask says otherwise."""
    mask = np.ones(pixels.shape, bool) if mask is None else mask
    return Prepared(pixels.astype(np.float32), Foreground(mask, "", 0.0), 0.5, spacing_mm)


def training_set(films: Sequence[Prepared], size: int = 32) -> TrainingSet:
    """Films with patches of ``size`` anywhere in them, every fourth pixel."""
    parts = []
    for film in films:
        rows, cols = (np.arange(0, max(n - size, 0) + 1, 4) for n in film.pixels.shape)
        parts.append(
            (film.pixels, np.stack(np.meshgrid(rows, cols, indexing="ij"), -1).reshape(-1, 2))
        )
    patches = sum(film.pixels.size // size**2 for film in films)
    return TrainingSet(PatchBank.of(parts, size), patches, tuple(map(PackedMask.of, films)))


def tensor(array: NDArray[Any]) -> torch.Tensor:
    """A copy of an array, whatever its strides."""
    return torch.from_numpy(np.array(array, order="C"))


def cut(
    grid: PatchGrid, pixels: NDArray[Any], which: NDArray[np.int64] | None = None
) -> NDArray[Any]:
    """As :func:`patchad.core.patches.cut`, from arrays to an array; all patches by default."""
    which = np.arange(len(grid)) if which is None else which
    return patches.cut(grid, tensor(pixels), tensor(which)).numpy()


def means(grid: PatchGrid, values: NDArray[Any]) -> NDArray[np.float64]:
    """As :func:`patchad.core.patches.means`, from an array to an array."""
    return patches.means(grid, tensor(values)).numpy()


def stitch(
    grid: PatchGrid,
    values: NDArray[np.float32],
    *,
    weighting: Weighting = "gaussian",
    mask: NDArray[np.bool_] | None = None,
) -> NDArray[np.float32]:
    """As :func:`patchad.core.patches.stitch`, from arrays to an array."""
    wanted = None if mask is None else tensor(mask)
    return patches.stitch(grid, tensor(values), weighting=weighting, mask=wanted).numpy()


def run_with(seed: int = 0, setting: Setting | None = None, **rest: Any) -> Run:
    """A run on the CPU that tells nobody and keeps no checkpoint."""
    return Run(seed, CPU, setting or setting_with(), **rest)


def fitted(name: str, config: Any, data: TrainingSet, run: Run | None = None) -> Fitted:
    """A method of the table, fitted."""
    return fit(method_of(name), config, data, run or run_with())


def state(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A copy of what a module holds."""
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Whether two states are equal bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(t, other[n]) for n, t in one.items())
