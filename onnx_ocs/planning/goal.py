"""The cheapest plan that reaches a quality: a search over what may be spent.

    0, F, 2F, 4F, ...      until the target is reached, more does not help, or the limit is met
    then bisection         between what does not reach it and the cheapest that does
    then more effort       with the largest amount that did not

Every plan on the way is measured, and the cheapest of those that reach the target is taken: a plan that costs more is
not always better, so the answer is one that was seen to reach it, not one that should.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from onnx_ocs.errors import UserError

if TYPE_CHECKING:  # this module holds a type of options: it stays light
    from onnx_ocs.measurement.quality import Quality

__all__ = ["Probe", "Target", "search"]

FIRST = 0.05  # the first amount that is not nothing
PATIENCE = 2  # doublings without a gain after which more is not asked for
PRECISION = 0.05  # of the amount, relative
BISECTIONS = 6


@dataclass(frozen=True)
class Target:
    """A quality that is to be reached over all calibration samples, at every output that counts.

    Attributes:
        kind: "sqnr" (dB), "agreement" (share of samples, 0..1), or "metric" (the user's own figure).
        wanted: the least value.
    """

    kind: Literal["sqnr", "agreement", "metric"]
    wanted: float

    def value(self, quality: Quality) -> float:
        """What counts of a quality, at the output that is furthest off; infinite where all equal the reference's.

        Raises:
            UserError: an agreement is wanted of outputs that are no class scores, or decibels of labels, or a metric
                that is not given.
        """
        counted = [o for o in quality.outputs if o.weight > 0]
        if self.kind == "metric":
            if quality.metric is None:
                raise UserError("--target-metric needs a metric: give --metric package.module:function")
            return quality.metric
        if self.kind == "sqnr":
            values = [o.sqnr_db for o in counted if o.kind != "labels"]
            if counted and not values:
                raise UserError(
                    "--target-sqnr needs an output of values, and this one holds labels: use --target-agreement"
                )
            return min(float("inf") if v is None else v for v in (values if counted else [quality.sqnr_db]))
        shares = [o.agreement for o in counted] if counted else [quality.agreement]
        if all(a is None for a in shares):
            raise UserError("--target-agreement needs an output of class scores, (samples, classes): use --target-sqnr")
        return min(a for a in shares if a is not None)

    def outcome(self, got: float) -> dict[str, Any]:
        """The report's entry: what was wanted, what was got, and a sentence about what is missing."""
        reached = got >= self.wanted
        if self.kind == "sqnr":
            missing = f"an SQNR of {got:.2f} dB instead of {self.wanted:g} dB"
        elif self.kind == "metric":
            missing = f"a metric of {got:.6g} instead of {self.wanted:g}"
        else:
            missing = f"the reference's answer on {100 * got:.2f} % of the samples instead of {100 * self.wanted:g} %"
        return {
            "kind": self.kind,
            "wanted": self.wanted,
            "got": got,
            "reached": reached,
            "shortfall": None if reached else f"the target was missed: {missing}",
        }


@dataclass(frozen=True, eq=False)
class Probe:
    """A plan that was measured.

    Attributes:
        allowed: what it might spend.
        spent: what it costs.
        value: what it reaches.
        trial: the plan.
    """

    allowed: float
    spent: float
    value: float
    trial: Any


def search(
    start: Probe,
    quick: Callable[[float], Probe],
    thorough: Callable[[float], Probe],
    limit: float,
    wanted: float,
) -> Probe:
    """Find the cheapest plan that reaches a value.

    Args:
        start: the model as it is.
        quick: makes a plan for an amount.
        thorough: makes a better one, at more effort.
        limit: the most that may be spent; infinite for no limit.
        wanted: the value to reach.

    Returns:
        The cheapest plan that reaches it; if none does, the one of the highest value (the cheapest of equals).
    """
    probes = [start]

    def reaching() -> list[Probe]:
        return [p for p in probes if p.value >= wanted]

    def failing() -> float:
        """The largest amount that did not do, below the cheapest that did."""
        high = min(p.spent for p in reaching())
        return max((p.allowed for p in probes if p.value < wanted and p.allowed < high), default=0.0)

    amount, idle = 0.0, 0
    while not reaching() and idle < PATIENCE:
        most = max(p.value for p in probes)
        probes.append(quick(amount))
        idle = 0 if probes[-1].value > most else idle + 1
        if amount >= limit:
            break
        amount = min(2 * amount or FIRST, limit)
    if not reaching():
        probes.append(thorough(max(probes, key=_quality).allowed))
        return max(probes, key=_quality)
    for _ in range(BISECTIONS):
        high, low = min(p.spent for p in reaching()), failing()
        if high - low <= PRECISION * high:
            break
        probes.append(quick((low + high) / 2))
    if failing() > 0:  # more effort may reach it for less
        probes.append(thorough(failing()))
    return min(reaching(), key=_cost)


def _quality(p: Probe) -> tuple[float, float]:
    return p.value, -p.spent


def _cost(p: Probe) -> tuple[float, float]:
    return p.spent, -p.value
