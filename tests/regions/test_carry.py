"""Operators that carry copies on, and those for which the copies are folded back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from routed import SHAPE, Array, Reader, routed, weight
from wide_layouts import total, wide
from zoo import Net, Style, execute, pool

from onnx_ocs.model.graph import Graph
from onnx_ocs.model.shapes import infer_shapes
from onnx_ocs.regions.routes import route
from onnx_ocs.regions.wide import Wide, concat_sizes, join

CARRIED: dict[str, tuple[Reader, int]] = {  # what, and the axis on which the channels come out
    "identity": (pool("Identity"), 1),
    "dropout": (pool("Dropout"), 1),
    "max_pool": (pool("MaxPool", kernel_shape=[2, 2], pads=[1, 1, 0, 0]), 1),
    "average_pool": (pool("AveragePool", kernel_shape=[2, 2], strides=[1, 2]), 1),
    "global_average_pool": (pool("GlobalAveragePool"), 1),
    "reduce_mean": (lambda n, t: n.op("ReduceMean", t, n.ints("axes", -1, 2)), 1),
    "reduce_mean_flat": (lambda n, t: n.op("ReduceMean", t, n.ints("axes", 0, 3), keepdims=0), 0),
    "transpose": (pool("Transpose", perm=[0, 2, 3, 1]), 3),
    "transpose_all": (pool("Transpose"), 2),
    "flatten": (pool("Flatten"), 1),
    "reshape_merge_behind": (lambda n, t: n.op("Reshape", t, n.ints("to", 0, 0, 18)), 1),
    "reshape_split_behind": (lambda n, t: n.op("Reshape", t, n.ints("to", 0, 0, 3, 2, 3)), 1),
    "reshape_flatten": (lambda n, t: n.op("Reshape", t, n.ints("to", 0, -1)), 1),
    "unsqueeze": (lambda n, t: n.op("Unsqueeze", t, n.ints("axes", 0, 3)), 2),
    "pad": (lambda n, t: n.op("Pad", t, n.ints("pads", 0, 0, 1, 2, 0, 0, 0, 1)), 1),
    "pad_edge": (lambda n, t: n.op("Pad", t, n.ints("pads", 0, 0, 1, 2, 0, 0, 0, 1), mode="edge"), 1),
    "resize_nearest": (lambda n, t: n.op("Resize", t, "", n.const("to", [1, 1, 2, 2])), 1),
    "resize_cubic": (lambda n, t: n.op("Resize", t, "", n.const("to", [1, 1, 1.5, 2]), mode="cubic"), 1),
}


def random_split(layout: Wide, rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """A value on the grid, and its base and copies as the quantizers give them."""
    up, low = layout.copies()
    top, bottom = 7.5 * (1 + up), -7.5 * (low + (low > 0))
    u = rng.random((layout.narrow, *shape))
    expand = (slice(None), *[None] * len(shape))
    value = np.rint((bottom[expand] + u * (top - bottom)[expand]) * 2) / 2
    parts = []
    for c, lv in zip(layout.origin, layout.level, strict=True):
        if lv > 0:
            parts.append(np.clip(value[c] - lv * 7.5, 0, 7.5))
        elif lv < 0:
            parts.append(np.clip(value[c] + (-lv) * 7.5, -7.5, 0))
        else:
            parts.append(np.clip(value[c], -7.5 if low[c] else 0, 7.5))
    return value.astype(np.float32)[None], np.stack(parts).astype(np.float32)[None]


@pytest.mark.parametrize("copies", [([1, 0, 2, 0], None), ([1, 0, 0, 1], [0, 2, 0, 1])], ids=["upper", "both sides"])
@pytest.mark.parametrize("name", CARRIED)
def test_carried(name: str, copies: tuple[list[int], list[int] | None]) -> None:
    """The node is run on the wide value: the copies of its output add up to its output of the narrow value."""
    make, axis = CARRIED[name]
    layout = wide(*copies)
    r, n, y = routed(make, layout)
    assert r.kind == "carry" and r.output is not None and r.output.axis == axis
    narrow, parts = random_split(layout, n.rng, SHAPE[1:])
    np.testing.assert_array_equal(total(parts, layout), narrow)
    shapes = {"x": (layout.origin.size, *SHAPE[1:])}
    expected = execute(n.model(y), {"x": narrow})[0]
    m = Net(Style(opset=18), **shapes)
    m.nodes, m.initializers = n.nodes, n.initializers
    got = execute(m.model(y), {"x": parts})[0]
    np.testing.assert_allclose(total(got, r.output), expected, rtol=1e-5, atol=1e-5)
    assert r.output.narrow == expected.shape[axis] and r.output.origin.size == got.shape[axis]
    if r.output.grid is not None:  # what claims to lie on the grid does so, and within the range
        assert np.array_equal(got * 2, np.rint(got * 2)) and np.abs(got).max() <= 7.5


FOLDED: dict[str, tuple[Reader, str]] = {
    "relu": (pool("Relu"), "not linear"),
    "sigmoid": (pool("Sigmoid"), "not linear"),
    "add": (lambda n, t: n.op("Add", t, t), "not linear"),
    "global_max_pool": (pool("GlobalMaxPool"), "not linear"),
    "flatten_batch": (pool("Flatten", axis=2), "mixes"),
    "reshape_mixes": (lambda n, t: n.op("Reshape", t, n.ints("to", 0, 6, 12)), "does not keep"),
    "reshape_computed": (lambda n, t: n.op("Reshape", t, n.op("Shape", "x")), "computed"),
    "reduce_channels": (lambda n, t: n.op("ReduceMean", t, n.ints("axes", 1)), "reduces the channels"),
    "reduce_all": (pool("ReduceMean"), "unknown axes"),
    "pad_channels": (lambda n, t: n.op("Pad", t, n.ints("pads", 0, 1, 0, 0, 0, 0, 0, 0)), "pads the channels"),
    "pad_ones": (lambda n, t: n.op("Pad", t, n.ints("pads", *[0] * 4, 0, 0, 1, 1), n.const("one", 1)), "than zeros"),
    "resize_channels": (lambda n, t: n.op("Resize", t, "", n.const("to", [1, 2, 1, 1])), "scales"),
    "quantize_elsewhere": (
        lambda n, t: n.op("QuantizeLinear", t, n.const("s", 0.25), n.const("z", 0, np.uint8)),
        "another grid",
    ),
    "concat_rows": (lambda n, t: n.op("Concat", t, t, axis=2), "another axis"),
    "conv_dynamic": (lambda n, t: n.op("Conv", "x", t, kernel_shape=[3, 6]), "not a constant"),
    "gemm_other_axis": (
        lambda n, t: n.op("MatMul", t, weight(n, 6, 2)),
        "not a constant that can be repeated, or the channels",
    ),
}


@pytest.mark.parametrize("name", FOLDED)
def test_folded(name: str) -> None:
    make, why = FOLDED[name]
    shape = (4, 4, 6) if name == "conv_dynamic" else SHAPE
    n = Net(Style(opset=18), x=shape)
    y = make(n, n.op("Identity", "x", out="t"))
    graph = Graph(n._model())
    node = next(m for m in graph.nodes if y in m.output)
    r = route(graph, node, list(node.input).index("t"), wide([1, 0, 2, 0]), infer_shapes(graph.model))
    assert r.kind == "fold" and r.output is None and why in r.why


def test_max_pool_needs_the_grid() -> None:
    """Behind an average the copies are no longer monotone functions of one value."""
    r, _, _ = routed(pool("MaxPool", kernel_shape=[2, 2]), wide([1, 0, 0, 0], grid=None))
    assert r.kind == "fold"


@pytest.mark.parametrize("axis", [1, -3])
def test_concat_routes_agree_with_join(axis: int) -> None:
    n = Net(Style(), x=SHAPE, z=(3, 3, 6))
    t = n.op("Identity", "x", out="t")
    y = n.op("Concat", "z", t, "z", axis=axis)
    graph = Graph(n.model(y))
    shapes, node = infer_shapes(graph.model), graph.nodes[-1]
    layout = wide([1, 0, 2, 0])
    sizes = concat_sizes(node, shapes)
    assert sizes == [3, 4, 3]
    r, j = route(graph, node, 1, layout, shapes), join([None, layout, None], 1, sizes)
    assert r.kind == "carry" and r.output is not None and r.output.axis == 1
    assert r.output.origin.tolist() == j.origin.tolist() and r.output.level.tolist() == j.level.tolist()
    assert r.output.narrow == j.narrow == 10


def test_concat_of_unknown_sizes_folds() -> None:
    n = Net(Style(), x=SHAPE)
    y = n.op("Concat", n.op("Identity", "x", out="t"), "x", axis=1)
    graph = Graph(n.model(y))
    shapes = {**infer_shapes(graph.model), "x": ("N", None, 3, 6)}
    assert concat_sizes(graph.nodes[-1], shapes) is None
    assert route(graph, graph.nodes[-1], 0, wide([1, 0, 2, 0]), shapes).kind == "fold"


@pytest.mark.parametrize(("op", "by", "factor"), [("Mul", 0.25, 0.25), ("Div", 4.0, 0.25), ("Mul", 3.0, 3.0)])
def test_a_factor_multiplies_the_grid(op: str, by: float, factor: float) -> None:
    layout = wide([1, 0, 0, 0])
    r, _, _ = routed(lambda n, t: n.op(op, t, n.const("c", by)), layout)
    assert r.kind == "carry" and r.output is not None and r.output.grid is not None and layout.grid is not None
    assert r.output.factor == factor and r.output.grid.scale == layout.grid.scale * factor


@pytest.mark.parametrize("by", [0.0, -1.0, np.inf, [1.0, 2.0, 3.0]])
def test_other_factors_are_not_carried(by: Any) -> None:
    r, _, _ = routed(lambda n, t: n.op("Mul", t, n.const("c", by)), wide([1, 0, 0, 0]), (4, 3, 3))
    assert r.kind == "fold"
