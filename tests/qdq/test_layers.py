"""One reader of layers: axes, groups, channels, rows and biases, for every operator."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnx_ocs.model.graph import Graph
from onnx_ocs.qdq import layers
from onnx_ocs.qdq.layers import Layer, read_layer

CASES: dict[str, tuple[str, dict[str, Any], tuple[int, ...], tuple[int, int, int, int, int]]] = {
    # operator, attributes, the weight's shape; inputs, outputs, axis of inputs, axis of outputs, groups
    "conv": ("Conv", {}, (6, 4, 3, 3), (4, 6, 1, 0, 1)),
    "grouped": ("Conv", {"group": 2}, (6, 4, 3), (8, 6, 1, 0, 2)),
    "depthwise": ("Conv", {"group": 6}, (6, 1, 3, 3), (6, 6, 1, 0, 6)),
    "transposed": ("ConvTranspose", {}, (4, 6, 3, 3), (4, 6, 0, 1, 1)),
    "transposed grouped": ("ConvTranspose", {"group": 2}, (4, 6, 2, 2), (4, 12, 0, 1, 2)),
    "gemm": ("Gemm", {}, (4, 6), (4, 6, 0, 1, 1)),
    "gemm transB": ("Gemm", {"transB": 1}, (6, 4), (4, 6, 1, 0, 1)),
    "matmul": ("MatMul", {}, (4, 6), (4, 6, 0, 1, 1)),
    "matmul stacked": ("MatMul", {}, (3, 4, 6), (4, 6, 1, 2, 1)),
}


def graph_of(op: str, attributes: dict[str, Any], weight: np.ndarray | None, bias: np.ndarray | None = None) -> Graph:
    """A node with its weight, which is a graph input where there is none."""
    constants = {"w": weight, "b": bias}
    names = ["x", "w", *(["b"] if bias is not None else [])]
    node = helper.make_node(op, names, ["y"], **attributes)
    inputs = [
        helper.make_tensor_value_info(t, TensorProto.FLOAT, None) for t in ("x", *(["w"] if weight is None else []))
    ]
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    stored = [numpy_helper.from_array(v, k) for k, v in constants.items() if v is not None]
    graph = helper.make_graph([node], "g", inputs, [out], stored)
    return Graph(helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)]))


def layer_of(name: str, bias: np.ndarray | None = None) -> tuple[Graph, Layer, np.ndarray]:
    op, attributes, shape, _ = CASES[name]
    w = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    graph = graph_of(op, attributes, w, bias)
    layer = read_layer(graph, graph.nodes[0])
    assert layer is not None
    return graph, layer, w


@pytest.mark.parametrize("name", CASES)
def test_channels_and_axes(name: str) -> None:
    _, layer, _ = layer_of(name)
    assert (layer.inputs, layer.outputs, layer.into, layer.out, layer.groups) == CASES[name][3]


@pytest.mark.parametrize("name", CASES)
def test_rows_answer_an_input_of_one_channel(name: str) -> None:
    """What comes out where one input channel is 1 at one position: the sum of squares is that of the channel's row."""
    graph, layer, w = layer_of(name)
    rows = layer.rows(graph)
    assert rows is not None and rows.dtype == np.float64 and len(rows) == layer.inputs
    if not layer.slides:
        rows = np.moveaxis(rows.reshape(layer.inputs, -1, layer.outputs), 0, 1)
        plain = w.T if layer.into else w
        assert np.array_equal(rows, (w if w.ndim > 2 else plain[None]).astype(np.float64))
        return
    middle, size = [3] * (w.ndim - 2), [7] * (w.ndim - 2)
    session = ort.InferenceSession(graph.model.SerializeToString(), providers=["CPUExecutionProvider"])
    for c in range(layer.inputs):
        x = np.zeros((1, layer.inputs, *size), np.float32)
        x[(0, c, *middle)] = 1
        (y,) = session.run(None, {"x": x})
        assert y.shape[1] == layer.outputs
        assert (y.astype(np.float64) ** 2).sum() == pytest.approx((rows[c] ** 2).sum(), rel=1e-6)
        block = c // (layer.inputs // layer.groups)  # its group's outputs, and no others
        seen = np.flatnonzero((y != 0).any(axis=(0, *range(2, y.ndim))))
        assert set(seen // (layer.outputs // layer.groups)) == {block}


@pytest.mark.parametrize("name", CASES)
def test_parts_are_the_rows_some_outputs_at_a_time(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    op, attributes, shape, _ = CASES[name]
    graph = graph_of(op, attributes, np.arange(np.prod(shape), dtype=np.float32).reshape(shape))
    layer = read_layer(graph, graph.nodes[0])
    assert layer is not None
    whole = layer.rows(graph)
    assert whole is not None
    (one,) = layer.parts(graph)
    np.testing.assert_array_equal(one, whole)
    monkeypatch.setattr(layers, "PART", 2 * whole[:, :1].size)
    parts = list(layer.parts(graph))
    assert len(parts) == -(-whole.shape[1] // 2)
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)


def test_where_channels_lie() -> None:
    conv, gemm, matmul = (layer_of(n)[1] for n in ("conv", "gemm", "matmul"))
    assert conv.reads(1, 4) and not conv.reads(-1, None) and conv.writes(1, 4)
    assert gemm.reads(1, 2) and gemm.reads(-1, None) and not gemm.reads(0, 2)
    assert matmul.reads(2, 3) and matmul.reads(-1, None) and not matmul.reads(1, 3) and not matmul.reads(1, None)
    assert matmul.writes(2, 3) and not matmul.writes(1, 3)
    graph = graph_of("Gemm", {"transA": 1}, np.ones((4, 6), np.float32))
    turned = read_layer(graph, graph.nodes[0])
    assert turned is not None and turned.reads(0, 2) and turned.reads(-2, None) and not turned.reads(1, 2)


def test_biases() -> None:
    graph, layer, _ = layer_of("transposed grouped", np.arange(12, dtype=np.float32))
    bias = layer.bias(graph)
    assert bias is not None and bias.kind == "float" and bias.value.tolist() == list(range(12))
    graph, layer, _ = layer_of("matmul")
    bias = layer.bias(graph)
    assert bias is not None and bias.kind == "none" and bias.value.shape == (6,)
    graph, layer, _ = layer_of("gemm", np.ones((2, 6), np.float32))  # one for each sample
    assert layer.bias(graph) is None


@pytest.mark.parametrize(
    ("op", "weight"), [("Conv", None), ("MatMul", np.ones(4, np.float32)), ("Add", np.ones((4, 6), np.float32))]
)
def test_what_is_no_layer(op: str, weight: np.ndarray | None) -> None:
    """A weight that is computed, a vector, another operator."""
    graph = graph_of(op, {}, weight)
    assert read_layer(graph, graph.nodes[0]) is None
