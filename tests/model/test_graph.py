"""The index over a graph: constants, what is added to it, and what is left of it."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
import zoo
from onnx import TensorProto, helper, numpy_helper

from onnx_ocs import api
from onnx_ocs.errors import UserError
from onnx_ocs.model.folding import fold
from onnx_ocs.model.graph import Graph
from onnx_ocs.model.tensors import values
from onnx_ocs.qdq.intervals import value_bounds

DATA = Path(__file__).resolve().parents[1] / "data"


@pytest.mark.parametrize("path", sorted(DATA.glob("*.onnx"))[::2], ids=lambda p: p.stem)
def test_constants_are_known_without_their_values(path: Path) -> None:
    model = onnx.load(path)
    names = [o for n in model.graph.node for o in n.output if o]
    looked, evaluated = Graph(model), Graph(model)
    found = {t: looked.is_constant(t) for t in names}
    assert found == {t: evaluated.constant(t) is not None for t in names}


def chain() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Mul", ["x", "a"], ["m"]),
        helper.make_node("Add", ["m", "b"], ["y"]),
        helper.make_node("Relu", ["y"], ["r"]),
        helper.make_node("Clip", ["r", "lo", "hi"], ["c"]),
    ]
    constants = {"a": 2.0, "b": 1.0, "lo": -1.0, "hi": 6.0}
    g = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])],
        [helper.make_tensor_value_info("c", TensorProto.FLOAT, [2])],
        [numpy_helper.from_array(np.asarray(v, np.float32), k) for k, v in constants.items()],
    )
    return helper.make_model(g, opset_imports=[helper.make_opsetid("", 17)])


def test_bounds_of_what_is_asked() -> None:
    known = value_bounds(Graph(chain()), ["c"])
    assert known["c"] == (0.0, 6.0) and known["r"] == (0.0, np.inf)
    assert "c" not in value_bounds(Graph(chain()), ["y"])


@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.bool_, ml_dtypes.int4, ml_dtypes.bfloat16])
def test_added_arrays_arrive(dtype: type) -> None:
    model = chain()
    graph = Graph(model)
    value = np.asarray([[1, 0, 1], [0, 1, 1]]).astype(dtype)
    name = graph.add_initializer("new", value)
    assert np.array_equal(graph.constant(name), value)
    assert graph.constant_shape(name) == (2, 3)
    graph.add_node("Identity", [name], "copy")
    graph.set_input(graph.producer["m"], 1, "copy")
    unread = graph.add_initializer("unread", value)
    graph.commit()
    stored = {t.name: t for t in model.graph.initializer}
    assert list(stored) == ["b", "lo", "hi", name]  # in their old order; `a` has lost its reader
    assert unread not in stored
    assert np.array_equal(numpy_helper.to_array(stored[name]), value)


def test_what_is_taken_is_put_together_in_the_end() -> None:
    model = chain()
    graph = Graph(model)
    value, rows, columns = np.arange(12, dtype=np.int8).reshape(3, 4), np.asarray([0, 1, 2, 1]), np.asarray([3, 0, 0])
    name = graph.add_initializer("whole", value)
    for axis, positions in ((0, rows), (1, columns), (0, np.asarray([3, 0]))):
        name = graph.add_initializer("part", graph.take(name, axis, positions))
    expected = value[rows][:, columns][[3, 0]]
    assert graph.constant_shape(name) == expected.shape
    assert np.array_equal(numpy_helper.to_array(graph.initializer(name)), expected)
    graph.add_node("Identity", [name], "copy")
    graph.set_input(graph.producer["m"], 1, "copy")
    graph.commit()
    stored = {t.name: t for t in model.graph.initializer}
    assert list(stored) == ["b", "lo", "hi", name]  # nothing of what it was taken from
    assert np.array_equal(numpy_helper.to_array(stored[name]), expected)
    assert np.array_equal(graph.constant(name), expected)  # known afterwards, too


@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.INT8, TensorProto.UINT8, TensorProto.INT32])
@pytest.mark.parametrize("count", [1, 16, 40])
def test_values_outside_raw_data(kind: int, count: int) -> None:
    t = helper.make_tensor("t", kind, [1, count], [k % 7 for k in range(count)])
    assert not t.HasField("raw_data")
    found, expected = values(t), numpy_helper.to_array(t)
    assert found.dtype == expected.dtype and np.array_equal(found, expected)


def test_a_tensor_of_too_many_axes_is_said() -> None:
    model = onnx.ModelProto()
    model.CopyFrom(zoo.build("residual")[0])  # which other tests see as well
    model.graph.initializer[0].dims.extend([1] * 40)
    with pytest.raises(UserError, match=r"has 4\d axes: export the model again"):
        api.rewrite(model)


@pytest.mark.parametrize(("zeros", "known"), [(0, True), (1, True), (3, True), (2, False)])
def test_a_zero_point_goes_with_all_scales_or_each(zeros: int, known: bool) -> None:
    """Files have one zero_point for many scales; what fits neither way has no value."""
    node = helper.make_node("DequantizeLinear", ["x", "s", "z"], ["y"], axis=0)
    x, scales = np.arange(6, dtype=np.int8).reshape(3, 2), np.asarray([1.0, 2.0, 4.0], np.float32)
    zero = np.full(zeros, 2, np.int8) if zeros else None
    got = fold(node, [x, scales, zero])
    if not known:
        assert got is None
    else:
        np.testing.assert_array_equal(got, (x - np.float32(2 if zeros else 0)) * scales[:, None])
