"""Chest films brought into one frame: a template of negatives, its lungs, the way there and back.

The template is the mean of the training negatives, refined in rounds of registration (groupwise,
as in Joshi et al., NeuroImage 23:S151, 2004). A film is scaled and shifted along rows and columns,
four numbers, so that its normalised cross-correlation with the template, weighted towards the
middle, is largest. Lengths are shares of the frame, so no pixel spacing is needed. Arrays are
(row, col).
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar
from weakref import WeakKeyDictionary

import torch
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional as F

from patchad.core.grid import PatchGrid, batches
from patchad.core.patches import means
from patchad.learn.run import Run
from patchad.learn.training_set import TrainingSet
from patchad.prepare.film import Film
from patchad.prepare.lungs import find_lungs
from patchad.prepare.resize import resize_tensor

T = TypeVar("T")

SIDE = 256  # of the template's frame, in pixels
NEAR = 2  # 32nds of the frame around the lungs that still count
ROUNDS = (35, 35, 50)  # steps of Adam; after each the template is the mean of the registered films
_FIT = 64  # side of the copies that are registered
_RATE = 0.02  # of Adam, in log scale and in halves of the frame
_BETAS, _EPSILON = (0.9, 0.999), 1e-8  # of Adam
_STIFFNESS = 0.2  # of the penalty ‖p‖² on the four numbers
_WINDOW = 0.35  # σ of the weights of the correlation, in halves of the frame: air counts little
_CENTRE = 0.1  # of each side that is no part of the centre, which sets the intensities
_AT_ONCE = 256  # films registered together
_LEAST_SHARE = 0.1  # of a patch's pixels near the lungs, below which it isn't scored
POOLING = (
    "mean of the map over the patch's pixels near the lungs; with less than a tenth of them, the "
    "lowest value of the training negatives"
)


@dataclass(frozen=True, eq=False)
class Registered:
    """A film in the template's frame; tensors on the film's device.

    ``pixels`` (256, 256) float32, 0 and 1 at the 2nd and 98th percentile of the film's central
    part; ``inside`` (256, 256) bool, where the film has foreground. ``affine`` (4,) float32 is
    (scale row, scale col, shift row, shift col): what lies at t in the template's frame lies at
    scale · t + shift in the film's, both counted from -1 to 1 between the edges.
    """

    pixels: Tensor
    inside: Tensor
    affine: Tensor


class ChestFrame(nn.Module):
    """The frame that chest films are brought into.

    ``template`` (256, 256) float32 is the mean of negatives, ``lungs`` (256, 256) bool the mask of
    its lungs; ``near``, which follows from them, the lungs grown by two 32nds of the frame. ``key``
    is the SHA-256 of both: methods with the same frame share what they need of a film.
    """

    template: Tensor
    lungs: Tensor
    near: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("template", torch.zeros(SIDE, SIDE))
        self.register_buffer("lungs", torch.zeros(SIDE, SIDE, dtype=torch.bool))
        self.register_buffer("near", torch.zeros_like(self.lungs), persistent=False)
        self.key = ""
        self.register_load_state_dict_post_hook(_follow)  # type: ignore[no-untyped-call]

    def register(self, film: Film) -> Registered:
        """Bring a film into the template's frame; done once a film."""

        def registered() -> Registered:
            small, inside = film.once("chest film", lambda: shrink(film))
            target = resize_tensor(self.template, (_FIT, _FIT))
            start = torch.zeros(1, 4, device=small.device)
            numbers = _align(small[None], target, sum(ROUNDS), start)
            return _registered(small, inside, numbers[0])

        return self.once(film, "registered", registered)

    def near_lungs(self, film: Film) -> Tensor:
        """Where a film's foreground is near the lungs: (H, W) bool, in the film's frame."""

        def there() -> Tensor:
            affine = self.register(film).affine
            return (to_film(self.near.float(), affine, film.shape) >= 0.5) & film.mask

        return self.once(film, "near", there)

    def once(self, film: Film, name: str, make: Callable[[], T]) -> T:
        """What ``make`` returns of a film in this frame, made once for all with this frame."""
        return film.once(("chest", self.key, name), make)


def _follow(frame: ChestFrame, _: object) -> None:
    """Bring what follows from template and lungs up to date; called when they have been loaded."""
    lungs = frame.lungs.cpu().numpy()
    near = ndimage.distance_transform_edt(~lungs) <= NEAR * SIDE // 32
    frame.near = torch.from_numpy(near & lungs.any()).to(frame.lungs.device)
    content = frame.template.cpu().numpy().tobytes() + lungs.tobytes()
    frame.key = hashlib.sha256(content).hexdigest()


def to_film(values: Tensor, affine: Tensor, shape: tuple[int, int]) -> Tensor:
    """Bring ``values`` (h, w), which fill the template's frame, to a film of ``shape`` (H, W).

    Linear between pixel centres, with the outermost values repeated beyond the frame; NaN spreads.
    ``affine`` (4,) is that of :class:`Registered`.
    """
    for axis, length in enumerate(shape):
        places = (torch.arange(length, device=values.device) + 0.5) / length * 2 - 1
        frame = (places - affine[2 + axis]) / affine[axis]
        count = values.shape[axis]
        at = ((frame + 1) * count / 2 - 0.5).clamp(0, count - 1)
        low = at.long().clamp(max=max(count - 2, 0))
        share = (at - low)[:, None] if axis == 0 else at - low
        below = values.index_select(axis, low)
        above = values.index_select(axis, (low + 1).clamp(max=count - 1))
        values = torch.lerp(below, above, share)
    return values


def shrink(film: Film) -> tuple[Tensor, Tensor]:
    """A film at (256, 256): float32, 0 and 1 at percentiles 2 and 98 of its centre; foreground."""
    pixels = resize_tensor(film.pixels, (SIDE, SIDE))
    inside = resize_tensor(film.mask.float(), (SIDE, SIDE)) >= 0.5
    margin = round(_CENTRE * SIDE)
    chosen = pixels[margin:-margin, margin:-margin][inside[margin:-margin, margin:-margin]]
    ends = pixels.new_tensor([0.02, 0.98])
    low, high = torch.quantile(chosen if chosen.numel() else pixels.flatten(), ends)
    return ((pixels - low) / (high - low).clamp_min(1e-3)).clamp(-0.5, 1.5), inside


@dataclass(frozen=True, eq=False)
class FittedFrame:
    """The frame of a training set, and its films in it, in their order."""

    frame: ChestFrame
    films: Sequence[Registered]


_FITTED: WeakKeyDictionary[TrainingSet, dict[torch.device, FittedFrame]] = WeakKeyDictionary()


def fit_frame(data: TrainingSet, run: Run) -> FittedFrame:
    """Make the template of a training set: the frame, and the films in it, on the run's device.

    Nothing in it is random. The answer is kept as long as the set, since several methods that are
    fitted to one set need the same.

    Raises:
        TrainingError: no lungs found in the template.
    """
    fitted = _FITTED.setdefault(data, {})
    if run.device not in fitted:
        films = []
        for number in range(len(data)):
            films.append(shrink(Film.of(data.film(number), run.device)))
            run.tell("reading films", number + 1, len(data))
        fitted[run.device] = _fit(films)
        run.tell("registration", 1, 1)
    return fitted[run.device]


def pool_patches(values: Tensor, grid: PatchGrid, lowest: Tensor) -> Tensor:
    """The mean over each patch of ``values`` (H, W), NaN where they don't count: (N,) float32.

    ``lowest``, a scalar, where less than a tenth of the patch counts.
    """
    known = values.isfinite()
    share = means(grid, known)
    total = means(grid, values.where(known, 0))
    return torch.where(share >= _LEAST_SHARE, total / share, lowest).float()


def _fit(films: Sequence[tuple[Tensor, Tensor]]) -> FittedFrame:
    whole = torch.stack([pixels for pixels, _ in films])
    numbers = torch.zeros(len(films), 4, device=whole.device)
    target = F.interpolate(whole.mean(0)[None, None], size=(_FIT, _FIT), mode="area")[0, 0]
    for steps in ROUNDS:
        for part in batches(len(films), _AT_ONCE):
            numbers[part] = _align(whole[part], target, steps, numbers[part])
        # The mean film stays where it is: without this the template could drift or shrink.
        numbers = numbers - numbers.mean(0)
        total, centres = torch.zeros_like(target), _centres(_FIT, target.device)
        for part in batches(len(films), _AT_ONCE):
            total += _warp(whole[part], numbers[part], centres).sum(0)
        target = total / len(films)
    registered = [
        _registered(pixels, inside, p) for (pixels, inside), p in zip(films, numbers, strict=True)
    ]
    template = torch.zeros_like(whole[0])
    for film in registered:
        template += film.pixels / len(registered)
    lungs = torch.from_numpy(find_lungs(template.cpu().numpy()))
    frame = ChestFrame().to(whole.device)
    frame.load_state_dict({"template": template, "lungs": lungs})
    return FittedFrame(frame, registered)


def _align(films: Tensor, target: Tensor, steps: int, start: Tensor) -> Tensor:
    """Register ``films`` (N, 256, 256) with ``target`` (64, 64) from ``start`` (N, 4): (N, 4).

    The numbers are log scales and shifts, (row, col) each. Adam takes each number's own step, so a
    film ends at the same place whatever it is registered along with. Adam is written out: PyTorch's
    brings its count of steps to the host.
    """
    with torch.inference_mode(mode=False), torch.enable_grad():
        small = F.interpolate(films[:, None].clone(), size=(_FIT, _FIT), mode="area")[:, 0]
        centres = _centres(_FIT, films.device)
        weight = torch.exp(-0.5 * (centres / _WINDOW).square().sum(-1)).flatten()
        weight = weight / weight.sum()
        wanted = _standardised(target.clone().flatten(), weight) * weight
        numbers = start.clone()
        first, second = torch.zeros_like(numbers), torch.zeros_like(numbers)
        for step in range(1, steps + 1):
            numbers = numbers.detach().requires_grad_()
            moved = _standardised(_warp(small, numbers, centres).flatten(1), weight)
            loss = (_STIFFNESS * numbers.square().sum(1) - moved @ wanted).sum()
            loss.backward()  # type: ignore[no-untyped-call]
            slope = numbers.grad
            assert slope is not None
            first = first.lerp(slope, 1 - _BETAS[0])
            second = second.lerp(slope.square(), 1 - _BETAS[1])
            spread = (second / (1 - _BETAS[1] ** step)).sqrt() + _EPSILON
            numbers = numbers.detach() - _RATE / (1 - _BETAS[0] ** step) * first / spread
        return numbers


def _centres(side: int, device: torch.device) -> Tensor:
    """Pixel centres (col, row) of a frame, from -1 to 1 between the edges: (side, side, 2)."""
    ticks = (torch.arange(side, device=device) + 0.5) / side * 2 - 1
    rows, cols = torch.meshgrid(ticks, ticks, indexing="ij")
    return torch.stack([cols, rows], dim=-1)


def _standardised(films: Tensor, weight: Tensor) -> Tensor:
    """Films (…, P) with the weighted mean 0 and the weighted deviation 1."""
    centred = films - (films @ weight)[..., None]
    return centred / (centred.square() @ weight)[..., None].sqrt().clamp_min(1e-6)


def _warp(films: Tensor, numbers: Tensor, centres: Tensor) -> Tensor:
    """Films (N, h, w) as the template's frame sees them at :func:`_centres`: edges repeated."""
    scale, shift = numbers.reshape(-1, 2, 2).flip(2).unbind(1)  # each (col, row), as the centres
    places = torch.addcmul(shift[:, None, None], scale.exp()[:, None, None], centres)
    return F.grid_sample(films[:, None], places, padding_mode="border", align_corners=False)[:, 0]


def _registered(pixels: Tensor, inside: Tensor, numbers: Tensor) -> Registered:
    both = torch.stack([pixels, inside.float()])
    moved = _warp(both, numbers.expand(2, 4), _centres(SIDE, pixels.device))
    affine = torch.cat([numbers[:2].exp(), numbers[2:]])
    return Registered(moved[0], moved[1] >= 0.5, affine)
