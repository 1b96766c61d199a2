"""The objective of a plan: asked once, computed once; changes run from the plan that they change."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import zoo

from onnx_ocs.model.graph import Graph
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.planning.objective import Judge
from onnx_ocs.probes.switchboard import Setting, Switchboard, narrow
from onnx_ocs.regions.find import find_regions

Array = np.ndarray[Any, Any]


@pytest.fixture
def made() -> tuple[Judge, dict[int, Setting], list[int]]:
    """A judge on three feeds, all quantizers on, and a list that grows with every feed that is run."""
    model, feed = zoo.build("three_layers")
    shapes = infer_shapes(model)
    board = Switchboard(model, find_regions(Graph(model), shapes), shapes)
    rng = np.random.default_rng(0)
    feeds = [{k: (v * rng.uniform(0.5, 2)).astype(v.dtype) for k, v in feed.items()} for _ in range(3)]
    judge = Judge(board, feeds, None, "sqnr")
    ran: list[int] = []
    run = board.run

    def counted(samples: Any, settings: Any) -> Array:
        ran.append(next(k for k, f in enumerate(feeds) if f is samples))
        return run(samples, settings)

    board.run = counted  # type: ignore[method-assign]
    on = {k: narrow(r.quantizer) for k, r in enumerate(board.regions) if r.quantizer is not None}
    return judge, on, ran


def copied(settings: dict[int, Setting]) -> dict[int, Setting]:
    return {k: Setting(s.scale.copy(), s.low.copy(), s.high.copy()) for k, s in reversed(settings.items())}


def test_what_was_asked_is_known(made: Any) -> None:
    judge, on, ran = made
    whole = judge(on)
    assert ran == [0, 1, 2]
    assert judge(copied(on)) == whole and list(judge.halves(copied(on)))
    assert ran == [0, 1, 2], "the same settings in other arrays"
    errors = [judge(on, slice(k, k + 1))[0] for k in range(3)]
    assert len(set(errors)) == 3 and min(errors) < whole[0] < max(errors)
    assert ran == [0, 1, 2]


def test_the_first_half_may_be_enough(made: Any) -> None:
    judge, on, ran = made
    halves = judge.halves({k: s for k, s in on.items() if k})
    assert not ran
    next(halves)
    assert ran == [1]
    next(halves)
    assert ran == [1, 0, 2]


@pytest.mark.parametrize("part", ["scale", "low", "high"])
def test_another_setting_is_another_plan(made: Any, part: str) -> None:
    judge, on, ran = made
    before = judge(on)
    first = next(iter(on))
    parts = {n: getattr(on[first], n) for n in ("scale", "low", "high")}
    other = {**on, first: Setting(**{**parts, part: parts[part] * 0.5})}
    assert judge(other) != before and len(ran) == 6
    assert judge({k: s for k, s in on.items() if k != first}) != before and len(ran) == 9
    assert judge(on) == before and len(ran) == 9


def test_standing_on_a_plan_runs_it(made: Any) -> None:
    """However often it was asked: what its stages leave behind is there again."""
    judge, on, ran = made
    judge(on)
    judge.stand_on(on)
    judge.stand_on(on, slice(0, None, 2))
    assert ran == [0, 1, 2, 0, 1, 2, 0, 2]
