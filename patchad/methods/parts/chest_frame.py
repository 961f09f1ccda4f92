"""Chest films brought into one frame: a template of negatives, its lungs, the way there and back.

The template is the mean of the training negatives, refined in rounds of registration (groupwise,
as in Joshi et al., NeuroImage 23:S151, 2004). A film is scaled and shifted along rows and columns,
four numbers, so that its normalised cross-correlation with the template, weighted towards the
middle, is largest. Lengths are shares of the frame, so no pixel spacing is needed. Arrays are
(row, col).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from patchad.core.grid import PatchGrid, batches
from patchad.errors import ModelError
from patchad.learn.training_set import TrainingSet
from patchad.prepare.lungs import find_lungs
from patchad.prepare.preprocess import Prepared
from patchad.prepare.resize import resize

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]

SIDE = 256  # of the template's frame, in pixels
ROUNDS = (35, 35, 50)  # steps of Adam; after each the template is the mean of the registered films
_FIT = 64  # side of the copies that are registered
_RATE = 0.02  # of Adam, in log scale and in halves of the frame
_STIFFNESS = 0.2  # of the penalty ‖p‖² on the four numbers
_WINDOW = 0.35  # σ of the weights of the correlation, in halves of the frame: air counts little
_CENTRE = 0.1  # of each side that is no part of the centre, which sets the intensities
_AT_ONCE = 256  # films registered together
_LEAST_SHARE = 0.1  # of a patch's pixels near the lungs, below which it isn't scored


@dataclass(frozen=True, eq=False)
class Registered:
    """A film in the template's frame.

    ``pixels`` (256, 256) float32, 0 and 1 at the 2nd and 98th percentile of the film's central
    part; ``inside`` (256, 256) bool, where the film has foreground. ``affine`` is (scale row, scale
    col, shift row, shift col): what lies at t in the template's frame lies at scale · t + shift in
    the film's, both counted from -1 to 1 between the edges.
    """

    pixels: Floats
    inside: Mask
    affine: tuple[float, float, float, float]

    def to_film(self, values: Floats, shape: tuple[int, int]) -> Floats:
        """Bring ``values`` (h, w), which fill the template's frame, to a film of ``shape`` (H, W).

        Linear between pixel centres, with the outermost values repeated beyond the frame; NaN
        spreads.
        """
        for axis in (0, 1):
            places = (np.arange(shape[axis]) + 0.5) / shape[axis] * 2 - 1
            frame = (places - self.affine[2 + axis]) / self.affine[axis]
            count = values.shape[axis]
            at = ((frame + 1) * count / 2 - 0.5).clip(0, count - 1)
            low = np.minimum(at.astype(np.int64), max(count - 2, 0))
            share = (at - low).astype(np.float32)
            share = share[:, None] if axis == 0 else share
            below, above = values.take(low, axis), values.take(np.minimum(low + 1, count - 1), axis)
            values = below * (1 - share) + above * share
        return values


@dataclass(frozen=True, eq=False)
class Registration:
    """The template (256, 256) float32 of negatives, and the mask (256, 256) bool of its lungs."""

    template: Floats
    lungs: Mask

    def register(self, film: Prepared) -> Registered:
        """Bring a prepared film into the template's frame."""
        small, inside = shrink(film)
        target = torch.from_numpy(resize(self.template, (_FIT, _FIT)))
        numbers = _align(torch.from_numpy(small)[None], target, sum(ROUNDS), torch.zeros(1, 4))
        return _registered(small, inside, numbers[0])

    def near_lungs(self, cells: int) -> Mask:
        """The lungs grown by ``cells`` 32nds of the frame: (256, 256) bool."""
        return np.asarray(
            ndimage.distance_transform_edt(~self.lungs) <= cells * SIDE // 32, np.bool_
        )

    def tensors(self) -> dict[str, Tensor]:
        """What was learnt, by name, for the model folder."""
        return {
            "registration.template": torch.from_numpy(self.template.copy()),
            "registration.lungs": torch.from_numpy(self.lungs.copy()),
        }

    @classmethod
    def of(cls, tensors: dict[str, Tensor]) -> "Registration":
        """Of :meth:`tensors`.

        Raises:
            ModelError: they aren't there, or of another size.
        """
        template, lungs = (tensors.get(f"registration.{name}") for name in ("template", "lungs"))
        if template is None or lungs is None or not template.shape == lungs.shape == (SIDE, SIDE):
            raise ModelError("the model lacks its template of the chest: train anew")
        return cls(template.cpu().float().numpy(), lungs.cpu().numpy().astype(np.bool_))


def shrink(film: Prepared) -> tuple[Floats, Mask]:
    """A film at (256, 256): float32, 0 and 1 at percentiles 2 and 98 of its centre; foreground."""
    pixels = resize(film.pixels, (SIDE, SIDE))
    inside = resize(film.foreground.mask.astype(np.float32), (SIDE, SIDE)) >= 0.5
    margin = round(_CENTRE * SIDE)
    centre = np.s_[margin:-margin, margin:-margin]
    chosen = pixels[centre][inside[centre]]
    low, high = np.percentile(chosen if chosen.size else pixels, (2, 98))
    scaled = (pixels - np.float32(low)) / np.float32(max(high - low, 1e-3))
    return np.asarray(np.clip(scaled, -0.5, 1.5), np.float32), inside


_FITTED: WeakKeyDictionary[TrainingSet, tuple[Registration, list[Registered]]] = WeakKeyDictionary()


def fit_registration(data: TrainingSet) -> tuple[Registration, Sequence[Registered]]:
    """Make the template of a training set: it, and the films in its frame.

    Nothing in it is random. The last answer for a set is kept as long as the set, since several
    methods that are fitted to one set need the same.

    Raises:
        TrainingError: no lungs are to be seen in the template.
    """
    if data not in _FITTED:
        films = [shrink(data.film(number)) for number in range(len(data))]
        _FITTED[data] = _fit(films)
    return _FITTED[data]


def pool_patches(values: Floats, grid: PatchGrid, lowest: float) -> Floats:
    """The mean over each patch of ``values`` (H, W), NaN where they don't count: (N,) float32.

    ``lowest`` where less than a tenth of the patch counts.
    """
    spoken = np.isfinite(values)
    share = grid.means(spoken)
    total = grid.means(np.where(spoken, values, 0))
    enough = share >= _LEAST_SHARE
    means: Floats = np.divide(total, share, out=np.full(len(grid), lowest), where=enough).astype(
        np.float32
    )
    return means


def _fit(films: Sequence[tuple[Floats, Mask]]) -> tuple[Registration, list[Registered]]:
    whole = torch.from_numpy(np.stack([pixels for pixels, _ in films]))
    numbers = torch.zeros(len(films), 4)
    target = F.interpolate(whole.mean(0)[None, None], size=(_FIT, _FIT), mode="area")[0, 0]
    for steps in ROUNDS:
        for part in batches(len(films), _AT_ONCE):
            numbers[part] = _align(whole[part], target, steps, numbers[part])
        # The mean film stays where it is: without this the template could drift or shrink.
        numbers = numbers - numbers.mean(0)
        total = torch.zeros(_FIT, _FIT)
        for part in batches(len(films), _AT_ONCE):
            total += _warp(whole[part], numbers[part], _FIT).sum(0)
        target = total / len(films)
    registered = [
        _registered(pixels, inside, p) for (pixels, inside), p in zip(films, numbers, strict=True)
    ]
    template = np.zeros((SIDE, SIDE), np.float32)
    for film in registered:
        template += film.pixels / np.float32(len(registered))
    return Registration(template, find_lungs(template)), registered


def _align(films: Tensor, target: Tensor, steps: int, start: Tensor) -> Tensor:
    """Register ``films`` (N, 256, 256) with ``target`` (64, 64) from ``start`` (N, 4): (N, 4).

    The numbers are log scales and shifts, (row, col) each. Adam takes each number's own step, so a
    film ends at the same place whatever it is registered along with.
    """
    small = F.interpolate(films[:, None], size=(_FIT, _FIT), mode="area")[:, 0]
    ticks = (torch.arange(_FIT) + 0.5) / _FIT * 2 - 1
    window = torch.exp(-0.5 * (ticks / _WINDOW) ** 2)
    weight = (window[:, None] * window).flatten()
    weight = weight / weight.sum()
    wanted = _standardised(target.flatten(), weight)
    with torch.enable_grad():
        numbers = start.clone().requires_grad_()
        optimiser = torch.optim.Adam([numbers], _RATE)
        for _ in range(steps):
            moved = _standardised(_warp(small, numbers, _FIT).flatten(1), weight)
            correlation = moved @ (wanted * weight)
            loss = (_STIFFNESS * numbers.square().sum(1) - correlation).sum()
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    return numbers.detach()


def _standardised(films: Tensor, weight: Tensor) -> Tensor:
    """Films (…, P) with the weighted mean 0 and the weighted deviation 1."""
    centred = films - (films * weight).sum(-1, keepdim=True)
    return centred / (centred.square() * weight).sum(-1, keepdim=True).sqrt().clamp_min(1e-6)


def _warp(films: Tensor, numbers: Tensor, side: int) -> Tensor:
    """Films (N, h, w) as the template's frame sees them: (N, side, side), edges repeated."""
    ticks = (torch.arange(side) + 0.5) / side * 2 - 1
    scale, shift = numbers[:, :2].exp(), numbers[:, 2:]
    rows, cols = (scale[:, a, None] * ticks + shift[:, a, None] for a in (0, 1))
    places = torch.stack(
        [cols[:, None].expand(-1, side, -1), rows[:, :, None].expand(-1, -1, side)], dim=-1
    )
    return F.grid_sample(films[:, None], places, padding_mode="border", align_corners=False)[:, 0]


def _registered(pixels: Floats, inside: Mask, numbers: Tensor) -> Registered:
    stack = torch.from_numpy(np.stack([pixels, inside.astype(np.float32)]))
    moved = _warp(stack, numbers.expand(2, 4), SIDE).numpy()
    row, col = numbers[:2].exp().tolist()
    affine = (row, col, float(numbers[2]), float(numbers[3]))
    return Registered(moved[0], moved[1] >= 0.5, affine)
