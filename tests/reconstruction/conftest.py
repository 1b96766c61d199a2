"""Models of one node and of one layer, that several test files build."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

Array = np.ndarray[Any, Any]


def node_model(
    op: str, x: Array, *constants: Array | None, opset: int = 17, outputs: int = 1, **attributes: Any
) -> onnx.ModelProto:
    """One node that reads `x` and constants."""
    names = ["x", *("" if c is None else f"c{k}" for k, c in enumerate(constants))]
    outs = [f"y{k}" for k in range(outputs)]
    graph = helper.make_graph(
        [helper.make_node(op, names, outs, **attributes)],
        "g",
        [helper.make_tensor_value_info("x", helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)],
        [onnx.ValueInfoProto(name=o) for o in outs],
        [numpy_helper.from_array(c, f"c{k}") for k, c in enumerate(constants) if c is not None],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 8 if opset < 21 else 10
    return model


def layer_model(
    op: str, x: tuple[int, ...], w: tuple[int, ...], channels: int, left: bool = False, **attributes: Any
) -> tuple[onnx.ModelProto, Array]:
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


@pytest.fixture
def one_node() -> Any:
    return node_model


@pytest.fixture
def one_layer() -> Any:
    return layer_model
