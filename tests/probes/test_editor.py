"""Edits of models that are only built to be asked."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import zoo
from zoo import Net, Style

from onnx_ocs.probes.editor import MAGIC, Editor
from onnx_ocs.qdq.quantizer import Quantizer, read_quantizer


def grid(e: Editor, output: str) -> Quantizer:
    q = read_quantizer(e.facts, e.facts.producer[output])
    assert isinstance(q, Quantizer)
    return q


def inside(style: Style = Style()) -> Net:  # noqa: B008
    """Q, MaxPool, Transpose, DQ: the integers move."""
    n = Net(style, x=zoo.IMAGE)
    moved = n.op("Transpose", n.op("MaxPool", n.q("x", "mid"), kernel_shape=[2, 2]), perm=[0, 2, 1, 3])
    n.dq(moved, out="y")
    return n


def test_values_flow_where_the_integers_flowed() -> None:
    n = inside()
    e = Editor(n.model("y"))
    q = grid(e, "x_q")
    e.replace("x_q", q, e.node("Neg", [e.by_output["x_q"].inputs[0]], "negated"))
    new = e.export()
    assert sorted(m.op_type for m in new.graph.node) == ["Identity", "MaxPool", "Neg", "Transpose"]
    x = n.feed["x"]
    pooled = zoo.execute(pool_only(), {"x": -x})[0]
    np.testing.assert_array_equal(zoo.execute(new, n.feed)[0], pooled.transpose(0, 2, 1, 3))


def pool_only() -> onnx.ModelProto:
    n = Net(Style(), x=zoo.IMAGE)
    return n.model(n.op("MaxPool", "x", kernel_shape=[2, 2]))


def test_a_clip_of_the_whole_range_is_passed() -> None:
    n = Net(Style(bits=3), x=zoo.IMAGE)
    n.qdq("x", "mid")
    e = Editor(n.model("x_dq"))
    e.replace("x_q", grid(e, "x_q"), e.by_output["x_q"].inputs[0])
    new = e.export()
    assert [m.op_type for m in new.graph.node] == ["Identity"]
    np.testing.assert_array_equal(zoo.execute(new, n.feed)[0], n.feed["x"])


@pytest.mark.parametrize("other", ["scale", "zero_point"])
def test_a_dequantizer_with_other_parameters_keeps_its_integers(other: str) -> None:
    n = Net(Style(), x=zoo.IMAGE)
    q = n.q("x", "mid")
    n.dq(q, out="same")
    scale = n.const("other_scale", 1.0) if other == "scale" else "x_scale"
    zero = n.const("other_zero", 3, np.uint8) if other == "zero_point" else "x_zero"
    n.op("DequantizeLinear", q, scale, zero, out="different")
    model = n.model("same", "different")
    want = zoo.execute(model, n.feed)[1]
    e = Editor(model)
    e.replace("x_q", grid(e, "x_q"), e.by_output["x_q"].inputs[0])
    same, different = zoo.execute(e.export(), n.feed)
    np.testing.assert_array_equal(same, n.feed["x"])
    np.testing.assert_array_equal(different, want)


def test_integers_that_are_an_output_stay() -> None:
    n = Net(Style(), x=zoo.IMAGE)
    q = n.q("x", "mid")
    n.dq(q)
    model = n.model("x_dq", (q, onnx.TensorProto.UINT8))
    want = zoo.execute(model, n.feed)[1]
    e = Editor(model)
    e.replace("x_q", grid(e, "x_q"), e.by_output["x_q"].inputs[0])
    np.testing.assert_array_equal(zoo.execute(e.export(), n.feed)[1], want)


@pytest.mark.parametrize("half", [False, True])
def test_floats_are_float32(half: bool) -> None:
    n = Net(Style(half=half, opset=19), x=zoo.IMAGE)
    n.qdq("x", "mid")
    e = Editor(n.model("x_dq"))
    tensor = e.by_output["x_q"].inputs[0]
    found = e.floats(tensor, grid(e, "x_q"), "cast")
    assert (found is tensor) != half
    assert [m.op for m in e.graph.nodes].count("Cast") == half


def test_names_are_its_own() -> None:
    n = Net(Style(), x=zoo.IMAGE)
    n.op("Neg", "x", out="oracle/1/taken")
    e = Editor(n.model("oracle/1/taken"))
    assert e.token == "oracle_"
    added = e.node("Abs", [e.graph.inputs[0]], "taken")
    assert added.name == "oracle_/1/taken" and e.constant(np.zeros(2)).name == "oracle_/2/constant"


def test_adding_and_subtracting_magic_rounds_to_even() -> None:
    x = np.asarray([0.5, 1.5, 2.5, -0.5, -1.5, 0.49999997, 1234567.5], np.float32)
    m = np.float32(MAGIC)
    np.testing.assert_array_equal((x + m) - m, np.rint(x))


def test_the_model_is_not_changed() -> None:
    model = inside().model("y")
    before = model.SerializeToString()
    e = Editor(model)
    e.replace("x_q", grid(e, "x_q"), e.by_output["x_q"].inputs[0])
    assert e.export().ir_version == model.ir_version
    assert model.SerializeToString() == before
