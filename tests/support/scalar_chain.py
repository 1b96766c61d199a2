"""Four operators on two values: Mul, Add, Relu, Clip."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


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
