"""What copies cost in time, region by region."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import zoo
from problems import problem_of

from onnx_ocs.model.graph import Graph
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.planning import prices
from onnx_ocs.planning.prices import LEAST, Price, find_prices
from onnx_ocs.regions.find import find_regions
from onnx_ocs.runtime.session import Session, attempt_run
from onnx_ocs.targets.timing import ONNXRUNTIME


def quiet(*_: Any) -> None:
    """No progress."""


def priced(name: str) -> tuple[Any, dict[int, Price]]:
    """A problem of the zoo and its prices."""
    model, feed = zoo.build(name)
    problem, graph = problem_of(name), Graph(model)
    one = {k: v[:1] for k, v in feed.items()}
    shapes = infer_shapes(model, {k: list(v.shape) for k, v in one.items()})
    return problem, find_prices(model, graph, shapes, problem.candidates, problem.total, one, ONNXRUNTIME, quiet)


def test_the_first_copy_costs_more_than_the_next() -> None:
    assert Price(0.25, 0.125).of(0) == 0 and Price(0.25, 0.125).of(2) == 0.5


@pytest.mark.parametrize("name", ["residual", "depthwise", "matmul_gelu", "concat_wide"])
def test_every_region_that_may_get_copies_has_a_price(name: str) -> None:
    problem, found = priced(name)
    wanted = [c for c in problem.candidates if c.shares]
    assert found.keys() == {c.index for c in wanted} and found
    for c in wanted:
        assert found[c.index].each >= LEAST * c.macs / problem.total > 0 and found[c.index].start >= 0


def test_what_was_timed_is_the_region_with_and_without_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some channels, then all: what both cost together is the start, what they are apart the price of a copy."""
    seen: list[list[int]] = []

    def timed(models: Any, feed: Any, *_: float) -> list[float]:
        session = [len(m.graph.node) for m in models]
        seen.append(session)
        assert all(attempt_run(Session(m, "enable_all"), feed) for m in models)
        return [1.0] if len(models) == 1 else [0.1, 0.3, 0.6]

    monkeypatch.setattr(prices, "shortest", timed)
    problem, found = priced("residual")
    whole, *parts = seen
    assert len(parts) == len(found) and all(len(p) == 3 and p[0] < whole[0] <= p[0] + whole[0] for p in parts)
    assert any(p[1] > p[0] for p in parts), "late copies add nodes"
    for c in problem.candidates:
        if c.index in found and not c.uniform:
            channels, some = c.region.walk.channels, len(range(0, c.region.walk.channels, prices.SHARE))
            each = (0.6 - 0.3) / (channels - some)
            assert found[c.index].each == pytest.approx(max(each, LEAST * c.macs / problem.total))
            assert found[c.index].start == pytest.approx(max(0.3 - 0.1 - some * each, 0), abs=0.11)


def test_without_shapes_or_a_session_the_price_is_that_of_the_multiply_accumulates(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, feed = zoo.build("residual")
    problem, graph = problem_of("residual"), Graph(model)
    wanted = {c.index: c.macs / problem.total for c in problem.candidates if c.shares}
    arguments = graph, {}, problem.candidates, problem.total
    blind = find_prices(model, *arguments, {k: v[:1] for k, v in feed.items()}, ONNXRUNTIME, quiet)
    assert {k: p.each for k, p in blind.items()} == wanted and all(p.start == 0 for p in blind.values())
    monkeypatch.setattr(prices, "shortest", lambda *_: None)
    none = find_prices(model, *arguments, {}, ONNXRUNTIME, quiet)
    assert {k: p.each for k, p in none.items()} == wanted


def test_the_same_regions_are_found_in_the_cut_outs() -> None:
    model, feed = zoo.build("residual")
    shapes = infer_shapes(model, {k: [1, *v.shape[1:]] for k, v in feed.items()})
    graph = Graph(model)
    for c in problem_of("residual").candidates:
        if c.shares:
            cutout = prices._neighbourhood(graph, shapes, c.region)
            assert cutout is not None
            there = {r.key for r in find_regions(Graph(cutout[0]), infer_shapes(cutout[0]))}
            assert c.region.key in there and np.all([np.isfinite(v).all() for v in cutout[1].values()])
