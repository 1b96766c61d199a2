"""What the planner is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import ClassVar, Literal

from onnx_ocs.options import option
from onnx_ocs.planning.goal import Target
from onnx_ocs.targets.choice import RUNTIME, Runtime
from onnx_ocs.translation.options import ALIGN, COPIES, MODE, PANEL, RATIO, Mode

__all__ = ["LATENCY", "Effort", "Objective", "PlanOptions"]

LATENCY = 1.1  # of the input's time: the most that a file may take where nothing else is said

Objective = Literal["auto", "sqnr", "kl"]
Effort = Literal["auto", "quick", "full"]


@dataclass(frozen=True)
class PlanOptions:
    """What the planner is asked for; each field says what it is.

    `budget` is None where `ratio` is given, or where only a target or the time limits the cost.  `max_latency` is the
    most time that the rewritten file may take, as a ratio to the input's; None for no limit.  A plan with copies is
    timed against the input and cut back until it holds, so the same call may make another plan on another day; the plan
    itself, applied again, makes the same file.  A plan without copies is not timed: it adds nothing.
    `pace` limits time by multiply-accumulates: a plan that makes a share of m more takes at most `pace` times 1 + m.
    Without a `max_latency` beside it, that is asked only of plans within a budget that are far beyond it
    (`onnx_ocs.planning.pace`).  Neither is asked of models above 256 MB, which are not timed.
    With `refitted`, weights are fitted again behind the plan, and plans are judged with them
    (`onnx_ocs.planning.fitted`).
    With a `target`, the quality to reach at the least cost, `budget` or `ratio` is the most that may be spent, and the
    unit that it is counted in; a target has its own search, whatever the effort.

    Within a budget a plan of mode "auto" costs integer kernels only where that is worth it (see
    `onnx_ocs.planning.budget`).  The objective "auto" is the geometric mean of squared error and divergence for class
    scores, else squared error: the two rank plans differently, and one that wins by either alone tends to lose by the
    other.  The effort "auto" is "full" for models small enough to be judged on many samples: others would only be
    fitted to the few.
    """

    budget: float | None = option(
        0.0,
        "Share of extra MACs over the whole model, such as 0.1 for 10 %; 0 chooses steps alone, which cost nothing.",
        metavar="F",
        low=0.0,
        high=32.0,
        shown="0.0 with --calib",
    )
    ratio: float | None = option(None, RATIO)
    max_latency: float | None = None
    pace: float | None = None
    target: Target | None = None
    refitted: bool = False
    copies: int = option(15, COPIES)
    align: int = option(1, ALIGN)
    rescale: bool = option(
        True, "Whether steps may be re-chosen for the wider range.", shown="rescale with --select error"
    )
    mode: Mode = option("auto", MODE)
    runtime: Runtime = option("ort", RUNTIME)
    objective: Objective = option(
        "auto", "What decides between plans: sqnr, divergence of class scores (kl), or auto: both for scores."
    )
    effort: Effort = option(
        "auto",
        "full: compare fifteen plans, then weigh tensors again at the best one and leave out what does not help; "
        "quick: the best of five; auto: quick for models so large that plans are judged on few samples.",
    )
    include: tuple[str, ...] = option((), "Change only tensors of this name.", metavar="GLOB")
    exclude: tuple[str, ...] = option((), "Leave tensors of this name.", metavar="GLOB")
    stats: Path | None = option(
        None, "Keep calibration statistics here; those that are there are used.", metavar="FILE.npz", panel="Data"
    )

    panel: ClassVar[str] = PANEL

    @property
    def extra_time(self) -> float | None:
        """The share of extra time that may be spent; None for no limit."""
        return None if self.max_latency is None else max(self.max_latency - 1.0, 0.0)

    def allows(self, tensor: str) -> bool:
        """Whether the user lets a tensor be changed."""
        wanted = not self.include or any(fnmatch(tensor, g) for g in self.include)
        return wanted and not any(fnmatch(tensor, g) for g in self.exclude)
