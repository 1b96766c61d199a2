"""Plans in front of fitted weights: with copies the same step against re-chosen ones, without copies steps or none.

Weights that are fitted again behind a plan undo much of what clipping does, and little of what rounding does.  So the
plan that is better by itself need not be better with them, and the difference is large: ResNet-20 with activations of 3
bits has 14.5 dB with one and 15.2 dB with the other, for the same multiply-accumulates.  Where grids have few levels,
other steps are chosen by a network that the fit will change altogether, and may be worse than none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from onnx_ocs.measurement.quality import Quality, gained, losing
from onnx_ocs.planning.budget import Judged, Spending
from onnx_ocs.planning.choices import makes_copies
from onnx_ocs.planning.plan import Plan

__all__ = ["behind_a_fit"]

CLEARLY = 0.1  # dB that the other plan must gain
LEVELS = 8  # of a grid that has few
Made = tuple[Spending, Judged]


def behind_a_fit(
    mine: Made,
    start: Spending,
    best: Callable[[Spending, dict[str, Any]], Made],
    measure: Callable[[Plan], Quality],
    found: dict[str, Any],
) -> Made:
    """The better of a plan and another one, with the weights that are fitted behind them.

    The other one is the best of the other kind of steps; of steps alone on grids of few levels, none at all.

    Args:
        mine: the plan, and what it was made by in the end.
        start: what the search for it began with.
        best: makes the best plan, and adds what it found.
        measure: the quality of the model that a plan makes, its weights fitted again.
        found: what was found for the plan; both plans' quality is added, and what was found for the one that is taken.

    Returns:
        The plan that is taken; the given one where there is no other.
    """
    log: dict[str, Any] = {"candidates": {}}
    rival = _other(mine, start, best, log)
    if rival is None:
        return mine
    ours, theirs = (measure(Plan(s.hash, s.problem.planned(j.trial.choices))) for s, j in (mine, rival))
    gain = gained(ours, theirs)
    taken = rival if losing(ours, theirs) is None and gain > CLEARLY else mine
    if taken is rival:
        for key in ("kernels", "time"):  # of the other plan
            found.pop(key, None)
        found |= log | {"candidates": found["candidates"] | log["candidates"]}
    found["fitted"] = {
        "plans": [mine[1].trial.name, rival[1].trial.name], "sqnr_db": [ours.sqnr_db, theirs.sqnr_db],
        "gain_db": gain, "taken": taken[1].trial.name,
    }  # fmt: skip
    return taken


def _other(
    mine: Made, start: Spending, best: Callable[[Spending, dict[str, Any]], Made], log: dict[str, Any]
) -> Made | None:
    """What a plan is held against; None where nothing is worth the time."""
    trial, options = mine[1].trial, start.options
    if not makes_copies(trial.choices):
        spending, judged = mine
        grids = [spending.problem.regions[k].quantizer for k in trial.choices]
        few = any(q is not None and q.qmax - q.qmin < LEVELS for q in grids)
        return (spending, replace(judged, trial=spending.untouched, after=spending.before)) if few else None
    if not options.rescale or options.effort != "full":
        return None
    rescales = trial.recipe.rescale
    other = replace(start, options=replace(options, rescale=False)) if rescales else replace(start, rescaled=True)
    rival = best(other, log)
    return rival if makes_copies(rival[1].trial.choices) else None
