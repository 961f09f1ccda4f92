"""Where gradients converge there may be a mass: nothing is trained but the scale of negatives.

H. Kobatake, S. Hashimoto: Convergence index filter for vector fields. IEEE Trans. Image Processing
8(8):1029-1038, 1999, https://doi.org/10.1109/83.777083; H. Kobatake, M. Murakami, H. Takeo,
S. Nawano: Computerized detection of malignant tumors on digital mammograms. IEEE Trans. Medical
Imaging 18(5):369-378, 1999, https://doi.org/10.1109/42.774164.

The filter asks how well the gradients around a place point to it, whatever their strength: so
brightness and contrast don't matter. Here a ring around a place has twelve sectors, and the map is
the mean of the two middle ones after sorting: a mass may be open to some sides, and at a vessel or
an edge gradients converge from two sides only. Three rings look for masses of several sizes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from scipy.fft import next_fast_len
from torch import Tensor, nn

from patchad.core.grid import PatchGrid
from patchad.core.host import to_host
from patchad.errors import RequestError
from patchad.learn.run import Run
from patchad.learn.training_set import TrainingSet
from patchad.methods.parts.cells import CELL_MM, Cells, cells, enlarged
from patchad.methods.parts.pooling import max_pool
from patchad.methods.parts.scale import NegativeScale
from patchad.model.method import Gives, Method, Needs, Setting
from patchad.model.scoring import Response
from patchad.prepare.film import Film, tissue

NAME = "convergence"
Pair = tuple[float, float]

_SMOOTH_MM = 0.4  # before gradients are taken
_FLAT = 2e-4  # gradient a cell, in [0, 1], at which a direction counts half
_SECTORS = 12
_STEP = 32  # cells: transforms have sizes a multiple of it apart, so that films share kernels


@dataclass(frozen=True)
class Config:
    """``rings_mm``: the rings around a place in which gradients count, inner and outer radius.

    On mini-MIAS any one outer radius of 5.6 to 7.6 mm gave the same, and three rings more than one.
    """

    rings_mm: tuple[Pair, ...] = ((0.6, 4.0), (0.6, 6.4), (1.2, 9.6))

    def __post_init__(self) -> None:
        if not self.rings_mm:
            raise RequestError(f"{NAME}.rings_mm names no ring: give one at least")
        for inner, outer in self.rings_mm:
            if not 0 <= inner < outer <= 50 or outer < 2 * CELL_MM:
                raise RequestError(
                    f"{NAME}.rings_mm: a ring rises from 0 or more to {2 * CELL_MM} to 50 mm, "
                    f"got {(inner, outer)}"
                )


class Convergence(nn.Module):
    """The filter with the scale of negatives: a film → the rings' mean, and its pools.

    ``maps`` is the scale of the rings' values, ``pools`` that of their maxima in patches.
    """

    unit = "standard deviations from the median of negatives"
    pooling = (
        "Mean over the rings of the maximum in the patch, in standard deviations of negatives."
    )

    def __init__(self, rings_mm: Sequence[Pair]) -> None:
        super().__init__()
        self.rings_mm = tuple(rings_mm)
        self.maps = NegativeScale(len(self.rings_mm))
        self.pools = NegativeScale(len(self.rings_mm))

    def forward(self, film: Film, grid: PatchGrid) -> Response:
        """The rings' mean, in standard deviations of negatives, and so pooled.

        Raises:
            ImageError: the pixel spacing is unknown.
        """
        maps = convergence_maps(film, self.rings_mm)
        dense = enlarged(self.maps(maps).mean(-1), film.shape)
        return Response(
            dense.where(film.tissue, torch.nan),
            self.pools(pool_maps(maps, grid)).mean(-1).nan_to_num(),
        )


def build(config: Config, setting: Setting) -> Convergence:
    """The filter before the scale of negatives is known."""
    return Convergence(config.rings_mm)


def learn(module: Convergence, config: Config, data: TrainingSet, run: Run) -> None:
    """Learn the scale of each ring's values, and of their maxima, from negatives.

    Nothing is random, and it takes a fraction of a second a film.

    Raises:
        ImageError: a training image has no pixel spacing.
    """
    maps, pools = [], []
    for number, (film, grid, keep) in enumerate(data.films(run, METHOD.needs.before), start=1):
        found = convergence_maps(film, config.rings_mm)
        values, pooled = to_host(found.flatten(0, 1), pool_maps(found, grid)[keep])
        maps.append(values)
        pools.append(pooled)
        run.tell(NAME, number, len(data))
    module.maps.learn(np.concatenate(maps))
    module.pools.learn(np.concatenate(pools))


def convergence_maps(film: Film, rings_mm: Sequence[Pair]) -> Tensor:
    """The median of the sectors of each ring: (h, w, rings) float32 in [-1, 1].

    1: all gradients point here; 0: they point anywhere; NaN outside the tissue. A cell is about
    0.8 mm wide.
    """
    part = Cells.of(film)
    directions = _directions(film, part)
    return torch.stack([part.whole(_median(directions, part.size_mm, r)) for r in rings_mm], -1)


def pool_maps(maps: Tensor, grid: PatchGrid) -> Tensor:
    """The maximum of each ring's map (h, w, rings) in each patch: (N, rings)."""
    return torch.stack([max_pool(ring, grid) for ring in maps.unbind(-1)], -1)


def _directions(film: Film, part: Cells) -> Tensor:
    """The unit gradients (2, h, w) of the tissue, 0 elsewhere."""
    smooth = part.tissue_means(film.smooth(_SMOOTH_MM), film.tissue)
    # The nearest tissue is repeated outside, so that its border makes no gradient.
    gradient = torch.stack(torch.gradient(part.filled(smooth)))
    return gradient / (torch.hypot(gradient[0], gradient[1]) + _FLAT) * part.tissue


def _median(directions: Tensor, cell_mm: Pair, ring_mm: Pair) -> Tensor:
    """How well unit vectors (2, h, w) point here: the mean of the two middle sectors, (h, w)."""
    rows, cols = directions.shape[1:]
    reach = (math.ceil(ring_mm[1] / cell_mm[0]), math.ceil(ring_mm[1] / cell_mm[1]))
    size = (_length(rows, reach[0]), _length(cols, reach[1]))
    rounded = (round(cell_mm[0], 3), round(cell_mm[1], 3))
    kernels = _kernels(size, reach, rounded, ring_mm, directions.device)
    field = torch.fft.rfft2(directions, size)
    sectors: Tensor = torch.fft.irfft2((field * kernels).sum(1), size)[:, :rows, :cols]
    half = _SECTORS // 2
    return sectors.sort(0).values[half - 1 : half + 1].mean(0)


def _length(cells: int, reach: int) -> int:
    """A length for ``cells`` and ``reach`` that is transformed fast, one of few different ones."""
    least = max(cells, reach + 1) + reach
    return int(next_fast_len(-(-least // _STEP) * _STEP, real=True))


@lru_cache(maxsize=6)
def _kernels(
    size: tuple[int, int],
    reach: tuple[int, int],
    cell_mm: Pair,
    ring_mm: Pair,
    device: torch.device,
) -> Tensor:
    """Spectra (12, 2, …) of the sectors' kernels, for fields of ``size`` cells.

    A kernel holds, at the offset of a neighbour up to ``reach`` cells away, the unit vector from
    there to the middle, divided by the number of the sector's cells. Each is the mean of three
    sectors, its own and those beside it, so that a direction isn't lost between two.
    """
    inner, outer = ring_mm
    rows, cols = (np.arange(-n, n + 1) * step for n, step in zip(reach, cell_mm, strict=True))
    y, x = rows[:, None], cols[None]
    distance = np.hypot(y, x)
    sector = np.floor(np.arctan2(y, x) % (2 * np.pi) / (2 * np.pi) * _SECTORS) % _SECTORS
    ring = (distance >= max(inner, 1e-6)) & (distance <= outer)
    inward = -np.stack(np.broadcast_arrays(y, x)) / np.maximum(distance, 1e-6)
    single = np.zeros((_SECTORS, 2, *ring.shape))
    for k in range(_SECTORS):
        one = ring & (sector == k)
        single[k] = inward * one / max(one.sum(), 1)
    kernels = np.zeros((_SECTORS, 2, *size))
    # Turned over, since a correlation is meant.
    turned = (single + np.roll(single, 1, 0) + np.roll(single, -1, 0))[..., ::-1, ::-1] / 3
    kernels[..., : turned.shape[-2], : turned.shape[-1]] = turned
    # The middle lies at (0, 0), and what reaches beyond one end comes in at the other.
    kernels = np.roll(kernels, (-reach[0], -reach[1]), (-2, -1))
    with torch.inference_mode(False):  # cached, so usable in any mode
        spectra: Tensor = torch.fft.rfft2(torch.from_numpy(kernels))
        return spectra.to(torch.complex64).to(device)


METHOD = Method(
    name=NAME,
    family="filters",
    paper="Kobatake & Hashimoto, Convergence index filter for vector fields, IEEE Trans. Image "
    "Processing 1999, doi 10.1109/83.777083",
    needs=Needs(
        "negative images with pixel spacing, of two patients at least; no labels of lesions",
        spacing=True,
        before=(tissue, cells),
    ),
    gives=Gives(
        "image", "a map of how gradients converge (masses), and its maxima a patch", map=True
    ),
    config=Config,
    build=build,
    learn=learn,
)
