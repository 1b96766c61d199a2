"""Tables that hold less, and prices that are prepared once, lead to the same plans."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from typing import Any

import numpy as np
import pytest
from problems import COPIES, problem_of

from onnx_ocs.planning.allocate import Recipe, solve, weights
from onnx_ocs.planning.choices import Budget, Choices
from onnx_ocs.planning.prices import Price
from onnx_ocs.planning.problem import Problem

NAMES = ["three_layers", "residual", "matmul_gelu", "depthwise", "qcdq2_residual"]


def solved(problem: Problem, budget: float, most: int = COPIES) -> Choices:
    return solve(problem, Recipe(most, 1.0, True), Budget(budget, None))


def same(a: Choices, b: Choices) -> bool:
    def plain(choices: Choices) -> dict[int, Any]:
        return {k: (c.scale.tolist(), c.copies.tolist(), c.copies_low.tolist()) for k, c in choices.items()}

    return plain(a) == plain(b)


@pytest.mark.parametrize("half", [0, None])
@pytest.mark.parametrize("name", NAMES)
def test_tables_without_copies_tell_the_same_steps(name: str, half: int | None) -> None:
    problem = problem_of(name)
    full = solved(problem.on(half), 0.0)
    bare = problem.on(half, copies=False)
    assert all(e.square.shape[2] == 1 for t in bare.tables.values() for e in t.errors)
    assert full and same(solved(bare, 0.0), full)
    assert not any(c.count for c in full.values())


@pytest.mark.parametrize("name", NAMES)
def test_few_copies_and_many_do_not_disturb_each_other(name: str) -> None:
    problem = problem_of(name)
    learnt = problem.on(0)
    many = solved(learnt, 0.5)
    few = solved(learnt, 0.5, 1)
    assert same(solved(learnt, 0.5), many)
    assert same(solved(problem.on(0), 0.5, 1), few)
    assert max(int(max(c.copies.max(), c.copies_low.max())) for c in few.values()) == 1
    other = problem.on(1)  # other samples: nothing that was prepared is used again
    assert same(solved(other, 0.5, 1), solved(problem_of(name).on(1), 0.5, 1))
    assert same(solved(learnt, 0.5), many)


@pytest.mark.parametrize("name", NAMES)
def test_parts_are_frozen(name: str) -> None:
    """Another problem leaves the first one as it was; what is left out gets nothing."""
    problem = problem_of(name).on(0)
    everything = solved(problem, 0.5)
    first = next(iter(everything))
    rest = problem.without([first])
    assert first not in solved(rest, 0.5) and len(rest.candidates) == len(problem.candidates) - 1
    doubled = problem.damaged({c.index: 2 * c.damage for c in problem.candidates})
    assert same(solved(doubled, 0.5), everything), "only ratios of damage count"
    assert same(solved(problem, 0.5), everything)
    with pytest.raises(FrozenInstanceError):
        problem.copies = 1  # type: ignore[misc]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("recipe", [Recipe(0), Recipe(COPIES), Recipe(COPIES, 0.35, True), Recipe(1, 1.0, True, 0.5)])
def test_the_budget_is_kept(name: str, recipe: Recipe) -> None:
    problem = problem_of(name).on(0)
    for budget in (Budget(0.1), Budget(0.5), Budget(None, 0.5)):
        found = solve(problem, recipe, budget)
        assert budget.times(recipe.share).allows(*problem.cost(found))
        assert all(max(c.copies.max(), c.copies_low.max()) <= max(recipe.most, 1) for c in found.values())
        own = {k: problem.regions[k].quantizer for k in found}
        assert recipe.rescale or all(q is not None and np.array_equal(found[k].scale, q.scale) for k, q in own.items())


def test_weights_follow_the_damage() -> None:
    problem = problem_of("residual").on(0)
    flat, steep = (weights(problem, Recipe(COPIES, e)) for e in (0.0, 1.0))
    for c in problem.candidates:
        assert steep[c.index] == pytest.approx(c.damage * flat[c.index])
    assert weights(problem, Recipe(COPIES, lambdas=flat)) == flat


def test_a_limit_of_time_is_kept_and_a_dear_start_is_not_paid() -> None:
    """By prices in time; where the first copy of a region costs too much, it gets none, and others get more."""
    problem = problem_of("residual").on(0)
    even = {c.index: Price(0.0, 0.01) for c in problem.candidates if c.shares}
    cheap = replace(problem, prices=even)
    budget = Budget(time=0.2)
    found = solve(cheap, Recipe(COPIES, 1.0, True), budget)
    copied = {k for k, c in found.items() if c.count}
    assert copied and budget.allows(*cheap.cost(found)) and cheap.cost(found).time > 0.1
    dear = min(copied)
    other = replace(problem, prices={**even, dear: Price(10.0, 0.01)})
    spared = solve(other, Recipe(COPIES, 1.0, True), budget)
    assert dear not in {k for k, c in spared.items() if c.count} and budget.allows(*other.cost(spared))
    assert any(c.count for c in spared.values())


def test_both_limits_bind() -> None:
    problem = problem_of("residual").on(0)
    priced = replace(problem, prices={c.index: Price(0.01, 0.01) for c in problem.candidates if c.shares})
    for budget in (Budget(0.3, None, 9.0), Budget(9.0, None, 0.3), Budget(None, 0.5, 0.5)):
        spent = priced.cost(solve(priced, Recipe(COPIES, 1.0, True), budget))
        assert budget.allows(*spent) and spent.macs > 0
