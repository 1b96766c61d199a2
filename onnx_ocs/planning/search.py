"""Try recipes, and keep the plan that proves best on held-out samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from onnx_ocs.calibration.context import Progress
from onnx_ocs.planning.allocate import Recipe, solve, weights
from onnx_ocs.planning.candidates import COARSE
from onnx_ocs.planning.choices import Budget, Choices
from onnx_ocs.planning.objective import Judge, better
from onnx_ocs.planning.options import PlanOptions
from onnx_ocs.planning.problem import Problem
from onnx_ocs.planning.sensitivity import weigh_in_place
from onnx_ocs.planning.together import most

__all__ = ["Trial", "best_plan", "freed", "improve", "recipes"]

EXPONENTS = (0.2, 0.35, 0.6, 1.0)  # how far the measured damage counts
AHEAD = 32  # regions that workers look at at once, each as if none of the others were left out
FEW = 2  # copies a channel, as an alternative to as many as allowed



@dataclass(frozen=True)
class Trial:
    """A plan that was tried.

    Attributes:
        name: what the report calls it.
        recipe: how it was made, with the weights that it was made with.
        choices: what it does, by region.
        dropped: regions that were left out, since held-out samples are better off without.
    """

    name: str
    recipe: Recipe
    choices: Choices
    dropped: tuple[int, ...] = ()


def recipes(options: PlanOptions) -> list[Recipe]:
    """What is tried: the paper's selection, the same step, and re-chosen steps."""
    many, few = options.copies, min(FEW, options.copies)
    paper = Recipe(0)
    if options.effort == "quick":
        same = [Recipe(many, 0.35)]
        free = [Recipe(many, e, True) for e in (0.35, 1.0)]
        free += [Recipe(many, 1.0, True, 0.0), Recipe(many, 1.0, True, 0.0, COARSE[0])]
    else:
        same = [Recipe(many, e) for e in (1.0, 0.35)]
        free = [Recipe(most, e, True) for most in sorted({few, many}) for e in EXPONENTS]
        free += [Recipe(many, 1.0, True, share) for share in (0.5, 0.0)]
        free += [Recipe(many, 1.0, True, share, COARSE[0]) for share in (1.0, 0.0)]
    return [paper, *same, *(free if options.rescale else ())]


def freed(recipe: Recipe, options: PlanOptions) -> Recipe:
    """A recipe with the same weights that may spend all of the budget, on all that the user allows."""
    return replace(recipe, most=recipe.most or options.copies, rescale=options.rescale, share=1.0)


def best_plan(
    problem: Problem,
    judge: Judge,
    budget: Budget,
    options: PlanOptions,
    progress: Progress,
    log_to: dict[str, Any],
    rescaled: bool = False,
) -> Trial:
    """The best plan of all recipes, measured.

    Args:
        problem: candidates with tables.
        judge: the objective on samples that the tables were not made from.
        budget: what may be spent.
        options: limits and effort.
        progress: called during the work.
        log_to: plans that were compared, by name.
        rescaled: whether only those that re-choose steps are tried.
    """
    best: tuple[float, Trial] | None = None
    tried = [r for r in recipes(options) if r.rescale or not rescaled]

    @cache
    def made(n: int) -> Trial:
        progress("comparing plans", n, len(tried))
        weighed = replace(tried[n], lambdas=weights(problem, tried[n]))
        return Trial(weighed.name, weighed, solve(problem, weighed, budget))

    judge.ahead(problem.settings(made(n).choices) for n in range(len(tried)))
    for n in range(len(tried)):
        trial = made(n)
        value = _judged(problem, judge, trial, log_to)
        if best is None or value < best[0]:
            best = value, trial
    progress("comparing plans", len(tried), len(tried))
    assert best is not None
    return best[1]


def _judged(problem: Problem, judge: Judge, trial: Trial, log_to: dict[str, Any]) -> float:
    """A plan's objective, which is noted."""
    settings = problem.settings(trial.choices)
    value, sqnr = judge(settings)
    metric = {} if judge.metric is None else {"metric": judge.measured(settings)}
    log_to[trial.name] = {"objective": value, "sqnr_db": sqnr, **metric, **problem.describe(trial.choices)}
    return value


def improve(
    problem: Problem,
    judge: Judge,
    check: Judge,
    budget: Budget,
    options: PlanOptions,
    trial: Trial,
    progress: Progress,
    log_to: dict[str, Any],
) -> Trial:
    """Make the best plan better: weigh its tensors in place, and leave out what does not help.

    The judge's samples are asked so often that the answer fits them better than others, and the plan was made from
    the samples of `check`, which favour it as it was.  So both together decide whether it stays as it was.
    """

    def halves(choices: Choices) -> Any:
        return judge.halves(problem.settings(choices))

    lambdas = weigh_in_place(problem, judge, trial.choices, weights(problem, trial.recipe), progress)
    free = freed(replace(trial.recipe, lambdas=lambdas), options)
    again = Trial("weighed in place", free, solve(problem, free, budget))
    _judged(problem, judge, again, log_to)
    refined = replace(trial, recipe=replace(trial.recipe, lambdas=lambdas))
    if better(halves(again.choices), halves(trial.choices)):
        refined = again
    kept, dropped = _roll_back(problem, judge, refined.choices, lambdas, progress)
    refined = replace(refined, choices=kept, dropped=dropped)
    if dropped:  # what was given back may be spent elsewhere
        spent = solve(problem.without(dropped), free, budget)
        if better(halves(spent), halves(kept)):
            refined = replace(refined, choices=spent, recipe=free)
    now, then = (
        np.prod([samples(problem.settings(t.choices))[0] for samples in (judge, check)]) for t in (trial, refined)
    )
    return refined if then < now else trial


def _roll_back(
    problem: Problem, judge: Judge, choices: Choices, lambdas: Mapping[int, float], progress: Progress
) -> tuple[Choices, tuple[int, ...]]:
    """Leave out, one by one, the regions without which the held-out objective is better.

    Of very many those are asked about that should bring least.
    """
    known = {c.index: c for c in problem.candidates}

    def lost(k: int) -> float:
        return lambdas[k] * (problem.error(known[k], choices[k]) - problem.error(known[k], None))

    kept, dropped, order, asked = dict(choices), [], most(list(choices), lost), 0
    judge.stand_on(problem.settings(kept))
    now = tuple(judge.halves(problem.settings(kept)))

    def without(k: int) -> Choices:
        return {i: c for i, c in kept.items() if i != k}

    for n, k in enumerate(order):
        progress("checking regions", n, len(order))
        if n == asked:  # most regions stay: workers answer for some at once
            asked = n + AHEAD
            some = (problem.settings(without(i)) for i in order[n:asked])
            judge.ahead(some, judge.parts[0], problem.settings(kept))
        then = better(judge.halves(problem.settings(without(k))), now)
        if then is not None:
            kept, now, asked = without(k), then, n + 1
            dropped.append(k)
    progress("checking regions", len(order), len(order))
    return kept, tuple(dropped)
