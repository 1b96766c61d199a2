"""Copies of the few channels that are far beyond the rest first, and what the plan does with what is left."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from onnx_ocs.planning.allocate import solve
from onnx_ocs.planning.budget import Judged, Spending
from onnx_ocs.planning.choices import Budget
from onnx_ocs.planning.objective import worth
from onnx_ocs.planning.peaks import peaked
from onnx_ocs.planning.search import freed

__all__ = ["peaks_first"]


def peaks_first(spending: Spending, judged: Judged, found: dict[str, Any]) -> Judged:
    """The plan with peaks copied first, where that is better than the plan.

    Args:
        spending: what made the plan.
        judged: the best plan without.
        found: the plans that were compared are added to it.
    """
    problem, options, judge = spending.problem, spending.options, spending.judge
    if not problem.ladders:
        return judged
    spending.context.progress("copying peaks", 0, None)
    budget = Budget(options.budget, options.ratio, options.extra_time)
    peaks = peaked(problem.ladders, judge, problem.settings, lambda c: budget.allows(*problem.cost(c)))
    if not peaks:
        return judged
    rest = problem.on(None).without((*peaks, *judged.trial.dropped))
    others = solve(rest, freed(judged.trial.recipe, options), budget.without(problem.cost(peaks)))
    plans = {"peaks first": {**others, **peaks}, "peaks alone": peaks}
    allowed = {name: spending.objective(c) for name, c in plans.items() if spending.allowed(c)}
    for name, (value, sqnr) in allowed.items():
        found["candidates"][name] = {"objective": value, "sqnr_db": sqnr, **problem.describe(plans[name])}
    if not allowed:
        return judged
    name = min(allowed, key=lambda n: allowed[n][0])
    pays = worth(judged.after, allowed[name], judge.objective)
    if not pays or not spending.surely(plans[name], judged.trial.choices):
        return judged
    return Judged(replace(judged.trial, name=name, choices=plans[name]), allowed[name], allowed[name])
