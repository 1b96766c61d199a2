"""The reference: the model without activation quantizers, but with what their saturation stands for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
import zoo
from zoo import Net, Style

from onnx_ocs.model.graph import Graph
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.probes.reference import reference
from onnx_ocs.regions.find import find_regions
from onnx_ocs.regions.region import Region

X = np.linspace(-9, 9, 2 * 4 * 36).reshape(2, *zoo.IMAGE).astype(np.float32)


def quantized(zero: str, **style: Any) -> tuple[onnx.ModelProto, list[Region]]:
    n = Net(Style(**style), x=zoo.IMAGE)
    model = n.model(n.op("Neg", n.qdq("x", zero, scale=0.01)))
    return model, find_regions(Graph(model), infer_shapes(model))


@pytest.mark.parametrize("style", [{}, {"bits": 3}, {"opset": 10}, {"half": True, "opset": 19}], ids=str)
def test_nothing_is_rounded_or_clipped(style: dict[str, Any]) -> None:
    model, regions = quantized("mid", **style)
    new = reference(model, regions)
    assert not {n.op_type for n in new.graph.node} & {"QuantizeLinear", "DequantizeLinear", "Clip"}
    x = X.astype(np.float16 if style.get("half") else np.float32)
    np.testing.assert_array_equal(zoo.execute(new, {"x": x})[0], -x)


def test_a_saturation_that_acts_as_a_relu_stays() -> None:
    model, regions = quantized("low")
    np.testing.assert_array_equal(zoo.execute(reference(model, regions), {"x": X})[0], -np.maximum(X, 0))


def test_it_goes_where_no_value_is_negative() -> None:
    model, regions = quantized("low")
    new = reference(model, [replace(regions[0], bounds=(0.0, np.inf))])
    assert "Relu" not in {n.op_type for n in new.graph.node}


def test_a_bound_that_was_folded_stays() -> None:
    model, regions = quantized("low")
    new = reference(model, [replace(regions[0], folded=True)])
    np.testing.assert_array_equal(zoo.execute(new, {"x": X})[0], -np.clip(X, 0, 6))


def test_weights_stay_quantized_and_the_model_is_not_changed() -> None:
    model, feed = zoo.build("residual")
    before = model.SerializeToString()
    new = reference(model, find_regions(Graph(model), infer_shapes(model)))
    assert model.SerializeToString() == before
    assert [n.op_type for n in new.graph.node].count("DequantizeLinear") == 3  # those of the weights
    assert zoo.execute(new, feed)[0].shape == zoo.execute(model, feed)[0].shape


def test_an_unreadable_quantizer_stays() -> None:
    n = Net(Style(), x=zoo.IMAGE)
    model = n.model(n.op("Neg", n.qdq("x", "mid", scale=0.0)))
    regions = find_regions(Graph(model), infer_shapes(model))
    assert regions[0].quantizer is None
    assert [n.op_type for n in reference(model, regions).graph.node] == ["QuantizeLinear", "DequantizeLinear", "Neg"]
