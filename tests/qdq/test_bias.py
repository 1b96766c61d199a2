"""Biases: read in every form, shifted exactly, written with more channels."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from zoo import Net, Style, execute, image

from onnx_ocs.model.edit import EditableGraph
from onnx_ocs.qdq.bias import Bias, read_bias, write_bias


def convolution(**style: Any) -> tuple[Net, onnx.ModelProto]:
    n, x = image(Style(**style))
    return n, n.model(n.conv(x))


def layer(model: onnx.ModelProto) -> tuple[EditableGraph, onnx.NodeProto]:
    graph = EditableGraph(model)
    return graph, next(n for n in graph.nodes if n.op_type == "Conv")


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("kind", ["none", "float", "int32", "int8"])
def test_every_form_is_read(kind: str, per_channel: bool) -> None:
    n, model = convolution(bias=kind, per_channel=per_channel)
    graph, node = layer(model)
    bias = read_bias(graph, node, 2, 8)
    assert bias is not None
    if kind == "none":
        assert bias.kind == "none" and bias.value.tolist() == [0] * 8
        return
    assert bias.kind == ("float" if kind == "float" else "integer")
    np.testing.assert_array_equal(bias.value, n.initializers["conv1_b"])
    if kind != "float":
        assert bias.scale is not None and bias.dequantize is not None
        np.testing.assert_array_equal(bias.scale, n.initializers["conv1_b_scale"].astype(np.float64))
        assert bias.zero_point is not None and not bias.zero_point.any()


@pytest.mark.parametrize("how", ["computed", "wrong size", "not along the channels"])
def test_what_is_no_bias(how: str) -> None:
    _, model = convolution()
    graph, node = layer(model)
    if how == "computed":
        node.input[2] = "x"
    else:
        value = np.zeros(7 if how == "wrong size" else (8, 1), np.float32)
        node.input[2] = graph.add_initializer("other", value)
    assert read_bias(graph, node, 2, 8) is None


def test_one_value_stands_for_all_channels() -> None:
    _, model = convolution()
    graph, node = layer(model)
    node.input[2] = graph.add_initializer("one", np.asarray([0.5], np.float32))
    bias = read_bias(graph, node, 2, 8)
    assert bias is not None and bias.value.tolist() == [0.5] * 8


def test_a_float_bias_is_shifted_in_its_dtype() -> None:
    value = np.asarray([1.0, -2.0, 0.1], np.float32)
    new = Bias("float", value).shifted(np.asarray([0, 1, 2, 2]), np.asarray([0.0, 0.0, 0.0, 0.3]))
    assert isinstance(new, np.ndarray) and new.dtype == np.float32
    np.testing.assert_array_equal(new, np.asarray([1, -2, 0.1, np.float64(np.float32(0.1)) - 0.3], np.float32))


def test_integers_are_shifted_by_whole_steps() -> None:
    bias = Bias("integer", np.asarray([100, -7], np.int32), np.asarray([0.5, 0.25]), np.asarray(0))
    new = bias.shifted(np.asarray([0, 1, 1]), np.asarray([0.0, 1.0, -0.3]))
    assert isinstance(new, np.ndarray) and new.dtype == np.int32
    assert new.tolist() == [100, -11, -6]  # 0.3 is 1.2 steps, which are one


@pytest.mark.parametrize(("value", "shift", "fits"), [(-127, 1.0, True), (-127, 2.0, False), (127, -1.0, False)])
def test_integers_are_never_clipped(value: int, shift: float, fits: bool) -> None:
    bias = Bias("integer", np.asarray([value], np.int8), np.asarray(1.0), np.asarray(0))
    new = bias.shifted(np.asarray([0]), np.asarray([shift]))
    if fits:
        assert isinstance(new, np.ndarray) and new.tolist() == [value - shift]
    else:
        assert new == f"the shifted bias {value - shift:.0f} does not fit int8"


def test_a_step_next_to_nothing_is_no_crash() -> None:
    bias = Bias("integer", np.asarray([1], np.int32), np.asarray(1e-300), np.asarray(0))
    assert "does not fit int32" in str(bias.shifted(np.asarray([0]), np.asarray([1e30])))


@pytest.mark.parametrize("kind", ["none", "float", "int32", "int8"])
@pytest.mark.parametrize("per_channel", [False, True])
def test_what_is_written_is_what_the_layer_reads(kind: str, per_channel: bool) -> None:
    """Weights repeated and a bias with a shift for the copies: the copies are shifted, all else is as before."""
    n, model = convolution(bias=kind, per_channel=per_channel, weight="float")
    want = execute(model, n.feed)[0].astype(np.float64)
    graph, node = layer(model)
    bias = read_bias(graph, node, 2, 8)
    assert bias is not None
    positions, shift = np.asarray([0, 1, 2, 3, 4, 5, 6, 7, 2, 5]), np.asarray([0.0] * 8 + [0.5, -0.25])
    step = np.zeros(10) if bias.scale is None else np.broadcast_to(bias.scale, (8,))[positions]
    new = bias.shifted(positions, shift)
    assert isinstance(new, np.ndarray)
    write_bias(graph, node, 2, bias, new, positions)
    weight = graph.constant(node.input[1])
    assert weight is not None
    graph.set_input(node, 1, graph.add_initializer("w", weight[positions]))
    graph.commit()
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 10
    onnx.checker.check_model(model, full_check=True)
    got = execute(model, n.feed)[0]
    off = np.abs(got - (want[:, positions] - shift[:, None, None])).max(axis=(0, 2, 3))
    assert np.all(off <= 0.5001 * step + 1e-5)


def test_a_shared_bias_is_not_changed_in_place() -> None:
    n, model = convolution(bias="int32")
    graph, node = layer(model)
    old = model.graph.SerializeToString()
    bias = read_bias(graph, node, 2, 8)
    assert bias is not None
    write_bias(graph, node, 2, bias, bias.value + np.int32(1), np.arange(8))
    stored = {t.name: t for t in model.graph.initializer}
    np.testing.assert_array_equal(numpy_helper.to_array(stored["conv1_b"]), n.initializers["conv1_b"])
    assert old != model.graph.SerializeToString()  # the node reads another one
