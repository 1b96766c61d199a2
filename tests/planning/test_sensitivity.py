"""What quantizers cost at the model's output, beside sessions of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import zoo
from problems import problem_of

from onnx_ocs.model.graph import Graph
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.planning.objective import Judge
from onnx_ocs.planning.problem import LEARNT
from onnx_ocs.planning.sensitivity import FEWEST, MOST, Alone, asked_on, harmful, weigh, weigh_in_place
from onnx_ocs.probes.reference import reference
from onnx_ocs.probes.switchboard import Switchboard
from onnx_ocs.regions.find import find_regions

Array = np.ndarray[Any, Any]


def board_of(name: str) -> Switchboard:
    model, _ = zoo.build(name)
    shapes = infer_shapes(model)
    return Switchboard(model, find_regions(Graph(model), shapes), shapes)


def feeds(name: str, count: int) -> list[dict[str, Array]]:
    _, feed = zoo.build(name)
    rng = np.random.default_rng(1)
    return [{k: rng.standard_normal(v.shape).astype(v.dtype) for k, v in feed.items()} for _ in range(count)]


def quiet(*_: Any) -> None:
    pass


def test_damage_is_the_squared_error_of_one_quantizer() -> None:
    """The reference with one Q and DQ left in, against the reference, on two feeds."""
    name = "residual"
    model, _ = zoo.build(name)
    problem = problem_of(name)
    some = feeds(name, 2)
    found = weigh(problem, Alone(board_of(name), some), quiet)
    assert found.keys() == {c.index for c in problem.candidates}
    regions = find_regions(Graph(model), infer_shapes(model))
    exact = reference(model, regions)
    for k, damage in found.items():
        one = reference(model, [r for j, r in enumerate(regions) if j != k])
        gaps = [zoo.execute(one, f)[0].astype(float) - zoo.execute(exact, f)[0].astype(float) for f in some]
        assert damage == pytest.approx(sum(float((g**2).sum()) for g in gaps), rel=1e-3)
        assert damage > 0


def test_tensors_that_no_layer_reads_are_screened() -> None:
    """conv2's only reader is an Add: its quantizer counts; those that a layer reads are not asked about."""
    board = board_of("residual")
    names = [r.tensor for r in board.regions]
    assert [names[k] for k in harmful(Alone(board, feeds("residual", 1)), board.regions, quiet)] == ["conv2"]
    board = board_of("conv_relu_conv")
    assert harmful(Alone(board, feeds("conv_relu_conv", 1)), board.regions, quiet) == []


@pytest.mark.parametrize(("share", "found"), [(1e-3, ["conv2"]), (1e-4, [])])
def test_a_thousandth_of_the_damage_is_looked_at(
    share: float, found: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a percentile clips everything, it is most of what other steps leave."""
    board = board_of("residual")
    names = [r.tensor for r in board.regions]

    def damages(_: Alone, trials: Sequence[Mapping[int, Any]], *_more: Any) -> Array:
        return np.asarray([sum(share if names[k] == "conv2" else 0.5 for k in on) for on in trials])

    monkeypatch.setattr(Alone, "damages", damages)
    assert [names[k] for k in harmful(Alone(board, feeds("residual", 1)), board.regions, quiet)] == found


def test_progress_is_told() -> None:
    said: list[Any] = []
    board = board_of("residual")
    harmful(Alone(board, feeds("residual", 1)), board.regions, lambda *a: said.append(a))
    assert said[0] == ("screening tensors", 0, 4) and said[-1] == ("screening tensors", 4, 4)


def test_what_was_screened_is_not_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    problem, alone = problem_of("residual"), Alone(board_of("residual"), feeds("residual", 1))
    asked: list[int] = []
    run = Switchboard.run
    monkeypatch.setattr(Switchboard, "run", lambda *a: (asked.append(len(a[2])), run(*a))[1])
    assert harmful(alone, alone.board.regions, quiet)
    assert sorted(asked) == [0, 1, 1, 1, 1]
    found = weigh(problem, alone, quiet)
    assert len(asked) == 5
    assert found == weigh(problem, Alone(board_of("residual"), alone.feeds), quiet)


def test_large_models_are_asked_about_few_samples() -> None:
    assert asked_on(40_000_000, 37) == asked_on(0, 0) == MOST
    assert asked_on(520_000_000, 365) == FEWEST
    assert FEWEST < asked_on(520_000_000, 100) < MOST


def test_weights_at_a_plan() -> None:
    """The geometric mean of the old weight and of what the objective gains without the quantizer, for its error."""
    name = "residual"
    problem = problem_of(name).on(LEARNT)
    judge = Judge(board_of(name), feeds(name, 3), None, "sqnr")
    old = {c.index: 1.0 for c in problem.candidates}
    new = weigh_in_place(problem, judge, {}, old, quiet)
    assert new.keys() == old.keys() and all(w > 0 for w in new.values())
    settings, some = problem.settings({}), slice(0, None, 3)
    now = judge(settings, some)[0]
    gains = [max(now - judge({i: s for i, s in settings.items() if i != k}, some)[0], 0.0) for k in old]
    floor = 0.02 * max(gains)
    fresh = np.asarray([max(g, floor) / problem.error(c, None) for g, c in zip(gains, problem.candidates, strict=True)])
    fresh /= np.exp(np.log(fresh).mean())  # their geometric mean stays that of the old ones
    np.testing.assert_allclose(list(new.values()), np.sqrt(fresh), rtol=1e-6)


def test_what_counted_nothing_still_counts_nothing() -> None:
    problem = problem_of("residual").on(LEARNT)
    judge = Judge(board_of("residual"), feeds("residual", 3), None, "sqnr")
    old = {c.index: float(k > 0) for k, c in enumerate(problem.candidates)}
    new = weigh_in_place(problem, judge, {}, old, quiet)
    assert new[problem.candidates[0].index] == 0.0
