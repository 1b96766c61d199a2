"""The one function that reads a quantized tensor, in the spellings of exporters."""

from __future__ import annotations

import detectors
import numpy as np
import onnx
import pytest
import wasted
import zoo
from zoo import Net

from onnx_ocs.model.graph import Graph
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.regions.find import find_regions
from onnx_ocs.regions.function import FUNCTIONS, function_behind
from onnx_ocs.regions.region import Region


def regions(model: onnx.ModelProto) -> dict[str, Region]:
    return {r.tensor: r for r in find_regions(Graph(model), infer_shapes(model)) if isinstance(r, Region)}


@pytest.mark.parametrize(
    ("model", "tensor", "wanted"),
    [
        (wasted.silu(), "sub1", "Swish"),
        (wasted.silu("quantized pieces"), "sub1", "Swish"),  # as onnxruntime quantizes them
        (wasted.silu("quantized pieces"), "sigmoid1", None),
        (wasted.silu("one node"), "sub1", "HardSwish"),
        (wasted.silu(), "mul2", None),
        (wasted.wrong_side(), "relu1", None),
        (detectors.build("several"), "sub1", "Sigmoid"),
    ],
)
def test_the_function_behind(model: onnx.ModelProto, tensor: str, wanted: str | None) -> None:
    assert function_behind(Graph(model), regions(model)[tensor]) == wanted


def test_another_reader_sees_negative_values() -> None:
    net = Net(x=(3, 8, 8))
    t = net.qdq(net.conv("x"), "mid", 1.0)
    model = net.model(net.op("Relu", t, out="y"), net.op("Neg", t, out="z"))
    assert function_behind(Graph(model), regions(model)["conv1"]) is None


def test_another_factor_is_no_gate() -> None:
    """Sigmoid's output is multiplied by something else: the tensor is read by Sigmoid alone."""
    net = Net(x=(3, 8, 8))
    t = net.qdq(net.conv("x"), "mid", 1.0)
    model = net.model(net.op("Mul", net.op("Sigmoid", t), net.const("two", 2.0), out="y"))
    assert function_behind(Graph(model), regions(model)["conv1"]) == "Sigmoid"


@pytest.mark.parametrize("name", ["Relu", "Sigmoid", "HardSigmoid", "HardSwish", "Gelu"])
def test_functions_are_those_of_onnx(name: str) -> None:
    x = np.linspace(-70, 70, 141, dtype=np.float32)
    node = onnx.helper.make_node(name, ["x"], ["y"])
    info = [onnx.helper.make_tensor_value_info(t, onnx.TensorProto.FLOAT, [141]) for t in ("x", "y")]
    graph = onnx.helper.make_graph([node], "f", info[:1], info[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=9)
    kwargs = {} if name != "HardSigmoid" else {"alpha": 1 / 6}
    node.attribute.extend(onnx.helper.make_attribute(k, v) for k, v in kwargs.items())
    model.graph.node[0].CopyFrom(node)
    np.testing.assert_allclose(FUNCTIONS[name](x.astype(np.float64)), zoo.execute(model, {"x": x})[0], atol=2e-3)
