"""What tests build from nothing: settings, prepared films, training sets, runs."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from patchad.core import patches
from patchad.core.grid import PatchGrid, Weighting
from patchad.core.image import Foreground
from patchad.learn.fitting import Fitted, fit
from patchad.learn.patch_bank import PatchBank
from patchad.learn.run import Run
from patchad.learn.training_set import PackedMask, TrainingSet
from patchad.lesions.shapes import insert, opacity
from patchad.methods import method_of
from patchad.model.calibration import Calibration, MarkCalibration, Shares
from patchad.model.card import ModelCard, TrainingData
from patchad.model.detector import Detector
from patchad.model.method import Gives, Method, Needs, Setting
from patchad.model.rarity import Rarity
from patchad.phantoms.phantom import chest
from patchad.prepare.film import Before, Film
from patchad.prepare.preprocess import Prepared, Preprocessing

CPU = torch.device("cpu")
CHEST = Setting(Preprocessing(body_part="chest"), 26, 13, 0.5, "gaussian")
CHEST_SHAPE = (208, 176)
_HOST = ("cpu", "numpy", "item", "tolist", "__float__", "__int__", "__bool__", "__array__")


CALIBRATION = Calibration(
    pooling="max",
    top_k=1,
    patch_shares=Shares((0.1, 0.3), (0.0, 0.5), (0.5, 1.0)),
    patient_scores=(0.2, 0.25),
    patch_threshold=0.3,
    image_threshold=0.25,
    display_range=(0.1, 0.35),
    images=2,
    patients=2,
    patches=40,
    marks=MarkCalibration(0.3, 1.0, False, True, 1, Rarity((0.32,), (0.5, 0.25), (2.0, 1.5), 3, 2)),
    statements=("at most 1 in 3 negative images, for 2 were held out",),
)
CARD = ModelCard(
    method="fake",
    config={"method": "fake", "fake": {"gain": 2.0, "layers": [4, 8]}},
    preprocessing=Preprocessing(body_part="chest", spacing_mm=0.1),
    patch_size=2,
    stride=1,
    weighting="hann",
    min_foreground=0.5,
    score_unit="mean pixel × gain",
    seed=7,
    data=TrainingData(
        digest="ab" * 32,
        images=3,
        patients=2,
        split="by patient",
        modalities=("MG",),
        spacing_mm=(0.07, 0.07),
        brightness=(0.25, 0.75),
    ),
    calibration=CALIBRATION,
    notes=("restarted once",),
    versions={"patchad": "0.1.0"},
)


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


def detector_with(card: ModelCard, score: Callable[[Tensor], Tensor]) -> Detector:
    """A detector whose function scores patches (N, 1, S, S): (N,)."""
    method = Method(
        card.method, "reconstruction", "none", Needs("nothing"), Gives("patch", "a score"),
        type(None), lambda config, setting: nn.Module(), lambda module, config, data, run: None,
    )  # fmt: skip
    module = nn.Module()
    module.forward = score  # type: ignore[method-assign]
    return Detector(card, method, None, module)


def fitted(name: str, config: Any, data: TrainingSet, run: Run | None = None) -> Fitted:
    """A method of the table, fitted."""
    return fit(method_of(name), config, data, run or run_with())


def state(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A copy of what a module holds."""
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Whether two states are equal bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(t, other[n]) for n, t in one.items())


def on_cpu(image: Prepared, before: Sequence[Before] = ()) -> Film:
    """The film of a prepared image, nothing of it made yet but what is found ``before``."""
    return Film.of(image, CPU, before)


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
    return prepared(phantom.pixels, phantom.foreground, None)


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
