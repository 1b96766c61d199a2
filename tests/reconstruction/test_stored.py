"""Constants on a grid: read as the reader sees them, written where they are stored."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from zoo import execute

from onnx_ocs.model.edit import EditableGraph
from onnx_ocs.reconstruction.stored import Stored, exclusive, read_stored, write_scale, write_values
from onnx_ocs.records.weights import digest

INT = np.asarray([[1, -2, 3], [0, 4, -3]], np.int8)
SCALE = np.asarray([0.5, 0.25], np.float32)


def gemm(nodes: list[onnx.NodeProto], weight: str, **constants: Any) -> onnx.ModelProto:
    """x (2 values) times a weight of (2, 3)."""
    graph = helper.make_graph(
        [*nodes, helper.make_node("Gemm", ["x", weight], ["y"], name="layer")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def dq(*inputs: str, out: str = "wd", **attributes: int) -> onnx.NodeProto:
    return helper.make_node("DequantizeLinear", list(inputs), [out], **attributes)


def plain_integers() -> onnx.ModelProto:
    return gemm([dq("w", "s", axis=0)], "wd", w=INT, s=SCALE)


def transposed() -> onnx.ModelProto:
    nodes = [dq("w", "s", axis=1), helper.make_node("Transpose", ["wd"], ["wt"], perm=[1, 0])]
    return gemm(nodes, "wt", w=np.ascontiguousarray(INT.T), s=SCALE)


def in_floats() -> onnx.ModelProto:
    q = helper.make_node("QuantizeLinear", ["w", "s", "z"], ["wq"], axis=0)
    return gemm([q, dq("wq", "s", "z", axis=0)], "wd", w=INT * SCALE[:, None], s=SCALE, z=np.zeros(2, np.int8))


def clipped() -> onnx.ModelProto:
    clip = helper.make_node("Clip", ["w", "low", "high"], ["wc"])
    bounds = {"low": np.int8(-4), "high": np.int8(4)}
    return gemm([clip, dq("wc", "s", axis=0)], "wd", w=INT, s=SCALE, **bounds)


def read(model: onnx.ModelProto) -> tuple[EditableGraph, Stored]:
    graph = EditableGraph(model)
    found = read_stored(graph, next(n for n in graph.nodes if n.op_type == "Gemm"), 1)
    assert isinstance(found, Stored)
    return graph, found


@pytest.mark.parametrize("make", [plain_integers, transposed, in_floats, clipped])
def test_what_is_written_is_what_the_layer_sees(make: Any) -> None:
    """Integers in the reader's axes, whatever stands in front; new scales reach Q and DQ alike."""
    graph, stored = read(make())
    assert stored.integers is not None and np.array_equal(stored.integers, INT) and exclusive(graph, [stored])
    assert stored.axis == 0 and np.array_equal(stored.value, INT * SCALE[:, None].astype(np.float64))
    assert np.array_equal(stored.spread(stored.scale), SCALE[:, None])
    new, scale = np.asarray([[3, 3, -1], [-2, 0, 1]]), np.asarray([0.125, 2.0])
    declared = [write_scale(graph, stored, scale), write_values(graph, stored, new, scale)]
    graph.commit()
    assert np.array_equal(execute(graph.model, {"x": np.eye(2, dtype=np.float32)})[0], new * scale[:, None])
    for e in declared:
        assert e is not None and e.name == e.before
        value = next(t for t in graph.model.graph.initializer if t.name == e.name)
        assert e.digest == digest(numpy_helper.to_array(value))


@pytest.mark.parametrize(
    ("integers", "wanted"),
    [
        (np.asarray([[1, -1, 0]], np.int8), (-1, 1)),  # two bits, symmetric
        (np.asarray([[1, -2, 0]], np.int8), (-2, 1)),
        (np.asarray([[7, -7, 0]], np.int8), (-7, 7)),
        (np.asarray([[7, -8, 0]], np.int8), (-8, 7)),
        (np.asarray([[100, 3, -127]], np.int8), (-127, 127)),
        (np.asarray([[100, 3, -128]], np.int8), (-128, 127)),
        (np.asarray([[0, 1, 3]], np.uint8), (0, 3)),
        (np.asarray([[0, 1, 4]], np.uint8), (0, 7)),
        (np.asarray([[0, 1, 255]], np.uint8), (0, 255)),
    ],
)
def test_the_range_of_the_file(integers: np.ndarray, wanted: tuple[int, int]) -> None:
    _, stored = read(gemm([dq("w", "s")], "wd", w=np.concatenate([integers, integers]), s=np.float32(1)))
    assert (stored.low, stored.high) == wanted


def test_a_clip_is_the_range() -> None:
    _, stored = read(clipped())
    assert (stored.low, stored.high) == (-4, 4)


def test_plain_floats() -> None:
    graph, stored = read(gemm([], "w", w=SCALE[:, None] * INT))
    assert stored.kind == "plain" and stored.integers is None
    write_values(graph, stored, INT.astype(np.float64), np.ones(()))
    assert np.array_equal(graph.constant("w"), INT.astype(np.float32))


def test_what_others_read() -> None:
    """A weight may not change then; a scale that another constant uses is replaced by one of its own."""
    model = plain_integers()
    model.graph.node.insert(0, helper.make_node("Identity", ["w"], ["other"]))
    graph, stored = read(model)
    assert not exclusive(graph, [stored])
    model = plain_integers()
    model.graph.initializer.append(numpy_helper.from_array(INT, "w2"))
    model.graph.node.insert(0, dq("w2", "s", out="other", axis=0))
    graph, stored = read(model)
    assert exclusive(graph, [stored])
    entry = write_scale(graph, stored, np.asarray([1.0, 2.0]))
    assert entry is not None and entry.before == "s" != entry.name
    assert np.array_equal(graph.constant("s"), SCALE) and np.array_equal(graph.constant(entry.name), [1, 2])
    assert graph.producer["other"].input[1] == "s" and graph.producer["wd"].input[1] == entry.name


@pytest.mark.parametrize(
    ("nodes", "why"),
    [
        ([dq("w", "s", out="a"), helper.make_node("Relu", ["a"], ["wd"])], "in place"),
        ([dq("w", "s", out="a"), helper.make_node("QuantizeLinear", ["a", "s"], ["b"]), dq("b", "s")], "more than one"),
        ([dq("w", "s", out="a"), helper.make_node("Clip", ["a", "low"], ["wd"])], "between the grid and the layer"),
    ],
)
def test_what_cannot_be_edited(nodes: list[onnx.NodeProto], why: str) -> None:
    graph = EditableGraph(gemm(nodes, "wd", w=INT.view(np.uint8), s=np.float32(0.5), low=np.float32(-1)))
    found = read_stored(graph, graph.nodes[-1], 1)
    assert isinstance(found, str) and why in found


def split() -> onnx.ModelProto:
    """Scales lie along an axis that a Reshape joins with another one."""
    nodes = [dq("w3", "s", out="a", axis=1), helper.make_node("Transpose", ["a"], ["b"], perm=[1, 0, 2])]
    nodes += [helper.make_node("Reshape", ["b", "shape"], ["c"])]
    model = gemm(nodes, "c", w3=INT.reshape(2, 1, 3).transpose(1, 0, 2), s=SCALE)
    model.graph.initializer.append(numpy_helper.from_array(np.asarray([2, 3]), "shape"))
    return model


def test_behind_a_reshape() -> None:
    """Scales are spread over what the reader sees; integers go back to where they are stored."""
    graph, stored = read(split())
    assert stored.reshaped and stored.axis is None and stored.root == "w3"
    assert stored.integers is not None and np.array_equal(stored.integers, INT)
    assert np.array_equal(np.broadcast_to(stored.spread(stored.scale), INT.shape), np.repeat(SCALE[:, None], 3, 1))
    new, scale = np.asarray([[3, 3, -1], [-2, 0, 1]]), np.asarray([0.125, 2.0])
    write_scale(graph, stored, scale)
    write_values(graph, stored, new, scale)
    graph.commit()
    assert np.array_equal(execute(graph.model, {"x": np.eye(2, dtype=np.float32)})[0], new * scale[:, None])
