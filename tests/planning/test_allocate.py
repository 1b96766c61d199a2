"""Tables that hold less, and prices that are prepared once, lead to the same plans."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import zoo

from onnx_ocs.calibration.collect import calibrate
from onnx_ocs.calibration.context import Context
from onnx_ocs.calibration.samples import open_samples
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.planning.allocate import Budget, Choice, Planner
from onnx_ocs.regions.find import find_regions

NAMES = ["three_layers", "residual", "matmul_gelu", "depthwise", "qcdq2_residual"]
COPIES = 6


def planner_of(name: str) -> Planner:
    model, feed = zoo.build(name)
    rng = np.random.default_rng(3)
    calib = {k: (rng.standard_normal((24, *v.shape[1:])) * 2).astype(v.dtype) for k, v in feed.items()}
    context = Context(open_samples(calib, model))
    one = {k: [1, *v.shape[1:]] for k, v in feed.items()}
    graph, regions = Graph(model), find_regions(Graph(model), infer_shapes(model))
    statistics = calibrate(model, regions, context, "the model")
    made = Planner(graph, regions, infer_shapes(model, one), statistics, "auto", COPIES, [True] * len(regions), 1)
    rng = np.random.default_rng(5)
    for c in made.candidates:
        c.damage = float(rng.uniform(1, 3))
    return made


def allocated(planner: Planner, budget: float, most: int = COPIES) -> dict[int, Choice]:
    planner.prepare(most)
    planner.weigh(1.0)
    return planner.allocate(Budget(budget, None), True)


def same(a: dict[int, Choice], b: dict[int, Choice]) -> bool:
    def plain(choices: dict[int, Choice]) -> dict[int, Any]:
        return {k: (c.scale.tolist(), c.copies.tolist(), c.copies_low.tolist()) for k, c in choices.items()}

    return plain(a) == plain(b)


@pytest.mark.parametrize("half", [0, None])
@pytest.mark.parametrize("name", NAMES)
def test_tables_without_copies_tell_the_same_steps(name: str, half: int | None) -> None:
    planner = planner_of(name)
    planner.tabulate(True, half)
    full = allocated(planner, 0.0)
    planner.tabulate(True, half, copies=False)
    assert all(t.square.shape[2] == 1 for c in planner.candidates for t in c.tables)
    assert full and same(allocated(planner, 0.0), full)
    assert not any(c.copies.any() or c.copies_low.any() for c in full.values())


@pytest.mark.parametrize("name", NAMES)
def test_few_copies_and_many_do_not_disturb_each_other(name: str) -> None:
    planner = planner_of(name)
    planner.tabulate(True, 0)
    many = allocated(planner, 0.5)
    few = allocated(planner, 0.5, 1)
    assert same(allocated(planner, 0.5), many)
    fresh = planner_of(name)
    fresh.tabulate(True, 0)
    assert same(allocated(fresh, 0.5, 1), few)
    assert max(int(max(c.copies.max(), c.copies_low.max())) for c in few.values()) == 1
    fresh.tabulate(True, 1)  # other samples: what was prepared is void
    other = planner_of(name)
    other.tabulate(True, 1)
    assert same(allocated(fresh, 0.5, 1), allocated(other, 0.5, 1))
