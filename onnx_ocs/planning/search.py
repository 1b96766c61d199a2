"""Make plans in several ways, and keep what proves best on held-out samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from onnx_ocs.planning.allocate import Budget, Choice, Planner
from onnx_ocs.planning.candidates import COARSE, COARSER
from onnx_ocs.planning.objective import Judge, better
from onnx_ocs.planning.options import PlanOptions
from onnx_ocs.planning.sensitivity import weigh_in_place

__all__ = ["Made", "best_plan", "improve"]

EXPONENTS = (0.2, 0.35, 0.6, 1.0)  # how far the measured damage counts (Planner.weigh)
FEW = 2  # copies a channel, as an alternative to as many as allowed


@dataclass(frozen=True)
class Made:
    """A plan's choices, what they are called, and how to make them again within another budget."""

    name: str
    choices: dict[int, Choice]
    how: Callable[[Budget], dict[int, Choice]]


def best_plan(
    planner: Planner,
    judge: Judge,
    budget: Budget,
    options: PlanOptions,
    progress: Callable[[str, int, int | None], None],
    log_to: dict[str, Any],
) -> Made:
    """The best of the paper's selection, the same step, and re-chosen steps, measured; leaves the planner set to it."""
    best: tuple[float, Made, int, float, float] | None = None
    many, few = options.copies, min(FEW, options.copies)
    # most copies, exponent, whether steps are re-chosen, share of the budget that is spent, the coarsest step
    trials: list[tuple[int, float, bool, float, float]]
    if options.effort == "quick":
        trials = [(many, 0.35, False, 1.0, COARSER)]
        if options.rescale:
            trials += [(many, e, True, 1.0, COARSER) for e in (0.35, 1.0)]
            trials += [(many, 1.0, True, 0.0, coarsest) for coarsest in (COARSER, COARSE[0])]
    else:
        trials = [(many, e, False, 1.0, COARSER) for e in (1.0, 0.35)]
        if options.rescale:
            trials += [(most, e, True, 1.0, COARSER) for most in sorted({few, many}) for e in EXPONENTS]
            trials += [(many, 1.0, True, 0.5, COARSER), (many, 1.0, True, 0.0, COARSER)]
            trials += [(many, 1.0, True, 1.0, COARSE[0]), (many, 1.0, True, 0.0, COARSE[0])]
    for n, (most, exponent, rescale, share, coarsest) in enumerate([(0, 1.0, False, 1.0, COARSER), *trials]):
        progress("comparing plans", n, len(trials) + 1)
        planner.coarsest = coarsest
        if most == 0:
            name, how = "mass, same step", planner.by_mass
        else:
            planner.prepare(most)
            planner.weigh(exponent)
            step = "step re-chosen" if rescale else "same step"
            name = f"error^{exponent:g}, up to {most} copies, {step}"
            name += "" if share == 1 else f", {share:.0%} of the budget"
            name += "" if coarsest == COARSER else f", up to {coarsest:g} times coarser"
            how = partial(planner.allocate, rescale=rescale)
        made = Made(name, how(budget.times(share)), how)
        value, sqnr = judge(planner.settings(made.choices))
        log_to[name] = {"objective": value, "sqnr_db": sqnr, **planner.describe(made.choices)}
        if best is None or value < best[0]:
            best = value, made, most or options.copies, exponent, coarsest
    progress("comparing plans", len(trials) + 1, len(trials) + 1)
    assert best is not None
    planner.prepare(best[2])
    planner.weigh(best[3])
    planner.coarsest = best[4]
    return best[1]


def improve(
    planner: Planner,
    judge: Judge,
    check: Judge,
    budget: Budget,
    options: PlanOptions,
    made: Made,
    progress: Callable[[str, int, int | None], None],
    log_to: dict[str, Any],
) -> tuple[Made, list[int]]:
    """Make the best plan better: weigh its tensors in place, and leave out what does not help.

    The judge's samples are asked so often that the answer fits them better than others, and the plan was made from
    the samples of `check`, which favour it as it was.  So both together decide whether it stays as it was.
    """
    weights = [c.weight for c in planner.candidates]
    weigh_in_place(planner, judge, made.choices, progress)
    how = partial(planner.allocate, rescale=options.rescale)
    again = Made("weighed in place", how(budget), how)
    value, sqnr = judge(planner.settings(again.choices))
    log_to[again.name] = {"objective": value, "sqnr_db": sqnr, **planner.describe(again.choices)}
    refined = made
    if better(judge.halves(planner.settings(again.choices)), judge.halves(planner.settings(made.choices))):
        refined = again
    kept, dropped = _roll_back(planner, judge, refined.choices, progress)
    refined = replace(refined, choices=kept)
    if dropped:  # what was given back may be spent elsewhere
        spent = _without(planner, dropped, lambda: how(budget))
        if better(judge.halves(planner.settings(spent)), judge.halves(planner.settings(kept))):
            refined = replace(refined, choices=spent, how=how)
    now, then = (
        np.prod([samples(planner.settings(m.choices))[0] for samples in (judge, check)]) for m in (made, refined)
    )
    if then < now:
        return refined, dropped
    for c, weight in zip(planner.candidates, weights, strict=True):
        c.weight = weight
    return made, []


def _roll_back(
    planner: Planner, judge: Judge, choices: dict[int, Choice], progress: Callable[[str, int, int | None], None]
) -> tuple[dict[int, Choice], list[int]]:
    """Leave out, one by one, the regions without which the held-out objective is better."""
    kept, dropped = dict(choices), []
    judge.stand_on(planner.settings(kept))
    now = tuple(judge.halves(planner.settings(kept)))
    for n, k in enumerate(list(choices)):
        progress("checking regions", n, len(choices))
        trial = {i: c for i, c in kept.items() if i != k}
        then = better(judge.halves(planner.settings(trial)), now)
        if then is not None:
            kept, now = trial, then
            dropped.append(k)
    progress("checking regions", len(choices), len(choices))
    return kept, dropped


def _without(planner: Planner, dropped: Sequence[int], make: Callable[[], dict[int, Choice]]) -> dict[int, Choice]:
    """A plan that leaves some regions as they are."""
    everything = planner.candidates
    planner.candidates = [c for c in everything if c.index not in dropped]
    choices = make()
    planner.candidates = everything
    return choices
