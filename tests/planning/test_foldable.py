"""Which tensors may get copies that are folded back, and what these cost."""

from __future__ import annotations

from typing import Any

import pytest
import streams
from regions_of import regions_of

from onnx_ocs.calibration.collect import calibrate
from onnx_ocs.calibration.context import Context
from onnx_ocs.calibration.samples import open_samples
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.planning.foldable import JOINED, MADE, PASS
from onnx_ocs.planning.options import PlanOptions
from onnx_ocs.planning.problem import Problem, pose


def posed(apart: bool = True, known: bool = True, **options: Any) -> Problem:
    model = streams.residual_stream()
    graph, regions = regions_of(model)
    context = Context(open_samples(streams.samples(model, 4), model))
    folds = [k for k, r in enumerate(regions) if r.refusal is not None and r.refusal.code == "fold_only"]
    statistics = calibrate(model, regions, context, "the model", steps=folds, apart=apart)
    shapes = infer_shapes(model, {"x": (1, 6, streams.DIM)}) if known else {}
    return pose(graph, regions, shapes, statistics, PlanOptions(**{"budget": 0.1, **options}))


def test_the_price_is_that_of_the_values() -> None:
    (c,) = posed().foldable
    assert (c.region.tensor, c.mode, c.folds, c.shares) == ("add1", "late", True, {})
    assert c.start == JOINED * PASS * 6 * streams.DIM and c.macs == MADE * PASS * 6
    assert len(c.readers.gain) == streams.DIM
    alone = next(a for a in posed().candidates if a.region.tensor == "add1")
    assert not alone.folds and alone.macs == 0, "within the budget of multiply-accumulates it has its step alone"


@pytest.mark.parametrize(
    "options",
    [
        {"budget": 0.0}, {"mode": "early"}, {"budget": None, "ratio": 0.5}, {"runtime": "qnn"}, {"apart": False},
        {"known": False}, {"exclude": ("add1",)}, {"rescale": False, "include": ("x",)},
    ],
)  # fmt: skip
def test_where_there_are_none(options: dict[str, Any]) -> None:
    assert posed(**options).foldable == ()


def test_tables_are_by_channel() -> None:
    problem = posed().damaged(dict.fromkeys(range(9), 1.0)).folding()
    (table,) = problem.tables.values()
    assert table.errors[0].square.shape[0] == streams.DIM and max(max(r) for r in table.rooms) > 0
