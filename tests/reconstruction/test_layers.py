"""A layer's linear form: what it says of drawn rows is what onnxruntime computes there."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from zoo import execute

from onnx_ocs.model.graph import Graph
from onnx_ocs.reconstruction.layers import Layer, find_layers
from onnx_ocs.reconstruction.patches import draw, inputs, outputs
from onnx_ocs.refusals import Refusal

RNG = np.random.default_rng(0)


def one_layer(
    op: str, x: tuple[int, ...], w: tuple[int, ...], channels: int, left: bool = False, **attributes: Any
) -> tuple[onnx.ModelProto, np.ndarray]:
    """One layer with int8 weights, per tensor, and a bias; a MatMul has it in an Add."""
    rng = np.random.default_rng(1)
    constants = {"w": rng.integers(-8, 8, w).astype(np.int8), "s": np.float32(0.25)}
    bias = rng.integers(-9, 9, channels).astype(np.float32)
    constants["b"] = bias[:, None] if left else bias
    nodes = [helper.make_node("DequantizeLinear", ["w", "s"], ["wd"])]
    if op == "MatMul":
        nodes += [helper.make_node(op, ["wd", "x"] if left else ["x", "wd"], ["m"])]
        nodes += [helper.make_node("Add", ["m", "b"], ["y"])]
    else:
        nodes += [helper.make_node(op, ["x", "wd", "b"], ["y"], **attributes)]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x)],
        [onnx.ValueInfoProto(name="y")],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model, rng.integers(-9, 9, x).astype(np.float32)


CONVS: list[tuple[str, tuple[int, ...], tuple[int, ...], int, dict[str, Any]]] = [
    ("Conv", (3, 4, 9), (5, 4, 3), 5, {"pads": [1, 2]}),
    ("Conv", (2, 4, 7, 8), (6, 4, 3, 2), 6, {"strides": [2, 1], "pads": [1, 0, 2, 1]}),
    ("Conv", (2, 4, 9, 9), (6, 4, 3, 3), 6, {"dilations": [2, 3], "pads": [2, 3, 2, 3]}),
    ("Conv", (2, 6, 7, 7), (9, 2, 3, 3), 9, {"group": 3, "auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    ("Conv", (2, 6, 8, 8), (12, 1, 2, 2), 12, {"group": 6, "auto_pad": "SAME_LOWER", "strides": [1, 2]}),
    ("Conv", (1, 2, 4, 5, 6), (3, 2, 2, 2, 2), 3, {"auto_pad": "VALID"}),
    ("ConvTranspose", (2, 4, 5, 6), (4, 3, 3, 2), 3, {"strides": [2, 3], "pads": [1, 0, 0, 1]}),
    ("ConvTranspose", (2, 6, 4, 4), (6, 2, 3, 3), 4, {"group": 2, "strides": [2, 2], "output_padding": [1, 1]}),
    ("ConvTranspose", (2, 4, 5), (4, 3, 3), 3, {"dilations": [2], "strides": [2], "auto_pad": "SAME_UPPER"}),
    ("ConvTranspose", (2, 4, 5), (4, 3, 4), 3, {"strides": [3], "output_shape": [14]}),
    ("Gemm", (5, 7), (7, 4), 4, {"alpha": 0.5, "beta": 2.0}),
    ("Gemm", (5, 7), (4, 7), 4, {"transB": 1}),
    ("Gemm", (7, 5), (4, 7), 4, {"transB": 1, "transA": 1}),
    ("MatMul", (2, 3, 7), (7, 4), 4, {}),
    ("MatMul", (2, 7, 5), (4, 7), 4, {"left": True}),
]


@pytest.mark.parametrize("op, x, w, channels, attributes", CONVS, ids=[f"{k}_{c[0]}" for k, c in enumerate(CONVS)])
def test_rows_are_what_onnxruntime_computes(
    op: str, x: tuple[int, ...], w: tuple[int, ...], channels: int, attributes: dict[str, Any]
) -> None:
    model, value = one_layer(op, x, w, channels, **attributes)
    (layer,) = find_layers(Graph(model))
    assert isinstance(layer, Layer) and layer.free and layer.y == "y"
    y = execute(model, {"x": value})[0]
    positions = draw(y.size // channels, 40, RNG.random(100), 3)
    seen, wanted = inputs(layer, value, y.shape, positions), outputs(y, layer.axis, positions)
    matrix = layer.matrix(layer.weight.value) * layer.factor
    got = np.zeros_like(wanted, dtype=np.float64)
    for g in range(len(matrix)):
        got[:, layer.outputs[g]] = seen[:, layer.columns[g]] @ matrix[g].T
    assert np.array_equal(got + layer.fixed, wanted)


def test_positions_are_drawn_once_and_do_not_depend_on_batches() -> None:
    dice = RNG.random(64)
    for count, most in ((10, 20), (1000, 30), (31, 30)):
        found = draw(count, most, dice, 5)
        assert len(found) == min(count, most) == len(set(found.tolist())) and found.max() < count
        assert np.array_equal(found, draw(count, most, dice, 5))
    allowed = np.arange(100) % 3 == 0
    assert allowed[draw(100, 12, dice, 9, allowed)].all()


def test_a_weight_that_others_read_is_refused() -> None:
    model, _ = one_layer("Gemm", (5, 7), (7, 4), 4)
    model.graph.node.append(helper.make_node("Identity", ["wd"], ["z"]))
    model.graph.output.append(onnx.ValueInfoProto(name="z"))
    (found,) = find_layers(Graph(model))
    assert isinstance(found, Refusal) and found.code == "weight_shared"
