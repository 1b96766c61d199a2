"""A problem: prices that are those of the widened model, tables by halves of the samples, and other problems."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import zoo
from problems import COPIES, problem_of

from onnx_ocs import api
from onnx_ocs.measurement.cost import cost
from onnx_ocs.passes import Translate
from onnx_ocs.planning import problem as module
from onnx_ocs.planning.choices import Choice, Choices
from onnx_ocs.planning.options import PlanOptions
from onnx_ocs.planning.plan import Plan
from onnx_ocs.planning.problem import LEARNT, Problem, copies_of


def some(problem: Problem, copies: int = 1) -> Choices:
    """Every second channel of all that may get copies, at their own steps."""
    choices = {}
    for c in problem.candidates:
        if c.shares and c.region.quantizer is not None:
            up = np.zeros(len(c.readers.gain), np.int64)
            up[:: 1 if c.uniform else 2] = copies
            choices[c.index] = Choice(c.region.quantizer.scale, up, 0 * up)
    return choices


@pytest.mark.parametrize("name", ["three_layers", "residual", "gemm", "conv_transpose", "flatten_gemm", "grouped"])
def test_the_price_is_that_of_the_widened_model(name: str) -> None:
    problem = problem_of(name)
    choices = some(problem)
    macs, ratio, _time = problem.cost(choices)
    model, feed = zoo.build(name)
    plan = Plan("", problem.planned(choices))
    new = api.rewrite(model, passes=[Translate(plan=plan)], verify=False).model
    one = {k: [1, *v.shape[1:]] for k, v in feed.items()}
    before, after = (cost(m, one, kernels=False).macs for m in (model, new))
    assert problem.total == before
    assert macs == pytest.approx(after / before - 1, rel=1e-6) and macs > 0
    count = sum(c.count for c in choices.values())
    assert ratio == pytest.approx(count / sum(len(c.copies) for c in choices.values()))


def test_nothing_costs_nothing() -> None:
    assert problem_of("residual").cost({}) == (0.0, 0.0, 0.0)


def test_tables_are_of_the_samples_that_were_asked_for() -> None:
    problem = problem_of("residual")
    parts = [problem.on(h) for h in (0, 1, None)]
    for c in problem.candidates:
        totals = [p.statistics.histogram(c.index, p.tables[c.index].half).total for p in parts]
        np.testing.assert_array_equal(totals[0] + totals[1], totals[2])
        for p in parts:
            t = p.tables[c.index]
            assert len(t.errors) == len(t.rooms) == len(c.steps)
            assert t.errors[0].square.shape[2] == COPIES + 1
    assert problem.tables == {}


def test_errors_go_down_with_copies() -> None:
    problem = problem_of("residual").on(LEARNT)
    for c in (c for c in problem.candidates if c.shares):
        q = c.region.quantizer
        assert q is not None
        zero = np.zeros(len(c.readers.gain), np.int64)
        errors = [problem.error(c, Choice(q.scale, zero + n, zero)) for n in range(3)]
        assert errors[0] == problem.error(c, None)
        assert errors[0] > errors[1] >= errors[2] > 0


def test_the_nearest_step_is_looked_up() -> None:
    problem = problem_of("residual").on(LEARNT)
    c = next(c for c in problem.candidates if c.region.tensor == "relu1")
    q, k = c.region.quantizer, 3
    assert q is not None
    zero = np.zeros(8, np.int64)
    by_hand = c.readers.error(problem.tables[c.index].errors[k], zero, zero)
    assert problem.error(c, Choice(q.scale * c.steps[k], zero, zero)) == by_hand


def test_savings_are_prepared_once() -> None:
    problem = problem_of("three_layers").on(LEARNT)
    first = problem.savings(2)
    assert all(a is b for a, b in zip(problem.savings(2), first, strict=True))
    assert all(s.copies[0].shape[2] == 2 for s in first)
    assert all(s.copies[0].shape[2] == 1 for s in problem.savings(1))


def test_other_problems() -> None:
    problem = problem_of("residual")
    left = problem.without([problem.candidates[1].index])
    assert [c.index for c in left.candidates] == [c.index for k, c in enumerate(problem.candidates) if k != 1]
    damaged = problem.damaged({c.index: 7.0 for c in problem.candidates})
    assert {c.damage for c in damaged.candidates} == {7.0} != {c.damage for c in problem.candidates}
    with pytest.raises(FrozenInstanceError):
        problem.copies = 1  # type: ignore[misc]


def test_settings_of_a_plan() -> None:
    problem = problem_of("residual")
    choices = some(problem, 2)
    settings = problem.settings(choices)
    assert set(settings) == set(range(4))
    for k, setting in settings.items():
        q = problem.regions[k].quantizer
        assert q is not None
        low, top = float(q.qmin - q.zero_point), float(q.qmax - q.zero_point)
        copies = choices[k].copies if k in choices else np.zeros(1)
        np.testing.assert_array_equal(np.broadcast_to(setting.high, copies.shape), (copies + 1) * top)
        np.testing.assert_array_equal(np.broadcast_to(setting.low, copies.shape), np.full(copies.shape, low))


@pytest.mark.parametrize(
    ("mode", "words"), [("auto", {"early", "late"}), ("early", {"early only"}), ("late", {"late"})]
)
def test_planned_regions_say_where_copies_are_made(mode: str, words: set[str]) -> None:
    problem = problem_of("residual", PlanOptions(copies=COPIES, mode=mode))  # type: ignore[arg-type]
    planned = problem.planned(some(problem))
    assert {p.mode for p in planned} == words
    assert [p.tensor for p in planned] == [problem.regions[k].tensor for k in sorted(some(problem))]


def test_description() -> None:
    problem = problem_of("residual")
    choices = some(problem)
    macs, ratio, _time = problem.cost(choices)
    assert problem.describe(choices) == {"extra_macs": macs, "mean_copies": ratio, "regions": len(choices)}


def test_very_many_channels_get_fewer_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    free, bought = PlanOptions(copies=15), PlanOptions(copies=15, budget=0.1)
    for cells, wanted in ((160, (15, 15)), (159, (0, 14)), (40, (0, 3)), (1, (0, 1))):
        monkeypatch.setattr(module, "CELLS", cells)
        assert (copies_of(free, 10), copies_of(bought, 10)) == wanted
    problem = problem_of("residual").on(LEARNT)
    assert all(e.square.shape[2] == 1 for t in problem.tables.values() for e in t.errors), "none may be bought"
