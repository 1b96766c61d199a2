"""What onnx has against a model, in one line."""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper

from onnx_ocs.model.checker import complaint


def model(shape: list[int]) -> onnx.ModelProto:
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", [2, 3]), ("y", shape)))
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def test_a_good_model() -> None:
    assert complaint(model([2, 3]), full=False) is None and complaint(model([2, 3]), full=True) is None


def test_shapes_are_looked_at_in_full_only() -> None:
    assert complaint(model([2, 4]), full=False) is None
    why = complaint(model([2, 4]), full=True)
    assert why is not None and "\n" not in why
    assert complaint(model([2, 4]), full=True, most=20) == why[:20]


def test_a_model_that_is_none() -> None:
    assert complaint(onnx.ModelProto(), full=False)
    broken = model([2, 3])
    broken.graph.node[0].input[0] = "nowhere"
    assert complaint(broken, full=False)
