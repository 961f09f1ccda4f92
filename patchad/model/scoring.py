"""The one place that asks which kind of method scores a film; everything stays on the device."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from patchad.core.grid import PatchGrid, batches
from patchad.core.patches import cut, means, stitch
from patchad.model.method import Method, Setting
from patchad.prepare.film import Film

AT_ONCE = 256  # patches that are gathered and scored together


@dataclass(frozen=True, eq=False)
class Response:
    """The output of a method of the image kind; higher = more anomalous.

    ``map`` (H, W) float32 in the film's frame, NaN where undefined, decides what is outlined in a
    marked patch. ``patches`` (N,) float32 are the scores of all patches of the grid, pooled as the
    module's ``pooling`` says. ``image``, a float32 scalar, is the image's score where the method
    has one of its own; None: the patch scores are pooled.
    """

    map: Tensor | None
    patches: Tensor
    image: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Answer:
    """The scores of a detector of either kind for one film, on its device; see :class:`Response`.

    ``values`` (N,) float32, NaN where ``scored`` (N,) bool is false, which is where a patch holds
    too little foreground; ``foreground`` (N,) float32 is its share. ``map`` is None where the patch
    scores are still to be stitched.
    """

    grid: PatchGrid
    values: Tensor
    foreground: Tensor
    scored: Tensor
    map: Tensor | None = None
    image: Tensor | None = None

    def dense(self, film: Film, setting: Setting) -> Tensor:
        """The map, or the patch scores stitched over the foreground: (H, W) float32."""
        if self.map is not None:
            return self.map
        return stitch(self.grid, self.values, weighting=setting.weighting, mask=film.mask)


def score(
    method: Method, module: nn.Module, setting: Setting, film: Film, grid: PatchGrid
) -> Answer:
    """Score one film, prepared as ``setting`` says, on a grid in its frame.

    Raises:
        ImageError: the method needs the film's pixel spacing, and it is unknown.
    """
    foreground = means(grid, film.mask).float()
    scored = foreground >= setting.min_foreground
    values = torch.full_like(foreground, torch.nan)
    which = scored.nonzero()[:, 0]
    if not len(which):
        return Answer(grid, values, foreground, scored)
    with torch.inference_mode():
        if method.gives.kind == "image":
            response: Response = module(film, grid)
            values = torch.where(scored, response.patches.float(), values)
            return Answer(grid, values, foreground, scored, response.map, response.image)
        for part in batches(len(which), AT_ONCE):
            patches = cut(grid, film.pixels, which[part])[:, None]
            values[which[part]] = module(patches).float()
    return Answer(grid, values, foreground, scored)
