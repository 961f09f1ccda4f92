"""What the GANs of patches share: mirrored patches, and the training of a Wasserstein GAN.

Patches are in [-1, 1] here, as the published networks have them.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from patchad.learn.checkpoint import epoch_generator
from patchad.learn.loop import Step, equal_epochs, train
from patchad.learn.patch_bank import PatchBank
from patchad.learn.run import GivenUp, Run
from patchad.methods.parts.adversarial import (
    collapsed,
    critic_loss,
    frozen,
    given_up_if_lost,
)
from patchad.methods.parts.collapse import PROBED, Redraw, is_flat, probing
from patchad.methods.parts.whole_film import signed

T = TypeVar("T")
JUDGED_AFTER = 200  # steps of a generator; of fewer a collapse is noted, chosen
EPOCH = 100  # steps at most between checkpoints
_log = logging.getLogger(__name__)


class Schedule(Protocol):
    """What a configuration says of the training of a Wasserstein GAN."""

    @property
    def steps(self) -> int:
        """Of the generator."""
        ...

    @property
    def critic_steps(self) -> int:
        """Of the critic before each of the generator's."""
        ...

    @property
    def penalty(self) -> float:
        """Weight of the gradient penalty."""
        ...

    @property
    def batch_size(self) -> int:
        """Patches of a step."""
        ...

    @property
    def learning_rate(self) -> float:
        """Of Adam, for both."""
        ...

    @property
    def betas(self) -> tuple[float, float]:
        """Of Adam, for both."""
        ...


def draw_mirrored(bank: PatchBank, count: int, generator: torch.Generator) -> Tensor:
    """Corners, and whether each patch is mirrored (p = 0.5): (2, count) int64 on the CPU."""
    which = bank.draw(count, generator)
    return torch.stack([which, torch.randint(2, (count,), generator=generator)])


def cut_mirrored(bank: PatchBank, drawn: Tensor) -> Tensor:
    """The patches that were drawn, (2, n): (n, 1, S, S) in [-1, 1] on the bank's device."""
    patches = signed(bank.cut(drawn[0]))
    mirrored = drawn[1].to(patches.device, non_blocking=True).bool()
    return torch.where(mirrored[:, None, None, None], patches.flip(-1), patches)


def probe(bank: PatchBank, run: Run) -> Tensor:
    """Training patches for checks, the same ones whenever asked: (64, 1, S, S) in [-1, 1]."""
    return signed(bank.cut(bank.draw(PROBED, epoch_generator(run.seed, 0))))


def fit_wgan(
    run: Run, generator: nn.Module, critic: nn.Module, bank: PatchBank, config: Schedule, code: int
) -> None:
    """Train both in place, from noise (N, ``code``) of a standard normal.

    Raises:
        GivenUp: the GAN collapsed; see :func:`patchad.methods.parts.adversarial.collapsed`.
    """
    size, turns = config.batch_size, config.critic_steps
    real = probe(bank, run)
    chance = epoch_generator(run.seed, 0)
    noise = torch.randn(PROBED, code, generator=chance).to(run.device)
    share = torch.rand(PROBED, generator=chance).to(run.device)

    def draw(step: Step) -> tuple[Tensor, Tensor, Tensor]:
        return (
            draw_mirrored(bank, turns * size, step.generator),
            torch.randn(turns + 1, size, code, generator=step.generator),
            torch.rand(turns, size, generator=step.generator),
        )

    def losses(drawn: tuple[Tensor, Tensor, Tensor], step: Step) -> Iterator[tuple[str, Tensor]]:
        patches = torch.split(cut_mirrored(bank, drawn[0]), size)
        codes, shares = (part.to(run.device, non_blocking=True) for part in drawn[1:])
        for turn in range(turns):
            with torch.no_grad():
                fake = generator(codes[turn])
            yield (
                "critic",
                critic_loss(critic, patches[turn], fake, shares[turn], config.penalty),
            )
        with frozen(critic):
            yield "generator", -critic(generator(codes[turns])).float().mean()

    def sign() -> str:
        with probing(generator, critic):
            with torch.no_grad():
                fake = generator(noise)
            return collapsed(real, fake, critic, share)

    adam = {
        name: torch.optim.Adam(network.parameters(), config.learning_rate, config.betas)
        for name, network in (("critic", critic), ("generator", generator))
    }
    networks = {"generator": generator, "critic": critic}
    train_watched(run, networks, adam, config.steps, draw=draw, losses=losses, sign=sign)


def train_watched(
    run: Run,
    networks: Mapping[str, nn.Module],
    optimisers: Mapping[str, Optimizer],
    steps: int,
    *,
    draw: Callable[[Step], T],
    losses: Callable[[T, Step], Iterator[tuple[str, Tensor]]],
    sign: Callable[[], str],
) -> None:
    """The house's loop over ``steps``, which asks after each epoch for a ``sign`` of collapse.

    ``sign`` puts the networks into eval mode itself; empty for none. It isn't asked in the first
    steps; of a training that ends before it would be, the card notes it.

    Raises:
        GivenUp: there is a sign, or the weights are no longer numbers.
    """
    epochs, each = equal_epochs(steps, EPOCH)

    def health(epoch: int) -> str:
        found = sign() if epoch * each >= JUDGED_AFTER else ""
        return found and f"collapsed after epoch {epoch}: {found}"

    with given_up_if_lost(*networks.values()):
        train(
            run,
            networks,
            optimisers,
            epochs=epochs,
            steps=each,
            draw=draw,
            losses=losses,
            health=health,
            remedy="lower the learning_rate, or give more films",
        )
    if steps < JUDGED_AFTER and (found := sign()):
        run.note(f"Undertrained, after only {steps} steps: {found}.")


def judge_redrawing(run: Run, redraw: Redraw, pictures: Tensor, steps: int) -> None:
    """Ask of an encoder that trained for ``steps`` what its generator makes of its codes.

    Unlike :func:`patchad.methods.parts.collapse.judge` an error above that of each picture's own
    mean is never a fault, but noted: a generator that wasn't trained to redraw may stay above it.

    Raises:
        GivenUp: all reconstructions are nearly one picture.
    """
    with torch.inference_mode():
        own = float((redraw(pictures).float() - pictures).square().mean()) ** 0.5
        mean = float((pictures - pictures.mean((2, 3), keepdim=True)).square().mean()) ** 0.5
    _log.info("RMSE %.4f on %d training patches; of their means %.4f", own, len(pictures), mean)
    if steps >= JUDGED_AFTER and is_flat(redraw, pictures):
        raise GivenUp(
            "the encoder collapsed: all patches are redrawn as nearly one picture",
            "train for more steps",
        )
    if own >= mean:
        run.note(
            f"Patches are redrawn with an RMSE of {own:.4f}, not below {mean:.4f} of each patch's "
            f"own mean, after {steps} steps."
        )
