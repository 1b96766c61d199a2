"""The constant of copies of a whole range, in the biases of what reads them."""

from __future__ import annotations

from typing import Any

import linear_outputs as nets
import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from zoo import Style

from onnx_ocs.model.edit import EditableGraph
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.qdq.layers import read_layer
from onnx_ocs.regions.find import find_regions
from onnx_ocs.regions.region import Region
from onnx_ocs.translation.constant import check_constants, constant_of, take_out
from onnx_ocs.translation.decision import Decision

UP, LOW = np.asarray([2, 0, 1, 0, 0, 0]), np.asarray([0, 1, 1, 0, 0, 0])


def setting(style: Style, change: Any = None) -> tuple[EditableGraph, Decision]:
    model, _ = nets.net(nets.point, style)
    for t in model.graph.initializer:
        if change is not None and t.name == "conv3_b":
            t.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(t).copy()), t.name))
    graph = EditableGraph(model)
    found = find_regions(graph, infer_shapes(model))
    at = next(r for r in found if isinstance(r, Region) and r.tensor == "conv2")
    return graph, Decision(at, "early", UP, LOW)


@pytest.mark.parametrize("style", [Style(), Style(bias="int32"), Style(bias="none"), Style(dtype="int8", bias="int32")])
def test_what_the_copies_add_while_they_rest_is_taken_out(style: Style) -> None:
    graph, decision = setting(style)
    layer, q = read_layer(graph, graph.producer["conv3"]), decision.region.quantizer
    assert layer is not None
    w = graph.constant("conv3_w_dq")
    assert w is not None
    rest = -float(q.x_low) * UP + float(q.x_clip) * LOW
    added = w[:, :, 0, 0].astype(np.float64) @ rest
    bias = layer.bias(graph)
    assert bias is not None

    def value(b: Any) -> Any:
        return b.value.astype(np.float64) * (1 if b.scale is None else b.scale)

    take_out(graph, layer.node, decision.wide)
    now = layer.bias(graph)
    assert now is not None and now.kind == ("float" if style.bias == "float" else "integer")
    assert np.allclose(value(bias) - value(now), added, rtol=1e-5, atol=1e-6)


def test_a_bias_that_cannot_hold_it() -> None:
    def full(b: Any) -> Any:
        b[3] = -(2**31) + 1 if constant[3] > 0 else 2**31 - 1
        return b

    graph, decision = setting(Style(bias="int32"))
    layer = read_layer(graph, graph.producer["conv3"])
    assert layer is not None and check_constants(graph, decision.region, decision.wide) is None
    constant = constant_of(graph, layer, decision.wide, decision.region.quantizer)
    graph, decision = setting(Style(bias="int32"), full)
    why = check_constants(graph, decision.region, decision.wide)
    assert why is not None and why.code == "early_reader" and "int32" in why.message


def test_readers_of_the_sum_need_nothing() -> None:
    model, _ = nets.net(nets.depthwise, Style(bias="int32"))
    graph = EditableGraph(model)
    found = find_regions(graph, infer_shapes(model))
    at = next(r for r in found if isinstance(r, Region) and r.tensor == "conv2")
    assert check_constants(graph, at, Decision(at, "early", UP, LOW).wide) is None
    assert isinstance(model, onnx.ModelProto)
