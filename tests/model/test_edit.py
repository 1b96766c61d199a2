"""Edits of a graph: what is added to it, how names stay unique, and what is left of it."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from scalar_chain import chain

from onnx_ocs.model.edit import EditableGraph


@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.bool_, ml_dtypes.int4, ml_dtypes.bfloat16])
def test_added_arrays_arrive(dtype: type) -> None:
    model = chain()
    graph = EditableGraph(model)
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
    graph = EditableGraph(model)
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


def test_names_are_fresh_and_clones_are_apart() -> None:
    model = chain()
    graph = EditableGraph(model)
    assert graph.fresh("y") == "y_1" and graph.fresh("y") == "y_2" and graph.fresh("z") == "z"
    relu = graph.producer["r"]
    clone = graph.clone_node(relu, graph.fresh("r"))
    graph.set_input(graph.producer["c"], 0, clone.output[0])
    assert graph.readers("y") == [relu, clone] and graph.added == [clone]
    assert list(graph.touched.values()) == [clone, graph.producer["c"]]
    seen: list[str] = []
    graph.commit(lambda n: seen.append(n.op_type))
    assert seen == ["Relu", "Clip"]
    assert [n.output[0] for n in model.graph.node] == ["m", "y", "r_1", "c"]  # the old one has lost its reader


def test_a_renamed_output_frees_its_name() -> None:
    model = chain()
    graph = EditableGraph(model)
    graph.rename_output("y", graph.fresh("y_raw"))
    graph.add_node("Neg", ["y_raw"], "y")
    graph.commit()
    assert [(n.op_type, n.output[0]) for n in model.graph.node][1:3] == [("Add", "y_raw"), ("Neg", "y")]
    onnx.checker.check_model(model)


def test_what_was_idle_from_the_start_stays() -> None:
    model = chain()
    model.graph.node.append(helper.make_node("Neg", ["x"], ["nobody"]))
    model.graph.initializer.append(numpy_helper.from_array(np.ones(1, np.float32), "spare"))
    graph = EditableGraph(model)
    graph.set_input(graph.producer["c"], 0, "m")
    graph.commit()
    assert {n.op_type for n in model.graph.node} == {
        "Mul",
        "Clip",
        "Neg",
    }
    assert [t.name for t in model.graph.initializer] == ["a", "lo", "hi", "spare"]


def test_what_is_said_of_a_constant_goes_with_it() -> None:
    """NNCF's files say the shapes of zero-points."""
    model = chain()
    for name in ("a", "b"):
        model.graph.value_info.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, []))
    graph = EditableGraph(model)
    graph.set_input(graph.producer["m"], 1, graph.add_initializer("new", np.float32(2)))
    graph.commit()
    names = {v.name for v in model.graph.value_info}
    assert "a" not in names and "b" in names
