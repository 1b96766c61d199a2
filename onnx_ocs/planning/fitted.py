"""Plans in front of fitted weights: the best of the same step against the best of re-chosen steps, both fitted.

Weights that are fitted again behind a plan undo much of what clipping does, and little of what rounding does.  So the
plan that is better by itself need not be better with them, and the difference is large: ResNet-20 with activations of 3
bits has 14.5 dB with one and 15.2 dB with the other, for the same multiply-accumulates.
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
Made = tuple[Spending, Judged]


def behind_a_fit(
    mine: Made,
    start: Spending,
    best: Callable[[Spending, dict[str, Any]], Made],
    measure: Callable[[Plan], Quality],
    found: dict[str, Any],
) -> Made:
    """The better of a plan and the best one of the other kind of steps, with the weights that are fitted behind them.

    Args:
        mine: the plan, and what it was made by in the end.
        start: what the search for it began with.
        best: makes the best plan, and adds what it found.
        measure: the quality of the model that a plan makes, its weights fitted again.
        found: what was found for the plan; both plans' quality is added, and what was found for the one that is taken.

    Returns:
        The plan that is taken; the given one where it makes no copies, or the other one does not.
    """
    trial, options = mine[1].trial, start.options
    if not makes_copies(trial.choices) or not options.rescale:
        return mine
    rescales = trial.recipe.rescale
    other = replace(start, options=replace(options, rescale=False)) if rescales else replace(start, rescaled=True)
    log: dict[str, Any] = {"candidates": {}}
    rival = best(other, log)
    if not makes_copies(rival[1].trial.choices):
        return mine
    ours, theirs = (measure(Plan(s.hash, s.problem.planned(j.trial.choices))) for s, j in (mine, rival))
    gain = gained(ours, theirs)
    taken = rival if losing(ours, theirs) is None and gain > CLEARLY else mine
    if taken is rival:
        for key in ("kernels", "time"):  # of the other plan
            found.pop(key, None)
        found |= log | {"candidates": found["candidates"] | log["candidates"]}
    found["fitted"] = {
        "plans": [trial.name, rival[1].trial.name], "sqnr_db": [ours.sqnr_db, theirs.sqnr_db], "gain_db": gain,
        "taken": taken[1].trial.name,
    }  # fmt: skip
    return taken
