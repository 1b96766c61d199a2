"""Where a translated file has copies: who follows whom, and where sums are formed."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from earlier import filtered
from onnx import helper, numpy_helper
from wide_layouts import total, wide
from zoo import build, execute

from onnx_ocs.calibration.context import Context
from onnx_ocs.model.graph import Graph
from onnx_ocs.passes.split import Split
from onnx_ocs.passes.translate import Translate
from onnx_ocs.passmanager import run_passes
from onnx_ocs.reconstruction.copies import folded, layouts, ties
from onnx_ocs.records.layouts import read_layouts
from onnx_ocs.runtime.instrument import expose


def translated(name: str, ratio: float = 1.0) -> onnx.ModelProto:
    return run_passes(build(name)[0], [Translate(ratio=ratio)], Context())[0]


def value(model: onnx.ModelProto, name: str) -> np.ndarray:
    return numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == name))


@pytest.mark.parametrize("name", ["conv_relu_conv", "gemm", "conv_transpose", "matmul_relu"])
def test_a_producers_rows_follow(name: str) -> None:
    """A copy's row is its channel's, its bias X_clip less."""
    model = translated(name)
    graph = Graph(model)
    ((producer, tie),) = ((n, ties(graph)[id(n)]) for n in graph.nodes if id(n) in ties(graph))
    ((_, layout),) = read_layouts(model).values()
    assert np.array_equal(tie.origin, layout.origin) and not tie.halved
    assert np.array_equal(tie.origin[tie.base], np.arange(layout.narrow)) and not layout.level[tie.base].any()
    assert np.allclose(tie.shift, layout.level * 255 * value(model, "relu1_scale"))
    whole = expose(model, [str(graph.producer[next(iter(read_layouts(model)))].input[0])])
    pre = execute(whole, build(name)[1])[-1]  # behind the ReLU
    axis = layout.axis % pre.ndim
    rows = np.moveaxis(pre, axis, 0).reshape(pre.shape[axis], -1)
    for row, base, shift in zip(rows, rows[tie.base[tie.origin]], tie.shift, strict=True):
        assert np.allclose(row, np.maximum(base - shift, 0), atol=1e-4)
    assert producer.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul")


def test_late_copies_tie_no_rows() -> None:
    model = run_passes(build("conv_relu_conv")[0], [Translate(ratio=1.0, mode="late")], Context())[0]
    assert read_layouts(model) and not ties(Graph(model))


def test_halves_are_said_to_be_such() -> None:
    model = run_passes(build("conv_relu_conv")[0], [Split(ratio=0.5)], Context())[0]
    graph = Graph(model)
    found = ties(graph)
    assert all(t.halved for t in found.values()) and all(w.halved for w in layouts(graph).values())


def test_layouts_follow_what_keeps_channels() -> None:
    """Through pools, transposes (with their axis) and depthwise layers, not through the layer that adds copies up."""
    graph = Graph(translated("max_pool"))
    found = layouts(graph)
    reader = next(n for n in graph.nodes if n.op_type == "Conv" and n.input[0] in found)
    assert "maxpool1" in found and found["maxpool1"].axis == 1 and reader.output[0] not in found
    graph = Graph(translated("transpose"))
    found = layouts(graph)
    assert [found[n.output[0]].axis for n in graph.nodes if n.op_type == "Transpose"] == [3, 1]


def test_a_multiplying_depthwise_layer_widens_the_layout() -> None:
    graph = Graph(filtered(translated("depthwise_multiplier", 0.5)))
    found, (_, inner) = layouts(graph), next(v for k, v in read_layouts(graph.model).items() if k.startswith("relu1"))
    n = next(n for n in graph.nodes if n.op_type == "Conv" and n.input[0] in found and found[n.input[0]].narrow == 8)
    wider = found[n.output[0]]
    assert wider.narrow == 16 and wider.origin.size == 2 * inner.origin.size
    assert np.array_equal(wider.origin, np.repeat(inner.origin * 2, 2) + np.tile([0, 1], inner.origin.size))


def test_sums_behind_depthwise_layers_are_found() -> None:
    model = filtered(translated("depthwise", 0.5))
    graph = Graph(model)
    found = layouts(graph)
    n = next(n for n in graph.nodes if n.op_type == "Conv" and n.input[0] in found and found[n.input[0]].narrow == 8)
    layout = found[n.output[0]]
    target = folded(graph, str(n.output[0]), layout)
    assert target is not None
    wide_value, sums = execute(expose(model, [n.output[0], target]), build("depthwise")[1])[-2:]
    np.testing.assert_allclose(sums, total(wide_value, layout), rtol=1e-5, atol=1e-5)


def test_what_forms_another_sum_is_none() -> None:
    """The copy of channel 1 added onto channel 0."""
    layout = wide([0, 1])
    assert layout.origin.tolist() == [0, 1, 1]
    for where, hit in (([1], False), ([0], True)):
        nodes = [
            helper.make_node("Gather", ["w", "keep"], ["base"], axis=1),
            helper.make_node("Gather", ["w", "last"], ["copy"], axis=1),
            helper.make_node("Gather", ["w", "zero"], ["one"], axis=1),
            helper.make_node("Gather", ["base", "first"], ["other"], axis=1),
            helper.make_node("Gather", ["base", "second"], ["own"], axis=1),
            helper.make_node("Add", ["own", "copy"], ["sum"]),
            helper.make_node("Concat", ["other", "sum"] if where == [0] else ["sum", "other"], ["y"], axis=1),
        ]
        constants = {"keep": [0, 1], "last": [2], "zero": [0], "first": [0], "second": [1]}
        g = helper.make_graph(
            nodes, "g", [helper.make_tensor_value_info("w", 1, ["N", 3])],
            [helper.make_tensor_value_info("y", 1, ["N", 2])],
            [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
        )  # fmt: skip
        graph = Graph(helper.make_model(g, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
        assert (folded(graph, "w", layout) == "y") == hit
