"""Two decisions that one bias cannot hold."""

from __future__ import annotations

from typing import Any

import linear_outputs as nets
import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from zoo import Style

from onnx_ocs.api import rewrite
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.passes.translate import Translate
from onnx_ocs.planning.plan import Plan, PlannedRegion
from onnx_ocs.qdq.layers import read_layer
from onnx_ocs.refusals import Refusal
from onnx_ocs.regions.find import find_regions
from onnx_ocs.regions.region import Region
from onnx_ocs.translation import early
from onnx_ocs.translation.constant import constant_of
from onnx_ocs.translation.decision import Decision
from onnx_ocs.translation.together import agreed


def decided(model: onnx.ModelProto) -> tuple[Graph, list[Decision]]:
    """Copies of the linear output, which conv3 reads, and of the ReLU behind conv3."""
    graph = Graph(model)
    found = {r.tensor: r for r in find_regions(graph, infer_shapes(model)) if isinstance(r, Region)}
    first, second = found["conv2"], found["relu2"]
    up, none = np.asarray([0, 3, 0, 0, 2, 0]), np.zeros(6, np.int64)
    every = np.ones(12, np.int64)
    return graph, [Decision(first, "early", up, none), Decision(second, "early", every, 0 * every)]


def crowded() -> onnx.ModelProto:
    """Each fits by itself: the shift downwards, and the constant; both together do not."""
    model, _ = nets.net(nets.point, Style(bias="int32"))
    graph, (first, second) = decided(model)
    layer = read_layer(graph, graph.producer["conv3"])
    assert layer is not None
    constant = constant_of(graph, layer, first.wide, first.region.quantizer)
    bias = layer.bias(graph)
    assert bias is not None and bias.scale is not None
    c = int(constant.argmax())
    assert constant[c] > 0
    shift = np.rint(early.shift_of(second.region, second.wide)[12 + c] / np.broadcast_to(bias.scale, (12,))[c])
    stored: Any = next(t for t in model.graph.initializer if t.name == "conv3_b")
    value = numpy_helper.to_array(stored).copy()
    value[c] = -(2**31) + 2 + max(int(shift), int(constant[c]))
    stored.CopyFrom(numpy_helper.from_array(value, stored.name))
    return model


def test_the_one_with_the_constant_gives_way() -> None:
    graph, decisions = decided(crowded())
    assert all(early.check(graph, d.region, d.wide) is None for d in decisions)
    first, second = agreed(graph, decisions)
    assert isinstance(first, Refusal) and first.code == "early_reader" and second is decisions[1]
    assert agreed(graph, decisions[:1]) == decisions[:1]
    assert agreed(graph, [None, decisions[1]]) == [None, decisions[1]]


def test_where_both_fit_both_stay() -> None:
    graph, decisions = decided(nets.net(nets.point, Style(bias="int32"))[0])
    assert agreed(graph, decisions) == decisions


@pytest.mark.parametrize("mode", ["early", "early only"])
def test_a_rewrite_refuses_it(mode: Any) -> None:
    graph, decisions = decided(crowded())
    asked = [PlannedRegion(d.region.tensor, d.region.outputs, d.region.quantizer.scale, d.copies, d.copies_low, mode)
             for d in decisions]  # fmt: skip
    result = rewrite(graph.model, passes=[Translate(plan=Plan("", tuple(asked)))], verify=False)
    found = {e["tensor"]: e for e in result.report["regions"]}
    assert found["relu2"]["status"] == "applied"
    assert (found["conv2"]["status"], found["conv2"]["reason"]["code"]) == ("refused", "early_reader")
