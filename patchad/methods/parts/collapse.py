"""Signs that an autoencoder has collapsed, looked for on a few training pictures.

``redraw`` is a function of pictures (N, 1, S, S) that reconstructs them, in the same shape and
range. Networks with batch norm are asked in eval mode: see :func:`probing`.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from patchad.learn.run import GivenUp, Run

Redraw = Callable[[Tensor], Tensor]
# Its name, and a function of (reconstructions, pictures) that is 0 where they are equal.
Measure = tuple[str, Callable[[Tensor, Tensor], Tensor]]

PROBED = 64  # training pictures that the checks look at
_JUDGED_AFTER = {"dead": 300, "undertrained": 1000}  # steps; see judge
_log = logging.getLogger(__name__)


@contextmanager
def probing(*networks: nn.Module) -> Iterator[None]:
    """Within it, the networks are in eval mode; afterwards, each part in the mode it had."""
    parts = [part for network in networks for part in network.modules()]
    modes = [part.training for part in parts]
    for network in networks:
        network.eval()
    try:
        yield
    finally:
        for part, mode in zip(parts, modes, strict=True):
            part.training = mode


def is_dead(redraw: Redraw, weights: Tensor, pictures: Tensor) -> bool:
    """Whether nothing in ``pictures`` can reach the output, so that it is a constant.

    Asked of the gradient at ``weights``, those of the first layer, which is then exactly zero.
    Equal pictures alone would not tell: a network that has just started differs between pictures
    by less than float32 shows.
    """
    error = (redraw(pictures).float() - pictures).square().mean()
    (gradient,) = torch.autograd.grad(error, weights)
    return not bool(gradient.any())


def is_flat(redraw: Redraw, pictures: Tensor) -> bool:
    """Whether the reconstructions are nearly the same picture.

    That is, whether they differ from their mean by less than 1 % of what the pictures do from
    theirs. So ends a network in which a last unit still answers at a pixel or two; but a live one
    passes through it too, in its first hundred steps.
    """
    with torch.inference_mode():
        spread = [(x - x.mean(0)).square().mean().sqrt() for x in (redraw(pictures), pictures)]
    return bool(spread[0] < 0.01 * spread[1])


def rmse(redrawn: Tensor, pictures: Tensor) -> Tensor:
    """Root mean squared difference over all pixels of all pictures: a scalar."""
    return (redrawn.float() - pictures).square().mean().sqrt()


def judge(
    run: Run,
    redraw: Redraw,
    pictures: Tensor,
    steps: int,
    dead: str,
    longer: str,
    measure: Measure = ("RMSE", rmse),
) -> None:
    """Ask of a network that trained for ``steps`` whether it redraws better than means do.

    If not, it is dead where all its reconstructions are nearly one picture, and undertrained where
    they aren't. Short trainings are judged more mildly: below 300 steps nearly one picture, below
    1,000 an error above the own means' is no fault, but noted; another seed would be as short.
    ``dead`` and ``longer`` say what a user can do in either case; ``measure`` is what networks that
    don't learn by squared error are judged by.

    Raises:
        GivenUp: the network redraws no better than each picture's own mean.
    """
    shortfall = _compare_with_means(redraw, pictures, measure)
    if not shortfall:
        return
    kind = "dead" if is_flat(redraw, pictures) else "undertrained"
    if steps >= _JUDGED_AFTER[kind]:
        raise GivenUp(f"{kind} at the end: {shortfall}", dead if kind == "dead" else longer)
    run.note(f"Undertrained, after only {steps} steps: {shortfall}.")


def _compare_with_means(redraw: Redraw, pictures: Tensor, measure: Measure) -> str:
    """What is wrong where each picture's own mean is as good a reconstruction; empty: nothing."""
    name, of = measure
    with torch.inference_mode():
        own = float(of(redraw(pictures), pictures))
        mean = float(of(pictures.mean((2, 3), keepdim=True).expand_as(pictures), pictures))
    _log.info("%s %.4f on %d training pictures; of means %.4f", name, own, len(pictures), mean)
    if own < mean:
        return ""
    return f"{name} {own:.4f} on training pictures, not below {mean:.4f} of each picture's own mean"
