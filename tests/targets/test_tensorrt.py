"""TensorRT: symmetric int8 with float biases is what it takes; floats may stand in between."""

from __future__ import annotations

from zoo import Net, Style

from onnx_ocs.model.graph import Graph
from onnx_ocs.targets.rules import violations
from onnx_ocs.targets.tensorrt import RULES


def test_a_symmetric_file_keeps_its_rules() -> None:
    n = Net(Style(dtype="int8", bias="float"), x=(4, 6, 6))
    a = n.op("Relu", n.conv(n.qdq("x", zero="mid")))
    model = n.model(n.conv(n.qdq(n.op("Mul", a, n.op("Sigmoid", a)), zero="mid")))
    assert violations(Graph(model), RULES) == []


def test_other_zero_points_and_integer_biases_break_them() -> None:
    n = Net(Style(dtype="uint8", bias="int32"), x=(4, 6, 6))
    found = {v.what for v in violations(Graph(n.model(n.conv(n.qdq("x", zero="mid")))), RULES)}
    assert found == {"an activation is uint8", "an activation's zero point is not 0", "a bias is int32"}
