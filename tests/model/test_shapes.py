"""Shapes: inferred without weights, through contrib operators, and never at the price of an exception."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import zoo
from onnx import TensorProto, helper, numpy_helper
from zoo import Net, Style

from onnx_ocs.model.shapes import infer_shapes


def graph(nodes: list[onnx.NodeProto], *constants: onnx.TensorProto, domain: str = "") -> onnx.ModelProto:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4, 6])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    imports = [helper.make_opsetid("", 17), *([helper.make_opsetid(domain, 1)] if domain else [])]
    return helper.make_model(helper.make_graph(nodes, "g", [x], [y], constants), opset_imports=imports)


@pytest.mark.parametrize("name", ["residual", "matmul_gelu", "flatten_gemm", "resize", "contrib", "unsorted"])
def test_shapes_are_those_that_onnxruntime_computes(name: str) -> None:
    model, feed = zoo.build(name)
    shapes = infer_shapes(model)
    wanted = [t for n in model.graph.node for t in n.output if not t.endswith(("_w_dq", "_q"))]
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    probe.graph.output.extend(onnx.ValueInfoProto(name=t) for t in wanted)
    for tensor, value in zip(wanted, zoo.execute(probe, feed), strict=True):
        known = shapes[tensor]
        assert len(known) == value.ndim
        assert all(a == b for a, b in zip(known, value.shape, strict=True) if isinstance(a, int)), tensor
        assert all(isinstance(d, int) for d in known[1:]), tensor  # the batch alone is free


def test_a_symbol_stays_and_can_be_replaced() -> None:
    model = graph([helper.make_node("Relu", ["x"], ["y"])])
    assert infer_shapes(model)["y"] == ("N", 4, 6)
    assert infer_shapes(model, {"x": (5, 4, 6)})["y"] == (5, 4, 6)
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"  # the model is not changed


def test_constants_have_the_shapes_that_are_stored() -> None:
    n = Net(Style(), x=(4, 6, 6))
    model = n.model(n.conv("x"))
    shapes = infer_shapes(model)
    assert all(shapes[t.name] == tuple(t.dims) for t in model.graph.initializer)
    assert shapes["conv1_w"] == (8, 4, 3, 3)


def test_a_small_constant_is_read_as_a_shape() -> None:
    target = numpy_helper.from_array(np.asarray([0, 2, -1], np.int64), "to")
    model = graph([helper.make_node("Reshape", ["x", "to"], ["y"])], target)
    assert infer_shapes(model)["y"] == ("N", 2, 12)


@pytest.mark.parametrize("op", ["Gelu", "FastGelu", "QuickGelu", "BiasGelu", "Swish"])
def test_contrib_activations_keep_the_shape(op: str) -> None:
    inputs = ["x", "bias"] if op == "BiasGelu" else ["x"]
    bias = numpy_helper.from_array(np.zeros(6, np.float32), "bias")
    model = graph([helper.make_node(op, inputs, ["y"], domain="com.microsoft")], bias, domain="com.microsoft")
    assert infer_shapes(model)["y"] == ("N", 4, 6)
    assert model.graph.node[0].op_type == op


def test_what_inference_does_not_like_leaves_what_the_file_says() -> None:
    bad = helper.make_node("Reshape", ["x", "to"], ["y"])  # 4 * 6 values do not fill rows of 5
    model = graph([bad], numpy_helper.from_array(np.asarray([1, 5], np.int64), "to"))
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    model.graph.value_info.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [3]))
    shapes = infer_shapes(model)
    assert shapes["x"] == (1, 4, 6) and shapes["z"] == (3,)


def test_an_unknown_operator_hides_the_shape() -> None:
    model = graph([helper.make_node("Secret", ["x"], ["s"], domain="my.own")], domain="my.own")
    model.graph.node.append(helper.make_node("Relu", ["s"], ["y"]))
    shapes = infer_shapes(model)
    assert "s" not in shapes and "y" not in shapes and shapes["x"] == ("N", 4, 6)
