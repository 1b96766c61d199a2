"""Late copies in place of early ones: more of them for the same budget, where that is worth integer kernels.

A copy that is made early costs multiply-accumulates twice, in the layer that makes it and in those that read it; made
late it costs float nodes, and perhaps its producer's integer kernel.  So a budget that early copies use up may buy
several times as many late ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from onnx_ocs.planning.budget import HALVED, Judged, Spending
from onnx_ocs.planning.choices import Choices
from onnx_ocs.planning.problem import Problem
from onnx_ocs.targets.ort import operators

__all__ = ["later"]


def later(
    spending: Spending, judged: Judged, late: Callable[[], Problem], found: dict[str, Any]
) -> tuple[Judged, Problem]:
    """The best plan with late copies alone, where it gains more than it costs integer operators.

    Args:
        spending: what made the plan.
        judged: the best plan with early copies wherever these are exact.
        late: makes the problem of mode "late", with the same damage.
        found: plans that were compared are added to it.

    Returns:
        The plan that is taken, and its problem.
    """
    choices, problem, budget = judged.trial.choices, spending.problem, spending.options.budget
    early = [c for c in problem.candidates if c.mode == "early" and c.index in choices and choices[c.index].count]
    if not early or budget is None:
        return judged, problem
    cheapest = min(c.macs for c in early) / max(problem.total, 1)
    if problem.cost(choices).macs + cheapest <= budget:  # there is room for one more early copy
        return judged, problem
    other = replace(spending, problem=late())
    log_to: dict[str, Any] = {}
    told: dict[str, Any] = {}
    made = other.within(log_to, told)
    found["candidates"] |= {f"{name}, late": c for name, c in log_to.items()}
    if not _pays(spending, choices, other, made.trial.choices, len(early)):
        return judged, problem
    found |= told
    return replace(made, trial=replace(made.trial, name=f"{made.trial.name}, late")), other.problem


def _pays(spending: Spending, early: Choices, other: Spending, late: Choices, moved: int) -> bool:
    """Whether late copies are worth the operators that leave the integers, on both halves of the samples."""
    errors = [[h(spending.problem.settings(c))[0] for h in (spending.judge, spending.check())] for c in (early, late)]
    gains = 10 * np.diff(np.log10(np.maximum(errors, 1e-30)), axis=0)[0]
    if np.any(-gains <= 0):
        return False
    before, after = operators(spending.carried_out(early)), operators(other.carried_out(late))
    lost = 0 if before is None or after is None else before.lost(after) + before.between(after)
    layers = sum(macs > 0 for macs in spending.problem.base.values())
    integer = 0 if before is None else before.integer - before.layers
    return bool(np.all(-gains >= HALVED * (lost + moved) / max(layers + integer, 1)))
