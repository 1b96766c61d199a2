"""A plan within a limit of time: prices say what to give up, the whole file in turns with the input if it is enough.

Prices are those of cut-outs, so a whole plan takes less or more time than they add up to.  What takes too long is cut
back in proportion.  What that leaves over is spent again, as far as a line between both plans says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from onnx_ocs.measurement.latency import Compared
from onnx_ocs.planning.choices import makes_copies
from onnx_ocs.planning.search import Trial

__all__ = ["CHEAPER", "RAISES", "SLOWER", "Look", "Timely"]

CHEAPER = 0.97  # of what an allowance is lowered to where a plan costs too much
SLOWER = 6  # times that it is lowered
STEEPEST = 0.25  # share to which it is lowered at once
RAISES = 2  # times that it is raised again
ROOM = 0.1  # of the extra time that a limit allows: so much may be left over


@dataclass(frozen=True)
class Look:
    """A plan that was timed.

    Attributes:
        trial: the plan.
        allowed: share of extra time that its copies may cost by their prices.
        took: its time beside the input's.
        limit: the most that it may be.
    """

    trial: Trial
    allowed: float
    took: Compared
    limit: float

    @property
    def holds(self) -> bool:
        """Whether it does, even if the time is off by its tolerance."""
        return self.took.holds(self.limit)

    @property
    def extra(self) -> float:
        """Share of extra time, by the most that it may be."""
        return self.took.ratio + self.took.tolerance - 1

    @property
    def left(self) -> float:
        """Share of time that the limit leaves."""
        return self.limit - 1 - self.extra

    @property
    def entry(self) -> dict[str, float]:
        """As the report tells it."""
        took = self.took
        return {"allowed": self.allowed, "ratio": took.ratio, "tolerance": took.tolerance, "limit": self.limit}


@dataclass(frozen=True)
class Timely:
    """A search for a plan that holds its limit.

    Attributes:
        look: carries a plan out and times it; None where it cannot be timed.
        again: the plan made again within another share of time; 0 is without copies.
        objective: what a plan leaves wrong on the samples that judge.
    """

    look: Callable[[Trial, float], Look | None]
    again: Callable[[Trial, float], Trial]
    objective: Callable[[Trial], float]

    def plan(self, trial: Trial, allowed: float) -> tuple[Trial, list[Look]]:
        """A plan that holds its limit; without copies there is nothing to measure.

        Args:
            trial: a plan.
            allowed: share of extra time that its copies cost by their prices.

        Returns:
            The plan, and what was timed, in turn; the last is the plan itself, if that has copies.
        """
        log: list[Look] = []
        for lowering in range(SLOWER + 1):
            seen = self._seen(trial, allowed)
            if seen is None:
                break
            log.append(seen)
            if seen.holds:
                break
            allowed *= _share(log) if seen.limit > 1 and lowering + 1 < SLOWER else 0.0
            trial = self.again(trial, allowed)
        if not log or log[0].holds or (seen is None and makes_copies(trial.choices)):
            return trial, log
        nothing = Look(trial, 0.0, replace(log[-1].took, ratio=1.0, tolerance=0.0), log[-1].limit)
        low, high = (log[-1], log[-2]) if log[-1].holds else (nothing, log[-1])
        best = self._raised(low, high, log)
        log += [best] if best is not log[-1] and best is not nothing else []
        return best.trial, log

    def _seen(self, trial: Trial, allowed: float) -> Look | None:
        return self.look(trial, allowed) if makes_copies(trial.choices) else None

    def _raised(self, low: Look, high: Look, log: list[Look]) -> Look:
        """The best plan between one that holds its limit, with room left, and one that does not."""
        best, error = low, self.objective(low.trial)
        for _ in range(RAISES):
            if low.left <= ROOM * (low.limit - 1) or high.extra <= low.extra:
                break
            part = min(low.left / (high.extra - low.extra), 1.0) * CHEAPER
            allowed = low.allowed + part * (high.allowed - low.allowed)
            seen = self._seen(self.again(low.trial, allowed), allowed)
            if seen is None:
                break
            log.append(seen)
            if not seen.holds:
                high = seen
                continue
            low = seen
            if (found := self.objective(seen.trial)) < error:
                best, error = seen, found
        return best


def _share(log: Sequence[Look]) -> float:
    """To which share of the last plan's prices the next one is cut, as none has held its limit so far."""
    seen = log[-1]
    share = (seen.limit - 1) / seen.extra
    if len(log) > 1 and log[-2].extra > seen.extra and log[-2].allowed > seen.allowed:
        # what copies cost besides their number shows in how little was won: as far as a line through both says
        slope = (log[-2].extra - seen.extra) / (log[-2].allowed - seen.allowed)
        share = min(share, max(1 + seen.left / slope / seen.allowed, STEEPEST))
    return share * CHEAPER
