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
from onnx_ocs.planning.plan import Plan

__all__ = ["behind_a_fit"]

CLEARLY = 0.1  # dB that the other plan must gain


def behind_a_fit(
    spending: Spending, judged: Judged, measure: Callable[[Plan], Quality], found: dict[str, Any]
) -> Judged:
    """The better of a plan and the best one of the other kind of steps, with the weights that are fitted behind them.

    Args:
        spending: what made the plan.
        judged: the plan.
        measure: the quality of the model that a plan makes, its weights fitted again.
        found: both plans' quality is added to it, under "fitted".

    Returns:
        The plan that is taken; the given one where it makes no copies, or no other plan does.
    """
    mine = judged.trial
    if not any(c.count for c in mine.choices.values()) or not spending.options.rescale:
        return judged
    if mine.recipe.rescale:
        other = replace(spending, options=replace(spending.options, rescale=False))
    else:
        other = replace(spending, rescaled=True)
    rival = other.within({})
    if not any(c.count for c in rival.trial.choices.values()):
        return judged
    plans = [Plan(spending.hash, spending.problem.planned(t.choices)) for t in (mine, rival.trial)]
    ours, theirs = (measure(p) for p in plans)
    gain = gained(ours, theirs)
    taken = losing(ours, theirs) is None and gain > CLEARLY
    found["fitted"] = {
        "plans": [mine.name, rival.trial.name], "sqnr_db": [ours.sqnr_db, theirs.sqnr_db], "gain_db": gain,
        "taken": rival.trial.name if taken else mine.name,
    }  # fmt: skip
    return rival if taken else judged
