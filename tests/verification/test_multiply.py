"""Layers in numpy against onnxruntime, on integers small enough to be exact."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import zoo
from onnx import helper, numpy_helper

from onnx_ocs.model.graph import Graph
from onnx_ocs.verification import multiply as module
from onnx_ocs.verification.multiply import multiply

Shape = tuple[int, ...]


def layer(op: str, x: Shape, w: Shape, b: Shape | None, **attributes: Any) -> tuple[onnx.ModelProto, Any]:
    rng = np.random.default_rng(len(x) + sum(w))
    values = {"w": rng.integers(-8, 9, w).astype(np.float32)}
    if b is not None:
        values["b"] = rng.integers(-8, 9, b).astype(np.float32)
    node = helper.make_node(op, ["x", *values], ["y"], **attributes)
    inputs = [helper.make_tensor_value_info("x", 1, x)]
    outputs = [helper.make_tensor_value_info("y", 1, None)]
    graph = helper.make_graph([node], "g", inputs, outputs, [numpy_helper.from_array(v, k) for k, v in values.items()])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model, rng.integers(-8, 9, x).astype(np.float32)


CASES: dict[str, Any] = {
    "conv": ("Conv", (2, 4, 7, 6), (3, 4, 3, 2), (3,), {}),
    "conv, pads, strides, dilations": (
        "Conv", (2, 4, 9, 8), (3, 4, 3, 2), (3,), {"pads": [1, 0, 2, 3], "strides": [2, 3], "dilations": [2, 1]},
    ),
    "conv, groups": ("Conv", (2, 6, 5, 5), (4, 3, 3, 3), None, {"group": 2}),
    "conv, same upper": ("Conv", (1, 2, 6, 7), (2, 2, 3, 2), (2,), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    "conv, same lower": ("Conv", (1, 2, 6, 7), (2, 2, 3, 2), (2,), {"auto_pad": "SAME_LOWER", "strides": [2, 2]}),
    "conv, valid": ("Conv", (1, 2, 6), (2, 2, 3), (2,), {"auto_pad": "VALID"}),
    "conv, 3D": ("Conv", (1, 2, 4, 5, 3), (3, 2, 2, 2, 2), (3,), {}),
    "transposed": ("ConvTranspose", (2, 4, 3, 4), (4, 3, 2, 3), (3,), {}),
    "transposed, strides, pads": (
        "ConvTranspose", (2, 4, 3, 4), (4, 3, 3, 3), (3,),
        {"strides": [2, 3], "pads": [1, 0, 1, 2], "output_padding": [1, 2], "dilations": [1, 2]},
    ),
    "transposed, groups": ("ConvTranspose", (2, 4, 3), (4, 2, 2), (4,), {"group": 2, "strides": [2]}),
    "transposed, output shape": (
        "ConvTranspose", (1, 2, 3, 3), (2, 2, 3, 3), None, {"strides": [2, 2], "output_shape": [6, 6]},
    ),
    "gemm": ("Gemm", (5, 4), (4, 3), (3,), {}),
    "gemm, transposed, scaled": ("Gemm", (4, 5), (3, 4), (5, 3), {"transA": 1, "transB": 1, "alpha": 0.5, "beta": 2.0}),
    "matmul": ("MatMul", (2, 5, 4), (4, 3), None, {}),
    "matmul, batched weight": ("MatMul", (2, 5, 4), (2, 4, 3), None, {}),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_it_computes_what_onnxruntime_does(name: str) -> None:
    op, x, w, b, attributes = CASES[name]
    model, feed = layer(op, x, w, b, **attributes)
    graph = Graph(model)
    got = multiply(graph, graph.nodes[0], feed)
    assert got.dtype == np.float64
    np.testing.assert_array_equal(got, zoo.execute(model, {"x": feed})[0])


def test_a_computed_weight_is_refused() -> None:
    model, feed = layer("MatMul", (2, 4), (4, 3), None)
    model.graph.input.append(helper.make_tensor_value_info("w", 1, [4, 3]))
    del model.graph.initializer[:]
    graph = Graph(model)
    with pytest.raises(ValueError, match="no constant"):
        multiply(graph, graph.nodes[0], feed)


@pytest.mark.parametrize("name", ["gemm", "gemm, transposed, scaled", "matmul"])
def test_a_large_matrix_is_multiplied_in_parts(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    op, x, w, b, attributes = CASES[name]
    model, value = layer(op, x, w, b, **attributes)
    graph = Graph(model)
    whole = multiply(graph, graph.nodes[0], value)
    monkeypatch.setattr(module, "LARGE", 4)
    np.testing.assert_array_equal(multiply(graph, graph.nodes[0], value), whole)
