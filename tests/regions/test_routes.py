from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from routed import SHAPE, Reader, routed, weight
from wide_layouts import wide
from zoo import Net, Style, execute

from onnx_ocs.model.graph import Graph
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.qdq.quantizer import Quantizer
from onnx_ocs.regions.routes import route
from onnx_ocs.regions.wide import Wide

LAYERS: dict[str, tuple[Reader, tuple[int, ...], int, int]] = {  # what, shape, axis of the channels, axis of the weight
    "conv": (lambda n, t: n.op("Conv", t, weight(n, 5, 4, 3, 3)), (4, 6, 6), 1, 1),
    "conv1d": (lambda n, t: n.op("Conv", t, weight(n, 5, 4, 3)), (4, 6), 1, 1),
    "conv_transpose": (lambda n, t: n.op("ConvTranspose", t, weight(n, 4, 5, 2, 2)), (4, 6, 6), 1, 0),
    "gemm": (lambda n, t: n.op("Gemm", t, weight(n, 4, 5)), (4,), 1, 0),
    "gemm_negative_axis": (lambda n, t: n.op("Gemm", t, weight(n, 4, 5)), (4,), -1, 0),
    "gemm_transposed": (lambda n, t: n.op("Gemm", t, weight(n, 5, 4), transB=1), (4,), 1, 1),
    "matmul": (lambda n, t: n.op("MatMul", t, weight(n, 4, 5)), (7, 4), 2, 0),
    "matmul_batched": (lambda n, t: n.op("MatMul", t, weight(n, 7, 4, 5)), (7, 3, 4), 3, 1),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_read_the_copies(name: str) -> None:
    make, shape, axis, weight_axis = LAYERS[name]
    layout = wide([1, 0, 2, 0], axis=axis)
    r, n, y = routed(make, layout, shape)
    assert (r.kind, r.axis) == ("weight", weight_axis)
    narrow = n.feed["x"]
    shares = np.take(1 + layout.copies()[0], layout.origin)  # every copy gets its part of the value
    along = [-1 if k == axis % narrow.ndim else 1 for k in range(narrow.ndim)]
    parts = (np.take(narrow, layout.origin, axis=axis) / shares.reshape(along)).astype(np.float32)
    m = Net(Style(opset=18), x=parts.shape[1:])
    m.nodes, m.initializers = n.nodes, {"w": np.take(n.initializers["w"], layout.origin, axis=weight_axis)}
    expected, got = execute(n.model(y), {"x": narrow})[0], execute(m.model(y), {"x": parts})[0]
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("groups", "layout", "kind"),
    [
        (2, wide([1, 0, 1, 0], groups=2), "grouped"),
        (2, wide([1, 0, 1, 0]), "fold"),
        (2, wide([1, 0, 0, 0], groups=2), "fold"),
        (4, wide([1, 1, 1, 1], groups=4), "depthwise"),
        (4, wide([1, 0, 1, 0]), "depthwise"),
    ],
)
def test_grouped_layers(groups: int, layout: Wide, kind: str) -> None:
    r, _, _ = routed(lambda n, t: n.op("Conv", t, weight(n, 8, 4 // groups, 3, 3), group=groups), layout, (4, 6, 6))
    assert r.kind == kind
    assert r.folds == (kind != "grouped") and bool(r.why) == r.folds and r.output is None


def test_grouped_layers_with_steps_per_input_fold() -> None:
    n = Net(Style(), x=(4, 6, 6))
    y = n.conv(n.op("Identity", "x", out="t"), groups=2, axis=1)
    graph = Graph(n.model(y))
    node = next(m for m in graph.nodes if m.op_type == "Conv")
    assert route(graph, node, 0, wide([1, 0, 1, 0], groups=2), infer_shapes(graph.model)).kind == "fold"


def test_integers_between_q_and_dq() -> None:
    n = Net(Style(), x=SHAPE)
    y = n.dq(n.op("MaxPool", n.q("x"), kernel_shape=[2, 2]), out="y")
    n.op("Add", "x_q", "x_q", out="computed")
    graph = Graph(n.model(y))
    shapes = infer_shapes(graph.model)
    own = Quantizer(
        np.float64(n.initializers["x_scale"]), np.asarray(0), None, np.dtype(np.uint8), np.dtype(np.float32), 0, 255
    )
    layout = replace(wide([1, 0, 0, 0], grid=own), integer=True)
    kinds = {}
    for m in graph.nodes[1:]:
        r = route(graph, m, 0, layout, shapes)
        kinds[m.op_type] = r.kind
        if m.op_type == "DequantizeLinear":
            assert r.output is not None and not r.output.integer and r.output.grid is own
    assert kinds == {"MaxPool": "carry", "DequantizeLinear": "carry", "Add": "fold"}
    q = graph.nodes[0]
    assert route(graph, q, 0, wide([1, 0, 0, 0], grid=own), shapes).kind == "carry"
    assert route(graph, q, 0, wide([1, 0, 0, 0]), shapes).kind == "fold"
