"""Plans that take far longer than their multiply-accumulates say are made again, within what these say.

A budget counts multiply-accumulates, and so the same input gives the same plan on any machine.  But late copies and
copies that are folded back move values through memory and take several times as long.  What is only a little slower is
left as it is: whether it is, another day and machine see otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

from onnx_ocs.measurement.latency import decided
from onnx_ocs.planning.budget import Judged, Spending
from onnx_ocs.planning.choices import makes_copies
from onnx_ocs.planning.options import PlanOptions

__all__ = ["FAR", "TooSlow", "too_slow"]

FAR = 1.3  # times what multiply-accumulates say, beyond which a plan is made again


@dataclass(frozen=True)
class TooSlow:
    """What follows where a plan takes far too long.

    Attributes:
        options: what is asked for instead: a limit of time beside the budget.
        measured: what the plan took, as the report tells it.
    """

    options: PlanOptions
    measured: dict[str, float]


def too_slow(spending: Spending, judged: Judged) -> TooSlow | None:
    """Whether a plan within a budget takes far longer than what it adds.

    Args:
        spending: what made it.
        judged: the plan.

    Returns:
        What is asked for instead; None if it does not.
    """
    options, choices = spending.options, judged.trial.choices
    if options.pace is None or options.max_latency is not None or not options.budget or not makes_copies(choices):
        return None
    new = spending.carried_out(choices)
    far = FAR * spending.limit(new) / options.pace
    took = decided(partial(spending.timed, new), far)
    if took is None or not took.exceeds(far):
        return None
    seen = {"allowed": took.ratio - 1, "ratio": took.ratio, "tolerance": took.tolerance, "limit": far}
    return TooSlow(replace(options, max_latency=options.pace * (1 + options.budget)), seen)
