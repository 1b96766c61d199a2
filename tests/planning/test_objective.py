"""The objective of a plan: asked once, computed once; changes run from the plan that they change."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import zoo
from heads import two_heads

from onnx_ocs.measurement.yardstick import Output
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.planning.objective import Judge, worth
from onnx_ocs.probes.switchboard import Setting, Switchboard, narrow
from onnx_ocs.regions.find import find_regions
from onnx_ocs.runtime.session import as_written

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

    def counted(samples: Any, settings: Any) -> dict[str, Array]:
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


# ---- several outputs, and the user's metric -------------------------------------------------------------------------


def heads(apart: bool = True) -> tuple[Switchboard, list[dict[str, Array]], onnx.ModelProto]:
    model, floats, calib = two_heads(apart)
    shapes = infer_shapes(model)
    board = Switchboard(model, find_regions(Graph(model), shapes), shapes)
    return board, [{"x": calib["x"][k : k + 8]} for k in range(0, 24, 8)], floats


def steps(board: Switchboard, factor: float) -> dict[int, Setting]:
    """All quantizers on, at another step."""
    on = {k: narrow(r.quantizer) for k, r in enumerate(board.regions) if r.quantizer is not None}
    return {k: Setting(s.scale * factor, s.low, s.high) for k, s in on.items()}


@pytest.mark.parametrize("apart", [True, False], ids=["two outputs", "groups of channels"])
def test_no_output_pays_for_another(apart: bool) -> None:
    """A fine step gains 20 dB at the boxes and ruins the scores; by the first output alone it would be the best."""
    board, feeds, floats = heads(apart)
    judge = Judge(board, feeds, as_written(floats), "sqnr")
    assert len(judge.yardstick.parts) == 2
    before, fine, same = (judge(steps(board, f)) for f in (1.0, 0.1, 0.999))
    assert fine[0] > 2 * before[0] and same[0] == pytest.approx(before[0], rel=0.2)


def test_an_output_without_weight_does_not_count() -> None:
    board, feeds, floats = heads()
    pairs = list(zip(board.outputs, as_written(floats).outputs, strict=True))
    first = [Output(*pairs[0])]
    alone, other = (
        Judge(board, feeds, as_written(floats), "sqnr", outputs)(steps(board, 0.1))
        for outputs in (first, [*first, Output(*pairs[1], weight=0.0)])
    )
    coarse = Judge(board, feeds, as_written(floats), "sqnr", first)(steps(board, 1.0))
    assert alone == other and alone[0] < 0.1 * coarse[0]


def test_outputs_are_found_whatever_their_order() -> None:
    board, feeds, floats = heads()
    plain = Judge(board, feeds, as_written(floats), "sqnr")
    first, second = as_written(floats).outputs
    outputs = [Output(board.outputs[0], first), Output(board.outputs[1], second)]
    turned = onnx.ModelProto()
    turned.CopyFrom(floats)
    turned.graph.output.sort(key=lambda o: o.name != second)
    assert as_written(turned).outputs == [second, first]
    on = steps(board, 1.0)
    assert Judge(board, feeds, as_written(turned), "sqnr", outputs)(on) == plain(on)


def test_the_metric_decides_and_the_errors_where_it_sees_no_difference() -> None:
    board, feeds, floats = heads()
    asked: list[int] = []

    def near(outputs: Any, references: Any, _labels: Any) -> float:
        asked.append(len(outputs[board.outputs[0]]))
        boxes = board.outputs[0]
        return float(np.mean(np.abs(outputs[boxes] - references[boxes]) < 0.1))

    judge = Judge(board, feeds, as_written(floats), "auto", metric=near)
    assert judge.objective == "metric" and worth((1.0, 30.0), (0.5, 20.0), "metric")
    before, fine, finer = (judge(steps(board, f))[0] for f in (1.0, 0.2, 0.15))
    assert fine < 1e-3 * before, "it ruins the scores, which the metric does not see"
    assert judge.measured(steps(board, 0.2)) == judge.measured(steps(board, 0.15)) == 1.0
    errors = Judge(board, feeds, as_written(floats), "auto")
    assert fine / finer == pytest.approx(errors(steps(board, 0.2))[0] / errors(steps(board, 0.15))[0])
    count = len(asked)
    judge(steps(board, 1.0))
    list(judge.halves(steps(board, 1.0)))
    assert asked[count:] == [8, 16], "each part is asked once, over all of its samples"
