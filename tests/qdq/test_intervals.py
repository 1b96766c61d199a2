"""Intervals that values cannot leave."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnx_ocs.model.graph import Graph
from onnx_ocs.qdq.intervals import value_bounds


def chain() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Mul", ["x", "a"], ["m"]),
        helper.make_node("Add", ["m", "b"], ["y"]),
        helper.make_node("Relu", ["y"], ["r"]),
        helper.make_node("Clip", ["r", "lo", "hi"], ["c"]),
    ]
    constants = {"a": 2.0, "b": 1.0, "lo": -1.0, "hi": 6.0}
    g = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])],
        [helper.make_tensor_value_info("c", TensorProto.FLOAT, [2])],
        [numpy_helper.from_array(np.asarray(v, np.float32), k) for k, v in constants.items()],
    )
    return helper.make_model(g, opset_imports=[helper.make_opsetid("", 17)])


def test_bounds_of_what_is_asked() -> None:
    known = value_bounds(Graph(chain()), ["c"])
    assert known["c"] == (0.0, 6.0) and known["r"] == (0.0, np.inf)
    assert "c" not in value_bounds(Graph(chain()), ["y"])
