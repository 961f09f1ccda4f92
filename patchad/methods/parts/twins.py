"""Whether a network that was trained on pseudo anomalies finds them, asked of twins.

A twin is a training picture with a pseudo anomaly, beside the untouched one.
"""

from torch import Tensor

from patchad.learn.run import GivenUp, Run

PROBED = 32  # twins that the checks look at
JUDGED_AFTER = 300  # steps; below, a fault is noted: another seed would be as short
_CONSTANT = 1e-4  # standard deviation of outputs in [0, 1], below which they are one number
_CHANCE = 0.6  # AUROC below which planted twins are not told from untouched ones


def auroc(planted: Tensor, untouched: Tensor) -> Tensor:
    """How often a planted score (N,) is above an untouched one (M,), ties by half: a scalar."""
    above = planted[:, None] > untouched
    ties = planted[:, None] == untouched
    return above.float().mean() + ties.float().mean() / 2


def constant(outputs: Tensor, steps: int) -> str:
    """What is wrong where ``outputs`` in [0, 1] for planted twins are one number; else empty.

    After fewer than 300 steps nothing is: a live network may pass through that.
    """
    spread = float(outputs.float().std())
    if steps < JUDGED_AFTER or spread >= _CONSTANT:
        return ""
    return f"collapsed after {steps} steps: it answers {float(outputs.mean()):.3g} to everything"


def judge_twins(run: Run, planted: Tensor, untouched: Tensor, steps: int, remedy: str) -> None:
    """Require that planted twins score above untouched ones; a short training is only noted.

    Raises:
        GivenUp: their AUROC is below 0.6.
    """
    found = float(auroc(planted, untouched))
    if found >= _CHANCE:
        return
    fault = f"planted twins are not told from untouched ones (AUROC {found:.2f})"
    if steps >= JUDGED_AFTER:
        raise GivenUp(fault, remedy)
    run.note(f"Undertrained, after only {steps} steps: {fault}.")
