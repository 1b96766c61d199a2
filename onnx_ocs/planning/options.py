"""What the planner is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Literal

from onnx_ocs.planning.goal import Target
from onnx_ocs.translation.decision import Mode

__all__ = ["Effort", "Objective", "PlanOptions"]

Objective = Literal["auto", "sqnr", "kl"]
Effort = Literal["auto", "quick", "full"]


@dataclass(frozen=True)
class PlanOptions:
    """What the planner is asked for.

    Attributes:
        budget: share of extra MACs; None if `ratio` is given, or if only a target limits the cost.
        ratio: mean copies a channel; None if `budget` is given.
        target: the quality to reach at the least cost; `budget` or `ratio` is then the most that may be spent, and
            the unit that is counted in.
        copies: most copies a channel.
        align: what the number of a tensor's channels, copies included, is to be a multiple of.
        rescale: whether steps may be re-chosen.
        mode: where the copies are made: "early", "late", "auto" (early wherever it is exact), or "integer": as
            "auto", but nowhere where a layer would lose its integer kernel.  Within a budget a plan of mode "auto"
            costs kernels only where that is worth it (`onnx_ocs.planning.budget`).
        objective: what the final choice minimises: "sqnr" (squared error), "kl" (divergence of the class scores), or
            "auto": for class scores the geometric mean of both, else squared error.  The two rank plans differently,
            and one that wins by either alone tends to lose by the other.
        effort: "full" compares fifteen plans and works on the best: tensors are weighed again at it, and regions that
            do not help are left out.  "quick" compares five, and keeps the best as it is.  "auto" is "full" for models
            small enough to be judged on many samples, and "quick" for others, which few samples would only be
            fitted by.  A target has its own search.
        include: only tensors that match one of these globs.
        exclude: no tensor that matches one of these.
        stats: file that keeps the statistics.
        jobs: processes that calibrate; the plan does not depend on it.  They are spawned, so a script that asks for
            more than one must keep its own work under `if __name__ == "__main__":`.
    """

    budget: float | None = 0.1
    ratio: float | None = None
    target: Target | None = None
    copies: int = 15
    align: int = 1
    rescale: bool = True
    mode: Mode = "auto"
    objective: Objective = "auto"
    effort: Effort = "auto"
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    stats: Path | None = None
    jobs: int = 1

    def allows(self, tensor: str) -> bool:
        """Whether the user lets a tensor be changed."""
        wanted = not self.include or any(fnmatch(tensor, g) for g in self.include)
        return wanted and not any(fnmatch(tensor, g) for g in self.exclude)
