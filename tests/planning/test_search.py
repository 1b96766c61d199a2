"""Recipes that are tried: which are, which is kept, and that a plan is worked on only where all samples agree."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from planned import carried_out, not_worse, plan

from onnx_ocs.planning import make as planning
from onnx_ocs.planning import search as trials
from onnx_ocs.planning.allocate import Recipe
from onnx_ocs.planning.choices import Budget
from onnx_ocs.planning.options import PlanOptions

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")


@pytest.mark.parametrize(("macs", "effort"), [(planning.JUDGING_MACS, "full"), (1e6, "quick")])
def test_effort_follows_the_samples_that_plans_are_judged_on(
    folder: Path, macs: float, effort: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "JUDGING_MACS", macs)
    budget = {"full": 0.11, "quick": 0.12}[effort]  # of this test alone: plans are remembered
    made, found = plan("residual", folder, budget=budget)
    asked, same = plan("residual", folder, budget=budget, effort=effort)
    assert found["effort"] == same["effort"] == effort
    assert made.digest() == asked.digest()
    assert ("weighed in place" in found["candidates"]) == (effort == "full")
    other = {"full": "quick", "quick": "full"}[effort]
    assert plan("residual", folder, budget=budget, effort=other)[1]["effort"] == other, "what is asked for is done"


@pytest.mark.parametrize("name", ["digits", "residual"])
def test_quick_keeps_the_best_of_the_compared(folder: Path, name: str) -> None:
    """Little effort: a plan of those that are compared, not worked on, and never worse than no plan."""
    full, thorough = plan(name, folder, budget=0.2)
    made, found = plan(name, folder, budget=0.2, effort="quick")
    assert "weighed in place" in thorough["candidates"] and "weighed in place" not in found["candidates"]
    assert found["rolled_back"] == []
    values = {k: v["objective"] for k, v in found["candidates"].items()}
    assert {k: v["objective"] for k, v in thorough["candidates"].items() if k in values} == values
    assert found["chosen"] == min(values, key=lambda k: values[k])
    assert made.regions and full.regions
    assert not_worse(carried_out(name, folder, made).report)


@pytest.mark.parametrize(
    ("held", "others", "kept"),
    [
        ((0.5, 1.1), (1.0, 1.0), True),  # a large gain, and next to nothing lost where the plan came from
        ((0.9, 1.3), (1.0, 1.0), False),  # fitted to the samples that were asked
        ((0.9, 0.9), (1.0, 1.0), True),
        ((1.0, 1.0), (1.0, 1.0), False),  # nothing changed
    ],
)
def test_all_samples_decide_on_refinement(
    held: tuple[float, float], others: tuple[float, float], kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`held`: the refined plan's objective on the samples it was refined with, and on the others."""
    recipe = Recipe(2, lambdas={1: 1.0})
    choices: Any = {1: SimpleNamespace()}
    before = trials.Trial("a plan", recipe, choices)
    values = {1: others, 0: held}
    problem: Any = SimpleNamespace(settings=len, describe=lambda _: {}, without=lambda _: problem)

    class Judge:
        metric = None

        def __init__(self, part: int) -> None:
            self.part = part

        def __call__(self, settings: int) -> tuple[float, float]:
            return values[settings][self.part], 0.0

        def halves(self, _: int) -> list[float]:
            return [1.0]

    monkeypatch.setattr(trials, "weigh_in_place", lambda *_: {1: 7.0})
    monkeypatch.setattr(trials, "solve", lambda *_: choices)
    monkeypatch.setattr(trials, "_roll_back", lambda *_: ({}, (3,)))  # one region is left out
    judge: list[Any] = [Judge(0), Judge(1)]
    trial = trials.improve(problem, *judge, Budget(0.1), PlanOptions(), before, lambda *_: None, {})
    if kept:
        assert (trial.name, trial.choices, trial.dropped) == ("a plan", {}, (3,))
        assert trial.recipe == replace(recipe, lambdas={1: 7.0}), "weights belong to their plan"
    else:
        assert trial is before
